// SPDX-License-Identifier: Apache-2.0

package advice

// predictedBound is the bound of what a prompt's tensors need, in bytes; 0 while its memory is not
// known at its size.
func (e *Engine) predictedBound(j *job) float64 {
	k := e.known(j)
	if k == nil || !k.memory.knows(j.size) {
		return 0
	}
	return e.bound(k, j.size)
}

// compareNeed compares the bound that was predicted before a prompt ran with what it needed. That is
// known if the allocator grew for it. One that ran out of memory needed more than the allocator held:
// it counts if that is as much as the bound, since else it may have needed less than that, too.
func (e *Engine) compareNeed(o *observed, x *Execution) {
	if o.bound <= 0 || x.Reserved <= 0 {
		return
	}
	need := float64(x.Reserved)
	switch {
	case x.OutOfMemory && need >= o.bound:
		e.calibrationOf(o.class).addNeed(false, o)
	case x.Succeeded && !x.Cached && x.Grew:
		e.calibrationOf(o.class).addNeed(need <= o.bound, o)
	}
}

// addNeed records whether a need of memory lay at or below its bound.
func (c *calibration) addNeed(covered bool, o *observed) {
	c.last = o.at
	c.covered = append(c.covered, covered)
	c.covered = c.covered[max(len(c.covered)-maxOff, 0):]
}
