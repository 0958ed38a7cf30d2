// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"container/heap"
	"encoding/json"
	"net/http"
	"slices"
)

// item is one prompt in the queue.
type item struct {
	number  float64
	id      string
	prompt  json.RawMessage
	extra   map[string]any
	graph   graph
	outputs []string
}

// queue is a heap by number, then by id. /queue shows it as it lies, as the real
// server does.
type queue []*item

func (q queue) Len() int { return len(q) }

func (q queue) Less(a, b int) bool {
	if q[a].number != q[b].number {
		return q[a].number < q[b].number
	}
	return q[a].id < q[b].id
}

func (q queue) Swap(a, b int) { q[a], q[b] = q[b], q[a] }

// Push is for package heap.
func (q *queue) Push(i any) { *q = append(*q, i.(*item)) }

// Pop is for package heap.
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// tuple is an item as /queue and /history show it.
func (i *item) tuple() []any { return []any{i.number, i.id, i.prompt, i.extra, i.outputs} }

// queued is an item as /queue shows it.
func (s *Server) queued(i *item) []any {
	if s.options.SixthSlot {
		return append(i.tuple(), map[string]any{})
	}
	return i.tuple()
}

func (i *item) client() string {
	id, _ := i.extra["client_id"].(string)
	return id
}

func (s *Server) put(i *item) {
	s.mu.Lock()
	heap.Push(&s.pending, i)
	s.sendStatus()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Server) remaining() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left()
}

// left is the length of the queue; the caller holds the lock.
func (s *Server) left() int {
	n := len(s.pending)
	if s.running != nil {
		n++
	}
	return n
}

func (s *Server) showQueue(w http.ResponseWriter) {
	s.mu.Lock()
	running, pending := []any{}, make([]any, 0, len(s.pending))
	if s.running != nil {
		running = append(running, s.queued(s.running))
	}
	for _, i := range s.pending {
		pending = append(pending, s.queued(i))
	}
	s.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"queue_running": running, "queue_pending": pending})
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Clear  bool     `json:"clear"`
		Delete []string `json:"delete"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	if body.Clear {
		s.pending = nil
		s.sendStatus()
	}
	for _, id := range body.Delete {
		s.removePending(id)
	}
	s.mu.Unlock()
	empty(w)
}

// removePending removes a prompt that waits; the caller holds the lock.
func (s *Server) removePending(id string) bool {
	before := len(s.pending)
	s.pending = slices.DeleteFunc(s.pending, func(i *item) bool { return i.id == id })
	if len(s.pending) == before {
		return false
	}
	heap.Init(&s.pending)
	s.sendStatus()
	return true
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ID string `json:"prompt_id"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	if body.ID == "" || s.running != nil && s.running.id == body.ID {
		s.interrupt = true
	}
	s.mu.Unlock()
	empty(w)
}
