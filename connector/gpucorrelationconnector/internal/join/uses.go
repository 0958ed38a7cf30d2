// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// use is one span's use of GPUs.
type use struct {
	span     ptrace.Span
	parent   int // place of its parent, -1 if it is not here
	depth    int
	named    bool // it names the GPU itself
	gpu      string
	pid      int64
	interval gputimeline.Interval
	offset   int64 // of its host's clock, in ns
	// rolled are the intervals of what lies below a span that names no GPU, by GPU.
	rolled map[string][]gputimeline.Interval
	reason string // why it can have no figures
}

// reasons for spans without figures, or with estimated ones.
const (
	ReasonHost      = "host"        // another host's clock, whose offset is not configured
	ReasonClock     = "clock"       // it ends in the future
	reasonNoSamples = "no_samples"  // of its GPU there are none
	reasonFew       = "few_samples" // shorter than two samples
	reasonGap       = "gap"         // a time without samples
	reasonHistory   = "history"     // longer than the samples are kept
	reasonWait      = "wait"        // the samples of its end did not come in time
	reasonLost      = "card_lost"   // the GPU was lost or late
	reasonShutdown  = "shutdown"    // the collector ended
	ReasonLimit     = "limit"       // too many spans wait
)

// usesOf finds out which GPU each span of a trace used, and when: its own, or that
// of the nearest span above it; a span that has none has what its descendants used.
// The result is nil if no span names a GPU.
func (j *Joiner) usesOf(td ptrace.Traces, now time.Time) []use {
	var uses []use
	at := map[pcommon.SpanID]int{}
	found := false
	for _, rs := range td.ResourceSpans().All() {
		resource := rs.Resource().Attributes()
		host := pdataread.Text(resource, semconv.HostName)
		offset, named := j.settings.ClockOffsets[host]
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				u := use{span: span, parent: -1, offset: offset.Nanoseconds()}
				u.gpu = j.namedGPU(span.Attributes(), resource)
				u.named = u.gpu != ""
				found = found || u.named
				if pid, ok := span.Attributes().Get(semconv.ProcessPID); ok {
					u.pid = pid.Int()
				} else if pid, ok := resource.Get(semconv.ProcessPID); ok {
					u.pid = pid.Int()
				}
				from, to := int64(span.StartTimestamp()), int64(span.EndTimestamp())
				u.interval = gputimeline.Interval{From: from - u.offset, To: max(from, to) - u.offset}
				switch {
				case host != "" && !named && j.foreign(u.gpu, host):
					u.reason = ReasonHost
				case u.interval.To > now.Add(j.settings.MaxAhead).UnixNano():
					u.reason = ReasonClock
				}
				at[span.SpanID()] = len(uses)
				uses = append(uses, u)
			}
		}
	}
	if !found {
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

// maxAncestors bounds the way from a span to the root on which figures are added up.
const maxAncestors = 1000

// rollUp adds a topmost span's window to all above it, none of which has a GPU.
func rollUp(uses []use, i int) {
	u := &uses[i]
	if u.gpu == "" || u.parent >= 0 && uses[u.parent].gpu != "" {
		return
	}
	for p, n := u.parent, 0; p >= 0 && n < maxAncestors; p, n = uses[p].parent, n+1 {
		above := &uses[p]
		if above.rolled == nil {
			above.rolled = map[string][]gputimeline.Interval{}
		}
		above.rolled[u.gpu] = append(above.rolled[u.gpu], u.interval)
		above.pid = u.pid
		above.reason = cmp.Or(above.reason, u.reason)
	}
}

// namedGPU is the GPU that a span or its resource names.
func (j *Joiner) namedGPU(span, resource pcommon.Map) string {
	for _, key := range j.settings.DeviceAttributes {
		if id := pdataread.Text(span, key); id != "" {
			return id
		}
	}
	for _, key := range j.settings.DeviceAttributes {
		if id := pdataread.Text(resource, key); id != "" {
			return id
		}
	}
	return ""
}

// foreign reports whether a span's host is another than the one of the samples.
func (j *Joiner) foreign(gpu, host string) bool {
	if t := j.timelines.Get(gpu); t != nil {
		return t.Host != "" && t.Host != host
	}
	return false
}
