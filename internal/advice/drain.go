// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/replay"
)

// maxComing bounds the prompts that are expected to come again when the end of a server's work is predicted.
const maxComing = 8

// place is that of work in a server's queue: its number, and in how many seconds it is late, inf for never.
type place struct{ number, late float64 }

// drained is in how many seconds all ends that a prompt's server has accepted; t is the prompt's timing.
// Core work that was refused before and comes again takes the place that it would have had, if it is
// admitted then: of each, as much of its work counts as that is likely.
func (e *Engine) drained(j *job, t *timing, now time.Time) float64 {
	s := j.server
	if j.batch { // which waits for whoever comes until then, and later
		return t.drain
	}
	coming := s.gpu.promises.next(s, now.Add(seconds(t.drain)), maxComing)
	if len(coming) == 0 || len(s.queue) == 0 {
		return t.drain
	}
	e.fill(s.gpu)
	own := slices.Index(s.gpu.servers, s)
	ends := e.replay.Run(e.queues, e.busy)
	e.places = s.places(e.places[:0], ends[own], now)
	for _, p := range coming {
		if p.ended {
			continue
		}
		at, comes := 0, p.at.Sub(now).Seconds()
		for at < len(e.places) && (e.places[at].number <= p.number || ends[own][at].Begin < comes) {
			at++
		}
		if at == len(e.places) {
			continue // it precedes nothing that was accepted
		}
		e.comes = job{kind: p.kind, size: p.size, server: s}
		work := e.work(&e.comes, p.kind.Model)
		e.queues[own] = slices.Insert(e.queues[own], at, work)
		e.places = slices.Insert(e.places, at, place{p.number, p.number - float64(now.UnixNano())/1e9})
		ends = e.replay.Run(e.queues, e.busy)
		likely := 0.0
		if !anyLate(e.inTime, ends) {
			likely = inTime(e.places[at:], ends[own][at:], comes)
		}
		if likely > 0.99 {
			continue
		}
		e.queues[own][at].Mean = likely * work.Mean
		ends = e.replay.Run(e.queues, e.busy)
	}
	return ends[own][len(ends[own])-1].At
}

// places appends those of all that a server has. What runs, or came past the proxy, cannot be overtaken; of
// the rest, core work that is in time by what was replayed must stay so.
func (s *server) places(all []place, ends []replay.End, now time.Time) []place {
	ahead := len(ends) - len(s.queue)
	for i, end := range ends {
		p := place{math.Inf(-1), math.Inf(1)}
		if i >= ahead {
			o := s.queue[i-ahead]
			p.number = o.number
			if left := o.deadline.Sub(now).Seconds(); !o.batch && !o.deadline.IsZero() && end.At <= left {
				p.late = left
			}
		}
		all = append(all, p)
	}
	return all
}

// inTime is how likely all of so many places will seem to be in time at a later time, in seconds: by then it
// is known how long what ran until then took.
func inTime(places []place, ends []replay.End, at float64) float64 {
	likely := 1.0
	for i, p := range places {
		left := p.late - ends[i].At
		if deviation := ends[i].Deviation * math.Sqrt(min(at/ends[i].At, 1)); deviation > 0 {
			likely = min(likely, normalBelow(left/deviation))
		} else if left < 0 {
			return 0
		}
	}
	return likely
}
