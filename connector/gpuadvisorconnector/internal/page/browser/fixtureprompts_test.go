// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

const slowestID = "9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0001"

func pidOf(server int) int { return 4242 + server }

func (f *fixture) server(i int) string { return fmt.Sprintf("127.0.0.1:%d", 8188+i%max(1, f.servers)) }

func openID(server string, i int) string { return fmt.Sprintf("open-%s-%d", server[len(server)-4:], i) }

// serverSamples are the samples of a ComfyUI server.
func (f *fixture) serverSamples(i int, at time.Time) string {
	if f.trouble == downServer && i == 0 && f.since(downFor, at) {
		return "comfyui.up 0"
	}
	now := (&queue{f, i}).Server()
	waiting := len(now.Prompts) - 1
	text := fmt.Sprintf("comfyui.up 1\ncomfyui.queue.length{state=running} 1\ncomfyui.queue.length{state=pending} %d\n", max(waiting, 0))
	if f.gpus > 0 && f.trouble != oddFigures {
		gpu := f.gpuOf(i)
		isFull := (f.trouble == fullGPU || f.trouble == rushHour) && gpu%8 == min(1, f.gpus-1) && f.since(fullFor, at)
		_, elastic, _ := f.memoryParts(gpu, f.step(at), models[gpu%len(models)].memory, isFull)
		text += fmt.Sprintf("comfyui.memory.elastic{hw.id=%s} %d\n", gpuID(gpu), elastic)
	}
	return text
}

// queue is a ComfyUI server that a receiver follows.
type queue struct {
	f *fixture
	i int
}

// Name implements [comfyevents.Source].
func (q *queue) Name() string { return q.f.server(q.i) }

// Server implements [comfyevents.Source].
func (q *queue) Server() comfyevents.Server {
	f := q.f
	s := comfyevents.Server{Name: q.Name(), PID: pidOf(q.i), Sockets: comfyevents.Sockets{Open: 5}}
	if f.gpus > 0 {
		s.GPUs = []string{gpuID(f.gpuOf(q.i))}
	}
	if f.trouble == downServer && q.i == 0 {
		return s
	}
	colorize := comfyevents.OpenPrompt{Workflow: "colorize", TaskClass: "buildings", Model: "ddcolor_modelscope.pth", Side: 1280, SizeClass: "<=1280"}
	if (q.i > 0 || !f.hasEnded.Load()) && !f.isBetween(q.i) {
		running := colorize
		running.ID, running.Accepted, running.Started = openID(s.Name, 0), f.begun.Add(-4*time.Second), f.begun.Add(-2*time.Second)
		running.Node = comfyevents.Node{ID: "4", Class: "DDColor_Colorize", Number: 4, Of: 6, Step: 3 + int(f.turns.Load())%17, Steps: 20}
		s.Prompts = append(s.Prompts, running)
	}
	waiting, longest := 2-q.i%2*2, 20*time.Second
	if f.trouble == rushHour {
		waiting, longest = 17, 95*time.Second
	}
	if f.waiting > 0 && q.i == 0 {
		waiting = f.waiting
	}
	if f.isLive {
		waiting += int(f.turns.Load()) % 4
	}
	for k := 1; k <= waiting; k++ {
		p := colorize
		p.ID, p.Accepted = openID(s.Name, k), f.begun.Add(-longest+time.Duration(k)*time.Second)
		s.Prompts = append(s.Prompts, p)
	}
	s.Queued, s.Open = len(s.Prompts), len(s.Prompts)
	if q.i == 1 && !f.isBetween(q.i) || f.trouble == rushHour {
		s.Sockets.Silent = []time.Time{f.begun.Add(-40 * time.Second)}
	}
	if f.trouble == rushHour || q.i == 0 && f.isBetween(q.i) {
		s.Sockets.Retained = 2
	}
	return s
}

// isBetween reports whether a server whose figures change is between two prompts: two changes of four. Its
// sockets change with it. In a rush one prompt follows the other.
func (f *fixture) isBetween(server int) bool {
	return f.isLive && f.trouble != rushHour && (int(f.turns.Load())+server)%4 >= 2
}

// usualPrompt is a prompt as most are; i makes its figures.
func (f *fixture) usualPrompt(i int) sampletrace.Prompt {
	bill := map[string]any{
		"gpu.correlation": "measured", "gpu.memory.peak": int64(41 * gib / 10), "comfyui.memory.need": int64(32 * gib / 10), "gpu.energy": 180.0, "gpu.energy.uncertainty": 6.0, "gpu.throttle.time": 0.0,
	}
	p := sampletrace.Prompt{
		ID: fmt.Sprintf("9f3a1c52-7d40-4b6e-8a11-2c5d7e9b%04d", i), Server: f.server(0), Waited: time.Duration(i%3) * 200 * time.Millisecond, Ran: 2400*time.Millisecond + time.Duration(i%5)*50*time.Millisecond,
		Root: map[string]any{
			"comfyui.workflow.id": "colorize", "comfyui.task_class": "buildings", "comfyui.model": "ddcolor_modelscope.pth", "comfyui.image.size_class": "<=1280",
			"comfyui.image.width": 1280, "comfyui.image.height": 960, "comfyui.image.side": 1280,
		},
		Execution: bill,
	}
	for n, class := range []string{"LoadImage", "DDColorLoader", "ImageScaleToTotalPixels", "DDColor_Colorize", "ImageBlend", "SaveImage"} {
		share := []float64{0.03, 0.5, 0.04, 0.36, 0.03, 0.04}[n]
		of := maps.Clone(bill)
		of["gpu.energy"], of["gpu.energy.uncertainty"] = 180*share, 2.0
		p.Nodes = append(p.Nodes, sampletrace.Node{Class: class, Share: share, Attributes: of})
	}
	if f.gpus > 0 {
		id := gpuID(f.gpuOf(0))
		if f.trouble == oddFigures {
			id = "GPU-long"
		}
		bill["hw.id"] = id
		for _, n := range p.Nodes {
			n.Attributes["hw.id"] = id
		}
	}
	return p
}

