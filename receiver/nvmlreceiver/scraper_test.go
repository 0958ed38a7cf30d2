// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func TestEnergyIsTheCountersValueInJoules(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].Freeze()
	gpus[0].SetEnergy(98765432)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	p, ok := point(r.scrapeNow(), "hw.energy", map[string]string{"hw.type": "gpu"})
	require.True(t, ok)
	assert.InDelta(t, 98765.432, p.DoubleValue(), 1e-6)
}

func TestEverySeriesOfTheTestLibraryIsMarkedAsSimulated(t *testing.T) {
	library.Machine(t, "h100", "rtx-4080-super")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(2)
	points := 0
	eachPoint(r.scrapeNow(), func(p pmetric.NumberDataPoint) {
		points++
		v, ok := p.Attributes().Get("gpu.simulated")
		assert.True(t, ok && v.Bool())
	})
	assert.Greater(t, points, 100)
}

func TestGPUThatHangsDelaysNoOtherAndIsMarkedStale(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s")
	r := newRig(t, nvml.NewSessions(impatient), nil).ready(8)
	first := r.scrapeNow()
	require.True(t, hasReadings(first, "gpu3"))

	gpus[3].SetHang("nvmlDeviceGetPowerUsage", true)
	gpus[3].SetHang("nvmlDeviceGetFieldValues", true)
	calls := gpus[3].Calls("nvmlDeviceGetFieldValues")
	for i := range 5 {
		begin := time.Now()
		m := r.scrapeNow()
		assert.Less(t, time.Since(begin), 2*time.Second)
		for _, name := range []string{"gpu0", "gpu1", "gpu2", "gpu4", "gpu5", "gpu6", "gpu7"} {
			assert.True(t, hasReadings(m, name), "%s missed scrape %d", name, i)
			assert.InDelta(t, 1, isUp(m, name), 0)
		}
		assert.InDelta(t, 0, isUp(m, "gpu3"), 0)
		p, ok := point(m, "hw.temperature", map[string]string{"hw.name": "gpu3"})
		assert.Equal(t, i == 0, ok, "the series get one last point, in the first scrape without a reading")
		if ok {
			assert.True(t, p.Flags().NoRecordedValue())
		}
		failed, _ := point(m, "hw.status", map[string]string{"hw.name": "gpu3", "hw.state": "failed"})
		assert.InDelta(t, 1, number(failed), 0)
		count, _ := point(m, "hw.gpu.count", map[string]string{"state": "unresponsive"})
		assert.InDelta(t, 1, number(count), 0)
	}
	assert.Equal(t, calls+1, gpus[3].Calls("nvmlDeviceGetFieldValues"), "one thread hangs, and no other follows it")

	begin := time.Now()
	require.NoError(t, r.shutdown(context.Background()))
	assert.Less(t, time.Since(begin), 2*time.Second)

	gpus[3].SetHang("nvmlDeviceGetPowerUsage", false)
	gpus[3].SetHang("nvmlDeviceGetFieldValues", false)
	assert.Len(t, r.logs.FilterMessageSnippet("GPU timed out").All(), 1, "logged once")
}

