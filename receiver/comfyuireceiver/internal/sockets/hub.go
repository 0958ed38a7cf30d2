// SPDX-License-Identifier: Apache-2.0

// Package sockets relays clients' WebSockets to a ComfyUI server. It keeps a socket open
// towards the server when its client leaves while its prompts run, and opens sockets of
// the proxy's own for clients that have none.
package sockets

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/frames"
)

// Direction is a direction of traffic, as network.io.direction of the proxy.
type Direction string

// The directions.
const (
	FromClient Direction = "receive"
	FromServer Direction = "transmit"
)

// Observer receives what passes. Its methods are called while a frame passes, and must
// not block.
type Observer interface {
	frames.Sink // the server's text messages
	// ClientID reads the client id that the server gives to a socket in one of its first
	// messages; ok is false if the message has none.
	ClientID(message []byte) (id string, ok bool)
	// Bytes counts n bytes; kind is text, binary or control.
	Bytes(d Direction, kind string, n int)
}

// Prompts reports which clients have open prompts.
type Prompts interface {
	// OpenOf counts the open prompts of a client id.
	OpenOf(clientID string) int
}

// Config is what a Hub needs; all fields are required.
type Config struct {
	Upstream *url.URL
	// Transport carries clients' upgrade requests, Client those of the proxy's own.
	Transport http.RoundTripper
	Client    *http.Client
	// FrameBytes bounds the text messages that are read; longer ones are relayed unread.
	FrameBytes int
	// MaxSockets bounds the sockets with a client, MaxRetained those without, and
	// MaxRequests the requests for prompts that have no answer yet.
	MaxSockets, MaxRetained, MaxRequests int
	Observer                             Observer
	Prompts                              Prompts
	Logger                               *zap.Logger
	Now                                  func() time.Time
}

// state is the state of one socket:
//
//	state       client  counted as  next
//	connecting  yes     –           connected if the server accepts the upgrade, else closed
//	opening     no      retained    retained with the server's first frame, else closed
//	connected   yes     client      retained if the client leaves while its prompts run, else closed
//	retained    no      retained    closed when no prompt needs it any more
//	closed      no      –           –
//
// A socket begins as connecting (a client's) or opening (the proxy's own). The server
// knows those that are connected or retained.
type state int

const (
	closed state = iota
	connecting
	opening
	connected
	retained
)

func (s state) atServer() bool { return s == connected || s == retained }

// client is the record of one client id. It exists while it has a socket or a request.
//
// The server sends to the newest socket of an id, and forgets the id when any of its
// sockets closes. Therefore an own socket is opened only for an id without sockets, a
// client waits while one is opening, and a retained socket stays open while the id has a
// client.
type client struct {
	id string
	// requests counts the requests for prompts that have no answer yet.
	requests int
	sockets  map[*socket]bool
	count    [retained + 1]int // of its sockets by state
	// opening is the own socket that is opening, of which there is one at most; else nil.
	opening *socket
	// forgets counts how often the server has forgotten the id.
	forgets int
}

// has reports whether the client has a socket in any of the states.
func (c *client) has(states ...state) bool {
	return slices.ContainsFunc(states, func(s state) bool { return c.count[s] > 0 })
}

func (c *client) add(s *socket) {
	s.record = c
	c.sockets[s] = true
	c.count[s.state]++
	s.forgets = c.forgets
}

// isForgotten reports whether the server has forgotten the client id since the socket was
// registered.
func (s *socket) isForgotten() bool { return s.forgets != s.record.forgets }

func (c *client) remove(s *socket) {
	delete(c.sockets, s)
	c.count[s.state]--
}

// ErrFull means that as many clients have a socket as may have one.
var ErrFull = errors.New("too many sockets of clients are open")

// Hub holds the sockets of one server. Its methods may be called from any goroutine.
type Hub struct {
	Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	// mu guards everything declared below, and the records.
	mu      sync.Mutex
	clients map[string]*client
	count   [retained + 1]int // sockets by state
	// retained are the sockets in that state.
	retained map[*socket]bool
	closed   bool
}

