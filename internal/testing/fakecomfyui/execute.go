// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Run executes prompts until the context ends.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		i := s.next()
		if i == nil {
			select {
			case <-ctx.Done():
			case <-s.wake:
			}
			continue
		}
		x := &execution{Server: s, ctx: ContextOf(ctx, i.id), item: i, states: map[string]*state{}, entry: &entry{item: i, outputs: map[string]any{}, meta: map[string]any{}, messages: []any{}}}
		x.run()
		s.work.Collect()
	}
}

// promptKey is the key of a prompt's id in the context of its work.
type promptKey struct{}

// PromptOf is the id of the prompt that a [Work] works for.
func PromptOf(ctx context.Context) string {
	id, _ := ctx.Value(promptKey{}).(string)
	return id
}

// ContextOf is a context for a prompt's work, as the server makes it.
func ContextOf(ctx context.Context, prompt string) context.Context {
	return context.WithValue(ctx, promptKey{}, prompt)
}

// next is the prompt that runs from now on, if one waits.
func (s *Server) next() *item {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
	if len(s.pending) == 0 {
		return nil
	}
	i := heap.Pop(&s.pending).(*item)
	s.running, s.interrupt, s.lastNode = i, false, ""
	s.sendStatus()
	return i
}

// state is one node in progress_state.
type state struct {
	value, max    float64
	word          string
	display, real string
	parent        any
	sent          time.Time // the last progress message
	sentValue     float64
}

// execution is one prompt at work.
type execution struct {
	*Server
	ctx      context.Context
	item     *item
	entry    *entry
	states   map[string]*state
	executed []string
	expanded []string          // ids of nodes that others expanded into
	blocked  map[string]string // nodes without a result, with the message of those that blocked
	asked    map[string]string // the source that a lazy node asked for
	done     map[string]bool
	async    chan string
	waiting  map[string]bool // asynchronous nodes under way
}

var errInterrupted = errors.New("interrupted")

// emit sends a message to the socket of the prompt's client id.
func (x *execution) emit(kind string, data map[string]any) {
	data["prompt_id"] = x.item.id
	x.mu.Lock()
	defer x.mu.Unlock()
	if k := x.sockets[x.item.client()]; k != nil {
		k.send(message(kind, data))
	}
}

func (x *execution) record(kind string, data map[string]any) {
	data["timestamp"] = x.options.Now().UnixMilli()
	x.emit(kind, data)
	x.entry.messages = append(x.entry.messages, []any{kind, data})
}

// broadcast sends to the prompt's client, or to all if it has none.
func (x *execution) broadcast(f frame) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if id := x.item.client(); id != "" {
		if k := x.sockets[id]; k != nil {
			k.send(f)
		}
		return
	}
	for _, k := range x.sockets {
		k.send(f)
	}
}

func (x *execution) sendStates() {
	nodes := map[string]any{}
	for id, st := range x.states {
		nodes[id] = map[string]any{
			"value": st.value, "max": st.max, "state": st.word, "node_id": id, "prompt_id": x.item.id,
			"display_node_id": st.display, "parent_node_id": st.parent, "real_node_id": st.real,
		}
	}
	x.broadcast(message("progress_state", map[string]any{"prompt_id": x.item.id, "nodes": nodes}))
}

func (x *execution) run() {
	g, from, begin := x.item.graph, time.Now(), x.options.Now()
	x.record("execution_start", map[string]any{})
	cached := x.reuseCache(g)
	x.record("execution_cached", map[string]any{"nodes": cached})
	err := x.execute(g, cached)
	x.wasExecuted(Executed{Prompt: x.item.id, From: from})
	switch {
	case x.ctx.Err() != nil:
		return
	case err == nil:
		x.record("execution_success", map[string]any{})
		x.entry.status, x.entry.complete = "success", true
	default:
		x.entry.status = "error"
	}
	x.over()
	x.log(levelInfo, fmt.Sprintf("\x1b[32mPrompt executed in %.2f seconds\x1b[0m", x.options.Now().Sub(begin).Seconds()))
}

// over puts the prompt into the history, and sends the last messages about it.
func (x *execution) over() {
	s := x.Server
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history[x.item.id] = x.entry
	s.order = append(s.order, x.item.id)
	if len(s.order) > maxHistory {
		delete(s.history, s.order[0])
		s.order = s.order[1:]
	}
	s.running = nil
	s.sendStatus()
	if k := s.sockets[x.item.client()]; k != nil {
		k.send(message("executing", map[string]any{"node": nil, "prompt_id": x.item.id}))
	}
	s.lastNode = ""
}

