// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// advisor decides by a function, and keeps a ledger of claims: each admission has one.
type advisor struct {
	decide func(r *admission.Request) (admission.Decision, error)

	mu     sync.Mutex
	last   uint64
	claims map[uint64]bool
	asked  []admission.Request
}

func newAdvisor(decide func(*admission.Request) (admission.Decision, error)) *advisor {
	return &advisor{decide: decide, claims: map[uint64]bool{}}
}

func (a *advisor) Advise(_ context.Context, r *admission.Request) (admission.Decision, error) {
	a.mu.Lock()
	a.asked = append(a.asked, *r)
	a.mu.Unlock()
	d, err := a.decide(r)
	if d.Verdict == admission.Admit && r.Claim {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.last++
		a.claims[a.last] = true
		d.Claim = a.last
	}
	return d, err
}

func (a *advisor) Settle(claim uint64, _ string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.claims, claim)
}

func (a *advisor) openClaims() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.claims)
}

func (a *advisor) requests() []admission.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]admission.Request(nil), a.asked...)
}

// finder is a [Finder] of an advisor.
type finder struct{ found admission.Advisor }

func (f finder) Advisor() admission.Advisor { return f.found }

func settings() Settings {
	return Settings{Timeout: 20 * time.Millisecond, HoldTimeout: 20 * time.Second, MaxHeld: 8, MaxBytes: 1000, Enforce: true}
}

func open(t *testing.T, s Settings, a admission.Advisor, f Freer) *Gate {
	t.Helper()
	g := New(s, finder{a}, f, time.Now)
	t.Cleanup(g.Close)
	return g
}

func admitted(*admission.Request) (admission.Decision, error) {
	return admission.Decision{Verdict: admission.Admit, Reason: admission.Fits}, nil
}

// room admits as many prompts as there is room for, and holds the others. Deadlines are those of
// the requests, which count from the first question on.
type room struct {
	mu       sync.Mutex
	places   int
	admitted []string // classes
}

func (p *room) decide(r *admission.Request) (admission.Decision, error) {
	d := admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy, RetryAfter: time.Second}
	if r.Deadline > 0 {
		d.Deadline = time.Now().Add(r.Deadline)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.places > 0 {
		d.Verdict, d.Reason = admission.Admit, admission.Fits
		if r.Claim {
			p.places--
			p.admitted = append(p.admitted, r.Class)
		}
	}
	return d, nil
}

func (p *room) make(places int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.places = places
}

func (p *room) order() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.admitted...)
}

// held sends a prompt that will be held, and waits until it is.
func held(ctx context.Context, g *Gate, class string, deadline time.Duration, bytes int) <-chan Result {
	done := make(chan Result, 1)
	go func() {
		done <- g.Decide(ctx, &admission.Request{Class: class, Deadline: deadline, Claim: true}, bytes)
	}()
	synctest.Wait()
	return done
}

// TestWhateverTheAdvisorDoesPromptsAreAdmittedInTime: none waits for longer than the time limit,
// and what the advisor reserves when nobody waits for it any more is given back.
func TestWhateverTheAdvisorDoesPromptsAreAdmittedInTime(t *testing.T) {
	for name, decide := range map[string]func(*admission.Request) (admission.Decision, error){
		"slow": func(r *admission.Request) (admission.Decision, error) {
			time.Sleep(3 * time.Second)
			return admitted(r)
		},
		"panics": func(*admission.Request) (admission.Decision, error) { panic("broken") },
		"fails": func(*admission.Request) (admission.Decision, error) {
			return admission.Decision{}, errors.New("broken")
		},
		"fails and admits": func(r *admission.Request) (admission.Decision, error) {
			d, _ := admitted(r)
			return d, errors.New("broken")
		},
		"nothing": func(*admission.Request) (admission.Decision, error) { return admission.Decision{}, nil },
		"no such verdict": func(*admission.Request) (admission.Decision, error) {
			return admission.Decision{Verdict: "perhaps", Reason: admission.Fits}, nil
		},
		"no such reason": func(*admission.Request) (admission.Decision, error) {
			return admission.Decision{Verdict: admission.Admit, Reason: "\n"}, nil
		},
		"refuses as it fits": func(*admission.Request) (admission.Decision, error) {
			return admission.Decision{Verdict: admission.Reject, Reason: admission.Fits}, nil
		},
		"redirects": func(*admission.Request) (admission.Decision, error) {
			return admission.Decision{Verdict: admission.Redirect, Reason: admission.Late}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdvisor(decide)
				g := New(settings(), finder{a}, nil, time.Now)
				defer g.Close()
				for range 3 {
					begin := time.Now()
					res := g.Decide(t.Context(), &admission.Request{Class: "people", Claim: true}, 1)
					assert.LessOrEqual(t, time.Since(begin), 20*time.Millisecond)
					assert.Equal(t, admission.Decision{Verdict: admission.Admit, Reason: admission.Failed, Class: "people"}, res.Decision)
				}
				time.Sleep(time.Minute)
				assert.Zero(t, a.openClaims(), "claims are lost")
				assert.Len(t, a.requests(), 3)
			})
		})
	}
	t.Run("missing", func(t *testing.T) {
		g := open(t, settings(), nil, nil)
		assert.Equal(t, admission.Failed, g.Decide(t.Context(), &admission.Request{Claim: true}, 1).Reason)
		g.Settle(7, "id", time.Second)
	})
}

