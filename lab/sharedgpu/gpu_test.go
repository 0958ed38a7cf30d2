// SPDX-License-Identifier: Apache-2.0

package sharedgpu

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// piece is work that begins after a time.
type piece struct{ after, exclusive time.Duration }

// ends are when pieces of work end that share a GPU, each of its own process.
func ends(t *testing.T, pieces []piece) []time.Duration {
	t.Helper()
	ends := make([]time.Duration, len(pieces))
	synctest.Test(t, func(t *testing.T) {
		g, begin := New(law.GiB, 0, &Latest{}), time.Now()
		var all sync.WaitGroup
		for i, p := range pieces {
			process := g.Process(i + 1)
			all.Go(func() {
				time.Sleep(p.after)
				done, err := process.Work(t.Context(), p.exclusive)
				assert.NoError(t, err)
				assert.Equal(t, p.exclusive, done)
				ends[i] = time.Since(begin)
			})
		}
		all.Wait()
		var sum, latest time.Duration
		for i, p := range pieces {
			sum, latest = sum+p.exclusive, max(latest, ends[i])
		}
		assert.InDelta(t, min(sum, latest), g.Busy(), float64(len(pieces)), "work is conserved")
	})
	return ends
}

// TestTimeIsSlicedAmongThoseThatWork compares with ends that were computed by hand.
func TestTimeIsSlicedAmongThoseThatWork(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		pieces []piece
		ends   []time.Duration
	}{
		"alone":                             {[]piece{{0, 2 * s}}, []time.Duration{2 * s}},
		"two equal ones take twice as long": {[]piece{{0, 2 * s}, {0, 2 * s}}, []time.Duration{4 * s, 4 * s}},
		// The second comes when the first has 1 s left: both run at half speed, the first ends 2 s
		// later, and the second has 2 s left that it runs alone.
		"one comes later": {[]piece{{0, 2 * s}, {1 * s, 3 * s}}, []time.Duration{3 * s, 5 * s}},
		// At thirds until 3 s, where the first ends; the rest has 1 and 2 s left: halves until 5 s,
		// then 1 s alone.
		"three": {[]piece{{0, 1 * s}, {0, 2 * s}, {0, 3 * s}}, []time.Duration{3 * s, 5 * s, 6 * s}},
		// 10 s, of which 1 s is alone, then 0.5 s of work a second while the second has 2 s of work
		// (until 5 s), then alone.
		"a short one in the middle of a long one": {[]piece{{0, 10 * s}, {1 * s, 2 * s}}, []time.Duration{12 * s, 5 * s}},
		"one after the other":                     {[]piece{{0, 1 * s}, {1 * s, 1 * s}}, []time.Duration{1 * s, 2 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			got := ends(t, c.pieces)
			for i := range got {
				assert.InDelta(t, c.ends[i], got[i], 1, "to a nanosecond: %v", got)
			}
		})
	}
}

// TestSharingIsExactOverManyChanges replays random work in small steps of arithmetic.
func TestSharingIsExactOverManyChanges(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		pieces := make([]piece, 12)
		left, want := make([]float64, len(pieces)), make([]float64, len(pieces))
		for i := range pieces {
			pieces[i] = piece{time.Duration(random.Int64N(int64(10 * time.Second))), time.Duration(1 + random.Int64N(int64(3*time.Second)))}
			left[i] = float64(pieces[i].exclusive)
		}
		// From one change to the next, in floating point.
		for now := 0.0; ; {
			next, k := 1e18, 0
			for i, p := range pieces {
				switch {
				case float64(p.after) > now:
					next = min(next, float64(p.after))
				case left[i] > 0:
					k++
				}
			}
			for i, p := range pieces {
				if float64(p.after) <= now && left[i] > 0 {
					next = min(next, now+left[i]*float64(k))
				}
			}
			if next == 1e18 {
				break
			}
			for i, p := range pieces {
				if float64(p.after) <= now && left[i] > 0 {
					if left[i] -= (next - now) / float64(k); left[i] < 1e-3 {
						left[i], want[i] = 0, next
					}
				}
			}
			now = next
		}
		for i, got := range ends(t, pieces) {
			require.InDelta(t, want[i], float64(got), 20, "seed %d, piece %d: each change rounds to a nanosecond at most", seed, i)
		}
	}
}

