// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/prompts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

const (
	// shownPrompts and shownEvents are how many of the newest a state has.
	shownPrompts = 20
	shownEvents  = 50
	// shownQueue is how many open prompts of a server.
	shownQueue = 50
)

// State implements [page.Source].
func (st *Store) State(l texts.Language) view.State {
	servers := st.settings.Servers.All() // before the lock: it locks those of others
	st.mu.Lock()
	defer st.mu.Unlock()
	st.catchUp()
	now := st.settings.Now()
	v := view.State{
		Time: now.UTC(), Language: string(l), Host: cmp.Or(st.machine.Host(), st.settings.Host), Simulated: st.machine.Simulated(),
		Conditions: []view.Condition{}, GPUs: []view.GPU{}, Servers: []view.Server{}, Events: []view.Event{},
		Prompts: st.prompts.Newest(l, shownPrompts), PromptsHeld: st.prompts.Len(),
	}
	if newest, ok := st.machine.Newest(); ok {
		newest = newest.UTC()
		v.Newest = &newest
	}
	all := true // GPUs are simulated
	for _, g := range st.machine.GPUs() {
		shown := st.machine.View(g, l, now)
		severity, status := st.result.Status(g.ID)
		shown.Severity, shown.Status = severity, status.In(l)
		shown.Running = runningOn(g.ID, servers)
		shown.Load = loadView(g.Load(), l)
		all = all && shown.Simulated
		v.GPUs = append(v.GPUs, shown)
	}
	v.CanRush = st.settings.Rush != "" && all && len(v.GPUs) > 0
	v.Servers = st.servers(l, servers, now, shownQueue)
	result := st.result.Now(waits(v.Servers))
	v.Verdict = result.Verdict.View(l)
	for i := range result.Conditions {
		v.Conditions = append(v.Conditions, result.Conditions[i].View(l))
	}
	v.Events = st.events(l)
	v.Alerts = st.settings.Alerts.View(l)
	return v
}

// runningOn are the prompts that run on a GPU, as far as it is known.
func runningOn(gpu string, servers []comfyevents.Server) []view.Running {
	running := []view.Running{}
	for _, s := range servers {
		if !slices.Contains(s.GPUs, gpu) {
			continue
		}
		for _, p := range s.Prompts {
			if !p.Started.IsZero() {
				running = append(running, view.Running{Prompt: p.ID, Workflow: p.Workflow, TaskClass: p.TaskClass, Side: int64(p.Side), Server: s.Name})
			}
		}
	}
	return running
}

