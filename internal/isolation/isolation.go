// SPDX-License-Identifier: Apache-2.0

// Package isolation has a component run apart from the process that it is in: without sockets and
// NVML, and with buses of its own. So it runs in virtual time, beside others.
package isolation

import (
	"net/http"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// Listener takes the place of a socket.
type Listener interface {
	// Serve is called with the component's handler, at its start. It must not block.
	Serve(h http.Handler)
}

// Place is where such a component runs.
type Place struct {
	// Transport reaches the servers that the component is a client of.
	Transport *http.Transport
	// Listener gets what the component serves.
	Listener Listener
	// PID is the process of the server that the component follows; 0 if it is not known.
	PID int
	// Bus and Advisors take the place of those of the process.
	Bus      *comfyevents.Bus
	Advisors *admission.Advisors
}
