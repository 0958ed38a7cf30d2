// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"bufio"
	"io"
	"net"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/frames"
)

// socket is one WebSocket to the server, with a client or without.
type socket struct {
	hub *Hub
	// ready is closed when the socket leaves the state opening.
	ready chan struct{}

	// Set before the socket is connected or retained.
	proxyOwned bool
	uncounted  bool // no bytes of clients
	server     io.ReadWriteCloser
	fromServer *bufio.Reader
	reader     *frames.Reader
	// unnamed is true until the server has given the socket of a client without an id one.
	// Only the goroutine that reads from the server uses it.
	unnamed bool

	// toServer is held while a frame is written to the server.
	toServer sync.Mutex
	// toClient holds a value while a frame is written to the client.
	toClient chan struct{}

	mu     sync.Mutex // guards client and ended
	client net.Conn   // nil without a client
	ended  bool

	// Guarded by the hub's lock.
	state  state
	record *client
	// forgets is how often the server had forgotten the client id when the socket was
	// registered.
	forgets int
	// idleSince is when a prompt needed it last, as far as the sweeps know.
	idleSince time.Time
}

// bufferSize is how much is read from a socket at a time.
const bufferSize = 16 << 10

// relayFromClient relays the client's frames until it closes or disappears.
func (s *socket) relayFromClient(from *bufio.Reader) { s.clientLeft(s.readClient(from)) }

