// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
)

// Each execution of the rush gives one record with the ids of its span, if
// execution_events is true.
func TestExecutionEventsAreEmittedOnceIfEnabled(t *testing.T) {
	for _, r := range comfyreplay.All(t) {
		if r.Name != "21_rush_of_1280_by_four_clients" {
			continue
		}
		for _, on := range []bool{false, true} {
			server := comfyreplay.Serve(t, &r, 2, false)
			rig := newRig(t, server.URL, func(c *Config) { c.ExecutionEvents, c.Device = on, "GPU-aa" })
			require.Eventually(t, server.Watched, 10*time.Second, time.Millisecond)
			require.NoError(t, comfyreplay.Drive(context.Background(), &r, rig.base, 2, false))
			require.Eventually(t, func() bool { return len(rig.traces.AllTraces()) >= posts(&r) }, 20*time.Second, 10*time.Millisecond)
			rig.stopNow()
			started := map[pcommon.SpanID]time.Time{}
			for _, ld := range rig.logs.AllLogs() {
				record := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
				if record.EventName() != semconv.EventExecutionStarted {
					continue
				}
				assert.NotContains(t, started, record.SpanID())
				started[record.SpanID()] = record.Timestamp().AsTime()
				gpu, _ := record.Attributes().Get("hw.id")
				assert.Equal(t, "GPU-aa", gpu.Str())
			}
			if !on {
				assert.Empty(t, started)
				continue
			}
			require.Len(t, started, posts(&r))
			for _, td := range rig.traces.AllTraces() {
				for _, s := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
					gpu, named := s.Attributes().Get("hw.id")
					switch s.Name() {
					case "comfyui.execution":
						assert.Equal(t, started[s.SpanID()], s.StartTimestamp().AsTime())
						assert.Equal(t, "GPU-aa", gpu.Str())
					case "comfyui.prompt", "comfyui.queue":
						assert.False(t, named, "%s waits, and uses no GPU", s.Name())
					}
				}
			}
		}
	}
}
