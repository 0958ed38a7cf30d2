// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// short is a plan for tests of every day.
func short(setup Setup, seed uint64, offered float64) Plan {
	p := NewPlan(setup, seed, offered)
	p.Lasts, p.CapacityLasts = 300*time.Second, 200*time.Second
	return p
}

func TestTheSetupsFitAsTheirNamesSay(t *testing.T) {
	t.Parallel()
	const context, largest = 840 * law.MiB, 1280
	for seed := range uint64(100) {
		l := law.New(seed)
		load := law.Load{Side: largest, Batch: 1, Checkpoint: law.DefaultCheckpoint}
		most := l.NeedQuantile(load, 0.9999)
		require.LessOrEqual(t, 2*(context+most), Setups[1].Memory, "16 GiB hold two of the largest")
		require.Greater(t, 2*(600*law.MiB+l.NeedQuantile(load, 0.5)), Setups[2].Memory, "8 GiB do not")
		require.LessOrEqual(t, 2*context+l.NeedQuantile(load, 0.9), Setups[2].Memory, "but one")
	}
}

// TestOneServerIsAQueue compares each client's fate at one server without a response with the
// arithmetic of a queue: first come, first served, and nobody is taken out of it.
func TestOneServerIsAQueue(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 2; seed++ {
		p := short(Setups[0], seed, 2)
		p.Lasts = 150 * time.Second
		r := Run(t, p, nil)
		free, late := r.Begin, 0
		for _, c := range r.Records {
			ends := later(free, c.Came).Add(c.Cost.Host + c.Cost.Exclusive)
			free = ends
			require.Equal(t, !ends.After(c.Came.Add(c.Limit)), c.Got, "seed %d, client %d", seed, c.Number)
			if !c.Got {
				late++
				require.Equal(t, c.Limit, c.Left.Sub(c.Came), "it leaves when its time is up")
			}
			if !c.Ended.IsZero() { // though nobody waits for it any more
				require.WithinDuration(t, ends, c.Ended, time.Microsecond, "seed %d, client %d", seed, c.Number)
				require.InDelta(t, c.Cost.Exclusive, c.Worked.Exclusive, 1000)
			}
		}
		require.Greater(t, late, len(r.Records)/2)
		f := r.Figures()
		assert.InDelta(t, 1, f.Useful+f.Dead, 0.1, "all of the GPU's time was used: %+v", f)
		assert.Less(t, f.Useful, 0.5)
		assert.Zero(t, f.Idle)
		assert.Zero(t, f.OutOfMemory)
	}
}

// TestTwoServersOn8GiBRunOutOfMemory and on 16 GiB do not.
func TestTwoServersOn8GiBRunOutOfMemory(t *testing.T) {
	t.Parallel()
	p, q := short(Setups[1], 1, 1), short(Setups[2], 1, 1)
	p.Lasts, q.Lasts = 150*time.Second, 150*time.Second
	ample, scarce := Run(t, p, nil), Run(t, q, nil)
	assert.Zero(t, ample.Figures().OutOfMemory)
	assert.InDelta(t, 1, ample.Capacity, 0.02, "two servers are as fast as one")
	assert.Greater(t, scarce.Figures().OutOfMemory, 0.15)
	assert.Less(t, scarce.Capacity, 0.9)
}

// TestTheSameSeedIsTheSameRun compares every time of two runs, and of another seed's.
func TestTheSameSeedIsTheSameRun(t *testing.T) {
	t.Parallel()
	p := short(Setups[2], 3, 2)
	p.Tenant = true
	p.Lasts = 80 * time.Second
	a, b := Run(t, p, withOracle), Run(t, p, withOracle)
	require.Len(t, b.Records, len(a.Records))
	assert.InDelta(t, a.Capacity, b.Capacity, 0)
	for i := range a.Records {
		require.Equal(t, *a.Records[i].Request, *b.Records[i].Request)
		x, y := *a.Records[i], *b.Records[i]
		x.Request, y.Request, x.Err, y.Err = nil, nil, nil, nil
		require.Equal(t, x, y)
	}
	p.Seed = 4
	other := Run(t, p, nil)
	assert.NotEqual(t, a.Records[0].Cost, other.Records[0].Cost)
	assert.NotEqual(t, a.Records[0].At, other.Records[0].At)
}