// readClient relays the client's frames. It returns the payload of a close frame that the
// server is not to receive, since messages for the client are still to come; else nil.
func (s *socket) readClient(from *bufio.Reader) (closePayload []byte) {
	var h frames.Header
	for {
		if err := frames.ReadHeader(from, &h); err != nil {
			return nil
		}
		if h.Close() {
			break
		}
		if err := s.forwardToServer(from, &h); err != nil {
			return nil
		}
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(from, payload); err != nil {
		return nil
	}
	if s.isNeeded() {
		frames.Unmask(payload, h.Mask)
		return payload
	}
	// the server answers, and closes
	_ = s.writeServer(h.Raw(), payload)
	s.hub.Observer.Bytes(FromClient, h.Kind(), len(h.Raw())+len(payload))
	_, _ = io.Copy(io.Discard, from)
	s.close()
	return nil
}

func (s *socket) forwardToServer(from *bufio.Reader, h *frames.Header) error {
	s.toServer.Lock()
	defer s.toServer.Unlock()
	if _, err := s.server.Write(h.Raw()); err != nil {
		return err
	}
	n, err := io.CopyN(s.server, from, int64(h.Length))
	s.hub.Observer.Bytes(FromClient, h.Kind(), len(h.Raw())+int(n))
	return err
}

func (s *socket) writeServer(parts ...[]byte) error {
	s.toServer.Lock()
	defer s.toServer.Unlock()
	buffers := net.Buffers(parts)
	_, err := buffers.WriteTo(s.server)
	return err
}

// relayFromServer relays the server's frames and reads the text among them, with a
// client and without.
func (s *socket) relayFromServer() {
	defer s.close()
	var h frames.Header
	for {
		if err := frames.ReadHeader(s.fromServer, &h); err != nil {
			return
		}
		if err := s.forwardToClient(&h); err != nil || h.Close() {
			return
		}
	}
}

// forwardToClient relays one frame. A client that has left is not an error.
func (s *socket) forwardToClient(h *frames.Header) error {
	s.toClient <- struct{}{}
	defer func() { <-s.toClient }()
	if !s.uncounted {
		s.hub.Observer.Bytes(FromServer, h.Kind(), len(h.Raw())+int(h.Length))
	}
	switch {
	case h.Control():
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(s.fromServer, payload); err != nil {
			return err
		}
		if !s.writeClient(h.Raw(), payload) && h.Ping() {
			return s.writeServer(frames.PongFrame(payload, true))
		}
		return nil
	case s.reader.Wants(h):
		payload := s.reader.Buffer(h)
		if _, err := io.ReadFull(s.fromServer, payload); err != nil {
			return err
		}
		if s.unnamed {
			// The client may send a prompt with its id as soon as it knows it.
			s.reader.Filled(h)
			s.writeClient(h.Raw(), payload)
			return nil
		}
		s.writeClient(h.Raw(), payload)
		s.reader.Filled(h)
		return nil
	}
	s.writeClient(h.Raw())
	return s.copyToClient(int64(h.Length))
}

// copyToClient relays a payload that is not read, in large pieces.
func (s *socket) copyToClient(n int64) error {
	buffer := largeBuffers.Get().(*[]byte)
	defer largeBuffers.Put(buffer)
	copied, err := io.CopyBuffer(toClient{s}, io.LimitReader(s.fromServer, n), *buffer)
	if err == nil && copied < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// toClient writes to the client; without one, it discards.
type toClient struct{ *socket }

// Write implements io.Writer.
func (c toClient) Write(b []byte) (int, error) {
	c.writeClient(b)
	return len(b), nil
}

// largeBuffers are for previews and other large frames.
var largeBuffers = sync.Pool{New: func() any {
	b := make([]byte, 256<<10)
	return &b
}}

// conn is the client's connection, nil without one.
func (s *socket) conn() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

// writeClient writes to the client and reports whether it is there. A client that cannot
// be written to has left.
func (s *socket) writeClient(parts ...[]byte) bool {
	conn := s.conn()
	if conn == nil {
		return false
	}
	buffers := net.Buffers(parts)
	if _, err := buffers.WriteTo(conn); err != nil {
		s.clientLeft(nil)
		return false
	}
	return true
}

// clientLeft detaches the client and answers the payload of its close frame. The socket
// stays open if prompts of the client are.
func (s *socket) clientLeft(closePayload []byte) {
	s.mu.Lock()
	conn := s.client
	s.client = nil
	s.mu.Unlock()
	if conn == nil {
		return // it has left before
	}
	if closePayload != nil {
		s.answerClose(conn, closePayload)
	}
	_ = conn.Close()
	if !s.isNeeded() || !s.hub.advance(s, retained, connected) {
		s.leaveServer()
	}
}

func (s *socket) id() string {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.record.id
}

// isNeeded reports whether the socket must stay open without its client: messages for the
// client are still to come, or the client is back on another socket, which would receive
// no messages once the server forgets the id. The server sends no messages about prompts
// without a client id.
func (s *socket) isNeeded() bool {
	s.hub.mu.Lock()
	id, others := s.record.id, len(s.record.sockets) > 1
	s.hub.mu.Unlock()
	return id != "" && (others || s.hub.Prompts.OpenOf(id) > 0)
}

// Text implements [frames.Sink]: it learns the client id that the server gave to the
// socket, and passes the message on.
func (s *socket) Text(message []byte) {
	if s.unnamed {
		if id, ok := s.hub.Observer.ClientID(message); ok {
			s.unnamed = false
			s.hub.name(s, id)
		}
	}
	s.hub.Observer.Text(message)
}

// Unparsed implements [frames.Sink].
func (s *socket) Unparsed() { s.hub.Observer.Unparsed() }

// closeTimeout bounds the answer to a client's close frame.
const closeTimeout = time.Second

// answerClose answers a client's close frame after the frame that is being written.
func (s *socket) answerClose(conn net.Conn, payload []byte) {
	_ = conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	select {
	case s.toClient <- struct{}{}:
		_, _ = conn.Write(frames.CloseFrame(payload, false))
		<-s.toClient
	case <-time.After(closeTimeout): // the server has stopped in the middle of a frame
	}
}

// goAway closes a socket because the receiver shuts down.
func (s *socket) goAway() {
	if conn := s.conn(); conn != nil {
		s.answerClose(conn, []byte{0x03, 0xE9}) // 1001: going away
	}
	s.leaveServer()
}

// leaveServer sends the server a close frame and closes the socket.
func (s *socket) leaveServer() {
	// fails if the client's last frame is blocked
	if s.toServer.TryLock() {
		silent := time.AfterFunc(closeTimeout, s.close)                    // the server does not read
		_, _ = s.server.Write(frames.CloseFrame([]byte{0x03, 0xE8}, true)) // 1000: normal
		silent.Stop()
		s.toServer.Unlock()
	}
	s.close()
}

// close closes both sides, once. The socket counts until its connection is closed.
func (s *socket) close() {
	s.mu.Lock()
	conn, ended := s.client, s.ended
	s.client, s.ended = nil, true
	s.mu.Unlock()
	if ended {
		return
	}
	if conn != nil {
		_ = conn.Close()
	}
	_ = s.server.Close()
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.move(s, closed)
}
