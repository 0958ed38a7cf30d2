// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// followed are the metrics of the receiver that follows work in config/comfyui.yaml.
var followed = []string{
	"hw.gpu.memory.usage", "hw.gpu.process.memory.usage", "hw.gpu.process.utilization", "hw.energy", "hw.power", "hw.gpu.utilization",
	"hw.gpu.throttle.time", "hw.gpu.throttle.active", "hw.temperature",
}

// clock is a time that a test moves, and the real one at 0.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time {
	if ns := c.ns.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Now()
}
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// followRig is a receiver that follows work, in a time of its own.
type followRig struct {
	*rig
	clock *clock
	work  *gpuevents.Work
}

func newFollowRig(t *testing.T, gpus int) *followRig {
	t.Helper()
	f := &followRig{clock: &clock{}, work: &gpuevents.Work{}}
	f.clock.ns.Store(time.Now().Truncate(time.Minute).UnixNano())
	f.rig = newRig(t, nvml.NewSessions(fast), func(c *Config) {
		c.CollectionInterval, c.WorkingInterval = 200*time.Millisecond, 50*time.Millisecond
		enable(c, followed...)
	}).ready(gpus)
	f.now, f.rig.work = f.clock.now, f.work
	f.scrapeNow() // finds out what the GPU does not have
	return f
}

// enable enables these metrics and no others.
func enable(c *Config, names ...string) {
	cfg := createDefaultConfig().(*Config)
	if err := confmap.NewFromStringMap(map[string]any{"only": toAny(names)}).Unmarshal(cfg); err != nil {
		panic(err)
	}
	c.Metrics = cfg.Metrics
}

func toAny(names []string) (all []any) {
	for _, n := range names {
		all = append(all, n)
	}
	return all
}

// run scrapes at an interval for a time, as the pacer does, and returns the calls of each
// GPU by function.
func (f *followRig) run(interval, d time.Duration, gpus []*fakenvml.GPU) []map[string]int64 {
	before := make([]map[string]int64, len(gpus))
	for i, g := range gpus {
		before[i] = g.AllCalls()
	}
	for range d / interval {
		f.clock.advance(interval)
		f.scrapeNow()
	}
	all := make([]map[string]int64, len(gpus))
	for i, g := range gpus {
		all[i] = map[string]int64{}
		for name, n := range g.AllCalls() {
			if n -= before[i][name]; n > 0 && !ofSession[name] {
				all[i][name] = n
			}
		}
	}
	return all
}

// ofSession are the calls by which the session finds out who the GPUs are.
var ofSession = map[string]bool{
	"nvmlDeviceGetHandleByIndex_v2": true, "nvmlDeviceGetUUID": true, "nvmlDeviceGetMigMode": true,
	"nvmlDeviceGetSupportedEventTypes": true, "nvmlDeviceRegisterEvents": true,
}

