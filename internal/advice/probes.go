// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"maps"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// probeKey is what prompts have in common of which some ran out of memory, or are tried.
type probeKey struct {
	Kind
	fit.Size
}

// probe is what became of those that ran out of memory, and of the tries since.
type probe struct {
	// room is what they had at most, in bytes; failures is how many tries in a row failed.
	room     int64
	failures int
	last     time.Time
	// running is the try that has not ended, or whose trace has not come; left is when it left its
	// server's queue.
	running *job
	left    time.Time
}

const (
	// probeAgain is when another try is made after one that failed.
	probeAgain = time.Hour
	// traceDelay is how long after a prompt's end its trace comes at the latest.
	traceDelay = 10 * time.Second
	// maxProbes bounds those of a GPU.
	maxProbes = 256
)

// covers reports whether what is known of prompts with a key holds of others: they are of its kind, and
// no smaller.
func (k *probeKey) covers(of Kind, s fit.Size) bool {
	return k.Kind == of && k.Pixels <= s.Pixels && k.Batch <= s.Batch
}

// tries are what became of prompts of a kind that were no larger than one.
type tries struct {
	// failed is true if some ran out of memory, of which they had room at most, in bytes; never is
	// true if the last two ran out of nearly all that a GPU has, within the last hour, and there is
	// no more now.
	failed, never bool
	room          int64
	// may is true if another one may be tried.
	may bool
}

// nearlyAll is the share of what a GPU has that counts as all of it: its driver, or a screen, has some.
const nearlyAll = 0.95

// triesOf is what became of prompts like one that was to have so much room, on a GPU where all is so much.
func (e *Engine) triesOf(j *job, all, room int64, now time.Time) (t tries) {
	t.may = true
	own := probeKey{j.kind, j.size}
	for key, p := range j.server.gpu.probes {
		if !key.covers(j.kind, j.size) {
			continue
		}
		if !p.none() {
			t.failed, t.room = true, max(t.room, p.room)
			t.never = t.never || p.failed(2, all) && p.room >= room && now.Sub(p.last) < probeAgain
		}
		// One of a smaller size that failed says nothing of a try with more room than it had.
		if key == own || p.running != nil || !p.none() && p.room >= room {
			t.may = t.may && e.mayTry(p, now)
		}
	}
	return t
}

// ranOut reports whether prompts of a kind that were no larger than a size ran out of nearly so much memory.
func (g *gpu) ranOut(of Kind, s fit.Size, room int64) bool {
	for key, p := range g.probes {
		if key.covers(of, s) && p.failed(1, room) {
			return true
		}
	}
	return false
}

func (p *probe) none() bool { return p == nil || p.failures == 0 }

// failed reports whether so many tries in a row failed with nearly as much room, or more.
func (p *probe) failed(times int, room int64) bool {
	return p != nil && p.failures >= times && float64(p.room) >= nearlyAll*float64(room)
}

// mayTry reports whether another one may be tried.
func (e *Engine) mayTry(p *probe, now time.Time) bool {
	return p == nil || !e.trying(p, now) && (p.failures < 2 || now.Sub(p.last) >= probeAgain)
}

// trying reports whether a try runs.
func (e *Engine) trying(p *probe, now time.Time) bool {
	j := p.running
	switch {
	case j == nil:
		return false
	case j.claim != 0, j.id != "" && j.server.byID[j.id] == j && e.servers[j.server.name] == j.server:
		p.left = time.Time{}
		return true
	case j.id == "": // it was not run
		p.running = nil
		return false
	case p.left.IsZero():
		p.left = now
	}
	if now.Sub(p.left) > traceDelay {
		p.running = nil
	}
	return p.running != nil
}

// probing records that a prompt is tried.
func (g *gpu) probing(j *job) {
	p := g.probeOf(probeKey{j.kind, j.size})
	p.running, p.left = j, time.Time{}
}

// probeOf is that of a key, made if there is none yet, in the place of the oldest if there are too many.
func (g *gpu) probeOf(key probeKey) *probe {
	p := g.probes[key]
	if p != nil {
		return p
	}
	if len(g.probes) >= maxProbes {
		delete(g.probes, g.oldestProbe())
	}
	p = &probe{}
	g.probes[key] = p
	return p
}

// oldestProbe is the key of the one that failed last before all others, of those that do not run if
// there are any.
func (g *gpu) oldestProbe() (oldest probeKey) {
	var found *probe
	for key, p := range g.probes {
		older := found == nil || p.last.Before(found.last)
		if runs := p.running != nil; found != nil && runs != (found.running != nil) {
			older = !runs
		}
		if older {
			oldest, found = key, p
		}
	}
	return oldest
}

// settled has a try be the prompt that its server shows.
func (g *gpu) settled(claimed, shown *job) {
	if g == nil {
		return
	}
	if p := g.probes[probeKey{claimed.kind, claimed.size}]; p != nil && p.running == claimed {
		p.running = shown
	}
}

// probed learns whether a prompt of a kind had enough memory, of as much as there was for it. What was
// enough for it was enough for smaller ones.
func (g *gpu) probed(k Kind, s fit.Size, x *Execution, room int64) {
	own := probeKey{k, s}
	switch {
	case x.OutOfMemory:
		p := g.probeOf(own)
		p.failures, p.last, p.running = p.failures+1, x.Ended, nil
		p.room = max(p.room, x.Reserved, room)
	case x.Succeeded && !x.Cached:
		maps.DeleteFunc(g.probes, func(key probeKey, p *probe) bool {
			return key == own || key.covers(k, s) && x.Reserved > 0 && x.Reserved <= p.room
		})
	case g.probes[own] != nil:
		g.probes[own].running = nil
	}
}
