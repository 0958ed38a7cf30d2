// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
)

// scenes are the states of the page.
var scenes = []scene{
	{name: "1", gpus: 1, servers: 1, prompts: 40},
	{name: "8", gpus: 8, servers: 2, prompts: 40, trouble: fullGPU},
	{name: "64", gpus: 64, servers: 3, prompts: 40, trouble: fullGPU},
	{name: "rush", gpus: 2, servers: 1, prompts: 40, simulated: true, trouble: rushHour},
	{name: "lost", gpus: 2, servers: 1, prompts: 40, trouble: lostGPU},
	{name: "links", gpus: 1, servers: 1, prompts: 40, trouble: deadLinks},
	{name: "stopped", gpus: 2, servers: 1, prompts: 40, trouble: stoppedSamples, age: 62 * time.Second},
	{name: "down", gpus: 1, servers: 1, prompts: 40, trouble: downServer},
	{name: "odd", gpus: 3, servers: 1, prompts: 12, trouble: oddFigures},
	{name: "wsl2", gpus: 2, servers: 1, prompts: 12, trouble: noProcesses},
	{name: "refused", gpus: 1, servers: 1, prompts: 12, trouble: tooLate},
	{name: "no-gpu"},
	{name: "no-comfyui", gpus: 2},
	{name: "no-prompt", gpus: 1, servers: 1},
}

func sceneOf(name string) scene {
	for _, s := range scenes {
		if s.name == name {
			return s
		}
	}
	panic(name)
}

// newPage is the page of a fixture, with quick streams: of many GPUs less so, which keep a core
// busy.
func newPage(f *fixture) *page.Page {
	interval := 50 * time.Millisecond
	if f.gpus > 8 {
		interval *= 3
	}
	return page.New(f, page.Settings{Endpoint: "127.0.0.1:0", Interval: interval, Heartbeat: time.Second})
}
