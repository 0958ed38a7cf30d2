package comfyui

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"slices"
	"strconv"
	"time"

	"github.com/coder/websocket"
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
		x := &execution{Server: s, ctx: ctx, item: i, states: map[string]*state{}, entry: &entry{item: i, outputs: map[string]any{}, meta: map[string]any{}, messages: []any{}}}
		x.run()
		s.work.Collect()
	}
}

func (s *Server) next() *item {
	s.mu.Lock()
	defer s.mu.Unlock()
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
}

// execution is one prompt at work.
type execution struct {
	*Server
	ctx      context.Context
	item     *item
	entry    *entry
	states   map[string]*state
	executed []string
	done     map[string]bool
	async    chan string
	waiting  map[string]bool // asynchronous nodes under way
}

var errInterrupted = errors.New("interrupted")

// tell sends a message to the prompt's own client, and keeps those of the history.
func (x *execution) tell(kind string, data map[string]any) {
	data["prompt_id"] = x.item.id
	x.mu.Lock()
	defer x.mu.Unlock()
	if k := x.sockets[x.item.client()]; k != nil {
		k.send(message(kind, data))
	}
}

func (x *execution) record(kind string, data map[string]any) {
	data["timestamp"] = time.Now().UnixMilli()
	x.tell(kind, data)
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
	g, from := x.item.graph, time.Now()
	x.record("execution_start", map[string]any{})
	cached := x.takeCache(g)
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
	s := x.Server
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history[x.item.id] = x.entry
	s.order = append(s.order, x.item.id)
	if len(s.order) > mostHistory {
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

// takeCache finds what was executed before, and forgets what this prompt has not.
func (x *execution) takeCache(g graph) []string {
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
	var pending []string
	var add func(id string)
	add = func(id string) {
		if slices.Contains(pending, id) || isCached[id] && !classes[g[id].Class].output {
			return
		}
		pending = append(pending, id)
		if isCached[id] {
			return
		}
		for _, source := range g.links(id) {
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
			x.tellCached(id)
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
		for _, source := range g.links(id) {
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
		return slices.ContainsFunc(pending, func(other string) bool { return slices.Contains(g.links(other), id) && to(other) })
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

// tellCached tells of an output that was made before.
func (x *execution) tellCached(id string) {
	out := x.images(1, "ComfyUI")
	x.entry.outputs[id], x.entry.meta[id] = out, meta(id)
	x.tell("executed", map[string]any{"node": id, "display_node": id, "output": out})
	x.states[id] = &state{value: 1, max: 1, word: "finished", display: id, real: id}
	x.sendStates()
	x.done[id] = true
}

func meta(id string) map[string]any {
	return map[string]any{"node_id": id, "display_node": id, "parent_node": nil, "real_node_id": id}
}

func (x *execution) images(n int, prefix string) map[string]any {
	list := make([]any, n)
	for i := range list {
		list[i] = map[string]any{"filename": prefix + "_00001_.png", "subfolder": "", "type": "output"}
	}
	return map[string]any{"images": list}
}

// node executes one node; display is the node of the workflow that stands for it.
func (x *execution) node(g graph, id, display, parent string, n *node) error {
	st := &state{max: 1, word: "running", display: display, real: display}
	if parent != "" {
		st.parent = parent
	}
	x.states[id] = st
	x.sendStates()
	x.mu.Lock()
	x.lastNode = id
	x.mu.Unlock()
	x.tell("executing", map[string]any{"node": id, "display_node": display})
	if classes[n.Class].async {
		x.waiting[id] = true
		wait := time.Duration(number(n.Inputs["seconds"]) * float64(time.Second))
		time.AfterFunc(wait, func() { x.async <- id })
		return nil
	}
	from := time.Now()
	err := x.do(g, id, n)
	x.wasExecuted(Executed{Prompt: x.item.id, Node: id, Class: n.Class, From: from})
	if err != nil {
		return x.failed(id, n, err)
	}
	x.finish(g, id)
	return nil
}

// finish ends a node that did its work.
func (x *execution) finish(g graph, id string) {
	st := x.states[id]
	st.word = "finished"
	if st.value == 0 {
		st.value = 1
	}
	x.sendStates()
	x.done[id] = true
	x.executed = append(x.executed, id)
	if g[id] != nil {
		x.cache[g.signature(id)] = true
	}
}

// step tells of one step of a node, with a picture of it if there is one, and
// notices an interruption. A picture with its node goes out before the progress, one
// without after it.
func (x *execution) step(id string, done, all int, picture bool) error {
	st := x.states[id]
	st.value, st.max = float64(done), float64(all)
	x.mu.Lock()
	stopped := x.interrupt
	x.mu.Unlock()
	if stopped {
		return errInterrupted
	}
	x.sendStates()
	if picture {
		x.preview(id, true)
	}
	x.broadcast(message("progress", map[string]any{"value": done, "max": all, "prompt_id": x.item.id, "node": id}))
	if picture {
		x.preview(id, false)
	}
	return nil
}

func (x *execution) do(g graph, id string, n *node) error {
	switch n.Class {
	case "DDColor_Colorize":
		checkpoint, _ := n.Inputs["checkpoint"].(string)
		for range x.copies(g, n) {
			if err := x.work.Colorize(x.ctx, int(number(n.Inputs["model_input_size"])), checkpoint, func(done, all int) error { return x.step(id, done, all, false) }); err != nil {
				return err
			}
		}
	case "Expanding":
		for i := range int(number(n.Inputs["copies"])) {
			part := &node{Class: "DDColor_Colorize", Inputs: map[string]any{"model_input_size": json.Number("300"), "checkpoint": "ddcolor_paper.pth"}}
			if err := x.node(graph{}, id+".0.0."+strconv.Itoa(i+1), id, id, part); err != nil {
				return err
			}
		}
	case "WithPreview":
		all := int(number(n.Inputs["steps"]))
		for i := range all {
			if err := x.step(id, i+1, all, true); err != nil {
				return err
			}
		}
	case "SaveImage":
		prefix, _ := n.Inputs["filename_prefix"].(string)
		out := x.images(x.copies(g, n), prefix)
		x.entry.outputs[id], x.entry.meta[id] = out, meta(id)
		x.tell("executed", map[string]any{"node": id, "display_node": id, "output": out})
	}
	return nil
}

// copies is how often a node runs: once for each element of a list that comes in.
func (x *execution) copies(g graph, n *node) int {
	for _, v := range n.Inputs {
		if !isLink(v) {
			continue
		}
		source, _ := v.([]any)[0].(string)
		if from := g[source]; from != nil {
			if from.Class == "ListOut" {
				return int(number(from.Inputs["n"]))
			}
			if from.Class != "LoadImage" {
				return x.copies(g, from)
			}
		}
	}
	return 1
}

func number(v any) float64 {
	if n, ok := v.(json.Number); ok {
		f, _ := n.Float64()
		return f
	}
	return 0
}

// failed tells how a node failed; it ends the prompt.
func (x *execution) failed(id string, n *node, err error) error {
	if x.ctx.Err() != nil {
		return err
	}
	executed := x.executed
	if executed == nil {
		executed = []string{}
	}
	data := map[string]any{"node_id": id, "node_type": n.Class, "executed": executed}
	var f *Failure
	switch {
	case errors.Is(err, errInterrupted):
		x.record("execution_interrupted", data)
		return err
	case !errors.As(err, &f):
		f = &Failure{Type: "RuntimeError", Message: err.Error()}
	}
	inputs := map[string]any{}
	for name, v := range n.Inputs {
		if isLink(v) {
			source, _ := v.([]any)[0].(string)
			v = x.item.graph.made(source)
		}
		inputs[name] = []any{v}
	}
	data["exception_message"], data["exception_type"], data["traceback"] = f.Message, f.Type, f.Traceback
	data["current_inputs"], data["current_outputs"] = inputs, x.item.graph.ids()
	x.record("execution_error", data)
	return err
}

// preview sends a picture of a step to the clients that understand one with its
// node, or to those that do not.
func (x *execution) preview(id string, withNode bool) {
	f := frame{kind: websocket.MessageBinary}
	if withNode {
		about, _ := json.Marshal(map[string]any{"node_id": id, "prompt_id": x.item.id, "display_node_id": id, "parent_node_id": nil, "real_node_id": id, "image_type": "image/jpeg"})
		f.data = binary.BigEndian.AppendUint32(nil, 4) // PREVIEW_IMAGE_WITH_METADATA
		f.data = binary.BigEndian.AppendUint32(f.data, uint32(len(about)))
		f.data = append(f.data, about...)
	} else {
		f.data = binary.BigEndian.AppendUint32(nil, 1)    // PREVIEW_IMAGE
		f.data = binary.BigEndian.AppendUint32(f.data, 1) // JPEG
	}
	f.data = append(f.data, thumbnail...)
	x.mu.Lock()
	defer x.mu.Unlock()
	own := x.item.client()
	for client, k := range x.sockets {
		if (own == "" || own == client) && k.flags == withNode {
			k.send(f)
		}
	}
}

// picture and thumbnail are what /view and previews show.
var picture, thumbnail = func() (full, small []byte) {
	m := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for i := range m.Pix {
		m.Pix[i] = byte(i * 7)
	}
	var p, j bytes.Buffer
	if err := errors.Join(png.Encode(&p, m), jpeg.Encode(&j, m, nil)); err != nil {
		panic(fmt.Sprint("simulation: ", err))
	}
	return p.Bytes(), j.Bytes()
}()
