// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// units are nvidia-smi's, in the receiver's.
var units = map[string]float64{"MiB": 1 << 20, "%": 0.01, "C": 1, "W": 1, "MHz": 1e6, "us": 1e-6, "bank(s)": 1}

// words are what nvidia-smi reports instead of numbers.
var words = map[string]float64{"Active": 1, "Not Active": 0, "Yes": 1, "No": 0}

// figureOf reads one figure of nvidia-smi; false where the GPU has none.
func figureOf(t *testing.T, text string) (float64, bool) {
	t.Helper()
	if text == "N/A" {
		return 0, false
	}
	if v, ok := words[text]; ok {
		return v, true
	}
	number, unit, _ := strings.Cut(text, " ")
	factor := 1.0
	switch {
	case unit != "":
		f, ok := units[unit]
		require.True(t, ok, "%q has the unknown unit %q", text, unit)
		factor = f
	case strings.HasSuffix(number, "x"): // lanes
		number = strings.TrimSuffix(number, "x")
	case strings.HasPrefix(number, "P"): // performance state
		number = strings.TrimPrefix(number, "P")
	}
	v, err := strconv.ParseFloat(number, 64)
	require.NoError(t, err, text)
	return v * factor, true
}

type attributes = map[string]string

// counterparts are the receiver's series for nvidia-smi's readings.
var counterparts = map[string]struct {
	metric string
	at     attributes
}{
	"PCI/GPU Link Info/PCIe Generation/Max":                    {"hw.gpu.pcie.link.generation", attributes{"state": "max"}},
	"PCI/GPU Link Info/PCIe Generation/Current":                {"hw.gpu.pcie.link.generation", attributes{"state": "current"}},
	"PCI/GPU Link Info/Link Width/Max":                         {"hw.gpu.pcie.link.width", attributes{"state": "max"}},
	"PCI/GPU Link Info/Link Width/Current":                     {"hw.gpu.pcie.link.width", attributes{"state": "current"}},
	"PCI/Replays Since Reset":                                  {"hw.gpu.pcie.replays", nil},
	"Fan Speed":                                                {"hw.fan.speed_ratio", attributes{"hw.name": "gpu0/fan0"}},
	"Performance State":                                        {"hw.gpu.performance_state", nil},
	"Clocks Event Reasons/Idle":                                {"hw.gpu.throttle.active", attributes{"hw.gpu.throttle.reason": "gpu_idle"}},
	"Clocks Event Reasons/SW Power Cap":                        {"hw.gpu.throttle.active", attributes{"hw.gpu.throttle.reason": "sw_power_cap"}},
	"Clocks Event Reasons/HW Slowdown":                         {"hw.gpu.throttle.active", attributes{"hw.gpu.throttle.reason": "hw_slowdown"}},
	"Clocks Event Reasons/HW Slowdown/HW Thermal Slowdown":     {"hw.gpu.throttle.active", attributes{"hw.gpu.throttle.reason": "hw_thermal"}},
	"Clocks Event Reasons/HW Slowdown/HW Power Brake Slowdown": {"hw.gpu.throttle.active", attributes{"hw.gpu.throttle.reason": "hw_power_brake"}},
	"Clocks Event Reasons/Sync Boost":                          {"hw.gpu.throttle.active", attributes{"hw.gpu.throttle.reason": "sync_boost"}},
	"Clocks Event Reasons/SW Thermal Slowdown":                 {"hw.gpu.throttle.active", attributes{"hw.gpu.throttle.reason": "sw_thermal"}},
	"Clocks Event Reasons Counters/SW Power Capping":           {"hw.gpu.throttle.time", attributes{"hw.gpu.throttle.reason": "sw_power_cap"}},
	"Clocks Event Reasons Counters/Sync Boost":                 {"hw.gpu.throttle.time", attributes{"hw.gpu.throttle.reason": "sync_boost"}},
	"Clocks Event Reasons Counters/SW Thermal Slowdown":        {"hw.gpu.throttle.time", attributes{"hw.gpu.throttle.reason": "sw_thermal"}},
	"Clocks Event Reasons Counters/HW Thermal Slowdown":        {"hw.gpu.throttle.time", attributes{"hw.gpu.throttle.reason": "hw_thermal"}},
	"Clocks Event Reasons Counters/HW Power Braking":           {"hw.gpu.throttle.time", attributes{"hw.gpu.throttle.reason": "hw_power_brake"}},
	"FB Memory Usage/Total":                                    {"hw.gpu.memory.limit", nil},
	"FB Memory Usage/Reserved":                                 {"hw.gpu.memory.reserved", nil},
	"FB Memory Usage/Used":                                     {"hw.gpu.memory.usage", nil},
	"BAR1 Memory Usage/Total":                                  {"hw.gpu.bar1.limit", nil},
	"BAR1 Memory Usage/Used":                                   {"hw.gpu.bar1.usage", nil},
	"Utilization/GPU":                                          {"hw.gpu.utilization", attributes{"hw.gpu.task": "general"}},
	"Utilization/Memory":                                       {"hw.gpu.memory.bandwidth.utilization", nil},
	"Utilization/Encoder":                                      {"hw.gpu.utilization", attributes{"hw.gpu.task": "encoder"}},
	"Utilization/Decoder":                                      {"hw.gpu.utilization", attributes{"hw.gpu.task": "decoder"}},
	"Utilization/JPEG":                                         {"hw.gpu.utilization", attributes{"hw.gpu.task": "jpeg"}},
	"Utilization/OFA":                                          {"hw.gpu.utilization", attributes{"hw.gpu.task": "ofa"}},
	"ECC Errors/Volatile/SRAM Correctable":                     {"hw.errors", attributes{"error.type": "corrected", "hw.gpu.ecc.lifetime": "volatile", "hw.gpu.memory.location": "sram"}},
	"ECC Errors/Volatile/SRAM Uncorrectable Parity":            {"hw.errors", attributes{"error.type": "uncorrected", "hw.gpu.ecc.lifetime": "volatile", "hw.gpu.memory.location": "sram"}},
	"ECC Errors/Volatile/DRAM Correctable":                     {"hw.errors", attributes{"error.type": "corrected", "hw.gpu.ecc.lifetime": "volatile", "hw.gpu.memory.location": "dram"}},
	"ECC Errors/Volatile/DRAM Uncorrectable":                   {"hw.errors", attributes{"error.type": "uncorrected", "hw.gpu.ecc.lifetime": "volatile", "hw.gpu.memory.location": "dram"}},
	"ECC Errors/Aggregate/SRAM Correctable":                    {"hw.errors", attributes{"error.type": "corrected", "hw.gpu.ecc.lifetime": "aggregate", "hw.gpu.memory.location": "sram"}},
	"ECC Errors/Aggregate/DRAM Correctable":                    {"hw.errors", attributes{"error.type": "corrected", "hw.gpu.ecc.lifetime": "aggregate", "hw.gpu.memory.location": "dram"}},
	"ECC Errors/Aggregate/DRAM Uncorrectable":                  {"hw.errors", attributes{"error.type": "uncorrected", "hw.gpu.ecc.lifetime": "aggregate", "hw.gpu.memory.location": "dram"}},
	"Retired Pages/Single Bit ECC":                             {"hw.gpu.retired_pages", attributes{"error.type": "corrected"}},
	"Retired Pages/Double Bit ECC":                             {"hw.gpu.retired_pages", attributes{"error.type": "uncorrected"}},
	"Retired Pages/Pending":                                    {"hw.gpu.retired_pages.pending", nil},
	"Remapped Rows/Correctable Error":                          {"hw.gpu.row_remaps", attributes{"error.type": "corrected"}},
	"Remapped Rows/Uncorrectable Error":                        {"hw.gpu.row_remaps", attributes{"error.type": "uncorrected"}},
	"Remapped Rows/Pending":                                    {"hw.gpu.row_remaps.pending", nil},
	"Remapped Rows/Remapping Failure Occurred":                 {"hw.gpu.row_remaps.failed", nil},
	"Remapped Rows/Bank Remap Availability Histogram/Max":      {"hw.gpu.row_remaps.banks", attributes{"hw.gpu.row_remap.availability": "max"}},
	"Remapped Rows/Bank Remap Availability Histogram/Low":      {"hw.gpu.row_remaps.banks", attributes{"hw.gpu.row_remap.availability": "low"}},
	"Temperature/GPU Current Temp":                             {"hw.temperature", attributes{"hw.sensor_location": "gpu"}},
	"Temperature/Memory Current Temp":                          {"hw.temperature", attributes{"hw.sensor_location": "memory"}},
	"Temperature/GPU T.Limit Temp":                             {"hw.gpu.temperature.margin", nil},
	"Temperature/GPU Shutdown Temp":                            {"hw.temperature.limit", attributes{"hw.limit_type": "high.critical"}},
	"Temperature/GPU Slowdown Temp":                            {"hw.temperature.limit", attributes{"hw.limit_type": "high.degraded"}},
	"Temperature/GPU Max Operating Temp":                       {"hw.temperature.limit", attributes{"hw.limit_type": "max"}},
	"GPU Power Readings/Average Power Draw":                    {"hw.power", attributes{"hw.gpu.power.scope": "average"}},
	"GPU Power Readings/Instantaneous Power Draw":              {"hw.power", attributes{"hw.gpu.power.scope": "instant"}},
	"GPU Power Readings/Current Power Limit":                   {"hw.gpu.power.limit", attributes{"hw.limit_type": "enforced"}},
	"GPU Power Readings/Requested Power Limit":                 {"hw.gpu.power.limit", attributes{"hw.limit_type": "requested"}},
	"GPU Power Readings/Default Power Limit":                   {"hw.gpu.power.limit", attributes{"hw.limit_type": "default"}},
	"GPU Power Readings/Min Power Limit":                       {"hw.gpu.power.limit", attributes{"hw.limit_type": "min"}},
	"GPU Power Readings/Max Power Limit":                       {"hw.gpu.power.limit", attributes{"hw.limit_type": "max"}},
	"Clocks/Graphics":                                          {"hw.gpu.clock.frequency", attributes{"hw.gpu.clock": "graphics"}},
	"Clocks/SM":                                                {"hw.gpu.clock.frequency", attributes{"hw.gpu.clock": "sm"}},
	"Clocks/Memory":                                            {"hw.gpu.clock.frequency", attributes{"hw.gpu.clock": "memory"}},
	"Clocks/Video":                                             {"hw.gpu.clock.frequency", attributes{"hw.gpu.clock": "video"}},
	"Max Clocks/Graphics":                                      {"hw.gpu.clock.frequency.limit", attributes{"hw.gpu.clock": "graphics"}},
	"Max Clocks/SM":                                            {"hw.gpu.clock.frequency.limit", attributes{"hw.gpu.clock": "sm"}},
	"Max Clocks/Memory":                                        {"hw.gpu.clock.frequency.limit", attributes{"hw.gpu.clock": "memory"}},
	"Max Clocks/Video":                                         {"hw.gpu.clock.frequency.limit", attributes{"hw.gpu.clock": "video"}},
}

