// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// node is one node of a prompt.
type node struct {
	Class  string         `json:"class_type"`
	Inputs map[string]any `json:"inputs"`
}

// graph is a prompt that was read.
type graph map[string]*node

func readGraph(raw json.RawMessage) (graph, error) {
	g := graph{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return g, d.Decode(&g)
}

// ids are the nodes' ids in the order of their numbers.
func (g graph) ids() []string {
	ids := make([]string, 0, len(g))
	for id := range g {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool {
		if len(ids[i]) != len(ids[j]) {
			return len(ids[i]) < len(ids[j])
		}
		return ids[i] < ids[j]
	})
	return ids
}

// links are the nodes that a node takes its inputs from, in a fixed order.
func (g graph) links(id string) (from []string) {
	return g.linksBut(id, nil)
}

// linksBut are the links of a node, some inputs aside.
func (g graph) linksBut(id string, but []string) (from []string) {
	n := g[id]
	names := make([]string, 0, len(n.Inputs))
	for name := range n.Inputs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if isLink(n.Inputs[name]) && !slices.Contains(but, name) {
			if source, ok := n.Inputs[name].([]any)[0].(string); ok && g[source] != nil && !slices.Contains(from, source) {
				from = append(from, source)
			}
		}
	}
	return from
}

// made is what stands for a node's output in an error's inputs: the name of the
// image that it came from.
func (g graph) made(id string) any {
	n := g[id]
	if n == nil {
		return nil
	}
	if name, ok := n.Inputs["image"].(string); ok {
		return name
	}
	for _, source := range g.links(id) {
		if v := g.made(source); v != nil {
			return v
		}
	}
	return nil
}

// signature is what a node's outputs depend on.
func (g graph) signature(id string) string {
	n := g[id]
	names := make([]string, 0, len(n.Inputs))
	for name := range n.Inputs {
		names = append(names, name)
	}
	slices.Sort(names)
	var text strings.Builder
	text.WriteString(n.Class)
	for _, name := range names {
		v := n.Inputs[name]
		if isLink(v) {
			if source, ok := v.([]any)[0].(string); ok && g[source] != nil {
				fmt.Fprint(&text, "|", name, "=(", g.signature(source), ")", v.([]any)[1])
				continue
			}
		}
		fmt.Fprint(&text, "|", name, "=", v)
	}
	return text.String()
}

// rejection is the body of a 400.
type rejection struct {
	Error struct {
		Type    string         `json:"type"`
		Message string         `json:"message"`
		Details string         `json:"details"`
		Extra   map[string]any `json:"extra_info"`
	} `json:"error"`
	Nodes map[string]*nodeProblems `json:"node_errors"`
}

type nodeProblems struct {
	Errors    []problem `json:"errors"`
	Dependent []string  `json:"dependent_outputs"`
	Class     string    `json:"class_type"`
}

func reject(kind, message, details string, nodes map[string]*nodeProblems) *rejection {
	r := &rejection{Nodes: nodes}
	r.Error.Type, r.Error.Message, r.Error.Details, r.Error.Extra = kind, message, details, map[string]any{}
	if nodes == nil {
		r.Nodes = map[string]*nodeProblems{}
	}
	return r
}

// validate checks a prompt as the server does: the outputs that are sound are
// executed, unless there is none, and of them only the targets, if there are any. Images
// that were uploaded are known to uploaded.
func (g graph) validate(uploaded func(name string) bool, targets []string) (outputs []string, nodes map[string]*nodeProblems, refused *rejection) {
	nodes = map[string]*nodeProblems{}
	all := 0
	for _, id := range g.ids() {
		if classes[g[id].Class] == nil {
			return nil, nodes, reject("invalid_prompt", fmt.Sprintf("Cannot execute because node %s does not exist.", g[id].Class), fmt.Sprintf("Node ID '#%s'", id), nil)
		}
	}
	for _, id := range g.ids() {
		if !classes[g[id].Class].output || targets != nil && !slices.Contains(targets, id) {
			continue
		}
		all++
		if g.sound(id, id, nodes, uploaded) {
			outputs = append(outputs, id)
		}
	}
	switch {
	case all == 0:
		return nil, nodes, reject("prompt_no_outputs", "Prompt has no outputs", "", nil)
	case len(outputs) == 0:
		return nil, nodes, reject("prompt_outputs_failed_validation", "Prompt outputs failed validation", "", nodes)
	}
	slices.Reverse(outputs) // a set in Python: this is the order that was recorded
	return outputs, nodes, nil
}

// sound checks a node and what it needs, on behalf of an output.
func (g graph) sound(id, output string, nodes map[string]*nodeProblems, uploaded func(string) bool) bool {
	n := g[id]
	ok := true
	for _, source := range g.links(id) {
		ok = g.sound(source, output, nodes, uploaded) && ok
	}
	var problems []problem
	c := classes[n.Class]
	for i := range c.inputs {
		v, given := n.Inputs[c.inputs[i].name]
		if name, ok := v.(string); ok && n.Class == "LoadImage" && uploaded(name) {
			continue
		}
		if p := c.inputs[i].check(v, given); p != nil {
			problems = append(problems, *p)
		}
	}
	if len(problems) == 0 {
		return ok
	}
	if nodes[id] == nil {
		nodes[id] = &nodeProblems{Errors: problems, Class: n.Class}
	}
	if !slices.Contains(nodes[id].Dependent, output) {
		nodes[id].Dependent = append(nodes[id].Dependent, output)
	}
	return false
}
