// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"math"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// comparison is one reading beside nvidia-smi's.
type comparison struct {
	Metric   string `json:"metric"`
	Receiver string `json:"receiver"`
	SMI      string `json:"nvidia_smi"`
	Same     bool   `json:"same"`
}

// question pairs a field of nvidia-smi with a series of the receiver.
type question struct {
	field  string
	series string
	// factor turns nvidia-smi's unit into the receiver's.
	factor float64
	// tolerance is what the value may change between two moments, in the receiver's unit;
	// share is the same as a share of the value. The larger one applies.
	tolerance, share float64
}

const mib = 1 << 20

var questions = []question{
	{"memory.total", "hw.gpu.memory.limit", mib, mib, 0},
	{"memory.used", "hw.gpu.memory.usage", mib, mib, 0.02},
	{"memory.reserved", "hw.gpu.memory.reserved", mib, mib, 0},
	{"utilization.gpu", "hw.gpu.utilization{hw.gpu.task=general}", 0.01, 0.15, 0},
	{"utilization.memory", "hw.gpu.memory.bandwidth.utilization", 0.01, 0.15, 0},
	{"utilization.encoder", "hw.gpu.utilization{hw.gpu.task=encoder}", 0.01, 0.15, 0},
	{"utilization.decoder", "hw.gpu.utilization{hw.gpu.task=decoder}", 0.01, 0.15, 0},
	{"utilization.jpeg", "hw.gpu.utilization{hw.gpu.task=jpeg}", 0.01, 0.15, 0},
	{"utilization.ofa", "hw.gpu.utilization{hw.gpu.task=ofa}", 0.01, 0.15, 0},
	{"temperature.gpu", "hw.temperature{hw.sensor_location=gpu}", 1, 2, 0},
	{"temperature.memory", "hw.temperature{hw.sensor_location=memory}", 1, 2, 0},
	{"power.draw.instant", "hw.power{hw.gpu.power.scope=instant}", 1, 5, 0.15},
	{"power.draw.average", "hw.power{hw.gpu.power.scope=average}", 1, 5, 0.15},
	{"enforced.power.limit", "hw.gpu.power.limit{hw.limit_type=enforced}", 1, 0.01, 0},
	{"power.default_limit", "hw.gpu.power.limit{hw.limit_type=default}", 1, 0.01, 0},
	{"power.min_limit", "hw.gpu.power.limit{hw.limit_type=min}", 1, 0.01, 0},
	{"power.max_limit", "hw.gpu.power.limit{hw.limit_type=max}", 1, 0.01, 0},
	{"clocks.gr", "hw.gpu.clock.frequency{hw.gpu.clock=graphics}", 1e6, 30e6, 0.1},
	{"clocks.sm", "hw.gpu.clock.frequency{hw.gpu.clock=sm}", 1e6, 30e6, 0.1},
	{"clocks.mem", "hw.gpu.clock.frequency{hw.gpu.clock=memory}", 1e6, 30e6, 0.1},
	{"clocks.video", "hw.gpu.clock.frequency{hw.gpu.clock=video}", 1e6, 30e6, 0.1},
	{"clocks.max.gr", "hw.gpu.clock.frequency.limit{hw.gpu.clock=graphics}", 1e6, 0, 0},
	{"clocks.max.sm", "hw.gpu.clock.frequency.limit{hw.gpu.clock=sm}", 1e6, 0, 0},
	{"clocks.max.mem", "hw.gpu.clock.frequency.limit{hw.gpu.clock=memory}", 1e6, 0, 0},
	{"pstate", "hw.gpu.performance_state", 1, 0, 0},
	{"pcie.link.gen.gpucurrent", "hw.gpu.pcie.link.generation{state=current}", 1, 0, 0},
	{"pcie.link.width.current", "hw.gpu.pcie.link.width{state=current}", 1, 0, 0},
	{"pcie.link.width.max", "hw.gpu.pcie.link.width{state=max}", 1, 0, 0},
	{"pcie.link.gen.max", "hw.gpu.pcie.link.generation{state=max}", 1, 0, 0},
	{"power.limit", "hw.gpu.power.limit{hw.limit_type=requested}", 1, 0.01, 0},
	{"temperature.gpu.tlimit", "hw.gpu.temperature.margin", 1, 2, 0},
	{"clocks_event_reasons.gpu_idle", "hw.gpu.throttle.active{hw.gpu.throttle.reason=gpu_idle}", 1, 1, 0},
	{"clocks_event_reasons.sw_power_cap", "hw.gpu.throttle.active{hw.gpu.throttle.reason=sw_power_cap}", 1, 1, 0},
	{"clocks_event_reasons.hw_slowdown", "hw.gpu.throttle.active{hw.gpu.throttle.reason=hw_slowdown}", 1, 0, 0},
	{"clocks_event_reasons.hw_thermal_slowdown", "hw.gpu.throttle.active{hw.gpu.throttle.reason=hw_thermal}", 1, 0, 0},
	{"clocks_event_reasons.sw_thermal_slowdown", "hw.gpu.throttle.active{hw.gpu.throttle.reason=sw_thermal}", 1, 1, 0},
	{"clocks_event_reasons_counters.sw_power_cap", "hw.gpu.throttle.time{hw.gpu.throttle.reason=sw_power_cap}", 1e-6, 2, 0},
	{"clocks_event_reasons_counters.sync_boost", "hw.gpu.throttle.time{hw.gpu.throttle.reason=sync_boost}", 1e-6, 2, 0},
	{"clocks_event_reasons_counters.sw_thermal_slowdown", "hw.gpu.throttle.time{hw.gpu.throttle.reason=sw_thermal}", 1e-6, 2, 0},
	{"clocks_event_reasons_counters.hw_thermal_slowdown", "hw.gpu.throttle.time{hw.gpu.throttle.reason=hw_thermal}", 1e-6, 2, 0},
	{"clocks_event_reasons_counters.hw_power_brake_slowdown", "hw.gpu.throttle.time{hw.gpu.throttle.reason=hw_power_brake}", 1e-6, 2, 0},
	{"retired_pages.single_bit_ecc.count", "hw.gpu.retired_pages{error.type=corrected}", 1, 0, 0},
	{"retired_pages.double_bit.count", "hw.gpu.retired_pages{error.type=uncorrected}", 1, 0, 0},
	{"ecc.errors.corrected.aggregate.dram", "hw.errors{error.type=corrected,hw.gpu.ecc.lifetime=aggregate,hw.gpu.memory.location=dram}", 1, 0, 0},
	{"ecc.errors.uncorrected.volatile.dram", "hw.errors{error.type=uncorrected,hw.gpu.ecc.lifetime=volatile,hw.gpu.memory.location=dram}", 1, 0, 0},
	{"ecc.errors.corrected.volatile.sram", "hw.errors{error.type=corrected,hw.gpu.ecc.lifetime=volatile,hw.gpu.memory.location=sram}", 1, 0, 0},
	{"fan.speed", "hw.fan.speed_ratio{fan0}", 0.01, 0.02, 0},
	{"ecc.errors.corrected.volatile.dram", "hw.errors{error.type=corrected,hw.gpu.ecc.lifetime=volatile,hw.gpu.memory.location=dram}", 1, 0, 0},
	{"ecc.errors.uncorrected.aggregate.dram", "hw.errors{error.type=uncorrected,hw.gpu.ecc.lifetime=aggregate,hw.gpu.memory.location=dram}", 1, 0, 0},
}

