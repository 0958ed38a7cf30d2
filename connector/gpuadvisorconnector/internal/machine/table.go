// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// Quantity is what a series is of.
type Quantity uint8

// The quantities of GPUs, by the metrics of the nvml receiver.
const (
	MemoryLimit Quantity = iota
	MemoryReserved
	MemoryUsed
	MemoryMax
	Utilization
	UtilizationMean
	ActiveTime // by task
	Temperature
	TemperatureLimit
	TemperatureMargin
	Power // by scope
	PowerLimit
	ThrottleTime     // by reason
	State            // by state
	Status           // by state
	RecoveryAction   // by action
	XIDErrors        // by XID
	ECCUncorrected   // by location
	RowRemapFailed   //
	RowRemapPending  //
	PagesPending     //
	PagesRetired     // by error type
	Allocated        // by namespace, pod and container
	PCIeReplays      //
	PCIeWidth        // by state
	PCIeGeneration   // by state
	NVLinkState      // by link
	NVLinkErrors     // by link and error type
	XIDRecords       // by XID, counted from log records
	NVLinkUp         // by link: 1 if it was up within a day
	processMemory    // goes to the processes
	description      // attributes that describe the GPU
	ServerUp         // of servers, by the metrics of the comfyui receiver, from here on
	QueueLength      // by state
	OldestWait       //
	ProgressAge      // by task class
	Sockets          // by state
	Elastic          // by GPU
	TorchMemory      // by GPU
	OutsideMemory    // by GPU
	ExecutionSeconds // by task class
	Executions       // by task class
	quantities
)

// ofServer reports whether a quantity is of a ComfyUI server.
func (q Quantity) ofServer() bool { return q >= ServerUp }

// kind is how the points of a metric are read.
type kind uint8

const (
	// gauge is a value of its own.
	gauge kind = iota
	// counter is a cumulative sum: what it was before the first point is not known.
	counter
	// fromZero is a cumulative sum that began at 0 together with the series.
	fromZero
	// histogram is read as two sums that began at 0: the sum of the observations and their
	// number, over all series with the same key.
	histogram
)

// attribute is a pair that a point must have.
type attribute struct{ key, value string }

// row is what is read of a metric.
type row struct {
	metric string
	of     Quantity
	kind   kind
	// where are attributes that a point must have.
	where []attribute
	// by are attributes by whose values series are distinguished; except are values of the last
	// of them that are not read.
	by     []string
	except []string
	// window is for how long points are kept; 0 keeps the newest value only.
	window time.Duration
	// lookback is for how long the last value counts if that is longer than Lookback: those of
	// events, which are not sampled again.
	lookback time.Duration
	// column is the column of the history that the values go to.
	column column
}

// The windows of the alerts: those of deploy/prometheus/rules/alerts.yaml, which the rules of
// package causes name.
const (
	throttleWindow   = 5 * time.Minute
	linkWindow       = 15 * time.Minute
	eventWindow      = time.Hour
	queueWindow      = 10 * time.Minute
	progressWindow   = time.Minute
	executionsWindow = 24 * time.Hour
	nvlinkMemory     = 24 * time.Hour
)

