// SPDX-License-Identifier: Apache-2.0

package boards

import "github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/board"

// gpu shows one GPU in depth, with its MIG devices.
func gpu() board.Dashboard {
	host, device := hosts(), someGPUs()
	host.Single, device.Single = true, true
	return board.Dashboard{
		Name: "gpu", Title: "One GPU", From: "now-3h",
		Description: "One GPU in depth: identity, memory, work, power and clocks, heat, links, errors.",
		Variables:   []board.Variable{source(), host, device},
		Rows: []board.Row{
			{Title: "Identity", Panels: identity()},
			{Title: "Memory", Panels: memory()},
			{Title: "Work", Panels: work()},
			{Title: "Power, clocks and heat", Panels: power()},
			{Title: "Links", Panels: links()},
			{Title: "Errors", Panels: faults()},
		},
	}
}

// ofGPU matches the alerts of the GPU, and those of its host that are of no GPU.
const ofGPU = `instance=~"$host", hw_name=~"$gpu(/.*)?|"`

func identity() []board.Panel {
	return []board.Panel{
		{
			Kind: board.Table, Title: "The GPU and its MIG devices", Unit: "none", Width: whole, Height: 5, Absent: noSamples,
			Description: "Identity and versions.",
			Queries:     []board.Query{q(`hw_gpu_info{$GPU}`, "")},
			Columns: []board.Column{
				{Field: "hw_name", Title: "Name"}, {Field: "hw_model", Title: "Model"}, {Field: "hw_gpu_architecture", Title: "Architecture"},
				{Field: "hw_driver_version", Title: "Driver"}, {Field: "hw_gpu_cuda_version", Title: "CUDA"}, {Field: "hw_gpu_pci_bus_id", Title: "PCI"},
				{Field: "hw_gpu_mig_mode", Title: "MIG"}, {Field: "hw_gpu_mig_profile", Title: "MIG profile"},
				{Field: "hw_serial_number", Title: "Serial number"}, {Field: "hw_id", Title: "UUID"},
			},
		},
		{
			Kind: board.Stat, Title: "Condition", Unit: "none", Width: sixth, Height: low, Absent: noSamples, Description: "hw.status: docs/status.md.",
			Queries: []board.Query{q(`max by (hw_state) (hw_status{$GPU} == 1)`, "{{hw_state}}")}, Values: []board.Value{{Number: "1", Text: "yes", Color: "text"}},
		},
		{
			Kind: board.Stat, Title: "Recovery action", Unit: "none", Width: sixth, Height: low, Absent: "the driver reports no recovery action for this GPU",
			Description: "What the driver asks for: none, a reset or a reboot.",
			Queries:     []board.Query{q(`max by (hw_gpu_recovery_action) (hw_gpu_recovery_action{$GPU} == 1)`, "{{hw_gpu_recovery_action}}")}, Values: []board.Value{{Number: "1", Text: "yes", Color: "text"}},
		},
		value("Performance state", number, sixth, noSamples, "P-state, from 0 (highest) to 15.", `max(hw_gpu_performance_state{$GPU})`, ""),
		value("Energy in this range", joules, sixth, noSamples, "From the GPU's own counter or, without one, the integral of its power.", `sum(increase(hw_energy_joules_total{$GPU}[$__range]))`, ""),
		value("Busy in this range", share, sixth, noMIG, "Share of this range during which any program used the GPU, also between scrapes. Time without samples counts as idle.",
			`max(increase(hw_gpu_active_time_seconds_total{$GPU, hw_gpu_task="general"}[$__range])) / $__range_s`, ""),
		value("Throttled in this range", seconds, sixth, noSamples, "All reasons combined.", `sum(increase(hw_gpu_throttle_time_seconds_total{$GPU}[$__range]))`, ""),
		firing("Firing alerts of this GPU and its host", half, ofGPU),
		{
			Kind: board.Table, Title: "Pods holding this GPU", Unit: "none", Width: half, Height: tall, Absent: "no pod holds this GPU, or this host is not a Kubernetes node",
			Description: "As reported by the kubelet. A pod may hold a GPU without using it.",
			Queries:     []board.Query{q(`max by (hw_name, k8s_namespace_name, k8s_pod_name, k8s_container_name) (hw_gpu_allocated{$GPU})`, "")},
			Columns:     []board.Column{{Field: "hw_name", Title: "Device"}, {Field: "k8s_namespace_name", Title: "Namespace"}, {Field: "k8s_pod_name", Title: "Pod"}, {Field: "k8s_container_name", Title: "Container"}},
		},
	}
}

