// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"net"
	"slices"
	"time"
)

// maxAsked bounds the sockets of which the kernel is asked at a time.
const maxAsked = 1024

// Silent lists since when clients have been silent for at least so long, the longest first, at
// most limit: their hosts do not acknowledge what was sent to them, as a laptop that sleeps, or
// they do not read it. It asks the kernel (Linux only; elsewhere the list is empty), and sends
// nothing.
func (h *Hub) Silent(atLeast time.Duration, limit int) (since []time.Time) {
	h.mu.Lock()
	all := h.in(connected)
	h.mu.Unlock()
	now := h.Now()
	for _, s := range all[:min(len(all), maxAsked)] {
		conn := s.conn()
		if conn == nil {
			continue
		}
		if silent := unacknowledged(conn); silent > 0 && silent >= atLeast {
			since = append(since, now.Add(-silent))
		}
	}
	slices.SortFunc(since, time.Time.Compare)
	return since[:min(len(since), limit)]
}

// tcpOf is the TCP connection below a client's connection; nil if there is none.
func tcpOf(conn net.Conn) *net.TCPConn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case interface{ NetConn() net.Conn }: // of TLS
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
