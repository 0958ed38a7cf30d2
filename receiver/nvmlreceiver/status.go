//go:build linux && cgo

package nvmlreceiver

import "github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"

// busyPercent is the utilisation from which a card counts as under load: below
// it a PCIe link that was slowed down to save power is no fault.
const busyPercent = 50

// health is what a card's readings say about its state.
type health struct {
	busy       bool
	throttling uint64 // the reason bits
	slowedDown bool
	// uncorrected counts ECC errors since the driver was loaded.
	uncorrected uint64
	// repairFailed, repairPending and recoveryNeeded: see families_repair.go.
	repairFailed, repairPending, recoveryNeeded bool
	generation, maxGeneration, width, maxWidth  int
}

// condition is how a card stands with the collector.
type condition int

const (
	// unknown: the card was not asked yet.
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

// status is the state for hw.status; docs/status.md has the table of causes.
func status(c condition, h *health) metadata.AttributeHwState {
	switch {
	case c != healthy, h.repairFailed, h.recoveryNeeded:
		return metadata.AttributeHwStateFailed
	case h.slowedDown, h.uncorrected > 0, h.repairPending,
		h.busy && (h.generation < h.maxGeneration || h.width < h.maxWidth):
		return metadata.AttributeHwStateDegraded
	}
	return metadata.AttributeHwStateOk
}
