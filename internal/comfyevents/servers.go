// SPDX-License-Identifier: Apache-2.0

package comfyevents

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
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
	// Queued is how many prompts run or wait by the server's last status message, with those
	// that did not come through the proxy; 0 if there was none.
	Queued int
	// Prompts are those that are followed and open, in the order of the queue: those that run,
	// then those that wait. At most [MaxPrompts].
	Prompts []OpenPrompt
	// Open counts all open prompts, beyond [MaxPrompts], too.
	Open    int
	Sockets Sockets
}

// OpenPrompt is a prompt that has not ended.
type OpenPrompt struct {
	ID, Workflow, TaskClass, Model string
	// Side is the longer side of the image in pixels, 0 if it is unknown; SizeClass is
	// comfyui.image.size_class.
	Side      int
	SizeClass string
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
	// Server returns what is known now. It may be called from any goroutine, a few times a
	// second, and must not block.
	Server() Server
}

// maxSources bounds the servers of a process; further ones are not listed.
const maxSources = 256

// Servers are the servers that components of this process follow. The zero value is ready
// for use; its methods may be called from any goroutine.
type Servers struct {
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
