// SPDX-License-Identifier: Apache-2.0

package sockets

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds implements [bounds.Registered].
func (h *Hub) Bounds() []bounds.Bound {
	h.mu.Lock()
	defer h.mu.Unlock()
	sockets := 0
	for _, c := range h.clients {
		sockets += len(c.sockets)
	}
	return []bounds.Bound{
		{Name: "sockets.Hub.clients", Max: h.MaxSockets + h.MaxRetained + h.MaxRequests, Size: len(h.clients)},
		{Name: "sockets.Hub.retained", Max: h.MaxRetained, Size: len(h.retained)},
		// those of all clients
		{Name: "sockets.client.sockets", Max: h.MaxSockets + h.MaxRetained, Size: sockets},
	}
}