func TestAReceiverThatFollowsWorkKeepsItsPace(t *testing.T) {
	const seconds = 20
	_, gpus := library.Machine(t, "h100", "h100")
	for i, g := range gpus {
		g.SetProcesses(fakenvml.Process{PID: 100 + i, Memory: 4 << 30, SM: 50}, fakenvml.Process{PID: 200 + i, Memory: 1 << 30, SM: 20})
	}
	f := newFollowRig(t, 2)
	rest := map[string]int64{
		"nvmlDeviceGetFieldValues":               5 * seconds,
		"nvmlDeviceGetMemoryInfo_v2":             5 * seconds, // the sampler reads it between
		"nvmlDeviceGetSamples":                   seconds,
		"nvmlDeviceGetTemperature":               seconds / 10,
		"nvmlDeviceGetCurrentClocksEventReasons": seconds / 10,
	}
	calls := f.run(200*time.Millisecond, seconds*time.Second, gpus)
	assert.Equal(t, []map[string]int64{rest, rest}, calls, "at rest")

	ours, other := fakenvml.Process{PID: 100, Memory: 1 << 30}, fakenvml.Process{PID: 300, Memory: 1 << 30}
	gpus[0].SetProcesses(ours)
	one, two := f.work.AddServer(), f.work.AddServer()
	first := gpuevents.Place{GPUs: []string{gpus[0].UUID()}, PID: 100}
	one.Set(true, first)
	working := maps.Clone(rest)
	working["nvmlDeviceGetFieldValues"] = 20 * seconds
	working["nvmlDeviceGetMemoryInfo_v2"] = 10 * seconds
	working["nvmlDeviceGetTemperature"] = seconds
	working["nvmlDeviceGetCurrentClocksEventReasons"] = seconds
	working["nvmlDeviceGetComputeRunningProcesses_v3"] = seconds / 5
	calls = f.run(50*time.Millisecond, seconds*time.Second, gpus)
	// One list more: the first, when the work begins.
	assert.InDelta(t, seconds/5, calls[0]["nvmlDeviceGetComputeRunningProcesses_v3"], 1)
	calls[0]["nvmlDeviceGetComputeRunningProcesses_v3"] = seconds / 5
	// The memory is read beside each list, too.
	assert.InDelta(t, 10*seconds, calls[0]["nvmlDeviceGetMemoryInfo_v2"], seconds/5+1)
	calls[0]["nvmlDeviceGetMemoryInfo_v2"] = 10 * seconds
	assert.Equal(t, working, calls[0], "the GPU that works")
	assert.Equal(t, rest, calls[1], "the other one")

	gpus[0].SetProcesses(ours, other)
	f.run(50*time.Millisecond, seconds*time.Second, gpus) // until it is listed
	calls = f.run(50*time.Millisecond, seconds*time.Second, gpus)
	assert.InDelta(t, seconds, calls[0]["nvmlDeviceGetProcessUtilization"], 1, "one beside ours")
	gpus[0].SetProcesses(ours)
	f.run(50*time.Millisecond, seconds*time.Second, gpus)
	calls = f.run(50*time.Millisecond, seconds*time.Second, gpus)
	assert.Zero(t, calls[0]["nvmlDeviceGetProcessUtilization"], "it has ended")

	two.Set(true, gpuevents.Place{GPUs: []string{gpus[0].UUID()}, PID: 200})
	calls = f.run(50*time.Millisecond, seconds*time.Second, gpus)
	assert.InDelta(t, seconds, calls[0]["nvmlDeviceGetProcessUtilization"], 1, "two processes of ours")
	assert.Zero(t, calls[1]["nvmlDeviceGetProcessUtilization"])

	both := gpuevents.Place{GPUs: []string{gpus[0].UUID(), gpus[1].UUID()}, PID: 201}
	two.Set(true, both)
	calls = f.run(50*time.Millisecond, seconds*time.Second, gpus)
	assert.InDelta(t, seconds, calls[1]["nvmlDeviceGetProcessUtilization"], 1, "a process that may use another GPU instead")
	f.run(50*time.Millisecond, 300*time.Millisecond, gpus)
	two.Ended(false, both, f.clock.now())
	calls = f.run(50*time.Millisecond, seconds*time.Second, gpus)
	for i := range calls {
		assert.EqualValues(t, 1, calls[i]["nvmlDeviceGetProcessUtilization"], "once more after that")
	}

	f.run(50*time.Millisecond, time.Second, gpus)
	two.Close()
	one.Ended(false, first, f.clock.now())
	calls = f.run(50*time.Millisecond, seconds*time.Second, gpus)
	assert.EqualValues(t, 1, calls[0]["nvmlDeviceGetComputeRunningProcesses_v3"], "one list after the execution")
	assert.InDelta(t, 5*seconds+8, calls[0]["nvmlDeviceGetFieldValues"], 1, "half a second more")
}

