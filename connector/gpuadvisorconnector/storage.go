// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/internal/storageclient"
)

const (
	// saveInterval is how often what was learned is saved: so much of it does not survive kill -9.
	saveInterval = 30 * time.Second
	// weekInterval is how often the week's requests are saved, which are a few MiB.
	weekInterval = 10 * time.Minute
)

// saved keeps what the advisor learns across restarts. Each kind of prompts has a slot: a key of
// its own, so that saving costs as much as has changed. Its methods are not safe for concurrent use.
type saved struct {
	client      storage.Client
	advisor     *advice.Advisor
	recommended *recommender
	log         *zap.Logger
	now         func() time.Time
	// loaded is true once what was saved is read: before, nothing is saved, which would replace it.
	loaded bool
	// weekSaved is when the week's requests were saved last.
	weekSaved time.Time
	failing   logonce.Tracker
	slots     map[advice.Kind]int
	free      []int
	// unsaved are kinds whose saving failed; they are saved again, unless they have changed.
	unsaved map[advice.Kind][]byte
}

const (
	restKey = "advice/rest"
	weekKey = "recommend/week"
)

func kindKey(slot int) string { return "advice/kind/" + strconv.Itoa(slot) }

// openSaved opens the storage of the configuration; nil without one.
func (a *advisor) openSaved(ctx context.Context, host component.Host) (*saved, error) {
	client, err := storageclient.Open(ctx, host, a.cfg.Storage, component.KindConnector, a.settings.ID)
	if client == nil {
		return nil, err
	}
	return &saved{client: client, advisor: a.advice, recommended: a.recommended, log: a.log, now: a.now, weekSaved: a.now(), slots: map[advice.Kind]int{}, unsaved: map[advice.Kind][]byte{}}, nil
}

// load has the advisor read what was saved, instead of what it learned of the same since. What is
// damaged is learned again. While the storage cannot be read, load is called again.
func (s *saved) load(ctx context.Context) {
	gets := make([]*storage.Operation, 0, advice.MaxKinds+2)
	for slot := range advice.MaxKinds {
		gets = append(gets, storage.GetOperation(kindKey(slot)))
	}
	rest, week := storage.GetOperation(restKey), storage.GetOperation(weekKey)
	const condition = "load"
	if err := s.client.Batch(ctx, append(gets, rest, week)...); err != nil {
		if s.failing.First(condition) {
			s.log.Warn("Failed to read what was learned about prompts; nothing is saved until it is read; trying again", zap.Error(err), zap.Duration("interval", saveInterval))
		}
		return
	}
	s.loaded = true
	if s.failing.Changed(condition, "") {
		s.log.Info("Restored what was learned about prompts")
	}
	raw := make(map[int][]byte, len(gets))
	for slot, get := range gets {
		if len(get.Value) > 0 {
			raw[slot] = get.Value
		}
	}
	kinds, err := s.advisor.Load(raw, rest.Value)
	if len(week.Value) > 0 {
		err = errors.Join(err, s.recommended.load(week.Value))
	}
	if err != nil {
		s.log.Warn("Failed to restore some of what was learned about prompts; learning it again", zap.Error(err))
	}
	for slot := range advice.MaxKinds {
		of, ok := kinds[slot]
		if _, twice := s.slots[of]; !ok || twice {
			s.free = append(s.free, slot)
			continue
		}
		s.slots[of] = slot
	}
}

// save writes what has been learned since it was called last, and from time to time the week's
// requests.
func (s *saved) save(ctx context.Context) {
	if !s.isLoaded(ctx) {
		return
	}
	if now := s.now(); now.Sub(s.weekSaved) >= weekInterval {
		s.weekSaved = now
		s.saveWeek(ctx)
	}
	s.saveLearned(ctx)
}

// isLoaded reports whether what was saved is read; it tries again if not.
func (s *saved) isLoaded(ctx context.Context) bool {
	if !s.loaded {
		s.load(ctx)
	}
	return s.loaded
}

// saveWeek writes the week's requests.
func (s *saved) saveWeek(ctx context.Context) {
	if err := s.client.Set(ctx, weekKey, s.recommended.save()); err != nil {
		s.log.Warn("Failed to save the week's requests; trying again", zap.Error(err), zap.Duration("interval", weekInterval))
	}
}

func (s *saved) saveLearned(ctx context.Context) {
	changed, all, rest := s.advisor.Unsaved()
	for _, k := range changed {
		s.unsaved[k.Kind] = k.Data
	}
	sets := []*storage.Operation{storage.SetOperation(restKey, rest)}
	for of, slot := range s.slots {
		if !all[of] {
			delete(s.slots, of)
			delete(s.unsaved, of)
			s.free = append(s.free, slot)
			sets = append(sets, storage.DeleteOperation(kindKey(slot)))
		}
	}
	for of, raw := range s.unsaved {
		slot, ok := s.slots[of]
		if !ok && len(s.free) > 0 {
			slot, s.free = s.free[len(s.free)-1], s.free[:len(s.free)-1]
			s.slots[of] = slot
		} else if !ok { // there are as many slots as kinds
			delete(s.unsaved, of)
			continue
		}
		sets = append(sets, storage.SetOperation(kindKey(slot), raw))
	}
	err := s.client.Batch(ctx, sets...)
	const condition = "save"
	switch {
	case err == nil:
		clear(s.unsaved)
		if s.failing.Changed(condition, "") {
			s.log.Info("Saving what is learned about prompts works again")
		}
	case s.failing.First(condition):
		s.log.Warn("Failed to save what was learned about prompts; trying again", zap.Error(err), zap.Duration("interval", saveInterval))
	}
}

// close saves for the last time.
func (s *saved) close(ctx context.Context) error {
	if s.isLoaded(ctx) {
		s.saveWeek(ctx)
		s.saveLearned(ctx)
	}
	return s.client.Close(ctx)
}
