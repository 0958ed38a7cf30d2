// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/replay"
)

// TestTheEndOfWhatWasAcceptedCountsWhoComesAgain: core work that was refused takes the place that it would
// have had, and what waits behind it ends later.
func TestTheEndOfWhatWasAcceptedCountsWhoComesAgain(t *testing.T) {
	later := func(waiting int, came, comes time.Duration, change func(p *promise, servers map[string]*server)) float64 {
		w := newWorld(t, "a", "b")
		w.learned("a", 20)
		w.rested()
		for range waiting {
			w.queued("a", "people", 512) // 2 s each, within 30 s
		}
		s := w.Engine.servers["a"]
		j := &job{class: "people", kind: w.kindOf(s, "colour", "ddcolor"), side: 512, size: sizeOf(512, 1, 0), server: s, deadline: w.now.Add(30 * time.Second)}
		j.number = Number(w.now, j.deadline, false)
		alone := w.timing(j, w.now)
		assert.InDelta(t, alone.drain, w.drained(j, &alone, w.now), 1e-9, "nobody comes again")
		p := &promise{promiseKey: promiseKey{s, false, j.kind, 512}, came: w.now.Add(came), at: w.now.Add(comes), size: j.size}
		p.number = Number(p.came, p.came.Add(30*time.Second), false)
		if change != nil {
			change(p, w.Engine.servers)
		}
		w.gpus[theGPU].promises.add(p)
		with := w.timing(j, w.now)
		return w.drained(j, &with, w.now) - alone.drain
	}
	assert.InDelta(t, 2, later(8, -10*time.Second, 4*time.Second, nil), 0.1, "by what it takes")
	assert.Zero(t, later(8, time.Second, 4*time.Second, nil), "it came after all others")
	assert.Zero(t, later(8, -10*time.Second, time.Minute, nil), "it comes when all has ended")
	assert.Zero(t, later(8, -10*time.Second, 15*time.Second, nil), "it comes when the last one runs")
	assert.InDelta(t, 0, later(8, -29*time.Second, 4*time.Second, nil), 0.01, "it would be late itself, and counts as new")
	assert.InDelta(t, 0, later(15, -10*time.Second, 4*time.Second, nil), 0.01, "another one would be late")
	assert.Zero(t, later(8, -10*time.Second, 4*time.Second, func(p *promise, _ map[string]*server) { p.ended = true }), "it came already")
	assert.Zero(t, later(8, -10*time.Second, 4*time.Second, func(p *promise, _ map[string]*server) { p.batch = true }), "batch waits for all")
	assert.Zero(t, later(8, -10*time.Second, 4*time.Second, func(p *promise, all map[string]*server) { p.server = all["b"] }), "to another server")
}

func TestWhatSeemsInTimeDependsOnWhatIsKnownByThen(t *testing.T) {
	likely := func(late, ends, deviation, at float64) float64 {
		all := []place{{late: 100}, {late: late}}
		return inTime(all, []replay.End{{At: 10, Deviation: 1}, {At: ends, Deviation: deviation}}, at)
	}
	assert.InDelta(t, 0.5, likely(30, 30, 2, 15), 1e-9, "as likely as not")
	assert.InDelta(t, 0.841, likely(32, 32-2, 4, 7.5), 1e-3, "a quarter of the variance is known: one deviation")
	assert.InDelta(t, 0.159, likely(28, 30, 4, 7.5), 1e-3)
	assert.InDelta(t, 0.692, likely(32, 30, 4, 60), 1e-3, "all of it is: half of one")
	assert.InDelta(t, 1, likely(30, 29, 0, 5), 1e-9)
	assert.Zero(t, likely(30, 31, 0, 5))
}