// servers are those of which metrics or receivers of this process know, each with at most so many
// prompts of its queue. The caller holds mu.
func (st *Store) servers(l texts.Language, live []comfyevents.Server, now time.Time, limit int) []view.Server {
	all := []view.Server{}
	for _, s := range st.machine.Servers() {
		if _, known := s.IsUp(now); known { // else its scrapes have stopped
			all = append(all, st.machine.ServerView(s, now))
		}
	}
	for i := range live {
		s := &live[i]
		at := slices.IndexFunc(all, func(v view.Server) bool { return v.Name == s.Name })
		if at < 0 {
			all = append(all, view.Server{Name: s.Name, IsUp: true}) // its first scrape is yet to come
			at = len(all) - 1
		}
		st.describe(&all[at], s, l, now, limit)
	}
	for i := range all {
		if all[i].Prompts == nil {
			all[i].Prompts = []view.OpenPrompt{}
		}
		if all[i].Sockets == nil {
			all[i].Sockets = []view.Socket{}
		}
		if all[i].GPUs == nil {
			all[i].GPUs = []string{}
		}
	}
	slices.SortFunc(all, func(x, y view.Server) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// describe adds what a receiver knows now of its server: it is newer than the last scrape.
func (st *Store) describe(v *view.Server, s *comfyevents.Server, l texts.Language, now time.Time, limit int) {
	if len(s.GPUs) > 0 {
		v.GPUs = s.GPUs
	}
	v.SocketsOpen = s.Sockets.Open
	running := 0
	ahead := time.Duration(0) // until those in front have ended; negative: it is not known
	for i := range s.Prompts {
		p := &s.Prompts[i]
		if !p.Started.IsZero() {
			running++
		}
		if i < limit {
			v.Prompts = append(v.Prompts, openPrompt(p, place{ahead: i, isNext: i == running}, ahead, l, now))
			ahead = st.after(ahead, p, s, now)
		}
	}
	v.Listed = len(s.Prompts)
	v.Running, v.Waiting = running, max(max(s.Queued, s.Open)-running, 0)
	v.OldestWait = oldestWait(s, now).Seconds()
	for _, since := range s.Sockets.Silent {
		v.Sockets = append(v.Sockets, view.Socket{State: "silent", Since: since.UTC(), Text: texts.Message{Key: "prompt.socket.silent", Args: texts.Args{"d": texts.Seconds(now.Sub(since))}}.In(l)})
	}
	if n := s.Sockets.Retained; n > 0 {
		v.Sockets = append(v.Sockets, view.Socket{State: "kept", Text: texts.Message{Key: "prompt.socket.kept", Args: texts.Args{"n": n}}.In(l)})
	}
}

// waits are for how many seconds the oldest prompts of servers have waited.
func waits(servers []view.Server) map[string]float64 {
	all := make(map[string]float64, len(servers))
	for i := range servers {
		all[servers[i].Name] = servers[i].OldestWait
	}
	return all
}

// oldestWait is for how long the oldest prompt that a receiver follows has waited.
func oldestWait(s *comfyevents.Server, now time.Time) (oldest time.Duration) {
	for i := range s.Prompts {
		if p := &s.Prompts[i]; p.Started.IsZero() && !p.Accepted.IsZero() {
			oldest = max(oldest, now.Sub(p.Accepted))
		}
	}
	return oldest
}

// after is how long it takes until a prompt has ended, too, which begins after a time, by the
// median of its kind; negative if that is not known.
func (st *Store) after(ahead time.Duration, p *comfyevents.OpenPrompt, s *comfyevents.Server, now time.Time) time.Duration {
	if ahead < 0 || len(s.GPUs) == 0 {
		return -1
	}
	usual, ok := st.prompts.Usual(p.Workflow, p.Model, p.SizeClass, s.GPUs[0])
	if !ok {
		return -1
	}
	if !p.Started.IsZero() {
		usual = max(usual-now.Sub(p.Started), 0)
	}
	return ahead + usual
}

// place is where a prompt is in a queue: how many run or wait before it, and whether none of those
// waits.
type place struct {
	ahead  int
	isNext bool
}

// openPrompt is an open prompt of a queue. It starts after a time, if that is not negative.
func openPrompt(p *comfyevents.OpenPrompt, at place, starts time.Duration, l texts.Language, now time.Time) view.OpenPrompt {
	v := view.OpenPrompt{ID: p.ID, Workflow: p.Workflow, TaskClass: p.TaskClass, Side: int64(p.Side), State: "waiting", Ahead: at.ahead, Since: p.Accepted.UTC()}
	text := texts.Message{Key: "prompt.place.waiting", Args: texts.Args{"n": at.ahead}}
	switch {
	case !p.Started.IsZero():
		v.State, v.Ahead, v.Since = "running", 0, p.Started.UTC()
		text = texts.Message{Key: "prompt.place.running.plain"}
		if p.Node.Number > 0 {
			text = texts.Message{Key: "prompt.place.running", Args: texts.Args{"n": p.Node.Number, "of": p.Node.Of}}
			v.Node = &view.Node{ID: p.Node.ID, Class: p.Node.Class, Number: p.Node.Number, Of: p.Node.Of, Step: p.Node.Step, Steps: p.Node.Steps}
		}
	case at.isNext:
		text = texts.Message{Key: "prompt.place.next"}
	}
	if v.State == "waiting" && starts >= 0 {
		begins := now.Add(starts).UTC()
		v.Starts = &begins
	}
	v.Text = text.In(l)
	return v
}

// events are the last events, with the prompts that ran then. The caller holds mu.
func (st *Store) events(l texts.Language) []view.Event {
	all := st.machine.Events()
	all = all[:min(len(all), shownEvents)]
	wanted := map[pcommon.TraceID]string{}
	for i := range all {
		if id := all[i].Trace; !id.IsEmpty() {
			wanted[id] = ""
		}
	}
	st.prompts.Name(wanted)
	shown := make([]view.Event, 0, len(all))
	for i := range all {
		shown = append(shown, all[i].View(l, wanted[all[i].Trace]))
	}
	return shown
}

// Prompts implements [page.Source].
func (st *Store) Prompts(l texts.Language, q page.Query) view.Prompts {
	query := prompts.Query{ID: q.ID, Text: q.Text, Outcome: q.Outcome, Workflow: q.Workflow, Slow: q.Slow, Slowest: q.Sort == page.Slowest, Limit: q.Limit}
	if q.Outcome == page.Failed {
		query.Outcome, query.Failed = "", true
	}
	open := []view.OpenDetail{}
	if q.ID != "" {
		if found, ok := st.Open(l, q.ID); ok {
			open = append(open, found)
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	v := st.prompts.List(l, query)
	v.Open = open
	return v
}

// margin is how much of the GPUs' samples is shown before and after a prompt.
const margin = 5 * time.Second

// Prompt implements [page.Source].
func (st *Store) Prompt(l texts.Language, id string) (view.Detail, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.catchUp()
	v, ok := st.prompts.Detail(l, id)
	if !ok {
		return v, false
	}
	for _, gpu := range v.GPUs {
		h, known := st.machine.History(gpu, st.settings.Now())
		if h = within(h, v.Received.Add(-margin), v.Ended.Add(margin)); known && len(h.Times) > 0 {
			v.Series = append(v.Series, h)
		}
	}
	fill := strings.NewReplacer("{trace_id}", v.TraceID, "{prompt_id}", escaped(v.ID))
	for _, link := range st.settings.Links {
		v.Links = append(v.Links, view.Link{Name: link.Name, URL: fill.Replace(link.URL)})
	}
	return v, true
}

// escaped is an id, which the client may have chosen, as a part of a URL's path or query.
func escaped(id string) string { return strings.ReplaceAll(url.QueryEscape(id), "+", "%20") }

// within is the part of a history between two times.
func within(h view.History, from, to time.Time) view.History {
	seconds := func(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
	begin, _ := slices.BinarySearchFunc(h.Times, seconds(from), cmp.Compare)
	end, _ := slices.BinarySearchFunc(h.Times, seconds(to), cmp.Compare)
	return view.History{
		GPU: h.GPU, Times: h.Times[begin:end], Memory: h.Memory[begin:end], MemoryPeak: h.MemoryPeak[begin:end],
		Utilization: h.Utilization[begin:end], Temperature: h.Temperature[begin:end], Power: h.Power[begin:end],
	}
}

// Trace implements [page.Source].
func (st *Store) Trace(id string) ([]byte, bool) {
	st.mu.Lock()
	packed, ok := st.prompts.Packed(id)
	st.mu.Unlock()
	if !ok {
		return nil, false
	}
	json, err := st.prompts.JSON(packed)
	return json, err == nil
}

// History implements [page.Source].
func (st *Store) History(gpu string) (view.History, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, g := range st.machine.GPUs() {
		if g.ID == gpu || g.Label() == gpu {
			return st.machine.History(g.ID, st.settings.Now())
		}
	}
	return view.History{}, false
}

// rushTimeout bounds the request for a rush.
const rushTimeout = 5 * time.Second

// Rush implements [page.Source].
func (st *Store) Rush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rushTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, st.settings.Rush, http.NoBody)
	if err != nil {
		return fmt.Errorf("rush::endpoint: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ask for a rush: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("ask for a rush: %s", response.Status)
	}
	return nil
}