func TestSamplesOfAReceiverThatFollowsWorkHaveTheTimesOfTheirReadings(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	f := newFollowRig(t, 1)
	f.clock.ns.Store(0) // the driver's samples have real times
	f.work.AddServer().Set(true, gpuevents.Place{GPUs: []string{gpus[0].UUID()}})
	last := map[string]pcommon.Timestamp{}
	seen := map[string]int{}
	for range 30 {
		begin := time.Now()
		m := f.scrapeNow()
		end := time.Now()
		for _, name := range followed {
			eachOf(m, name, func(p pmetric.NumberDataPoint) {
				at := p.Timestamp().AsTime()
				assert.False(t, p.Flags().NoRecordedValue(), "%s goes on", name)
				assert.False(t, at.After(end), name)
				if name == "hw.gpu.utilization" {
					assert.WithinDuration(t, begin, at, maxSampleAge)
				} else {
					assert.WithinDuration(t, begin, at, 300*time.Millisecond, name)
				}
				assert.Less(t, p.StartTimestamp(), p.Timestamp())
				seen[name]++
				last[name] = p.Timestamp()
			})
		}
		waitUntil(t, begin.Add(50*time.Millisecond))
	}
	assert.Equal(t, 2*seen["hw.energy"], seen["hw.power"], "instant and average")
	assert.Greater(t, seen["hw.energy"], 20, "in each scrape, unless the test machine was busy")
	assert.LessOrEqual(t, seen["hw.energy"], 30)
	assert.Greater(t, seen["hw.gpu.memory.usage"], 10)
	assert.Less(t, seen["hw.temperature"]-seen["hw.energy"], 8, "of the chip: once a second; that of the memory is a field value")
	assert.GreaterOrEqual(t, seen["hw.gpu.utilization"], 3, "the driver's own samples: one each 166 ms")
}

func eachOf(m pmetric.Metrics, name string, visit func(pmetric.NumberDataPoint)) {
	for _, rm := range m.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				if metric.Name() == name {
					for _, p := range pointsOf(metric).All() {
						visit(p)
					}
				}
			}
		}
	}
}

// TestProcessesHaveMemoryInListsOnly leaves what a process holds between two lists to the
// correlation, which knows what comes after.
func TestProcessesHaveMemoryInListsOnly(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	const gib = 1 << 30
	gpus[0].SetProcesses(fakenvml.Process{PID: 7, Memory: 2 * gib}, fakenvml.Process{PID: 8, Memory: 1 * gib})
	f := newFollowRig(t, 1)
	f.work.AddServer().Set(true, gpuevents.Place{GPUs: []string{gpus[0].UUID()}, PID: 7})
	memory := func() (values []int64) {
		f.clock.advance(100 * time.Millisecond)
		eachOf(f.scrapeNow(), "hw.gpu.process.memory.usage", func(p pmetric.NumberDataPoint) { values = append(values, p.IntValue()) })
		return values
	}
	assert.ElementsMatch(t, []int64{2 * gib, 1 * gib}, memory(), "the list")
	for range 10 {
		assert.Empty(t, memory())
	}
}

func TestWithoutAServerThePowerSaysWhenAGPUWorks(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].Step("power", 70_000)
	f := newFollowRig(t, 1)
	calls := f.run(50*time.Millisecond, 2*time.Second, gpus)
	assert.EqualValues(t, 10, calls[0]["nvmlDeviceGetFieldValues"])
	gpus[0].Step("power", 75_000) // noise
	assert.EqualValues(t, 10, f.run(50*time.Millisecond, 2*time.Second, gpus)[0]["nvmlDeviceGetFieldValues"])
	gpus[0].Step("power", 400_000)
	assert.InDelta(t, 40, f.run(50*time.Millisecond, 2*time.Second, gpus)[0]["nvmlDeviceGetFieldValues"], 4, "seen within one reading at rest")
	gpus[0].Step("power", 71_000)
	assert.InDelta(t, 10+8, f.run(50*time.Millisecond, 2*time.Second, gpus)[0]["nvmlDeviceGetFieldValues"], 1, "and half a second more")
	f.work.AddServer() // a server that says when it works is believed
	gpus[0].Step("power", 400_000)
	f.run(50*time.Millisecond, time.Second, gpus)
	assert.EqualValues(t, 10, f.run(50*time.Millisecond, 2*time.Second, gpus)[0]["nvmlDeviceGetFieldValues"])
}

