// SPDX-License-Identifier: Apache-2.0

package state

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// Queue implements [page.Source].
func (st *Store) Queue(l texts.Language, server string) (view.Server, bool) {
	live := st.settings.Servers.All() // before the lock: it locks those of others
	live = slices.DeleteFunc(live, func(s comfyevents.Server) bool { return s.Name != server })
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, v := range st.servers(l, live, st.settings.Now(), comfyevents.MaxPrompts) {
		if v.Name == server {
			return v, true
		}
	}
	return view.Server{}, false
}

// Open implements [page.Source].
func (st *Store) Open(l texts.Language, id string) (view.OpenDetail, bool) {
	live := st.settings.Servers.All() // before the lock: it locks those of others
	st.mu.Lock()
	defer st.mu.Unlock()
	now := st.settings.Now()
	for i := range live {
		s := &live[i]
		ahead := time.Duration(0) // until those in front have ended; negative: it is not known
		running := 0
		for n := range s.Prompts {
			p := &s.Prompts[n]
			if p.ID == id {
				return view.OpenDetail{OpenPrompt: openPrompt(p, place{ahead: n, isNext: n == running}, ahead, l, now), Server: s.Name}, true
			}
			if !p.Started.IsZero() {
				running++
			}
			ahead = st.after(ahead, p, s, now)
		}
	}
	return view.OpenDetail{}, false
}