func TestTwoReceiversShareTheWorkerOfAGPUThatHangs(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	sessions := nvml.NewSessions(impatient)
	slow := newRig(t, sessions, nil).ready(1)
	quick := newRig(t, sessions, func(c *Config) { c.CollectionInterval = 200 * time.Millisecond }).ready(1)
	require.True(t, hasReadings(slow.scrapeNow(), "gpu0"))
	require.True(t, hasReadings(quick.scrapeNow(), "gpu0"))
	calls := gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2")
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", true)
	for range 5 {
		assert.InDelta(t, 0, isUp(slow.scrapeNow(), "gpu0"), 0)
		assert.InDelta(t, 0, isUp(quick.scrapeNow(), "gpu0"), 0)
	}
	assert.Equal(t, calls+1, gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2"))
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", false)
	slow.until("responds again", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
	quick.until("responds again", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
}

func TestRestartWhileAGPUHangsSendsNoSecondThread(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s")
	sessions := nvml.NewSessions(impatient)
	r := newRig(t, sessions, nil).ready(2)
	r.scrapeNow()
	calls := gpus[1].Calls("nvmlDeviceGetMemoryInfo_v2")
	gpus[1].SetHang("nvmlDeviceGetMemoryInfo_v2", true)
	for range 3 {
		late, _ := point(r.scrapeNow(), "hw.gpu.count", map[string]string{"state": "unresponsive"})
		assert.InDelta(t, 1, number(late), 0, "the GPU counts, known or not")
		require.NoError(t, r.shutdown(context.Background()))
		r = newRig(t, sessions, nil).ready(1)
		r.until("the other GPU is read", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
	}
	assert.Equal(t, calls+1, gpus[1].Calls("nvmlDeviceGetMemoryInfo_v2"))
	gpus[1].SetHang("nvmlDeviceGetMemoryInfo_v2", false)
	r.until("the GPU is back", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu1") })
}

func TestLostGPUIsMarkedStaleAndOthersContinue(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "h200")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(2)
	before := r.scrapeNow()
	gpus[0].SetLost(true)
	m := r.scrapeNow()
	assert.InDelta(t, 0, isUp(m, "gpu0"), 0)
	assert.True(t, hasReadings(m, "gpu1"))
	ended := 0
	eachPoint(m, func(p pmetric.NumberDataPoint) {
		if p.Flags().NoRecordedValue() {
			ended++
		}
	})
	assert.Greater(t, ended, 40, "each series of the lost GPU gets a last point")
	assert.Less(t, ended, before.DataPointCount()/2)
	info, ok := point(m, "hw.gpu.info", map[string]string{"hw.name": "gpu0"})
	assert.True(t, ok && !info.Flags().NoRecordedValue(), "the identity of a lost GPU stays")
	m = r.scrapeNow()
	eachPoint(m, func(p pmetric.NumberDataPoint) {
		// The other GPU's peaks end where the sampler had no time between two scrapes.
		if !matches(p, map[string]string{"hw.name": "gpu1"}) {
			assert.False(t, p.Flags().NoRecordedValue(), "a series has one last point: %v", p.Attributes().AsRaw())
		}
	})

	gpus[0].SetLost(false)
	m = r.until("the GPU is back", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
	assert.InDelta(t, 1, isUp(m, "gpu0"), 0)
	assert.Len(t, r.logs.FilterMessageSnippet("GPU is lost").All(), 1)
	assert.Len(t, r.logs.FilterMessageSnippet("GPU responds again").All(), 1)
}

func TestLostGPUIsForgottenAfterTheSetting(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "h200")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.ForgetLostAfter = 30 * time.Millisecond }).ready(2)
	r.scrapeNow()
	gpus[0].SetLost(true)
	m := r.until("forgotten", func(m pmetric.Metrics) bool {
		p, ok := point(m, "hw.gpu.up", map[string]string{"hw.name": "gpu0"})
		return ok && p.Flags().NoRecordedValue()
	})
	info, _ := point(m, "hw.gpu.info", map[string]string{"hw.name": "gpu0"})
	assert.True(t, info.Flags().NoRecordedValue())
	_, ok := point(r.scrapeNow(), "hw.gpu.up", map[string]string{"hw.name": "gpu0"})
	assert.False(t, ok)
	gpus[0].SetLost(false)
	r.until("back", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
}

func TestRowThatFailsIsMarkedStaleAndLoggedOnce(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	gpus[0].SetReturn("nvmlDeviceGetTemperature", fakenvml.Unknown)
	m := r.scrapeNow()
	p, ok := point(m, "hw.temperature", map[string]string{"hw.sensor_location": "gpu"})
	require.True(t, ok)
	assert.True(t, p.Flags().NoRecordedValue())
	assert.InDelta(t, 1, isUp(m, "gpu0"), 0, "one failing row does not make the GPU unhealthy")
	r.scrapeNow()
	r.scrapeNow()
	assert.Len(t, r.logs.FilterMessageSnippet("Reading failed").All(), 1)
	gpus[0].SetReturn("nvmlDeviceGetTemperature", fakenvml.Success)
	assert.True(t, hasReadings(r.scrapeNow(), "gpu0"))
	assert.Len(t, r.logs.FilterMessageSnippet("works again").All(), 1)
}

func TestRowThatAGPUDoesNotSupportIsNotReadAgain(t *testing.T) {
	_, gpus := library.Machine(t, "rtx-4080-super")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	calls := gpus[0].Calls("nvmlDeviceGetMemoryErrorCounter")
	r.scrapeNow()
	assert.Equal(t, calls, gpus[0].Calls("nvmlDeviceGetMemoryErrorCounter"))
}

func TestGPUWhoseEveryCallFailsIsLost(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(2)
	r.scrapeNow()
	gpus[0].FailEveryCall(fakenvml.Unknown)
	m := r.scrapeNow()
	assert.InDelta(t, 0, isUp(m, "gpu0"), 0)
	assert.True(t, hasReadings(m, "gpu1"))
	assert.Empty(t, r.logs.FilterMessageSnippet("Reading failed").All(), "the GPU is logged as lost, not each of its rows")
	assert.Len(t, r.logs.FilterMessageSnippet("GPU is lost").All(), 1)
}

func TestDriverThatIsLoadedLaterIsFound(t *testing.T) {
	machine, _ := library.Machine(t, "h100")
	machine.UnloadDriver()
	r := newRig(t, nvml.NewSessions(fast), nil)
	m := r.until("the driver's absence is known", func(pmetric.Metrics) bool { return r.session.Snapshot().Err != nil })
	count, ok := point(m, "hw.gpu.count", map[string]string{"state": "healthy"})
	require.True(t, ok)
	assert.InDelta(t, 0, number(count), 0)
	assert.Len(t, r.logs.FilterMessageSnippet("driver is not loaded").All(), 1)
	machine.LoadDriver()
	r.until("GPUs are read", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
}

func TestDriverThatIsReloadedIsFoundAgain(t *testing.T) {
	machine, gpus := library.Machine(t, "h100", "l40s")
	gpus[0].SetEnergy(1e9)
	// The session inspects the machine rarely enough for a scrape to come before.
	r := newRig(t, nvml.NewSessions(nvml.Timing{Rescan: 2 * time.Second, Probe: fast.Probe, Close: fast.Close}), nil).ready(2)
	before := r.scrapeNow()
	energy, _ := point(before, "hw.energy", map[string]string{"hw.name": "gpu0"})
	machine.LoadDriver()
	gpus[0].SetEnergy(0)
	m := r.scrapeNow()
	assert.InDelta(t, 0, isUp(m, "gpu0"), 0)
	m = r.until("GPUs are read again", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") && hasReadings(m, "gpu1") })
	again, _ := point(m, "hw.energy", map[string]string{"hw.name": "gpu0"})
	assert.Greater(t, again.StartTimestamp(), energy.StartTimestamp(), "the driver's counters restarted")
}

func TestDriverUpgradeIsLoggedOnceWithTheRemedy(t *testing.T) {
	machine, _ := library.Machine(t, "h100")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	machine.UpgradeDriver()
	r.until("the mismatch is known", func(pmetric.Metrics) bool { return r.session.Snapshot().State == nvml.Mismatch })
	m := r.scrapeNow()
	assert.InDelta(t, 0, isUp(m, "gpu0"), 0)
	logged := r.logs.FilterMessageSnippet("restart the collector").All()
	require.Len(t, logged, 1)
}

func TestDeviceFilterChoosesByEachName(t *testing.T) {
	library.Machine(t, "h100", "h200", "l40s")
	all := newRig(t, nvml.NewSessions(fast), nil).ready(3)
	uuid := all.session.Snapshot().GPUs[2].Identity().UUID
	require.NoError(t, all.shutdown(context.Background()))
	for _, test := range []struct {
		include, exclude []string
		want             []string
	}{
		{nil, nil, []string{"gpu0", "gpu1", "gpu2"}},
		{[]string{"1"}, nil, []string{"gpu1"}},
		{[]string{"gpu2"}, nil, []string{"gpu2"}},
		{[]string{uuid}, nil, []string{"gpu2"}},
		{nil, []string{strings.ToUpper(uuid)}, []string{"gpu0", "gpu1"}},
		{[]string{"0000:02:00.0"}, nil, []string{"gpu1"}},
		{[]string{"00000000:02:00"}, nil, []string{"gpu1"}},
		{nil, []string{"0", "00000000:03:00.0"}, []string{"gpu1"}},
	} {
		r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.Devices = DeviceFilter{test.include, test.exclude} }).ready(3)
		m := r.scrapeNow()
		var got []string
		for _, name := range []string{"gpu0", "gpu1", "gpu2"} {
			if isUp(m, name) == 1 {
				got = append(got, name)
			}
		}
		assert.Equal(t, test.want, got)
		require.NoError(t, r.shutdown(context.Background()))
	}
}

func TestMetricsThatAreOffAreNeitherEmittedNorAsked(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) {
		c.Metrics.HwTemperature.Enabled = false
		c.Metrics.HwPower.Enabled = false
	}).ready(1)
	m := r.scrapeNow()
	_, ok := point(m, "hw.temperature", nil)
	assert.False(t, ok)
	assert.Zero(t, gpus[0].Calls("nvmlDeviceGetTemperature"))
	_, ok = point(m, "hw.energy", nil)
	assert.True(t, ok)
}

func TestPerGPUResourceCarriesTheDescription(t *testing.T) {
	library.Machine(t, "h100", "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.PerCardResource = true }).ready(2)
	m := r.scrapeNow()
	require.Equal(t, 3, m.ResourceMetrics().Len(), "one resource a GPU and one for the host")
	for i, model := range []string{"NVIDIA H100 80GB HBM3", "NVIDIA L40S"} {
		attributes := m.ResourceMetrics().At(i).Resource().Attributes().AsRaw()
		assert.Equal(t, model, attributes["hw.model"])
		assert.Equal(t, "testhost", attributes["host.name"])
		assert.NotEmpty(t, attributes["hw.id"])
	}
}

func TestPerGPUResourceHasOneForEachMIGDevice(t *testing.T) {
	library.Machine(t, "h100-mig")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.PerCardResource, c.Metrics.HwGpuMemoryFree.Enabled = true, true }).ready(1)
	m := r.scrapeNow()
	devices := 0
	for _, rm := range m.ResourceMetrics().All() {
		a := rm.Resource().Attributes().AsRaw()
		if a["hw.parent"] == nil {
			continue
		}
		devices++
		assert.Contains(t, a["hw.id"], "MIG-")
		assert.Contains(t, a["hw.parent"], "GPU-")
		assert.Regexp(t, `^\d+g\.\d+gb$`, a["hw.gpu.mig.profile"])
		assert.Regexp(t, `^\d+$`, a["hw.gpu.mig.gpu_instance.id"])
		assert.NotEmpty(t, a["hw.gpu.pci.bus_id"])
		free := false
		for _, metric := range rm.ScopeMetrics().At(0).Metrics().All() {
			for _, p := range pointsOf(metric).All() {
				id, _ := p.Attributes().Get("hw.id")
				assert.Equal(t, a["hw.id"], id.Str(), metric.Name())
			}
			free = free || metric.Name() == "hw.gpu.memory.free"
		}
		assert.True(t, free)
	}
	assert.Greater(t, devices, 1)
}

