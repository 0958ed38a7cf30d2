// SPDX-License-Identifier: Apache-2.0

package boards

import (
	"encoding/json"
	"net/url"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/board"
)

// comfyui shows the servers, their prompts and what these use.
func comfyui() board.Dashboard {
	return board.Dashboard{
		Name: "comfyui", Title: "ComfyUI", From: "now-3h",
		Description: "ComfyUI servers: queues, how long prompts wait and run, which fail and what GPU resources they use, with links to their traces.",
		Variables: []board.Variable{source(), {Name: "tempo", Label: "Traces (Tempo)"}, {Name: "jaeger", Label: "Traces (Jaeger)"},
			{Name: "server", Label: "Server", Query: "label_values(comfyui_up, instance)"}},
		Rows: []board.Row{
			{Title: "Now", Panels: serversNow()},
			{Title: "Prompts", Panels: prompts()},
			{Title: "Nodes and models", Panels: nodes()},
			{Title: "What a prompt uses", Panels: bills()},
			{Title: "Server memory", Panels: serverMemory()},
			{Title: "Proxy", Panels: proxy()},
		},
	}
}

// traceLinks lead from a series to the traces with the same attribute.
func traceLinks(attribute string) []board.Link {
	label := strings.ReplaceAll(attribute, ".", "_")
	return []board.Link{
		{Title: "Traces of this " + attribute + " in Tempo", URL: explore("tempo", map[string]any{
			"queryType": "traceql", "query": `{ resource.service.name = "comfyui" && name = "comfyui.execution" && span.` + attribute + ` = "${__field.labels.` + label + `}" }`,
		})},
		{Title: "Traces of this " + attribute + " in Jaeger", URL: explore("jaeger", map[string]any{
			"queryType": "search", "service": "comfyui", "operation": "comfyui.execution", "tags": attribute + `="${__field.labels.` + label + `}"`,
		})},
	}
}

// explore is the address of Grafana's Explore with a query to a data source that the reader
// chose, in the time range of the dashboard.
func explore(variable string, query map[string]any) string {
	query["refId"] = "A"
	query["datasource"] = map[string]any{"type": variable, "uid": "${" + variable + "}"}
	panes, err := json.Marshal(map[string]any{"traces": map[string]any{
		"datasource": "${" + variable + "}", "queries": []any{query}, "range": map[string]any{"from": "${__from}", "to": "${__to}"},
	}})
	if err != nil {
		panic(err) // texts only
	}
	escaped := strings.NewReplacer("+", "%20", "%24%7B", "${", "%7D", "}").Replace(url.QueryEscape(string(panes)))
	return "/explore?schemaVersion=1&orgId=1&panes=" + escaped
}

func linked(p board.Panel, attribute string) board.Panel {
	p.Links = traceLinks(attribute)
	return p
}

// spanQuantile is a quantile of a kind of span, with exemplars of its traces.
func spanQuantile(quantile, span, by string) string {
	return `histogram_quantile(` + quantile + `, sum by (le, ` + by + `) (rate(comfyui_span_duration_seconds_bucket{$SERVER, span_name="` + span + `"}[$__rate_interval])))`
}

func serversNow() []board.Panel {
	return []board.Panel{
		value("Servers up", number, sixth, noSamples, "ComfyUI servers that respond to their collector.", `sum(comfyui_up{$SERVER})`, ""),
		value("Prompts in the queues", number, sixth, noSamples, "A ComfyUI server runs one prompt at a time; the others are pending.",
			`sum by (state) (comfyui_queue_length{$SERVER})`, "{{state}}"),
		value("Longest wait", seconds, sixth, noSamples, "Of the prompts waiting now; 0 if there are none.", `max(comfyui_queue_oldest_wait_seconds{$SERVER})`, ""),
		value("Time since last progress", seconds, sixth, "no prompt is running", "Since the last node or step of a running prompt. It keeps growing if a server is stuck.",
			`max(comfyui_progress_age_seconds{$SERVER})`, ""),
		value("Images per hour", number, sixth, noPrompts, "Successful prompts, averaged over this range. Time without samples counts as idle.",
			`3600 * sum(rate(comfyui_prompts_total{$SERVER, comfyui_prompt_outcome="success"}[$__range]))`, ""),
		value("Success rate", share, sixth, noPrompts, "Share of the prompts that ended in this range.",
			`sum(increase(comfyui_prompts_total{$SERVER, comfyui_prompt_outcome="success"}[$__range])) / (sum(increase(comfyui_prompts_total{$SERVER}[$__range])) > 0)`, ""),
		on(pageComfyUI, "Queue", "", chart("Queue", number, third, noSamples, "Running and waiting prompts, by server.",
			q(`sum by (instance, state) (comfyui_queue_length{$SERVER})`, "{{instance}} {{state}}")), board.VMUIMaxSeries),
		on(pageComfyUI, "Queue", "", chart("Oldest prompt in the queue", seconds, third, noSamples, "How long the oldest waiting prompt has waited, by server.",
			q(`max by (instance) (comfyui_queue_oldest_wait_seconds{$SERVER})`, "{{instance}}")), board.VMUIMaxSeries),
		firing("Firing alerts", third, "$SERVER"),
	}
}

