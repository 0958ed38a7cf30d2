// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func TestEachNVLinkHasItsBytesErrorsAndState(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].SetNVLinks(
		fakenvml.NVLink{Active: true, TxKiB: 1000, RxKiB: 2000, Errors: [5]int64{1, 2, 3, 4, 5}},
		fakenvml.NVLink{Active: false, TxKiB: 5, RxKiB: 6},
	)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	m := r.scrapeNow()
	for _, want := range []struct {
		metric string
		at     map[string]string
		value  float64
	}{
		{"hw.gpu.nvlink.state", map[string]string{"hw.gpu.nvlink.id": "0"}, 1},
		{"hw.gpu.nvlink.state", map[string]string{"hw.gpu.nvlink.id": "1"}, 0},
		{"hw.gpu.nvlink.io", map[string]string{"hw.gpu.nvlink.id": "0", "network.io.direction": "transmit"}, 1000 * 1024},
		{"hw.gpu.nvlink.io", map[string]string{"hw.gpu.nvlink.id": "1", "network.io.direction": "receive"}, 6 * 1024},
		{"hw.gpu.nvlink.errors", map[string]string{"hw.gpu.nvlink.id": "0", "error.type": "replay"}, 1},
		{"hw.gpu.nvlink.errors", map[string]string{"hw.gpu.nvlink.id": "0", "error.type": "recovery"}, 2},
		{"hw.gpu.nvlink.errors", map[string]string{"hw.gpu.nvlink.id": "0", "error.type": "crc_flit"}, 3},
		{"hw.gpu.nvlink.errors", map[string]string{"hw.gpu.nvlink.id": "0", "error.type": "crc_data"}, 4},
		{"hw.gpu.nvlink.errors", map[string]string{"hw.gpu.nvlink.id": "0", "error.type": "ecc_data"}, 5},
	} {
		p, ok := point(m, want.metric, want.at)
		require.True(t, ok, "%s %v", want.metric, want.at)
		assert.InDelta(t, want.value, number(p), 0, "%s %v", want.metric, want.at)
	}
	for _, name := range []string{"hw.gpu.nvlink.state", "hw.gpu.nvlink.io", "hw.gpu.nvlink.errors"} {
		_, ok := point(m, name, map[string]string{"hw.gpu.nvlink.id": "2"})
		assert.False(t, ok, "%s: the GPU has two links, whatever links field values answer for", name)
	}
}

func TestGPUWithoutNVLinkIsReadOnce(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	for range 3 {
		_, ok := point(r.scrapeNow(), "hw.gpu.nvlink.io", nil)
		assert.False(t, ok, "field values answer with 0 for links that do not exist")
	}
	assert.EqualValues(t, 1, gpus[0].Calls("nvmlDeviceGetNvLinkState"))
}

func TestProfilingCountersAreSharesAndRatesBetweenTwoScrapes(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "l40s")
	for id, thousandths := range map[int]int64{1: 99_500, 2: 98_000, 3: 46_500, 5: 91_000, 10: 38_000, 11: 101_000, 20: 31_000, 60: 64_000} {
		gpus[0].SetGPM(id, thousandths, fakenvml.Success)
	}
	gpus[0].SetGPM(13, 0, fakenvml.NotSupported)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(2)
	_, ok := point(r.scrapeNow(), "hw.gpu.sm.active", nil)
	assert.False(t, ok, "the first scrape has none before it")
	m := r.scrapeNow()
	for _, want := range []struct {
		metric string
		at     map[string]string
		value  float64
	}{
		{"hw.gpu.engine.active", nil, 0.995},
		{"hw.gpu.sm.active", nil, 0.98},
		{"hw.gpu.sm.occupancy", nil, 0.465},
		{"hw.gpu.pipe.active", map[string]string{"hw.gpu.pipe": "tensor"}, 0.91},
		{"hw.gpu.memory.active", nil, 0.38},
		{"hw.gpu.io.rate", map[string]string{"hw.gpu.link": "pcie", "network.io.direction": "transmit"}, 31 << 20},
		{"hw.gpu.io.rate", map[string]string{"hw.gpu.link": "nvlink", "network.io.direction": "receive"}, 64 << 20},
	} {
		p, ok := point(m, want.metric, want.at)
		require.True(t, ok, "%s %v", want.metric, want.at)
		assert.InDelta(t, want.value, number(p), 1e-9, "%s %v", want.metric, want.at)
		name, _ := p.Attributes().Get("hw.name")
		assert.Equal(t, "gpu0", name.Str(), "GPUs before Hopper have none")
	}
	_, ok = point(m, "hw.gpu.pipe.active", map[string]string{"hw.gpu.pipe": "fp16"})
	assert.False(t, ok, "the GPU does not have this counter")
	_, ok = point(m, "hw.gpu.pipe.active", map[string]string{"hw.gpu.pipe": "fp64"})
	assert.False(t, ok, "more than 100 % is not a valid reading")
}

func TestFanHasItsRevolutions(t *testing.T) {
	_, gpus := library.Machine(t, "rtx-4080-super")
	gpus[0].Set("fan_rpm", 1450)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	p, ok := point(r.scrapeNow(), "hw.fan.speed", map[string]string{"hw.name": "gpu0/fan0"})
	require.True(t, ok)
	assert.InDelta(t, 1450, number(p), 0)
}
