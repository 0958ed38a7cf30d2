// SPDX-License-Identifier: Apache-2.0

package boards

import "github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/board"

// gpus shows all GPUs of all hosts.
func gpus() board.Dashboard {
	return board.Dashboard{
		Name: "gpus", Title: "GPUs", From: "now-6h",
		Description: "All GPUs of all hosts: which are full, hot, throttled, faulty or idle.",
		Variables:   []board.Variable{source(), hosts(), someGPUs()},
		Rows: []board.Row{
			{Title: "Now", Panels: gpusNow()},
			{Title: "Work", Panels: gpusWork()},
			{Title: "Power and heat", Panels: gpusHeat()},
			{Title: "Health", Panels: gpusHealth()},
			{Title: "Collectors", Panels: collectors()},
		},
	}
}

func gpusNow() []board.Panel {
	return []board.Panel{
		value("GPUs by condition", number, sixth, noSamples, "As the nvml receiver observes them. A lost or unresponsive GPU stays in the list.",
			`sum by (state) (hw_gpu_count{$HOST})`, "{{state}}"),
		value("Memory in use", share, sixth, noSamples, "Share of the memory of all GPUs.",
			`sum(hw_gpu_memory_usage_bytes{$GPU, hw_name!~".*/.*"}) / sum(hw_gpu_memory_limit_bytes{$GPU, hw_name!~".*/.*"})`, ""),
		value("Mean utilisation", share, sixth, noMIG, "Mean of all GPUs now.",
			`avg(hw_gpu_utilization_mean_ratio{$GPU, hw_gpu_task="general"})`, ""),
		value("Power", watts, sixth, noSamples, "Of all GPUs.", `sum(max by (instance, hw_id) (hw_power_watts{$GPU}))`, ""),
		value("Hottest GPU", celsius, sixth, noSamples, "Temperature of the GPU itself, not of its memory.",
			`max(hw_temperature_celsius{$GPU, hw_sensor_location="gpu"})`, ""),
		value("Energy in this range", joules, sixth, noSamples, "Of all GPUs, from their own counters or, for old GPUs, the integral of their power.",
			`sum(increase(hw_energy_joules_total{$GPU}[$__range]))`, ""),
		gpuTable(),
		firing("Firing alerts", third, "$HOST"),
	}
}

// gpuTable has a row for each GPU; its name leads to the dashboard of one GPU.
func gpuTable() board.Panel {
	return board.Panel{
		Kind: board.Table, Title: "Each GPU now", Unit: "none", Width: whole - third, Height: tall, Absent: noSamples,
		Description: "Click a GPU for its own dashboard. GPUs in MIG mode report no utilisation.",
		Queries: []board.Query{
			q(`max by (instance, hw_name, hw_id, hw_model) (hw_gpu_info{$GPU, hw_name!~".*/.*"})`, ""),
			q(`max by (instance, hw_name, hw_id) (hw_gpu_memory_utilization_ratio{$GPU, hw_name!~".*/.*"})`, ""),
			q(`max by (instance, hw_name, hw_id) (hw_gpu_utilization_mean_ratio{$GPU, hw_gpu_task="general"})`, ""),
			q(`max by (instance, hw_name, hw_id) (hw_power_watts{$GPU})`, ""),
			q(`max by (instance, hw_name, hw_id) (hw_temperature_celsius{$GPU, hw_sensor_location="gpu"})`, ""),
			q(`sum by (instance, hw_name, hw_id) (rate(hw_gpu_throttle_time_seconds_total{$GPU}[$__rate_interval]))`, ""),
		},
		Columns: []board.Column{
			{Field: "instance", Title: "Host"},
			{Field: "hw_name", Title: "GPU", Link: &board.Link{Title: "This GPU", URL: "/d/" + board.UIDPrefix + "gpu?var-host=${__data.fields.instance}&var-gpu=${__value.raw}&${__url_time_range}"}},
			{Field: "hw_model", Title: "Model"},
			{Field: "Value #B", Title: "Memory", Unit: share}, {Field: "Value #C", Title: "Utilisation", Unit: share},
			{Field: "Value #D", Title: "Power", Unit: watts}, {Field: "Value #E", Title: "Temperature", Unit: celsius},
			{Field: "Value #F", Title: "Throttled", Unit: share},
		},
	}
}

