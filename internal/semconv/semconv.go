// SPDX-License-Identifier: Apache-2.0

// Package semconv names the attributes and events that more than one component
// writes or reads. hw.* follow OpenTelemetry's hardware conventions, hw.gpu.* extend
// them; gpu.* are written on spans.
package semconv

// Attributes.
const (
	// HostName is the host that the telemetry was made on.
	HostName = "host.name"
	// ProcessPID is the process number of a service, as its host counts.
	ProcessPID = "process.pid"
	// GPUID is a GPU's UUID, or a MIG device's.
	GPUID = "hw.id"
	// GPUIDs are several GPUs by their UUIDs: on spans that come in those of which the process
	// could use some, on spans that go out those that were used.
	GPUIDs = "hw.ids"
	// GPUName is a GPU by its NVML index, such as gpu0; a MIG device's is gpu0/mig0.
	GPUName = "hw.name"
	// Remote is true on spans of nodes that run elsewhere and use no GPU.
	Remote = "comfyui.node.remote"
	// NodeID is a node of a workflow.
	NodeID = "comfyui.node.id"
	// Simulated is true on all telemetry that comes from the NVML test library.
	Simulated = "gpu.simulated"
	// MemoryActivePeak is the largest memory that tensors were seen to use while a prompt
	// ran; MemoryReservedPeak the largest reserve of PyTorch's allocator, MemoryReservedGrowth
	// by how much it grew, and MemoryContext what the server's process holds beside it. By.
	MemoryActivePeak     = "comfyui.memory.active.peak"
	MemoryReservedPeak   = "comfyui.memory.reserved.peak"
	MemoryReservedGrowth = "comfyui.memory.reserved.growth"

	// AdmissionDecision and AdmissionReason are what an advisor said of a prompt, AdmissionDeadline
	// until when its image is of use, in seconds since 1970. AdmissionEnforced is true if the
	// receiver acted by it.
	AdmissionDecision = "comfyui.admission.decision"
	AdmissionReason   = "comfyui.admission.reason"
	AdmissionDeadline = "comfyui.admission.deadline"
	AdmissionEnforced = "comfyui.admission.enforced"
	MemoryContext     = "comfyui.memory.context"
	// MemoryNeedMax is an upper bound of what a prompt needed, in By.
	MemoryNeedMax = "comfyui.memory.need.max"
	// XID is the number of an XID; XIDName its short meaning.
	XID     = "hw.gpu.xid"
	XIDName = "hw.gpu.xid.name"
)

// Event names.
const (
	// EventXID, EventState, EventThrottle and EventDriver are the log records of GPUs.
	EventXID      = "hw.gpu.xid"
	EventState    = "hw.gpu.state"
	EventThrottle = "hw.gpu.throttle"
	EventDriver   = "hw.gpu.event"
	// GPUEventPrefix begins the names of all log records of GPUs.
	GPUEventPrefix = "hw.gpu."
	// EventExecutionStarted is the log record of a prompt that began to run. Its trace
	// arrives when the prompt has ended.
	EventExecutionStarted = "comfyui.execution.started"
	// EventExecutionRemote is the log record of a prompt that runs elsewhere from then on, and
	// uses no GPU, or is back: it says which in Remote.
	EventExecutionRemote = "comfyui.execution.remote"
	// EventSpanXID is the span event of an XID that came while the span ran.
	EventSpanXID = "gpu.xid"
)