// TestAdvisorThatBlocksKeepsABoundedNumberOfCalls: the others are not made, and cost no time. It
// may block in Settle, too.
func TestAdvisorThatBlocksKeepsABoundedNumberOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		a := newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			<-released
			return admitted(r)
		})
		g := New(settings(), finder{a}, nil, time.Now)
		defer g.Close()
		var admits atomic.Int64
		var all sync.WaitGroup
		begin := time.Now()
		for range 3 * maxCalls {
			all.Go(func() {
				if g.Decide(t.Context(), &admission.Request{Claim: true}, 1).Verdict == admission.Admit {
					admits.Add(1)
				}
			})
		}
		all.Wait()
		assert.Equal(t, 20*time.Millisecond, time.Since(begin))
		assert.EqualValues(t, 3*maxCalls, admits.Load())
		assert.Len(t, a.requests(), maxCalls)
		g.Settle(1, "id", time.Second) // no call is left for it
		assert.EqualValues(t, 1, g.Unsettled())
		assert.Equal(t, 20*time.Millisecond, time.Since(begin))
		close(released)
		synctest.Wait()
		assert.Zero(t, a.openClaims(), "what it reserved when nobody waited is given back")
		time.Sleep(askSilent)
		assert.Equal(t, admission.Fits, g.Decide(t.Context(), &admission.Request{}, 1).Reason, "it is asked again")
	})
}

// stuck is an advisor whose Settle blocks or panics.
type stuck struct {
	*advisor
	released chan struct{}
}

func (s stuck) Settle(claim uint64, id string) {
	if s.released == nil {
		panic("broken")
	}
	<-s.released
	s.advisor.Settle(claim, id)
}

// delayed is an advisor whose calls take a while each.
type delayed struct {
	*advisor
	by time.Duration
}

func (d delayed) Advise(ctx context.Context, r *admission.Request) (admission.Decision, error) {
	time.Sleep(d.by)
	return d.advisor.Advise(ctx, r)
}

func (d delayed) Settle(claim uint64, id string) {
	time.Sleep(d.by)
	d.advisor.Settle(claim, id)
}

// TestDecisionAndSettlementTogetherTakeNoLongerThanTheTimeout: what is left of a settlement goes on
// without the prompt.
func TestDecisionAndSettlementTogetherTakeNoLongerThanTheTimeout(t *testing.T) {
	for _, by := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 18 * time.Millisecond, 30 * time.Millisecond} {
		t.Run(by.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := delayed{newAdvisor(admitted), by}
				g := New(settings(), finder{a}, nil, time.Now)
				defer g.Close()
				begin := time.Now()
				res := g.Decide(t.Context(), &admission.Request{Claim: true}, 1)
				g.Settle(res.Claim, "id", res.Spare)
				assert.Equal(t, min(2*by, 20*time.Millisecond), time.Since(begin))
				time.Sleep(time.Second)
				assert.Zero(t, a.openClaims())
			})
		})
	}
}

