// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// room is a driver with so many bytes.
type room struct{ left, grabbed int64 }

func (r *room) grab(bytes int64) bool {
	if bytes > r.left {
		return false
	}
	r.left, r.grabbed = r.left-bytes, r.grabbed+bytes
	return true
}

func (r *room) giveBack(bytes int64) { r.left, r.grabbed = r.left+bytes, r.grabbed-bytes }

func TestAllocatorKeepsWhatIsFreed(t *testing.T) {
	r := &room{left: 100 * mib}
	a := &allocator{driver: r}
	first := a.allocate(31*mib + 1)
	require.NotNil(t, first)
	assert.Equal(t, []int64{32 * mib, 32 * mib}, []int64{a.reserved, a.active}, "segments have 2 MiB as their unit; what is left of a large block must be more than 1 MiB to be another")
	a.free(first)
	cut := a.allocate(30*mib + 1)
	assert.Equal(t, []int64{32 * mib, 30*mib + 512}, []int64{a.reserved, a.active})
	a.free(cut)
	assert.Equal(t, []int64{32 * mib, 0}, []int64{a.reserved, a.active})
	small := a.allocate(100)
	assert.Equal(t, []int64{34 * mib, 512}, []int64{a.reserved, a.active}, "small tensors share segments of 2 MiB")
	medium := a.allocate(5 * mib)
	assert.EqualValues(t, 34*mib, a.reserved, "cut from what was freed")
	a.free(small)
	a.empty()
	assert.EqualValues(t, 32*mib, a.reserved, "a segment of which a part is used stays")
	a.free(medium)
	a.empty()
	assert.Zero(t, a.reserved)
	assert.EqualValues(t, 100*mib, r.left)
	require.NotNil(t, a.allocate(5*mib))
	assert.EqualValues(t, 20*mib, a.reserved, "tensors of 1 to 10 MiB share segments of 20 MiB")
}

func TestAllocatorGivesBackBeforeItFails(t *testing.T) {
	a := &allocator{driver: &room{left: 64 * mib}}
	a.free(a.allocate(40 * mib))
	require.NotNil(t, a.allocate(50*mib), "the cached 40 MiB were given back")
	assert.Nil(t, a.allocate(15*mib))
}

// TestAllocatorAddsUp runs random work and compares every count with what it is of.
func TestAllocatorAddsUp(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		r := &room{left: 2000 * mib}
		a := &allocator{driver: r}
		var all []*block
		for range 2000 {
			switch random.IntN(7) {
			case 0, 1, 2:
				if b := a.allocate(random.Int64N(1 << (1 + random.IntN(27)))); b != nil {
					all = append(all, b)
				}
			case 6:
				a.empty()
			default:
				if len(all) > 0 {
					i := random.IntN(len(all))
					a.free(all[i])
					all = slices.Delete(all, i, i+1)
				}
			}
			active, reserved := int64(0), int64(0)
			for _, b := range all {
				active += b.bytes
			}
			for _, s := range a.segments {
				reserved += s.bytes
				inside := int64(0)
				for _, b := range s.blocks {
					inside += b.bytes
				}
				require.Equal(t, s.bytes, inside, "blocks fill their segment")
			}
			require.Equal(t, []int64{active, reserved, reserved, 2000 * mib}, []int64{a.active, a.reserved, r.grabbed, r.left + r.grabbed})
			require.Zero(t, reserved%mib)
		}
	}
}
