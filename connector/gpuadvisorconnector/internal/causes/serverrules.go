// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"cmp"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
)

// downRule finds servers that do not respond.
type downRule struct{}

func (downRule) find(f *facts, report func(finding)) {
	for _, s := range f.servers {
		if isUp, known := s.IsUp(f.now); known && !isUp {
			report(finding{server: s.Name})
		}
	}
}

// queueRule finds queues whose oldest prompt waits for long, and ever longer.
type queueRule struct {
	wait   float64
	window time.Duration
}

func (r queueRule) find(f *facts, report func(finding)) {
	for _, s := range f.servers {
		oldest := s.Series(machine.OldestWait, "", f.now)
		if oldest == nil || oldest.Value() <= r.wait || slope(oldest, r.window, f.now) <= 0 {
			continue
		}
		waiting, _ := s.Value(machine.QueueLength, "pending", f.now)
		report(finding{server: s.Name, args: texts.Args{"wait": duration(oldest.Value()), "waiting": count("prompts", int(waiting))}})
	}
}

// slope is by how much a series rises a second, by linear regression; 0 with fewer than three
// points.
func slope(s *machine.Series, window time.Duration, now time.Time) float64 {
	var n, sumX, sumY, sumXX, sumXY float64
	for age, y := range s.Within(window, now) {
		x := -age
		n, sumX, sumY, sumXX, sumXY = n+1, sumX+x, sumY+y, sumXX+x*x, sumXY+x*y
	}
	if d := n*sumXX - sumX*sumX; n >= 3 && d > 0 {
		return (n*sumXY - sumX*sumY) / d
	}
	return 0
}

// stalledRule finds prompts that do not progress while others wait: for so many times the
// mean execution of their class in the last day, or at all where there was none.
type stalledRule struct {
	times          float64
	memory, window time.Duration
}

func (r stalledRule) find(f *facts, report func(finding)) {
	for _, s := range f.servers {
		if waiting, _ := s.Value(machine.QueueLength, "pending", f.now); waiting == 0 {
			continue
		}
		for class, age := range s.Each(machine.ProgressAge, f.now) {
			if r.isStalled(f, s, class, age) {
				report(finding{server: s.Name, detail: class, args: texts.Args{"class": cmp.Or(class, "–"), "age": duration(age.Value())}})
			}
		}
	}
}

func (r stalledRule) isStalled(f *facts, s *machine.Server, class string, age *machine.Series) bool {
	total, executions := s.Series(machine.ExecutionSeconds, class, f.now), s.Series(machine.Executions, class, f.now)
	if total != nil && executions != nil {
		sum, _ := total.Increase(r.memory, f.now)
		if n, _ := executions.Increase(r.memory, f.now); n > 0 {
			return age.Value() > r.times*sum/n
		}
	}
	if age.Value() <= 0 {
		return false
	}
	before := 0.0
	for _, v := range age.Within(r.window, f.now) {
		if v < before {
			return false // it progressed
		}
		before = v
	}
	return true
}

// errorRule finds servers of whose prompts a share fails. What clients cancelled, or the
// server rejected, does not count.
type errorRule struct {
	share  float64
	least  int
	window time.Duration
}

func (r errorRule) find(f *facts, report func(finding)) {
	for i := range f.prompts {
		s := &f.prompts[i]
		bad := s.count(f.now, r.window, func(p *Prompt) bool { return p.Outcome == failed || p.Outcome == lost })
		all := bad + s.count(f.now, r.window, func(p *Prompt) bool { return p.Outcome == success })
		if all >= r.least && float64(bad)/float64(all) > r.share {
			report(finding{server: s.server, args: texts.Args{"failed": bad, "prompts": count("prompts", all), "minutes": minutes(r.window)}})
		}
	}
}

// latencyRule finds servers whose prompts take longer than the objective: a share of them in
// both windows.
type latencyRule struct {
	objective   float64 // s
	share       float64
	least       int
	short, long time.Duration
}

func (r latencyRule) find(f *facts, report func(finding)) {
	for i := range f.prompts {
		s := &f.prompts[i]
		isSuccess := func(p *Prompt) bool { return p.Outcome == success }
		isSlow := func(p *Prompt) bool { return p.Outcome == success && p.Total.Seconds() > r.objective }
		all, slow := s.count(f.now, r.long, isSuccess), s.count(f.now, r.long, isSlow)
		lately, slowLately := s.count(f.now, r.short, isSuccess), s.count(f.now, r.short, isSlow)
		if all < r.least || lately == 0 {
			continue
		}
		if share := float64(slow) / float64(all); share > r.share && float64(slowLately)/float64(lately) > r.share {
			report(finding{server: s.server, args: texts.Args{"percent": percent(share), "seconds": int(r.objective)}})
		}
	}
}

// loadingRule finds servers that spend a share of their executions on loading models.
type loadingRule struct {
	share  float64
	window time.Duration
}

func (r loadingRule) find(f *facts, report func(finding)) {
	for i := range f.prompts {
		s := &f.prompts[i]
		var ran, loading time.Duration
		for j := range s.all {
			if p := &s.all[j]; f.now.Sub(p.Ended) <= r.window {
				ran, loading = ran+p.Ran, loading+p.Loading
			}
		}
		if ran > 0 && loading.Seconds()/ran.Seconds() > r.share {
			report(finding{server: s.server, args: texts.Args{"percent": percent(loading.Seconds() / ran.Seconds()), "minutes": minutes(r.window)}})
		}
	}
}
