// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

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
	x.emit("executing", map[string]any{"node": id, "display_node": display})
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

// step sends the progress of a node, with a preview image if there is one, and returns
// an error after an interruption. An image with its node goes out before the progress, one
// without after it.
func (x *execution) step(id string, done, all int, image bool) error {
	st := x.states[id]
	st.value, st.max = float64(done), float64(all)
	x.mu.Lock()
	stopped := x.interrupt
	x.mu.Unlock()
	if stopped {
		return errInterrupted
	}
	x.sendStates()
	if image {
		x.preview(id, true)
	}
	x.broadcast(message("progress", map[string]any{"value": done, "max": all, "prompt_id": x.item.id, "node": id}))
	if image {
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
		x.emit("executed", map[string]any{"node": id, "display_node": id, "output": out})
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

// failed sends how a node failed, and ends the prompt.
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
