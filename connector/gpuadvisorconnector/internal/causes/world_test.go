// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	node    = "host.name=node-1"
	comfyui = "host.name=node-1,service.name=comfyui,service.instance.id=node-1:8188"
	server  = "node-1:8188"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a host whose time the test moves.
type world struct {
	t       testing.TB
	m       *machine.Machine
	e       *Engine
	now     time.Time
	prompts []Prompt
	result  Result
}

func newWorld(t testing.TB) *world {
	t.Helper()
	m, err := machine.New(machine.DefaultLimits())
	require.NoError(t, err)
	return &world{t: t, m: m, e: NewEngine(nil), now: epoch}
}

// Ended implements [Prompts].
func (w *world) Ended(after time.Time) iter.Seq[Prompt] {
	return func(yield func(Prompt) bool) {
		for _, p := range w.prompts {
			if p.Ended.After(after) && !yield(p) {
				return
			}
		}
	}
}

// gpus adds samples; {} stands for gpu0, {1} for gpu1.
func (w *world) gpus(text string) {
	text = strings.ReplaceAll(text, "{1}", "{hw.id=GPU-b,hw.name=gpu1}")
	text = strings.ReplaceAll(text, "{1,", "{hw.id=GPU-b,hw.name=gpu1,")
	text = strings.ReplaceAll(text, "{}", "{hw.id=GPU-a,hw.name=gpu0}")
	text = strings.ReplaceAll(text, "{:", "{hw.id=GPU-a,hw.name=gpu0,")
	w.m.Metrics(sampletext.Metrics(w.now, node, text), w.now)
}

// servers adds samples of a ComfyUI server.
func (w *world) servers(text string) {
	w.m.Metrics(sampletext.Metrics(w.now, comfyui, text), w.now)
}

func (w *world) logs(text string) { w.m.Logs(sampletext.Logs(w.now, node, text), w.now) }

// prompt ends a prompt of GPU-b now; change describes it.
func (w *world) prompt(change func(*Prompt)) {
	p := Prompt{Server: server, GPUs: []string{"GPU-b"}, Ended: w.now, Total: 3 * time.Second, Ran: 2 * time.Second, Outcome: success, Side: 512}
	if change != nil {
		change(&p)
	}
	w.prompts = append(w.prompts, p)
}

// wait moves the time, second by second.
func (w *world) wait(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(time.Second, end.Sub(w.now)))
		w.evaluate()
	}
}

func (w *world) evaluate() {
	w.result = w.e.Evaluate(w.m, w, w.now)
	require.NoError(w.t, growth.Within(w.e.Bounds()))
}

// scrapes lets time pass with a scrape every 15 s, the first at once; i counts them.
func (w *world) scrapes(d time.Duration, scrape func(i int)) {
	end := w.now.Add(d)
	for i := 0; ; i++ {
		scrape(i)
		w.evaluate()
		if !w.now.Before(end) {
			return
		}
		w.now = w.now.Add(15 * time.Second)
	}
}

// steady is scrapes of the same values of GPUs.
func (w *world) steady(d time.Duration, text string) {
	w.scrapes(d, func(int) { w.gpus(text) })
}

// shown are the ids of the causes that are shown, in their order.
func (w *world) shown() (ids []string) {
	for i := range w.result.Conditions {
		ids = append(ids, w.result.Conditions[i].Cause.ID)
	}
	return ids
}

// shows reports whether a cause is shown.
func (w *world) shows(id string) bool { return slices.Contains(w.shown(), id) }

// worded is the text and the remedy of a cause that is shown; empty if it is not.
func (w *world) worded(id string, l texts.Language) (text, remedy string) {
	for i := range w.result.Conditions {
		if c := &w.result.Conditions[i]; c.Cause.ID == id {
			v := c.View(l)
			return v.Text, v.Remedy
		}
	}
	return "", ""
}

// verdict is the line on top.
func (w *world) verdict(l texts.Language) string { return w.result.Verdict.View(l).Text }
