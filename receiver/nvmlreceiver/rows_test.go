// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"path/filepath"
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

func TestLimitsOfAMarginAreOffsetsAndNoTemperatures(t *testing.T) {
	library.Machine(t, "h200")
	m := newRig(t, nvml.NewSessions(fast), nil).ready(1).scrapeNow()
	for limit, want := range map[string]float64{"high.critical": -8, "high.degraded": -2, "memory.max": 0, "max": 0} {
		p, ok := point(m, "hw.gpu.temperature.margin.limit", map[string]string{"hw.limit_type": limit})
		require.True(t, ok, limit)
		assert.InDelta(t, want, p.DoubleValue(), 0, limit)
	}
	_, ok := point(m, "hw.temperature.limit", nil)
	assert.False(t, ok)
}

func TestTooManySRAMErrorsPredictAFailure(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "rtx-4080-super")
	gpus[0].Set("ecc_sram_threshold_exceeded", 1)
	m := newRig(t, nvml.NewSessions(fast), nil).ready(2).scrapeNow()
	p, ok := point(m, "hw.gpu.ecc.sram.threshold_exceeded", map[string]string{"hw.name": "gpu0"})
	require.True(t, ok)
	assert.EqualValues(t, 1, p.IntValue())
	p, _ = point(m, "hw.status", map[string]string{"hw.name": "gpu0", "hw.state": "predicted_failure"})
	assert.EqualValues(t, 1, p.IntValue())
	_, ok = point(m, "hw.gpu.ecc.sram.threshold_exceeded", map[string]string{"hw.name": "gpu1"})
	assert.False(t, ok, "a GPU without ECC")
}

func TestOnlyRootMayAskForTheSRAMThreshold(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].SetReturn("nvmlDeviceGetSramEccErrorStatus", fakenvml.NoPermission)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	_, ok := point(r.scrapeNow(), "hw.gpu.ecc.sram.threshold_exceeded", nil)
	assert.False(t, ok)
	r.scrapeNow()
	assert.EqualValues(t, 1, gpus[0].Calls("nvmlDeviceGetSramEccErrorStatus"))
	assert.Empty(t, r.logs.FilterMessageSnippet("Reading failed").All())
}

func TestNVLink5HasCountersOfItsOwn(t *testing.T) {
	_, gpus := library.Machine(t, "b200", "h100")
	for field, n := range map[int]int64{206: 1, 207: 2, 208: 3, 209: 4, 210: 5, 211: 6, 212: 7, 213: 8, 214: 9, 215: 17, 219: 10, 221: 11} {
		gpus[0].SetField(field, 100*n, fakenvml.TypeUnsignedLL, fakenvml.Success)
	}
	m := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.Metrics.HwGpuNvlinkFecCorrected.Enabled = true }).ready(2).scrapeNow()
	const link = 3 // the test library adds the link's number to its counters
	for _, want := range []struct {
		metric, key, value string
		n                  float64
	}{
		{"hw.gpu.nvlink.packets", "network.io.direction", "transmit", 1000 + link},
		{"hw.gpu.nvlink.packets", "network.io.direction", "receive", 2000 + link},
		{"hw.gpu.nvlink.traffic", "network.io.direction", "transmit", 256000 + link},
		{"hw.gpu.nvlink.traffic", "network.io.direction", "receive", 512000 + link},
		{"hw.gpu.nvlink.errors", "error.type", "malformed_packet", 100 + link},
		{"hw.gpu.nvlink.errors", "error.type", "buffer_overrun", 200 + link},
		{"hw.gpu.nvlink.errors", "error.type", "receive", 300 + link},
		{"hw.gpu.nvlink.errors", "error.type", "receive_remote", 400 + link},
		{"hw.gpu.nvlink.errors", "error.type", "receive_general", 500 + link},
		{"hw.gpu.nvlink.errors", "error.type", "local_integrity", 600 + link},
		{"hw.gpu.nvlink.errors", "error.type", "transmit_discard", 700 + link},
		{"hw.gpu.nvlink.recoveries", "outcome", "success", 800 + link},
		{"hw.gpu.nvlink.recoveries", "outcome", "failure", 900 + link},
		{"hw.gpu.nvlink.recoveries", "outcome", "any", 1700 + link},
		{"hw.gpu.nvlink.errors", "error.type", "effective", 1000 + link},
		{"hw.gpu.nvlink.errors", "error.type", "symbol", 1100 + link},
		{"hw.gpu.nvlink.bit_error_rate", "error.type", "effective", 15e-15},
		{"hw.gpu.nvlink.bit_error_rate", "error.type", "symbol", 1e-12},
		{"hw.gpu.nvlink.fec.corrected", "hw.gpu.nvlink.fec.bin", "1", 70 + link},
		{"hw.gpu.nvlink.fec.corrected", "hw.gpu.nvlink.fec.bin", "15", link},
	} {
		p, ok := point(m, want.metric, map[string]string{"hw.name": "gpu0", "hw.gpu.nvlink.id": "3", want.key: want.value})
		require.True(t, ok, "%s %s", want.metric, want.value)
		assert.InEpsilon(t, want.n, number(p), 1e-9, "%s %s", want.metric, want.value)
	}
	_, ok := point(m, "hw.gpu.nvlink.errors", map[string]string{"hw.name": "gpu0", "error.type": "replay"})
	assert.False(t, ok, "the older counters do not exist on Blackwell")
	_, ok = point(m, "hw.gpu.nvlink.packets", map[string]string{"hw.name": "gpu1"})
	assert.False(t, ok, "nor the newer ones on Hopper")
}

