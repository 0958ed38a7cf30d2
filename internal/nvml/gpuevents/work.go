// SPDX-License-Identifier: Apache-2.0

package gpuevents

import (
	"slices"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/topic"
)

// Work is what the servers of this process have to do on GPUs: receivers read a GPU often
// only while there is some. The zero value is ready for use; its methods may be called from
// any goroutine.
type Work struct {
	// Changes publishes each change: work begins or ends, or a piece of it ended.
	// Subscribers are called in the publisher's goroutine and must not block.
	Changes topic.Topic[WorkChange]

	// mu guards everything declared below.
	mu      sync.Mutex
	servers []*Server
}

// WorkChange is a change of one server's work.
type WorkChange struct {
	// Open is true while the server has accepted work that has not ended.
	Open bool
	// Ended is true if a piece of work ended.
	Ended bool
}

// Server is a server that has work now and then. Close it when it is no longer followed.
type Server struct {
	work *Work

	// These are guarded by work.mu.
	gpus      []string // hw.ids, at most maxGPUs; empty: any
	pid       int
	open      bool
	since     time.Time // when it got work, after it had none
	lastEnded time.Time
}

// maxServers bounds the servers; work of further ones is not known. maxGPUs bounds the GPUs of
// one: if it has more, it may work on any.
const (
	maxServers = 256
	maxGPUs    = 64
)

// WorkOfProcess is the work of this process's servers.
var WorkOfProcess = sync.OnceValue(func() *Work { return &Work{} })

// AddServer adds a server without work.
func (w *Work) AddServer() *Server {
	s := &Server{work: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.servers) < maxServers {
		w.servers = append(w.servers, s)
	}
	return s
}

// Place is where a server works: on GPUs, by their hw.ids, as a process. None and 0 are not
// known. It may have more GPUs open than it uses.
type Place struct {
	GPUs []string
	PID  int
}

// Set says whether the server has work, and where.
func (s *Server) Set(open bool, on Place) {
	s.change(WorkChange{Open: open}, on, time.Time{})
}

// Ended says that a piece of work ended, and whether there is more.
func (s *Server) Ended(open bool, on Place, at time.Time) {
	s.change(WorkChange{Open: open, Ended: true}, on, at)
}

func (s *Server) change(c WorkChange, on Place, ended time.Time) {
	w := s.work
	w.mu.Lock()
	changed := c.Ended || s.open != c.Open
	if c.Open && !s.open {
		s.since = time.Now()
	}
	s.open = c.Open
	s.gpus, s.pid = on.GPUs, on.PID
	if len(s.gpus) > maxGPUs {
		s.gpus = nil
	}
	if c.Ended {
		s.lastEnded = ended
	}
	w.mu.Unlock()
	if changed {
		w.Changes.Publish(c)
	}
}

// Close removes the server.
func (s *Server) Close() {
	s.Set(false, Place{})
	w := s.work
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers = slices.DeleteFunc(w.servers, func(other *Server) bool { return other == s })
}

// worksOn reports whether the server may work on a GPU, or on one of the MIG devices on it. The
// caller holds the lock.
func (s *Server) worksOn(gpu string, ids []string) bool {
	return len(s.gpus) == 0 || slices.ContainsFunc(s.gpus, func(id string) bool { return id == gpu || slices.Contains(ids, id) })
}

// GPUWork is the work on one GPU.
type GPUWork struct {
	// Known is true if there are servers that say when they work.
	Known bool
	// Open counts those that have work on the GPU, or on one that is not known.
	Open int
	// Spread is true if one of those has other GPUs open as well: it need not use this one.
	Spread bool
	// Since is when the first of those got it.
	Since time.Time
	// PIDs are the processes of those, as far as they are known.
	PIDs []int
	// LastEnded is when the last piece of work ended.
	LastEnded time.Time
}

// On is the work on a GPU, by its hw.id; ids are those of the MIG devices on it.
func (w *Work) On(gpu string, ids ...string) (g GPUWork) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g.Known = len(w.servers) > 0
	for _, s := range w.servers {
		if !s.worksOn(gpu, ids) {
			continue
		}
		if s.open {
			g.Open++
			g.Spread = g.Spread || len(s.gpus) > 1
			if g.Since.IsZero() || s.since.Before(g.Since) {
				g.Since = s.since
			}
			if s.pid != 0 {
				g.PIDs = append(g.PIDs, s.pid)
			}
		}
		if s.lastEnded.After(g.LastEnded) {
			g.LastEnded = s.lastEnded
		}
	}
	return g
}

// Bounds implements [bounds.Registered].
func (w *Work) Bounds() []bounds.Bound {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []bounds.Bound{{Name: "gpuevents.Work.servers", Max: maxServers, Size: len(w.servers)}}
}
