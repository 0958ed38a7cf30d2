// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/replay"
)

// Batch work starts once nothing else waits at its server: core work that comes later overtakes it.
// The time until then is a busy period, whose length is about that of a Brownian motion's first
// passage (the inverse Gaussian distribution): it starts at the work that waits already, falls
// by a second a second, rises by the work that comes, and varies with it.
type passage struct {
	// level is the work that waits, in seconds by the clock; fall is by how much of it less there is
	// after a second, variance how much that varies.
	level, fall, variance float64
}

// maxCore is the largest share of a server's time that is taken to be core work: at 1 batch work
// would never start.
const maxCore = 0.95

// Where there is any core work, it may become so much at any time: a rush is not seen before it comes.
const someCore, leastCore = 0.02, 0.5

// passageOf is that of work that waits at a server for a time by the clock, at the pace at which
// core work came to the server lately. Neighbours slow both down.
func (e *Engine) passageOf(s *server, wait float64) passage {
	slow := e.slowed(s)
	core := max(s.core, s.coreNow)
	if core > someCore {
		core = max(core, leastCore/float64(len(s.gpu.servers)))
	}
	core = min(core, maxCore/slow)
	usual := s.gpu.usual
	size := usual.mean
	if size > 0 {
		size += usual.variance / size // of the work that comes, weighted by its size
	}
	return passage{level: wait, fall: 1 - core*slow, variance: core * size * slow * slow}
}

// slowed is how much longer prompts of a server take, as its neighbours worked lately.
func (e *Engine) slowed(s *server) float64 {
	slow := 1.0
	for _, o := range s.gpu.servers {
		if o != s {
			slow += o.busy
		}
	}
	return slow
}

func (p *passage) mean() float64 { return p.level / p.fall }

// longer is the probability that it takes longer than so many seconds.
func (p *passage) longer(t float64) float64 {
	switch {
	case t <= 0:
		return 1
	case p.level <= 0:
		return 0
	case p.variance <= 0:
		if p.mean() > t {
			return 1
		}
		return 0
	}
	const largest = 700 // exponent
	spread := math.Sqrt(p.variance * t)
	second := 0.0
	if exponent := 2 * p.fall * p.level / p.variance; exponent < largest {
		second = math.Exp(exponent) * normalBelow(-(p.level+p.fall*t)/spread)
	}
	return min(max(normalBelow((p.level-p.fall*t)/spread)-second, 0), 1)
}

// quantile is a time within which it ends with a probability.
func (p *passage) quantile(share float64) float64 {
	if p.level <= 0 || p.variance <= 0 {
		return max(p.mean(), 0)
	}
	low, high := 0.0, p.mean()
	for p.longer(high) > 1-share {
		low, high = high, 2*high
	}
	for high-low > 0.01*high {
		if middle := (low + high) / 2; p.longer(middle) > 1-share {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}

func normalBelow(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }

// The probability of being late at which a batch prompt is refused: where others wait that would take
// its place, and where none do.
const (
	riskContended = 0.01
	riskAlone     = 0.25
	// contended is how many are expected to come again.
	contended = 4
)

// overtaken predicts a batch prompt, of which t knows what precedes it now.
func (e *Engine) overtaken(t *timing, j *job, own float64, with []replay.End, at int, now time.Time) {
	p := e.passageOf(j.server, t.begin)
	wall := t.completion - t.begin
	c := e.calibration(j.class)
	mean, missed := p.mean(), upperShare*normalBelow(-c.above)
	// At the least, neither core work comes nor do neighbours slow it down.
	t.low = max(t.completion/e.slowed(j.server)-c.below*t.deviation, 0)
	t.high = mean + math.Hypot(p.quantile(1-missed)-mean, c.above*t.deviation) + wall
	t.begin, t.completion = mean, mean+wall
	t.risk = p.longer(t.left - wall - normal95*own)
	t.mayRisk = riskAlone
	if j.server.gpu.promises.batch >= contended {
		t.mayRisk = riskContended
	}
	t.upper = p.quantile(1-t.mayRisk) + wall
	// It precedes batch prompts with later deadlines.
	for n := at + 1; n < len(with); n++ {
		o := j.server.queue[len(j.server.queue)-len(with)+n]
		if o.deadline.IsZero() {
			continue
		}
		behind, wall := e.passageOf(j.server, with[n].Begin), with[n].At-with[n].Begin
		if behind.longer(o.deadline.Sub(now).Seconds()-wall) > t.mayRisk {
			t.others = true
		}
	}
}

// upperShare is by how much more often batch prompts are above their bands than by the normal
// distribution.
const upperShare = 1.6
