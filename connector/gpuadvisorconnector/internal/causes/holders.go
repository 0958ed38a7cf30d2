// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// Who holds a GPU's memory, and can be asked to leave.

// dominant is from which share of a GPU's memory on a program other than ComfyUI is named as
// what fills it.
const dominant = 0.25

// foreign is the program other than ComfyUI that holds much of a GPU's memory; ok is false if none
// does. The GPU may be nil.
func (f *facts) foreign(g *machine.GPU) (p view.Process, ok bool) {
	if g == nil {
		return p, false
	}
	limit, _ := g.Value(machine.MemoryLimit, "", f.now)
	p, ok = f.machine.Largest(g)
	return p, ok && limit > 0 && float64(p.Memory) > limit*dominant
}

// stopRemedy is to stop a process that is not ComfyUI.
func stopRemedy(p *view.Process) texts.Message {
	return texts.Message{Key: "cause.gpu.memory.remedy.other", Args: texts.Args{"process": processName(p), "held": bytes(float64(p.Memory))}}
}

// processName is a process as people look for it.
func processName(p *view.Process) texts.Message {
	if p.Name == "" {
		return texts.Message{Key: "label.process.pid", Args: texts.Args{"pid": p.PID}}
	}
	return texts.Message{Key: "label.process", Args: texts.Args{"name": p.Name, "pid": p.PID}}
}

// idleHolder is the server without work that holds the most memory of a GPU: its models can
// be freed. Empty if none holds a GiB.
func (f *facts) idleHolder(g *machine.GPU) (server string, most float64) {
	most = 1 << 30
	for _, s := range f.servers {
		running, _ := s.Value(machine.QueueLength, "running", f.now)
		waiting, known := s.Value(machine.QueueLength, "pending", f.now)
		if !known || running+waiting > 0 {
			continue
		}
		if held := f.machine.HeldBy(s, g, f.now); held > most {
			server, most = s.Name, held
		}
	}
	return server, most
}