func TestAGPUThatIsSlowIsLeftOutInSilence(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "h100")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.CollectionInterval = 100 * time.Millisecond }).ready(2)
	r.until("both have readings", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") && hasReadings(m, "gpu1") })
	gpus[0].SetDelayOnce("nvmlDeviceGetTemperature", 500*time.Millisecond)
	begin := time.Now()
	m := r.scrapeNow()
	assert.Less(t, time.Since(begin), 400*time.Millisecond, "it waits for an interval")
	assert.False(t, hasReadings(m, "gpu0"))
	assert.True(t, hasReadings(m, "gpu1"))
	assert.InDelta(t, 1, isUp(m, "gpu0"), 0)
	eachPoint(m, func(p pmetric.NumberDataPoint) {
		assert.False(t, p.Flags().NoRecordedValue(), "%v", p.Attributes().AsRaw())
	})
	r.until("it has readings again", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
	assert.Empty(t, r.logs.FilterMessageSnippet("GPU timed out").All())
}

func TestWhatChangesSeldomIsReadSeldomAndItsSeriesGoOn(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	c := &clock{}
	c.ns.Store(time.Now().Truncate(time.Hour).UnixNano())
	r.now = c.now
	first := r.scrapeNow()
	links, errors, limits := gpus[0].Calls("nvmlDeviceGetNvLinkState"), gpus[0].Calls("nvmlDeviceGetNvLinkErrorCounter"), gpus[0].Calls("nvmlDeviceGetMaxClockInfo")
	seldom := []string{"hw.gpu.nvlink.state", "hw.gpu.nvlink.errors", "hw.gpu.clock.frequency.limit", "hw.gpu.power.limit"}
	points := func(m pmetric.Metrics) map[string]int {
		n := map[string]int{}
		for _, name := range seldom {
			eachOf(m, name, func(p pmetric.NumberDataPoint) {
				assert.False(t, p.Flags().NoRecordedValue(), name)
				n[name]++
			})
		}
		return n
	}
	gpus[0].SetNVLinks(slices.Repeat([]fakenvml.NVLink{{Active: true, Errors: [5]int64{7}}}, 18)...)
	minutes := 10
	for range minutes * 4 {
		c.advance(15 * time.Second)
		assert.Equal(t, points(first), points(r.scrapeNow()))
	}
	assert.InDelta(t, minutes*18, gpus[0].Calls("nvmlDeviceGetNvLinkState")-links, 18)
	assert.InDelta(t, minutes*18*5, gpus[0].Calls("nvmlDeviceGetNvLinkErrorCounter")-errors, 18*5)
	assert.InDelta(t, minutes/5*4, gpus[0].Calls("nvmlDeviceGetMaxClockInfo")-limits, 4)
	p, ok := point(r.scrapeNow(), "hw.gpu.nvlink.errors", map[string]string{"error.type": "replay"})
	require.True(t, ok)
	assert.EqualValues(t, 7, p.IntValue(), "a counter misses nothing")
}

func TestAKindOfCallThatGotSlowIsMadeHalfAsOften(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	counted := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, counted.Shutdown(context.Background())) })
	settings := receivertest.NewNopSettings(metadata.Type)
	settings.TelemetrySettings = counted.NewTelemetrySettings()
	cfg := createDefaultConfig().(*Config)
	cfg.LibraryPath, cfg.Processes.ProcPath, cfg.Processes.LogPath, cfg.Processes.PodResources = library.Path, t.TempDir(), "", ""
	r := startRig(t, settings, cfg, nvml.NewSessions(fast), nil).ready(1)
	r.slowCall = 10 * time.Millisecond
	r.scrapeNow()
	asked := func(scrapes int) int64 {
		before := gpus[0].Calls("nvmlDeviceGetTemperature")
		for range scrapes {
			assert.True(t, hasReadings(r.scrapeNow(), "gpu0"), "its series go on")
		}
		return gpus[0].Calls("nvmlDeviceGetTemperature") - before
	}
	assert.EqualValues(t, 4, asked(4))
	gpus[0].SetDelay("nvmlDeviceGetTemperature", 20*time.Millisecond)
	assert.EqualValues(t, 2, asked(2), "one slow call may have waited for the lock")
	assert.EqualValues(t, 4, asked(8))
	slowed, err := counted.GetMetric("otelcol_receiver.nvml.families.slowed")
	require.NoError(t, err)
	points := slowed.Data.(metricdata.Sum[int64]).DataPoints
	require.NotEmpty(t, points)
	assert.True(t, slices.ContainsFunc(points, func(p metricdata.DataPoint[int64]) bool {
		family, _ := p.Attributes.Value("nvml.family")
		return family.AsString() == "temperature" && p.Value == 1
	}), "counted once")
	gpus[0].SetDelay("nvmlDeviceGetTemperature", 0)
	asked(2)
	assert.EqualValues(t, 4, asked(4), "as often as before")
}

