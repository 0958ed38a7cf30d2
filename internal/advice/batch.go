// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"slices"
	"time"
)

// batchWaits reports whether a batch prompt has to wait for other work: enough batch prompts wait at
// its server while other work waits there, or other work waits at a neighbour, which it would slow
// down.
func (e *Engine) batchWaits(s *server) bool {
	batch := 0
	for _, j := range s.queue {
		if j.batch {
			batch++
		}
	}
	return slices.ContainsFunc(s.gpu.servers, func(o *server) bool {
		core := o.past > 0 || slices.ContainsFunc(o.queue, func(j *job) bool { return e.isCore(j.class) })
		return core && (o != s || batch >= e.settings.BatchWaiting)
	})
}

// heldAgain is a time within which a prompt that is held is asked about again.
const heldAgain = time.Second

// holdsCore reports whether core work is held for memory of the GPU, whose work may make room: more batch
// would keep it from coming to rest.
func (g *gpu) holdsCore(now time.Time) bool { return now.Sub(g.coreHeld) < heldAgain && !g.rests() }

// crowd is how many batch prompts are expected to come again to a server when there is always one at
// once.
const crowd = 10

// isCrowded reports whether there is always a batch prompt that comes again at once.
func (s *server) isCrowded() bool { return s.gpu.promises.at[s] >= crowd }

// crowded reports whether a batch prompt had better come again: others wait, and there will be one as
// soon as the last of them has begun. What waits longer may be overtaken by core work, and be late.
func (s *server) crowded() bool { return s.isCrowded() && len(s.queue) > 0 }
