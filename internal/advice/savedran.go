// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"maps"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// savedRan is the last execution of a kind and size on a server.
type savedRan struct {
	Kind   Kind     `json:"kind"`
	Size   fit.Size `json:"size"`
	At     float64  `json:"at"`
	Enough int64    `json:"enough,omitempty"`
}

// saveRan returns what servers executed within the last hour before a time, with what was loaded of
// servers that have not come yet.
func (e *Engine) saveRan(now time.Time) map[string][]savedRan {
	all := make(map[string][]savedRan, len(e.servers)+len(e.ranBefore))
	save := func(name string, executed []ran) {
		var saved []savedRan
		for i := range executed {
			if r := &executed[i]; now.Sub(r.at) <= ranFor {
				saved = append(saved, savedRan{r.Kind, r.Size, unix(r.at), r.enough})
			}
		}
		if len(saved) > 0 {
			all[name] = saved
		}
	}
	for name, executed := range e.ranBefore {
		save(name, executed)
	}
	for name, s := range e.servers {
		save(name, s.ran)
	}
	return all
}

// loadRan gives servers what they executed within the last hour before this process, or keeps it until
// they come. What makes no sense is left out.
func (e *Engine) loadRan(saved map[string][]savedRan, now time.Time) {
	for name, all := range saved {
		var executed []ran
		for i := range all {
			r := &all[i]
			if at := fromUnix(r.At); now.Sub(at) <= ranFor && !at.After(now) && isSize(r.Size) && (r.Enough == 0 || isCost(float64(r.Enough))) {
				executed = append(executed, ran{probeKey{r.Kind, r.Size}, at, r.Enough})
			}
		}
		slices.SortStableFunc(executed, func(a, b ran) int { return a.at.Compare(b.at) })
		executed = slices.Clone(executed[max(len(executed)-maxRan, 0):])
		switch s := e.servers[name]; {
		case len(executed) == 0:
		case s != nil: // it came before the storage could be read
			s.ran = append(without(executed, s.ran), s.ran...)
			s.ran = slices.Clone(s.ran[max(len(s.ran)-maxRan, 0):])
		case len(e.ranBefore) < e.settings.Servers:
			e.ranBefore[name] = executed
		}
	}
}

// without returns those of kinds and sizes that are not among newer ones.
func without(executed, newer []ran) []ran {
	return slices.DeleteFunc(executed, func(r ran) bool {
		return slices.ContainsFunc(newer, func(o ran) bool { return o.probeKey == r.probeKey })
	})
}

// ranOf is what a server that has come executed before this process.
func (e *Engine) ranOf(name string) []ran {
	executed := e.ranBefore[name]
	delete(e.ranBefore, name)
	return executed
}

// expireRan forgets what was loaded of servers that do not come.
func (e *Engine) expireRan(now time.Time) {
	maps.DeleteFunc(e.ranBefore, func(_ string, executed []ran) bool {
		return now.Sub(executed[len(executed)-1].at) > ranFor
	})
}

// isSize reports whether a size can be a prompt's.
func isSize(s fit.Size) bool {
	const most = 1e12
	return s.Pixels >= 1 && s.Pixels <= most && s.Batch >= 1 && s.Batch <= most && s.Steps >= 1 && s.Steps <= most
}
