// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"sync"
	"time"
)

// sockets are all open ones. The server sends to one socket of a client id, the
// newest, and forgets the id when any of them closes.
type sockets struct {
	most int // kept without a client

	mu       sync.Mutex
	open     map[*socket]bool         // true: kept for prompts, without a client
	kept     int                      // and those that are being opened
	ofID     map[string]int           // sockets of a client id, and clients that are being connected
	opening  map[string]chan struct{} // the proxy's own under way, by client id; closed when done
	expected map[string]int           // requests for prompts without an answer yet, by client id
}

func newSockets(most int) *sockets {
	return &sockets{most: most, open: map[*socket]bool{}, ofID: map[string]int{}, opening: map[string]chan struct{}{}, expected: map[string]int{}}
}

// arrive lets a client in. It waits for a socket of the proxy's own under the same id:
// the server must meet that one first, or the client would hear nothing. False if the
// client has left.
func (ss *sockets) arrive(ctx context.Context, id string) bool {
	for {
		ss.mu.Lock()
		opening := ss.opening[id]
		if opening == nil {
			ss.ofID[id]++
			ss.mu.Unlock()
			return true
		}
		ss.mu.Unlock()
		select {
		case <-opening:
		case <-ctx.Done():
			return false
		}
	}
}

// leave is for a client that arrived and got no socket.
func (ss *sockets) leave(id string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.less(ss.ofID, id)
}

func (*sockets) less(of map[string]int, id string) {
	if of[id]--; of[id] <= 0 {
		delete(of, id)
	}
}

// add takes the socket of a client that arrived.
func (ss *sockets) add(s *socket) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.open[s] = false
}

// expect notes a request for a prompt of a client id, and reports whether a socket of
// the proxy's own is needed: the id has none, and there is room.
func (ss *sockets) expect(id string) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.expected[id]++
	if ss.ofID[id] > 0 || ss.opening[id] != nil || ss.kept >= ss.most {
		return false
	}
	ss.opening[id] = make(chan struct{})
	ss.kept++
	return true
}

// opened takes a socket of the proxy's own, or nil if it could not be opened.
func (ss *sockets) opened(id string, s *socket) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if s != nil {
		ss.open[s] = true
		ss.ofID[id]++
	} else {
		ss.kept--
	}
	close(ss.opening[id])
	delete(ss.opening, id)
}

// answered notes that a request for a prompt has its answer.
func (ss *sockets) answered(id string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.less(ss.expected, id)
}

func (ss *sockets) remove(s *socket) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	kept, open := ss.open[s]
	if !open {
		return
	}
	if kept {
		ss.kept--
	}
	delete(ss.open, s)
	ss.less(ss.ofID, s.clientID)
	for other := range ss.open {
		if other.clientID == s.clientID {
			other.deaf = true
		}
	}
}

// keep notes that a socket stays open without its client; false if too many do.
func (ss *sockets) keep(s *socket) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	kept, open := ss.open[s]
	if !open || kept {
		return open
	}
	if ss.kept >= ss.most {
		return false
	}
	ss.open[s] = true
	ss.kept++
	return true
}

// counts are the sockets with a client and those without.
func (ss *sockets) counts() (live, kept int) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, kept := range ss.open {
		if !kept {
			live++
		}
	}
	return live, ss.kept
}

// linger is how long a socket of the proxy's own stays open for the next prompt of its
// client.
const linger = 5 * time.Second

// sweep lets go of kept sockets that nobody needs, or that the server has forgotten.
// While the same id has a client again, the old one stays.
func (ss *sockets) sweep(now time.Time, openOf func(clientID string) int) {
	ss.mu.Lock()
	live := map[string]bool{}
	var kept []*socket
	for s, isKept := range ss.open {
		if !isKept {
			live[s.clientID] = true
		}
	}
	for s, isKept := range ss.open {
		if isKept && !live[s.clientID] && ss.expected[s.clientID] == 0 {
			kept = append(kept, s)
		}
	}
	ss.mu.Unlock()
	for _, s := range kept {
		n := openOf(s.clientID)
		ss.mu.Lock()
		if n > 0 || s.idle.IsZero() {
			s.idle = now
		}
		done := s.deaf || n == 0 && (!s.own || now.Sub(s.idle) >= linger)
		ss.mu.Unlock()
		if done {
			s.leaveServer()
		}
	}
}

// closeAll ends every socket.
func (ss *sockets) closeAll() {
	ss.mu.Lock()
	all := make([]*socket, 0, len(ss.open))
	for s := range ss.open {
		all = append(all, s)
	}
	ss.mu.Unlock()
	for _, s := range all {
		s.mu.Lock()
		client := s.client
		s.mu.Unlock()
		if client != nil {
			s.answerClose(client, []byte{0x03, 0xE9}) // 1001: going away
		}
		s.leaveServer()
	}
}
