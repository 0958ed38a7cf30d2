// SPDX-License-Identifier: Apache-2.0

package weeks

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// learned is the product's advisor after it has seen executions of the service on another GPU of
// the same product: equal GPUs learn together.
func learned(p *Plan, executions int) *advice.Advisor {
	now := Begin
	bus := &comfyevents.Bus{}
	follow := func(name, gpu string) {
		bus.Servers.Add(source{comfyevents.Server{Name: name, GPUs: []string{gpu}, Memory: comfyevents.Memory{At: now, Context: Context}}})
	}
	for i := range p.Servers {
		follow(ServerName(i), GPU)
	}
	follow("elsewhere", "GPU-2")
	s := advice.DefaultSettings()
	for name, c := range p.Classes {
		s.Classes[name] = advice.Class{Deadline: c.Deadline, Objective: c.Objective, Batch: c.Batch}
	}
	a := advice.NewAdvisor(s, &bus.Servers, func() time.Time { return now }, nil)
	a.Refresh([]advice.GPU{{ID: GPU, Product: Product, Capacity: p.Memory, At: now}, {ID: "GPU-2", Product: Product, Capacity: p.Memory, At: now}})
	l, random := law.New(p.Seed), rand.New(rand.NewPCG(p.Seed, 7))
	for n := range executions {
		load := l.Classes[n%len(l.Classes)].Pick(random)
		if p.Alternating {
			load.Side = sides[random.IntN(len(sides))]
		}
		cost := l.Draw(fmt.Sprint("learned ", n), load)
		a.Traces(sampletrace.Prompt{
			ID: fmt.Sprint("learned ", n), Server: "elsewhere", Received: now.Add(time.Duration(n) * time.Second), Ran: cost.Exclusive,
			Root: map[string]any{"comfyui.workflow.id": "colour", "comfyui.model": load.Checkpoint, "comfyui.image.side": load.Side},
			Execution: map[string]any{
				"comfyui.nodes.executed": 3, "comfyui.memory.active.peak": int(cost.Need), "comfyui.memory.reserved.peak": int(cost.Need), "comfyui.memory.reserved.growth": 1,
			},
		}.Traces())
	}
	return a
}

// source publishes a server.
type source struct{ is comfyevents.Server }

func (s source) Name() string { return s.is.Name }

func (s source) Server() comfyevents.Server { return s.is }

// needs predicts what a request needs.
func needs(a *advice.Advisor, r *recommend.Request) float64 {
	t, _ := a.Time(&admission.Request{Server: r.Server, Class: r.Class, Workflow: r.Workflow, Model: r.Model, Side: r.Side, Batch: r.Batch, Steps: r.Steps})
	return t
}