func TestWorkThatIsCutOffReturnsWhatWasDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(law.GiB, 0, &Latest{})
		a, b := g.Process(1), g.Process(2)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			done, err := a.Work(ctx, 10*time.Second)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, 2*time.Second, done, "1 s alone, 2 s at half speed")
		})
		all.Go(func() {
			time.Sleep(time.Second)
			begin := time.Now()
			_, err := b.Work(t.Context(), 3*time.Second)
			assert.NoError(t, err)
			assert.Equal(t, 4*time.Second, time.Since(begin), "1 s of work until the other left, then alone")
		})
		all.Wait()
	})
}

// TestSharingWorksInRealTime keeps to the shape of a burst on a machine that may be slow.
func TestSharingWorksInRealTime(t *testing.T) {
	g, begin := New(law.GiB, 0, &Latest{}), time.Now()
	var all sync.WaitGroup
	for pid := range 2 {
		p := g.Process(pid + 1)
		all.Go(func() {
			_, err := p.Work(t.Context(), 50*time.Millisecond)
			assert.NoError(t, err)
		})
	}
	all.Wait()
	assert.GreaterOrEqual(t, time.Since(begin), 95*time.Millisecond)
}

// TestLatenessDoesNotAddUp has a goroutine be late between short pieces of work.
func TestLatenessDoesNotAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const late, each = 7 * time.Millisecond, 5 * time.Millisecond
		p, begin := New(law.GiB, 0, &Latest{}).Process(1), time.Now()
		for i := range 100 {
			if i%5 == 2 {
				time.Sleep(late)
			}
			_, err := p.work(t.Context(), each, i > 0)
			require.NoError(t, err)
		}
		assert.Equal(t, 100*each, time.Since(begin))
		time.Sleep(late)
		_, err := p.Work(t.Context(), each)
		require.NoError(t, err)
		assert.Equal(t, 101*each+late, time.Since(begin), "work that does not continue begins when it does")
	})
}

func TestTheScreenShowsMemoryAndWorkOfProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		screen := &Latest{}
		const unlisted = 30 * law.MiB
		g := New(8*law.GiB+unlisted, unlisted, screen)
		assert.EqualValues(t, 8*law.GiB, g.Total())
		a, b := g.Process(11), g.Process(22)
		require.True(t, a.grow(3*law.GiB))
		require.True(t, b.grow(5*law.GiB))
		assert.False(t, b.grow(1), "the GPU is full")
		assert.False(t, b.Hold(5*law.GiB+1))
		assert.True(t, b.Hold(2*law.GiB))
		assert.EqualValues(t, 2*law.GiB, b.Held())
		assert.True(t, b.Hold(5*law.GiB))
		b.shrink(law.GiB)
		go func() { _, _ = a.Work(t.Context(), time.Second) }()
		synctest.Wait()
		assert.Equal(t, Readings{
			Time: time.Now(), Total: 8*law.GiB + unlisted, Used: 7*law.GiB + unlisted, Working: true,
			Processes: []ProcessReading{{11, 3 * law.GiB, true}, {22, 4 * law.GiB, false}},
		}, screen.Readings())
		b.shrink(4 * law.GiB)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, Readings{Time: time.Now(), Total: 8*law.GiB + unlisted, Used: 3*law.GiB + unlisted, Processes: []ProcessReading{{11, 3 * law.GiB, false}}}, screen.Readings())
	})
}

func TestTenantTakesAndReturnsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(4*law.GiB, 0, &Latest{})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { g.Tenant(ctx, 7, rand.New(rand.NewPCG(1, 1))) })
		changes, held := 0, false
		count := func(seconds int) {
			for range seconds {
				time.Sleep(time.Second)
				free := g.Free()
				require.True(t, free == 4*law.GiB || free == 2*law.GiB)
				if now := free == 2*law.GiB; now != held {
					changes, held = changes+1, now
				}
			}
		}
		count(3600)
		assert.Greater(t, changes, 2*3600/180, "it takes and returns it at least every three minutes")
		for held {
			count(1)
		}
		other := g.Process(8)
		require.True(t, other.grow(3*law.GiB))
		changes = 0
		for range 600 {
			time.Sleep(time.Second)
			require.Equal(t, int64(law.GiB), g.Free(), "it does not fit, and so is not taken")
		}
		other.shrink(3 * law.GiB)
		count(600)
		assert.Positive(t, changes)
		cancel()
		all.Wait()
		assert.EqualValues(t, 4*law.GiB, g.Free())
	})
}