func memory() []board.Panel {
	return []board.Panel{
		chart("Memory in use", byteSize, half, noSamples, "Usage, peak between scrapes and limit, for the GPU and its MIG devices.",
			q(`max by (hw_name) (hw_gpu_memory_usage_bytes{$GPU})`, "{{hw_name}} used"),
			q(`max by (hw_name) (hw_gpu_memory_usage_max_bytes{$GPU})`, "{{hw_name}} peak"),
			q(`max by (hw_name) (hw_gpu_memory_limit_bytes{$GPU})`, "{{hw_name}} limit")),
		on(pageDepth, "Processes", "only while programs use a GPU", chart("Memory by process", byteSize, half, "no process uses the GPU, or the driver lists none (WSL2)",
			"GPU memory held by each process.",
			q(`sum by (instance, hw_name, process_executable_name, process_pid) (hw_gpu_process_memory_usage_bytes{$GPU})`, gpuLegend+" {{process_executable_name}} {{process_pid}}")), board.VMUIMaxSeries),
		chart("BAR1", byteSize, half, noSamples, "The window through which the host and other GPUs access the GPU's memory.",
			q(`max by (hw_name) (hw_gpu_bar1_usage_bytes{$GPU})`, "{{hw_name}} used"), q(`max by (hw_name) (hw_gpu_bar1_limit_bytes{$GPU})`, "{{hw_name}} limit")),
		chart("Reserved memory", byteSize, half, noSamples, "Reserved by the driver and the firmware.", q(`max by (hw_name) (hw_gpu_memory_reserved_bytes{$GPU})`, "{{hw_name}}")),
	}
}

func work() []board.Panel {
	return []board.Panel{
		chart("Utilisation by task", share, third, noMIG, "Mean and peak of the samples since the last scrape.",
			q(`max by (hw_gpu_task) (hw_gpu_utilization_mean_ratio{$GPU})`, "{{hw_gpu_task}} mean"), q(`max by (hw_gpu_task) (hw_gpu_utilization_max_ratio{$GPU})`, "{{hw_gpu_task}} peak")),
		chart("Busy time", share, third, noMIG, "Share of the time during which the GPU worked, also between scrapes.",
			q(`sum by (hw_gpu_task) (rate(hw_gpu_active_time_seconds_total{$GPU}[$__rate_interval]))`, "{{hw_gpu_task}}")),
		on(pageDepth, "Processes", "only while programs use a GPU", chart("Utilisation by process", share, third, "no process uses the GPU, or the driver lists none (MIG, WSL2)",
			"Mean of the driver's samples since the last scrape.",
			q(`sum by (instance, hw_name, process_executable_name, process_pid) (hw_gpu_process_utilization_ratio{$GPU, hw_gpu_task="general"})`, gpuLegend+" {{process_executable_name}} {{process_pid}}")), board.VMUIMaxSeries),
		on(pageDepth, "Profiling", "Hopper and newer", chart("SM activity", share, third, noProfiling, "Share of the multiprocessors that were busy since the last scrape.",
			q(`max by (instance, hw_name) (hw_gpu_sm_active_ratio{$GPU})`, gpuLegend)), board.VMUIMaxSeries),
		chart("SM occupancy", share, third, noProfiling, "Resident warps as a share of the maximum, and the share of the time during which any program ran.",
			q(`max by (hw_name) (hw_gpu_sm_occupancy_ratio{$GPU})`, "{{hw_name}} occupancy"), q(`max by (hw_name) (hw_gpu_engine_active_ratio{$GPU})`, "{{hw_name}} engine")),
		on(pageDepth, "Profiling", "Hopper and newer", chart("Pipe activity", share, third, noProfiling, "Share of the cycles during which each arithmetic pipe was busy. Image models should mostly use tensor.",
			q(`max by (instance, hw_name, hw_gpu_pipe) (hw_gpu_pipe_active_ratio{$GPU})`, gpuLegend+" {{hw_gpu_pipe}}")), board.VMUIMaxSeries),
		chart("Memory bandwidth in use", share, third, noProfiling, "Share of the bandwidth since the last scrape.", q(`max by (hw_name) (hw_gpu_memory_active_ratio{$GPU})`, "{{hw_name}}")),
	}
}

