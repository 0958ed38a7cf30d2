// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"math"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// column is a column of the history.
type column uint8

const (
	noColumn column = iota
	memoryColumn
	peakColumn
	utilizationColumn
	temperatureColumn
	powerColumn
	columns
)

// The recent utilisation is drawn from so many steps.
const (
	recentSteps = 60
	recentStep  = 5 // s
)

// history holds a value of each column for each second, as long as its columns reach. The
// place of a second is its Unix time modulo their length; NaN is not known.
type history struct {
	// head is the newest second of which anything is known; 0 if there is none.
	head int64
	// slots are the columns, of one length.
	slots [columns][]float32
}

func newHistory(length time.Duration) history {
	var h history
	for c := memoryColumn; c < columns; c++ {
		h.slots[c] = make([]float32, int(length/time.Second))
	}
	h.clear()
	return h
}

func (h *history) len() int64 { return int64(len(h.slots[memoryColumn])) }

func (h *history) clear() {
	h.head = 0
	for c := memoryColumn; c < columns; c++ {
		for i := range h.slots[c] {
			h.slots[c][i] = float32(math.NaN())
		}
	}
}

// reach makes a second part of the history; false if it is older than that.
func (h *history) reach(second int64) bool {
	switch {
	case h.head == 0 || second-h.head >= h.len():
		h.clear()
		h.head = second
	case second <= h.head-h.len():
		return false
	}
	for ; h.head < second; h.head++ {
		for c := memoryColumn; c < columns; c++ {
			h.slots[c][(h.head+1)%h.len()] = float32(math.NaN())
		}
	}
	return true
}

// put stores the value of a second. Of several the last counts, of peaks the largest. One
// that arrives late does not replace another.
func (h *history) put(c column, at int64, value float64, late bool) {
	second := at / int64(time.Second)
	if c == noColumn || !h.reach(second) {
		return
	}
	slot := &h.slots[c][second%h.len()]
	switch known := *slot == *slot; { // NaN is not equal to itself
	case !known, c == peakColumn && float32(value) > *slot, c != peakColumn && !late:
		*slot = float32(value)
	}
}

// fill stores a mean of the time between two samples where nothing else is known.
func (h *history) fill(c column, from, to int64, value float64) {
	last := to / int64(time.Second)
	if !h.reach(last) {
		return
	}
	for second := max(from/int64(time.Second)+1, last-h.len()+1); second <= last; second++ {
		if slot := &h.slots[c][second%h.len()]; *slot != *slot {
			*slot = float32(value)
		}
	}
}

// at is the value of a second; false if it is not known.
func (h *history) at(c column, second int64) (float64, bool) {
	if h.head == 0 || second > h.head || second <= h.head-h.len() {
		return 0, false
	}
	v := h.slots[c][second%h.len()]
	return float64(v), v == v
}

// peak is the most memory that was used, and when.
func (h *history) peak(now time.Time) (peak float64, when time.Time) {
	for second := max(h.head-h.len(), now.Unix()-h.len()) + 1; second <= h.head; second++ {
		for _, c := range [...]column{memoryColumn, peakColumn} {
			if v, ok := h.at(c, second); ok && v >= peak {
				peak, when = v, time.Unix(second, 0).UTC()
			}
		}
	}
	return peak, when
}

// recent is the utilisation of the last minutes.
func (h *history) recent(now time.Time) view.Recent {
	r := view.Recent{Step: recentStep, Utilization: make([]float64, recentSteps)}
	first := now.Unix() - recentSteps*recentStep + 1
	for i := range r.Utilization {
		sum, n := 0.0, 0
		for second := first + int64(i)*recentStep; second < first+int64(i+1)*recentStep; second++ {
			if v, ok := h.at(utilizationColumn, second); ok {
				sum, n = sum+v, n+1
			}
		}
		r.Utilization[i] = -1
		if n > 0 {
			r.Utilization[i] = rounded(sum/float64(n), 1e3)
		}
	}
	return r
}

// view is the history of a GPU: the seconds of which anything is known.
func (h *history) view(gpu string, now time.Time) view.History {
	out := view.History{GPU: gpu, Times: []float64{}}
	into := [columns]*[]*float64{memoryColumn: &out.Memory, peakColumn: &out.MemoryPeak, utilizationColumn: &out.Utilization, temperatureColumn: &out.Temperature, powerColumn: &out.Power}
	digits := [columns]float64{memoryColumn: 1, peakColumn: 1, utilizationColumn: 1e3, temperatureColumn: 10, powerColumn: 10}
	for second := max(h.head-h.len(), now.Unix()-h.len()) + 1; second <= h.head; second++ {
		var values [columns]*float64
		known := false
		for c := memoryColumn; c < columns; c++ {
			if v, ok := h.at(c, second); ok {
				v = rounded(v, digits[c])
				values[c], known = &v, true
			}
		}
		if !known {
			continue
		}
		out.Times = append(out.Times, float64(second))
		for c := memoryColumn; c < columns; c++ {
			*into[c] = append(*into[c], values[c])
		}
	}
	return out
}

// rounded drops the digits that a float32 does not have.
func rounded(v, digits float64) float64 { return math.Round(v*digits) / digits }