func prompts() []board.Panel {
	execution := chart("Execution time by task class", seconds, half, noPrompts, "Median and 95th percentile of execution time. Each point is one prompt; click it for its trace.",
		board.Query{Expr: spanQuantile("0.95", "comfyui.execution", "comfyui_task_class"), Legend: "{{comfyui_task_class}} 95 %", Exemplars: true},
		board.Query{Expr: spanQuantile("0.5", "comfyui.execution", "comfyui_task_class"), Legend: "{{comfyui_task_class}} median"})
	return []board.Panel{
		on(pageComfyUI, "Prompts", "only once prompts have ended", chart("Prompts per minute", number, half, noPrompts, "By outcome; docs/comfyui.md lists them.",
			q(`60 * sum by (comfyui_prompt_outcome) (rate(comfyui_prompts_total{$SERVER}[$__rate_interval]))`, "{{comfyui_prompt_outcome}}")), 10),
		chart("Failures", number, half, "no prompts failed in this range", "By server and kind; out_of_memory means that the GPU was full.",
			risen("instance, comfyui_prompt_outcome, error_type", `comfyui_prompts_total{$SERVER, comfyui_prompt_outcome=~"error|lost"}`, "{{instance}} {{comfyui_prompt_outcome}} {{error_type}}")),
		inVMUI("Median and 95th percentile of execution time.", on(pageComfyUI, "Prompts", "only once prompts have run", linked(execution, "comfyui.task_class"), 10, 10)),
		{
			Kind: board.Heatmap, Title: "Duration of prompts", Unit: seconds, Width: half, Height: tall, Absent: noPrompts,
			Description: "From request to end, including the wait. Each point is one prompt; click it for its trace.",
			Queries:     []board.Query{{Expr: `sum by (le) (increase(comfyui_span_duration_seconds_bucket{$SERVER, span_name="comfyui.prompt"}[$__rate_interval]))`, Legend: "{{le}}", Exemplars: true}},
		},
		linked(chart("Time in queue", seconds, half, noPrompts, "95th percentile by task class. If prompts wait longer than they run, another GPU helps.",
			board.Query{Expr: spanQuantile("0.95", "comfyui.queue", "comfyui_task_class"), Legend: "{{comfyui_task_class}}", Exemplars: true}), "comfyui.task_class"),
		chart("Time spent waiting", share, half, noPrompts, "Share of the time from request to end.",
			q(`sum by (instance) (rate(comfyui_queue_duration_seconds_sum{$SERVER}[$__rate_interval])) / (sum by (instance) (rate(comfyui_queue_duration_seconds_sum{$SERVER}[$__rate_interval])) + sum by (instance) (rate(comfyui_execution_duration_seconds_sum{$SERVER}[$__rate_interval])) > 0)`, "{{instance}}")),
	}
}

func nodes() []board.Panel {
	return []board.Panel{
		on(pageComfyUI, "Prompts", "only once prompts have run", linked(chart("Execution time by model", seconds, half, noPrompts, "Mean by model version.",
			q(`sum by (comfyui_model) (rate(comfyui_execution_duration_seconds_sum{$SERVER}[$__rate_interval])) / (sum by (comfyui_model) (rate(comfyui_execution_duration_seconds_count{$SERVER}[$__rate_interval])) > 0)`, "{{comfyui_model}}")), "comfyui.model"), board.VMUIMaxSeries),
		chart("Time by node class", seconds, half, "no prompts with known nodes ran in this range: clients need a WebSocket through the proxy", "Mean run time of each class of node.",
			q(`topk(15, sum by (comfyui_node_class) (rate(comfyui_node_duration_seconds_sum{$SERVER}[$__rate_interval])) / (sum by (comfyui_node_class) (rate(comfyui_node_duration_seconds_count{$SERVER}[$__rate_interval])) > 0))`, "{{comfyui_node_class}}")),
		chart("Model loading", share, half, "no model loading was observed: docs/comfyui.md says what counts", "Share of the time that servers spent loading models, by model. Prompts that switch models are slow.",
			q(`sum by (comfyui_model) (rate(comfyui_loading_time_seconds_total{$SERVER}[$__rate_interval]))`, "{{comfyui_model}}")),
		chart("Cached nodes", share, half, "no prompts with known nodes ran in this range: clients need a WebSocket through the proxy", "Share of the nodes whose result was cached.",
			q(`sum by (instance) (rate(comfyui_nodes_total{$SERVER, state="cached"}[$__rate_interval])) / (sum by (instance) (rate(comfyui_nodes_total{$SERVER}[$__rate_interval])) > 0)`, "{{instance}}")),
	}
}