// TestAPromptThatIsChangedIsDecidedWithinOneTimeout, with its settlement.
func TestAPromptThatIsChangedIsDecidedWithinOneTimeout(t *testing.T) {
	for _, by := range []time.Duration{time.Millisecond, 8 * time.Millisecond, 18 * time.Millisecond} {
		t.Run(by.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := delayed{newAdvisor(admitted), by}
				g := New(settings(), finder{a}, nil, time.Now)
				defer g.Close()
				begin := time.Now()
				first := g.Decide(t.Context(), &admission.Request{}, 1)
				res := g.Again(t.Context(), &admission.Request{Claim: true}, 1, first.Spare)
				g.Settle(res.Claim, "id", res.Spare)
				assert.Equal(t, min(3*by, 20*time.Millisecond), time.Since(begin))
				assert.Equal(t, 2*by > 20*time.Millisecond, res.Reason == admission.Failed)
				time.Sleep(time.Second)
				assert.Zero(t, a.openClaims())
			})
		})
	}
}

// TestSettlementOfAPromptThatWasHeldHasWhatItsFirstQuestionLeft of the time limit.
func TestSettlementOfAPromptThatWasHeldHasWhatItsFirstQuestionLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &room{}
		g := New(settings(), finder{delayed{newAdvisor(p.decide), 8 * time.Millisecond}}, nil, time.Now)
		defer g.Close()
		done := held(t.Context(), g, "a", time.Minute, 1)
		time.Sleep(time.Second)
		p.make(1)
		res := <-done
		assert.Equal(t, admission.Admit, res.Verdict)
		assert.Equal(t, 12*time.Millisecond, res.Spare)
		g.Settle(res.Claim, "id", res.Spare)
	})
}

func TestSettlingWaitsNoLongerThanADecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stuck{newAdvisor(admitted), make(chan struct{})}
		g := New(settings(), finder{s}, nil, time.Now)
		defer g.Close()
		res := g.Decide(t.Context(), &admission.Request{Claim: true}, 1)
		begin := time.Now()
		g.Settle(res.Claim, "id", res.Spare)
		assert.Equal(t, 20*time.Millisecond, time.Since(begin))
		assert.Equal(t, 1, s.openClaims())
		close(s.released)
		synctest.Wait()
		assert.Zero(t, s.openClaims())

		panics := New(settings(), finder{stuck{newAdvisor(admitted), nil}}, nil, time.Now)
		defer panics.Close()
		panics.Settle(panics.Decide(t.Context(), &admission.Request{Claim: true}, 1).Claim, "id", time.Second)
	})
}

// TestDecisionsThatNoServerCanTakeAreCut: a claim of what is not admitted is given back.
func TestDecisionsThatNoServerCanTakeAreCut(t *testing.T) {
	a := newAdvisor(nil)
	a.claims[9] = true
	a.decide = func(*admission.Request) (admission.Decision, error) {
		return admission.Decision{Verdict: admission.Reject, Reason: admission.Late, Claim: 9, RetryAfter: 1 << 62, Wait: -1, MaxSide: -8}, nil
	}
	g := open(t, settings(), a, nil)
	d := g.Decide(t.Context(), &admission.Request{Claim: true}, 1).Decision
	assert.Equal(t, admission.Decision{Verdict: admission.Reject, Reason: admission.Late, RetryAfter: maxTime}, d)
	assert.Zero(t, a.openClaims())
}

func TestObserveHoldsNothing(t *testing.T) {
	s := settings()
	s.Enforce = false
	g := open(t, s, newAdvisor((&room{}).decide), nil)
	res := g.Decide(t.Context(), &admission.Request{}, 1)
	assert.Equal(t, admission.Hold, res.Verdict)
	assert.Zero(t, res.Held)
}

// TestHeldPromptsAreAdmittedInOrderOfTheirDeadlines: those without one are last, those with the
// same come in their own order. One that arrives later and is less urgent does not overtake them.
func TestHeldPromptsAreAdmittedInOrderOfTheirDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &room{}
		g := New(settings(), finder{newAdvisor(p.decide)}, nil, time.Now)
		defer g.Close()
		ctx := t.Context()
		for _, h := range []struct {
			class    string
			deadline time.Duration
		}{{"never", 0}, {"late", 30 * time.Second}, {"soon", 10 * time.Second}, {"never too", 0}, {"soon too", 10 * time.Second}} {
			held(ctx, g, h.class, h.deadline, 1)
		}
		require.Equal(t, 5, g.Held())
		p.make(1)
		newcomer := held(ctx, g, "newcomer", 20*time.Second, 1)
		synctest.Wait()
		require.Equal(t, []string{"soon"}, p.order(), "a newcomer takes the room of one that is more urgent")
		assert.Empty(t, newcomer)
		for range 5 {
			p.make(1)
			g.Changed()
			synctest.Wait()
		}
		assert.Equal(t, []string{"soon", "soon too", "newcomer", "late", "never", "never too"}, p.order())
		assert.Zero(t, g.Held())
		assert.Equal(t, admission.Admit, (<-newcomer).Verdict)
		p.make(1)
		res := g.Decide(ctx, &admission.Request{Class: "alone", Claim: true}, 1)
		assert.Zero(t, res.Held, "with none held, one is not held either")
	})
}