// described are the readings that are attributes of hw.gpu.info.
var described = map[string]string{
	"Product Name": "hw.model", "Product Architecture": "hw.gpu.architecture", "VBIOS Version": "hw.firmware_version", "Board Part Number": "hw.gpu.board.part_number",
}

// withoutCounterpart are readings that the receiver reports in another form.
var withoutCounterpart = map[string]bool{"ECC Errors/Volatile/SRAM Uncorrectable SEC-DED": true}

// TestReadingsAreThoseOfNvidiaSmi compares every GPU's readings with what
// nvidia-smi reported: figures, units, and what a GPU does not have.
func TestReadingsAreThoseOfNvidiaSmi(t *testing.T) {
	for _, name := range fakenvml.Profiles() {
		if p, err := fakenvml.LoadProfile(name); err == nil && strings.HasPrefix(p.Origin, "assumed") {
			continue // no reading of such a GPU was published
		}
		raw, err := os.ReadFile(filepath.Join("testdata", "nvidia-smi", name+".yaml"))
		require.NoError(t, err)
		var readings map[string]map[string]string
		require.NoError(t, yaml.Unmarshal(raw, &readings))
		for _, state := range []string{"idle", "load"} {
			t.Run(name+"/"+state, func(t *testing.T) {
				p, err := fakenvml.LoadProfile(name)
				require.NoError(t, err)
				if strings.Contains(p.Origin, state+" assumed") {
					t.Skip("no reading of it was published")
				}
				_, gpus := library.Machine(t, name)
				if state == "load" {
					gpus[0].SetLoad(p)
				}
				gpus[0].SetSamplingPeriods(time.Microsecond, 0)
				m := newRig(t, nvml.NewSessions(fast), nil).ready(1).scrapeNow()
				require.Greater(t, len(readings[state]), 50)
				for key, text := range readings[state] {
					compareReading(t, m, key, text)
				}
			})
		}
	}
}

