// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

var faultTime = flag.Duration("fault", 5*time.Second, "how long each fault lasts in TestFaultsOfOneCardCostTheOthersNothing")

// fault is one thing that happens to one GPU of eight.
type fault struct {
	name         string
	begin, clear func()
	// healthy is true if the GPU itself goes on; ends is a series of it that must be
	// marked stale.
	healthy bool
	ends    string
}

// TestFaultsOfOneGPUCostTheOthersNothing gives one of eight GPUs one fault
// after another, and asks a real Prometheus what the others missed.
func TestFaultsOfOneGPUCostTheOthersNothing(t *testing.T) {
	besideFirst(t, waiting)
	const interval, gpuTimeout = time.Second, time.Second
	m := newMachine(t, fakenvml.Current, "l40s", "l40s", "l40s", "l40s", "l40s", "h100-mig", "l40s", "l40s")
	store, _ := prometheus(t, "10m")
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL="+interval.String(), "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"),
		"--config=yaml:receivers::nvml::card_timeout: "+gpuTimeout.String())
	eventually(t, store, "hw_gpu_up == 1", atLeast(8))
	gpu, profile := m.gpus[5], m.profiles[5]
	id := eventually(t, store, `hw_gpu_up{hw_name="gpu5"}`, atLeast(1))[0].Labels["hw_id"]
	memory := fmt.Sprintf(`hw_gpu_memory_usage_bytes{hw_id="%s"}`, id)
	used := gpu.Get("memory_used")
	process := fakenvml.Process{PID: 4242, Memory: 1 << 30, MIG: true, GPUInstance: 2}
	gpu.SetProcesses(process)
	eventually(t, store, `hw_gpu_process_memory_usage_bytes{process_pid="4242"}`, atLeast(1))

	var works func() // ends the fault that runs
	failing := func(code int64) func() { return func() { works = gpu.FailEveryCall(code) } }
	divide := func(n int) func() {
		return func() {
			devices := make([]fakenvml.MIGDevice, n)
			for i := range devices {
				d := profile.MIG[i]
				devices[i] = fakenvml.MIGDevice{UUID: fmt.Sprintf("MIG-%d", i), Name: d.Name, GPUInstance: d.GPUInstance, MemoryTotal: d.TotalMiB << 20}
			}
			gpu.SetMIG(devices...)
		}
	}
	divide(4)()
	eventually(t, store, `hw_gpu_memory_limit_bytes{hw_id="MIG-3"}`, atLeast(1))
	for _, f := range []fault{
		{"lost", func() { gpu.SetLost(true) }, func() { gpu.SetLost(false) }, false, memory},
		{"hangs", func() { gpu.SetHang("nvmlDeviceGetTemperature", true) }, func() { gpu.SetHang("nvmlDeviceGetTemperature", false) }, false, memory},
		{"slow_call", func() { gpu.SetDelay("nvmlDeviceGetTemperature", 2*time.Second) }, func() { gpu.SetDelay("nvmlDeviceGetTemperature", 0) }, false, memory},
		{"every_call_fails", failing(fakenvml.Unknown), func() { works() }, false, memory},
		{"unknown_code", failing(4711), func() { works() }, false, memory},
		{"removed", func() { gpu.SetPresent(false) }, func() { gpu.SetPresent(true) }, false, memory},
		{"no_value", func() { gpu.Set("memory_used", -1) }, func() { gpu.Set("memory_used", used) }, true, memory},
		{"one_call_fails", func() { gpu.SetReturn("nvmlDeviceGetMemoryInfo_v2", fakenvml.Unknown) }, func() { gpu.SetReturn("nvmlDeviceGetMemoryInfo_v2", 0) }, true, memory},
		{"process_ends", func() { gpu.SetProcesses() }, func() { gpu.SetProcesses(process) }, true, `hw_gpu_process_memory_usage_bytes{process_pid="4242"}`},
		{"mig_device_ends", divide(3), divide(4), true, `hw_gpu_memory_limit_bytes{hw_id="MIG-3"}`},
		{"mig_off", func() { gpu.SetMIG() }, divide(4), true, `hw_gpu_memory_limit_bytes{hw_id=~"MIG-.*"}`},
	} {
		lines := logLines(t, c.Process, "\twarn\t") + logLines(t, c.Process, "\terror\t")
		begin := time.Now()
		f.begin()
		if !f.healthy {
			eventually(t, store, fmt.Sprintf(`hw_gpu_up{hw_id="%s"} == 0`, id), atLeast(1))
		}
		eventually(t, store, f.ends, func(s []stack.Series) bool { return len(s) == 0 })
		reported := time.Since(begin)
		require.Eventually(t, func() bool { return time.Since(begin) >= *faultTime }, *faultTime+patience, 50*time.Millisecond)
		f.clear()
		cleared := time.Now()
		eventually(t, store, fmt.Sprintf(`hw_gpu_up{hw_id="%s"} == 1 and on(hw_id) %s`, id, memory), atLeast(1))
		eventually(t, store, f.ends, atLeast(1))
		back := time.Since(cleared)

		lost := samplesLost(t, store, begin, id)
		output := logLines(t, c.Process, "\twarn\t") + logLines(t, c.Process, "\terror\t") - lines
		figure.AtMost("faults."+f.name+".samples_lost_on_others", lost, "samples", 0)
		figure.AtMost("faults."+f.name+".reported_after", reported.Seconds(), "s", (interval+gpuTimeout).Seconds()+0.5)
		figure.Print("faults."+f.name+".back_after", back.Seconds(), "s")
		figure.AtMost("faults."+f.name+".log_lines", float64(output), "lines", 2)
		assert.Zero(t, lost, "%s: the others lost samples", f.name)
		assert.LessOrEqual(t, output, 2, "%s floods the log", f.name)
	}

	begin := time.Now()
	m.state.AddGPU(m.profiles[0])
	eventually(t, store, `hw_gpu_up{hw_name="gpu8"} == 1`, atLeast(1))
	figure.Print("faults.hot_added.seen_after", time.Since(begin).Seconds(), "s")
	require.Zero(t, samplesLost(t, store, begin, id))
}

