// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

func TestWorkLastsFromTheFirstPromptToTheEndOfTheLast(t *testing.T) {
	var work gpuevents.Work
	device, open := &deviceFinder{}, 0
	device.found.Store(&spans.Device{ID: "GPU-a", PID: 7})
	w := workSignal{server: work.AddServer(), device: device, busy: func() bool { return open > 0 }}
	w.begins()
	open = 2
	w.update()
	assert.Equal(t, gpuevents.GPUWork{Known: true, Open: 1, PIDs: []int{7}}, work.On("GPU-a"))
	assert.Zero(t, work.On("GPU-b").Open)
	open, device = 1, w.device
	first := time.Unix(1, 0)
	w.ended(first)
	assert.Equal(t, gpuevents.GPUWork{Known: true, Open: 1, PIDs: []int{7}, LastEnded: first}, work.On("GPU-a"))
	open = 0
	w.ended(first.Add(time.Second))
	assert.Zero(t, work.On("GPU-a").Open)
	w.begins() // a request that the server refuses
	w.update()
	assert.Zero(t, work.On("GPU-a").Open)
	w.close()
	assert.False(t, work.On("GPU-a").Known)
	(&workSignal{}).begins() // publishes nothing
}
