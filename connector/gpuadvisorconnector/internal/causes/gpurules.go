// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"slices"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
)

// stateRule finds a flag that is set: a series whose value is 1.
type stateRule struct {
	of  machine.Quantity
	key string
}

func (r stateRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		if v, ok := g.Value(r.of, r.key, f.now); ok && v == 1 {
			report(finding{gpu: g})
		}
	}
}

// lostRule finds GPUs that the driver no longer reaches, with the XID that says why.
type lostRule struct{}

func (lostRule) find(f *facts, report func(finding)) {
	stateRule{machine.State, machine.Lost}.find(f, func(found finding) {
		critical := xidRule{tiers: []xid.Tier{xid.Reset, xid.Reboot}, least: 1}
		if n, _, ok := critical.newest(f, found.gpu); ok {
			found.args = texts.Args{"xid": n, "xid_name": f.machine.XID(n).Name}
			found.text.Key = "cause.gpu.lost.xid"
		}
		report(found)
	})
}

// stoppedRule finds GPUs whose samples have stopped.
type stoppedRule struct{}

func (stoppedRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		if g.HasStopped(f.now) {
			report(finding{gpu: g, args: texts.Args{"age": since(g.Newest(), f.now)}, since: g.Newest()})
		}
	}
}

// noGPURule finds that there is no GPU at all.
type noGPURule struct{}

func (noGPURule) find(f *facts, report func(finding)) {
	if len(f.gpus) == 0 {
		report(finding{})
	}
}

// shownDigit is the memory that changes a figure which is shown, in bytes: a tenth of a GiB.
const shownDigit = 1 << 30 / 20

// memoryRule finds full GPUs: memory in use, less what ComfyUI would evict, as a share of
// the GPU's memory.
type memoryRule struct{ share float64 }

func (r memoryRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		used, sampled := g.Value(machine.MemoryUsed, "", f.now)
		limit, known := g.Value(machine.MemoryLimit, "", f.now)
		if !sampled || !known || limit <= 0 {
			continue
		}
		needed := used - f.machine.Elastic(g.ID, f.now)
		if needed/limit <= r.share {
			continue
		}
		found := finding{gpu: g, args: texts.Args{"percent": percent(needed / limit), "used": bytes(needed), "limit": bytes(limit)}}
		if evictable := used - needed; evictable >= shownDigit {
			found.args["elastic"] = bytes(evictable)
			found.text = texts.Message{Key: r.text()}
		}
		server, held := f.idleHolder(g)
		switch other, ok := f.foreign(g); {
		case ok && float64(other.Memory) > held:
			found.remedy = stopRemedy(&other)
		case server != "":
			found.remedy = texts.Message{Key: "cause.gpu.memory.remedy.idle", Args: texts.Args{"server": server, "held": bytes(held)}}
		}
		report(found)
	}
}

// text is the text where ComfyUI would evict some of what is in use.
func (r memoryRule) text() string {
	if r.share > 0.9 {
		return "cause.gpu.memory.critical.elastic"
	}
	return "cause.gpu.memory.high.elastic"
}

// xidRule finds XIDs of the last hour: of some tiers from least on, and of another from
// orLeast of one kind on.
type xidRule struct {
	tiers []xid.Tier
	least float64
	// untilRecovered: as long as the driver asks for a recovery, older ones count, too.
	untilRecovered bool
	orTier         xid.Tier
	orLeast        float64
}

func (r xidRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		n, rose, ok := r.newest(f, g)
		if !ok {
			continue
		}
		entry := f.machine.XID(n)
		report(finding{
			gpu: g, since: rose, args: texts.Args{"xid": n, "xid_name": entry.Name},
			remedy: texts.Message{Key: "xid.remedy." + string(entry.Tier)},
		})
	}
}

// newest is the XID that came last of those that count, and when. XIDs come as counters of
// scrapes and as log records: what either knows counts.
func (r xidRule) newest(f *facts, g *machine.GPU) (n uint64, rose time.Time, ok bool) {
	needsRecovery := r.untilRecovered && recoveryOf(f, g) != ""
	for _, of := range [...]machine.Quantity{machine.XIDErrors, machine.XIDRecords} {
		for key, s := range g.Each(of, f.now) {
			number, valid := xidNumber(key)
			if !valid {
				continue
			}
			rise, _ := s.Increase(eventWindow, f.now)
			if !r.counts(f.machine.XID(number).Tier, rise) && (!needsRecovery || !r.counts(f.machine.XID(number).Tier, s.Value())) {
				continue
			}
			if when, _ := s.Rose(); !ok || when.After(rose) || when.Equal(rose) && number < n {
				n, rose, ok = number, when, true
			}
		}
	}
	return n, rose, ok
}

// counts reports whether so many XIDs of a tier are worth a condition.
func (r xidRule) counts(tier xid.Tier, n float64) bool {
	return slices.Contains(r.tiers, tier) && n >= r.least || r.orLeast > 0 && tier == r.orTier && n >= r.orLeast
}

func xidNumber(key string) (n uint64, ok bool) {
	for _, digit := range key {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		n = 10*n + uint64(digit-'0')
	}
	return n, key != "" && len(key) < 10
}

// eccRule finds memory errors that ECC could not correct.
type eccRule struct{}

func (eccRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		if n, _ := g.Sum(machine.ECCUncorrected, f.now); n > 0 {
			report(finding{gpu: g, args: texts.Args{"errors": count("errors", int(n))}})
		}
	}
}

// recoveryRule finds GPUs for which the driver asks for an action.
type recoveryRule struct{}

func (recoveryRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		if action := recoveryOf(f, g); action != "" {
			report(finding{gpu: g, args: texts.Args{"action": action}})
		}
	}
}