// TestAProxyThatDoesNothingChangesNothing compares every time.
func TestAProxyThatDoesNothingChangesNothing(t *testing.T) {
	t.Parallel()
	p := short(Setups[1], 2, 2)
	p.Lasts = 100 * time.Second
	without, with := RunWith(t, p, 1, nil), RunWith(t, p, 1, func(*Node) Response { return passes{} })
	require.Len(t, with.Records, len(without.Records))
	for i := range with.Records {
		x, y := *without.Records[i], *with.Records[i]
		x.Request, y.Request, x.Err, y.Err = nil, nil, nil, nil
		require.Equal(t, x, y)
	}
}

// TestArrivalsAreAtTheOfferedRate compares an hour of them with what the plan says.
func TestArrivalsAreAtTheOfferedRate(t *testing.T) {
	t.Parallel()
	const capacity = 0.9
	for _, offered := range []float64{0.7, 1, 5} {
		p := NewPlan(Setups[1], 3, offered)
		p.Lasts = 10 * time.Hour // 6,000 prompts at the least: standard errors of 1.3 % at most
		l := law.New(p.Seed)
		work, gaps, squares, last, servers, number := [2]float64{}, 0.0, 0.0, time.Duration(0), [2]float64{}, 0
		ids := map[string]bool{}
		for i, r := range arrivals(l, &p, capacity) {
			require.Equal(t, i, r.Number)
			require.False(t, ids[r.ID])
			ids[r.ID] = true
			require.Equal(t, l.Draw(r.ID, r.Load), r.Cost)
			work[r.Class] += r.Cost.Exclusive.Seconds()
			servers[r.Server]++
			gap := (r.At - last).Seconds()
			require.Positive(t, gap)
			gaps, squares, last, number = gaps+gap, squares+gap*gap, r.At, number+1
		}
		all := offered * capacity * (p.Lasts + p.patience()).Seconds()
		assert.InEpsilon(t, all, work[0]+work[1], 0.06)
		assert.InEpsilon(t, p.CoreShare, work[0]/(work[0]+work[1]), 0.06)
		if offered >= 1 {
			assert.InEpsilon(t, 0.7*all/offered, work[0], 0.06, "core is 0.7 of capacity")
		}
		assert.InEpsilon(t, servers[0], servers[1], 0.06)
		mean := gaps / float64(number)
		assert.InEpsilon(t, 1, math.Sqrt(squares/float64(number)-mean*mean)/mean, 0.06, "gaps of a Poisson process deviate by their mean")
	}
}

// TestPredictionsReachTheFigures has an oracle predict when each core prompt of one server ends, which
// it knows since nothing overtakes core, and with a refusal what is left to do without batch.
func TestPredictionsReachTheFigures(t *testing.T) {
	t.Parallel()
	p := short(Setups[0], 1, 1.5)
	p.Lasts, p.CoreShare = 150*time.Second, 1
	r := RunWith(t, p, 1, func(n *Node) Response { return &judge{n, (&oracle{node: n, predicts: true}).decide} })
	f := r.Figures()
	assert.InDelta(t, 1, f.CoreCovered, 0.02)
	assert.InDelta(t, 0.5, f.CoreWidth, 1e-6, "from 3/4 to 5/4 of the prediction")
	assert.Zero(t, f.DrainError, "what is left at a refusal is known to less than 2 s")
	assert.True(t, math.IsNaN(f.BatchCovered), "no batch came")
	refusals := 0
	for _, c := range r.Records {
		refusals += len(c.Refusals)
	}
	assert.Greater(t, refusals, 20)
}

