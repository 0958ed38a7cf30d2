// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/frames"
)

// socket is one client's WebSocket, passed on frame by frame. When the client
// leaves while its prompts run, the side towards the server stays open, since the
// server sends their events nowhere else.
type socket struct {
	proxy    *proxy
	clientID string
	own      bool // opened by the proxy, for a client without one
	server   io.ReadWriteCloser
	fromUp   *bufio.Reader
	reader   *frames.Reader

	toServer sync.Mutex
	toClient chan struct{} // held while a frame is written to the client

	mu     sync.Mutex
	client net.Conn // nil once the client has left
	closed bool

	// These are guarded by the lock of sockets.
	deaf bool      // the server has forgotten the client id since
	idle time.Time // since when no prompt needs it, if it is kept
}

// bufferSize is how much is read from a socket at a time.
const bufferSize = 16 << 10

// serveSocket passes a WebSocket on.
func (p *proxy) serveSocket(w http.ResponseWriter, r *http.Request) {
	id, added := r.URL.Query().Get("clientId"), false
	if !p.sockets.arrive(r.Context(), id) {
		return // the client did not wait
	}
	defer func() {
		if !added {
			p.sockets.leave(id)
		}
	}()
	// Once upgraded, the connection lives longer than the request.
	out := r.Clone(context.WithoutCancel(r.Context()))
	p.forward(out)
	out.RequestURI = ""
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, r.Header["Upgrade"]
	response, err := p.transport.RoundTrip(out)
	if err != nil {
		p.unreachable(w, r, err)
		return
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		copyHeader(w.Header(), response.Header)
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
		return
	}
	server, ok := response.Body.(io.ReadWriteCloser)
	if !ok {
		p.unreachable(w, r, errors.New("the server's answer to the upgrade cannot be written to"))
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = server.Close()
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return
	}
	_ = client.SetDeadline(time.Time{})
	response.Body = nil
	if err := writeUpgrade(buffered.Writer, response); err != nil {
		_ = server.Close()
		_ = client.Close()
		return
	}
	s := p.newSocket(id, server, response.Header)
	s.client = client
	p.sockets.add(s)
	added = true
	p.work.Go(s.down)
	s.up(buffered.Reader)
}

// newSocket is the server's side of a socket, as its answer to the upgrade says.
func (p *proxy) newSocket(clientID string, server io.ReadWriteCloser, answer http.Header) *socket {
	return &socket{
		proxy: p, clientID: clientID, server: server,
		fromUp: bufio.NewReaderSize(server, bufferSize), toClient: make(chan struct{}, 1),
		reader: frames.NewReader(p.limits.FrameBytes, answer.Get("Sec-WebSocket-Extensions"), p.text, p.unparsed),
	}
}

func writeUpgrade(w *bufio.Writer, response *http.Response) error {
	if _, err := w.WriteString("HTTP/1.1 " + response.Status + "\r\n"); err != nil {
		return err
	}
	if err := response.Header.Write(w); err != nil {
		return err
	}
	if _, err := w.WriteString("\r\n"); err != nil {
		return err
	}
	return w.Flush()
}

// up passes the client's frames on until it closes or leaves.
func (s *socket) up(from *bufio.Reader) {
	var h frames.Header
	for {
		if err := frames.ReadHeader(from, &h); err != nil {
			s.clientLeft(nil)
			return
		}
		if h.Close() {
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(from, payload); err != nil {
				s.clientLeft(nil)
				return
			}
			if !s.hasPrompts() {
				_ = s.sendUp(h.Raw(), payload) // the server answers, and closes
				s.proxy.addBytes(up, binaryOrText(&h), len(h.Raw())+len(payload))
				_, _ = io.Copy(io.Discard, from)
				s.end()
				return
			}
			frames.Unmask(payload, h.Mask)
			s.clientLeft(payload)
			return
		}
		if err := s.passUp(from, &h); err != nil {
			s.clientLeft(nil)
			return
		}
	}
}

func (s *socket) passUp(from *bufio.Reader, h *frames.Header) error {
	s.toServer.Lock()
	defer s.toServer.Unlock()
	if _, err := s.server.Write(h.Raw()); err != nil {
		return err
	}
	n, err := io.CopyN(s.server, from, int64(h.Length))
	s.proxy.addBytes(up, binaryOrText(h), len(h.Raw())+int(n))
	return err
}

