// SPDX-License-Identifier: Apache-2.0

package gputimeline

import "strings"

// partTime are the models whose sensor samples power during a part of the time only, and
// that part (arXiv 2312.02741, 70 GPUs). It was published for the power reading; that the
// counter misses the rest is an assumption.
var partTime = []struct {
	model string
	share float64
}{{"A100", 0.25}, {"H100", 0.25}}

// sampledShare is the share of the time in which a model's counter samples the power.
func sampledShare(model string) float64 {
	for _, p := range partTime {
		if strings.Contains(model, p.model) {
			return p.share
		}
	}
	return 1
}