func TestRefusingEverythingIsUseless(t *testing.T) {
	t.Parallel()
	p := short(Setups[0], 1, 0.7)
	capacity := Capacity(t, p)
	with := RunWith(t, p, capacity, decides(func(*Node, *Record) *refusal { return &refusal{http.StatusTooManyRequests, 7, 0} }))
	f := with.Figures()
	assert.Zero(t, f.Useful)
	assert.Zero(t, f.Dead)
	assert.Zero(t, f.Core)
	assert.Greater(t, f.Idle, 0.9, "the GPU idles while they wait")
	for _, c := range with.Records {
		require.Len(t, c.Refusals, 5, "at 0, 7, 14, 21 and 28 s of its 30")
		for i, refused := range c.Refusals {
			require.Equal(t, time.Duration(i)*7*time.Second, refused.At.Sub(c.Came), "it waits as long as it is asked to")
		}
		require.Equal(t, 30*time.Second, c.Left.Sub(c.Came))
	}
	assert.InDelta(t, 4, f.Retries, 0)
	without := RunWith(t, p, capacity, nil)
	assert.InDelta(t, without.Figures().Useful, p.Offered, 0.15)
	got := 0
	for _, c := range without.Records {
		if c.Got && c.At <= p.Lasts {
			got++
		}
	}
	assert.Positive(t, got)
	assert.InDelta(t, float64(got), FalseRefusals(with, without)*float64(len(within(with))), 1e-6, "each that was in time without")
	assert.Zero(t, FalseRefusals(without, without))
}

// within are those who came in the measured time.
func within(r *Result) (all []*Record) {
	for _, c := range r.Records {
		if c.At <= r.Plan.Lasts {
			all = append(all, c)
		}
	}
	return all
}

// TestABurstComesTogether beside those who come at random, who are the same as without it.
func TestABurstComesTogether(t *testing.T) {
	t.Parallel()
	p := short(Setups[0], 1, 0.3)
	p.Lasts = 100 * time.Second
	alone := RunWith(t, p, 1, nil)
	p.Burst, p.BurstAt = 24, 40*time.Second
	r := RunWith(t, p, 1, nil)
	var others []string
	burst := 0
	for _, c := range r.Records {
		if c.Burst {
			burst++
			require.Zero(t, c.Class)
			require.InDelta(t, 40*time.Second, c.Came.Sub(r.Begin), 25e6)
			continue
		}
		others = append(others, c.ID)
	}
	require.Equal(t, 24, burst)
	require.Len(t, others, len(alone.Records))
	for i, c := range alone.Records {
		require.Equal(t, c.ID, others[i])
	}
}

func TestARefusalForGoodIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	p := short(Setups[0], 1, 0.7)
	p.Lasts = 100 * time.Second
	r := RunWith(t, p, 1, decides(func(*Node, *Record) *refusal { return &refusal{status: http.StatusBadRequest} }))
	for _, c := range r.Records {
		require.Len(t, c.Refusals, 1)
		require.True(t, c.neverFits())
		require.ErrorIs(t, c.Err, errRefused)
		require.Equal(t, c.Came, c.Left)
	}
	assert.Zero(t, r.Figures().Retries)
	assert.Less(t, r.Figures().Idle, 1e-6, "nobody waits")
}

// TestFirstTriesRefused has every client's first try refused: core has lost by that, batch has not if
// its image still comes.
func TestFirstTriesRefused(t *testing.T) {
	t.Parallel()
	p := short(Setups[0], 2, 0.7)
	capacity := Capacity(t, p)
	without := RunWith(t, p, capacity, nil)
	with := RunWith(t, p, capacity, decides(func(_ *Node, r *Record) *refusal {
		if len(r.Refusals) == 0 {
			return &refusal{http.StatusTooManyRequests, 1, 0}
		}
		return nil
	}))
	f := with.Figures()
	assert.InDelta(t, 1, f.Retries, 1e-9)
	assert.InDelta(t, 1, f.FirstRetry, 1e-9)
	assert.Greater(t, f.Core, 0.9)
	core := 0.0
	for _, c := range within(with) {
		if c.Class == 0 {
			core++
		}
	}
	assert.InDelta(t, core/float64(len(within(with))), FalseRefusals(with, without), 0.05)
}

// TestHeldPromptsCountAsIdleTime holds each for 5 s: where nothing else runs, that is idle time.
func TestHeldPromptsCountAsIdleTime(t *testing.T) {
	t.Parallel()
	p := short(Setups[0], 1, 0.1)
	r := RunWith(t, p, 1, func(*Node) Response { return &holder{holds: 5 * time.Second} })
	holds := 0.0
	for _, c := range within(r) {
		require.True(t, c.Got)
		require.Empty(t, c.Refusals)
		require.Equal(t, 5*time.Second, c.Accepted.Sub(c.Came))
		holds += 5
	}
	idle := r.Figures().Idle * p.Lasts.Seconds()
	assert.Less(t, idle, holds)
	assert.Greater(t, idle, 0.5*holds, "at a tenth of capacity little runs beside")
}
