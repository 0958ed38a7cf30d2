// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// savedVersion is that of the form in which what was learned is saved.
const savedVersion = 1

// ErrSaved is the error of saved data that is not read.
var ErrSaved = errors.New("saved model is damaged or has an unknown version")

// savedSample is a sample: pixels, batch, steps, cost and Unix time in seconds.
type savedSample [5]float64

// savedKind is what was learned of a kind.
type savedKind struct {
	Version int           `json:"version"`
	Kind    Kind          `json:"kind"`
	Time    []savedSample `json:"time,omitempty"`
	Memory  []savedSample `json:"memory,omitempty"`
	Least   []savedSample `json:"least,omitempty"`
	Loading []float64     `json:"loading,omitempty"`
	// Heaviest is its heaviest node, Ahead by how many seconds it is.
	Heaviest string  `json:"heaviest,omitempty"`
	Ahead    float64 `json:"ahead,omitempty"`
}

// savedRest is what was learned beside the kinds.
type savedRest struct {
	Version int                       `json:"version"`
	GPUs    map[string]savedGPU       `json:"gpus,omitempty"`
	Classes map[string]savedPredicted `json:"classes,omitempty"`
	// Ran is what servers executed within the last hour, by their names.
	Ran map[string][]savedRan `json:"ran,omitempty"`
}

// savedGPU is what was learned of a GPU. Seen is when it was there last, in Unix seconds.
type savedGPU struct {
	Seen                  float64      `json:"seen"`
	Count, Mean, Variance float64      `json:",omitempty"`
	Probes                []savedProbe `json:"probes,omitempty"`
}

type savedProbe struct {
	Kind     Kind     `json:"kind"`
	Size     fit.Size `json:"size"`
	Room     int64    `json:"room"`
	Failures int      `json:"failures"`
	Last     float64  `json:"last"`
}

// savedPredicted is how far predictions of a class were off, in deviations.
type savedPredicted struct {
	Off   []float64 `json:"off"`
	Below float64   `json:"below"`
	Above float64   `json:"above"`
}

// Saved is what was learned of a kind, to be loaded after a restart.
type Saved struct {
	Kind Kind
	Data []byte
}

// Unsaved returns the kinds about which something was learned since it was called last, and which
// kinds there are.
func (e *Engine) Unsaved() (changed []Saved, all map[Kind]bool) {
	all = make(map[Kind]bool, e.settings.Kinds)
	for of, k := range e.kinds.All() {
		all[of] = true
		if !k.changed {
			continue
		}
		raw, err := json.Marshal(savedKind{
			Version: savedVersion, Kind: of, Time: saveSamples(k.time.samples), Memory: saveSamples(k.memory.samples), Least: saveSamples(k.memory.least), Loading: k.loading,
			Heaviest: k.heaviest.id, Ahead: k.heaviest.ahead,
		})
		if err != nil { // no number of it is NaN
			continue
		}
		k.changed = false
		changed = append(changed, Saved{of, raw})
	}
	return changed, all
}

// SaveRest returns what was learned beside the kinds: what GPUs usually do, what ran out of memory
// there, how far predictions were off, and what servers executed within the last hour.
func (e *Engine) SaveRest(now time.Time) []byte {
	rest := savedRest{Version: savedVersion, GPUs: map[string]savedGPU{}, Classes: map[string]savedPredicted{}, Ran: e.saveRan(now)}
	for id, g := range e.gpus {
		of := savedGPU{Seen: unix(g.seen()), Count: g.usual.count, Mean: g.usual.mean, Variance: g.usual.variance}
		for key, p := range g.probes {
			if p.failures > 0 {
				of.Probes = append(of.Probes, savedProbe{key.Kind, key.Size, p.room, p.failures, unix(p.last)})
			}
		}
		if of.Count > 0 || len(of.Probes) > 0 {
			rest.GPUs[id] = of
		}
	}
	for class, c := range e.classes {
		rest.Classes[class] = savedPredicted{c.off, c.below, c.above}
	}
	raw, _ := json.Marshal(rest) // no number of it is NaN
	return raw
}

