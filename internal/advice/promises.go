// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// promise is when a refused prompt may come again.
type promise struct {
	promiseKey
	// at is when it comes: callers wait for whole seconds.
	at time.Time
	// came is when the prompt came first, number what it would have had then, size its size.
	came   time.Time
	number float64
	size   fit.Size
	// back is true once it came again.
	back bool
}

// promiseKey is what a prompt is recognised by, beside its time: clients could choose what else tells
// prompts apart.
type promiseKey struct {
	server *server
	batch  bool
	kind   Kind
	side   int
}

const (
	// maxPromises bounds those of a GPU.
	maxPromises = 1024
	// A prompt that comes again is recognised from early before its time until patience
	// after.
	early    = 100 * time.Millisecond
	patience = time.Second
)

// promises are those of a GPU. Each is looked at a few times, however many there are.
type promises struct {
	all   byTime // until their time has passed
	byKey map[promiseKey]*byTime
	// batch counts those of batch prompts, at those of each server.
	batch int
	at    map[*server]int
	// core are the others of each server, by time.
	core map[*server][]*promise
}

// add adds one; it returns false if there are too many.
func (p *promises) add(n *promise) bool {
	if len(p.all) >= maxPromises {
		return false
	}
	if p.byKey == nil {
		p.byKey, p.at, p.core = map[promiseKey]*byTime{}, map[*server]int{}, map[*server][]*promise{}
	}
	of := p.byKey[n.promiseKey]
	if of == nil {
		of = &byTime{}
		p.byKey[n.promiseKey] = of
	}
	heap.Push(&p.all, n)
	heap.Push(of, n)
	if n.batch {
		p.batch++
		p.at[n.server]++
		return true
	}
	all := p.core[n.server]
	place, _ := slices.BinarySearchFunc(all, n, func(o, n *promise) int {
		return cmp.Or(o.at.Compare(n.at), -1) // behind its equals, nearly always at the end
	})
	p.core[n.server] = slices.Insert(all, place, n)
	return true
}

// next are the first that are not batch and may come again to a server until a time, in order: at most so
// many.
func (p *promises) next(s *server, until time.Time, most int) []*promise {
	all, n := p.core[s], 0
	for n < min(len(all), most) && !all[n].at.After(until) {
		n++
	}
	return all[:n]
}

// forget drops those whose time has passed.
func (p *promises) forget(now time.Time) {
	for len(p.all) > 0 && now.Sub(p.all[0].at) > patience {
		n := heap.Pop(&p.all).(*promise)
		if !n.batch {
			p.forgetCore(n.server, now)
		}
		for of := p.byKey[n.promiseKey]; of != nil && len(*of) > 0 && now.Sub((*of)[0].at) > patience; {
			p.removeFirst(n.promiseKey)
		}
	}
}

// forgetCore drops those of a server whose time has passed.
func (p *promises) forgetCore(s *server, now time.Time) {
	all := p.core[s]
	for len(all) > 0 && now.Sub(all[0].at) > patience {
		all[0], all = nil, all[1:]
	}
	if p.core[s] = all; len(all) == 0 {
		delete(p.core, s)
	}
}

// removeFirst drops the first of a key, which came again or will not.
func (p *promises) removeFirst(key promiseKey) {
	of := p.byKey[key]
	n := heap.Pop(of).(*promise)
	n.back = true
	if len(*of) == 0 {
		delete(p.byKey, key)
	}
	if n.batch {
		p.batch--
		if p.at[n.server]--; p.at[n.server] == 0 {
			delete(p.at, n.server)
		}
	}
}

// returned is when a prompt came first that was to come again about now. The promise is kept unless
// end is true.
func (p *promises) returned(key promiseKey, now time.Time, end bool) (came time.Time, ok bool) {
	p.forget(now)
	of := p.byKey[key]
	if of == nil || now.Sub((*of)[0].at) < -early {
		return time.Time{}, false
	}
	came = (*of)[0].came
	if end {
		p.removeFirst(key)
	}
	return came, true
}

// byTime implements [heap.Interface]: the first is the one that comes first.
type byTime []*promise

func (b byTime) Len() int           { return len(b) }
func (b byTime) Less(i, j int) bool { return b[i].at.Before(b[j].at) }
func (b byTime) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *byTime) Push(x any)        { *b = append(*b, x.(*promise)) }

func (b *byTime) Pop() any {
	last := len(*b) - 1
	n := (*b)[last]
	(*b)[last] = nil
	*b = (*b)[:last]
	return n
}