// recoveryOf is the action that the driver asks for; empty if it asks for none.
func recoveryOf(f *facts, g *machine.GPU) (action string) {
	for key, s := range g.Each(machine.RecoveryAction, f.now) {
		if key != "none" && s.Value() == 1 && (action == "" || key < action) {
			action = key
		}
	}
	return action
}

// pagesRule finds retired pages: those that wait for a reboot, or so many in all.
type pagesRule struct{ least float64 }

func (r pagesRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		pending, _ := g.Value(machine.PagesPending, "", f.now)
		retired, _ := g.Sum(machine.PagesRetired, f.now)
		switch {
		case retired >= r.least:
			report(finding{gpu: g, args: texts.Args{"pages": count("pages", int(retired))}})
		case pending == 1:
			report(finding{gpu: g, text: texts.Message{Key: "cause.gpu.pages.pending"}, remedy: texts.Message{Key: "cause.gpu.pages.pending.remedy"}})
		}
	}
}

// throttleRule finds clocks that are held down for one of its reasons.
type throttleRule struct {
	reasons []string
	window  time.Duration
	share   float64
}

func (r throttleRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		most := 0.0
		for _, reason := range r.reasons {
			if s := g.Series(machine.ThrottleTime, reason, f.now); s != nil {
				share, _ := s.Rate(r.window, f.now)
				most = max(most, share)
			}
		}
		if most > r.share {
			report(finding{gpu: g, args: texts.Args{"percent": percent(min(most, 1)), "minutes": minutes(r.window)}})
		}
	}
}

// temperatureRule finds GPUs that are close to the temperature at which they slow down.
type temperatureRule struct{ margin float64 }

func (r temperatureRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		value, _ := g.Value(machine.Temperature, "", f.now)
		margin, known := g.Value(machine.TemperatureMargin, "", f.now)
		if limit, ok := g.Value(machine.TemperatureLimit, "", f.now); ok {
			if _, sampled := g.Value(machine.Temperature, "", f.now); sampled && (!known || limit-value < margin) {
				margin, known = limit-value, true
			}
		}
		if known && margin < r.margin {
			report(finding{gpu: g, args: texts.Args{"temperature": int(value), "limit": int(value + margin)}})
		}
	}
}

// idleRule finds GPUs that hold memory, or are allocated to a container, and do nothing.
type idleRule struct {
	memory float64
	window time.Duration
	busy   float64
}

func (r idleRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		used, _ := g.Value(machine.MemoryUsed, "", f.now)
		allocated, _ := g.Sum(machine.Allocated, f.now)
		if used <= r.memory && allocated == 0 {
			continue
		}
		busy, known := 0.0, false
		for _, s := range g.Each(machine.ActiveTime, f.now) {
			if share, ok := s.Rate(r.window, f.now); ok {
				busy, known = max(busy, share), true
			}
		}
		if known && busy < r.busy {
			report(finding{gpu: g, args: texts.Args{"used": bytes(used)}})
		}
	}
}

// replayRule finds PCIe links that retransmit.
type replayRule struct {
	perMinute float64
	window    time.Duration
}

func (r replayRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		if s := g.Series(machine.PCIeReplays, "", f.now); s != nil {
			if rate, _ := s.Rate(r.window, f.now); 60*rate > r.perMinute {
				report(finding{gpu: g, args: texts.Args{"rate": int(60 * rate)}})
			}
		}
	}
}

// pcieRule finds PCIe links that are narrower than they could be, or under load slower.
type pcieRule struct {
	load   float64
	window time.Duration
}

func (r pcieRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		width, known := g.Value(machine.PCIeWidth, "current", f.now)
		maxWidth, knownMax := g.Value(machine.PCIeWidth, "max", f.now)
		if known && knownMax && width < maxWidth {
			report(finding{gpu: g, args: texts.Args{"now": int(width), "could": int(maxWidth)}, text: texts.Message{Key: "cause.gpu.pcie.degraded.width"}})
			continue
		}
		generation := g.Series(machine.PCIeGeneration, "current", f.now)
		load := g.Series(machine.UtilizationMean, "", f.now)
		could, knownMax := g.Value(machine.PCIeGeneration, "max", f.now)
		if generation == nil || load == nil || !knownMax {
			continue
		}
		fastest := 0.0
		for _, v := range generation.Within(r.window, f.now) {
			fastest = max(fastest, v)
		}
		sum, n := 0.0, 0.0
		for _, v := range load.Within(r.window, f.now) {
			sum, n = sum+v, n+1
		}
		if n > 0 && fastest < could && sum/n > r.load {
			report(finding{gpu: g, args: texts.Args{"now": int(fastest), "could": int(could)}})
		}
	}
}

// nvlinkDownRule finds links that were up within the last day and are down.
type nvlinkDownRule struct{}

func (nvlinkDownRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		for link, s := range g.Each(machine.NVLinkState, f.now) {
			if s.Value() == 0 && g.Series(machine.NVLinkUp, link, f.now) != nil {
				report(finding{gpu: g, detail: link, args: texts.Args{"link": link}})
			}
		}
	}
}

// nvlinkErrorRule finds links with many errors, all kinds together.
type nvlinkErrorRule struct {
	perMinute float64
	window    time.Duration
}

func (r nvlinkErrorRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		byLink := map[string]float64{}
		for key, s := range g.Each(machine.NVLinkErrors, f.now) {
			link, _, _ := strings.Cut(key, "|")
			rate, _ := s.Rate(r.window, f.now)
			byLink[link] += 60 * rate
		}
		for link, rate := range byLink {
			if rate > r.perMinute {
				report(finding{gpu: g, detail: link, args: texts.Args{"link": link, "rate": int(rate)}})
			}
		}
	}
}
