// SPDX-License-Identifier: Apache-2.0

package join

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

var oneSpan = gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12}

// Spans, samples and records of any content pass, and none of them twice.
func FuzzAnything(f *testing.F) {
	spans := func(all ...gpuload.Span) []byte {
		raw, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(gpuload.Trace(1, all...))
		require.NoError(f, err)
		return raw
	}
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	metrics, err := (&pmetric.ProtoMarshaler{}).MarshalMetrics(gpuload.Sample(10, gpu))
	require.NoError(f, err)
	records, err := (&plog.ProtoMarshaler{}).MarshalLogs(gpuload.XIDRecord(10.5, gpuload.A))
	require.NoError(f, err)
	f.Add(spans(oneSpan, gpuload.Span{ID: 2, Parent: 1, From: 10, To: 11}, gpuload.Span{ID: 3, Parent: 3, From: 10, To: 11}), metrics, records)
	f.Add(spans(gpuload.Span{ID: 1, Parent: 2, From: 10, To: 12}, gpuload.Span{ID: 2, Parent: 1, From: 12, To: 11, GPU: gpuload.A}), metrics, records)
	f.Fuzz(func(t *testing.T, spans, samples, logs []byte) {
		c := newTestJoiner()
		if md, err := (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(samples); err == nil {
			c.AddMetrics(md)
		}
		if ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(logs); err == nil {
			c.AddLogs(ld, gpuload.At(11))
		}
		td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(spans)
		if err != nil {
			return
		}
		want := td.SpanCount()
		got := 0
		for _, p := range c.AddTraces(td, gpuload.At(12)) {
			got += p.SpanCount()
		}
		c.Expire(gpuload.At(100))
		for {
			td, found := c.NextTraces()
			if !found {
				break
			}
			got += td.SpanCount()
		}
		require.Equal(t, want, got)
	})
}