func TestReceiversOfACollectorShareWhatTheyAskForAtTheSameTime(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	sessions := nvml.NewSessions(fast)
	only := func(c *Config) { enable(c, "hw.gpu.memory.usage") }
	a, b := newRig(t, sessions, only).ready(1), newRig(t, sessions, only).ready(1)
	used := func(r *rig) int64 {
		p, ok := point(r.scrapeNow(), "hw.gpu.memory.usage", nil)
		require.True(t, ok)
		return p.IntValue()
	}
	shared := false
	for range 20 { // a busy machine may need more than 50 ms between the two
		before := gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2")
		one := used(a)
		shared = shared || used(b) == one && gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2") == before+1
		gpus[0].Set("memory_used", gpus[0].Get("memory_used")+mib)
		assert.Equal(t, gpus[0].Get("memory_used"), used(a), "who asks twice gets two answers")
	}
	assert.True(t, shared)
}

func TestASessionReportsAHangBetweenScrapesOnceWhateverReceiversThereAre(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s")
	sessions := nvml.NewSessions(fast) // with the default deadline
	sampled := newRig(t, sessions, nil).ready(2)
	other := newRig(t, sessions, func(c *Config) { c.CollectionInterval = 200 * time.Millisecond }).ready(2)
	sampled.scrapeNow()
	other.scrapeNow()
	var conditions []string
	var times []time.Time
	var mu atomic.Int32
	busOf(sessions).Conditions.Subscribe(func(c gpuevents.ConditionChange) {
		conditions, times = append(conditions, c.Condition), append(times, time.Now())
		mu.Add(1)
	})
	begin := time.Now()
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", true) // the sampler's; nobody scrapes
	require.Eventually(t, func() bool { return mu.Load() == 1 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, "unresponsive", conditions[0])
	assert.Less(t, times[0].Sub(begin), 2*time.Second)
	for range 3 {
		assert.InDelta(t, 0, isUp(sampled.scrapeNow(), "gpu0"), 0)
		assert.InDelta(t, 0, isUp(other.scrapeNow(), "gpu0"), 0)
	}
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", false)
	require.Eventually(t, func() bool { return mu.Load() == 2 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, "healthy", conditions[1])
	assert.Len(t, sampled.logs.FilterMessageSnippet("GPU timed out").All(), 1)
	assert.Len(t, sampled.logs.FilterMessageSnippet("GPU responds again").All(), 1)
	assert.Empty(t, other.logs.FilterMessageSnippet("GPU").FilterLevelExact(zap.WarnLevel).All())
	sampled.until("back", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
	assert.EqualValues(t, 2, mu.Load(), "once")
}

func TestAnIncludedGPUThatDoesNotExistIsNamed(t *testing.T) {
	library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.Devices.Include = []string{"0", "99"} }).ready(1)
	r.scrapeNow()
	r.scrapeNow()
	warned := r.logs.FilterMessageSnippet("No GPU has this name").All()
	require.Len(t, warned, 1)
	assert.Equal(t, "devices::include::1", warned[0].ContextMap()["key"])
	assert.Equal(t, "99", warned[0].ContextMap()["value"])
}

func TestSeriesOfAGPUThatFallsAsleepEndAndComeBack(t *testing.T) {
	_, gpus := library.Machine(t, "rtx-4080-super")
	gpus[0].SetProcesses()
	folder := t.TempDir()
	device := filepath.Join(folder, "0000:01:00.0")
	require.NoError(t, os.MkdirAll(filepath.Join(device, "power"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(device, "vendor"), []byte("0x10de"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(device, "class"), []byte("0x030000"), 0o600))
	status := func(is string) {
		require.NoError(t, os.WriteFile(filepath.Join(device, "power", "runtime_status"), []byte(is), 0o600))
	}
	status("active")
	timing := fast
	timing.Idle, timing.Suspend, timing.PCIDevices = 500*time.Millisecond, 500*time.Millisecond, folder
	r := newRig(t, nvml.NewSessions(timing), func(c *Config) { c.Sleep = sleepAllow }).ready(1)
	r.until("awake", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
	ended := 0
	r.until("asleep", func(m pmetric.Metrics) bool {
		for _, name := range []string{"hw.temperature", "hw.gpu.up", "hw.gpu.info"} {
			eachOf(m, name, func(p pmetric.NumberDataPoint) {
				if p.Flags().NoRecordedValue() {
					ended++
				}
			})
		}
		return ended > 0
	})
	assert.Equal(t, 3, ended, "each series once, those of its state too")
	status("suspended")
	eachPoint(r.scrapeNow(), func(p pmetric.NumberDataPoint) { assert.Zero(t, number(p), "%v", p.Attributes().AsRaw()) })
	assert.Empty(t, r.logs.FilterMessageSnippet("GPU is lost").All())
	gpus[0].SetProcesses(fakenvml.Process{PID: 7, Memory: 1 << 30})
	status("active")
	r.until("back", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
}

func TestOneFigureOfPowerIsAnAverageFromAmpereOn(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	for _, field := range []int{185, 186} {
		gpus[0].SetField(field, 0, fakenvml.TypeUnsignedInt, fakenvml.NotSupported)
	}
	f := newFollowRig(t, 1)
	f.clock.advance(time.Second)
	_, ok := point(f.scrapeNow(), "hw.power", map[string]string{"hw.gpu.power.scope": "average"})
	assert.True(t, ok)
}

func TestAGPUWithoutPowerFieldsIsAskedForItsPowerSeldom(t *testing.T) {
	_, gpus := library.Machine(t, "rtx-2080-super")
	for _, field := range []int{185, 186} {
		gpus[0].SetField(field, 0, fakenvml.TypeUnsignedInt, fakenvml.NotSupported)
	}
	gpus[0].SetReturn("nvmlDeviceGetTotalEnergyConsumption", fakenvml.NotSupported)
	gpus[0].SetSamplingPeriods(time.Microsecond, time.Microsecond)
	gpus[0].Step("power", 150_000)
	f := newFollowRig(t, 1)
	f.work.AddServer().Set(true, gpuevents.Place{GPUs: []string{gpus[0].UUID()}})
	const seconds = 10
	power, joules := 0, []float64{}
	before := gpus[0].Calls("nvmlDeviceGetPowerUsage")
	for range 20 * seconds {
		f.clock.advance(50 * time.Millisecond)
		m := f.scrapeNow()
		eachOf(m, "hw.power", func(p pmetric.NumberDataPoint) {
			assert.False(t, p.Flags().NoRecordedValue())
			assert.True(t, matches(p, map[string]string{"hw.gpu.power.scope": "instant"}), "before Ampere it is the present power")
			power++
		})
		eachOf(m, "hw.energy", func(p pmetric.NumberDataPoint) { joules = append(joules, p.DoubleValue()) })
	}
	assert.InDelta(t, 5*seconds, power, 1, "five times a second")
	assert.LessOrEqual(t, gpus[0].Calls("nvmlDeviceGetPowerUsage")-before, int64(2*5*seconds+2), "for the power, and to integrate it")
	require.NotEmpty(t, joules)
	assert.IsIncreasing(t, joules)
}
