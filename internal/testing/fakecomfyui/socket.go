// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// socket is one client's WebSocket. Frames wait in a queue, so that a slow client
// does not hold the others up; one that is too slow is cut off.
type socket struct {
	conn  *websocket.Conn
	out   chan frame
	flags bool // supports_preview_metadata
}

type frame struct {
	kind websocket.MessageType
	data []byte
}

// serveSocket keeps one client's socket. A second one with the same id takes over,
// and when any of them closes the id is forgotten: so does the real server.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request) {
	// The real server does one thing at a time: who has the answer to the upgrade is
	// registered before the next request is looked at.
	s.mu.Lock()
	id := r.URL.Query().Get("clientId")
	if id == "" {
		id = strings.ReplaceAll(s.options.ID(), "-", "")
	}
	var forgotten atomic.Bool
	conn, err := websocket.Accept(&closing{w, func() { s.forgetSocket(id); forgotten.Store(true) }}, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		s.mu.Unlock()
		return
	}
	defer func() { _ = conn.CloseNow() }()
	k := &socket{conn: conn, out: make(chan frame, 4096)}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go k.write(ctx, s.Lag)
	s.sockets[id] = k
	k.send(message("status", map[string]any{"status": s.status(), "sid": id}))
	if s.running != nil && s.running.client() == id && s.lastNode != "" {
		k.send(message("executing", map[string]any{"node": s.lastNode}))
	}
	s.mu.Unlock()
	first := true
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			break
		}
		var m struct {
			Type string          `json:"type"`
			Data map[string]bool `json:"data"`
		}
		if first && kind == websocket.MessageText && json.Unmarshal(data, &m) == nil && m.Type == "feature_flags" {
			s.mu.Lock()
			k.flags = m.Data["supports_preview_metadata"]
			k.send(message("feature_flags", s.features()))
			s.mu.Unlock()
		}
		first = false
	}
	if !forgotten.Load() {
		s.forgetSocket(id)
	}
}

// forgetSocket removes an id, whichever socket has it.
func (s *Server) forgetSocket(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, id)
	delete(s.followers, id)
}

// closing calls forget before a socket's closing frame is answered: the real server has
// forgotten the id before it serves what a client asks for after the answer.
type closing struct {
	http.ResponseWriter
	forget func()
}

// Hijack implements http.Hijacker.
func (c *closing) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	observed := &closingConn{conn, c.forget}
	return observed, bufio.NewReadWriter(buffered.Reader, bufio.NewWriter(observed)), nil
}

type closingConn struct {
	net.Conn
	forget func()
}

func (c *closingConn) Write(b []byte) (int, error) {
	if len(b) >= 2 && b[0] == 0x88 && int(b[1]) == len(b)-2 { // a closing frame
		c.forget()
	}
	return c.Conn.Write(b)
}

func message(kind string, data any) frame {
	raw, _ := json.Marshal(map[string]any{"type": kind, "data": data})
	return frame{websocket.MessageText, raw}
}

func (k *socket) send(f frame) {
	select {
	case k.out <- f:
	default:
		_ = k.conn.CloseNow()
	}
}

func (k *socket) write(ctx context.Context, lag func() time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-k.out:
			if lag != nil {
				if held := lag(); held > 0 {
					timer := time.NewTimer(held)
					select {
					case <-ctx.Done():
						timer.Stop()
						return
					case <-timer.C:
					}
				}
			}
			limited, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := k.conn.Write(limited, f.kind, f.data)
			cancel()
			if err != nil {
				return
			}
		}
	}
}

// status is the length of the queue as sockets see it; the caller holds the lock.
func (s *Server) status() map[string]any {
	return map[string]any{"exec_info": map[string]any{"queue_remaining": s.left()}}
}

// sendStatus sends the status to all sockets; the caller holds the lock.
func (s *Server) sendStatus() {
	f := message("status", map[string]any{"status": s.status()})
	for _, k := range s.sockets {
		k.send(f)
	}
}