func gpusWork() []board.Panel {
	return []board.Panel{
		inVMUI("Share of the memory that programs can use. ComfyUI with Dynamic VRAM fills a GPU on purpose: \"Room for the next prompt\" (ComfyUI) counts what it can evict as free.",
			on(pageGPUs, "Work", "", chart("Memory in use by GPU", share, half, noSamples,
				"Share of the memory that programs can use. ComfyUI with Dynamic VRAM fills a GPU on purpose: the ComfyUI dashboard shows how much of that is evictable.",
				q(`max by (instance, hw_name) (hw_gpu_memory_utilization_ratio{$GPU})`, gpuLegend)), board.VMUIMaxSeries)),
		on(pageGPUs, "Work", "GPUs not in MIG mode", chart("Utilisation", share, half, noMIG,
			"Mean of all driver samples since the last scrape.",
			q(`max by (instance, hw_name) (hw_gpu_utilization_mean_ratio{$GPU, hw_gpu_task="general"})`, gpuLegend)), board.VMUIMaxSeries),
		chart("Peak memory between scrapes", share, half, noSamples,
			"Largest sample since the last scrape: it shows an image that needs the memory for only a second, which the value at the scrape misses.",
			q(`max by (instance, hw_name) (hw_gpu_memory_usage_max_bytes{$GPU}) / max by (instance, hw_name) (hw_gpu_memory_limit_bytes{$GPU})`, gpuLegend)),
		chart("Memory bandwidth", share, half, "the GPU is in MIG mode, for which the driver reports no memory utilisation",
			"Share of the sampling period during which memory was read or written.",
			q(`max by (instance, hw_name) (hw_gpu_memory_bandwidth_utilization_ratio{$GPU})`, gpuLegend)),
	}
}

func gpusHeat() []board.Panel {
	return []board.Panel{
		on(pageGPUs, "Power and heat", "", chart("Power by GPU", watts, third, noSamples, "Power draw of each GPU.",
			q(`max by (instance, hw_name) (hw_power_watts{$GPU})`, gpuLegend)), board.VMUIMaxSeries),
		on(pageGPUs, "Power and heat", "", chart("Temperature", celsius, third, noSamples, "Of the GPU itself.",
			q(`max by (instance, hw_name) (hw_temperature_celsius{$GPU, hw_sensor_location="gpu"})`, gpuLegend)), board.VMUIMaxSeries),
		on(pageGPUs, "Power and heat", "only while GPUs are throttled", chart("Throttled time", share, third, noThrottling,
			"Share of the time during which clocks were throttled, by reason. sw_power_cap means that the GPU is at its power limit, which is normal under full load; thermal reasons are not.",
			q(`sum by (instance, hw_name, hw_gpu_throttle_reason) (rate(hw_gpu_throttle_time_seconds_total{$GPU}[$__rate_interval])) > 0`, gpuLegend+" {{hw_gpu_throttle_reason}}")), board.VMUIMaxSeries),
	}
}

func gpusHealth() []board.Panel {
	return []board.Panel{
		{
			Kind: board.StateTimeline, Title: "Condition", Unit: "none", Width: whole, Height: tall, Absent: noSamples,
			Description: "hw.status of each GPU; docs/status.md says what it is derived from.",
			Queries:     []board.Query{q(`max by (instance, hw_name) (1 * hw_status{$GPU, hw_state="predicted_failure"} or 2 * hw_status{$GPU, hw_state="degraded"} or 3 * hw_status{$GPU, hw_state="failed"})`, gpuLegend)},
			Values:      []board.Value{{Number: "0", Text: "ok", Color: "green"}, {Number: "1", Text: "failure predicted", Color: "yellow"}, {Number: "2", Text: "degraded", Color: "orange"}, {Number: "3", Text: "failed", Color: "red"}},
		},
		on(pageGPUs, "Health", "per 5 minutes, only if any occurred", chart("XIDs", number, third, noXID,
			"Errors reported by the driver, by number. docs/runbooks/GPUXidCritical.md says which need a reset.",
			risen("instance, hw_name, hw_gpu_xid", `hw_gpu_xid_errors_total{$GPU}`, gpuLegend+" XID {{hw_gpu_xid}}")), board.VMUIMaxSeries),
		on(pageGPUs, "Health", "GPUs with ECC", chart("Uncorrected memory errors", number, third, noECC, "New errors that ECC could not correct.",
			counted("instance, hw_name", `hw_errors_total{$GPU, error_type="uncorrected", hw_gpu_ecc_lifetime="volatile"}`, gpuLegend)), board.VMUIMaxSeries),
		on(pageGPUs, "Health", "", chart("PCIe replays", number, third, noSamples, "Retransmitted packets. If they persist, suspect the slot, the riser or the cable.",
			counted("instance, hw_name", `hw_gpu_pcie_replays_total{$GPU}`, gpuLegend)), board.VMUIMaxSeries),
	}
}

func collectors() []board.Panel {
	return []board.Panel{
		chart("Collector queue", share, half, noTelemetry, "How full the on-disk queue is: it grows while the storage backend is unreachable.",
			q(`max by (instance, exporter) (otelcol_exporter_queue_size{$HOST} / otelcol_exporter_queue_capacity{$HOST})`, "{{instance}} {{exporter}}")),
		chart("Time to read a GPU", seconds, half, noTelemetry, "95th percentile of the time for all NVML calls to one GPU.",
			q(`histogram_quantile(0.95, sum by (le, instance, hw_name) (rate(otelcol_receiver_nvml_card_duration_bucket{$HOST}[$__rate_interval])))`, gpuLegend)),
	}
}