func TestUtilizationIsTheAverageOverTheDriversSamplingPeriod(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	gpus[0].SetSamplingPeriods(200*time.Millisecond, time.Second)
	gpus[0].Step("gpu", 0)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	gpus[0].Step("gpu", 100)
	seen := map[float64]bool{}
	r.until("the load shows", func(m pmetric.Metrics) bool {
		p, _ := point(m, "hw.gpu.utilization", map[string]string{"hw.gpu.task": "general"})
		seen[number(p)] = true
		return number(p) == 1
	})
	assert.LessOrEqual(t, len(seen), 3, "the value moves once a sampling period: %v", seen)
}

func TestStatusFollowsItsCauses(t *testing.T) {
	state := func(m pmetric.Metrics) string {
		for _, s := range []string{"ok", "degraded", "failed", "predicted_failure"} {
			if p, ok := point(m, "hw.status", map[string]string{"hw.state": s}); ok && number(p) == 1 {
				return s
			}
		}
		return ""
	}
	for _, test := range []struct {
		cause string
		set   func(*fakenvml.GPU)
		want  string
	}{
		{"nothing", func(*fakenvml.GPU) {}, "ok"},
		{"hardware slowdown", func(c *fakenvml.GPU) { c.Set("throttle_reasons", 0x48) }, "degraded"},
		{"power brake", func(c *fakenvml.GPU) { c.Set("throttle_reasons", 0x80) }, "degraded"},
		{"software power cap", func(c *fakenvml.GPU) { c.Set("throttle_reasons", 0x4) }, "ok"},
		{"uncorrected ECC error", func(c *fakenvml.GPU) { c.Set("ecc_dram_uncorrected_volatile", 1) }, "degraded"},
		{"old uncorrected ECC error", func(c *fakenvml.GPU) { c.Set("ecc_dram_uncorrected_aggregate", 1) }, "ok"},
		{"slow link at rest", func(c *fakenvml.GPU) { c.Set("pcie_generation", 1); c.Step("gpu", 0) }, "ok"},
		{"slow link under load", func(c *fakenvml.GPU) { c.Set("pcie_generation", 1); c.Step("gpu", 100) }, "degraded"},
		{"row remapping failed", func(c *fakenvml.GPU) { c.SetField(145, 1, fakenvml.TypeUnsignedInt, fakenvml.Success) }, "failed"},
		{"row remapping pending", func(c *fakenvml.GPU) { c.SetField(144, 1, fakenvml.TypeUnsignedInt, fakenvml.Success) }, "degraded"},
		{"page retirement pending", func(c *fakenvml.GPU) { c.SetField(31, 1, fakenvml.TypeUnsignedInt, fakenvml.Success) }, "degraded"},
		{"driver requests a reset", func(c *fakenvml.GPU) { c.SetField(230, 1, fakenvml.TypeUnsignedInt, fakenvml.Success) }, "failed"},
		{"driver requests a drain", func(c *fakenvml.GPU) { c.SetField(230, 3, fakenvml.TypeUnsignedInt, fakenvml.Success) }, "degraded"},
		{"an unknown action", func(c *fakenvml.GPU) { c.SetField(230, 99, fakenvml.TypeUnsignedInt, fakenvml.Success) }, "ok"},
		{"bank with few spare rows", func(c *fakenvml.GPU) { c.Set("remap_banks_low", 1) }, "predicted_failure"},
		{"bank without spare rows", func(c *fakenvml.GPU) { c.Set("remap_banks_none", 1) }, "predicted_failure"},
		{"bank in use", func(c *fakenvml.GPU) { c.Set("remap_banks_partial", 1) }, "ok"},
		{"many corrected errors", func(c *fakenvml.GPU) { c.Set("ecc_dram_corrected_volatile", 100) }, "predicted_failure"},
		{"some corrected errors", func(c *fakenvml.GPU) { c.Set("ecc_dram_corrected_volatile", 99) }, "ok"},
		{"lost", func(c *fakenvml.GPU) { c.SetLost(true) }, "failed"},
	} {
		t.Run(test.cause, func(t *testing.T) {
			_, gpus := library.Machine(t, "h100")
			gpus[0].SetSamplingPeriods(time.Microsecond, time.Microsecond)
			gpus[0].SetField(31, 0, fakenvml.TypeUnsignedInt, fakenvml.Success) // an older GPU's page retirement
			r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
			r.scrapeNow()
			test.set(gpus[0])
			assert.Equal(t, test.want, state(r.scrapeNow()))
		})
	}
}

