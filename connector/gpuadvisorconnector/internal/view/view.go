// SPDX-License-Identifier: Apache-2.0

// Package view is what the page and its JSON show: values in the reader's language,
// without behaviour. A pointer or a slice that is nil is not known. Times are RFC 3339
// in UTC, durations are seconds, memory is bytes, energy joules, power watts,
// temperatures degrees Celsius, shares and utilisation 0 to 1.
package view

import "time"

// Severity is one of the three states of the page.
type Severity string

// The severities, from the best to the worst.
const (
	Fine    Severity = "fine"
	Warning Severity = "warning"
	Broken  Severity = "broken"
)

// State is the answer of /v1/state: what is true now.
type State struct {
	Time     time.Time `json:"time"`
	Language string    `json:"language"`
	Host     string    `json:"host"`
	// Simulated is true if any GPU is made by the test library.
	Simulated bool `json:"simulated"`
	// CanRush is true where a rush of simulated users can be caused (POST /v1/rush).
	CanRush bool `json:"can_rush"`
	// Newest is the time of the newest sample of any GPU.
	Newest *time.Time `json:"newest_sample"`
	// Verdict is the worst condition in words, or that all is well.
	Verdict    Condition   `json:"verdict"`
	Conditions []Condition `json:"conditions"`
	GPUs       []GPU       `json:"gpus"`
	Servers    []Server    `json:"servers"`
	// Prompts are the newest that ended, newest first; PromptsHeld is how many there are in all.
	Prompts     []Prompt `json:"prompts"`
	PromptsHeld int      `json:"prompts_held"`
	Events      []Event  `json:"events"`
	// Alerts is nil where neither Alertmanager nor Prometheus is configured.
	Alerts *Alerts `json:"alerts"`
}

// Condition is something that the reader should know, with what to do.
type Condition struct {
	// ID distinguishes it from the other conditions of a state, and stays the same while it
	// holds. The verdict has that of its condition, empty where all is well.
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// Cause is the row of the table of causes, for example gpu.memory.critical.
	Cause string `json:"cause"`
	// Alert is the alert with the same meaning; empty where there is none.
	Alert string `json:"alert,omitempty"`
	// GPU is the hw.id, Server the name of what it is about.
	GPU    string    `json:"gpu,omitempty"`
	Server string    `json:"server,omitempty"`
	Since  time.Time `json:"since"`
	Text   string    `json:"text"`
	Remedy string    `json:"remedy"`
	// Runbook is a URL.
	Runbook string `json:"runbook,omitempty"`
}

// GPU is a GPU or a MIG device.
type GPU struct {
	ID string `json:"id"`
	// Name is that of NVML's index: gpu0, gpu0/mig1.
	Name  string `json:"name"`
	Model string `json:"model"`
	// State is healthy, unresponsive, lost, or unknown (samples have stopped).
	State     string `json:"state"`
	Simulated bool   `json:"simulated"`
	// Severity and Status are the worst condition of this GPU, in a word or two: fine, full, lost.
	Severity    Severity     `json:"severity"`
	Status      string       `json:"status"`
	Newest      time.Time    `json:"newest_sample"`
	Memory      *Memory      `json:"memory"`
	Utilization *float64     `json:"utilization"`
	Recent      Recent       `json:"recent"`
	Temperature *Temperature `json:"temperature"`
	Power       *Power       `json:"power"`
	Throttling  []Throttling `json:"throttling"`
	Processes   []Process    `json:"processes"`
	Running     []Running    `json:"running"`
	// Load is the advisor's level, unless that is normal.
	Load *Load `json:"load"`
}

// Load is how much a GPU has to do for ComfyUI.
type Load struct {
	// Level is busy, saturated, critical or unhealthy.
	Level    string   `json:"level"`
	Severity Severity `json:"severity"`
	// Wait is in how many seconds all that runs and waits has ended.
	Wait float64 `json:"wait_s"`
	Text string  `json:"text"`
}

// Memory is a GPU's memory. Needed, Elastic, Other and Free add up to Limit.
type Memory struct {
	Limit int64 `json:"limit"`
	Used  int64 `json:"used"`
	// Needed is what ComfyUI's processes hold, less Elastic.
	Needed int64 `json:"needed"`
	// Elastic is what ComfyUI would evict if another model needed it.
	Elastic int64 `json:"elastic"`
	// Other is what other processes and the driver hold.
	Other int64 `json:"other"`
	Free  int64 `json:"free"`
	// Peak is the most that was used in the last half hour, between the scrapes, too.
	Peak     int64     `json:"peak"`
	PeakTime time.Time `json:"peak_time"`
}

