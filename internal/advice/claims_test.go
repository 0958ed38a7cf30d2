// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// TestNumbersOfClaimsCannotBeGuessed: each of their bits is as often set as not. Of 4096 claims that is
// between 40 % and 60 %, 12 standard deviations away.
func TestNumbersOfClaimsCannotBeGuessed(t *testing.T) {
	w := newWorld(t, "a")
	var last uint64
	set, numbers := [64]int{}, map[uint64]bool{}
	for range maxClaims {
		var d admission.Decision
		w.claim(&d, &job{server: w.Engine.servers["a"]}, &timing{}, w.now)
		require.NotZero(t, d.Claim)
		for bit := range set {
			set[bit] += int(d.Claim >> bit & 1)
		}
		numbers[d.Claim], last = true, d.Claim
	}
	assert.Len(t, numbers, maxClaims, "each claim has a number of its own")
	for bit, n := range set {
		if bit < claimBits {
			assert.InDelta(t, 0.5, float64(n)/maxClaims, 0.1, "bit %d", bit)
		} else {
			assert.Zero(t, n, "bit %d: JavaScript would round the number", bit)
		}
	}
	// A caller that has a claim cannot end those before it and after it.
	for guess := last - maxClaims; guess <= last+maxClaims; guess++ {
		if !numbers[guess] {
			w.Settle(guess, "")
		}
	}
	w.Settle(0, "")
	assert.Equal(t, maxClaims, w.Claims())
	w.Settle(last, "")
	assert.Equal(t, maxClaims-1, w.Claims())
}

// TestTheOldestClaimExpiresFirst of those that were not settled before.
func TestTheOldestClaimExpiresFirst(t *testing.T) {
	c, w := newClaims(), newWorld(t, "a")
	first, second, third := &job{}, &job{}, &job{}
	for _, j := range []*job{first, second, third} {
		require.True(t, c.add(j, w.now))
	}
	number := second.claim
	c.end(first)
	c.end(first) // once more changes nothing
	assert.Zero(t, first.claim)
	assert.Same(t, second, c.oldest())
	assert.Same(t, second, c.find(number))
	c.end(second)
	assert.Nil(t, c.find(number))
	assert.Same(t, third, c.oldest())
	c.end(third)
	assert.Nil(t, c.oldest())
	assert.Empty(t, c.byNumber)
}
