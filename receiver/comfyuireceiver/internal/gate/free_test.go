// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// TestNeighbourIsAskedToFreeItsMemoryThoughNothingCanBeHeld: the prompt is refused, and there is room when
// it comes again.
func TestNeighbourIsAskedToFreeItsMemoryThoughNothingCanBeHeld(t *testing.T) {
	for name, limit := range map[string]func(*Settings){
		"no prompts":   func(s *Settings) { s.MaxHeld = 0 },
		"no time":      func(s *Settings) { s.HoldTimeout = 0 },
		"a large body": func(s *Settings) { s.MaxBytes = 10 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reason := admission.MemoryIdle
				set, s := settings(), &slow{}
				limit(&set)
				g := New(set, finder{newAdvisor(func(*admission.Request) (admission.Decision, error) {
					return admission.Decision{Verdict: admission.Hold, Reason: reason, Free: "neighbour", RetryAfter: time.Second}, nil
				})}, s, time.Now)
				res := g.Decide(t.Context(), &admission.Request{Claim: true}, 100)
				assert.Equal(t, admission.Reject, res.Verdict)
				synctest.Wait()
				assert.Equal(t, 1, s.count())
				g.Close()
				g.Decide(t.Context(), &admission.Request{Claim: true}, 100)
				synctest.Wait()
				assert.Equal(t, 1, s.count(), "not once it is closed")
			})
		})
	}
}

// TestWhoWaitsForItsTurnIsToldWhy: it would be admitted, but a more urgent one is held, and it is refused
// before it is asked about itself.
func TestWhoWaitsForItsTurnIsToldWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := settings()
		set.HoldTimeout = 10 * time.Millisecond
		g := New(set, finder{newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			d := admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy, Deadline: time.Now().Add(r.Deadline), RetryAfter: time.Second}
			if r.Class == "small" {
				if r.Claim {
					time.Sleep(time.Hour) // the advisor does not answer about it
				}
				d.Verdict, d.Reason, d.RetryAfter = admission.Admit, admission.Fits, 0
			}
			return d, nil
		})}, nil, time.Now)
		first := held(t.Context(), g, "urgent", time.Second, 1)
		res := g.Decide(t.Context(), &admission.Request{Class: "small", Deadline: time.Minute, Claim: true}, 1)
		assert.Equal(t, admission.Reject, res.Verdict)
		assert.Equal(t, admission.MemoryBusy, res.Reason)
		assert.Positive(t, res.RetryAfter)
		<-first
		time.Sleep(2 * time.Hour) // in virtual time: the advisor's call ends
		g.Close()
	})
}
