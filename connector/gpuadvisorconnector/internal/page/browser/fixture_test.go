// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/prompts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/state"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
)

const gib = 1 << 30

// trouble is what is wrong in a scene.
type trouble string

const (
	fullGPU        trouble = "full"    // GPUs that are full, and hot ones where there are many
	rushHour       trouble = "rush"    // a full GPU, and a queue that grows
	lostGPU        trouble = "lost"    // the last GPU, after an XID
	stoppedSamples trouble = "stopped" // no samples for as long as the scene's age
	downServer     trouble = "down"    // the first ComfyUI
	deadLinks      trouble = "links"   // three NVLinks
	oddFigures     trouble = "odd"     // figures and names that are missing or unusual
	noProcesses    trouble = "wsl2"    // a driver that lists none
	tooLate        trouble = "refused" // the newest prompt is refused
)

// scene is what a fixture shows.
type scene struct {
	name    string
	gpus    int
	servers int
	// prompts is how many are kept.
	prompts   int
	simulated bool
	trouble   trouble
	// isLive is true if figures change with each look.
	isLive bool
	// age is that of the newest sample: none comes after it. interval is the time between two
	// scrapes, 15 s by default.
	age, interval time.Duration
	// waiting is how many prompts wait on the first server; 0: as many as the trouble has.
	waiting int
}

// fixture is a host of a scene, as the product sees it: telemetry goes into the store of the
// connector, and everything that the page says of it is the product's.
type fixture struct {
	scene
	*state.Store
	begun time.Time
	// past is the time while the host's history is made; zero afterwards.
	past   time.Time
	queues comfyevents.Servers
	reads  atomic.Int64
	rushes atomic.Int64
	// isPaused is true while the figures of a live scene stay.
	isPaused atomic.Bool
	turns    atomic.Int64 // of figures that change
	// hasEnded is true if the first open prompt has ended.
	hasEnded atomic.Bool

	// mu guards everything declared below.
	mu                 sync.Mutex
	scraped, evaluated time.Time
	ended              int // prompts, since the fixture began
}

// historyLength is how far back the samples of a host with few GPUs reach, quick how long
// memory was read each second, and conditions were evaluated.
const (
	historyLength = 30 * time.Minute
	quick         = 6 * time.Minute
)

func newFixture(t testing.TB, s scene) *fixture {
	t.Helper()
	if s.interval == 0 {
		s.interval = 15 * time.Second
	}
	f := &fixture{scene: s, begun: time.Now().UTC()}
	settings := state.Settings{
		Host: "gpu-node-07", Machine: machine.DefaultLimits(), Prompts: prompts.Limits{Prompts: 1000, Bytes: 64 << 20}, Servers: &f.queues, Alerts: f.startAlerts(t), Now: f.now,
		Links: []view.Link{{Name: "Jaeger", URL: "http://127.0.0.1:16686/trace/{trace_id}"}, {Name: "Tempo", URL: "http://127.0.0.1:3200/trace/{trace_id}"}},
	}
	if s.simulated {
		settings.Rush = "http://127.0.0.1:0/rush" // the fixture counts instead
	}
	var err error
	f.Store, err = state.New(settings)
	require.NoError(t, err)
	for i := range s.servers {
		f.queues.Add(&queue{f, i})
	}
	for i := range s.prompts {
		f.Traces(f.prompt(s.prompts - 1 - i).Traces())
	}
	if s.trouble == tooLate {
		f.Traces(f.refusedPrompt())
	}
	f.relive()
	if s.trouble == rushHour {
		f.SetLoads(map[string]advice.Load{gpuID(1): {Level: advice.Critical, Wait: 41 * time.Second}})
	}
	return f
}

func (f *fixture) now() time.Time {
	if !f.past.IsZero() {
		return f.past
	}
	return time.Now().UTC()
}

// relive makes the history of the host: scrapes, later with evaluations and readings of memory
// each second, as in a collector.
func (f *fixture) relive() {
	length, often := historyLength, quick
	if f.gpus > 8 {
		length, often = quick, 30*time.Second
	}
	end := f.begun.Add(-f.age)
	for at := f.begun.Add(-length); !at.After(f.begun); at = at.Add(time.Second) {
		f.past = at
		left := end.Sub(at)
		if left >= 0 && left%f.interval == 0 {
			f.scrape(at)
		}
		if f.begun.Sub(at) > often {
			continue
		}
		if left >= 0 {
			f.readMemory(at)
		}
		f.Evaluate()
	}
	f.past = time.Time{}
	f.scraped, f.evaluated = end, f.begun
}

// step is the number of the scrape at a time: those of the past are negative.
func (f *fixture) step(at time.Time) int {
	if turns := f.turns.Load(); turns > 0 {
		return int(turns)
	}
	return -int(f.begun.Add(-f.age).Sub(at) / f.interval)
}

// scrape adds a scrape of all GPUs and servers.
func (f *fixture) scrape(at time.Time) {
	f.Metrics(sampletext.Metrics(at, "host.name=gpu-node-07", f.gpuSamples(at)))
	for i := range f.servers {
		name := f.server(i)
		f.Metrics(sampletext.Metrics(at, "host.name=gpu-node-07,service.name=comfyui,service.instance.id="+name, f.serverSamples(i, at)))
	}
	f.logAt(at)
}

// pass lets time pass: figures that change do so each time, others are scraped again.
func (f *fixture) pass() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if f.isLive && f.isPaused.Load() {
		return
	}
	if f.isLive {
		turn := f.turns.Add(1)
		f.scrape(now)
		f.changeLoad(turn)
		if turn%4 == 0 && f.prompts > 0 {
			f.ended++
			f.Traces(f.promptThatEnds(now).Traces())
		}
		f.Evaluate()
		return
	}
	if f.age == 0 && now.Sub(f.scraped) >= f.interval {
		f.scrape(now)
		f.scraped = now
	}
	if now.Sub(f.evaluated) >= time.Second {
		f.Evaluate()
		f.evaluated = now
	}
}

// changeLoad makes a GPU of eight busy for two changes of five. Of more, those in trouble are first, and
// change their places.
func (f *fixture) changeLoad(turn int64) {
	if f.gpus != 8 {
		return
	}
	loads := map[string]advice.Load{}
	if turn%5 >= 3 {
		loads[gpuID(f.gpuOf(1))] = advice.Load{Level: advice.Busy, Wait: time.Duration(turn) * 900 * time.Millisecond}
	}
	f.SetLoads(loads)
}

// State implements [page.Source].
func (f *fixture) State(l texts.Language) view.State {
	f.reads.Add(1)
	f.pass()
	return f.Store.State(l)
}

// Prompts implements [page.Source]. The scene's number of prompts has the same name.
func (f *fixture) Prompts(l texts.Language, q page.Query) view.Prompts { return f.Store.Prompts(l, q) }

// Rush implements [page.Source].
func (f *fixture) Rush(context.Context) error { f.rushes.Add(1); return nil }

// endFirst ends the prompt that runs on the first server.
func (f *fixture) endFirst() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hasEnded.Store(true)
	p := f.usualPrompt(0)
	p.ID, p.Received = openID(f.server(0), 0), f.begun.Add(-p.Ran)
	f.Traces(p.Traces())
}
