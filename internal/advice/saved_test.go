// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// restarted is a new engine for the same servers, which loads what the former one saved.
func (w *world) restarted() *world {
	w.t.Helper()
	changed, all := w.Unsaved()
	rest := w.SaveRest(w.now)
	assert.Len(w.t, all, len(changed), "each kind was saved for the first time")
	again, _ := w.Unsaved()
	assert.Empty(w.t, again, "nothing was learned meanwhile")
	next := *w
	next.Engine = New(w.settings)
	for _, s := range changed {
		of, err := next.LoadKind(s.Data, w.now)
		require.NoError(w.t, err)
		assert.Equal(w.t, s.Kind, of)
	}
	require.NoError(w.t, next.LoadRest(rest, w.now))
	next.sampled()
	return &next
}

func TestWhatWasLearnedOutlivesTheProcess(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.kindOfAll("a").loaded(3)
	w.Engine.servers["a"].gpu.probed(w.kindOf(w.Engine.servers["a"], "colour", "ddcolor"), sizeOf(2048, 1, 0), &Execution{OutOfMemory: true, Ended: w.now, Reserved: 6 * gib}, 0)
	w.calibrationOf("people").add(prediction{w.now.Add(-time.Second), 2, 0.5, 1, 3, missAbove}, w.now)
	w.rested()
	w.queued("a", "people", 512)
	before := w.ask("a", "people", 512)
	require.Equal(t, admission.Fits, before.Reason)

	next := w.restarted()
	after := next.ask("a", "people", 512)
	assert.Equal(t, before.Reason, after.Reason)
	assert.Equal(t, before.Executions, after.Executions)
	assert.InDelta(t, before.Memory.Need, after.Memory.Need, 1, "the bound is the same")
	assert.InDelta(t, (before.Completion - before.Wait).Seconds(), (after.Completion - after.Wait).Seconds(), 0.05)
	assert.InDelta(t, w.kindOfAll("a").usual, next.kindOfAll("a").usual, 1e-9)
	assert.Equal(t, w.Engine.classes["people"].off, next.Engine.classes["people"].off)
	probe := next.Engine.gpus[theGPU].probes[probeKey{w.kindOf(w.Engine.servers["a"], "colour", "ddcolor"), sizeOf(2048, 1, 0)}]
	require.NotNil(t, probe, "what ran out of memory does so again")
	assert.Equal(t, 1, probe.failures)
}

func TestSavedSamplesExpire(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	changed, _ := w.Unsaved()
	rest := w.SaveRest(w.now)
	next := New(w.settings)
	for _, s := range changed {
		_, err := next.LoadKind(s.Data, w.now.Add(8*24*time.Hour))
		require.NoError(t, err)
	}
	require.NoError(t, next.LoadRest(rest, w.now.Add(8*24*time.Hour)))
	assert.Zero(t, next.kinds.Bounds()[0].Size, "they are a week old")
	assert.Empty(t, next.gpus, "the GPU was not there for a week")

	w.expireSamples(w.now.Add(6 * 24 * time.Hour))
	assert.True(t, w.kindOfAll("a").time.learned())
	w.expireSamples(w.now.Add(8 * 24 * time.Hour))
	assert.False(t, w.kindOfAll("a").time.learned(), "in a process that goes on, too")
	assert.Empty(t, w.kindOfAll("a").memory.least)
}

func TestDamagedSavedDataIsAnError(t *testing.T) {
	e := New(DefaultSettings())
	for _, raw := range []string{"", "{", `{"version":2}`, `[]`} {
		_, err := e.LoadKind([]byte(raw), time.Unix(1_800_000_000, 0))
		require.ErrorIs(t, err, ErrSaved, raw)
		require.ErrorIs(t, e.LoadRest([]byte(raw), time.Unix(1_800_000_000, 0)), ErrSaved, raw)
	}
}

