// SPDX-License-Identifier: Apache-2.0

// Package causes finds what is broken, and says what to do. One table has every cause as a
// value: its rule, its severity, its texts and its runbook; the page, its JSON and the verdict
// are made from it. Each alert of deploy/prometheus/rules/alerts.yaml that the page can see has
// its cause, with the same formula and windows; tests compare the two.
//
// A cause shows before its alert fires. The alert wakes somebody, so it waits until the
// condition has lasted (for); the page is read by somebody who looks, so it shows what holds
// now, since when. It waits only as long as a condition needs to be more than a spike (after).
package causes

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
)

// runbooks is where the runbooks are, as the alerts link to them.
const runbooks = "https://github.com/otelcol-gpu/otelcol-gpu/blob/main/docs/runbooks/"

// Cause is a row of the table. Its texts have the keys cause.ID, cause.ID.remedy and, where it
// is of a GPU, cause.ID.status.
type Cause struct {
	ID string
	// Alert is the alert with the same meaning; empty where there is none.
	Alert string
	// Severity is that of the alert: critical is Broken, warning is Warning. What an info alert
	// says, that a GPU is idle, is not a fault: it is Fine, is listed, and is never the verdict.
	Severity view.Severity
	// For is the alert's: how long it waits before it fires.
	For time.Duration
	// After is how long the condition holds before it shows, Hold how long it shows after it
	// held last, so that what comes and goes does not flicker.
	After, Hold time.Duration
	// Silences are causes that say nothing beside this one, of the same GPU or server.
	Silences []string
	// SilencesGPU is true if nothing else of the GPU, or of the MIG devices on it, is worth a word.
	SilencesGPU bool

	rule rule
}

// Runbook is the URL of the alert's runbook; empty without an alert.
func (c *Cause) Runbook() string {
	if c.Alert == "" {
		return ""
	}
	return runbooks + c.Alert + ".md"
}

// rule finds a cause in the facts. Rules are values: their fields are the thresholds, which
// are those of the alerts.
type rule interface {
	find(f *facts, report func(finding))
}

// The windows that several rules have in common.
const (
	eventWindow = time.Hour
	linkWindow  = 15 * time.Minute
	heatWindow  = 5 * time.Minute
)

// spike is how long memory and temperature must stay beyond a threshold to show, settled how
// long they must have left it to be forgotten.
const (
	spike   = 3 * time.Second
	settled = 10 * time.Second
)

