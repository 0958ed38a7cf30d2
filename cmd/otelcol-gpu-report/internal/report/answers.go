// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"gonum.org/v1/gonum/stat"
)

// Settings are the settings of a report.
type Settings struct {
	Window time.Duration
	End    time.Time
	Zone   *time.Location // of the hours of the day
	// Prices are in Currency; 0 omits costs.
	PriceKWh, PriceGPUHour float64
	Currency               string
}

// Class holds the figures of one task class; NaN where the store has none.
type Class struct {
	Name                           string
	Count, Memory, Energy, GPUTime float64
	Wait, P95                      float64
	Hours                          [24]float64 // mean number of images
	MemoryAgainst                  float64     // its memory over that of the first class
}

// GPU holds the figures of one GPU; NaN where the store has none.
type GPU struct {
	ID, Name, Instance                       string
	Utilization, Idle, Energy, Memory, Limit float64
}

// IdleGPU is the idle share of the time from which on a GPU counts as idle.
const IdleGPU = 0.95

// Model is how fast one model version is.
type Model struct {
	Name             string
	Count, Mean, P95 float64
}

// Outcome is how many prompts ended in one way.
type Outcome struct {
	Name  string
	Count float64
}

// The kinds of memory that a report shows.
const (
	MemoryNeeded = "needed"
	MemoryHeld   = "held"
)

// Report is all answers.
type Report struct {
	// ClassMemory is the kind of the classes' memory: what they needed if that is known of all,
	// else what was held, which PyTorch's allocator keeps from larger images.
	ClassMemory string
	Settings
	Made      time.Time
	Simulated bool

	// NotNumbers counts the values of GPUs and times that are NaN or infinite in the
	// store; they are treated as absent.
	NotNumbers int

	Images   float64
	Outcomes []Outcome
	Classes  []Class
	Hours    [24]float64 // mean number of images in each hour of the day
	PeakHour int
	GPUs     []GPU
	Models   []Model

	Concurrency, Utilization []float64 // pairs
	Correlation              float64   // of them; NaN if there are too few

	Joules, GPUSeconds float64 // of an image
	// Slow are the slowest images; AskedTraces reports whether a trace store was
	// queried for them.
	Slow          []Slow
	QueriedTraces bool

	Cost     float64 // of an image, its own energy and GPU time
	FullCost float64 // of an image, all GPUs and all their energy
}

// step is the resolution of range queries.
func (s *Settings) step() time.Duration {
	return max(s.Window/672, 15*time.Minute).Round(time.Minute)
}

// grain is the resolution of subqueries: coarse enough for a month, fine enough for an
// hour.
func (s *Settings) grain() time.Duration {
	return min(max(s.Window/2016, 15*time.Second), 5*time.Minute).Round(time.Second)
}

// Make queries a metric store, and a trace store if there is one. What the store lacks is
// omitted; without any prompt there is nothing to report.
func Make(ctx context.Context, store v1.API, traces *Traces, s Settings) (*Report, error) {
	a := &querier{ctx: ctx, store: store, settings: s, answers: map[string]model.Value{}}
	for _, q := range Questions {
		if err := a.query(q); err != nil {
			return nil, err
		}
	}
	r := &Report{Settings: s, Made: time.Now(), PeakHour: -1, Correlation: math.NaN()}
	r.outcomes(a)
	if len(r.Outcomes) == 0 {
		return nil, fmt.Errorf("the store has no comfyui_prompts_total in the %v before %s; check that the collector (config/comfyui.yaml) writes to this store and that prompts ran", s.Window, s.End.Format(time.RFC3339))
	}
	r.Simulated = a.number("simulated") > 0
	defer func() { r.NotNumbers = a.notNumbers }()
	r.classes(a)
	r.hours(a)
	r.gpus(a)
	r.models(a)
	r.pairs(a)
	r.costs(a)
	if traces != nil {
		var err error
		if r.Slow, err = traces.Slowest(ctx, s.End.Add(-s.Window), s.End, MaxSlow); err != nil {
			return nil, err
		}
		r.QueriedTraces = true
	}
	return r, nil
}

type querier struct {
	ctx      context.Context
	store    v1.API
	settings Settings
	answers  map[string]model.Value
	// notNumbers counts the values that are left out.
	notNumbers int
}

// finite converts a value of the store; ok is false if it is not a number, which counts
// as one that is left out.
func (a *querier) finite(s model.SampleValue) (v float64, ok bool) {
	if v = float64(s); math.IsNaN(v) || math.IsInf(v, 0) {
		a.notNumbers++
		return math.NaN(), false
	}
	return v, true
}

// orNaN is the value of a key; NaN if there is none.
func orNaN(values map[string]float64, key string) float64 {
	if v, ok := values[key]; ok {
		return v
	}
	return math.NaN()
}

