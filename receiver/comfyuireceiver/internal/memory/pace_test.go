// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const ms = time.Millisecond

func TestPaceHalvesWhereAnswersAreSlowAndDoublesAfterTenFastOnes(t *testing.T) {
	p := NewPace(500*ms, 1)
	for range 4 {
		p.Answered(21 * ms)
	}
	assert.Equal(t, 500*ms, p.Interval(), "four answers have no median of five")
	p.Answered(21 * ms)
	assert.Equal(t, time.Second, p.Interval())
	for range 5 * 5 {
		p.Answered(time.Second)
	}
	assert.Equal(t, 5*time.Second, p.Interval(), "one in 5 s is the slowest")
	for range 9 {
		p.Answered(20 * ms)
	}
	assert.Equal(t, 5*time.Second, p.Interval())
	p.Answered(20 * ms)
	assert.Equal(t, 2500*ms, p.Interval())
	for range 100 {
		p.Answered(ms)
	}
	assert.Equal(t, 500*ms, p.Interval(), "never faster than configured")
}

func TestPaceBearsTwoSlowAnswersOfFive(t *testing.T) {
	p := NewPace(500*ms, 1)
	for i := range 100 {
		lasted := ms
		if i%5 < 2 {
			lasted = 300 * ms
		}
		p.Answered(lasted)
	}
	assert.Equal(t, 500*ms, p.Interval())
}

func TestPaceHalvesAfterOneLateAnswer(t *testing.T) {
	p := NewPace(500*ms, 1)
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		p.Late(time.Second)
		assert.Equal(t, want, p.Interval(), i)
	}
	p = NewPace(10*time.Second, 1)
	p.Late(time.Second)
	assert.Equal(t, 10*time.Second, p.Interval(), "a longer configured interval stays")
}

// TestQuestionsAreUnderWayForAFiftiethOfTheTime simulates an hour at several speeds of
// answers.
func TestQuestionsAreUnderWayForAFiftiethOfTheTime(t *testing.T) {
	for _, lasts := range []time.Duration{ms, 9 * ms, 15 * ms, 19 * ms, 200 * ms, time.Second} {
		random := rand.New(rand.NewPCG(1, uint64(lasts)))
		p, now, begin := NewPace(200*ms, 1), time.Unix(0, 0), time.Unix(0, 0)
		var underWay time.Duration
		for now.Sub(begin) < time.Hour {
			if p.Allows(now) {
				lasted := time.Duration((0.5 + random.Float64()) * float64(lasts))
				underWay += lasted
				now = now.Add(lasted)
				if lasted >= time.Second {
					p.Late(lasted)
				} else {
					p.Answered(lasted)
				}
			}
			now = now.Add(p.Next())
		}
		assert.LessOrEqual(t, underWay.Seconds(), 0.02*time.Hour.Seconds()+2*1.2+1.5, "answers within %s", lasts)
		assert.Greater(t, underWay.Seconds(), min(0.018*time.Hour.Seconds(), 0.9*lasts.Seconds()*time.Hour.Seconds()/5.5), "answers within %s", lasts)
	}
}

func TestQuestionsAreAskedAtAnyStepOfWork(t *testing.T) {
	p := NewPace(500*ms, 1)
	var first, next time.Duration
	const n = 10_000
	for range n {
		f, x := p.First(), p.Next()
		assert.Less(t, f, 500*ms)
		assert.GreaterOrEqual(t, x, 375*ms)
		assert.Less(t, x, 625*ms)
		first, next = first+f, next+x
	}
	assert.InDelta(t, 250*ms, first/n, float64(10*ms))
	assert.InDelta(t, 500*ms, next/n, float64(5*ms))
}