// Recent is the utilisation of the last minutes, oldest first; -1 where there is no sample.
type Recent struct {
	Step        float64   `json:"step"`
	Utilization []float64 `json:"utilization"`
}

// Temperature is a GPU's temperature.
type Temperature struct {
	Value float64 `json:"value"`
	// Limit is the temperature at which its clocks are held down.
	Limit *float64 `json:"limit"`
}

// Power is a GPU's power.
type Power struct {
	Value float64  `json:"value"`
	Limit *float64 `json:"limit"`
}

// Throttling is a reason for which clocks were held down in the last minute.
type Throttling struct {
	// Reason is hw.gpu.throttle.reason, Text the same in words.
	Reason string `json:"reason"`
	Text   string `json:"text"`
	// Share of the last minute.
	Share float64 `json:"share"`
}

// Process is a process that uses a GPU.
type Process struct {
	PID    int64  `json:"pid"`
	Name   string `json:"name"`
	Pod    string `json:"pod,omitempty"`
	Memory int64  `json:"memory"`
	// Server is the ComfyUI server that it is.
	Server string `json:"server,omitempty"`
}

// Running is a prompt that runs on a GPU.
type Running struct {
	Prompt    string `json:"prompt"`
	Workflow  string `json:"workflow"`
	TaskClass string `json:"task_class,omitempty"`
	Side      int64  `json:"side,omitempty"`
	Server    string `json:"server"`
}

