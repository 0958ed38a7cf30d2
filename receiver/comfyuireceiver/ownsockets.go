// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"sync"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// The values of own_sockets.
const (
	ownNever   = "false"
	ownPollers = "pollers"
	ownAlways  = "true"
)

// maxClients bounds the client ids that are remembered as pollers, and as those that have
// had a socket.
const maxClients = 4096

// ownSockets decides for which client ids the proxy opens sockets of its own. Its methods
// may be called from any goroutine.
type ownSockets struct {
	mode string

	mu sync.Mutex
	// pollers have asked for the history of a prompt of their own; connected have had a
	// socket through the proxy. Guarded by mu.
	pollers, connected *prompt.Recent
}

func newOwnSockets(mode string) *ownSockets {
	return &ownSockets{mode: mode, pollers: prompt.NewRecent(maxClients), connected: prompt.NewRecent(maxClients)}
}

// polled records that a client asked for the history of a prompt of its own.
func (o *ownSockets) polled(clientID string) {
	if o.mode != ownPollers || clientID == "" || len(clientID) > protocol.MaxID {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pollers.Add(clientID)
}

// opened records that a client opened a socket through the proxy.
func (o *ownSockets) opened(clientID string) {
	if o.mode != ownPollers || clientID == "" || len(clientID) > protocol.MaxID {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.connected.Add(clientID)
}

// wanted reports whether a socket is to be opened for a client id that has none.
func (o *ownSockets) wanted(clientID string) bool {
	if clientID == "" || o.mode != ownPollers {
		return clientID != "" && o.mode == ownAlways
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pollers.Has(clientID) && !o.connected.Has(clientID)
}
