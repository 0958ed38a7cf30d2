// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// TestASilentAdvisorCostsTimeOnceASecond: of 1000 prompts in ten seconds the first five and one a second
// wait for it. Once it answers it is asked about each again.
func TestASilentAdvisorCostsTimeOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		a := newAdvisor(func(r *admission.Request) (admission.Decision, error) {
			if silent.Load() {
				time.Sleep(time.Second / 2)
			}
			return admitted(r)
		})
		g := New(settings(), finder{a}, nil, time.Now)
		defer g.Close()
		ask := func() (reason admission.Reason, took time.Duration) {
			begun := time.Now()
			d := g.Decide(t.Context(), &admission.Request{}, 1)
			assert.Equal(t, admission.Admit, d.Verdict)
			return d.Reason, time.Since(begun)
		}
		silent.Store(true)
		waited, all, begun := 0, 0, time.Now()
		for ; time.Since(begun) < 10*time.Second; all++ {
			reason, took := ask()
			assert.Equal(t, admission.Failed, reason)
			if took > 0 {
				assert.Equal(t, settings().Timeout, took)
				waited++
			}
			time.Sleep(10*time.Millisecond - min(took, 10*time.Millisecond))
		}
		assert.Greater(t, all, 900)
		assert.InDelta(t, maxUnanswered+9, waited, 1)

		silent.Store(false)
		begun = time.Now()
		for {
			if reason, _ := ask(); reason == admission.Fits {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, time.Since(begun), askSilent, "it is found to answer")
		for range 100 {
			reason, _ := ask()
			assert.Equal(t, admission.Fits, reason)
		}
	})
}

// TestAnAdvisorThatFailsAtOnceIsAskedAboutEachPrompt: it costs no time, and may work again for the next.
// Nor does one count as silent that answers now and then.
func TestAnAdvisorThatFailsAtOnceIsAskedAboutEachPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		a := newAdvisor(nil)
		a.decide = func(r *admission.Request) (admission.Decision, error) {
			if n < 100 {
				return admission.Decision{}, errors.New("broken")
			}
			if n%maxUnanswered != 0 {
				time.Sleep(time.Second)
			}
			return admitted(r)
		}
		g := New(settings(), finder{a}, nil, time.Now)
		defer g.Close()
		for ; n < 200; n++ {
			g.Decide(t.Context(), &admission.Request{}, 1)
			time.Sleep(time.Second) // so that no call is under way
			synctest.Wait()
		}
		assert.Len(t, a.requests(), 200)
	})
}

// TestAPromptThatIsAskedAboutTwiceWaitsNoLonger: while others are held, first whether it would be admitted.
func TestAPromptThatIsAskedAboutTwiceWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &room{}
		a := newAdvisor(p.decide)
		g := New(settings(), finder{a}, nil, time.Now)
		defer g.Close()
		held(t.Context(), g, "held", 10*time.Second, 1)
		a.decide = func(r *admission.Request) (admission.Decision, error) {
			time.Sleep(15 * time.Millisecond)
			return p.decide(r)
		}
		begun := time.Now()
		d := g.Decide(t.Context(), &admission.Request{Class: "newcomer", Claim: true}, 1)
		assert.Equal(t, settings().Timeout, time.Since(begun))
		assert.Equal(t, admission.Failed, d.Reason)
		g.Close()
		time.Sleep(time.Second) // no call is under way any more
	})
}
