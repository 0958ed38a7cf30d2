// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"strconv"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/reader"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// gpu is the scrape's side of one GPU. It is only ever touched by the scrape: the GPU's
// worker has a [reader.Reader], and the two exchange values.
type gpu struct {
	shared *nvml.GPU
	reader *reader.Reader
	series seriesHistory

	identity  table.Identity
	condition condition
	lostSince time.Time
	byDriver  bool // lost with the driver
	// asked is true while the present scrape waits for the GPU, pending while a request
	// has no reading yet, which may be for many scrapes.
	asked, pending bool
	// leftOut is true while the present scrape has no reading of the GPU, though no call
	// hangs: its series go on.
	leftOut bool
	// read is the number of its samples that were read.
	read  int
	watch watch
	// instances are the hw.ids of its MIG devices, scratch.
	instances []string
	// generation is the GPU's at the last request; relearn is true until a request has
	// carried a change of it.
	generation int
	relearn    bool
	// reading is the last good one; spare holds the slices of the one before, which the
	// next request carries, so that a scrape allocates none.
	reading, spare reader.Reading
	corrected      errorRate
	errorsRise     bool
}

func newGPU(shared *nvml.GPU, r *reader.Reader) *gpu {
	return &gpu{shared: shared, reader: r, series: newSeriesHistory()}
}

// ask sends a request to the GPU's worker; false if the worker's queue is full. No other
// may be pending.
func (g *gpu) ask(work table.Work, driver, cuda string) bool {
	mig := g.identity.MIG
	g.describe(driver, cuda)
	if generation := g.shared.Generation(); generation != g.generation || mig != g.identity.MIG {
		// The GPU or the driver came back, or the MIG mode changed: what the GPU supports
		// may have changed with it.
		g.generation, g.relearn = generation, true
	}
	g.pending = g.reader.Ask(reader.Request{Identity: g.identity, Work: work, Relearn: g.relearn, Into: g.spare})
	if g.pending {
		g.relearn, g.spare = false, reader.Reading{}
	}
	return g.pending
}

// describe brings the identity up to date with the GPU's.
func (g *gpu) describe(driver, cuda string) {
	id := g.shared.Identity()
	if g.identity.Identity != id || g.identity.Driver != driver || g.identity.CUDA != cuda {
		g.identity = table.Identity{ID: id.UUID, Name: "gpu" + strconv.Itoa(id.Index), Driver: driver, CUDA: cuda, Identity: id}
	}
}

// poll returns the reading of the pending request if it has come.
func (g *gpu) poll() (reading reader.Reading, ok bool) {
	select {
	case reading = <-g.reader.Readings():
		g.pending = false
		return reading, true
	default:
		return reading, false
	}
}

// await waits for the reading of the pending request until the context ends, or the GPU's
// call hangs; hung receives when that may have changed.
func (g *gpu) await(ctx context.Context, hung <-chan struct{}) (reading reader.Reading, ok bool) {
	for g.shared.Hung() == nil {
		select {
		case reading = <-g.reader.Readings():
			g.pending = false
			return reading, true
		case <-hung:
		case <-ctx.Done():
			return g.poll()
		}
	}
	return g.poll()
}

// accept makes a reading the GPU's present one.
func (g *gpu) accept(reading reader.Reading, now time.Time) {
	g.reading, g.spare = reading, g.reading
	g.errorsRise = g.corrected.rises(now, reading.Health.Corrected)
}

// samples are those of the GPU's reading, if it is healthy, and of its state.
func (g *gpu) samples() []table.Sample {
	var samples []table.Sample
	if g.condition == healthy {
		samples = g.reading.Samples
	}
	g.read = len(samples)
	if g.condition == unknown {
		return samples
	}
	samples = append(samples, table.Info.Of(1), table.Responds.Of(table.Flag(g.condition == healthy)))
	for _, c := range &conditions {
		samples = append(samples, table.State.Of(table.Flag(c.condition == g.condition), c.state))
	}
	is := status(g.condition, &g.reading.Health, g.errorsRise)
	for _, s := range statuses {
		samples = append(samples, table.Status.Of(table.Flag(s == is), s))
	}
	return samples
}