// perExecution is a sum over executions divided by their number.
func perExecution(metric string) string {
	return `sum by (comfyui_task_class) (rate(` + metric + `_sum{$SERVER}[$__rate_interval])) / (sum by (comfyui_task_class) (rate(` + metric + `_count{$SERVER}[$__rate_interval])) > 0)`
}

func bills() []board.Panel {
	const none = "no prompts ran in this range on a GPU that the collector monitors (docs/correlation.md)"
	return []board.Panel{
		on(pageComfyUI, "What a prompt uses", "only once prompts have run", linked(chart("Energy per execution", joules, third, none, "Mean by task class. Prompts that share a GPU share its energy.",
			q(perExecution("comfyui_execution_gpu_energy_joules"), "{{comfyui_task_class}}")), "comfyui.task_class"), board.VMUIMaxSeries),
		linked(chart("GPU time per execution", seconds, third, none, "Mean GPU time used, by task class.",
			q(perExecution("comfyui_execution_gpu_time_seconds"), "{{comfyui_task_class}}")), "comfyui.task_class"),
		linked(chart("Peak memory per execution", byteSize, third, none, "Mean of the peak held on the GPU during execution, by task class. PyTorch keeps memory that it once allocated.",
			q(perExecution("comfyui_execution_gpu_memory_peak_bytes"), "{{comfyui_task_class}}")), "comfyui.task_class"),
		on(pageComfyUI, "What a prompt uses", "from the third execution of a kind", linked(chart("Memory needed per execution", byteSize, third, "there were fewer than three executions of a kind, or the server did not report its memory (memory::interval)", "Mean by task class: what an execution needs, however much PyTorch holds.",
			q(perExecution("comfyui_execution_memory_need_bytes"), "{{comfyui_task_class}}")), "comfyui.task_class"), board.VMUIMaxSeries),
		chart("Utilisation while prompts ran", share, third, none, "Mean by task class. If it is low, the GPU waited for the CPU, for models or for uploads.",
			q(perExecution("comfyui_execution_gpu_utilization"), "{{comfyui_task_class}}")),
		chart("Throttled while prompts ran", share, third, "no prompts ran on a throttled GPU", "Throttled seconds per second of GPU time, by model.",
			q(`sum by (comfyui_model) (rate(comfyui_execution_gpu_throttle_time_seconds_total{$SERVER}[$__rate_interval])) / (sum by (comfyui_model) (rate(comfyui_execution_gpu_time_seconds_sum{$SERVER}[$__rate_interval])) > 0)`, "{{comfyui_model}}")),
	}
}

func serverMemory() []board.Panel {
	const unasked = "the server did not report its memory (memory::interval)"
	return []board.Panel{
		chart("Memory used by tensors", byteSize, third, unasked, "As last reported by the server.", q(`sum by (instance) (comfyui_memory_active_bytes{$SERVER})`, "{{instance}}")),
		on(pageComfyUI, "What a prompt uses", "servers that report their memory", chart("Room for the next prompt", byteSize, third, unasked, "Free memory plus evictable weights. A prompt that needs more fails.",
			q(`min by (instance) (comfyui_memory_headroom_bytes{$SERVER})`, "{{instance}}")), board.VMUIMaxSeries),
		chart("Evictable weights", byteSize, third, "no server has Dynamic VRAM, or none reported its memory (memory::interval)", "With Dynamic VRAM, ComfyUI fills the GPU on purpose.",
			q(`sum by (instance) (comfyui_memory_elastic_bytes{$SERVER})`, "{{instance}}")),
	}
}

func proxy() []board.Panel {
	return []board.Panel{
		chart("Requests", number, third, "no requests went through the proxy in this range", "Per second, by route.",
			q(`sum by (http_route) (rate(comfyui_proxy_request_duration_seconds_count{$SERVER}[$__rate_interval]))`, "{{http_route}}")),
		chart("Slow requests", seconds, third, "no requests went through the proxy in this range", "95th percentile by route.",
			q(`histogram_quantile(0.95, sum by (le, http_route) (rate(comfyui_proxy_request_duration_seconds_bucket{$SERVER}[$__rate_interval])))`, "{{http_route}}")),
		chart("Failed requests", number, third, "no requests failed in this range", "Per second, by route and status; 499 means that the client disconnected.",
			q(`sum by (http_route, http_response_status_code) (rate(comfyui_proxy_request_duration_seconds_count{$SERVER, http_response_status_code=~"[45].."}[$__rate_interval])) > 0`, "{{http_route}} {{http_response_status_code}}")),
		chart("WebSockets", number, half, "this server is polled: there is no proxy", "Those of clients, and those kept open for prompts without a connected client.",
			q(`sum by (instance, state) (comfyui_proxy_sockets{$SERVER})`, "{{instance}} {{state}}")),
		chart("Traffic", rate, half, "this server is polled: there is no proxy", "By kind; binary messages are previews.",
			q(`sum by (kind, network_io_direction) (rate(comfyui_proxy_io_bytes_total{$SERVER}[$__rate_interval]))`, "{{kind}} {{network_io_direction}}")),
	}
}
