// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
)

// workSignal publishes whether the server has work, so that its GPU is read often only
// meanwhile: from a prompt's request on, since an idle server starts within 10 ms, until no
// prompt is open. The zero value publishes nothing.
type workSignal struct {
	server *gpuevents.Server
	device *deviceFinder
	busy   func() bool // whether a prompt is open
}

func newWorkSignal(device *deviceFinder, busy func() bool) workSignal {
	return workSignal{server: gpuevents.WorkOfProcess().AddServer(), device: device, busy: busy}
}

func (w *workSignal) place() gpuevents.Place {
	d := w.device.Device()
	return gpuevents.Place{GPU: d.ID, PID: d.PID}
}

// begins says that the server has work, or is about to.
func (w *workSignal) begins() {
	if w.server != nil {
		w.server.Set(true, w.place())
	}
}

// update says whether the server has work, after a prompt that it may have refused.
func (w *workSignal) update() {
	if w.server != nil {
		w.server.Set(w.busy(), w.place())
	}
}

// ended says that a prompt ended.
func (w *workSignal) ended(at time.Time) {
	if w.server != nil {
		w.server.Ended(w.busy(), w.place(), at)
	}
}

func (w *workSignal) close() {
	if w.server != nil {
		w.server.Close()
	}
}
