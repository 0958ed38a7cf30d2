// SPDX-License-Identifier: Apache-2.0

package boards

import "github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/board"

// capacity answers the history questions of docs/history.md, by the recording rules.
func capacity() board.Dashboard {
	return board.Dashboard{
		Name: "capacity", Title: "Capacity and cost", From: "now-7d",
		Description: "When the peak is, what task classes use, which GPUs are idle, how fast each model version is, how utilisation follows concurrency and what an image costs. Needs the recording rules of deploy/prometheus/rules, with your prices in prices.yaml.",
		Variables:   []board.Variable{source(), hosts(), someGPUs()},
		Rows: []board.Row{
			{Title: "When is the peak?", Panels: peaks()},
			{Title: "What do buildings use compared with people?", Panels: classes()},
			{Title: "Which GPUs are idle?", Panels: idle()},
			{Title: "How fast is each model version?", Panels: models()},
			{Title: "How does utilisation follow concurrency?", Panels: concurrency()},
			{Title: "What does an image cost?", Panels: cost()},
		},
	}
}

func bars(title, unit string, width uint32, absent, description, expr, legend string) board.Panel {
	p := value(title, unit, width, absent, description, expr, legend)
	p.Kind, p.Height = board.BarGauge, tall
	if unit == share {
		p.Max = 1
	}
	return p
}

// overRange is the mean of a recorded series over the range.
func overRange(series string) string { return `avg_over_time(` + series + `[$__range])` }

func peaks() []board.Panel {
	average := value("Average day", number, half, noHistory, "Mean images per hour, by hour of the day (UTC).", overRange(`comfyui:pictures_per_hour:by_hour`), "")
	average.Kind, average.Height, average.Category = board.BarChart, tall, "hour"
	return []board.Panel{
		value("Peak hour", number, quarter, noHistory, "The hour of the day (UTC) with the most images per hour, on average over this range.",
			`topk(1, `+overRange(`comfyui:pictures_per_hour:by_hour`)+`)`, "{{hour}}:00 UTC"),
		value("Images in this range", number, quarter, noPrompts, "Successful prompts.",
			`sum(increase(comfyui_prompts_total{comfyui_prompt_outcome="success"}[$__range]))`, ""),
		average,
		chart("Images per hour by task class", number, whole, noHistory, "Successful prompts.", q(`comfyui:pictures_per_hour:by_class`, "{{comfyui_task_class}}")),
	}
}

func classes() []board.Panel {
	const either = "no prompts of both classes in this range, fewer than three executions of a kind, or no recording rules (docs/history.md)"
	ratio := func(series string) string {
		return overRange(series+`{comfyui_task_class="buildings"}`) + ` / ignoring (comfyui_task_class) ` + overRange(series+`{comfyui_task_class="people"}`)
	}
	return []board.Panel{
		value("Memory, buildings ÷ people", number, quarter, either, "What an execution needs.", ratio(`comfyui:memory_need_bytes:mean1h`), ""),
		value("Energy, buildings ÷ people", number, quarter, either, "GPU energy per execution.", ratio(`comfyui:gpu_energy_joules:mean1h`), ""),
		value("GPU time, buildings ÷ people", number, quarter, either, "Per execution.", ratio(`comfyui:gpu_time_seconds:mean1h`), ""),
		value("Held memory, buildings ÷ people", number, quarter, either, "Peak held by PyTorch, which keeps memory that it once allocated: classes differ less here than in what they need.", ratio(`comfyui:gpu_memory_peak_bytes:mean1h`), ""),
		{
			Kind: board.Table, Title: "Each task class", Unit: "none", Width: half, Height: tall, Absent: noHistory, Description: "Means per execution over this range.",
			Queries: []board.Query{
				q(overRange(`comfyui:memory_need_bytes:mean1h`), ""), q(overRange(`comfyui:gpu_memory_peak_bytes:mean1h`), ""),
				q(overRange(`comfyui:gpu_energy_joules:mean1h`), ""), q(overRange(`comfyui:gpu_time_seconds:mean1h`), ""),
			},
			Columns: []board.Column{
				{Field: "comfyui_task_class", Title: "Task class"}, {Field: "Value #A", Title: "Memory needed", Unit: byteSize}, {Field: "Value #B", Title: "Memory held", Unit: byteSize},
				{Field: "Value #C", Title: "Energy", Unit: joules}, {Field: "Value #D", Title: "GPU time", Unit: seconds},
			},
		},
		chart("Memory needed by task class", byteSize, half, noHistory, "Mean per execution over the last hour.", q(`comfyui:memory_need_bytes:mean1h`, "{{comfyui_task_class}}")),
	}
}

