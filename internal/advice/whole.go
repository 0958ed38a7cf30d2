// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"cmp"
	"slices"
	"time"
)

// Node is a node that ran in an execution.
type Node struct {
	ID  string
	Ran time.Duration
}

// heaviest is the node of a kind of prompts that has most of the time: of executions, each in favour of
// its longest node by its seconds, the one with the majority (by Boyer and Moore, which keep one
// candidate and by how much it is ahead).
type heaviest struct {
	id    string
	ahead float64
}

// maxAhead bounds by how many seconds one is ahead, so that another one comes to be.
const maxAhead = 1000

// add counts an execution.
func (h *heaviest) add(nodes []Node) {
	if len(nodes) == 0 {
		return
	}
	longest := slices.MaxFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Ran, b.Ran) })
	switch took := longest.Ran.Seconds(); {
	case longest.ID == h.id:
		h.ahead = min(h.ahead+took, maxAhead)
	case took > h.ahead:
		h.id, h.ahead = longest.ID, took-h.ahead
	default:
		h.ahead -= took
	}
}

// isPart reports whether an execution did a part of the work only, the rest of which was cached: of its
// cost the whole's cannot be learned. Loaders are cached in ordinary executions, so that it is the
// heaviest node that must have run. Where traces have no nodes that is not known.
func (h *heaviest) isPart(x *Execution) bool {
	return x.CachedNodes > 0 && h.id != "" && len(x.Nodes) > 0 && !slices.ContainsFunc(x.Nodes, func(n Node) bool { return n.ID == h.id })
}