// TestUrgentNewcomerNeedNotWait: those that are held are less urgent.
func TestUrgentNewcomerNeedNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &room{}
		g := New(settings(), finder{newAdvisor(p.decide)}, nil, time.Now)
		defer g.Close()
		held(t.Context(), g, "late", 30*time.Second, 1)
		p.make(1)
		res := g.Decide(t.Context(), &admission.Request{Class: "urgent", Deadline: time.Second, Claim: true}, 1)
		assert.Equal(t, admission.Admit, res.Verdict)
		assert.Zero(t, res.Held)
		assert.Equal(t, []string{"urgent"}, p.order())
	})
}

// TestHeldPromptIsAskedAboutAgain within 200 ms, or as soon as a queue has changed.
func TestHeldPromptIsAskedAboutAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &room{}
		g := New(settings(), finder{newAdvisor(p.decide)}, nil, time.Now)
		defer g.Close()
		for _, changes := range []bool{false, true} {
			begin := time.Now()
			done := held(t.Context(), g, "a", time.Minute, 1)
			time.Sleep(50 * time.Millisecond)
			p.make(1)
			if changes {
				g.Changed()
			}
			res := <-done
			assert.Equal(t, admission.Admit, res.Verdict)
			assert.Equal(t, res.Released.Sub(res.Held), time.Since(begin))
			assert.Equal(t, map[bool]time.Duration{false: askAgain, true: 50 * time.Millisecond}[changes], time.Since(begin))
		}
	})
}

func TestHeldPromptsAreBoundedInNumberAndBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := settings()
		s.MaxHeld, s.MaxBytes = 2, 100
		p := &room{}
		g := New(s, finder{newAdvisor(p.decide)}, nil, time.Now)
		defer g.Close()
		a := held(t.Context(), g, "a", time.Minute, 60)
		res := <-held(t.Context(), g, "too large", time.Minute, 41)
		assert.Equal(t, admission.Reject, res.Verdict)
		assert.Equal(t, admission.MemoryBusy, res.Reason)
		assert.Equal(t, time.Second, res.RetryAfter)
		held(t.Context(), g, "b", time.Minute, 40)
		res = <-held(t.Context(), g, "too many", time.Minute, 0)
		assert.Equal(t, admission.Reject, res.Verdict)
		for _, b := range g.Bounds() {
			assert.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
		p.make(1)
		g.Changed()
		assert.Equal(t, admission.Admit, (<-a).Verdict)
		held(t.Context(), g, "c", time.Minute, 60)
		assert.Equal(t, 2, g.Held(), "its bytes are free again")
	})
}

// TestHeldPromptIsRefusedAfterItsTime, by the newest figures. Its deadline counts from its
// arrival on.
func TestHeldPromptIsRefusedAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		a := newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			return admission.Decision{
				Verdict: admission.Hold, Reason: admission.MemoryBusy, Deadline: time.Now().Add(r.Deadline), RetryAfter: time.Duration(asked.Add(1)) * time.Second,
			}, nil
		})
		g := New(settings(), finder{a}, nil, time.Now)
		defer g.Close()
		begin := time.Now()
		res := <-held(t.Context(), g, "a", 30*time.Second, 1)
		assert.Equal(t, 20*time.Second, time.Since(begin))
		assert.Equal(t, admission.Reject, res.Verdict)
		assert.Greater(t, res.RetryAfter, 90*time.Second, "the last question's")
		assert.Equal(t, begin.Add(30*time.Second), res.Deadline)
		all := a.requests()
		assert.Less(t, all[len(all)-1].Deadline, 11*time.Second, "what is left of it")
		assert.Zero(t, g.Held())
	})
}