// prompt is the i-th of the prompts that have ended; the newest is 0. One of nine failed where
// something is wrong, others are slow or have no bill.
func (f *fixture) prompt(i int) sampletrace.Prompt {
	p := f.usualPrompt(i)
	switch i % 9 {
	case 1:
		p.Waited, p.Ran, p.Ahead = 6100*time.Millisecond, 4100*time.Millisecond, 4
		maps.Copy(p.Execution, map[string]any{"comfyui.loading.duration": 2.1, "gpu.throttle.time": 0.6, "gpu.throttle.time.sw_power_cap": 0.6, "gpu.shared.time": 0.4})
		p.Nodes[1].Attributes["comfyui.loading.duration"] = 2.0
		p.Nodes[1].Attributes["comfyui.loading.estimated"] = true
	case 3:
		isFull := f.trouble == fullGPU || f.trouble == rushHour
		if !isFull && i > 3 { // more would be a condition
			break
		}
		p.Error, p.ErrorNode, p.Ran = "ValueError", 3, 900*time.Millisecond
		p.Nodes = p.Nodes[:4]
		p.Nodes[3].Share += 0.07
		maps.Copy(p.Execution, map[string]any{"gpu.energy": 60.0, "gpu.energy.uncertainty": 9.0})
		if isFull { // at once, with less energy than the counter tells apart
			p.Error, p.Ran = "out_of_memory", time.Millisecond
			p.Execution["gpu.energy"], p.Execution["gpu.energy.uncertainty"] = 0.0277, 0.345
			for _, n := range p.Nodes {
				n.Attributes["gpu.energy"], n.Attributes["gpu.energy.uncertainty"] = 0.0277, 0.345
			}
		}
	case 5:
		f.upscale(&p, i == 5)
	case 7:
		for _, key := range []string{"gpu.memory.peak", "comfyui.memory.need", "gpu.energy", "gpu.energy.uncertainty", "gpu.throttle.time"} {
			delete(p.Execution, key)
			for _, n := range p.Nodes {
				delete(n.Attributes, key)
			}
		}
		p.Execution["gpu.correlation"], p.Execution["gpu.correlation.reason"] = "none", "limit"
	case 8: // everything at once
		p.Ran = 3900 * time.Millisecond
		maps.Copy(p.Execution, map[string]any{
			"comfyui.loading.duration": 0.6, "comfyui.oom_retry.duration": 1.2, "comfyui.first_steps.duration": 0.5,
			"gpu.throttle.time": 0.4, "gpu.throttle.time.sw_thermal": 0.4, "gpu.shared.process.time": 0.5,
		})
		p.Nodes[1].Attributes["comfyui.loading.duration"] = 0.6
		p.Nodes[3].Attributes["comfyui.oom_retry.duration"] = 1.2
	}
	if f.trouble == oddFigures {
		p.Root["comfyui.workflow.id"] = []string{"上色并放大到四千像素的工作流程（老照片修复）", "a_workflow_without_any_space_and_with_a_very_long_name_that_somebody_chose.json", ""}[i%3]
		p.Waited, p.Ran, p.Ahead = 12345*time.Second, 400*time.Microsecond, 1234
	}
	p.Received = f.begun.Add(-time.Duration(8*i+3)*time.Second - p.Waited - p.Ran)
	return p
}

// upscale makes a prompt one of another workflow. The newest loads its model.
func (*fixture) upscale(p *sampletrace.Prompt, loads bool) {
	maps.Copy(p.Root, map[string]any{
		"comfyui.workflow.id": "upscale and sharpen for print", "comfyui.model": "4x-UltraSharp.pth", "comfyui.image.size_class": "<=4096",
		"comfyui.image.width": 4096, "comfyui.image.height": 3072, "comfyui.image.side": 4096,
	})
	maps.Copy(p.Execution, map[string]any{
		"gpu.energy": 12300.0, "gpu.energy.uncertainty": 610.0, "gpu.correlation": "estimate", "gpu.correlation.reason": "gap", "gpu.memory.peak": int64(142 * gib / 10),
	})
	if loads {
		p.Ran = 8800 * time.Millisecond
		p.Execution["comfyui.loading.duration"] = 6.3
		p.Nodes[1].Attributes["comfyui.loading.duration"] = 4.4
	}
}

// refusedPrompt is one that the receiver refused, since its image would have been late.
func (f *fixture) refusedPrompt() ptrace.Traces {
	p := f.usualPrompt(0)
	traces := sampletrace.Prompt{ID: "refused-1", Server: f.server(0), Received: f.begun.Add(-time.Second), Waited: 10 * time.Millisecond, Error: "deadline", Root: p.Root}.Traces()
	root := traces.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	root.Attributes().PutStr("comfyui.prompt.outcome", "refused")
	root.Status().SetCode(ptrace.StatusCodeUnset)
	return traces
}

// promptThatEnds is a prompt that ends now.
func (f *fixture) promptThatEnds(now time.Time) sampletrace.Prompt {
	p := f.usualPrompt(f.ended)
	p.ID = strings.Replace(p.ID, "2c5d7e9b", "2c5d7e9c", 1)
	p.Received = now.Add(-p.Waited - p.Ran)
	return p
}
