// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// Shortage is what holds requests back.
type Shortage string

// The shortages.
const (
	// None is the answer while less than [noticed] of the work is held back by each.
	None Shortage = "none"
	// Memory: a larger GPU, or fewer servers on it.
	Memory Shortage = "memory"
	// Time: more GPUs.
	Time Shortage = "time"
	// Size: these requests are too long for their objective even on an idle GPU, so that only
	// smaller ones, or a faster GPU, help.
	Size Shortage = "size"
)

// Shortages lists those that hold requests back.
func Shortages() []Shortage { return []Shortage{Memory, Time, Size} }

const (
	// noticed is the part of the work from which what is held back is a shortage, noticedTime the
	// seconds of GPU time that it is at least.
	noticed     = 0.02
	noticedTime = 60
)

// Held is what was held back of the work of a GPU's requests, or of all. Times are seconds of a
// whole GPU.
type Held struct {
	// GPU is the hw.id, Product its model; both are empty for all GPUs together, and for requests
	// whose server is not known to have one.
	GPU, Product string
	// Requests is how many came, Missed how many did not meet their objective.
	Requests, Missed int64
	// Work is what all requests use, or would.
	Work float64
	// Memory, Time and Size are the parts of it that each held back. Dead is what requests used that
	// ran out of memory, which is also in Memory.
	Memory, Time, Size, Dead float64
}

// By is what a shortage held back, in seconds.
func (h *Held) By(s Shortage) float64 {
	switch s {
	case Memory:
		return h.Memory
	case Time:
		return h.Time
	case Size:
		return h.Size
	}
	return 0
}

// Shortage is what holds the most back, if that is worth a remedy.
func (h *Held) Shortage() Shortage {
	worst := slices.MaxFunc(Shortages(), func(a, b Shortage) int { return cmp.Compare(h.By(a), h.By(b)) })
	if by := h.By(worst); by < noticed*h.Work || by < noticedTime {
		return None
	}
	return worst
}

func (h *Held) add(o *Held) {
	h.Requests, h.Missed = h.Requests+o.Requests, h.Missed+o.Missed
	h.Work += o.Work
	h.Memory, h.Time, h.Size, h.Dead = h.Memory+o.Memory, h.Time+o.Time, h.Size+o.Size, h.Dead+o.Dead
}

// judge finds what held a request back; none if nothing did. Counts is false for one that says
// nothing about sizes and GPUs.
func (r *Request) judge(c *Class, shortOfMemory bool) (by Shortage, counts bool) {
	limit, took := c.limit(), r.Ended.Sub(r.Came)
	late := limit > 0 && took > limit
	switch r.Outcome {
	case OutOfMemory:
		return Memory, true
	case Failed:
		return None, false
	case Refused:
		return r.refusal(c, shortOfMemory)
	case GivenUp:
		if !late { // its client did not leave because of the objective
			return None, true
		}
	}
	switch {
	case !late:
		return None, true
	case r.work() > limit.Seconds():
		return Size, true
	case shortOfMemory || r.Held > 0 && took-r.Held <= limit:
		return Memory, true
	}
	return Time, true
}

// refusal finds what a request was refused for.
func (r *Request) refusal(c *Class, shortOfMemory bool) (by Shortage, counts bool) {
	switch r.Reason {
	case admission.MemoryIdle, admission.MemoryBusy, admission.TooLarge:
		return Memory, true
	case admission.Late, admission.BatchWaits:
		switch {
		case c.Deadline > 0 && r.work() > c.Deadline.Seconds():
			return Size, true
		case shortOfMemory || r.Held > 0: // it would be late since it was held
			return Memory, true
		}
		return Time, true
	}
	return None, false // the GPU is unhealthy, or the client sends too many
}

// hour has what became of the requests that came in an hour, by GPU.
type hour struct {
	number int64 // since 1970
	gpus   map[string]*Held
}

const (
	// Window is how far back requests count.
	Window = 7 * 24 * time.Hour
	// hoursHeld is that in hours, with the one that is not over.
	hoursHeld = int(Window/time.Hour) + 1
	// maxGPUs bounds the GPUs of an hour; further ones count together, under an empty name.
	maxGPUs = 128
)

// hourOf is the hour of a time, begun if it is new; nil if it is older than the window.
func (w *Week) hourOf(at time.Time) *hour {
	number := at.Unix() / 3600
	h := &w.hours[int(number%int64(hoursHeld))]
	switch {
	case h.number == number && h.gpus != nil:
	case h.number > number || number <= 0:
		return nil
	default:
		*h = hour{number, map[string]*Held{}}
	}
	return h
}

// on is what an hour has of a GPU.
func (w *Week) on(h *hour, gpu, product string) *Held {
	known := h.gpus[gpu]
	if known == nil {
		if len(h.gpus) >= maxGPUs-1 && gpu != "" {
			w.Dropped++
			return w.on(h, "", "")
		}
		known = &Held{GPU: gpu, Product: product}
		h.gpus[gpu] = known
	}
	return known
}

// heldBack adds up what was held back since a time: by GPU, and altogether.
func (w *Week) heldBack(now time.Time) (gpus []Held, all Held) {
	first := now.Add(-Window).Unix() / 3600
	by := map[string]*Held{}
	for i := range w.hours {
		if w.hours[i].number <= first {
			continue
		}
		for gpu, h := range w.hours[i].gpus {
			if by[gpu] == nil {
				by[gpu] = &Held{GPU: gpu, Product: h.Product}
			}
			by[gpu].add(h)
			all.add(h)
		}
	}
	for _, gpu := range slices.Sorted(maps.Keys(by)) {
		gpus = append(gpus, *by[gpu])
	}
	return gpus, all
}