// Table is every cause. Of two with the same severity and age the first is the verdict.
var Table = []Cause{
	// What silences everything else of a GPU.
	{ID: "gpu.lost", Alert: "GPULost", Severity: view.Broken, For: time.Minute, SilencesGPU: true, rule: lostRule{}},
	{ID: "gpu.unresponsive", Alert: "GPUUnresponsive", Severity: view.Broken, For: time.Minute, SilencesGPU: true, rule: stateRule{machine.State, machine.Unresponsive}},
	// One scrape more may bring them back, as it does when the clock was set forward.
	{ID: "gpu.samples.stopped", Severity: view.Broken, After: 20 * time.Second, SilencesGPU: true, rule: stoppedRule{}},
	// The first scrape comes within seconds of the start.
	{ID: "gpu.none", Severity: view.Broken, After: 30 * time.Second, rule: noGPURule{}},

	{ID: "gpu.memory.critical", Alert: "GPUMemoryUsageCritical", Severity: view.Broken, For: time.Minute, After: spike, Hold: settled, Silences: []string{"gpu.memory.high", "gpu.memory.short", "gpu.load"}, rule: memoryRule{0.95}},
	{ID: "gpu.memory.high", Alert: "GPUMemoryUsageHigh", Severity: view.Warning, For: 2 * time.Minute, After: spike, Hold: settled, rule: memoryRule{0.85}},

	// A neighbour that works gives its memory back at the end of its prompt.
	{ID: "gpu.memory.short", Alert: "GPUMemoryHeadroomShort", Severity: view.Warning, For: 5 * time.Minute, After: time.Minute, Hold: settled, rule: shortageRule{}},
	// The level has a dwell of its own.
	{ID: "gpu.load", Severity: view.Warning, rule: loadRule{}},

	{ID: "gpu.xid.critical", Alert: "GPUXidCritical", Severity: view.Broken, Silences: []string{"gpu.xid.warning"}, rule: xidRule{tiers: []xid.Tier{xid.Reset, xid.Reboot}, least: 1, untilRecovered: true}},
	{ID: "gpu.xid.warning", Alert: "GPUXidWarning", Severity: view.Warning, rule: xidRule{tiers: []xid.Tier{xid.Workflow}, least: 1, orTier: xid.Application, orLeast: 3}},
	{ID: "gpu.ecc.uncorrected", Alert: "GPUEccUncorrected", Severity: view.Broken, rule: eccRule{}},
	{ID: "gpu.row_remap.failed", Alert: "GPURowRemapFailure", Severity: view.Broken, Silences: faultsOfMemory, rule: stateRule{of: machine.RowRemapFailed}},
	{ID: "gpu.recovery_action", Alert: "GPURecoveryActionNeeded", Severity: view.Broken, Silences: faultsOfMemory, rule: recoveryRule{}},
	{ID: "gpu.row_remap.pending", Alert: "GPURowRemapPending", Severity: view.Warning, rule: stateRule{of: machine.RowRemapPending}},
	{ID: "gpu.pages.retired", Alert: "GPUPagesRetired", Severity: view.Warning, rule: pagesRule{60}},
	{ID: "gpu.predicted_failure", Alert: "GPUPredictedFailure", Severity: view.Warning, rule: stateRule{machine.Status, "predicted_failure"}},

	{ID: "gpu.throttled.heat", Alert: "GPUThermalSlowdown", Severity: view.Warning, For: 5 * time.Minute, rule: throttleRule{reasons: []string{"sw_thermal", "hw_thermal"}, window: heatWindow, share: 0.05}},
	{ID: "gpu.throttled.power_brake", Alert: "GPUPowerBrake", Severity: view.Warning, For: 5 * time.Minute, rule: throttleRule{reasons: []string{"hw_power_brake"}, window: heatWindow, share: 0.05}},
	// A GPU that works hard comes close to its limit for a while.
	{ID: "gpu.temperature.near_limit", Alert: "GPUNearSlowdownTemperature", Severity: view.Warning, For: 10 * time.Minute, After: 30 * time.Second, Hold: settled, rule: temperatureRule{3}},
	{ID: "gpu.idle", Alert: "GPUIdleWaste", Severity: view.Fine, For: 2 * time.Hour, After: 2 * time.Hour, rule: idleRule{memory: 1 << 30, window: linkWindow, busy: 0.01}},
	{ID: "gpu.pcie.replays", Alert: "GPUPcieReplays", Severity: view.Warning, For: 15 * time.Minute, rule: replayRule{perMinute: 8, window: linkWindow}},
	// An idle GPU lowers its link; it rises within seconds of work.
	{ID: "gpu.pcie.degraded", Alert: "GPUPcieLinkDegraded", Severity: view.Warning, For: 15 * time.Minute, After: time.Minute, rule: pcieRule{load: 0.5, window: linkWindow}},
	{ID: "gpu.nvlink.down", Alert: "GPUNvLinkDown", Severity: view.Warning, For: 15 * time.Minute, After: spike, rule: nvlinkDownRule{}},
	{ID: "gpu.nvlink.errors", Alert: "GPUNvLinkErrors", Severity: view.Warning, For: 15 * time.Minute, rule: nvlinkErrorRule{perMinute: 10, window: linkWindow}},

	{ID: "comfyui.down", Alert: "ComfyUIDown", Severity: view.Broken, For: time.Minute, rule: downRule{}, Silences: []string{
		"comfyui.queue.growing", "comfyui.stalled", "comfyui.errors", "comfyui.latency.critical", "comfyui.loading",
	}},
	{ID: "comfyui.out_of_memory", Alert: "ComfyUIOutOfMemory", Severity: view.Warning, rule: outOfMemoryRule{window: eventWindow}},
	// A model that is loaded for the first time makes no progress for a while.
	{ID: "comfyui.stalled", Alert: "ComfyUIStalled", Severity: view.Broken, For: 5 * time.Minute, After: time.Minute, rule: stalledRule{times: 3, memory: 24 * time.Hour, window: time.Minute}},
	{ID: growing, Alert: "ComfyUIQueueGrowing", Severity: view.Warning, For: 5 * time.Minute, rule: queueRule{wait: 60, window: 10 * time.Minute}},
	{ID: "comfyui.errors", Alert: "ComfyUIErrorRate", Severity: view.Warning, For: 10 * time.Minute, rule: errorRule{share: 0.05, least: 10, window: 10 * time.Minute}},
	{ID: "comfyui.latency.critical", Alert: "ComfyUILatencySLO", Severity: view.Broken, For: 2 * time.Minute, rule: latencyRule{objective: 30, share: 0.72, least: 10, short: 5 * time.Minute, long: time.Hour}},
	// After a start the only prompts there are have loaded their models.
	{ID: "comfyui.loading", Alert: "ComfyUIModelLoadingHeavy", Severity: view.Warning, For: 15 * time.Minute, After: 15 * time.Minute, rule: loadingRule{share: 0.3, window: 15 * time.Minute}},
}

// faultsOfMemory are what a GPU that must be replaced or reset has besides.
var faultsOfMemory = []string{"gpu.row_remap.pending", "gpu.pages.retired", "gpu.predicted_failure"}

// Find is the cause with an id; nil if there is none.
func Find(id string) *Cause {
	for i := range Table {
		if Table[i].ID == id {
			return &Table[i]
		}
	}
	return nil
}