func (s *socket) sendUp(parts ...[]byte) error {
	s.toServer.Lock()
	defer s.toServer.Unlock()
	for _, part := range parts {
		if _, err := s.server.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// down passes the server's frames on, and reads the text among them. It goes on
// without a client while its prompts run.
func (s *socket) down() {
	defer s.end()
	var h frames.Header
	for {
		if err := frames.ReadHeader(s.fromUp, &h); err != nil {
			return
		}
		if err := s.passDown(&h); err != nil {
			return
		}
		if h.Close() {
			return
		}
	}
}

// passDown passes one frame on. A client that has left is no error; a server is.
func (s *socket) passDown(h *frames.Header) error {
	s.toClient <- struct{}{}
	defer func() { <-s.toClient }()
	s.proxy.addBytes(down, binaryOrText(h), len(h.Raw())+int(h.Length))
	switch {
	case h.Control():
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(s.fromUp, payload); err != nil {
			return err
		}
		if !s.sendDown(h.Raw(), payload) && h.Ping() {
			return s.sendUp(frames.PongFrame(payload, true))
		}
		return nil
	case s.reader.Wants(h):
		payload := s.reader.Buffer(h)
		if _, err := io.ReadFull(s.fromUp, payload); err != nil {
			return err
		}
		s.sendDown(h.Raw(), payload)
		s.reader.Filled(h)
		return nil
	}
	s.sendDown(h.Raw())
	return s.copyDown(int64(h.Length))
}

// copyDown passes a payload on that nobody reads: what is buffered, then large
// pieces straight from the server.
func (s *socket) copyDown(left int64) error {
	var large *[]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	for left > 0 {
		if buffered := int64(s.fromUp.Buffered()); buffered > 0 || left < bufferSize {
			chunk, err := s.fromUp.Peek(int(min(left, max(buffered, 1))))
			if err != nil {
				return err
			}
			s.sendDown(chunk)
			_, _ = s.fromUp.Discard(len(chunk))
			left -= int64(len(chunk))
			continue
		}
		if large == nil {
			large = largeBuffers.Get().(*[]byte)
		}
		n, err := s.server.Read((*large)[:min(left, int64(len(*large)))])
		s.sendDown((*large)[:n])
		left -= int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// largeBuffers are for previews and other large frames, while they pass.
var largeBuffers = sync.Pool{New: func() any {
	b := make([]byte, 256<<10)
	return &b
}}

// sendDown writes to the client, and reports whether it is there. One that cannot
// be written to has left.
func (s *socket) sendDown(parts ...[]byte) bool {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client == nil {
		return false
	}
	buffers := net.Buffers(parts)
	if _, err := buffers.WriteTo(client); err != nil {
		s.clientLeft(nil)
		return false
	}
	return true
}

// clientLeft lets go of the client; a close frame's payload is answered. Without
// open prompts the server is let go too.
func (s *socket) clientLeft(closePayload []byte) {
	s.mu.Lock()
	client := s.client
	s.client = nil
	s.mu.Unlock()
	if client != nil {
		if closePayload != nil {
			s.answerClose(client, closePayload)
		}
		_ = client.Close()
	}
	if !s.hasPrompts() || !s.proxy.sockets.keep(s) {
		s.leaveServer()
	}
}

// hasPrompts reports whether the server has more to say to this client: it says
// nothing of a prompt to a client without an id.
func (s *socket) hasPrompts() bool {
	return s.clientID != "" && s.proxy.tracker.OpenOf(s.clientID) > 0
}

// answerClose answers a client's close frame, after the frame that is under way.
func (s *socket) answerClose(client net.Conn, payload []byte) {
	_ = client.SetWriteDeadline(time.Now().Add(time.Second))
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case s.toClient <- struct{}{}:
		_, _ = client.Write(frames.CloseFrame(payload, false))
		<-s.toClient
	case <-timer.C: // the server has stopped in the middle of a frame
	}
}

// leaveServer ends the server's side with a close frame.
func (s *socket) leaveServer() {
	if s.toServer.TryLock() { // else the client's last frame is stuck on its way
		_, _ = s.server.Write(frames.CloseFrame([]byte{0x03, 0xE8}, true)) // 1000: normal
		s.toServer.Unlock()
	}
	s.end()
}

// end closes both sides, once.
func (s *socket) end() {
	s.mu.Lock()
	client, closed := s.client, s.closed
	s.client, s.closed = nil, true
	s.mu.Unlock()
	if closed {
		return
	}
	if client != nil {
		_ = client.Close()
	}
	_ = s.server.Close()
	s.proxy.sockets.remove(s)
}
