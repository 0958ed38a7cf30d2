// SPDX-License-Identifier: Apache-2.0

// Package isolation has a component run apart from the process that it is in: without sockets and
// NVML, and with buses of its own. So it runs in virtual time, beside others.
package isolation

import (
	"net/http"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// Place is where such a component runs.
type Place struct {
	// Transport reaches the servers that the component is a client of.
	Transport *http.Transport
	// Serve is called with the handler of what the component serves, at its start. It must not
	// block.
	Serve func(http.Handler)
	// PID is the process of the server that the component follows; 0 if it is not known.
	PID int
	// Bus and Advisors take the place of those of the process.
	Bus      *comfyevents.Bus
	Advisors *admission.Advisors
}