func (a *querier) query(q Question) (err error) {
	s := &a.settings
	query := strings.NewReplacer("$window", model.Duration(s.Window).String(), "$step", model.Duration(s.step()).String(), "$grain", model.Duration(s.grain()).String()).Replace(q.PromQL)
	var v model.Value
	if q.Range {
		step := s.step()
		if q.ID == "prompts_per_hour" {
			step = time.Hour
		}
		end := s.End.Truncate(step)
		v, _, err = a.store.QueryRange(a.ctx, query, v1.Range{Start: end.Add(-s.Window).Add(step), End: end, Step: step})
	} else {
		v, _, err = a.store.Query(a.ctx, query, s.End)
	}
	if err != nil {
		return fmt.Errorf("query %s: %w", query, err)
	}
	a.answers[q.ID] = v
	return nil
}

// vector is the answer to an instant question.
func (a *querier) vector(id string) model.Vector {
	v, _ := a.answers[id].(model.Vector)
	return v
}

func (a *querier) matrix(id string) model.Matrix {
	m, _ := a.answers[id].(model.Matrix)
	return m
}

func (a *querier) number(id string) float64 {
	if v := a.vector(id); len(v) > 0 {
		n, _ := a.finite(v[0].Value)
		return n
	}
	return 0
}

// by is the answer to an instant question by the value of a label, without what is not
// a number: the mean of nothing is one in PromQL.
func (a *querier) by(id, label string) map[string]float64 {
	all := map[string]float64{}
	for _, s := range a.vector(id) {
		if v := float64(s.Value); !math.IsNaN(v) && !math.IsInf(v, 0) {
			all[string(s.Metric[model.LabelName(label)])] = v
		}
	}
	return all
}

func (r *Report) outcomes(a *querier) {
	for _, s := range a.vector("outcomes") {
		name := string(s.Metric["comfyui_prompt_outcome"])
		if kind := string(s.Metric["error_type"]); kind != "" {
			name += " (" + strings.ReplaceAll(kind, "_", " ") + ")"
		}
		count, ok := a.finite(s.Value)
		if ok && count > 0 {
			r.Outcomes = append(r.Outcomes, Outcome{name, count})
		}
		if ok && name == "success" {
			r.Images = count
		}
	}
	slices.SortFunc(r.Outcomes, func(a, b Outcome) int { return int(math.Copysign(1, b.Count-a.Count)) })
}

func (r *Report) classes(a *querier) {
	need, memory := a.by("class_need", "comfyui_task_class"), a.by("class_memory", "comfyui_task_class")
	r.ClassMemory = MemoryHeld
	if len(need) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(memory)), func(class string) bool { _, ok := need[class]; return !ok }) {
		memory, r.ClassMemory = need, MemoryNeeded
	}
	energy, time, wait, p95 := a.by("class_energy", "comfyui_task_class"),
		a.by("class_card_time", "comfyui_task_class"), a.by("class_wait", "comfyui_task_class"), a.by("class_p95", "comfyui_task_class")
	for name, count := range a.by("class_count", "comfyui_task_class") {
		if count > 0 {
			r.Classes = append(r.Classes, Class{Name: name, Count: count, Memory: orNaN(memory, name), Energy: orNaN(energy, name), GPUTime: orNaN(time, name), Wait: orNaN(wait, name), P95: orNaN(p95, name)})
		}
	}
	// The smallest first: the others are compared with it.
	slices.SortFunc(r.Classes, func(a, b Class) int {
		return cmp.Or(unknownLast(a.Memory, b.Memory), cmp.Compare(a.Memory, b.Memory), cmp.Compare(a.Name, b.Name))
	})
	for i := range r.Classes {
		c, first := &r.Classes[i], &r.Classes[0]
		c.MemoryAgainst = c.Memory / first.Memory
	}
}

// unknownLast orders what is not a number behind what is.
func unknownLast(a, b float64) int {
	switch {
	case math.IsNaN(a) && !math.IsNaN(b):
		return 1
	case math.IsNaN(b) && !math.IsNaN(a):
		return -1
	}
	return 0
}

// hours computes the average number of images in each hour of the day. A point counts
// the hour before it.
func (r *Report) hours(a *querier) {
	days := [24]map[string]bool{}
	for i := range days {
		days[i] = map[string]bool{}
	}
	sums := map[string]*[24]float64{}
	for _, series := range a.matrix("prompts_per_hour") {
		class := string(series.Metric["comfyui_task_class"])
		if sums[class] == nil {
			sums[class] = &[24]float64{}
		}
		for _, p := range series.Values {
			count, ok := a.finite(p.Value)
			if !ok {
				continue
			}
			begin := p.Timestamp.Time().Add(-time.Hour).In(r.Zone)
			hour := begin.Hour()
			sums[class][hour] += count
			days[hour][begin.Format(time.DateOnly)] = true
		}
	}
	for class, all := range sums {
		for hour := range all {
			mean := all[hour] / float64(max(len(days[hour]), 1))
			r.Hours[hour] += mean
			for i := range r.Classes {
				if r.Classes[i].Name == class {
					r.Classes[i].Hours[hour] = mean
				}
			}
		}
	}
	for hour, n := range r.Hours {
		if n > 0 && (r.PeakHour < 0 || n > r.Hours[r.PeakHour]) {
			r.PeakHour = hour
		}
	}
}

