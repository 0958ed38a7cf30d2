// SPDX-License-Identifier: Apache-2.0

// Package report answers the history questions of an image service from a
// Prometheus-compatible store, and writes the answers as a page: when the peak is, what
// each task class uses, which GPUs are idle, how fast each model is, how utilisation
// follows concurrency, and what an image costs.
package report

// Question is one question with the PromQL that answers it. $window is the time range,
// such as 7d; $step the resolution of a range query; $grain that of a subquery, 5m for a
// week.
type Question struct {
	ID, Text, PromQL string
	// Range questions are range queries over the window.
	Range bool
}

// Questions are all queries of the report; docs/history.md lists them.
var Questions = []Question{
	{"prompts_per_hour", "Images per hour, by task class; their sum by hour of the day shows the peak", `sum by (comfyui_task_class) (increase(comfyui_prompts_total{comfyui_prompt_outcome="success"}[1h]))`, true},
	{"outcomes", "How prompts ended", `sum by (comfyui_prompt_outcome, error_type) (increase(comfyui_prompts_total[$window]))`, false},
	{"class_count", "Executions by task class", `sum by (comfyui_task_class) (increase(comfyui_execution_duration_seconds_count[$window]))`, false},
	{"class_need", "Mean memory that executions need by task class, By", `sum by (comfyui_task_class) (increase(comfyui_execution_memory_need_bytes_sum[$window])) / sum by (comfyui_task_class) (increase(comfyui_execution_memory_need_bytes_count[$window]))`, false},
	{"class_memory", "Mean memory that was held while executions ran by task class, By", `sum by (comfyui_task_class) (increase(comfyui_execution_gpu_memory_peak_bytes_sum[$window])) / sum by (comfyui_task_class) (increase(comfyui_execution_gpu_memory_peak_bytes_count[$window]))`, false},
	{"class_energy", "Energy per image by task class, J", `sum by (comfyui_task_class) (increase(comfyui_execution_gpu_energy_joules_sum[$window])) / sum by (comfyui_task_class) (increase(comfyui_execution_duration_seconds_count[$window]))`, false},
	{"class_card_time", "GPU time per image by task class, s", `sum by (comfyui_task_class) (increase(comfyui_execution_gpu_time_seconds_sum[$window])) / sum by (comfyui_task_class) (increase(comfyui_execution_duration_seconds_count[$window]))`, false},
	{"class_wait", "Mean wait in the queue by task class, s", `sum by (comfyui_task_class) (increase(comfyui_queue_duration_seconds_sum[$window])) / sum by (comfyui_task_class) (increase(comfyui_queue_duration_seconds_count[$window]))`, false},
	{"class_p95", "95th percentile of the execution by task class, s", `histogram_quantile(0.95, sum by (le, comfyui_task_class) (increase(comfyui_execution_duration_seconds_bucket[$window])))`, false},
	{"model_count", "Executions by model", `sum by (comfyui_model) (increase(comfyui_execution_duration_seconds_count[$window]))`, false},
	{"model_mean", "Mean execution by model, s", `sum by (comfyui_model) (increase(comfyui_execution_duration_seconds_sum[$window])) / sum by (comfyui_model) (increase(comfyui_execution_duration_seconds_count[$window]))`, false},
	{"model_p95", "95th percentile of the execution by model, s", `histogram_quantile(0.95, sum by (le, comfyui_model) (increase(comfyui_execution_duration_seconds_bucket[$window])))`, false},
	{"card_utilization", "Mean utilisation of each GPU", `avg by (instance, hw_id, hw_name) (avg_over_time(hw_gpu_utilization_mean_ratio{hw_gpu_task="general"}[$window]))`, false},
	{"card_idle", "Share of the time in which a GPU was idle", `avg by (instance, hw_id, hw_name) (avg_over_time((hw_gpu_utilization_mean_ratio{hw_gpu_task="general"} < bool 0.01)[$window:$grain]))`, false},
	{"card_energy", "Energy of each GPU, J", `sum by (instance, hw_id, hw_name) (increase(hw_energy_joules_total[$window]))`, false},
	{"card_memory", "Peak memory of each GPU, By", `max by (instance, hw_id, hw_name) (max_over_time(hw_gpu_memory_usage_bytes[$window]))`, false},
	{"card_limit", "Memory of each GPU, By", `max by (instance, hw_id, hw_name) (max_over_time(hw_gpu_memory_limit_bytes[$window]))`, false},
	{"concurrency", "Prompts that run or wait", `sum(avg_over_time(comfyui_queue_length[$step]))`, true},
	{"utilization", "Utilisation of the GPUs that ran prompts", `avg(avg_over_time(hw_gpu_utilization_mean_ratio{hw_gpu_task="general"}[$step]) and on (hw_id) (sum by (hw_id) (increase(comfyui_execution_gpu_time_seconds_count[$window])) > 0))`, true},
	{"joules", "Energy of all executions, J", `sum(increase(comfyui_execution_gpu_energy_joules_sum[$window]))`, false},
	{"card_seconds", "GPU time of all executions, s", `sum(increase(comfyui_execution_gpu_time_seconds_sum[$window]))`, false},
	{"simulated", "Series of simulated GPUs", `count(last_over_time(hw_gpu_up{gpu_simulated="true"}[$window]))`, false},
}
