// SPDX-License-Identifier: Apache-2.0

package sizing

import "github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"

const (
	// multiple is what sizes are rounded down to: latent images have an eighth of an image's pixels in
	// each direction.
	multiple = 8
	// minLower and minShorter are the least that a longer and a shorter side are lowered to, in pixels.
	minLower   = 64
	minShorter = 16
)

// Lower is what to change in a submission so that no side which [Sizer.Of] reads exceeds a number of
// pixels: both sides of a node are lowered in proportion. Inputs that are links to other nodes are
// among the edits with the value 0. ok is false if nothing can be lowered so far.
func (s *Sizer) Lower(sub *protocol.Submission, side int) (edits []protocol.Edit, ok bool) {
	if side < minLower {
		return nil, false
	}
	for i := range sub.Nodes {
		n := &sub.Nodes[i]
		if i > 0 && n.ID == sub.Nodes[i-1].ID { // they are sorted; which of the two counts is not known
			return nil, false
		}
		rule := s.rule(n.Class)
		if rule == nil {
			continue
		}
		inputs := []string{rule.Width, rule.Height}
		if rule.Size != "" {
			inputs = []string{rule.Size}
		}
		longer := 0.0
		for _, name := range inputs {
			value, _ := literal(n.Inputs[name])
			longer = max(longer, value)
		}
		for _, name := range inputs {
			if name == "" {
				continue
			}
			e := protocol.Edit{Node: n.ID, Input: name}
			if value, _ := literal(n.Inputs[name]); value > 0 && longer > float64(side) {
				e.Value = int(value*float64(side)/longer) / multiple * multiple
				if e.Value < minShorter {
					return nil, false
				}
				ok = true
			}
			edits = append(edits, e)
		}
	}
	return edits, ok
}
