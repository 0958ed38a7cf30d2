// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// begin sends that a node runs; display is the node of the workflow that stands for it.
func (x *execution) begin(id, display, parent string) {
	st := &state{max: 1, word: "running", display: display, real: display}
	if parent != "" {
		st.parent = parent
		x.expanded = append(x.expanded, id)
	}
	x.states[id] = st
	x.sendStates()
	x.mu.Lock()
	x.lastNode = id
	x.mu.Unlock()
	x.emit("executing", map[string]any{"node": id, "display_node": display})
}

// node executes one node; display is the node of the workflow that stands for it.
func (x *execution) node(g graph, id, display, parent string, n *node) error {
	x.begin(id, display, parent)
	if text, is := x.blockedBy(g, id); is {
		if text != "" {
			x.emitBlocked(id, n, text)
		}
		x.blocked[id] = "" // what follows is silent
		x.finish(g, id)
		return nil
	}
	if classes[n.Class].async {
		x.waiting[id] = true
		wait := time.Duration(number(n.Inputs["seconds"]) * float64(time.Second))
		time.AfterFunc(wait, func() { x.async <- id })
		return nil
	}
	from := time.Now()
	err := x.stopped()
	if err == nil {
		err = x.do(g, id, display, n)
	}
	x.wasExecuted(Executed{Prompt: x.item.id, Node: id, Class: n.Class, From: from})
	var inner *recorded
	switch {
	case errors.As(err, &inner): // by a node that this one expanded into
		return err
	case err != nil:
		return x.failed(display, n, err)
	}
	x.finish(g, id)
	return nil
}

// blockedBy reports whether a node gets no input, and the message to show for it.
func (x *execution) blockedBy(g graph, id string) (text string, is bool) {
	if g[id] == nil {
		return "", false
	}
	for _, source := range x.needs(g, id) {
		if text, is = x.blocked[source]; is {
			return text, true
		}
	}
	return "", false
}

// emitBlocked sends the message of an ExecutionBlocker. It has the type of an error, and
// ends nothing.
func (x *execution) emitBlocked(id string, n *node, text string) {
	x.emit("execution_error", map[string]any{
		"node_id": id, "node_type": n.Class, "executed": append([]string{}, x.executed...), "exception_message": "Execution Blocked: " + text,
		"exception_type": "ExecutionBlocked", "traceback": []string{}, "current_inputs": []string{}, "current_outputs": []string{},
	})
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
	if _, blocked := x.blocked[id]; g[id] != nil && !blocked {
		x.cache[g.signature(id)] = true
	}
}

// The newer version sends a node's first and last step, and between them one that comes so
// long after the one before and is so much further, in percent.
const (
	progressInterval = 100 * time.Millisecond
	progressPercent  = 0.5
)

// due reports whether a step is sent.
func (st *state) due(now time.Time, done, all int) bool {
	further := (float64(done) - st.sentValue) / float64(all) * 100
	if done > 1 && done < all && (now.Sub(st.sent) < progressInterval || further < progressPercent) {
		return false
	}
	st.sent, st.sentValue = now, float64(done)
	return true
}

// stopped returns an error after an interruption: the server checks before each node, and with
// each step.
func (x *execution) stopped() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.interrupt {
		return errInterrupted
	}
	return nil
}