// NewHub makes a hub; Close ends it.
func NewHub(c Config) *Hub {
	h := &Hub{Config: c, clients: map[string]*client{}, retained: map[*socket]bool{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// record returns the record of an id, a new one if there is none.
func (h *Hub) record(id string) *client {
	c := h.clients[id]
	if c == nil {
		c = &client{id: id, sockets: map[*socket]bool{}}
		h.clients[id] = c
	}
	return c
}

func (h *Hub) deleteIfUnused(c *client) {
	if c.requests == 0 && len(c.sockets) == 0 {
		delete(h.clients, c.id)
	}
}

// in lists the sockets in any of the states.
func (h *Hub) in(states ...state) (all []*socket) {
	for _, c := range h.clients {
		for s := range c.sockets {
			if slices.Contains(states, s.state) {
				all = append(all, s)
			}
		}
	}
	return all
}

// add makes a socket in its first state.
func (h *Hub) add(c *client, first state) *socket {
	s := &socket{hub: h, ready: make(chan struct{}), toClient: make(chan struct{}, 1)}
	c.add(s)
	if first == opening {
		c.opening = s
	}
	h.move(s, first)
	return s
}

// move changes a socket's state.
func (h *Hub) move(s *socket, to state) {
	from, c := s.state, s.record
	h.count[from]--
	h.count[to]++
	c.count[from]--
	c.count[to]++
	s.state = to
	if from == opening {
		c.opening = nil
		close(s.ready)
	}
	if to.atServer() && !from.atServer() {
		s.forgets = c.forgets
	}
	if to == retained {
		h.retained[s] = true
	} else {
		delete(h.retained, s)
	}
	if to != closed {
		return
	}
	c.remove(s)
	h.deleteIfUnused(c)
	if c.id != "" && from.atServer() { // sockets without an id have nothing in common
		c.forgets++
	}
}

// name moves the socket of a client that came without an id to the record of the id that
// the server gave to it: the client sends its prompts with that id.
func (h *Hub) name(s *socket, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.state == closed {
		return
	}
	s.record.remove(s)
	h.deleteIfUnused(s.record)
	h.record(id).add(s)
}

// connect makes the socket of a client that has arrived. It waits while an own socket of
// the same id is opening: the server must register that one first, or the client would
// receive no messages. It returns nil if the client leaves or the hub closes, and
// [ErrFull] at the limit.
func (h *Hub) connect(ctx context.Context, id string) (*socket, error) {
	for {
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			return nil, nil //nolint:nilnil // nobody waits for it
		}
		if h.count[connecting]+h.count[connected] >= h.MaxSockets {
			h.mu.Unlock()
			return nil, ErrFull
		}
		c := h.record(id)
		before := c.opening
		if before == nil {
			defer h.mu.Unlock()
			return h.add(c, connecting), nil
		}
		h.mu.Unlock()
		select {
		case <-before.ready:
		case <-ctx.Done():
			return nil, nil //nolint:nilnil // nobody waits for it
		}
	}
}

// advance moves a socket to a state if it is in one of the others. A socket is retained
// within the limit only, and no socket advances in a closed hub but to its end.
func (h *Hub) advance(s *socket, to state, from ...state) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	full := to == retained && s.state == connected && h.withoutClient() >= h.MaxRetained
	if full || h.closed && to != closed || !slices.Contains(from, s.state) {
		return false
	}
	h.move(s, to)
	return true
}

// relay connects a socket and begins to relay from the server; false in a closed hub.
func (h *Hub) relay(s *socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.move(s, connected)
		h.work.Go(s.relayFromServer) // with the lock held, so that Close waits for it
	}
	return !h.closed
}

// release closes a socket that did not reach the server.
func (s *socket) release() { s.hub.advance(s, closed, connecting, opening) }

// Reserve records a request for a prompt of a client id, and opens a socket of the
// proxy's own if the id has none, so that the messages about the prompt's nodes are
// received: the server sends them to sockets of that id only. Defer the release, and record
// the answer before it: from then on the open prompt keeps the socket.
func (h *Hub) Reserve(clientID string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.record(clientID)
	c.requests++
	if len(c.sockets) == 0 && h.withoutClient() < h.MaxRetained && !h.closed {
		s := h.add(c, opening)
		h.work.Go(func() { h.open(s) })
	}
	return func() { h.release(c) }
}

// Refused closes the proxy's own socket of a client id whose request the server has
// refused, unless another one needs it.
func (h *Hub) Refused(clientID string) {
	h.mu.Lock()
	var unused *socket
	if c := h.clients[clientID]; c != nil && clientID != "" && c.requests <= 1 && len(c.sockets) == 1 && c.has(retained) {
		for s := range c.sockets {
			if s.proxyOwned {
				unused = s
			}
		}
	}
	h.mu.Unlock()
	if unused != nil && h.Prompts.OpenOf(clientID) == 0 {
		unused.leaveServer()
	}
}

// HasSocket reports whether a client id has a socket.
func (h *Hub) HasSocket(clientID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clients[clientID]
	return c != nil && c.has(connecting, connected, retained)
}

func (h *Hub) release(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.requests--
	h.deleteIfUnused(c)
}

// Counts returns the number of sockets with a client and of those without.
func (h *Hub) Counts() (withClient, withoutClient int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count[connected], h.withoutClient()
}

func (h *Hub) withoutClient() int { return h.count[opening] + h.count[retained] }

// linger is how long an own socket stays open for the next prompt of its client id.
const linger = 5 * time.Second

// Sweep closes retained sockets that no prompt needs, or that the server has forgotten.
// It is to be called a few times a second.
func (h *Hub) Sweep() {
	now := h.Now()
	h.mu.Lock()
	var unused []*socket
	for s := range h.retained {
		if s.record.requests == 0 && !s.record.has(connected, connecting) {
			unused = append(unused, s)
		}
	}
	h.mu.Unlock()
	for _, s := range unused {
		prompts := h.Prompts.OpenOf(s.id())
		h.mu.Lock()
		if prompts > 0 || s.idleSince.IsZero() {
			s.idleSince = now
		}
		done := s.isForgotten() || prompts == 0 && (!s.proxyOwned || now.Sub(s.idleSince) >= linger)
		h.mu.Unlock()
		if done {
			s.leaveServer()
		}
	}
}

// Close closes all sockets and waits for their ends.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	all := h.in(connected, retained)
	h.mu.Unlock()
	h.cancel()
	for _, s := range all {
		h.work.Go(s.goAway)
	}
	h.work.Wait()
}
