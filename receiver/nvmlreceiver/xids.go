// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"slices"
	"strconv"
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/xid"
)

// mostXIDs bounds the XIDs that are told apart on one GPU; the rest counts as other.
const mostXIDs = 128

const otherXIDs = "other"

var xidMetric = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuXidErrors.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwGpuXidErrorsDataPoint(ts, s.integer, s.text, c.id, c.name)
	},
}

// xidCounts counts XIDs by GPU since the receiver's start. Counting stands
// beside the scrapes: an event that comes between two is in the next.
type xidCounts struct {
	cancel   func()
	critical []string

	mu    sync.Mutex
	byGPU map[*nvml.GPU]map[string]int64
}

func newXIDCounts(session *nvml.Session) (*xidCounts, error) {
	catalogue, err := xid.Load()
	if err != nil {
		return nil, err
	}
	x := &xidCounts{critical: catalogue.Critical(), byGPU: map[*nvml.GPU]map[string]int64{}}
	x.cancel = session.SubscribeXIDs(x.count)
	return x, nil
}

func (x *xidCounts) count(e nvml.XIDEvent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	counts := x.of(e.GPU)
	name := strconv.FormatUint(e.XID, 10)
	if _, known := counts[name]; !known && len(counts) >= mostXIDs {
		name = otherXIDs
	}
	counts[name]++
}

// of is a GPU's counts; the critical ones are initialised to 0.
func (x *xidCounts) of(gpu *nvml.GPU) map[string]int64 {
	counts, ok := x.byGPU[gpu]
	if !ok {
		counts = make(map[string]int64, len(x.critical))
		for _, name := range x.critical {
			counts[name] = 0
		}
		x.byGPU[gpu] = counts
	}
	return counts
}

// appendTo adds a GPU's counters to its samples, in a fixed order. They stay
// while the GPU is lost: the XID says why it is.
func (x *xidCounts) appendTo(samples []sample, gpu *nvml.GPU) []sample {
	if x == nil {
		return samples
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	from := len(samples)
	for name, n := range x.of(gpu) {
		samples = append(samples, sample{series: series{metric: &xidMetric, text: name}, integer: n})
	}
	slices.SortFunc(samples[from:], func(a, b sample) int {
		if len(a.text) != len(b.text) {
			return len(a.text) - len(b.text)
		}
		if a.text < b.text {
			return -1
		}
		return 1
	})
	return samples
}