// step sends the progress of a node, with a preview image if there is one, and returns
// an error after an interruption. An image with its node goes out before the progress, one
// without after it.
func (x *execution) step(id string, done, all int, image bool) error {
	st := x.states[id]
	if err := x.stopped(); err != nil {
		return err
	}
	if x.options.newer() && !image && !st.due(x.options.Now(), done, all) {
		return nil
	}
	st.value, st.max = float64(done), float64(all)
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

func (x *execution) do(g graph, id, display string, n *node) error {
	switch n.Class {
	case "DDColor_Colorize":
		checkpoint, _ := n.Inputs["checkpoint"].(string)
		for range x.copies(g, n) {
			if err := x.work.Colorize(x.ctx, int(number(n.Inputs["model_input_size"])), checkpoint, func(done, all int) error { return x.step(id, done, all, false) }); err != nil {
				return err
			}
		}
	case "KSampler":
		side, batch := g.latent(n)
		return x.work.Sample(x.ctx, g.checkpoint(n), side, batch, int(number(n.Inputs["steps"])), func(done, all int) error { return x.step(id, done, all, false) })
	case "VAEDecode":
		return x.decode(g, id, n)
	case "Expanding":
		for i := range int(number(n.Inputs["copies"])) {
			part := &node{Class: "DDColor_Colorize", Inputs: map[string]any{"model_input_size": json.Number("300"), "checkpoint": "ddcolor_paper.pth"}}
			if err := x.node(graph{}, id+".0.0."+strconv.Itoa(i+1), display, id, part); err != nil {
				return err
			}
		}
	case "Loop":
		return x.loop(id, display, n)
	case "Blocking":
		if block, _ := n.Inputs["block"].(bool); block {
			x.blocked[id], _ = n.Inputs["message"].(string)
		}
	case "Raiser":
		return raise(n.Inputs["what"])
	case "WithPreview":
		all := int(number(n.Inputs["steps"]))
		for i := range all {
			if err := x.step(id, i+1, all, true); err != nil {
				return err
			}
		}
	case "SaveImage":
		x.show(g, id, x.copies(g, n))
	case "TextOut":
		x.progressText(id, "1 of 2 parts")
		if err := inSteps(x.ctx, textTime, func(int, int) error { return nil }); err != nil {
			return err
		}
		x.show(g, id, 0)
	}
	return nil
}

// source finds the nearest node of a class among those that a node takes its inputs from; nil
// if there is none.
func (g graph) source(n *node, class string) *node {
	for _, v := range n.Inputs {
		if !isLink(v) {
			continue
		}
		id, _ := v.([]any)[0].(string)
		from := g[id]
		if from == nil {
			continue
		}
		if from.Class == class {
			return from
		}
		if found := g.source(from, class); found != nil {
			return found
		}
	}
	return nil
}

// checkpoint is the model that a node works with.
func (g graph) checkpoint(n *node) (name string) {
	if loader := g.source(n, "CheckpointLoaderSimple"); loader != nil {
		name, _ = loader.Inputs["ckpt_name"].(string)
	}
	return name
}

// latent is the longer side of the images that a node works on, and their number.
func (g graph) latent(n *node) (side, batch int) {
	from := g.source(n, "EmptyLatentImage")
	if from == nil {
		return 512, 1
	}
	return int(max(number(from.Inputs["width"]), number(from.Inputs["height"]))), int(number(from.Inputs["batch_size"]))
}

// textTime is what the recorded server needed for a text.
const textTime = 5 * time.Millisecond

// loop expands into the work on one photo and the rest of the loop. Of a loop there is a
// recording that ends in its first photo; how its end is executed is a guess.
func (x *execution) loop(id, display string, n *node) error {
	rest := number(n.Inputs["n"])
	if rest < 1 {
		return nil
	}
	photo := &node{Class: "DDColor_Colorize", Inputs: map[string]any{"image": n.Inputs["image"], "model_input_size": n.Inputs["size"], "checkpoint": "ddcolor_paper.pth"}}
	next := &node{Class: "Loop", Inputs: map[string]any{"image": n.Inputs["image"], "size": n.Inputs["size"], "n": json.Number(strconv.Itoa(int(rest) - 1))}}
	for i, part := range []*node{photo, next} {
		if err := x.node(graph{}, id+".0.0."+strconv.Itoa(i+1), display, id, part); err != nil {
			return err
		}
	}
	return nil
}

// raise is the exception that a Raiser is asked for.
func raise(what any) error {
	if what == "oom_new" {
		return &Failure{
			Type: newerOutOfMemory, Message: "Allocation on device 0 would exceed allowed memory. (out of memory)\n", Traceback: traceback("raise OutOfMemoryError(…)"),
		}
	}
	return &Failure{Type: "RuntimeError", Message: fmt.Sprint(what), Traceback: traceback("raise RuntimeError(…)")}
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

// recorded is an error of which the client and the history have been informed.
type recorded struct{ error }

// The advice that the newer version adds when a GPU has no room.
const outOfMemoryAdvice = "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."

// failed sends how a node failed, and ends the prompt.
func (x *execution) failed(id string, n *node, err error) error {
	if x.ctx.Err() != nil {
		return err
	}
	executed := x.executed
	if executed == nil {
		executed = []string{}
	}
	class := n.Class
	if shown := x.item.graph[id]; shown != nil {
		class = shown.Class
	}
	data := map[string]any{"node_id": id, "node_type": class, "executed": executed}
	var f *Failure
	switch {
	case errors.Is(err, errInterrupted):
		x.record("execution_interrupted", data)
		return &recorded{err}
	case !errors.As(err, &f):
		f = &Failure{Type: "RuntimeError", Message: err.Error()}
	}
	inputs := map[string]any{}
	for name, v := range n.Inputs {
		if isLink(v) {
			source, _ := v.([]any)[0].(string)
			if v = x.item.graph.made(source); x.options.newer() {
				v = "tensor([[[[0.6745, 0.6745, 0.6745],\n          ...,\n          [0.5882, 0.5882, 0.5882]]]])"
			}
		}
		inputs[name] = []any{v}
	}
	text, kind := f.Message, f.Type
	if x.options.newer() && (kind == olderOutOfMemory || kind == newerOutOfMemory) {
		text += outOfMemoryAdvice
	}
	if x.options.NewerTorch && kind == olderOutOfMemory {
		kind = newerOutOfMemory
	}
	data["exception_message"], data["exception_type"], data["traceback"] = text, kind, f.Traceback
	data["current_inputs"], data["current_outputs"] = inputs, append(x.item.graph.ids(), x.expanded...)
	x.record("execution_error", data)
	return &recorded{err}
}