// TestSlowAdvisorHoldsNoneBeyondItsTime: a round of questions may take longer than what is left.
func TestSlowAdvisorHoldsNoneBeyondItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := settings()
		s.HoldTimeout = 100 * time.Millisecond
		g := New(s, finder{newAdvisor(func(*admission.Request) (admission.Decision, error) {
			time.Sleep(19 * time.Millisecond)
			return admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy}, nil
		})}, nil, time.Now)
		defer g.Close()
		begin := time.Now()
		var all sync.WaitGroup
		for range s.MaxHeld {
			all.Go(func() {
				assert.Equal(t, admission.Reject, g.Decide(t.Context(), &admission.Request{}, 1).Verdict)
				assert.Equal(t, 119*time.Millisecond, time.Since(begin))
			})
		}
		all.Wait()
	})
}

// TestHeldPromptIsAdmittedWhenTheAdvisorFails: it fails open.
func TestHeldPromptIsAdmittedWhenTheAdvisorFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		p := &room{}
		g := New(settings(), finder{newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			if broken.Load() {
				panic("broken")
			}
			return p.decide(r)
		})}, nil, time.Now)
		defer g.Close()
		done := held(t.Context(), g, "a", time.Minute, 1)
		broken.Store(true)
		begin := time.Now()
		assert.Equal(t, admission.Failed, (<-done).Reason)
		assert.LessOrEqual(t, time.Since(begin), askAgain)
	})
}

// TestANewcomerIsPassedOnWithinOneTimeout, also while prompts are held, for which it is asked about
// twice.
func TestANewcomerIsPassedOnWithinOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var blocks atomic.Bool
		p, ended := &room{}, make(chan struct{})
		g := New(settings(), finder{newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			if blocks.Load() {
				<-ended
			}
			return p.decide(r)
		})}, nil, time.Now)
		defer g.Close()
		defer close(ended)
		held(t.Context(), g, "a", time.Minute, 1)
		blocks.Store(true)
		begin := time.Now()
		res := g.Decide(t.Context(), &admission.Request{Class: "b", Claim: true}, 1)
		assert.Equal(t, admission.Failed, res.Reason)
		assert.LessOrEqual(t, time.Since(begin), settings().Timeout)
	})
}

// TestClientThatLeavesIsForgotten, also if it leaves while its prompt is admitted.
func TestClientThatLeavesIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &room{}
		a := newAdvisor(p.decide)
		g := New(settings(), finder{a}, nil, time.Now)
		defer g.Close()
		ctx, leave := context.WithCancel(t.Context())
		done := held(ctx, g, "a", time.Minute, 1)
		leave()
		res := <-done
		assert.True(t, res.Left)
		assert.Equal(t, admission.Hold, res.Verdict)
		assert.Zero(t, g.Held())
		p.make(100)
		time.Sleep(time.Second)
		assert.Empty(t, p.order(), "it is not asked about any more")
		// Whichever is first.
		for range 100 {
			p.make(0)
			ctx, leave := context.WithCancel(t.Context())
			done := held(ctx, g, "a", time.Minute, 1)
			p.make(1)
			go leave()
			go g.Changed()
			if res := <-done; !res.Left {
				g.Settle(res.Claim, "id", res.Spare)
			}
			synctest.Wait()
			require.Zero(t, a.openClaims(), "a claim is lost")
			require.Zero(t, g.Held())
			leave()
		}
	})
}

// slow is a server that frees its memory when its caller gives up.
type slow struct {
	mu    sync.Mutex
	freed []string
}

func (s *slow) Free(ctx context.Context, server string) error {
	s.mu.Lock()
	s.freed = append(s.freed, server)
	s.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (s *slow) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.freed)
}

// TestCloseRefusesHeldPromptsAtOnce, with times to come again that differ, whatever else is under
// way.
func TestCloseRefusesHeldPromptsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		g := New(settings(), finder{newAdvisor(func(*admission.Request) (admission.Decision, error) {
			return admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryIdle, Free: "neighbour"}, nil
		})}, s, time.Now)
		var all []<-chan Result
		for i := range 5 {
			all = append(all, held(t.Context(), g, fmt.Sprint(i), time.Minute, 1))
		}
		begin := time.Now()
		g.Close()
		assert.Zero(t, time.Since(begin), "a neighbour that is asked to free its memory delays it")
		last := time.Duration(0)
		for _, done := range all {
			res := <-done
			assert.Equal(t, admission.Reject, res.Verdict)
			assert.Equal(t, admission.Stopping, res.Reason)
			assert.Equal(t, 503, Status(&res.Decision))
			assert.Greater(t, res.RetryAfter, last)
			last = res.RetryAfter
		}
		assert.LessOrEqual(t, last, restartTakes+restartSpread)
		assert.Equal(t, admission.Reject, g.Decide(t.Context(), &admission.Request{}, 1).Verdict, "nothing is held from then on")
		assert.Zero(t, g.Held())
	})
}

