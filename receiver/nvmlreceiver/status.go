// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// condition is a GPU's condition as the scrape sees it.
type condition int

const (
	// unknown: the GPU was not asked yet.
	unknown condition = iota
	// healthy: it responded within card_timeout.
	healthy
	// unresponsive: it timed out.
	unresponsive
	// lost: it is gone, or the driver is.
	lost
)

func (c condition) String() string {
	return [...]string{"unknown", "healthy", "unresponsive", "lost"}[c]
}

// conditions are those that hw.gpu.state has, one of which is 1.
var conditions = [...]struct {
	condition condition
	state     metadata.AttributeHwGpuCondition
}{
	{healthy, metadata.AttributeHwGpuConditionHealthy},
	{unresponsive, metadata.AttributeHwGpuConditionUnresponsive},
	{lost, metadata.AttributeHwGpuConditionLost},
}

// correctedPerHour is the number of corrected ECC errors within an hour from which on a
// failure is expected: sound memory has a few a week.
const correctedPerHour = 100

// errorRate watches a counter of errors over the last hour or two.
type errorRate struct {
	since       time.Time
	base, older uint64
}

// rises adds a reading of the counter and reports whether it rose fast. A counter that
// went back begins again.
func (r *errorRate) rises(now time.Time, n uint64) bool {
	switch {
	case r.since.IsZero() || n < r.base:
		*r = errorRate{since: now, base: n, older: n}
	case now.Sub(r.since) >= time.Hour:
		*r = errorRate{since: now, base: n, older: r.base}
	}
	return n-r.older >= correctedPerHour
}

// statuses are the states that hw.status has, one of which is 1.
var statuses = [...]metadata.AttributeHwState{
	metadata.AttributeHwStateOk, metadata.AttributeHwStateDegraded, metadata.AttributeHwStateFailed, metadata.AttributeHwStatePredictedFailure,
}

// status is the state for hw.status; docs/status.md has the table of causes.
func status(c condition, h *table.Health, errorsRise bool) metadata.AttributeHwState {
	switch {
	case c != healthy, h.RepairFailed, h.RecoveryNeeded:
		return metadata.AttributeHwStateFailed
	case h.SlowedDown, h.Uncorrected > 0, h.RepairPending,
		h.Busy && (h.Generation < h.MaxGeneration || h.Width < h.MaxWidth):
		return metadata.AttributeHwStateDegraded
	case h.BankWorn, h.BeyondRepair, errorsRise:
		return metadata.AttributeHwStatePredictedFailure
	}
	return metadata.AttributeHwStateOk
}
