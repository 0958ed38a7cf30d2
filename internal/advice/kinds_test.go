// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// forged has a server run prompts of workflows with made-up ids, each so many times, while nobody asks for
// another one.
func (w *world) forged(ids, times int, cached bool) {
	s := w.servers["a"]
	for i := range ids {
		for n := range times {
			id, workflow := fmt.Sprint("forged ", i, " ", n), fmt.Sprint("forged ", i)
			s.Prompts = append(s.Prompts, comfyevents.OpenPrompt{ID: id, Workflow: workflow, Model: "ddcolor", TaskClass: "people", Side: 512, Batch: 1, Accepted: w.now, Started: w.now})
			w.seen(s)
			w.pass(10 * time.Millisecond)
			w.ended("a")
			x := Execution{ID: id, Server: "a", Workflow: workflow, Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: 10 * time.Millisecond, Succeeded: true}
			if x.Cached = cached; cached {
				x.CachedNodes = 3
			} else {
				x.Active, x.Reserved, x.Grew, x.Nodes = gib, gib, true, []Node{{"1", 10 * time.Millisecond}}
			}
			w.Executed(&x)
		}
	}
	w.sampled()
}

// TestMadeUpWorkflowsFlushNothingThatWasLearned: a workflow's id is its client's to choose.
func TestMadeUpWorkflowsFlushNothingThatWasLearned(t *testing.T) {
	for _, c := range []struct {
		learned, times int
		cached         bool
	}{{minExecutions, 1, true}, {minExecutions, 1, false}, {minExecutions, minExecutions - 1, false}, {manyExecutions, minExecutions, false}} {
		w := newWorld(t, "a")
		w.learned("a", c.learned)
		w.forged(2*MaxKinds, c.times, c.cached)
		d := w.ask("a", "people", 512)
		is(t, d, admission.Admit, admission.Fits, "%+v", c)
		assert.Equal(t, c.learned, d.Executions, "%+v", c)
		_, all := w.Unsaved()
		assert.True(t, all[w.kindOf(w.Engine.servers["a"], "colour", "ddcolor")], "its slot in the storage stays")
		assert.LessOrEqual(t, len(all), MaxKinds)
		if c.cached {
			assert.Len(t, all, 1, "nothing was learned of the others")
		}
		for _, b := range w.Bounds() {
			assert.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
	}
}

// TestANewKindIsLearnedWhereThereAreMany, too.
func TestANewKindIsLearnedWhereThereAreMany(t *testing.T) {
	w := newWorld(t, "a")
	w.settings.Kinds = 40
	w.kinds = newKinds(40)
	w.forged(60, manyExecutions+1, false)
	for range manyExecutions + 1 {
		w.run("a", 512, 2*time.Second, 4*gib)
		w.forged(4, 1, false) // these come in between, with ids that are known no longer
	}
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	_, all := w.Unsaved()
	assert.Len(t, all, 40)
	next := w.restartedAs(t)
	is(t, next.ask("a", "people", 512), admission.Admit, admission.Fits)
	next.forged(80, 1, false)
	is(t, next.ask("a", "people", 512), admission.Admit, admission.Fits, "what was loaded is protected, too")
}

// restartedAs is restarted, of which kinds may have been saved before.
func (w *world) restartedAs(t *testing.T) *world {
	t.Helper()
	for _, k := range w.kinds.All() {
		k.changed = true
	}
	return w.restarted()
}

// TestWhatIsKnownOfAPromptIsWhatIsKnownOfItsKind, though it is looked for only when kinds came: kinds come
// and are forgotten, and servers change theirs.
func TestWhatIsKnownOfAPromptIsWhatIsKnownOfItsKind(t *testing.T) {
	w := newWorld(t, "a")
	w.settings.Kinds = 8
	w.kinds = newKinds(8)
	random := rand.New(rand.NewPCG(3, 18))
	server := w.Engine.servers["a"]
	all := make([]*job, 12)
	for i := range all {
		all[i] = &job{kind: w.kindOf(server, fmt.Sprint(i), "m")}
	}
	added, forgotten := 0, 0
	for range 2000 {
		j := all[random.IntN(len(all))]
		if before := w.Engine.known(j); random.IntN(4) == 0 {
			w.findOrAdd(j.kind)
			if before == nil {
				added++
			}
		}
		o := all[random.IntN(len(all))]
		if o.found != nil && w.find(o.kind) == nil {
			forgotten++
		}
		assert.Same(t, w.find(o.kind), w.Engine.known(o))
	}
	assert.Greater(t, added, 100)
	assert.Greater(t, forgotten, 10)

	s := w.servers["a"]
	s.Prompts = append(s.Prompts, comfyevents.OpenPrompt{ID: "x", Workflow: "0", Model: "m", TaskClass: "people", Side: 512, Batch: 1, Accepted: w.now})
	w.seen(s)
	w.findOrAdd(w.kindOf(server, "0", "m"))
	j := server.byID["x"]
	assert.NotNil(t, w.Engine.known(j))
	s.Version = "another"
	w.seen(s)
	assert.Nil(t, w.Engine.known(j), "of its new version nothing is known")
}

// TestTheLargestOfTheLastTwentyIsKept, whatever was asked before.
func TestTheLargestOfTheLastTwentyIsKept(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 18))
	c := &costs{}
	now := time.Unix(1_700_000_000, 0)
	all := map[fit.Size][]sample{}
	for range 3000 {
		size := sizeOf(512+random.IntN(3), 1, 0)
		switch random.IntN(3) {
		case 0:
			cost := random.Float64()
			c.lower(size, cost, now)
			all[size] = append(all[size], sample{fit.Sample{Size: size, Cost: cost}, now})
		case 1:
			now = now.Add(time.Duration(random.IntN(3)) * time.Hour)
			c.expire(now)
			for of := range all {
				all[of] = slices.DeleteFunc(all[of], func(s sample) bool { return now.Sub(s.at) > maxSampleAge })
			}
		}
		last := all[size]
		most := 0.0
		for _, s := range last[max(len(last)-20, 0):] {
			most = max(most, s.Cost)
		}
		assert.InDelta(t, most, c.leastOf(size), 0)
	}
}
