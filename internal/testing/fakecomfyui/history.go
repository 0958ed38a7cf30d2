// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
)

// entry is one prompt of the history.
type entry struct {
	item     *item
	outputs  map[string]any
	meta     map[string]any
	status   string
	complete bool
	messages []any
}

func (e *entry) json() map[string]any {
	return map[string]any{
		"prompt": e.item.tuple(), "outputs": e.outputs, "meta": e.meta,
		"status": map[string]any{"status_str": e.status, "completed": e.complete, "messages": e.messages},
	}
}

// maxHistory is how many prompts the history keeps, as the server does.
const maxHistory = 10000

func (s *Server) forget(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Clear  bool     `json:"clear"`
		Delete []string `json:"delete"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if body.Clear {
		s.history, s.order = map[string]*entry{}, nil
	}
	for _, id := range body.Delete {
		delete(s.history, id)
		s.order = slices.DeleteFunc(s.order, func(o string) bool { return o == id })
	}
	empty(w)
}

func (s *Server) showHistory(w http.ResponseWriter, most string) {
	s.mu.Lock()
	ids := s.order
	if n, err := strconv.Atoi(most); err == nil && n >= 0 && n < len(ids) {
		ids = ids[len(ids)-n:]
	}
	all := map[string]any{}
	for _, id := range ids {
		all[id] = s.history[id].json()
	}
	s.mu.Unlock()
	answer(w, http.StatusOK, all)
}

func (s *Server) showOne(w http.ResponseWriter, id string) {
	s.mu.Lock()
	all := map[string]any{}
	if e := s.history[id]; e != nil {
		all[id] = e.json()
	}
	s.mu.Unlock()
	answer(w, http.StatusOK, all)
}
