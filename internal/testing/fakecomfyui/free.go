// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"encoding/json"
	"net/http"
)

// PartFreer is a Work that distinguishes the two parts of /free: unload_models frees the models
// under ComfyUI's management, free_memory also what the nodes hold. Any other Work frees both.
type PartFreer interface {
	FreeParts(models, nodes bool)
}

// freeing is what /free asked for.
type freeing struct{ models, nodes bool }

// free sets flags that the worker reads between prompts: an idle server frees memory at once, and
// nothing is freed while a prompt runs.
func (s *Server) free(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Models *bool `json:"unload_models"`
		Nodes  bool  `json:"free_memory"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	f := freeing{models: body.Nodes, nodes: body.Nodes} // by default models go with the rest
	if body.Models != nil {
		f.models = *body.Models
	}
	s.mu.Lock()
	if s.freeing == nil {
		s.freeing = &freeing{}
	}
	s.freeing.models, s.freeing.nodes = s.freeing.models || f.models, s.freeing.nodes || f.nodes
	if s.running == nil {
		s.release()
	}
	s.mu.Unlock()
	empty(w)
}

// release does what /free asked for since the last prompt. The caller holds the lock, and no
// prompt runs.
func (s *Server) release() {
	f := s.freeing
	if f == nil {
		return
	}
	s.freeing = nil
	if f.nodes {
		s.cache = map[string]bool{}
	}
	switch parts, ok := s.work.(PartFreer); {
	case ok:
		parts.FreeParts(f.models, f.nodes)
	case f.models || f.nodes:
		s.work.Free()
	}
}