// Event is an XID, a change of a GPU's state, or another event of the driver.
type Event struct {
	Time     time.Time `json:"time"`
	Severity Severity  `json:"severity"`
	GPU      string    `json:"gpu,omitempty"`
	// Kind is the event's name: hw.gpu.xid, hw.gpu.state, hw.gpu.event.
	Kind   string `json:"kind"`
	XID    int64  `json:"xid,omitempty"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
	// Prompt is the one that ran then.
	Prompt string `json:"prompt,omitempty"`
}

// Alerts are those that fire, as Alertmanager or Prometheus has them.
type Alerts struct {
	// Source is the URL that was asked; Error why there is no answer.
	Source string  `json:"source"`
	Error  string  `json:"error,omitempty"`
	Firing []Alert `json:"firing"`
}

// Alert is an alert that fires.
type Alert struct {
	Name     string    `json:"name"`
	Severity string    `json:"severity"`
	Summary  string    `json:"summary"`
	Since    time.Time `json:"since"`
	Runbook  string    `json:"runbook,omitempty"`
}

// Prompt is a prompt that has ended, as a row of a list.
type Prompt struct {
	ID      string   `json:"id"`
	TraceID string   `json:"trace_id"`
	Server  string   `json:"server"`
	GPUs    []string `json:"gpus"`
	// Received and Ended frame the prompt; Duration is between them.
	Received time.Time `json:"received"`
	Ended    time.Time `json:"ended"`
	Duration float64   `json:"duration"`
	// Waited is the time before it ran, Ran the time of its execution.
	Waited    float64 `json:"waited"`
	Ran       float64 `json:"ran"`
	Workflow  string  `json:"workflow"`
	TaskClass string  `json:"task_class,omitempty"`
	Model     string  `json:"model,omitempty"`
	Width     int64   `json:"width,omitempty"`
	Height    int64   `json:"height,omitempty"`
	Side      int64   `json:"side,omitempty"`
	// Outcome is comfyui.prompt.outcome.
	Outcome string `json:"outcome"`
	// ErrorType is error.type, ErrorNode the class of the node that failed.
	ErrorType string `json:"error_type,omitempty"`
	ErrorNode string `json:"error_node,omitempty"`
	// Bill is nil where the trace has none; NoBill says why, in words.
	Bill   *Bill  `json:"bill"`
	NoBill string `json:"no_bill,omitempty"`
	// Slow is true if it took at least 1.5 times its usual time.
	Slow bool `json:"slow"`
	// Reason is what made it slow or fail, in a few words; empty if nothing was unusual.
	Reason string `json:"reason"`
}

// Bill is the GPU resources that a prompt or a node used.
type Bill struct {
	MemoryPeak        *int64   `json:"memory_peak"`
	MemoryNeed        *int64   `json:"memory_need"`
	Energy            *float64 `json:"energy"`
	EnergyUncertainty *float64 `json:"energy_uncertainty"`
	ThrottleTime      *float64 `json:"throttle_time"`
	// Quality is gpu.correlation: measured, estimate, none. Why is its reason in words.
	Quality string `json:"quality"`
	Why     string `json:"why,omitempty"`
}

// Prompts is the answer of /v1/prompts.
type Prompts struct {
	// Held counts all prompts that are kept, Matched those that the query found.
	Held    int      `json:"held"`
	Matched int      `json:"matched"`
	Prompts []Prompt `json:"prompts"`
	// Open is the prompt that has not ended and has the id that the query asks for.
	Open []OpenDetail `json:"open"`
	// Workflows are summaries of those that the query found, by workflow: of the 50 with the most.
	// WorkflowsMatched counts all workflows.
	Workflows        []Workflow `json:"workflows"`
	WorkflowsMatched int        `json:"workflows_matched"`
}

// Workflow sums up the prompts of a workflow.
type Workflow struct {
	Workflow string `json:"workflow"`
	Prompts  int    `json:"prompts"`
	// Failed counts errors and lost prompts: not what was cancelled, interrupted, rejected or refused.
	Failed     int      `json:"failed"`
	Median     *float64 `json:"median"`
	Slowest    *float64 `json:"slowest"`
	MemoryPeak *int64   `json:"memory_peak"`
	EnergyMean *float64 `json:"energy_mean"`
}

// Detail is the answer of /v1/prompts/{id}.
type Detail struct {
	Prompt
	// Sentence says why it took as long as it did, or how it failed; Remedy what to do.
	Sentence string `json:"sentence"`
	Remedy   string `json:"remedy,omitempty"`
	// Parts add up to Duration. Each has a kind; parts of no length are left out.
	Parts []Part `json:"parts"`
	// Usual is what Sentence compares with; nil where fewer than 3 are known. NoUsual says in words
	// why there is none; empty of a prompt that never ran.
	Usual   *Usual `json:"usual"`
	NoUsual string `json:"no_usual,omitempty"`
	Spans   []Span `json:"spans"`
	// Series are the GPUs' memory and utilisation meanwhile.
	Series []History `json:"series"`
	Links  []Link    `json:"links"`
}

// The kinds of parts, by precedence: where two hold, the first of them.
const (
	PartWaiting   = "waiting"
	PartLoading   = "loading"
	PartRetry     = "retry"
	PartFirst     = "first_steps"
	PartThrottled = "throttled"
	PartShared    = "shared"
	PartWork      = "work"
)

// Part is a part of a prompt's duration.
type Part struct {
	Kind    string  `json:"kind"`
	Text    string  `json:"text"`
	Seconds float64 `json:"seconds"`
}

// Usual is the median of the last executions of the same workflow, model and size on the
// same GPU that succeeded.
type Usual struct {
	Median     float64 `json:"median"`
	Executions int     `json:"executions"`
}

// Span is a bar of the waterfall.
type Span struct {
	ID     string `json:"id"`
	Parent string `json:"parent"`
	Name   string `json:"name"`
	// Kind is prompt, queue, execution, node or other.
	Kind string `json:"kind"`
	// Start is seconds after the prompt was received.
	Start    float64 `json:"start"`
	Duration float64 `json:"duration"`
	NodeID   string  `json:"node_id,omitempty"`
	Class    string  `json:"class,omitempty"`
	Title    string  `json:"title,omitempty"`
	GPU      string  `json:"gpu,omitempty"`
	// Loading is the part of Duration, at its start, that models were loaded; Estimated if it
	// was not measured.
	Loading          float64 `json:"loading,omitempty"`
	LoadingEstimated bool    `json:"loading_estimated,omitempty"`
	// Retry is for how long work that ran out of memory was tried again, in seconds.
	Retry float64 `json:"retry,omitempty"`
	Bill  *Bill   `json:"bill"`
	Error string  `json:"error,omitempty"`
}

// Link leads to a trace in another program.
type Link struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}
