// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// plainCalls makes NVML calls through go-nvml and nothing else, as a program does that only
// wants the numbers.
type plainCalls struct {
	devices []gonvml.Device
	fields  []gonvml.FieldValue // of the GPU
	links   []gonvml.FieldValue // of its links
	samples [2]gonvml.GpmSample
	lib     gonvml.Interface
}

func newPlainCalls(tb testing.TB, gpus int) *plainCalls {
	tb.Helper()
	p := &plainCalls{lib: gonvml.New(gonvml.WithLibraryPath(library.Path))}
	require.Equal(tb, gonvml.SUCCESS, p.lib.Init())
	tb.Cleanup(func() { _ = p.lib.Shutdown() })
	for i := range gpus {
		d, code := p.lib.DeviceGetHandleByIndex(i)
		require.Equal(tb, gonvml.SUCCESS, code)
		p.devices = append(p.devices, d)
	}
	for i := range p.samples {
		var code gonvml.Return
		p.samples[i], code = p.lib.GpmSampleAlloc()
		require.Equal(tb, gonvml.SUCCESS, code)
	}
	for _, id := range []uint32{83, 186, 185, 82, 74, 76, 269, 270, 271, 197, 198, 142, 143, 144, 145, 29, 30, 31, 230} {
		p.fields = append(p.fields, gonvml.FieldValue{FieldId: id})
	}
	for link := range uint32(18) {
		p.links = append(p.links, gonvml.FieldValue{FieldId: gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ScopeId: link},
			gonvml.FieldValue{FieldId: gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ScopeId: link})
	}
	return p
}

// call makes the n-th call of a function on a GPU; false if it is not known here.
func (p *plainCalls) call(function string, d gonvml.Device, n int64) bool {
	switch function {
	case "nvmlDeviceGetFieldValues":
		if n%2 == 0 {
			_ = d.GetFieldValues(p.fields)
		} else {
			_ = d.GetFieldValues(p.links)
		}
	case "nvmlDeviceGetMemoryInfo_v2":
		_, _ = d.GetMemoryInfo_v2()
	case "nvmlDeviceGetBAR1MemoryInfo":
		_, _ = d.GetBAR1MemoryInfo()
	case "nvmlDeviceGetUtilizationRates":
		_, _ = d.GetUtilizationRates()
	case "nvmlDeviceGetEncoderUtilization":
		_, _, _ = d.GetEncoderUtilization()
	case "nvmlDeviceGetDecoderUtilization":
		_, _, _ = d.GetDecoderUtilization()
	case "nvmlDeviceGetJpgUtilization":
		_, _, _ = d.GetJpgUtilization()
	case "nvmlDeviceGetOfaUtilization":
		_, _, _ = d.GetOfaUtilization()
	case "nvmlDeviceGetSamples":
		_, _, _ = d.GetSamples(gonvml.GPU_UTILIZATION_SAMPLES, uint64(time.Now().Add(-time.Second).UnixMicro()))
	case "nvmlDeviceGetTemperature":
		_, _ = d.GetTemperature(gonvml.TEMPERATURE_GPU)
	case "nvmlDeviceGetMarginTemperature":
		_, _ = d.GetMarginTemperature()
	case "nvmlDeviceGetEnforcedPowerLimit":
		_, _ = d.GetEnforcedPowerLimit()
	case "nvmlDeviceGetPowerManagementLimit":
		_, _ = d.GetPowerManagementLimit()
	case "nvmlDeviceGetPowerManagementDefaultLimit":
		_, _ = d.GetPowerManagementDefaultLimit()
	case "nvmlDeviceGetPowerManagementLimitConstraints":
		_, _, _ = d.GetPowerManagementLimitConstraints()
	case "nvmlDeviceGetClockInfo":
		_, _ = d.GetClockInfo(gonvml.CLOCK_SM)
	case "nvmlDeviceGetMaxClockInfo":
		_, _ = d.GetMaxClockInfo(gonvml.CLOCK_SM)
	case "nvmlDeviceGetPerformanceState":
		_, _ = d.GetPerformanceState()
	case "nvmlDeviceGetCurrentClocksEventReasons":
		_, _ = d.GetCurrentClocksEventReasons()
	case "nvmlDeviceGetCurrPcieLinkGeneration":
		_, _ = d.GetCurrPcieLinkGeneration()
	case "nvmlDeviceGetMaxPcieLinkGeneration":
		_, _ = d.GetMaxPcieLinkGeneration()
	case "nvmlDeviceGetCurrPcieLinkWidth":
		_, _ = d.GetCurrPcieLinkWidth()
	case "nvmlDeviceGetMaxPcieLinkWidth":
		_, _ = d.GetMaxPcieLinkWidth()
	case "nvmlDeviceGetPcieReplayCounter":
		_, _ = d.GetPcieReplayCounter()
	case "nvmlDeviceGetMemoryErrorCounter":
		_, _ = d.GetMemoryErrorCounter(gonvml.MEMORY_ERROR_TYPE_CORRECTED, gonvml.VOLATILE_ECC, gonvml.MEMORY_LOCATION_DRAM)
	case "nvmlDeviceGetRowRemapperHistogram":
		_, _ = d.GetRowRemapperHistogram()
	case "nvmlDeviceGetSramEccErrorStatus":
		_, _ = d.GetSramEccErrorStatus()
	case "nvmlDeviceGetGpuFabricInfoV":
		_, _ = d.GetGpuFabricInfoV().V2()
	case "nvmlDeviceGetNvLinkState":
		_, _ = d.GetNvLinkState(int(n % 18))
	case "nvmlDeviceGetNvLinkErrorCounter":
		_, _ = d.GetNvLinkErrorCounter(int(n%18), gonvml.NVLINK_ERROR_DL_REPLAY)
	case "nvmlGpmSampleGet":
		_ = p.samples[n%2].Get(d)
	case "nvmlGpmMetricsGet":
		var get gonvml.GpmMetricsGetType
		get.NumMetrics, get.Sample1, get.Sample2 = 13, p.samples[(n+1)%2], p.samples[n%2]
		_ = p.lib.GpmMetricsGet(&get)
	case "nvmlDeviceGetComputeRunningProcesses_v3":
		_, _ = d.GetComputeRunningProcesses()
	case "nvmlDeviceGetGraphicsRunningProcesses_v3":
		_, _ = d.GetGraphicsRunningProcesses()
	case "nvmlDeviceGetProcessUtilization":
		_, _ = d.GetProcessUtilization(0)
	default:
		return false
	}
	return true
}

