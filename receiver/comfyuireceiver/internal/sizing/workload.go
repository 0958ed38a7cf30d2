// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"cmp"
	"math"
	"slices"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// What of a workflow counts. The client writes the workflow, and its size decides how urgent the prompt
// is: nodes that the server does not execute do not count, and a size that cannot be read counts as large.

// workload is the part of a workflow that the server may execute, and what cannot be read of it.
type workload struct {
	sub      *protocol.Submission
	executed []*protocol.Node
	// first are the first nodes with their ids, in the submission's order.
	first map[string]int
	// hidesSize and hidesModel are true if a node's size, or its model, is computed by other nodes.
	hidesSize, hidesModel bool
}

// workload finds the nodes that may be executed: those on which an output node depends. The server knows
// which nodes these are; here any node may be, except those of the built-in rules. It takes time in
// proportion to the nodes and links.
func (s *Sizer) workload(sub *protocol.Submission) *workload {
	nodes := sub.Nodes
	w := &workload{sub: sub, first: make(map[string]int, len(nodes)), hidesSize: sub.IsCut, hidesModel: sub.IsCut}
	counts, next, isLinked := make([]bool, len(nodes)), make([]int, 0, len(nodes)), false
	for i := range nodes {
		if sub.IsCut || !s.isNoOutput(nodes[i].Class) {
			counts[i], next = true, append(next, i)
			isLinked = isLinked || len(nodes[i].Links) > 0
		}
	}
	if !isLinked { // the server executes none of the others, or rejects the prompt
		for i := range counts {
			counts[i] = true
		}
	}
	for i := len(nodes) - 1; i >= 0; i-- { // they are sorted: those with one id follow each other
		w.first[nodes[i].ID] = i
	}
	followed := make([]bool, len(nodes)) // by the first node with an id
	for len(next) > 0 {
		n := &nodes[next[len(next)-1]]
		next = next[:len(next)-1]
		for _, l := range n.Links {
			i, ok := w.first[l.Node]
			if !ok || followed[i] {
				continue
			}
			followed[i] = true
			for ; i < len(nodes) && nodes[i].ID == l.Node; i++ {
				if !counts[i] {
					counts[i], next = true, append(next, i)
				}
			}
		}
	}
	for i := range nodes {
		if counts[i] {
			w.executed = append(w.executed, &nodes[i])
		}
	}
	return w
}

// isNoOutput reports whether nodes of a class are known not to be output nodes.
func (s *Sizer) isNoOutput(class string) bool {
	return slices.ContainsFunc(s.builtIn, func(r Rule) bool { return matches(r.Node, class) })
}

// size is a node's width and height; 0 if it has none, or they cannot be read.
func (w *workload) size(n *protocol.Node, rule *Rule) (width, height float64) {
	if rule.Size != "" {
		side, known := w.number(n, rule.Size)
		w.hidesSize = w.hidesSize || !known
		return side, side
	}
	width, knowsWidth := w.number(n, rule.Width)
	height, knowsHeight := w.number(n, rule.Height)
	isSized := has(n, rule.Width) || has(n, rule.Height) // an empty latent of sound has neither
	if isSized && (rule.Width != "" && !knowsWidth || rule.Height != "" && !knowsHeight) {
		w.hidesSize = true
	}
	return width, height
}

// has reports whether a node has an input, which has a name.
func has(n *protocol.Node, name string) bool {
	_, ok := n.Inputs[name]
	return name != "" && (ok || isLinked(n, name))
}

func isLinked(n *protocol.Node, name string) bool { return name != "" && lastLink(n, name) >= 0 }

// maxSteps bounds the links that are followed to a number.
const maxSteps = 4

// number is the number of a node's input, or of the constant that it is linked to. It is known if it
// can be read; a known number that no image can have is 0.
func (w *workload) number(n *protocol.Node, name string) (value float64, known bool) {
	if name == "" {
		return 0, false
	}
	for range maxSteps {
		if value, ok := n.Inputs[name]; ok {
			return literal(value)
		}
		i := lastLink(n, name)
		if i < 0 {
			return 0, false
		}
		if n = w.node(n.Links[i].Node); n == nil || !isConstant(n.Class) {
			return 0, false
		}
		name = constantInput
	}
	return 0, false
}

// lastLink is the index of an input's last link: the server uses the last of the same name.
func lastLink(n *protocol.Node, name string) int {
	for i := len(n.Links) - 1; i >= 0; i-- {
		if n.Links[i].Input == name {
			return i
		}
	}
	return -1
}

// node is the node with an id; nil if there is none, or more than one.
func (w *workload) node(id string) *protocol.Node {
	all := w.sub.Nodes
	i, ok := w.first[id]
	if !ok || id == "" || i+1 < len(all) && all[i+1].ID == id {
		return nil
	}
	return &all[i]
}

// constantInput is the input of a constant that is its number.
const constantInput = "value"

// isConstant reports whether nodes of a class return their input [constantInput] as it is.
func isConstant(class string) bool {
	switch class {
	case "PrimitiveInt", "PrimitiveFloat", "INTConstant", "FloatConstant", "ImpactInt", "ImpactFloat", "easy int", "easy float":
		return true
	}
	return false
}

// fit says whether a prompt is of a class, as far as that can be read.
type fit int

const (
	fitsNot fit = iota
	mayFit
	fits
)

// class is the first class that fits. While something of a prompt cannot be read, it is the class of the
// largest images among those that may fit: a client gains nothing by hiding a size.
func (s *Sizer) class(w *workload, z *Sizing) string {
	var found []*TaskClass
	certain := false
	for i := range s.classes {
		c := &s.classes[i]
		f := min(w.fitsSide(c, z.Side()), w.fitsModel(c, z.Model), w.fitsNode(c))
		if f == fitsNot {
			continue
		}
		found = append(found, c)
		if certain = f == fits; certain {
			break
		}
	}
	if len(found) == 0 {
		return Other
	}
	largest := slices.MaxFunc(found, func(a, b *TaskClass) int { return a.compareSize(b) })
	if !certain && len(found) == 1 && largest.MaxSide > 0 && largest.MinSide <= 1 {
		return Other // the class of small images alone
	}
	return largest.Name
}

// compareSize orders classes by the largest images that they may have.
func (c *TaskClass) compareSize(other *TaskClass) int {
	return cmp.Or(cmp.Compare(c.maxSide(), other.maxSide()), cmp.Compare(c.MinSide, other.MinSide))
}

func (c *TaskClass) maxSide() int {
	if c.MaxSide == 0 {
		return math.MaxInt
	}
	return c.MaxSide
}

// fitsSide compares the longer side that is known; that of a hidden size may be longer.
func (w *workload) fitsSide(c *TaskClass, side float64) fit {
	switch isLong, isShort := c.MaxSide > 0 && side > float64(c.MaxSide), c.MinSide > 0 && side < float64(c.MinSide); {
	case isLong:
		return fitsNot
	case w.hidesSize && (c.MaxSide > 0 || isShort):
		return mayFit
	case isShort:
		return fitsNot
	}
	return fits
}

func (w *workload) fitsModel(c *TaskClass, model string) fit {
	switch {
	case c.Model == "" || matches(c.Model, model):
		return fits
	case w.hidesModel:
		return mayFit
	}
	return fitsNot
}

func (w *workload) fitsNode(c *TaskClass) fit {
	switch {
	case c.Node == "" || slices.ContainsFunc(w.executed, func(n *protocol.Node) bool { return matches(c.Node, n.Class) }):
		return fits
	case w.sub.IsCut:
		return mayFit
	}
	return fitsNot
}
