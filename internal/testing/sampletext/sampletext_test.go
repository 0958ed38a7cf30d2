// SPDX-License-Identifier: Apache-2.0

package sampletext

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLinesBecomePoints(t *testing.T) {
	at := time.Unix(100, 0).UTC()
	md := Metrics(at, "host.name=node-1", `
		a{k=v,process.pid=17} 1.5
		a{k=w} stale
		b 3
		c{k=v} 12.5/5`)
	require.Equal(t, 3, md.MetricCount())
	ms := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	a := ms.At(0).Gauge().DataPoints()
	assert.Equal(t, map[string]any{"k": "v", "process.pid": int64(17)}, a.At(0).Attributes().AsRaw())
	assert.InDelta(t, 1.5, a.At(0).DoubleValue(), 1e-9)
	assert.Equal(t, at, a.At(0).Timestamp().AsTime())
	assert.True(t, a.At(1).Flags().NoRecordedValue())
	assert.Equal(t, uint64(5), ms.At(2).Histogram().DataPoints().At(0).Count())
	assert.Panics(t, func() { Metrics(at, "", "a{k=v 1") })
	assert.Panics(t, func() { Metrics(at, "", "a x") })
}

func TestLinesBecomeRecords(t *testing.T) {
	ld := Logs(time.Unix(100, 0), "host.name=node-1", "hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#79}\n")
	r := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	assert.Equal(t, "hw.gpu.xid", r.EventName())
	assert.Equal(t, map[string]any{"hw.id": "GPU-a", "hw.gpu.xid": int64(79)}, r.Attributes().AsRaw())
}
