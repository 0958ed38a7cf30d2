// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// workSignal publishes whether the server has work, so that its GPU is read often only
// meanwhile: from a prompt's request on, since an idle server starts within 10 ms, until no
// prompt is open. The zero value publishes nothing.
type workSignal struct {
	server  *gpuevents.Server
	device  *deviceFinder
	tracker *prompt.Tracker
}

func newWorkSignal(device *deviceFinder, tracker *prompt.Tracker) workSignal {
	return workSignal{server: gpuevents.WorkOfProcess().AddServer(), device: device, tracker: tracker}
}

func (w *workSignal) place() gpuevents.Place {
	d := w.device.Device()
	gpus := d.IDs
	if len(gpus) == 0 && d.ID != "" { // it is configured
		gpus = []string{d.ID}
	}
	return gpuevents.Place{GPUs: gpus, PID: d.PID}
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
		w.server.Set(w.tracker.Busy(), w.place())
	}
}

// ended says that a prompt ended.
func (w *workSignal) ended(at time.Time) {
	if w.server != nil {
		w.server.Ended(w.tracker.Busy(), w.place(), at)
	}
}

func (w *workSignal) close() {
	if w.server != nil {
		w.server.Close()
	}
}
