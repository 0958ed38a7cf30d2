// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"cmp"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// use is one span's use of GPUs.
type use struct {
	span   ptrace.Span
	parent int // place of its parent, -1 if it is not here
	depth  int
	own    bool // it names the GPU itself
	gpu    string
	pid    int64
	window window
	offset int64 // of its host's clock, in ns
	// rolled are the windows of what lies below a span that names no GPU, by GPU.
	rolled map[string][]window
	reason string // why it can have no figures
}

// reasons for spans without figures, or with estimated ones.
const (
	reasonHost      = "host"        // another host's clock, whose offset is not configured
	reasonClock     = "clock"       // it ends in the future
	reasonNoSamples = "no_samples"  // of its GPU there are none
	reasonFew       = "few_samples" // shorter than two samples
	reasonGap       = "gap"         // a time without samples
	reasonHistory   = "history"     // longer than the samples are kept
	reasonWait      = "wait"        // the samples of its end did not come in time
	reasonLost      = "card_lost"   // the GPU was lost or late
	reasonShutdown  = "shutdown"    // the collector ended
	reasonLimit     = "limit"       // too many spans wait
)

// lookAt finds out which GPU each span of a trace used, and when: its own, or that
// of the nearest span above it; a span that has none has what its descendants used.
// The result is nil if no span names a GPU.
func (c *correlator) lookAt(td ptrace.Traces, now time.Time) []use {
	var uses []use
	at := map[pcommon.SpanID]int{}
	any := false
	for _, rs := range td.ResourceSpans().All() {
		resource := rs.Resource().Attributes()
		host := text(resource, "host.name")
		offset, named := c.cfg.ClockOffsets[host]
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				u := use{span: span, parent: -1, offset: offset.Nanoseconds()}
				u.gpu = c.gpuOf(span.Attributes(), resource)
				u.own = u.gpu != ""
				any = any || u.own
				if pid, ok := span.Attributes().Get("process.pid"); ok {
					u.pid = pid.Int()
				} else if pid, ok := resource.Get("process.pid"); ok {
					u.pid = pid.Int()
				}
				from, to := int64(span.StartTimestamp()), int64(span.EndTimestamp())
				u.window = window{from - u.offset, max(from, to) - u.offset}
				switch {
				case host != "" && !named && c.foreign(u.gpu, host):
					u.reason = reasonHost
				case u.window.to > now.Add(c.cfg.MaxAhead).UnixNano():
					u.reason = reasonClock
				}
				at[span.SpanID()] = len(uses)
				uses = append(uses, u)
			}
		}
	}
	if !any {
		return nil
	}
	for i := range uses {
		if p, ok := at[uses[i].span.ParentSpanID()]; ok && p != i {
			uses[i].parent = p
		}
	}
	inherit(uses)
	for i := range uses {
		rollUp(uses, i)
	}
	return uses
}

// inherit gives every span the GPU of the nearest span above it that names one, and
// its depth. Parents that form a circle are cut.
func inherit(uses []use) {
	const known = 1
	state := make([]int8, len(uses))
	var path []int
	for i := range uses {
		path = path[:0]
		for p := i; p >= 0 && state[p] != known; p = uses[p].parent {
			if state[p] != 0 { // it is on the path already
				uses[path[len(path)-1]].parent = -1
				break
			}
			state[p] = -1
			path = append(path, p)
		}
		for _, at := range slices.Backward(path) {
			u := &uses[at]
			if state[at] = known; u.parent < 0 {
				continue
			}
			above := &uses[u.parent]
			u.depth = above.depth + 1
			if u.gpu == "" && above.gpu != "" {
				u.gpu, u.reason = above.gpu, cmp.Or(u.reason, above.reason)
			}
			if u.pid == 0 {
				u.pid = above.pid
			}
		}
	}
}

// mostAncestors bounds the way from a span to the root on which figures are added up.
const mostAncestors = 1000

// rollUp adds a topmost span's window to all above it, none of which has a GPU.
func rollUp(uses []use, i int) {
	u := &uses[i]
	if u.gpu == "" || u.parent >= 0 && uses[u.parent].gpu != "" {
		return
	}
	for p, n := u.parent, 0; p >= 0 && n < mostAncestors; p, n = uses[p].parent, n+1 {
		above := &uses[p]
		if above.rolled == nil {
			above.rolled = map[string][]window{}
		}
		above.rolled[u.gpu] = append(above.rolled[u.gpu], u.window)
		above.pid = u.pid
		above.reason = cmp.Or(above.reason, u.reason)
	}
}