func compareReading(t *testing.T, m pmetric.Metrics, key, text string) {
	t.Helper()
	info, ok := point(m, "hw.gpu.info", map[string]string{"hw.name": "gpu0"})
	require.True(t, ok)
	if pid, ok := strings.CutPrefix(key, "Processes/"); ok {
		want, _ := figureOf(t, text)
		p, ok := point(m, "hw.gpu.process.memory.usage", map[string]string{"process.pid": pid})
		if assert.True(t, ok, key) {
			assert.InDelta(t, want, number(p), 0, key)
		}
		return
	}
	if attribute, ok := described[key]; ok {
		want := text
		if text == "N/A" {
			want = ""
		}
		assert.Equal(t, want, info.Attributes().AsRaw()[attribute], key)
		return
	}
	switch key {
	case "MIG Mode/Current":
		want := strings.ToLower(text)
		if text == "N/A" {
			want = ""
		}
		assert.Equal(t, want, info.Attributes().AsRaw()["hw.gpu.mig.mode"])
		return
	case "GPU Recovery Action":
		_, ok := point(m, "hw.gpu.recovery_action", map[string]string{"hw.gpu.recovery.action": strings.ToLower(text)})
		assert.Equal(t, text != "N/A", ok, key)
		return
	}
	if withoutCounterpart[key] {
		return
	}
	where, ok := counterparts[key]
	require.True(t, ok, "%q has no counterpart", key)
	at := attributes{"hw.name": "gpu0"}
	for k, v := range where.at {
		at[k] = v
	}
	p, have := point(m, where.metric, at)
	want, has := figureOf(t, text)
	if !assert.Equal(t, has, have, "%s: nvidia-smi reports %q", key, text) || !has {
		return
	}
	assert.InDelta(t, want, number(p), want*1e-9, "%s: nvidia-smi reports %q", key, text)
}