// cpu is the CPU time that the process has used.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// besideCalls measures the CPU of scrapes of eight GPUs a second apart, beside that of a plain
// loop that makes the same NVML calls and builds the same points.
func besideCalls(tb testing.TB, rounds int) (ratio float64, calls int64) {
	tb.Helper()
	const gpus = 8
	_, all := library.Machine(tb, slices.Repeat([]string{"h100"}, gpus)...)
	p, err := fakenvml.LoadProfile("h100")
	require.NoError(tb, err)
	for _, g := range all {
		g.SetLoad(p)
	}
	r := newRig(tb, nvml.NewSessions(nvml.Timing{}), func(c *Config) { c.SamplingInterval = 900 * time.Millisecond; c.CollectionInterval = time.Second }).ready(gpus)
	c := &clock{}
	c.ns.Store(time.Now().Truncate(time.Hour).UnixNano())
	r.now = c.now
	r.scrapeNow()
	m := r.scrapeNow()
	blueprints := dissect(m)
	scrapes := func(n int) {
		for range n {
			c.advance(time.Second)
			_, _ = r.scrape(context.Background())
		}
	}
	const minute = 60
	before := make([]map[string]int64, gpus)
	for i, g := range all {
		before[i] = g.AllCalls()
	}
	scrapes(minute)
	made := make([]map[string]int64, gpus)
	for i, g := range all {
		made[i] = g.AllCalls()
		maps.DeleteFunc(made[i], func(name string, n int64) bool { return n == before[i][name] || ofSession[name] })
		for name := range made[i] {
			made[i][name] -= before[i][name]
			calls += made[i][name]
		}
	}
	plain := newPlainCalls(tb, gpus)
	loop := func() {
		for scrape := range int64(minute) {
			for i, d := range plain.devices {
				for name, n := range made[i] {
					for k := n * scrape / minute; k < n*(scrape+1)/minute; k++ {
						if !plain.call(name, d, k) {
							require.Fail(tb, "the plain loop does not know "+name)
						}
					}
				}
			}
			plainLoop(blueprints)
		}
	}
	var ours, theirs time.Duration
	for range rounds {
		runtime.GC()
		begin := cpu(tb)
		scrapes(minute)
		middle := cpu(tb)
		runtime.GC()
		again := cpu(tb)
		loop()
		ours, theirs = ours+middle-begin, theirs+cpu(tb)-again
	}
	require.NoError(tb, r.shutdown(context.Background()))
	return float64(ours) / float64(theirs), calls / minute / gpus
}

// BenchmarkReceiver reports the CPU per series of a receiver that scrapes eight GPUs once a
// second to nop, its sampler included, and that of a scrape beside a loop with the same calls.
func BenchmarkReceiver(b *testing.B) {
	ratio, calls := besideCalls(b, 5)
	_, all := library.Machine(b, slices.Repeat([]string{"h100"}, 8)...)
	p, err := fakenvml.LoadProfile("h100")
	require.NoError(b, err)
	for _, g := range all {
		g.SetLoad(p)
	}
	cfg := createDefaultConfig().(*Config)
	cfg.LibraryPath, cfg.CollectionInterval, cfg.InitialDelay = library.Path, time.Second, 0
	cfg.Processes.ProcPath, cfg.Processes.LogPath, cfg.Processes.PodResources = b.TempDir(), "", ""
	// To nop, but for what counts the scrapes and their points.
	var scraped, points atomic.Int64
	next, err := consumer.NewMetrics(func(_ context.Context, m pmetric.Metrics) error {
		scraped.Add(1)
		points.Store(int64(m.DataPointCount()))
		return nil
	})
	require.NoError(b, err)
	r, err := createMetrics(context.Background(), receivertest.NewNopSettings(metadata.Type), cfg, next)
	require.NoError(b, err)
	require.NoError(b, r.Start(context.Background(), componenttest.NewNopHost()))
	until := func(n int64) {
		require.Eventually(b, func() bool { return scraped.Load() >= n }, time.Minute, 100*time.Millisecond)
	}
	const first, scrapes = 3, 20
	until(first)
	begin := cpu(b)
	until(first + scrapes)
	used := cpu(b) - begin
	require.NoError(b, r.Shutdown(context.Background()))
	for b.Loop() {
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(float64(calls), "calls/scrape")
		b.ReportMetric(float64(points.Load()), "series")
		b.ReportMetric(float64(used.Microseconds())/scrapes/float64(points.Load()), "us/series")
	}
}

// The goal of 1.5 is printed by BenchmarkReceiver; a busy test machine has a margin.
func TestAScrapeCostsLittleMoreThanALoopWithTheSameCalls(t *testing.T) {
	ratio, calls := besideCalls(t, 1)
	assert.Less(t, calls, int64(60), "calls per GPU and scrape")
	assert.Less(t, ratio, 3.0)
}
