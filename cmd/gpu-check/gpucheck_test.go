// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/calibration"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

var library *fakemachine.Library

func TestMain(m *testing.M) {
	library = fakemachine.Setup(fakenvml.Current)
	goleak.VerifyTestMain(m)
}

// script is an nvidia-smi with fixed values.
func script(t *testing.T, values map[string]string) string {
	t.Helper()
	fields := []string{"0", "00000000:01:00.0"}
	for _, q := range questions {
		v, ok := values[q.field]
		if !ok {
			v = "[N/A]"
		}
		fields = append(fields, v)
	}
	path := filepath.Join(t.TempDir(), "nvidia-smi")
	require.NoError(t, os.WriteFile(path, []byte(`#!/bin/sh
case "$1" in
--query-compute-apps*) printf '`+values["processes"]+`' ;;
*) echo '`+strings.Join(fields, ", ")+`' ;;
esac
`), 0o700))
	return path
}

// h100 is what nvidia-smi reports of the idle H100 of the profile.
func h100() map[string]string {
	return map[string]string{
		"memory.total": "81559", "memory.used": "0", "memory.reserved": "479", "utilization.gpu": "0", "utilization.memory": "0",
		"utilization.encoder": "0", "utilization.decoder": "0", "utilization.jpeg": "0", "utilization.ofa": "0",
		"temperature.gpu": "41", "temperature.memory": "48", "power.draw.instant": "69.62", "power.draw.average": "69.62",
		"enforced.power.limit": "700.00", "power.default_limit": "700.00", "power.min_limit": "200.00", "power.max_limit": "700.00",
		"clocks.gr": "345", "clocks.sm": "345", "clocks.mem": "2619", "clocks.video": "765",
		"clocks.max.gr": "1980", "clocks.max.sm": "1980", "clocks.max.mem": "2619", "pstate": "P0",
		"pcie.link.gen.gpucurrent": "5", "pcie.link.width.current": "16", "pcie.link.width.max": "16",
		"ecc.errors.corrected.volatile.dram": "0", "ecc.errors.uncorrected.aggregate.dram": "0", "ecc.errors.corrected.aggregate.dram": "0",
		"ecc.errors.uncorrected.volatile.dram": "0", "ecc.errors.corrected.volatile.sram": "0",
		"pcie.link.gen.max": "5", "power.limit": "700.00", "temperature.gpu.tlimit": "46", "clocks_event_reasons.gpu_idle": "Active",
		"clocks_event_reasons.sw_power_cap": "Not Active", "clocks_event_reasons.hw_slowdown": "Not Active",
		"clocks_event_reasons.hw_thermal_slowdown": "Not Active", "clocks_event_reasons.sw_thermal_slowdown": "Not Active",
		"clocks_event_reasons_counters.sw_power_cap": "0", "clocks_event_reasons_counters.sync_boost": "0",
		"clocks_event_reasons_counters.sw_thermal_slowdown": "0", "clocks_event_reasons_counters.hw_thermal_slowdown": "0",
		"clocks_event_reasons_counters.hw_power_brake_slowdown": "0",
		"processes": `00000000:01:00.0, 4242, 2566\n`,
	}
}

func TestReadingsThatAgreePassAndAreRecorded(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].SetProcesses(fakenvml.Process{PID: 4242, Memory: 2566 << 20})
	r, err := check(context.Background(), library.Path, script(t, h100()), 0)
	require.NoError(t, err)
	for _, c := range r.GPUs[0].Phases["idle"] {
		assert.True(t, c.Same, "%+v", c)
	}
	assert.Zero(t, r.Different)
	assert.True(t, r.Simulated)
	assert.Contains(t, r.GPUs[0].Unsupported, "temperature.limit.shutdown")
	assert.Greater(t, len(r.GPUs[0].Calls), 30)
	assert.Greater(t, r.GPUs[0].Points, 100)
	assert.Contains(t, r.GPUs[0].Fields, fieldTiming{Field: 83, MedianUS: 1, MaxUS: 1}, "what the test library states")
	assert.Len(t, r.GPUs[0].Fields, 13)
	assert.Contains(t, r.GPUs[0].Readings["idle"], "hw.gpu.sm.active")
	dir := t.TempDir()
	require.NoError(t, r.write(dir))
	assert.FileExists(t, filepath.Join(dir, "nvidia-h100-80gb-hbm3-590-48-01.json"))
}

func TestReadingThatDiffersIsFound(t *testing.T) {
	library.Machine(t, "h100")
	wrong := h100()
	wrong["memory.total"] = "40000"
	wrong["fan.speed"] = "30"
	wrong["processes"] = `00000000:01:00.0, 1, 10\n`
	r, err := check(context.Background(), library.Path, script(t, wrong), 0)
	require.NoError(t, err)
	assert.Equal(t, 3, r.Different)
}

// fakeWave is the load on a simulated GPU.
type fakeWave struct{ gpu *fakenvml.GPU }

func (f fakeWave) on(_ context.Context, _ *nvml.GPU, seconds int) (all []calibration.Interval, _ error) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	begin := time.Now()
	busy := false
	for now := range ticker.C {
		passed := now.Sub(begin)
		if passed > time.Duration(seconds)*time.Second {
			break
		}
		on := passed%(230*time.Millisecond) > 115*time.Millisecond
		if on == busy {
			continue
		}
		at := time.Now().UnixNano()
		if busy = on; on {
			f.gpu.Step("power", 400_000)
			all = append(all, calibration.Interval{From: at, To: at})
			continue
		}
		f.gpu.Step("power", 70_000)
		all[len(all)-1].To = at
	}
	return all, nil
}

func TestAGPUsEnergyCounterIsCalibrated(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	all, err := calibrate(context.Background(), library.Path, fakeWave{gpus[0]}, 4)
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Equal(t, gpus[0].UUID(), all[0].GPU)
	assert.Equal(t, "NVIDIA H100 80GB HBM3", all[0].Model)
	assert.Zero(t, all[0].Period, "the test library's counter is continuous")
	assert.LessOrEqual(t, all[0].Lag, 10*time.Millisecond)
	assert.InDelta(t, 1, all[0].Ratio, 0.05)
	path := filepath.Join(t.TempDir(), "calibration.yaml")
	require.NoError(t, calibration.Write(path, all))
	read, err := calibration.Read(path)
	require.NoError(t, err)
	assert.Equal(t, all, read)
}

func TestNoGPUIsAClearError(t *testing.T) {
	machine, _ := library.Machine(t)
	machine.UnloadDriver()
	rx, err := startReceiver(context.Background(), library.Path)
	require.NoError(t, err)
	defer rx.stop()
	err = rx.waitForGPUs(500 * time.Millisecond)
	require.ErrorContains(t, err, "driver is not loaded")
	require.ErrorContains(t, err, "-library")
}

func FuzzParseSMI(f *testing.F) {
	f.Add("0, 81559, P0\n")
	f.Add("0, [N/A], [Not Supported]\n1, \"x\", 3")
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := parseSMI(text, []string{"index", "memory.total", "pstate"})
		if err != nil {
			return
		}
		for _, row := range rows {
			_, _ = parseValue(row["memory.total"])
			assert.Len(t, row, 3, fmt.Sprint(row))
		}
	})
}
