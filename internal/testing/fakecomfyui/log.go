// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"errors"
	"net/http"
)

// maxLog is how many lines of its log a server keeps, as the real ones do.
const maxLog = 300

// log writes a line to the server's log, and sends it to those who subscribed to it. The first
// that one of them gets has the terminal's size.
func (s *Server) log(level, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := map[string]any{"t": s.options.Now().Format("2006-01-02T15:04:05.000000"), "m": text + "\n"}
	if s.options.newer() {
		line["m"] = "\x1b[32m[" + level + "]\x1b[0m " + text + "\n"
	}
	s.lines = append(s.lines, line)
	s.lines = s.lines[max(len(s.lines)-maxLog, 0):]
	for id, before := range s.followers {
		var size any
		if !before {
			size, s.followers[id] = map[string]any{"cols": 80, "rows": 24}, true
		}
		if k := s.sockets[id]; k != nil {
			k.send(message("logs", map[string]any{"entries": []any{line}, "size": size}))
		}
	}
}

// showLog answers /internal/logs/raw.
func (s *Server) showLog(w http.ResponseWriter) {
	s.mu.Lock()
	lines := append([]any{}, s.lines...)
	s.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"entries": lines, "size": map[string]any{"cols": 80, "rows": 24}})
}

// The levels of lines.
const (
	levelInfo    = "INFO"
	levelWarning = "WARNING"
)

// decode decodes images: at once, or in tiles if the GPU has no room for that.
func (x *execution) decode(g graph, id string, n *node) error {
	side, batch := g.latent(n)
	err := x.work.Decode(x.ctx, g.checkpoint(n), side, batch)
	var f *Failure
	if !errors.As(err, &f) || f.Type != olderOutOfMemory {
		return err
	}
	x.log(levelWarning, "Warning: Ran out of memory when regular VAE decoding, retrying with tiled VAE decoding.")
	return x.work.DecodeTiled(x.ctx, g.checkpoint(n), side, batch, func(done, all int) error { return x.step(id, done, all, false) })
}
