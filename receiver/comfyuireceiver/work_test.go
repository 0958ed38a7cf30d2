// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// ignored observes a tracker.
type ignored struct{}

func (ignored) PromptEnded(*prompt.Prompt)              {}
func (ignored) ExecutionStarted(prompt.Execution)       {}
func (ignored) RunsElsewhere(string) bool               { return false }
func (ignored) ExecutionMoved(prompt.Execution, bool)   {}
func (ignored) PromptUnfollowed(*prompt.Prompt, string) {}

// without is the work without the time of its begin, which is the clock's.
func without(g gpuevents.GPUWork) gpuevents.GPUWork {
	g.Since = time.Time{}
	return g
}

func TestWorkLastsFromTheFirstPromptToTheEndOfTheLast(t *testing.T) {
	var work gpuevents.Work
	device := &deviceFinder{}
	device.found.Store(&spans.Device{ID: "GPU-a", PID: 7})
	tracker := prompt.NewTracker(prompt.Limits{Open: 10, Bytes: 1 << 20, Nodes: 10, Early: time.Second}, &sizing.Sizer{}, ignored{})
	w := workSignal{server: work.AddServer(), device: device, tracker: tracker}
	start := time.Unix(1, 0)
	submit := func(answer protocol.Answer, status int) {
		w.begins()
		p := tracker.Submit(start, prompt.Request{})
		assert.Equal(t, 1, work.On("GPU-a").Open, "before the server has answered")
		tracker.Answer(p, start, status, answer)
		w.update()
	}
	submit(protocol.Answer{PromptID: "a"}, http.StatusOK)
	submit(protocol.Answer{PromptID: "b"}, http.StatusOK)
	assert.Equal(t, gpuevents.GPUWork{Known: true, Open: 1, PIDs: []int{7}}, without(work.On("GPU-a")))
	assert.Zero(t, work.On("GPU-b").Open)
	first := start.Add(time.Second)
	tracker.Missing(first, "a")
	w.ended(first)
	assert.Equal(t, gpuevents.GPUWork{Known: true, Open: 1, PIDs: []int{7}, LastEnded: first}, without(work.On("GPU-a")))
	tracker.Missing(first, "b")
	w.ended(first.Add(time.Second))
	assert.Zero(t, work.On("GPU-a").Open)
	submit(protocol.Answer{}, http.StatusBadRequest) // the server refuses it
	assert.Zero(t, work.On("GPU-a").Open)
	w.close()
	assert.False(t, work.On("GPU-a").Known)
	(&workSignal{}).begins() // publishes nothing
}
