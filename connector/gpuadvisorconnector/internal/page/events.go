// SPDX-License-Identifier: Apache-2.0

package page

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// events is a stream of server-sent events: the whole state, then what changes.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	v, err := p.hub.join(languageOf(r))
	if err != nil {
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer p.hub.leave(v)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold messages back
	s := stream{w, http.NewResponseController(w), p.settings.WriteTimeout}
	// The page loads itself again where its files are another version's.
	if s.send(fmt.Appendf(nil, "event: version\ndata: %q\n\n", p.assets.version)) != nil {
		return
	}
	beat := time.NewTimer(p.settings.Heartbeat)
	defer beat.Stop()
	for {
		var message []byte
		select {
		case <-p.hub.stopped.Done():
			return
		case <-r.Context().Done():
			return
		case m, ok := <-v.messages:
			if !ok {
				return
			}
			message = m
		case <-beat.C:
			message = fmt.Appendf(nil, "event: beat\ndata: {\"time\":%q}\n\n", time.Now().UTC().Format(time.RFC3339Nano))
		}
		if err := s.send(message); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) { // else it has left
				p.hub.drop(v)
			}
			return
		}
		beat.Reset(p.settings.Heartbeat)
	}
}

// stream writes messages, each within a time limit of its own instead of the server's for
// the whole answer.
type stream struct {
	w          http.ResponseWriter
	controller *http.ResponseController
	timeout    time.Duration
}

func (s stream) send(message []byte) error {
	if err := s.controller.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	if _, err := s.w.Write(message); err != nil {
		return err
	}
	return s.controller.Flush()
}
