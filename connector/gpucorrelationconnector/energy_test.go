// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// withPower are samples of a GPU whose instant power is a factor of what its counter says.
func (r *running) withPower(t *testing.T, from, to, factor float64, gpu *gpuload.Load) {
	t.Helper()
	for i := 0; from+float64(i)*0.1 <= to+1e-9; i++ {
		s := from + float64(i)*0.1
		md := gpuload.Sample(s, gpu)
		m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
		m.SetName("hw.power")
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(s)))
		p.SetDoubleValue(gpu.Watts(s) * factor)
		p.Attributes().PutStr("hw.id", gpu.ID)
		p.Attributes().PutStr("hw.gpu.power.scope", "instant")
		require.NoError(t, r.metrics.ConsumeMetrics(context.Background(), md))
	}
}

func TestACounterThatDisagreesWithThePowerRaisesAMetricAndOneWarning(t *testing.T) {
	r := start(t, createDefaultConfig().(*Config), consumertest.NewNop(), consumertest.NewNop())
	gpu := gpuload.Steady(gpuload.A, 10, 200)
	const warning = "The energy counter and the instant power of a GPU disagree; energies of its spans may be off by as much. Compare them with a meter and set energy::gain"
	r.withPower(t, 0, 100, 1/1.1, gpu)
	difference := func() float64 {
		got, err := r.tel.GetMetric("otelcol_connector.gpucorrelation.energy.disagreement")
		if err != nil {
			return 0
		}
		points := got.Data.(metricdata.Gauge[float64]).DataPoints
		require.Len(t, points, 1)
		return points[0].Value
	}
	require.Eventually(t, func() bool { return difference() > 0 }, 5*time.Second, time.Millisecond)
	assert.InDelta(t, 0.1, difference(), 0.02)
	r.withPower(t, 100.1, 300, 1, gpu)
	require.Eventually(t, func() bool { return difference() == 0 }, 5*time.Second, time.Millisecond, "they agree again")
	r.withPower(t, 300.1, 400, 1/1.1, gpu)
	require.Eventually(t, func() bool { return difference() > 0 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, 1, r.logged.FilterMessage(warning).Len())
	r.stop(t)
}

func TestACalibrationIsReadAtStart(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Energy.Calibration = filepath.Join(t.TempDir(), "calibration.yaml")
	f := NewFactory()
	set := connectortest.NewNopSettings(metadata.Type)
	c, err := f.CreateTracesToTraces(context.Background(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	err = c.Start(context.Background(), componenttest.NewNopHost())
	require.ErrorContains(t, err, "energy::calibration")
	require.ErrorContains(t, err, "make gpu-check CALIBRATE=")

	text := "counters:\n  - {gpu: GPU-a, model: NVIDIA L40S, period: 100ms, lag: 50ms, share: 1}\n  - {gpu: GPU-b, model: NVIDIA L40S, period: 100ms, lag: 10ms, share: 1}\n"
	require.NoError(t, os.WriteFile(cfg.Energy.Calibration, []byte(text), 0o600))
	c, err = f.CreateTracesToTraces(context.Background(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, c.Start(context.Background(), componenttest.NewNopHost()))
	require.NoError(t, c.Shutdown(context.Background()))
}