func FuzzSavedData(f *testing.F) {
	w := newWorld(&testing.T{}, "a")
	f.Add([]byte(`{"version":1,"kind":{"Workflow":"w"},"time":[[262144,1,1,2,1800000000]],"memory":[[1,1,1,1e300,1800000000]],"loading":[-1,0,2]}`))
	f.Add([]byte(`{"version":1,"gpus":{"GPU-1":{"seen":1800000000,"Count":3,"Mean":2,"Variance":1,"probes":[{"failures":1,"last":1800000000}]}},"classes":{"people":{"off":[1],"below":2,"above":2}}}`))
	f.Add([]byte(`{"version":1,"ran":{"a":[{"kind":{"Workflow":"w"},"size":{"Pixels":262144,"Batch":1,"Steps":1},"at":1800000000,"enough":4294967296},{"at":1e300,"enough":-1}],"b":null}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := New(w.settings)
		_, _ = e.LoadKind(raw, w.now)
		_ = e.LoadRest(raw, w.now)
		for of := range e.kinds.All() { // what was loaded predicts, and can be saved
			k := e.kinds.Find(of)
			size := fit.Size{Pixels: 512 * 512, Batch: 1, Steps: 1}
			if k.time.knows(size) {
				assert.GreaterOrEqual(t, k.time.model.Predict(size), 0.0)
			}
			assert.GreaterOrEqual(t, e.bound(k, size), 0.0)
			k.changed = true
		}
		changed, _ := e.Unsaved()
		for _, s := range changed {
			_, err := New(w.settings).LoadKind(s.Data, w.now)
			require.NoError(t, err)
		}
		require.NoError(t, New(w.settings).LoadRest(e.SaveRest(w.now), w.now))
		for _, b := range e.Bounds() {
			assert.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
	})
}

// TestMeasurementsCountUntilExecutionsWereSeen begins with two measured sizes.
func TestMeasurementsCountUntilExecutionsWereSeen(t *testing.T) {
	s := DefaultSettings()
	s.Measured = []Measured{
		{Model: "ddcolor", Side: 512, Time: 4 * time.Second, Memory: 2 * gib},
		{Model: "ddcolor", Side: 1024, Time: 20 * time.Second, Memory: 30 * gib},
		{Model: "another", Side: 512, Time: time.Minute},
	}
	w := newWorld(t, "a")
	w.Engine = New(s)
	w.sampled()
	d := w.ask("a", "people", 512)
	assert.InDelta(t, 4, d.Completion.Seconds(), 1)
	assert.InDelta(t, 2*gib+cuda, d.Memory.Need, 0.2*float64(gib))
	assert.Equal(t, admission.Probe, w.ask("a", "people", 1024).Reason, "24 GiB are not 30, but a measurement elsewhere proves nothing")
	assert.Zero(t, w.ask("a", "people", 2048).Completion, "far beyond what was measured")

	w.learned("a", 20) // executions of 512 take half the time
	d = w.ask("a", "people", 512)
	assert.InDelta(t, 2, d.Completion.Seconds(), 0.3, "what was seen counts")
	assert.InDelta(t, 20, w.ask("a", "people", 1024).Completion.Seconds(), 2, "no execution of 1024 was seen")
	assert.Equal(t, 20, d.Executions, "measurements are none")
}

func TestAPromptOfAnUnknownKindIsJudgedByTheQueue(t *testing.T) {
	w := newWorld(t, "a")
	unknown := admission.Request{Server: "a", Class: "people", Workflow: "forged", Model: "none", Side: 512, Batch: 1}
	w.learned("a", 20) // 2 s each
	w.rested()
	d := w.Advise(&unknown, w.now)
	assert.Equal(t, admission.Admit, d.Verdict)
	assert.Equal(t, admission.Unknown, d.Reason)
	for range 17 {
		w.queued("a", "people", 512)
	}
	d = w.Advise(&unknown, w.now)
	assert.Equal(t, admission.Reject, d.Verdict, "it would begin after its deadline")
	assert.Equal(t, admission.Late, d.Reason)
	assert.Positive(t, d.RetryAfter)
	assert.InDelta(t, 34, d.Wait.Seconds(), 4)
	assert.Zero(t, d.Completion)
}

func TestASizeFarBeyondThoseSeenIsUnknown(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	for name, r := range map[string]admission.Request{
		"pixels": {Side: 1024, Batch: 1}, "batch": {Side: 512, Batch: 4}, "steps": {Side: 512, Batch: 1, Steps: 30},
	} {
		r.Server, r.Class, r.Workflow, r.Model = "a", "people", "colour", "ddcolor"
		d := w.Advise(&r, w.now)
		assert.Zero(t, d.Executions, name)
		assert.Zero(t, d.Completion, name)
	}
}

func TestAnAdvisorThatRebuildsAdmits(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	w.servers["a"].Unread = true
	for range 30 {
		w.queued("a", "people", 512)
	}
	w.seen(w.servers["a"])
	d := w.ask("a", "people", 512)
	assert.Equal(t, admission.Admit, d.Verdict)
	assert.Equal(t, admission.Starting, d.Reason)
	w.servers["a"].Unread = false
	w.seen(w.servers["a"])
	assert.Equal(t, admission.Late, w.ask("a", "people", 512).Reason)
}

// TestSavingCostsWhatChanged has one kind of many change.
func TestSavingCostsWhatChanged(t *testing.T) {
	w := newWorld(t, "a")
	for i := range 50 {
		of := w.kindOf(w.Engine.servers["a"], fmt.Sprint("workflow ", i), "ddcolor")
		w.findOrAdd(of).time.add(sizeOf(512, 1, 0), 1, w.now)
		w.findOrAdd(of).changed = true
	}
	changed, all := w.Unsaved()
	assert.Len(t, changed, 50)
	assert.Len(t, all, 50)
	w.findOrAdd(w.kindOf(w.Engine.servers["a"], "workflow 7", "ddcolor")).changed = true
	changed, _ = w.Unsaved()
	require.Len(t, changed, 1)
	assert.Equal(t, "workflow 7", changed[0].Kind.Workflow)
}
