// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math"
	"time"
)

const (
	minRetry = 500 * time.Millisecond
	// batchTries is how many batch prompts may come again in a second: enough that there is
	// one as soon as a GPU has nothing else to do.
	batchTries = 20.0
	// batchRetry is the longest time after which a batch prompt may come again, unless there
	// are too many, in seconds.
	batchRetry = 1.9
	// surplus is how much later than predicted those come again that are not batch, since new ones come
	// meanwhile.
	surplus = 1.5
	// unhealthyRetry is after what time somebody may come again whose GPU is not healthy.
	unhealthyRetry = 10 * time.Second
	// staggers is over how many steps those are spread who are refused for another reason than time.
	staggers = 10
	// maxRetry is the longest time after which anybody may come again.
	maxRetry = 10 * time.Minute
)

// retry is after what time a prompt that would be late may be admitted: once enough of the
// queue has ended, and those have come that were refused before. Batch prompts, whose turn is
// whenever nothing else waits, come soon, batchTries of them in a second.
func (e *Engine) retry(j *job, t *timing, now time.Time) time.Duration {
	g, s := j.server.gpu, j.server
	g.promises.forget(now)
	if p := g.promises.of(j.promiseKey(), j.caller); p != nil && p.at.After(now) { // it has not waited for its time
		return max(p.at.Sub(now), minRetry)
	}
	after, last := max(t.upper-t.left, 0), now
	if j.batch {
		after = min(after, t.drain, batchRetry)
		last = now.Add(seconds(float64(g.promises.batch)/batchTries - batchRetry))
	} else {
		after = after*surplus + 2*t.mean
		last = s.promised
	}
	after = min(max(after, last.Sub(now).Seconds(), minRetry.Seconds()), maxRetry.Seconds())
	if d := e.class(j.class).Deadline.Seconds(); j.batch && d > 0 && t.left < after+t.mean {
		return min(seconds(d), maxRetry) // by then its image is of no use: it begins again
	}
	if j.inquiry {
		return seconds(after)
	}
	p := &promise{promiseKey: j.promiseKey(), at: now.Add(seconds(math.Ceil(after))), came: j.came, size: j.size, caller: j.caller}
	p.number = Number(j.came, j.came.Add(j.deadline.Sub(now)), j.batch)
	if g.promises.add(p) && !j.batch {
		s.promised = now.Add(seconds(after + t.mean*t.slow*surplus))
	}
	return seconds(after)
}

func (j *job) promiseKey() promiseKey { return promiseKey{j.server, j.batch, j.kind, j.side} }

// returned reports whether a prompt was refused before, and comes at the time that it was given.
func (j *job) returned() bool { return !j.came.Equal(j.accepted) }

// timingOf is the timing of a prompt that may have been refused before. It takes the place that it would
// have had, and has until its first deadline. Where core work has too little time left for that, it counts
// as one that comes now: whoever comes again waits for it still.
func (e *Engine) timingOf(j *job, now time.Time) timing {
	came, ok := j.server.gpu.promises.returned(j.promiseKey(), j.caller, now, !j.inquiry)
	if !ok {
		return e.timing(j, now)
	}
	j.came = came
	if j.deadline.IsZero() {
		return e.timing(j, now)
	}
	deadline, number := j.deadline, j.number
	j.deadline = deadline.Add(came.Sub(now))
	if j.batch {
		return e.timing(j, now)
	}
	j.number = Number(now, j.deadline, false)
	if t := e.timing(j, now); !t.late() {
		return t
	}
	j.deadline, j.number = deadline, number
	return e.timing(j, now)
}

// stagger spreads those who are refused at the same time: each comes a step later than the one before.
// It is the same for who only asks as for the next who claims.
func (g *gpu) stagger(claims bool, step time.Duration) time.Duration {
	at := g.turn
	if claims {
		g.turn = (g.turn + 1) % staggers
	}
	return time.Duration(at) * max(step, minRetry)
}
