// SPDX-License-Identifier: Apache-2.0

package join

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// Many goroutines add to a joiner and deliver from it. The race detector watches.
func TestAJoinerWithALockServesManyGoroutines(t *testing.T) {
	c := NewShared(newTestJoiner(func(cfg *Settings) { cfg.Limits.Traces = 100 }).settings, &sync.Mutex{})
	var in, out, records, recordsOut atomic.Int64
	deliver := func() {
		_, spans := drain(c)
		out.Add(int64(spans))
		for ld, ok := c.NextRecords(); ok; ld, ok = c.NextRecords() {
			recordsOut.Add(int64(ld.LogRecordCount()))
		}
	}
	const rounds = 200
	var work sync.WaitGroup
	for g := range uint64(3) {
		work.Go(func() {
			for i := range uint64(rounds) {
				at := float64(i) / 10
				spans := []bigSpan{{i / 4, 1000*g + 2*i + 1, 1, gpuload.A, at, at + 1}, {i / 4, 1000*g + 2*i + 2, 1000*g + 2*i + 1, "", at, at + 1}}
				in.Add(2)
				for _, td := range c.AddTraces(bigTrace(spans...), gpuload.At(at+1)) {
					out.Add(int64(td.SpanCount()))
				}
			}
		})
		work.Go(func() {
			for i := range rounds {
				ld := gpuload.XIDRecord(float64(i)/10, gpuload.A)
				records.Add(1)
				c.AddLogs(ld, gpuload.At(float64(i)/10))
				recordsOut.Add(int64(ld.LogRecordCount()))
				c.Expire(gpuload.At(float64(i) / 10))
				deliver()
			}
		})
	}
	work.Go(func() {
		gpu := gpuload.Steady(gpuload.A, 0, 100)
		samples(c, 0, 0.1*rounds, 0.1, gpu)
	})
	work.Wait()
	c.Finish()
	c.FinishRecords()
	deliver()
	assert.Equal(t, in.Load(), out.Load())
	assert.Equal(t, records.Load(), recordsOut.Load())
	assert.LessOrEqual(t, c.steps.maxSeen, maxItems)
	spans, bytes := c.Waiting()
	assert.Zero(t, spans+bytes)
}