func TestChangeOfTheMIGModeMakesTheGPUBeReadFromTheBeginning(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	busy := func(m pmetric.Metrics) bool {
		p, ok := point(m, "hw.gpu.utilization", map[string]string{"hw.gpu.task": "general"})
		return ok && !p.Flags().NoRecordedValue()
	}
	require.True(t, busy(r.scrapeNow()))
	gpus[0].SetMIG(fakenvml.MIGDevice{UUID: "MIG-1", Name: "MIG 7g.80gb", MemoryTotal: 80 << 30})
	m := r.until("MIG is enabled, and known to be", func(m pmetric.Metrics) bool {
		info, _ := point(m, "hw.gpu.info", map[string]string{"hw.gpu.mig.mode": "enabled"})
		return !busy(m) && info != pmetric.NumberDataPoint{}
	})
	assert.True(t, hasReadings(m, "gpu0"))
	gpus[0].SetMIG()
	r.until("MIG is disabled", busy)
}

// TestSentinelsBecomeNoSamples sets every number of a GPU to all ones, NVML's value for
// "not available".
func TestSentinelsBecomeNoSamples(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].SetSamplingPeriods(time.Microsecond, time.Microsecond)
	for _, name := range []string{
		"memory_total", "memory_used", "memory_reserved", "bar1_total", "bar1_used", "temperature_gpu", "power_limit_enforced", "power_limit_current",
		"power_limit_default", "power_limit_min", "power_limit_max", "clock_graphics", "clock_sm", "clock_memory", "clock_video", "clock_max_graphics",
		"performance_state", "pcie_generation", "pcie_generation_max", "pcie_width", "pcie_width_max", "pcie_replays",
		"ecc_dram_corrected_volatile", "ecc_dram_uncorrected_volatile", "remap_banks_max",
		"remap_banks_high", "remap_banks_partial", "remap_banks_low", "remap_banks_none",
	} {
		gpus[0].Set(name, -1)
	}
	for _, field := range []int{74, 75, 76, 82, 142, 143, 144, 145, 185, 197, 198, 230, 269, 270, 271} {
		gpus[0].SetField(field, -1, fakenvml.TypeUnsignedLL, fakenvml.Success)
	}
	gpus[0].SetNVLinks(fakenvml.NVLink{Active: true, TxKiB: -1, RxKiB: -1, Errors: [5]int64{-1, -1, -1, -1, -1}})
	gpus[0].SetProcesses(fakenvml.Process{PID: 1, Memory: fakenvml.NotAvailable, SM: 1<<32 - 1})
	for id := range 62 {
		gpus[0].SetGPM(id, 1<<62, fakenvml.Success)
	}
	for _, series := range []string{"gpu", "memory", "encoder", "decoder", "jpeg", "ofa"} {
		gpus[0].Step(series, 1<<32-1)
	}
	gpus[0].Freeze()
	gpus[0].SetEnergy(-1)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	m := r.scrapeNow()
	for _, name := range []string{
		"hw.gpu.memory.usage", "hw.gpu.memory.limit", "hw.gpu.bar1.usage", "hw.gpu.power.limit", "hw.gpu.performance_state",
		"hw.gpu.pcie.link.generation", "hw.gpu.pcie.link.width", "hw.gpu.pcie.replays", "hw.gpu.utilization", "hw.gpu.throttle.time", "hw.gpu.row_remaps",
		"hw.gpu.row_remaps.failed", "hw.gpu.recovery_action", "hw.energy", "hw.temperature", "hw.gpu.memory.usage.max",
		"hw.gpu.io", "hw.gpu.nvlink.io", "hw.gpu.nvlink.errors", "hw.gpu.process.memory.usage", "hw.gpu.row_remaps.banks",
		"hw.gpu.sm.active", "hw.gpu.pipe.active", "hw.gpu.memory.active", "hw.gpu.io.rate",
	} {
		p, ok := point(m, name, nil)
		assert.False(t, ok, "%s = %v", name, func() any {
			if ok {
				return number(p)
			}
			return nil
		}())
	}
	assert.InDelta(t, 1, isUp(m, "gpu0"), 0)
	status, _ := point(m, "hw.status", map[string]string{"hw.state": "ok"})
	assert.InDelta(t, 1, number(status), 0, "they do not change the state either")
}