func idle() []board.Panel {
	const unknown = "no recorded history: load the recording rules (docs/history.md); GPUs in MIG mode report no utilisation"
	return []board.Panel{
		value("Idle GPUs", number, quarter, unknown, "Idle for more than 95 % of this range.", `sum(`+overRange(`gpu:idle:ratio1h{$GPU}`)+` > bool 0.95)`, ""),
		bars("Idle share of each GPU", share, half-quarter, unknown, "Share of this range.", `sort_desc(`+overRange(`gpu:idle:ratio1h{$GPU}`)+`)`, gpuLegend),
		chart("Idle share over time", share, half, unknown, "Share of the last hour.", q(`gpu:idle:ratio1h{$GPU}`, gpuLegend)),
		bars("Peak memory of each GPU", share, half, noSamples, "Share of its memory, over this range.",
			`sort_desc(max by (instance, hw_name) (max_over_time(hw_gpu_memory_usage_max_bytes{$GPU}[$__range])) / max by (instance, hw_name) (hw_gpu_memory_limit_bytes{$GPU}))`, gpuLegend),
	}
}

func concurrency() []board.Panel {
	return []board.Panel{
		chart("Concurrency and utilisation", number, whole, noHistory, "Running and waiting prompts, and the mean utilisation of the GPUs. If the first grows and the second does not, the limit is the CPU, the disk or prompts running one at a time.",
			q(`comfyui:concurrency:avg5m`, "prompts"), board.Query{Expr: `gpu:utilization:avg5m`, Legend: "utilisation", RightUnit: share}),
	}
}

func models() []board.Panel {
	return []board.Panel{
		{
			Kind: board.Table, Title: "Each model version", Unit: "none", Width: half, Height: tall, Absent: noHistory, Description: "Execution time over this range.",
			Queries: []board.Query{q(overRange(`comfyui:execution_seconds:mean1h`), ""), q(overRange(`comfyui:execution_seconds:p95_1h`), "")},
			Columns: []board.Column{{Field: "comfyui_model", Title: "Model"}, {Field: "Value #A", Title: "Mean", Unit: seconds}, {Field: "Value #B", Title: "95th percentile", Unit: seconds}},
		},
		chart("Execution time by model version", seconds, half, noHistory, "Mean over the last hour.", q(`comfyui:execution_seconds:mean1h`, "{{comfyui_model}}")),
	}
}

func cost() []board.Panel {
	return []board.Panel{
		value("Cost of an image", number, quarter, noHistory, "Its own energy and GPU time, at the prices (and in the currency) of prices.yaml.", overRange(`comfyui:picture_cost:own1h`), ""),
		value("Cost with idle GPUs", number, quarter, noHistory, "All GPUs and all their energy, divided by the number of images.", overRange(`comfyui:picture_cost:all1h`), ""),
		value("Energy of an image", joules, quarter, noHistory, "GPU energy.", overRange(`comfyui:picture_joules:mean1h`), ""),
		value("GPU time of an image", seconds, quarter, noHistory, "GPU time used by it.", overRange(`comfyui:picture_card_seconds:mean1h`), ""),
		chart("Cost of an image over time", number, half, noHistory, "own: its energy and GPU time; with idle GPUs: all GPUs, divided by the number of images.",
			q(`comfyui:picture_cost:own1h`, "own"), q(`comfyui:picture_cost:all1h`, "with idle GPUs")),
		value("Price of a kWh", number, sixth, noHistory, "From prices.yaml: set your own there.", `gpu:price:per_kwh`, ""),
		value("Price of a GPU-hour", number, sixth, noHistory, "From prices.yaml: set your own there.", `gpu:price:per_card_hour`, ""),
		value("Energy cost in this range", number, sixth, noHistory, "Of these GPUs, busy or idle.", `sum(increase(hw_energy_joules_total{$GPU}[$__range])) / 3.6e6 * on () gpu:price:per_kwh`, ""),
	}
}