// reuseCache returns the ids of nodes with a cached output, and evicts the outputs that
// this prompt does not use.
func (x *execution) reuseCache(g graph) []string {
	cached := []string{}
	keep := map[string]bool{}
	for _, id := range g.ids() {
		if sig := g.signature(id); x.cache[sig] {
			cached = append(cached, id)
			keep[sig] = true
		}
	}
	x.cache = keep
	return cached
}

// execute works through the graph: what the outputs need, in the order in which the
// real one goes.
func (x *execution) execute(g graph, cached []string) error {
	isCached := map[string]bool{}
	for _, id := range cached {
		isCached[id] = true
	}
	x.done, x.async, x.waiting = map[string]bool{}, make(chan string, len(g)), map[string]bool{}
	x.blocked, x.asked = map[string]string{}, map[string]string{}
	var pending []string
	var add func(id string)
	add = func(id string) {
		if slices.Contains(pending, id) || x.done[id] || isCached[id] && !classes[g[id].Class].output {
			return
		}
		pending = append(pending, id)
		if isCached[id] {
			return
		}
		for _, source := range x.needs(g, id) {
			add(source)
		}
	}
	for _, id := range x.item.outputs {
		add(id)
	}
	for len(pending) > 0 || len(x.waiting) > 0 {
		id := x.pick(g, pending, isCached)
		if id == "" {
			select {
			case <-x.ctx.Done():
				return x.ctx.Err()
			case finished := <-x.async:
				delete(x.waiting, finished)
				x.finish(g, finished)
			}
			continue
		}
		pending = slices.DeleteFunc(pending, func(p string) bool { return p == id })
		if isCached[id] {
			x.emitCached(g, id)
			continue
		}
		if source := x.lazySource(g, id); source != "" && !x.done[source] && !isCached[source] {
			x.begin(id, id, "") // it runs to say what it needs, and waits for it
			x.asked[id] = source
			add(id)
			continue
		}
		if err := x.node(g, id, id, "", g[id]); err != nil {
			return err
		}
	}
	return nil
}

// pick chooses the next node that is ready: outputs and asynchronous ones first,
// then what an output waits for, then what that waits for.
func (x *execution) pick(g graph, pending []string, isCached map[string]bool) string {
	var ready []string
	for _, id := range pending {
		blocked := false
		for _, source := range x.needs(g, id) {
			if !isCached[source] && !x.done[source] && !isCached[id] {
				blocked = true
			}
		}
		if !blocked {
			ready = append(ready, id)
		}
	}
	for _, id := range ready {
		if c := classes[g[id].Class]; c.output || c.async {
			return id
		}
	}
	feeds := func(id string, to func(string) bool) bool {
		return slices.ContainsFunc(pending, func(other string) bool { return slices.Contains(x.needs(g, other), id) && to(other) })
	}
	output := func(id string) bool { return classes[g[id].Class].output }
	for _, id := range ready {
		if feeds(id, output) {
			return id
		}
	}
	for _, id := range ready {
		if feeds(id, func(other string) bool { return feeds(other, output) }) {
			return id
		}
	}
	if len(ready) > 0 {
		return ready[0]
	}
	return ""
}

// needs are the nodes that a node waits for: not its lazy inputs, unless it asked for one.
func (x *execution) needs(g graph, id string) []string {
	from := g.linksBut(id, classes[g[id].Class].lazy)
	if source := x.asked[id]; source != "" {
		from = append(from, source)
	}
	return from
}

// lazySource is the node that a LazySwitch wants the output of; empty for other nodes.
func (x *execution) lazySource(g graph, id string) string {
	lazy := classes[g[id].Class].lazy
	which := int(number(g[id].Inputs["which"]))
	if which < 0 || which >= len(lazy) || !isLink(g[id].Inputs[lazy[which]]) {
		return ""
	}
	source, _ := g[id].Inputs[lazy[which]].([]any)[0].(string)
	return source
}

// emitCached sends the cached output of a node.
func (x *execution) emitCached(g graph, id string) {
	x.show(g, id, 1)
	x.states[id] = &state{value: 1, max: 1, word: "finished", display: id, real: id}
	x.sendStates()
	x.done[id] = true
}

func meta(id string) map[string]any {
	return map[string]any{"node_id": id, "display_node": id, "parent_node": nil, "real_node_id": id}
}