func power() []board.Panel {
	return []board.Panel{
		chart("Power and its limit", watts, half, noSamples, "instant: current draw; average: mean over the last second.",
			q(`max by (hw_gpu_power_scope) (hw_power_watts{$GPU})`, "{{hw_gpu_power_scope}}"), q(`max by (hw_limit_type) (hw_gpu_power_limit_watts{$GPU, hw_limit_type="enforced"})`, "limit {{hw_limit_type}}")),
		on(pageDepth, "Clocks and links", "", chart("Clocks", hertz, half, noSamples, "Of the multiprocessors (SM) and of the memory.",
			q(`max by (instance, hw_name) (hw_gpu_clock_frequency_hertz{$GPU, hw_gpu_clock="sm"})`, gpuLegend+" sm"),
			q(`max by (instance, hw_name) (hw_gpu_clock_frequency_hertz{$GPU, hw_gpu_clock="memory"})`, gpuLegend+" memory")), 10, 10),
		chart("Throttled time by reason", share, half, noSamples, "Share of the time during which clocks were throttled.",
			q(`sum by (hw_gpu_throttle_reason) (rate(hw_gpu_throttle_time_seconds_total{$GPU}[$__rate_interval]))`, "{{hw_gpu_throttle_reason}}")),
		chart("Temperatures", celsius, half, noSamples, "Of the GPU and, if it has a sensor there, of its memory.",
			q(`max by (hw_sensor_location) (hw_temperature_celsius{$GPU})`, "{{hw_sensor_location}}")),
		chart("Temperature limits", celsius, half, "this GPU reports a margin instead of limits", "Temperatures at which the GPU slows down or shuts down.",
			q(`max by (hw_limit_type) (hw_temperature_limit_celsius{$GPU})`, "{{hw_limit_type}}")),
		chart("Margin to throttling", celsius, half, "this GPU reports limits instead of a margin", "Degrees left until the GPU lowers its clocks.",
			q(`min by (hw_name) (hw_gpu_temperature_margin_celsius{$GPU})`, "{{hw_name}}")),
		on(pageDepth, "Clocks and links", "GPUs with fans", chart("Fans", share, half, "the GPU has no fan of its own (the chassis cools it)", "Share of the maximum speed.",
			q(`max by (instance, hw_name) (hw_fan_speed_ratio{$GPU})`, gpuLegend)), board.VMUIMaxSeries),
	}
}

func links() []board.Panel {
	return []board.Panel{
		on(pageDepth, "Clocks and links", "Turing and newer", chart("PCIe", rate, half, "the GPU does not count PCIe bytes (older than Turing)", "Throughput in each direction, as seen by the GPU.",
			q(`sum by (instance, hw_name, network_io_direction) (rate(hw_gpu_io_bytes_total{$GPU}[$__rate_interval]))`, gpuLegend+" {{network_io_direction}}")), board.VMUIMaxSeries),
		chart("PCIe link", number, half, noSamples, "Generation and lanes, current and maximum. Idle GPUs lower the generation to save power; fewer lanes than the maximum are a fault.",
			q(`max by (state) (hw_gpu_pcie_link_generation{$GPU})`, "generation {{state}}"), q(`max by (state) (hw_gpu_pcie_link_width{$GPU})`, "lanes {{state}}")),
		on(pageDepth, "Clocks and links", "GPUs with NVLink", chart("NVLink", rate, half, noNVLink, "All links combined, without protocol overhead.",
			q(`sum by (instance, hw_name, network_io_direction) (rate(hw_gpu_nvlink_io_bytes_total{$GPU}[$__rate_interval]))`, gpuLegend+" {{network_io_direction}}")), board.VMUIMaxSeries),
		chart("Active NVLinks", number, quarter, noNVLink, "Fewer than before means a fault.", q(`sum by (hw_name) (hw_gpu_nvlink_state{$GPU})`, "{{hw_name}}")),
		chart("NVLink errors", number, quarter, noNVLink, "New errors by kind.",
			q(`sum by (error_type) (increase(hw_gpu_nvlink_errors_total{$GPU}[$__rate_interval]))`, "{{error_type}}")),
	}
}

func faults() []board.Panel {
	return []board.Panel{
		chart("XIDs by number", number, third, noXID, "Errors reported by the driver.",
			risen("hw_gpu_xid", `hw_gpu_xid_errors_total{$GPU}`, "XID {{hw_gpu_xid}}")),
		chart("Memory errors", number, third, noECC, "New errors found by ECC. Corrected errors are harmless unless there are many.",
			q(`sum by (error_type, hw_gpu_memory_location) (increase(hw_errors_total{$GPU, hw_gpu_ecc_lifetime="volatile"}[$__rate_interval]))`, "{{error_type}} {{hw_gpu_memory_location}}")),
		chart("PCIe replays", number, third, noSamples, "Retransmitted packets.",
			q(`sum by (hw_name) (increase(hw_gpu_pcie_replays_total{$GPU}[$__rate_interval]))`, "{{hw_name}}")),
		chart("Remapped rows", number, third, "this GPU remaps no rows (older than Ampere, or no ECC)", "Rows replaced by spare ones over the lifetime of the GPU.",
			q(`max by (error_type) (hw_gpu_row_remaps_total{$GPU})`, "{{error_type}}")),
		chart("Memory banks by spare rows", number, third, "this GPU remaps no rows (older than Ampere, or no ECC)", "A bank without spare rows predicts a failure.",
			q(`max by (hw_gpu_row_remap_availability) (hw_gpu_row_remaps_banks{$GPU})`, "{{hw_gpu_row_remap_availability}}")),
		chart("Retired pages", number, third, "this GPU retires no pages (Ampere and newer remap rows)", "Pages taken out of use over the lifetime of the GPU.",
			q(`max by (error_type) (hw_gpu_retired_pages_total{$GPU})`, "{{error_type}}")),
	}
}