func TestSixtyFourGPUsAreReadInOneScrape(t *testing.T) {
	profiles := make([]string, 64)
	for i := range profiles {
		profiles[i] = fakenvml.Profiles()[i%len(fakenvml.Profiles())]
	}
	library.Machine(t, profiles...)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(64)
	m := r.scrapeNow()
	p, _ := point(m, "hw.gpu.count", map[string]string{"state": "healthy"})
	assert.InDelta(t, 64, number(p), 0)
}

func TestSeriesOfARenamedGPUEndOnTheirOwnResource(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "h200")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.PerCardResource = true }).ready(2)
	moved := gpus[1].UUID()
	readings := func(m pmetric.Metrics, name string) (live, ended int) {
		for _, rm := range m.ResourceMetrics().All() {
			a := rm.Resource().Attributes().AsRaw()
			if a["hw.id"] != moved || a["hw.name"] != name {
				continue
			}
			for _, metric := range rm.ScopeMetrics().At(0).Metrics().All() {
				for _, p := range pointsOf(metric).All() {
					if p.Flags().NoRecordedValue() {
						ended++
					} else {
						live++
					}
				}
			}
		}
		return live, ended
	}
	before, _ := readings(r.scrapeNow(), "gpu1")
	gpus[0].SetPresent(false)
	m := r.until("the GPU has moved up", func(m pmetric.Metrics) bool { live, _ := readings(m, "gpu0"); return live > 0 })
	live, ended := readings(m, "gpu1")
	assert.Zero(t, live)
	assert.GreaterOrEqual(t, ended, before)
}

func TestGPUsThatComeAndGoKeepTheOthersSeries(t *testing.T) {
	machine, gpus := library.Machine(t, "h100", "h200")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(2)
	r.scrapeNow()
	p, err := fakenvml.LoadProfile("l40s")
	require.NoError(t, err)
	machine.AddGPU(p)
	r.until("the new GPU is read", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu2") })
	gpus[0].SetPresent(false)
	m := r.until("the others moved up", func(m pmetric.Metrics) bool {
		p, ok := point(m, "hw.gpu.count", map[string]string{"state": "lost"})
		return ok && number(p) == 1
	})
	healthy, _ := point(m, "hw.gpu.count", map[string]string{"state": "healthy"})
	assert.InDelta(t, 2, number(healthy), 0)
}