// samplesLost counts what the other GPUs missed from begin until now. Each must
// have a sample of every scrape; hw.gpu.count, which reads no GPU, shows how
// many there were.
func samplesLost(t *testing.T, store stack.Store, begin time.Time, id string) (lost float64) {
	t.Helper()
	end := time.Now()
	window := int(end.Sub(begin).Seconds())
	if window == 0 {
		return 0
	}
	scrapes, err := store.QueryAt(context.Background(), fmt.Sprintf(`count_over_time(hw_gpu_count{state="healthy"}[%ds])`, window), end)
	require.NoError(t, err)
	require.Len(t, scrapes, 1)
	others, err := store.QueryAt(context.Background(), fmt.Sprintf(`sum by (hw_id) (count_over_time(hw_temperature_celsius{hw_id!="%s",hw_sensor_location="gpu",hw_name!="gpu8"}[%ds]))`, id, window), end)
	require.NoError(t, err)
	require.Len(t, others, 7)
	for _, s := range others {
		lost += max(0, scrapes[0].Value()-s.Value())
	}
	return lost
}

// TestFaultsOfTheDriverAreLoggedOnceAndEnd loads the driver late, has it
// reloaded and be upgraded under a running collector.
func TestFaultsOfTheDriverAreLoggedOnceAndEnd(t *testing.T) {
	beside(t, working)
	const interval = time.Second
	m := newMachine(t, fakenvml.Current, "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s")
	m.state.UnloadDriver()
	store, _ := prometheus(t, "10m")
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL="+interval.String(), "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	isUp := func(n int) func([]stack.Series) bool {
		return func(s []stack.Series) bool { return len(s) == 1 && s[0].Value() == float64(n) }
	}
	lines := 0
	for _, f := range []struct {
		name         string
		begin, clear func()
		message      string
	}{
		{"driver_absent", m.state.UnloadDriver, m.state.LoadDriver, "is not loaded; retrying"},
		{"driver_unloaded", m.state.UnloadDriver, m.state.LoadDriver, "is not loaded; retrying"},
		{"driver_upgraded", m.state.UpgradeDriver, m.state.LoadDriver, "restart the collector"},
	} {
		output := logLines(t, c.Process, f.message)
		begin := time.Now()
		f.begin()
		eventually(t, store, `hw_gpu_count{state="healthy"}`, isUp(0))
		eventually(t, store, "hw_temperature_celsius", func(s []stack.Series) bool { return len(s) == 0 })
		reported := time.Since(begin)
		require.Eventually(t, func() bool { return time.Since(begin) >= *faultTime }, *faultTime+patience, 50*time.Millisecond)
		require.Eventually(t, func() bool { return logLines(t, c.Process, f.message) > 0 }, patience, 20*time.Millisecond)
		if f.name != "driver_absent" {
			output = logLines(t, c.Process, f.message) - output
			assert.Equal(t, 1, output, f.name)
		}
		cleared := time.Now()
		f.clear()
		eventually(t, store, `hw_gpu_count{state="healthy"}`, isUp(8))
		all := logLines(t, c.Process, "\twarn\t") + logLines(t, c.Process, "\terror\t")
		figure.Print("faults."+f.name+".reported_after", reported.Seconds(), "s")
		figure.Print("faults."+f.name+".back_after", time.Since(cleared).Seconds(), "s")
		figure.AtMost("faults."+f.name+".log_lines", float64(all-lines), "lines", 2)
		assert.LessOrEqual(t, all-lines, 2, f.name)
		lines = all
	}

	begin := time.Now()
	lines = logLines(t, c.Process, "\twarn\t")
	inits := m.state.Inits()
	m.state.LoadDriver() // reloaded: every handle is stale
	require.Eventually(t, func() bool { return m.state.Inits() > inits }, patience, 20*time.Millisecond)
	eventually(t, store, `hw_gpu_count{state="healthy"}`, isUp(8))
	figure.Print("faults.driver_reloaded.back_after", time.Since(begin).Seconds(), "s")
	figure.AtMost("faults.driver_reloaded.log_lines", float64(logLines(t, c.Process, "\twarn\t")-lines), "lines", 2)
}
