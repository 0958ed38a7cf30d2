// SPDX-License-Identifier: Apache-2.0

package join

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// loaded is a joiner whose GPU has samples up to 100 s, and for which n traces and n records
// wait.
func loaded(t *testing.T, n int) *Joiner {
	t.Helper()
	c := newTestJoiner(func(s *Settings) { s.Limits.Records = 20_000 })
	samples(c, 0, 100, 0.1, gpuload.Steady(gpuload.A, 0, 200))
	for i := range uint64(n) {
		at := 110 + float64(i)/1e4
		c.AddTraces(bigTrace(bigSpan{1<<32 + i, 1, 0, gpuload.A, at, at + 1e-5}), gpuload.At(111))
		c.AddLogs(gpuload.XIDRecord(50+float64(i)/1e4, gpuload.A), gpuload.At(111))
	}
	require.Len(t, c.byTrace, n)
	require.Equal(t, n, c.waitingRecords.Len())
	return c
}

func TestATraceCostsTheSameHoweverManyWait(t *testing.T) {
	with := func(n int) func(int) {
		c := loaded(t, n)
		return func(i int) {
			from := 80 + float64(i)/1e3
			c.AddTraces(bigTrace(bigSpan{uint64(i + 1), 1, 0, gpuload.A, from, from + 0.0005}, bigSpan{uint64(i + 1), 2, 1, "", from, from + 0.0002}), gpuload.At(111))
			_, spans := drain(c)
			assert.Equal(t, 2, spans)
		}
	}
	growth.Constant(t, "a trace whose samples are there", with(1_000), with(10_000))
}

func TestATraceThatWaitsCostsTheSameHoweverManyWait(t *testing.T) {
	with := func(n int) func(int) {
		c := loaded(t, n)
		return func(i int) {
			at := 112 + float64(i)/1e3
			c.AddTraces(bigTrace(bigSpan{uint64(i + 1), 1, 0, gpuload.A, at, at + 1e-5}), gpuload.At(113))
		}
	}
	growth.Constant(t, "a trace that waits", with(1_000), with(10_000))
}

func TestARecordCostsTheSameHoweverManyWait(t *testing.T) {
	with := func(n int) func(int) {
		c := loaded(t, n)
		return func(i int) {
			at := gpuload.At(111)
			c.AddLogs(gpuload.XIDRecord(30+float64(i)/1e3, gpuload.A), at) // waits
			c.AddLogs(gpuload.XIDRecord(110, gpuload.A), at)               // of a trace that is known
			c.Expire(at)
		}
	}
	growth.Constant(t, "a record", with(1_000), with(10_000))
}

func TestASampleCostsTheSameHoweverManyTracesWait(t *testing.T) {
	gpu := gpuload.Steady(gpuload.A, 0, 200)
	with := func(n int) func(int) {
		c := loaded(t, n)
		return func(i int) { c.AddMetrics(gpuload.Sample(100+float64(i)/1e3, gpu)) }
	}
	growth.Constant(t, "a scrape", with(1_000), with(10_000))
}

func TestASampleCostsTheSameHoweverManySamplesAreHeld(t *testing.T) {
	gpu := gpuload.Steady(gpuload.A, 0, 1e6)
	with := func(n int) func(int) {
		c := newTestJoiner()
		samples(c, 0, float64(n)/20, 0.05, gpu)
		require.InDelta(t, n, len(c.timelines.Get(gpuload.A).Memory.Points), 5)
		return func(i int) { c.AddMetrics(gpuload.Sample(float64(n)/20+1+float64(i)/1e3, gpu)) }
	}
	growth.Constant(t, "a scrape, with a long history", with(1_000), with(10_000))
}
