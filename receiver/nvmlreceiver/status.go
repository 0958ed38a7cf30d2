// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// busyPercent is the utilisation from which a GPU counts as under load: below
// it a PCIe link that was slowed down to save power is no fault.
const busyPercent = 50

// health is what a GPU's readings say about its state.
type health struct {
	busy       bool
	throttling uint64 // the reason bits
	slowedDown bool
	// uncorrected and corrected count ECC errors since the driver was loaded.
	uncorrected, corrected uint64
	// bankWorn says that a bank of the memory has few spare rows left, or none.
	bankWorn bool
	// repairFailed, repairPending and recoveryNeeded: see families_repair.go.
	repairFailed, repairPending, recoveryNeeded bool
	generation, maxGeneration, width, maxWidth  int
}

// condition is how a GPU stands with the collector.
type condition int

const (
	// unknown: the GPU was not asked yet.
	unknown condition = iota
	// healthy: it answered in time.
	healthy
	// unresponsive: it did not answer by its deadline.
	unresponsive
	// lost: it is gone, or the driver is.
	lost
)

func (c condition) String() string {
	return [...]string{"unknown", "healthy", "unresponsive", "lost"}[c]
}

// correctedPerHour is the number of corrected ECC errors within an hour from which
// a failure is to be expected: sound memory has a few a week.
const correctedPerHour = 100

// errorRate watches a counter of errors over the last hour or two.
type errorRate struct {
	since       time.Time
	base, older uint64
}

// take takes the counter up and reports whether it rose fast. A counter that
// went back begins again.
func (r *errorRate) take(now time.Time, n uint64) bool {
	switch {
	case r.since.IsZero() || n < r.base:
		*r = errorRate{since: now, base: n, older: n}
	case now.Sub(r.since) >= time.Hour:
		*r = errorRate{since: now, base: n, older: r.base}
	}
	return n-r.older >= correctedPerHour
}

// status is the state for hw.status; docs/status.md has the table of causes.
func status(c condition, h *health, errorsRise bool) metadata.AttributeHwState {
	switch {
	case c != healthy, h.repairFailed, h.recoveryNeeded:
		return metadata.AttributeHwStateFailed
	case h.slowedDown, h.uncorrected > 0, h.repairPending,
		h.busy && (h.generation < h.maxGeneration || h.width < h.maxWidth):
		return metadata.AttributeHwStateDegraded
	case h.bankWorn, errorsRise:
		return metadata.AttributeHwStatePredictedFailure
	}
	return metadata.AttributeHwStateOk
}
