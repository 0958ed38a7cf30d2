// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// counted is what was counted over a time.
type counted struct {
	d     time.Duration
	calls map[string]float64   // by function, per GPU and second
	of    []map[string]float64 // the same of each GPU, per second
	held  float64              // share of the time for which the lock was held
	spun  float64              // share of the time for which the library used a CPU instead of a driver
	cpu   float64              // of the collector, in cores
}

// count counts for a time.
func (m *machine) count(t *testing.T, c *collector, d time.Duration) (n counted) {
	t.Helper()
	before := m.callsBetweenScrapes(t)
	held, spun := m.state.LockHeld()
	cpu, begin := cpuTime(t, c.PID()), time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) >= d }, d+patience, 10*time.Millisecond)
	after := m.callsBetweenScrapes(t)
	seconds := time.Since(begin).Seconds()
	n = counted{d: d, calls: map[string]float64{}}
	for i := range m.gpus {
		n.of = append(n.of, map[string]float64{})
		for name, calls := range after[i] {
			perSecond := float64(calls-before[i][name]) / seconds
			n.calls[name] += perSecond / float64(len(m.gpus))
			n.of[i][name] = perSecond
		}
	}
	heldNow, spunNow := m.state.LockHeld()
	n.held, n.spun = (heldNow-held).Seconds()/seconds, (spunNow-spun).Seconds()/seconds
	n.cpu = (cpuTime(t, c.PID()) - cpu).Seconds() / seconds
	return n
}

// callsBetweenScrapes are each GPU's calls by function while no scrape is under way: of one that
// the time begins or ends in, some calls would be counted and some not.
func (m *machine) callsBetweenScrapes(t *testing.T) (calls []map[string]int64) {
	t.Helper()
	var before []map[string]int64
	require.Eventually(t, func() bool {
		before, calls = calls, nil
		for _, g := range m.gpus {
			calls = append(calls, g.AllCalls())
		}
		return before != nil && slices.EqualFunc(before, calls, func(a, b map[string]int64) bool { return maps.Equal(ofScrape(a), ofScrape(b)) })
	}, patience, 100*time.Millisecond, "a scrape is under way all the time")
	return calls
}

// ofScrape are the calls that only scrapes make.
func ofScrape(calls map[string]int64) map[string]int64 {
	only := maps.Clone(calls)
	maps.DeleteFunc(only, func(function string, _ int64) bool {
		return slices.Contains(betweenScrapes, function) || slices.Contains(ofInspection, function)
	})
	return only
}

// sum is the mean of the GPUs' calls per second.
func (n *counted) sum() (sum float64) {
	for _, v := range n.calls {
		sum += v
	}
	return sum
}

// betweenScrapes are the calls that are made between scrapes; ofInspection are those by which
// the session finds out who the GPUs are, ofLimits those that the receiver of the traces makes once
// in five minutes, on the hour's grid. All others belong to a scrape.
var (
	betweenScrapes = []string{
		"nvmlDeviceGetFieldValues", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetSamples", "nvmlDeviceGetTemperature",
		"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetProcessUtilization",
	}
	ofInspection = []string{
		"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMigMode", "nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents",
	}
	ofLimits = []string{
		"nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetPowerManagementDefaultLimit",
		"nvmlDeviceGetPowerManagementLimitConstraints",
	}
)

const (
	// scrapeBudget is the scrapes' part of a budget's sum, and scrapeCalls what one scrape
	// makes at most, with what is read once a minute or less often.
	scrapeBudget = 3.4
	scrapeCalls  = 90
)

// checkSum asserts the budget's sum: of a minute as it is; of less, in which a scrape may fall
// or not, of what is called between scrapes without their part, and of all else what one
// scrape makes.
func (n *counted) checkSum(t *testing.T, name string, limit float64, whole bool) {
	t.Helper()
	if whole {
		assert.LessOrEqual(t, n.sum(), limit, name)
		return
	}
	scrapes := n.calls["nvmlDeviceGetPerformanceState"] // per second
	between, others := 0.0, 0.0
	for function, calls := range n.calls {
		switch {
		case slices.Contains(betweenScrapes, function):
			between += calls
		case slices.Contains(ofLimits, function):
			others += max(calls-1/n.d.Seconds(), 0)
		case !slices.Contains(ofInspection, function):
			others += calls
		}
	}
	const inScrape = 12 // of the former
	assert.LessOrEqual(t, between-inScrape*scrapes, limit-scrapeBudget, "%s: between scrapes: %v", name, n.calls)
	assert.LessOrEqual(t, others, scrapeCalls*scrapes, "%s: outside of scrapes: %v", name, n.calls)
}

func (n *counted) print(name string) {
	for _, function := range slices.Sorted(maps.Keys(n.calls)) {
		if v := n.calls[function]; v > 0 {
			figure.Print("calls."+name+"."+function, v, "calls/s")
		}
	}
}

// hungCall is what came of one call that hung.
type hungCall struct {
	reported            time.Duration // after it began
	reports, recoveries int
	missed              int64 // readings of the GPU that missed most of those that did not hang
}

// hang has one call of one GPU take 1.5 s, and asserts that it is reported once.
func (m *machine) hang(t *testing.T, c *collector, victim int, quiet time.Duration) (h hungCall) {
	t.Helper()
	midTick := func() {
		require.Eventually(t, func() bool {
			part := time.Now().UnixMilli() % 50
			return part >= 15 && part <= 25
		}, patience, time.Millisecond)
	}
	readings := func() (all []int64) {
		for _, g := range m.gpus {
			all = append(all, g.Calls("nvmlDeviceGetFieldValues"))
		}
		return all
	}
	const record = "is unresponsive: nvmlDeviceGetFieldValues"
	reportsBefore, backBefore := reports(t, c)
	recordsBefore := logLines(t, c.Process, record)
	midTick()
	before, begin := readings(), time.Now()
	m.gpus[victim].SetDelayOnce("nvmlDeviceGetFieldValues", 1500*time.Millisecond)
	require.Eventually(t, func() bool {
		unresponsive, _ := reports(t, c)
		h.reported = time.Since(begin)
		return unresponsive > reportsBefore
	}, patience, time.Millisecond)
	require.Eventually(t, func() bool { _, back := reports(t, c); return back > backBefore }, patience, time.Millisecond)
	midTick()
	after, ticks := readings(), int64(time.Since(begin).Seconds()/0.05+0.5)
	for i := range m.gpus {
		if i != victim {
			h.missed = max(h.missed, ticks-(after[i]-before[i]))
		}
	}
	// The connector holds a record of a GPU until the GPU's samples cover it.
	require.Eventually(t, func() bool { return logLines(t, c.Process, record) > recordsBefore }, patience, 10*time.Millisecond)
	m.count(t, c, quiet) // nothing more is reported
	unresponsive, back := reports(t, c)
	h.reports, h.recoveries = unresponsive-reportsBefore, back-backBefore
	records := logLines(t, c.Process, record) - recordsBefore
	assert.Equal(t, []int{1, 1, 1}, []int{h.reports, h.recoveries, records}, "one report, one recovery, one record")
	return h
}
