// SPDX-License-Identifier: Apache-2.0

package advice

import "github.com/otelcol-gpu/otelcol-gpu/internal/lru"

// manyExecutions is from how many executions on a kind is of the highest rank; it is of the middle one from
// minExecutions on, from when on there are predictions.
const manyExecutions = 20

// newKinds makes the place for what is learned of so many kinds. A client chooses its workflow's id, and can
// make as many kinds as it sends prompts: so those of which fewest executions were seen make room first.
func newKinds(limit int) *lru.Cache[Kind, kind] {
	const ranks = 3
	return lru.NewRanked[Kind, kind](limit, ranks)
}

// rank is that of a kind.
func (k *kind) rank() int {
	switch n := max(len(k.time.samples), len(k.memory.samples), len(k.memory.least)); {
	case n >= manyExecutions:
		return 2
	case n >= minExecutions:
		return 1
	}
	return 0
}

// kindOf is the kind of a server's prompts.
func (e *Engine) kindOf(s *server, workflow, model string) Kind {
	k := Kind{Workflow: workflow, Model: model, Version: s.version, Arguments: s.arguments}
	if s.gpu != nil {
		k.GPU = s.gpu.product
	}
	return k
}