// askSMI queries nvidia-smi for all fields; the answer is by index, by field.
func askSMI(ctx context.Context, program string) (map[string]map[string]string, error) {
	fields := make([]string, 0, len(questions)+2)
	fields = append(fields, "index", "pci.bus_id")
	for _, q := range questions {
		fields = append(fields, q.field)
	}
	out, err := exec.CommandContext(ctx, program, "--query-gpu="+strings.Join(fields, ","), "--format=csv,noheader,nounits").CombinedOutput()
	if err != nil && strings.Contains(string(out), "not a valid field") {
		fields = validFields(ctx, program, fields) // an older nvidia-smi knows fewer
		out, err = exec.CommandContext(ctx, program, "--query-gpu="+strings.Join(fields, ","), "--format=csv,noheader,nounits").CombinedOutput()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return parseSMI(string(out), fields)
}

func validFields(ctx context.Context, program string, names []string) (valid []string) {
	for _, name := range names {
		if exec.CommandContext(ctx, program, "--query-gpu="+name, "--format=csv,noheader").Run() == nil {
			valid = append(valid, name)
		}
	}
	return valid
}

// parseSMI reads nvidia-smi's CSV without header and units.
func parseSMI(text string, names []string) (map[string]map[string]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.TrimLeadingSpace = true
	r.FieldsPerRecord = len(names)
	records, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read nvidia-smi's answer: %w", err)
	}
	rows := map[string]map[string]string{}
	for _, record := range records {
		row := map[string]string{}
		for i, name := range names {
			row[name] = strings.TrimSpace(record[i])
		}
		rows[row["index"]] = row
	}
	return rows, nil
}