// table is every metric that is read.
var table = []row{
	{metric: "hw.gpu.info", of: description},
	{metric: "hw.gpu.memory.limit", of: MemoryLimit},
	{metric: "hw.gpu.memory.reserved", of: MemoryReserved},
	{metric: "hw.gpu.memory.usage", of: MemoryUsed, column: memoryColumn},
	{metric: "hw.gpu.memory.usage.max", of: MemoryMax, column: peakColumn},
	{metric: "hw.gpu.utilization", of: Utilization, where: []attribute{{"hw.gpu.task", "general"}}, column: utilizationColumn},
	{metric: "hw.gpu.utilization.mean", of: UtilizationMean, where: []attribute{{"hw.gpu.task", "general"}}, window: linkWindow},
	{metric: "hw.gpu.active.time", of: ActiveTime, kind: counter, by: []string{"hw.gpu.task"}, window: linkWindow},
	{metric: "hw.temperature", of: Temperature, where: []attribute{{"hw.sensor_location", "gpu"}}, column: temperatureColumn},
	{metric: "hw.temperature.limit", of: TemperatureLimit, where: []attribute{{"hw.limit_type", "high.degraded"}}},
	{metric: "hw.gpu.temperature.margin", of: TemperatureMargin},
	{metric: "hw.power", of: Power, by: []string{"hw.gpu.power.scope"}, column: powerColumn},
	{metric: "hw.gpu.power.limit", of: PowerLimit, where: []attribute{{"hw.limit_type", "enforced"}}},
	{metric: "hw.gpu.throttle.time", of: ThrottleTime, kind: counter, by: []string{"hw.gpu.throttle.reason"}, window: throttleWindow},
	{metric: "hw.gpu.state", of: State, by: []string{"hw.state"}},
	{metric: "hw.status", of: Status, by: []string{"hw.state"}},
	{metric: "hw.gpu.recovery_action", of: RecoveryAction, by: []string{"hw.gpu.recovery.action"}},
	{metric: "hw.gpu.xid.errors", of: XIDErrors, kind: fromZero, by: []string{semconv.XID}, window: eventWindow},
	{metric: "hw.errors", of: ECCUncorrected, where: []attribute{{"error.type", "uncorrected"}, {"hw.gpu.ecc.lifetime", "volatile"}}, by: []string{"hw.gpu.memory.location"}},
	{metric: "hw.gpu.row_remaps.failed", of: RowRemapFailed},
	{metric: "hw.gpu.row_remaps.pending", of: RowRemapPending},
	{metric: "hw.gpu.retired_pages.pending", of: PagesPending},
	{metric: "hw.gpu.retired_pages", of: PagesRetired, by: []string{"error.type"}},
	{metric: "hw.gpu.allocated", of: Allocated, by: []string{"k8s.namespace.name", "k8s.pod.name", "k8s.container.name"}},
	{metric: "hw.gpu.pcie.replays", of: PCIeReplays, kind: counter, window: linkWindow},
	{metric: "hw.gpu.pcie.link.width", of: PCIeWidth, by: []string{"state"}},
	{metric: "hw.gpu.pcie.link.generation", of: PCIeGeneration, by: []string{"state"}, window: linkWindow},
	{metric: "hw.gpu.nvlink.state", of: NVLinkState, by: []string{"hw.gpu.nvlink.id"}},
	{metric: "hw.gpu.nvlink.errors", of: NVLinkErrors, kind: counter, by: []string{"hw.gpu.nvlink.id", "error.type"}, except: []string{"effective", "symbol"}, window: linkWindow},
	{metric: "hw.gpu.process.memory.usage", of: processMemory},

	{metric: "comfyui.up", of: ServerUp},
	{metric: "comfyui.queue.length", of: QueueLength, by: []string{"state"}},
	{metric: "comfyui.queue.oldest.wait", of: OldestWait, window: queueWindow},
	{metric: "comfyui.progress.age", of: ProgressAge, by: []string{"comfyui.task_class"}, window: progressWindow},
	{metric: "comfyui.proxy.sockets", of: Sockets, by: []string{"state"}},
	{metric: "comfyui.memory.elastic", of: Elastic, by: []string{semconv.GPUID}},
	{metric: "comfyui.torch.memory.limit", of: TorchMemory, by: []string{semconv.GPUID}},
	{metric: "comfyui.memory.outside", of: OutsideMemory, by: []string{semconv.GPUID}},
	{metric: "comfyui.execution.duration", of: ExecutionSeconds, kind: histogram, by: []string{"comfyui.task_class"}, window: executionsWindow},
}

// executions is the second half of the histogram: how many observations there are.
var executions = row{of: Executions, kind: fromZero, window: executionsWindow}

// xidRecords counts the log records of XIDs.
var xidRecords = row{of: XIDRecords, kind: fromZero, window: eventWindow, lookback: eventWindow}

// nvlinkUp is there for as long as a link was up within a day.
var nvlinkUp = row{of: NVLinkUp, lookback: nvlinkMemory}

// rows are the table by the names of the metrics.
var rows = sync.OnceValue(func() map[string]*row {
	byName := make(map[string]*row, len(table))
	for i := range table {
		byName[table[i].metric] = &table[i]
	}
	return byName
})
