// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func TestMIGDevicesAreDevicesOfTheirOwnWithTheirParent(t *testing.T) {
	p, err := fakenvml.LoadProfile("h100-mig")
	require.NoError(t, err)
	_, gpus := library.Machine(t, "h100-mig")
	gpus[0].SetLoad(p)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	m := r.scrapeNow()
	gpu, _ := point(m, "hw.gpu.info", map[string]string{"hw.name": "gpu0"})
	gpuID, _ := gpu.Attributes().Get("hw.id")
	info, ok := point(m, "hw.gpu.info", map[string]string{"hw.name": "gpu0/mig0"})
	require.True(t, ok)
	a := info.Attributes().AsRaw()
	assert.Equal(t, gpuID.Str(), a["hw.parent"])
	assert.Equal(t, "3g.40gb", a["hw.gpu.mig.profile"])
	assert.Equal(t, "2", a["hw.gpu.mig.gpu_instance.id"])
	assert.Equal(t, "0", a["hw.gpu.mig.compute_instance.id"])
	assert.Contains(t, a["hw.id"], "MIG-")
	for _, want := range []struct {
		metric string
		at     map[string]string
		value  float64
	}{
		{"hw.gpu.memory.limit", map[string]string{"hw.name": "gpu0/mig0"}, 40448 << 20},
		{"hw.gpu.memory.usage", map[string]string{"hw.name": "gpu0/mig0"}, 11091 << 20},
		{"hw.gpu.memory.usage", map[string]string{"hw.name": "gpu0/mig3"}, 9 << 20},
		{"hw.gpu.sm.active", map[string]string{"hw.name": "gpu0/mig0"}, 0.98 * 0.43},
		{"hw.gpu.process.memory.usage", map[string]string{"hw.name": "gpu0/mig0", "process.pid": "21198"}, 7484 << 20},
	} {
		p, ok := point(m, want.metric, want.at)
		require.True(t, ok, "%s %v", want.metric, want.at)
		assert.InDelta(t, want.value, number(p), 1e-9, "%s %v", want.metric, want.at)
	}
	_, ok = point(m, "hw.gpu.process.memory.usage", map[string]string{"hw.name": "gpu0"})
	assert.False(t, ok, "the processes are the MIG devices'")
}

func TestProfilingOfASharedGPUInstanceBelongsToNoneOfItsDevices(t *testing.T) {
	library.Machine(t, "h200-mig") // its first two devices share a GPU instance
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	m := r.scrapeNow()
	for name, want := range map[string]bool{"gpu0/mig0": false, "gpu0/mig1": false, "gpu0/mig2": true} {
		_, ok := point(m, "hw.gpu.sm.active", map[string]string{"hw.name": name})
		assert.Equal(t, want, ok, name)
	}
}

func TestMIGDeviceThatIsDestroyedIsMarkedStaleAndTheOthersStay(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	first := fakenvml.MIGDevice{UUID: "MIG-1", Name: "NVIDIA H100 MIG 3g.40gb", GPUInstance: 1, MemoryTotal: 40 << 30}
	second := fakenvml.MIGDevice{UUID: "MIG-2", Name: "NVIDIA H100 MIG 4g.40gb", GPUInstance: 2, MemoryTotal: 40 << 30}
	gpus[0].SetMIG(first, second)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	has := func(id string) func(pmetric.Metrics) bool {
		return func(m pmetric.Metrics) bool {
			p, ok := point(m, "hw.gpu.memory.usage", map[string]string{"hw.id": id})
			return ok && !p.Flags().NoRecordedValue()
		}
	}
	r.until("both devices", func(m pmetric.Metrics) bool { return has("MIG-1")(m) && has("MIG-2")(m) })
	gpus[0].SetMIG(first)
	m := r.scrapeNow()
	require.True(t, has("MIG-1")(m))
	for _, name := range []string{"hw.gpu.memory.usage", "hw.gpu.info"} {
		p, ok := point(m, name, map[string]string{"hw.id": "MIG-2"})
		require.True(t, ok, name)
		assert.True(t, p.Flags().NoRecordedValue(), "%s gets a last point", name)
	}
	_, ok := point(r.scrapeNow(), "hw.gpu.info", map[string]string{"hw.id": "MIG-2"})
	assert.False(t, ok, "and no other")

	// MIG is disabled while the receiver runs, and enabled again.
	gpus[0].SetMIG()
	m = r.until("MIG is disabled", func(m pmetric.Metrics) bool {
		_, ok := point(m, "hw.gpu.info", map[string]string{"hw.gpu.mig.mode": "disabled"})
		return ok
	})
	require.False(t, has("MIG-1")(m))
	r.until("utilisation is back", func(m pmetric.Metrics) bool {
		p, ok := point(m, "hw.gpu.utilization", map[string]string{"hw.gpu.task": "general"})
		return ok && !p.Flags().NoRecordedValue()
	})
	gpus[0].SetMIG(second)
	r.until("MIG is enabled again", has("MIG-2"))
	assert.Empty(t, r.logs.FilterMessageSnippet("GPU is lost").All())
	assert.Empty(t, r.logs.FilterMessageSnippet("Reading failed").All())
}

func TestMIGDevicesOfALostGPUAreMarkedStale(t *testing.T) {
	_, gpus := library.Machine(t, "h100-mig")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	gpus[0].SetLost(true)
	m := r.scrapeNow()
	p, ok := point(m, "hw.gpu.memory.usage", map[string]string{"hw.name": "gpu0/mig1"})
	require.True(t, ok)
	assert.True(t, p.Flags().NoRecordedValue())
	gpus[0].SetLost(false)
	r.until("back with its devices", func(m pmetric.Metrics) bool {
		p, ok := point(m, "hw.gpu.memory.usage", map[string]string{"hw.name": "gpu0/mig1"})
		return ok && !p.Flags().NoRecordedValue()
	})
}
