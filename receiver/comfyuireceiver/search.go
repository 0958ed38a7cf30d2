// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// searchIntervals is for how many intervals prompts without an answer are looked for once the
// server can be reached: it may still be validating them.
const searchIntervals = 5

// searchUnanswered looks for the prompts whose answer an earlier process has not seen.
func (f *follower) searchUnanswered(ctx context.Context) {
	found, err := f.server.candidates(ctx, f.tracker)
	if err != nil {
		return // the next round searches again
	}
	now := f.now()
	if f.searchedUntil.IsZero() {
		f.searchedUntil = now.Add(searchIntervals * f.interval)
	}
	taken := map[string]bool{}
	missing := f.unanswered[:0]
	// Those whose id the caller chose are first: another one with the same content is not
	// theirs. The others are in their order, as the candidates are.
	slices.SortStableFunc(f.unanswered, func(a, b *prompt.Prompt) int {
		return cmp.Or(cmp.Compare(b.ID, a.ID), a.Received.Compare(b.Received))
	})
	for _, p := range f.unanswered {
		id := f.matching(p, found, taken, !now.Before(f.searchedUntil))
		if id == "" {
			missing = append(missing, p)
			continue
		}
		saved := p.SaveAnswered(p.Received, 0, protocol.Answer{PromptID: id})
		saved.Found = true
		if !f.tracker.RecoverUnanswered(now, p, id) { // the next round looks again
			missing = append(missing, p)
			f.searchedUntil = now.Add(f.interval)
			continue
		}
		taken[id] = true
		f.store.changed(p, saved)
	}
	f.unanswered = missing
	if len(missing) == 0 || now.Before(f.searchedUntil) {
		return
	}
	f.log.Info("The server does not know these requests of the last run: it has not accepted them, or has forgotten them", zap.Int("requests", len(missing)))
	for _, p := range missing {
		f.PromptUnfollowed(p, "unanswered")
	}
	f.unanswered = nil
}

// matching is the id of the server's prompt that is the one that was sent; empty if there
// is none. In the last round it may be one that the server has changed: all that this process
// has sent are known by then.
func (f *follower) matching(sent *prompt.Prompt, found []candidate, taken map[string]bool, last bool) (id string) {
	nearest := time.Duration(math.MaxInt64)
	for _, c := range found {
		if taken[c.PromptID] || !f.server.is(sent, c) && (!last || !f.server.mayBe(sent, c)) {
			continue
		}
		distance := time.Duration(math.MaxInt64 - 1) // it has not started
		if !c.at.IsZero() {
			distance = c.at.Sub(sent.Received).Abs()
		}
		if distance < nearest {
			id, nearest = c.PromptID, distance
		}
	}
	return id
}