// LoadKind reads what Unsaved returned. Samples that are too old are left out. The error is
// [ErrSaved].
func (e *Engine) LoadKind(raw []byte, now time.Time) (of Kind, err error) {
	var s savedKind
	if err := json.Unmarshal(raw, &s); err != nil || s.Version != savedVersion {
		return of, fmt.Errorf("a kind of prompts: %w", ErrSaved)
	}
	loading := slices.DeleteFunc(s.Loading, func(v float64) bool { return !isCost(v) && v != 0 })
	times, memory, least := loadSamples(s.Time, now), loadSamples(s.Memory, now), loadSamples(s.Least, now)
	if len(times)+len(memory)+len(least) == 0 {
		return s.Kind, nil
	}
	k := e.findOrAdd(s.Kind)
	k.time.samples, k.memory.samples, k.memory.least, k.loading = times, memory, least, loading[max(len(loading)-maxLoadings, 0):]
	k.time.refit(now)
	k.memory.refit(now)
	k.settleLoading()
	if isCost(s.Ahead) || s.Ahead == 0 {
		k.heaviest = heaviest{s.Heaviest, min(s.Ahead, maxAhead)}
	}
	e.kinds.Raise(s.Kind, k.rank())
	return s.Kind, nil
}

// LoadRest reads what SaveRest returned. The error is [ErrSaved].
func (e *Engine) LoadRest(raw []byte, now time.Time) error {
	var rest savedRest
	if err := json.Unmarshal(raw, &rest); err != nil || rest.Version != savedVersion {
		return fmt.Errorf("GPUs and classes: %w", ErrSaved)
	}
	for id, of := range rest.GPUs {
		seen := fromUnix(of.Seen)
		if now.Sub(seen) > maxSampleAge {
			continue
		}
		e.SetGPU(GPU{ID: id, Utilization: -1})
		g := e.gpus[id]
		if g == nil {
			continue
		}
		g.loaded = seen
		if isCost(of.Mean) && of.Count >= 1 && of.Variance >= 0 && !math.IsInf(of.Variance, 0) {
			g.usual = usualWork{of.Count, of.Mean, of.Variance}
		}
		for i := range of.Probes {
			p := &of.Probes[i]
			if last := fromUnix(p.Last); p.Failures > 0 && !last.After(now) && now.Sub(last) <= maxSampleAge {
				known := g.probeOf(probeKey{p.Kind, p.Size})
				known.room, known.failures, known.last = p.Room, p.Failures, last
			}
		}
	}
	e.loadRan(rest.Ran, now)
	for class, of := range rest.Classes {
		c := e.calibrationOf(class)
		c.last = now
		c.off = slices.DeleteFunc(of.Off, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
		c.off = c.off[max(len(c.off)-maxOff, 0):]
		c.sorted = slices.Sorted(slices.Values(c.off))
		if of.Below >= minWide && of.Below <= maxWide && of.Above >= minWide && of.Above <= maxWide {
			c.below, c.above = of.Below, of.Above
		}
	}
	return nil
}

// seen is when the GPU was there last.
func (g *gpu) seen() time.Time {
	if g.memory.At.After(g.loaded) {
		return g.memory.At
	}
	return g.loaded
}

func saveSamples(all []sample) []savedSample {
	saved := make([]savedSample, 0, len(all))
	for i := range all {
		s := &all[i]
		saved = append(saved, savedSample{s.Pixels, s.Batch, s.Steps, s.Cost, unix(s.at)})
	}
	return saved
}

// loadSamples are those that make sense and are not too old.
func loadSamples(saved []savedSample, now time.Time) []sample {
	var all []sample
	for _, s := range saved {
		at := fromUnix(s[4])
		if now.Sub(at) <= maxSampleAge && !at.After(now) && isCost(s[3]) && s[0] >= 1 && s[1] >= 1 && s[2] >= 1 {
			all = append(all, sample{fit.Sample{Size: fit.Size{Pixels: s[0], Batch: s[1], Steps: s[2]}, Cost: s[3]}, at})
		}
	}
	return all[max(len(all)-maxSamples, 0):]
}

// isCost reports whether a number can be a cost, in seconds or bytes.
func isCost(v float64) bool { return v > 0 && v < 1e15 }

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}

func fromUnix(s float64) time.Time {
	if !(s > 0 && s < 1e11) {
		return time.Time{}
	}
	return time.UnixMilli(int64(s * 1e3))
}