func (r *Report) gpus(a *querier) {
	type key struct{ id, instance string }
	all := map[key]*GPU{}
	for id, put := range map[string]func(*GPU, float64){
		"card_utilization": func(c *GPU, v float64) { c.Utilization = v },
		"card_idle":        func(c *GPU, v float64) { c.Idle = v },
		"card_energy":      func(c *GPU, v float64) { c.Energy = v },
		"card_memory":      func(c *GPU, v float64) { c.Memory = v },
		"card_limit":       func(c *GPU, v float64) { c.Limit = v },
	} {
		for _, s := range a.vector(id) {
			k := key{string(s.Metric["hw_id"]), string(s.Metric["instance"])}
			c := all[k]
			if c == nil {
				unknown := math.NaN()
				c = &GPU{
					ID: k.id, Instance: k.instance, Name: string(s.Metric["hw_name"]),
					Utilization: unknown, Idle: unknown, Energy: unknown, Memory: unknown, Limit: unknown,
				}
				all[k] = c
			}
			v, _ := a.finite(s.Value)
			put(c, v)
		}
	}
	for _, c := range all {
		r.GPUs = append(r.GPUs, *c)
	}
	slices.SortFunc(r.GPUs, func(a, b GPU) int {
		return strings.Compare(fmt.Sprintf("%s %6s %s", a.Instance, a.Name, a.ID), fmt.Sprintf("%s %6s %s", b.Instance, b.Name, b.ID))
	})
}

// IdleGPUs are the GPUs that were idle nearly all the time.
func (r *Report) IdleGPUs() (idle []GPU) {
	for _, c := range r.GPUs {
		if c.Idle >= IdleGPU {
			idle = append(idle, c)
		}
	}
	return idle
}

func (r *Report) models(a *querier) {
	mean, p95 := a.by("model_mean", "comfyui_model"), a.by("model_p95", "comfyui_model")
	for name, count := range a.by("model_count", "comfyui_model") {
		if count > 0 {
			r.Models = append(r.Models, Model{name, count, orNaN(mean, name), orNaN(p95, name)})
		}
	}
	slices.SortFunc(r.Models, func(a, b Model) int {
		return cmp.Or(unknownLast(a.Mean, b.Mean), cmp.Compare(a.Mean, b.Mean), cmp.Compare(a.Name, b.Name))
	})
}

// pairs joins concurrency and utilisation by time.
func (r *Report) pairs(a *querier) {
	at := map[model.Time]float64{}
	for _, s := range a.matrix("concurrency") {
		for _, p := range s.Values {
			if v, ok := a.finite(p.Value); ok {
				at[p.Timestamp] = v
			}
		}
	}
	for _, s := range a.matrix("utilization") {
		for _, p := range s.Values {
			v, ok := a.finite(p.Value)
			if n, known := at[p.Timestamp]; ok && known {
				r.Concurrency = append(r.Concurrency, n)
				r.Utilization = append(r.Utilization, v)
			}
		}
	}
	if len(r.Concurrency) > 2 {
		r.Correlation = stat.Correlation(r.Concurrency, r.Utilization, nil)
	}
}

func (r *Report) costs(a *querier) {
	n := 0.0
	for _, c := range r.Classes {
		n += c.Count
	}
	if n == 0 {
		return
	}
	const joulesPerKWh = 3.6e6
	r.Joules, r.GPUSeconds = a.number("joules")/n, a.number("card_seconds")/n
	r.Cost = r.Joules/joulesPerKWh*r.PriceKWh + r.GPUSeconds/3600*r.PriceGPUHour
	all := float64(len(r.GPUs)) * r.Window.Hours() * r.PriceGPUHour
	for _, c := range r.GPUs {
		if !math.IsNaN(c.Energy) {
			all += c.Energy / joulesPerKWh * r.PriceKWh
		}
	}
	r.FullCost = all / n
}

// Check reports mistakes in the settings.
func (s *Settings) Check() error {
	var errs []error
	if s.Window < time.Hour {
		errs = append(errs, fmt.Errorf("-window: %v is shorter than an hour; use 24h, 7d or 30d", s.Window))
	}
	if s.PriceKWh < 0 || s.PriceGPUHour < 0 {
		errs = append(errs, errors.New("-price-kwh and -price-card-hour must not be negative"))
	}
	return errors.Join(errs...)
}
