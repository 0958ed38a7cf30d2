// SPDX-License-Identifier: Apache-2.0

// Package prompts holds the newest prompts that have ended, with their traces, and says why
// each took as long as it did. It has no clock, no lock and makes no requests: the caller
// guards it.
package prompts

import (
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Limits bound what a store holds. What does not fit makes room, the oldest first.
type Limits struct {
	// Prompts is how many are held, Bytes how much memory their traces may take.
	Prompts, Bytes int
}

// Store holds prompts in the order in which their traces came.
type Store struct {
	limits Limits
	pack   *packer
	usual  *usuals
	// records is a ring: the oldest is at first.
	records []*record
	first   int
	count   int
	bytes   int
	// byID has the newest of each id.
	byID map[string]*record
	// forgotten counts prompts that made room, unread those whose traces could not be kept.
	forgotten, unread int64
}

// NewStore makes an empty store.
func NewStore(limits Limits) *Store {
	return &Store{limits: limits, pack: newPacker(), usual: newUsuals(), records: make([]*record, limits.Prompts), byID: map[string]*record{}}
}

// Add holds the prompts that traces contain: their root spans are named comfyui.prompt, as
// those of the comfyui receiver. Other traces are ignored. A prompt whose trace comes again,
// after a restart, takes the place of the first.
func (s *Store) Add(td ptrace.Traces) {
	for _, t := range split(td) {
		r := t.read()
		packed, err := s.pack.pack(t)
		if err != nil {
			s.unread++
			continue
		}
		r.packed = packed
		if old := s.byID[r.id]; old != nil && old.trace == r.trace && old.root == r.root {
			r.usual = old.usual
			s.bytes += r.size() - old.size()
			*old = *r
		} else {
			s.usual.judge(r)
			s.hold(r)
		}
		s.shrink()
	}
}

func (s *Store) hold(r *record) {
	if s.count == len(s.records) {
		s.forget()
	}
	s.records[(s.first+s.count)%len(s.records)] = r
	s.count++
	s.bytes += r.size()
	s.byID[r.id] = r
}

// shrink drops the oldest until the traces fit.
func (s *Store) shrink() {
	for s.bytes > s.limits.Bytes && s.count > 1 {
		s.forget()
	}
}

// forget drops the oldest prompt.
func (s *Store) forget() {
	oldest := s.records[s.first]
	s.records[s.first] = nil
	s.first = (s.first + 1) % len(s.records)
	s.count--
	s.bytes -= oldest.size()
	if s.byID[oldest.id] == oldest {
		delete(s.byID, oldest.id)
	}
	s.forgotten++
}

// newest yields the prompts, the newest first.
func (s *Store) newest(yield func(*record) bool) {
	for i := s.count - 1; i >= 0; i-- {
		if !yield(s.records[(s.first+i)%len(s.records)]) {
			return
		}
	}
}

// Len is how many prompts are held.
func (s *Store) Len() int { return s.count }

// Losses are how many prompts made room, and how many were not held because their traces
// could not be compressed.
func (s *Store) Losses() (forgotten, unread int64) { return s.forgotten, s.unread }

// Bounds implements [bounds.Registered].
func (s *Store) Bounds() []bounds.Bound {
	return append(s.usual.Bounds(),
		bounds.Bound{Name: "prompts.Store.records", Max: s.limits.Prompts, Size: s.count},
		bounds.Bound{Name: "prompts.Store.byID", Max: s.limits.Prompts, Size: len(s.byID)},
	)
}
