// SPDX-License-Identifier: Apache-2.0

package comfyevents

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/topic"
)

// Server is what a component knows of a ComfyUI server at one moment, as far as telemetry
// does not say it: the queue in its order, progress, and the clients' sockets.
type Server struct {
	// Name is the service.instance.id of the server's telemetry.
	Name string
	// GPUs are the hw.ids of those that the server's process has open, PID is the process; empty
	// and 0 if they are unknown.
	GPUs []string
	PID  int
	// Unread is true until the server has said for the first time since the component's start what
	// its queue holds.
	Unread bool
	// Unreachable is since when no connection to the server could be opened: its process has ended, or its
	// host is down; zero while one can. The other fields are what it said before.
	Unreachable time.Time
	// Queued is how many prompts run or wait by the server's last status message, with those
	// that did not come through the proxy; 0 if there was none.
	Queued int
	// Prompts are those that are followed and open, in the order of the queue: those that run,
	// then those that wait. At most [MaxPrompts].
	Prompts []OpenPrompt
	// Open counts all open prompts, beyond [MaxPrompts], too.
	Open    int
	Sockets Sockets
	// Memory is the server's last answer about its memory.
	Memory Memory
	// Unloaded is since when the server is known to have had no model loaded; zero if it is not.
	Unloaded time.Time
	// Version and Arguments tell servers apart whose prompts need other times and memory: ComfyUI's
	// version, and a hash of its arguments; empty and 0 if they are not known.
	Version   string
	Arguments uint64
	// TaskClasses are those that its prompts may have; nil if clients name others.
	TaskClasses []string
}

// Memory is what a server said of its memory, in bytes (GET /system_stats).
type Memory struct {
	// At is when; zero if it has not.
	At time.Time
	// Active is what tensors use, Reserved what PyTorch's allocator holds with them.
	Active, Reserved int64
	// Context is what the process holds beside, for CUDA; 0 if that is not known. Elastic are the
	// weights beside that the server evicts when memory is wanted.
	Context, Elastic int64
	// Dynamic is true if weights are probably elastic.
	Dynamic bool
}

// OpenPrompt is a prompt that has not ended.
type OpenPrompt struct {
	ID, Workflow, TaskClass, Model string
	// Side is the longer side of the image in pixels, 0 if it is unknown; SizeClass is
	// comfyui.image.size_class.
	Side      int
	SizeClass string
	// Batch is how many images, at least 1; Steps how many steps, 0 if that is not known.
	Batch, Steps int
	// Number is its place in the server's queue: smaller ones run first.
	Number float64
	// Accepted is when the server accepted it; Started is zero while it waits.
	Accepted, Started time.Time
	// Node runs; it is zero where none does, or where that is not known.
	Node Node
}

// Node is the progress of a prompt that runs.
type Node struct {
	ID, Class string
	// Number counts the nodes that have begun, Of those of the workflow.
	Number, Of int
	// Step of Steps of the node are done; 0 and 0 where it reports none.
	Step, Steps int
}

// Sockets are the clients' sockets of a server.
type Sockets struct {
	// Open counts those with a client, Retained those without: their clients have left, and
	// their prompts have not ended.
	Open, Retained int
	// Silent are since when clients have not acknowledged what was sent to them, the longest
	// first. At most [MaxSilent].
	Silent []time.Time
}

// The bounds of what a [Server] lists.
const (
	MaxPrompts = 1000
	MaxSilent  = 64
)

// Source is a component that follows a server.
type Source interface {
	// Name is the service.instance.id of the server.
	Name() string
	// Server returns what is known now. It may be called from any goroutine, a few times a
	// second, and must not block.
	Server() Server
}

// maxSources bounds the servers of a process; further ones are not listed.
const maxSources = 256

// Servers are the servers that components of this process follow. The zero value is ready
// for use; its methods may be called from any goroutine.
type Servers struct {
	// Changed publishes the names of servers whose queue has changed. Subscribers are called in
	// the publisher's goroutine, with locks of its held, and must not block or ask a server.
	Changed topic.Topic[string]

	mu      sync.Mutex
	sources []Source // guarded by mu
}

// Add lists a server until remove is called.
func (s *Servers) Add(source Source) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sources) < maxSources {
		s.sources = append(s.sources, source)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i := slices.Index(s.sources, source); i >= 0 {
			s.sources = slices.Delete(slices.Clone(s.sources), i, i+1)
		}
	}
}

// Find returns what is known now of a server; ok is false if it is not listed.
func (s *Servers) Find(name string) (found Server, ok bool) {
	source := s.source(name)
	if source == nil {
		return Server{}, false
	}
	return source.Server(), true
}

// FreeInterval is how often a server is asked at most to free its memory for a neighbour: a [Freer] ignores
// what is more often.
const FreeInterval = time.Minute

// Freer is a [Source] whose server can be asked to free its memory.
type Freer interface {
	// Free returns once the server has taken the request; it frees memory when no prompt runs.
	Free(ctx context.Context) error
}

// ErrNotListed is the error of a server that is not listed, or cannot be asked.
var ErrNotListed = errors.New("the server is not listed")

// Free asks a server to free its memory.
func (s *Servers) Free(ctx context.Context, name string) error {
	freer, ok := s.source(name).(Freer)
	if !ok {
		return ErrNotListed
	}
	return freer.Free(ctx)
}

// source is the source of a server; nil if it is not listed.
func (s *Servers) source(name string) Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.sources, func(source Source) bool { return source.Name() == name }); i >= 0 {
		return s.sources[i]
	}
	return nil
}

// All returns what is known now of each server, by name.
func (s *Servers) All() []Server {
	s.mu.Lock()
	sources := slices.Clone(s.sources)
	s.mu.Unlock()
	all := make([]Server, 0, len(sources))
	for _, source := range sources {
		all = append(all, source.Server())
	}
	slices.SortStableFunc(all, func(a, b Server) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Bounds implements [bounds.Registered].
func (s *Servers) Bounds() []bounds.Bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []bounds.Bound{{Name: "comfyevents.Servers.sources", Max: maxSources, Size: len(s.sources)}}
}
