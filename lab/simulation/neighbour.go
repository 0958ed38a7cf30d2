// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"time"
)

// UseBeside has a program that sends no traces use some percent of the GPU, at little power, and
// 1 GiB of its memory, until the context ends.
func (c *GPU) UseBeside(ctx context.Context, pid int, percent int64) {
	other := &worker{pid: pid, held: 1024, load: segment{gpu: percent, bandwidth: percent / 2, power: 0.02}}
	c.join(other)
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	other.load, other.held = segment{}, 0
	c.show(time.Now())
}
