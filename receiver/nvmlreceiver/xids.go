// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"cmp"
	"slices"
	"strconv"
	"sync"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// maxXIDs bounds the XIDs that are counted separately on one GPU; the rest counts as
// otherXIDs.
const (
	maxXIDs   = 128
	otherXIDs = "other"
)

// subscriptions are what is cancelled when a component shuts down.
type subscriptions struct {
	// cancel holds what the topics returned. Each ends one subscription; it may be called
	// more than once, from any goroutine.
	cancel []func()
}

func (s *subscriptions) close() {
	for _, cancel := range s.cancel {
		cancel()
	}
}

// xidCounts counts XIDs by GPU since the receiver's start, beside the scrapes: an event
// between two scrapes is in the next one.
type xidCounts struct {
	subscriptions
	critical []string

	mu    sync.Mutex
	byGPU map[*nvml.GPU]*xidsOf // guarded by mu
}

// xidsOf are those of one GPU.
type xidsOf struct {
	counts map[string]int64
	last   int64
}

func newXIDCounts(session *nvml.Session) (*xidCounts, error) {
	catalogue, err := xid.Load()
	if err != nil {
		return nil, err
	}
	x := &xidCounts{critical: catalogue.Critical(), byGPU: map[*nvml.GPU]*xidsOf{}}
	x.cancel = append(x.cancel, session.SubscribeXIDs(x.count))
	return x, nil
}

func (x *xidCounts) count(e nvml.XIDEvent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	of := x.of(e.GPU)
	of.last = int64(e.XID)
	number := strconv.FormatUint(e.XID, 10)
	if _, known := of.counts[number]; !known && len(of.counts) >= maxXIDs {
		number = otherXIDs
	}
	of.counts[number]++
}

// forget removes the counts of a GPU that the session has forgotten. A nil x has none.
func (x *xidCounts) forget(gpu *nvml.GPU) {
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byGPU, gpu)
}

// makeRoom removes the counts of a GPU that is lost, if there are as many as may be: those
// that no scrape shows are not forgotten otherwise. The caller holds mu.
func (x *xidCounts) makeRoom() {
	if len(x.byGPU) < nvml.MaxGPUs {
		return
	}
	var victim *nvml.GPU
	for gpu := range x.byGPU {
		victim = gpu
		if gpu.Err() != nil {
			break
		}
	}
	delete(x.byGPU, victim)
}

// Bounds implements [bounds.Registered].
func (x *xidCounts) Bounds() []bounds.Bound {
	x.mu.Lock()
	defer x.mu.Unlock()
	return []bounds.Bound{{Name: "nvmlreceiver.xidCounts.byGPU", Max: nvml.MaxGPUs, Size: len(x.byGPU)}}
}

// of returns a GPU's counts; the critical ones are initialised to 0. The caller holds mu.
func (x *xidCounts) of(gpu *nvml.GPU) *xidsOf {
	of := x.byGPU[gpu]
	if of == nil {
		x.makeRoom()
		of = &xidsOf{counts: make(map[string]int64, len(x.critical))}
		for _, number := range x.critical {
			of.counts[number] = 0
		}
		x.byGPU[gpu] = of
	}
	return of
}

// appendTo adds a GPU's counters to its samples, in a fixed order. They remain while the
// GPU is lost: the XID says why it is. A nil x adds nothing.
func (x *xidCounts) appendTo(samples []table.Sample, gpu *nvml.GPU) []table.Sample {
	if x == nil {
		return samples
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	from := len(samples)
	of := x.of(gpu)
	for number, n := range of.counts {
		samples = append(samples, table.XIDErrors.Of(n, number, 0))
	}
	slices.SortFunc(samples[from:], func(a, b table.Sample) int {
		return cmp.Or(cmp.Compare(len(a.Text), len(b.Text)), cmp.Compare(a.Text, b.Text))
	})
	return append(samples, table.LastXID.Of(of.last))
}