func TestFabricHasItsStateAndConditions(t *testing.T) {
	_, gpus := library.Machine(t, "h200", "l40s")
	// Bandwidth degraded; no route recovery; route healthy; access timeout unknown; a wrong chassis.
	gpus[0].Set("fabric_health", 1|2<<2|2<<4|0<<6|3<<8)
	m := newRig(t, nvml.NewSessions(fast), nil).ready(2).scrapeNow()
	for state, want := range map[string]float64{"not_started": 0, "in_progress": 0, "completed": 1} {
		p, ok := point(m, "hw.gpu.fabric.state", map[string]string{"hw.name": "gpu0", "state": state})
		require.True(t, ok, state)
		assert.InDelta(t, want, number(p), 0, state)
	}
	for condition, want := range map[string]float64{"degraded_bandwidth": 1, "route_recovery": 0, "route_unhealthy": 0, "misconfigured": 1} {
		p, ok := point(m, "hw.gpu.fabric.condition", map[string]string{"hw.name": "gpu0", "condition": condition})
		require.True(t, ok, condition)
		assert.InDelta(t, want, number(p), 0, condition)
	}
	_, ok := point(m, "hw.gpu.fabric.condition", map[string]string{"condition": "access_timeout"})
	assert.False(t, ok, "the GPU does not say")
	_, ok = point(m, "hw.gpu.fabric.state", map[string]string{"hw.name": "gpu1"})
	assert.False(t, ok, "a GPU without a fabric")
}

func TestWSL2HasNoMemoryOfProcessesAndNoEvents(t *testing.T) {
	p, err := fakenvml.LoadProfile("wsl2-rtx-4080-super")
	require.NoError(t, err)
	_, gpus := library.Machine(t, "wsl2-rtx-4080-super")
	gpus[0].SetLoad(p)
	timing := fast
	timing.KernelLog = filepath.Join(t.TempDir(), "kmsg") // WSL2 has none
	r := newRig(t, nvml.NewSessions(timing), nil).ready(1)
	for range 3 {
		m := r.scrapeNow()
		assert.True(t, hasReadings(m, "gpu0"))
		for _, name := range []string{"hw.gpu.process.memory.usage", "hw.gpu.process.utilization"} {
			_, ok := point(m, name, nil)
			assert.False(t, ok, name)
		}
	}
	assert.Empty(t, r.logs.FilterMessageSnippet("Reading failed").All())
}

func TestGPUBeforeAmpereRetiresPages(t *testing.T) {
	_, gpus := library.Machine(t, "v100")
	p, err := fakenvml.LoadProfile("v100")
	require.NoError(t, err)
	gpus[0].SetLoad(p)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	check := func(corrected, uncorrected, pending float64, state string) {
		t.Helper()
		m := r.scrapeNow()
		for _, c := range []struct {
			metric string
			at     map[string]string
			want   float64
		}{
			{"hw.gpu.retired_pages", map[string]string{"error.type": "corrected"}, corrected},
			{"hw.gpu.retired_pages", map[string]string{"error.type": "uncorrected"}, uncorrected},
			{"hw.gpu.retired_pages.pending", nil, pending},
			{"hw.status", map[string]string{"hw.state": state}, 1},
		} {
			point, ok := point(m, c.metric, c.at)
			require.True(t, ok, c.metric)
			assert.InDelta(t, c.want, number(point), 0, "%s %v", c.metric, c.at)
		}
		_, remaps := point(m, "hw.gpu.row_remaps", nil)
		assert.False(t, remaps, "it does not remap rows")
	}
	check(0, 0, 0, "ok")
	const singleBit, doubleBit, pending = 29, 30, 31
	gpus[0].SetField(singleBit, 2, fakenvml.TypeUnsignedInt, fakenvml.Success)
	gpus[0].SetField(doubleBit, 1, fakenvml.TypeUnsignedInt, fakenvml.Success)
	gpus[0].SetField(pending, 1, fakenvml.TypeUnsignedInt, fakenvml.Success)
	check(2, 1, 1, "degraded")
	gpus[0].SetField(pending, 0, fakenvml.TypeUnsignedInt, fakenvml.Success)
	check(2, 1, 0, "ok")
}
