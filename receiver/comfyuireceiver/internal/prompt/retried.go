// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Retried is the work of a node, or of an execution, that ran out of memory and was tried again.
type Retried struct {
	// Time is for how long the second tries lasted, Count how many there were.
	Time  time.Duration `json:"time,omitempty"`
	Count int           `json:"count,omitempty"`
	// first is when the first of them began.
	first time.Time
}

// SetRetries sets what was tried again of the nodes, and of the whole, by the server's log. A
// retry belongs to the node that had begun last.
func (p *Prompt) SetRetries(all []protocol.Retry) {
	lines := map[*Node][]protocol.Retry{}
	for _, r := range all {
		if n := p.nodeAt(r.At); n != nil {
			lines[n] = append(lines[n], r)
		}
	}
	for _, n := range p.Nodes {
		if len(lines[n]) == 0 {
			continue
		}
		n.Retried = n.retried(lines[n])
		p.Retried.Time += n.Retried.Time
		p.Retried.Count += n.Retried.Count
	}
	p.Retried.Time = min(p.Retried.Time, p.Ended.Sub(p.Started))
}

// nodeAt is the node that ran at a time, and had begun last.
func (p *Prompt) nodeAt(at time.Time) (latest *Node) {
	for _, n := range p.Nodes {
		if n.Start.After(at) || n.End.Before(at) {
			continue
		}
		if latest == nil || !n.Start.Before(latest.Start) {
			latest = n
		}
	}
	return latest
}

// retried adds up the retries of a node, of which some may have run out of memory again.
func (n *Node) retried(lines []protocol.Retry) (r Retried) {
	slices.SortFunc(lines, func(a, b protocol.Retry) int { return a.At.Compare(b.At) })
	r.first, r.Count = lines[0].At, len(lines)
	step, hasSteps := n.steps.Each()
	until := n.Start
	for _, line := range lines {
		end := n.End
		if !line.Tiled && hasSteps {
			end = line.At.Add(step)
		}
		if end.After(n.End) {
			end = n.End
		}
		from := line.At
		if from.Before(until) {
			from = until
		}
		if end.After(from) {
			r.Time += end.Sub(from)
			until = end
		}
	}
	return r
}
