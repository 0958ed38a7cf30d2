// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math"
	"slices"
	"time"
)

// promise is when a refused prompt may come again.
type promise struct {
	server *server
	// due is when there is room for it, at when it comes: callers wait for whole seconds.
	due, at time.Time
	// each is until when the next one may come.
	each  time.Duration
	batch bool
	// kind, side and came are the prompt's, by which it is recognised.
	kind Kind
	side int
	came time.Time
}

const (
	minRetry = 500 * time.Millisecond
	// batchTries is how many batch prompts may come again in a second: enough that there is
	// one as soon as a GPU has nothing else to do.
	batchTries = 20.0
	// batchRetry is the longest time after which a batch prompt may come again, unless there
	// are too many, in seconds.
	batchRetry = 2.5
	// surplus is how much later than predicted those come again that are not batch, since new ones come
	// meanwhile.
	surplus = 1.25
	// maxRetry is the longest time after which anybody may come again.
	maxRetry = 10 * time.Minute
	// maxPromises bounds those of a GPU.
	maxPromises = 1024
	// A prompt that comes again is recognised from early before its time until patience
	// after.
	early    = 100 * time.Millisecond
	patience = time.Second
)

// retry is after what time a prompt that would be late may be admitted: once enough of the
// queue has ended, and those have come that were refused before. Batch prompts, whose turn is
// whenever nothing else waits, come soon, batchTries of them in a second.
func (e *Engine) retry(j *job, t *timing, now time.Time) time.Duration {
	g := j.server.gpu
	g.forget(now)
	after, each := max(t.upper-t.left, 0), t.mean*t.slow*surplus
	last := now
	if j.batch {
		after, each = min(after, t.drain, batchRetry), 1/batchTries
		last = now.Add(seconds(float64(g.promised())*each - batchRetry))
	} else {
		after = after*surplus + 2*t.mean
		for i := range g.retries {
			if p := &g.retries[i]; p.server == j.server && !p.batch {
				if next := p.due.Add(p.each); next.After(last) {
					last = next
				}
			}
		}
	}
	after = max(after, last.Sub(now).Seconds(), minRetry.Seconds())
	if d := e.class(j.class).Deadline.Seconds(); j.batch && d > 0 && t.left < after+t.mean {
		return min(seconds(d), maxRetry) // by then its image is of no use: it begins again
	}
	if len(g.retries) < maxPromises {
		due, at := now.Add(seconds(after)), now.Add(seconds(math.Ceil(after)))
		g.retries = append(g.retries, promise{j.server, due, at, seconds(each), j.batch, j.kind, j.side, j.came})
	}
	return min(seconds(after), maxRetry)
}

// promised is how many batch prompts are expected to come again.
func (g *gpu) promised() (n int) {
	for i := range g.retries {
		if g.retries[i].batch {
			n++
		}
	}
	return n
}

// forget drops promises whose time has passed.
func (g *gpu) forget(now time.Time) {
	g.retries = slices.DeleteFunc(g.retries, func(p promise) bool { return now.Sub(p.at) > patience })
}

// returned is when a prompt came first that was to come again about now. It is recognised by
// its time, kind and size, since clients could choose what else tells prompts apart. The promise is
// kept unless end is true.
func (g *gpu) returned(j *job, now time.Time, end bool) (came time.Time, ok bool) {
	i := slices.IndexFunc(g.retries, func(p promise) bool {
		off := now.Sub(p.at)
		return off >= -early && off <= patience && p.server == j.server && p.batch == j.batch && p.side == j.side && p.kind == j.kind
	})
	if i < 0 {
		return time.Time{}, false
	}
	came = g.retries[i].came
	if end {
		g.retries = slices.Delete(g.retries, i, i+1)
	}
	return came, true
}