// TestNeighbourIsAskedToFreeItsMemory while a prompt is held because of that; prompts do not wait
// for its answer.
func TestNeighbourIsAskedToFreeItsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := &slow{}, &room{}
		g := New(settings(), finder{newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			d, err := p.decide(r)
			if d.Verdict == admission.Hold {
				d.Reason, d.Free = admission.MemoryIdle, "neighbour"
			}
			return d, err
		})}, s, time.Now)
		defer g.Close()
		done := held(t.Context(), g, "a", time.Minute, 1)
		require.Equal(t, 1, s.count())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		assert.Greater(t, s.count(), maxFreeing, "it is asked again")
		p.make(1)
		g.Changed()
		begin := time.Now()
		assert.Equal(t, admission.Admit, (<-done).Verdict)
		assert.Zero(t, time.Since(begin))
		for _, b := range g.Bounds() {
			assert.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
	})
}

// TestNoClaimIsLost: in real time, with clients that leave, an advisor that is too slow at times,
// panics at times and holds most, each claim ends, and no more than the bounds are held.
func TestNoClaimIsLost(t *testing.T) {
	a := newAdvisor(func(*admission.Request) (admission.Decision, error) {
		d := admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy, Deadline: time.Now().Add(time.Duration(rand.IntN(100)) * time.Millisecond)}
		switch rand.IntN(20) {
		case 0:
			time.Sleep(4 * time.Millisecond) // the fault
		case 1:
			panic("broken")
		case 2, 3, 4:
			d.Verdict, d.Reason = admission.Admit, admission.Fits
		case 5:
			d.Verdict, d.Reason = admission.Reject, admission.Late
		}
		return d, nil
	})
	s := settings()
	s.Timeout, s.HoldTimeout = 2*time.Millisecond, 30*time.Millisecond
	g := New(s, finder{a}, nil, time.Now)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 60 {
				ctx, leave := context.WithTimeout(t.Context(), time.Duration(rand.IntN(40))*time.Millisecond)
				res := g.Decide(ctx, &admission.Request{Claim: true}, 1)
				leave()
				if res.Left {
					assert.Zero(t, res.Claim)
				}
				g.Changed()
				g.Settle(res.Claim, "id", res.Spare)
				for _, b := range g.Bounds() {
					assert.LessOrEqual(t, b.Size, b.Max, b.Name)
				}
			}
		})
	}
	all.Wait()
	g.Close()
	require.Eventually(t, func() bool { return a.openClaims() == 0 && len(g.advisor.calls) == 0 }, 10*time.Second, time.Millisecond)
}

// BenchmarkDecide is what the gate adds to a prompt, beside the advisor's own time.
func BenchmarkDecide(b *testing.B) {
	g := New(settings(), finder{newAdvisor(admitted)}, nil, time.Now)
	defer g.Close()
	var all []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		res := g.Decide(b.Context(), &admission.Request{Claim: true}, 1)
		g.Settle(res.Claim, "id", res.Spare)
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1000, "p99-µs")
}

// TestWhileOneIsHeldOthersAreAskedAboutAsOnesThatStay: an advisor sends whoever claims nothing to another
// server, which is not a valid answer about a session that has begun.
func TestWhileOneIsHeldOthersAreAskedAboutAsOnesThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			d := admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy, RetryAfter: time.Second, Deadline: time.Now().Add(30 * time.Second)}
			if !r.Claim && !r.Stays {
				d.Verdict, d.Target = admission.Redirect, "b"
			}
			return d, nil
		})
		g := open(t, settings(), a, nil)
		first := held(t.Context(), g, "first", 10*time.Second, 1)
		second := held(t.Context(), g, "second", 20*time.Second, 1)
		assert.Equal(t, 2, g.Held())
		for _, done := range []<-chan Result{first, second} {
			res := <-done
			assert.Equal(t, admission.Reject, res.Verdict)
			assert.Equal(t, admission.MemoryBusy, res.Reason)
		}
	})
}
