// SPDX-License-Identifier: Apache-2.0

package join

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// stretch is an item of an ordered list.
type stretch struct {
	at   place
	ends int64
}

func (s *stretch) place() place { return s.at }
func (s *stretch) until() int64 { return s.ends }

// A list that is searched from its first item to its last finds the same.
func TestAnOrderedListFindsWhatAPlainOneFinds(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var list ordered[*stretch]
		var plain []*stretch
		for i := range 3000 {
			if len(plain) > 0 && r.IntN(5) < 2 {
				n := r.IntN(len(plain))
				require.True(t, list.remove(plain[n]))
				require.False(t, list.remove(plain[n]), "it is not there any more")
				plain = slices.Delete(plain, n, n+1)
			} else {
				at := int64(r.IntN(500))
				if r.IntN(2) == 0 {
					at = int64(i) // in order
				}
				s := &stretch{place{at, uint64(i)}, at + int64(r.IntN(100))}
				if r.IntN(50) == 0 {
					s.ends = math.MaxInt64
				}
				list.insert(s)
				n, _ := slices.BinarySearchFunc(plain, s.at, func(x *stretch, p place) int { return x.at.compare(p) })
				plain = slices.Insert(plain, n, s)
			}
			if i%100 != 99 {
				continue
			}
			p := place{int64(r.IntN(600)), 0}
			var after, want []*stretch
			for q := p; ; {
				some := list.from(q)
				if len(some) == 0 {
					break
				}
				require.LessOrEqual(t, len(some), maxChunk)
				after = append(after, some...)
				last := some[len(some)-1].at
				q = place{last.at, last.seq + 1}
			}
			for _, s := range plain {
				if s.at.compare(p) >= 0 {
					want = append(want, s)
				}
			}
			require.Equal(t, want, after)
			var lasting, wanted []*stretch
			for q := p; ; {
				some := list.before(q, p.at)
				if len(some) == 0 {
					break
				}
				require.LessOrEqual(t, len(some), maxChunk)
				for _, s := range slices.Backward(some) {
					if s.ends >= p.at {
						lasting = append(lasting, s)
					}
				}
				q = some[0].at
			}
			for _, s := range slices.Backward(plain) {
				if s.at.compare(p) < 0 && s.ends >= p.at {
					wanted = append(wanted, s)
				}
			}
			require.Equal(t, wanted, lasting)
			require.Equal(t, len(plain), list.n)
		}
	}
}