// cardOf is the GPU that a span names.
func (c *correlator) gpuOf(span, resource pcommon.Map) string {
	for _, key := range c.cfg.DeviceAttributes {
		if id := text(span, key); id != "" {
			return id
		}
	}
	for _, key := range c.cfg.DeviceAttributes {
		if id := text(resource, key); id != "" {
			return id
		}
	}
	return ""
}

// foreign reports whether a span's host is another than the one of the samples.
func (c *correlator) foreign(gpu, host string) bool {
	if t := c.timelines.byID[gpu]; t != nil {
		return t.host != "" && t.host != host
	}
	return false
}

// write puts a bill onto a span. Attributes that do not apply are left out.
func (b *bill) write(a pcommon.Map) {
	whole := func(key string, v *float64) {
		if v != nil {
			a.PutInt(key, int64(*v))
		}
	}
	real := func(key string, v *float64) {
		if v != nil {
			a.PutDouble(key, *v)
		}
	}
	whole("gpu.memory.peak", b.peak)
	whole("gpu.memory.start", b.start)
	whole("gpu.memory.end", b.end)
	if b.start != nil && b.end != nil {
		a.PutInt("gpu.memory.delta", int64(*b.end)-int64(*b.start))
	}
	if b.peak != nil {
		source := "card"
		if b.process {
			source = "process"
		}
		a.PutStr("gpu.memory.source", source)
	}
	real("gpu.utilization.mean", b.meanUtilization)
	real("gpu.utilization.peak", b.peakUtilization)
	real("gpu.energy", b.energy)
	real("gpu.energy.marginal", b.marginal)
	if b.marginal != nil {
		a.PutDouble("gpu.power.rest", b.rest)
	}
	a.PutDouble("gpu.time", b.gpuTime)
	whole("gpu.temperature.max", b.temperature)
	longest := 0.0
	for reason, seconds := range b.throttle {
		a.PutDouble("gpu.throttle.time."+reason, seconds)
		longest = max(longest, seconds)
	}
	if len(b.throttle) > 0 {
		a.PutDouble("gpu.throttle.time", longest) // reasons overlap: their sum would count time twice
	}
	a.PutInt("gpu.samples", int64(b.samples))
	a.PutDouble("gpu.samples.gap", b.gap.Seconds())
	if b.simulated {
		a.PutBool(simulatedAttribute, true)
	}
	if b.shared > 0 {
		a.PutBool("gpu.shared", true)
		a.PutDouble("gpu.shared.time", b.shared.Seconds())
		a.PutInt("gpu.shared.traces", int64(b.most))
	}
}

// add adds another GPU's bill to this one: a request that used two.
func (b *bill) add(other *bill) {
	sum := func(a, b *float64) *float64 {
		if a == nil || b == nil {
			return nil // a part of a sum would be taken for the whole
		}
		s := *a + *b
		return &s
	}
	b.peak, b.start, b.end = sum(b.peak, other.peak), sum(b.start, other.start), sum(b.end, other.end)
	b.energy, b.marginal = sum(b.energy, other.energy), sum(b.marginal, other.marginal)
	b.rest += other.rest
	b.gpuTime += other.gpuTime
	if b.meanUtilization != nil && other.meanUtilization != nil && b.length+other.length > 0 {
		mean := (*b.meanUtilization*float64(b.length) + *other.meanUtilization*float64(other.length)) / float64(b.length+other.length)
		b.meanUtilization = &mean
	}
	if other.peakUtilization != nil {
		b.peakUtilization = larger(b.peakUtilization, *other.peakUtilization)
	}
	if other.temperature != nil {
		b.temperature = larger(b.temperature, *other.temperature)
	}
	for reason, seconds := range other.throttle {
		if b.throttle == nil {
			b.throttle = map[string]float64{}
		}
		b.throttle[reason] += seconds
	}
	b.process = b.process && other.process
	b.xids = append(b.xids, other.xids...)
	b.samples = min(b.samples, other.samples)
	b.gap = max(b.gap, other.gap)
	b.shared += other.shared
	b.most = max(b.most, other.most)
	b.length += other.length
}
