// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/component"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/topic"
)

// OfProcess are the advisors of this process.
var OfProcess = sync.OnceValue(func() *Advisors { return &Advisors{} })

// Advisors are found by the ids of their components. The zero value is ready for use; its
// methods may be called from any goroutine.
type Advisors struct {
	// Changed publishes that prompts which are held may be admitted now. Subscribers are called
	// in the publisher's goroutine, and must not block.
	Changed topic.Topic[component.ID]

	mu sync.Mutex
	// all is guarded by mu, and replaced with each change.
	all map[component.ID]Advisor
}

// maxAdvisors bounds the advisors of a process; further ones are not found.
const maxAdvisors = 16

// Add lists an advisor until remove is called. A component that was reconfigured replaces its
// predecessor.
func (a *Advisors) Add(id component.ID, advisor Advisor) (remove func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := maps.Clone(a.all)
	if all == nil {
		all = map[component.ID]Advisor{}
	}
	if _, known := all[id]; known || len(all) < maxAdvisors {
		all[id] = advisor
	}
	a.all = all
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.all[id] == advisor {
			rest := maps.Clone(a.all)
			delete(rest, id)
			a.all = rest
		}
	}
}

// Find is the advisor of a component; nil if it does not run.
func (a *Advisors) Find(id component.ID) Advisor {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[id]
}

// IDs are the components that run.
func (a *Advisors) IDs() []component.ID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Keys(a.all), func(x, y component.ID) int { return strings.Compare(x.String(), y.String()) })
}

// Bounds implements [bounds.Registered].
func (a *Advisors) Bounds() []bounds.Bound {
	a.mu.Lock()
	defer a.mu.Unlock()
	return []bounds.Bound{{Name: "admission.Advisors.all", Max: maxAdvisors, Size: len(a.all)}}
}