// parseValue reads a figure of nvidia-smi; false for N/A and the like.
func parseValue(text string) (float64, bool) {
	switch text {
	case "Active":
		return 1, true
	case "Not Active":
		return 0, true
	}
	v, err := strconv.ParseFloat(strings.TrimPrefix(text, "P"), 64)
	return v, err == nil && !math.IsNaN(v) && !math.IsInf(v, 0)
}

// compareGPU compares one GPU's readings from before and after nvidia-smi's
// with its own: a value may lie near either, or between them.
func compareGPU(name string, row map[string]string, before, after map[string]map[string]float64) []comparison {
	var all []comparison
	for _, q := range questions {
		text, asked := row[q.field]
		if !asked {
			continue
		}
		a, hasA := before[name][q.series]
		b, hasB := after[name][q.series]
		want, known := parseValue(text)
		c := comparison{Metric: q.series, Receiver: "none", SMI: text}
		switch {
		case !known && !hasB:
			c.Same = true // both report that the GPU does not support it
		case known && hasA && hasB:
			want *= q.factor
			slack := max(q.tolerance, q.share*math.Abs(want)) + 1e-9*math.Abs(want)
			c.Same = want >= min(a, b)-slack && want <= max(a, b)+slack
			c.Receiver = strconv.FormatFloat(b, 'g', 8, 64)
			c.SMI = strconv.FormatFloat(want, 'g', 8, 64)
		case hasB:
			c.Receiver = strconv.FormatFloat(b, 'g', 8, 64)
		}
		all = append(all, c)
	}
	return all
}

// askProcesses queries nvidia-smi for the memory of processes that compute, in MiB,
// by the GPU's PCI address and by process.
func askProcesses(ctx context.Context, program string) (map[string]map[string]string, error) {
	names := []string{"gpu_bus_id", "pid", "used_gpu_memory"}
	out, err := exec.CommandContext(ctx, program, "--query-compute-apps="+strings.Join(names, ","), "--format=csv,noheader,nounits").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	r := csv.NewReader(strings.NewReader(string(out)))
	r.TrimLeadingSpace = true
	r.FieldsPerRecord = len(names)
	records, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read nvidia-smi's list of processes: %w", err)
	}
	all := map[string]map[string]string{}
	for _, record := range records {
		if all[record[0]] == nil {
			all[record[0]] = map[string]string{}
		}
		all[record[0]][record[1]] = record[2]
	}
	return all, nil
}

// compareProcesses compares the memory of each process that nvidia-smi lists.
func compareProcesses(listed map[string]string, before, after map[string]float64) []comparison {
	all := make([]comparison, 0, len(listed))
	for _, pid := range slices.Sorted(maps.Keys(listed)) {
		want, known := parseValue(listed[pid])
		c := comparison{Metric: "hw.gpu.process.memory.usage of process " + pid, Receiver: "none", SMI: listed[pid]}
		a, hasA := ofProcess(before, pid)
		b, hasB := ofProcess(after, pid)
		switch {
		case !known && !hasB:
			c.Same = true
		case known && hasA && hasB:
			slack := max(mib, 0.02*want*mib)
			c.Same = want*mib >= min(a, b)-slack && want*mib <= max(a, b)+slack
			c.Receiver = strconv.FormatFloat(b/mib, 'f', 0, 64)
		}
		all = append(all, c)
	}
	return all
}

func ofProcess(readings map[string]float64, pid string) (float64, bool) {
	for name, v := range readings {
		if strings.HasPrefix(name, "hw.gpu.process.memory.usage{") && (strings.Contains(name, "process.pid="+pid+",") || strings.Contains(name, "process.pid="+pid+"}")) {
			return v, true
		}
	}
	return 0, false
}
