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
	// caller tells its client and content from others; 0 if that is not known.
	caller uint64
	// ended is true once it came again, or will not.
	ended bool
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
	// byCaller are those that have not ended, of which the caller is known.
	byCaller map[uint64]*promise
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
		p.byKey, p.byCaller, p.at, p.core = map[promiseKey]*byTime{}, map[uint64]*promise{}, map[*server]int{}, map[*server][]*promise{}
	}
	of := p.byKey[n.promiseKey]
	if of == nil {
		of = &byTime{}
		p.byKey[n.promiseKey] = of
	}
	heap.Push(&p.all, n)
	heap.Push(of, n)
	if n.caller != 0 {
		p.byCaller[n.caller] = n
	}
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
		p.end(n)
		p.first(n.promiseKey)
		if !n.batch {
			p.forgetCore(n.server, now)
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

// end ends one: its prompt came again, or will not.
func (p *promises) end(n *promise) {
	if n.ended {
		return
	}
	n.ended = true
	if p.byCaller[n.caller] == n {
		delete(p.byCaller, n.caller)
	}
	if n.batch {
		p.batch--
		if p.at[n.server]--; p.at[n.server] == 0 {
			delete(p.at, n.server)
		}
	}
}

// first is the first of a key that has not ended; nil if there is none.
func (p *promises) first(key promiseKey) *promise {
	of := p.byKey[key]
	for of != nil && len(*of) > 0 && (*of)[0].ended {
		heap.Pop(of)
	}
	if of == nil || len(*of) == 0 {
		delete(p.byKey, key)
		return nil
	}
	return (*of)[0]
}

// of is the promise of a prompt whose client has sent it before; nil if there is none, or if that is not
// known.
func (p *promises) of(key promiseKey, caller uint64) *promise {
	if n := p.byCaller[caller]; n != nil && n.promiseKey == key {
		return n
	}
	return nil
}

// returned is when a prompt came first that was to come again about now: the one that its client was
// promised, or, where that is not known, any of its key. The promise is kept unless end is true.
func (p *promises) returned(key promiseKey, caller uint64, now time.Time, end bool) (came time.Time, ok bool) {
	p.forget(now)
	n := p.of(key, caller)
	if n == nil {
		n = p.first(key)
	}
	if n == nil || now.Sub(n.at) < -early {
		return time.Time{}, false
	}
	if end {
		p.end(n)
	}
	return n.came, true
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
