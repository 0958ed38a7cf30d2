// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// statesOf returns the values of hw.gpu.state of a GPU, by hw.state; -1 for a last point.
func statesOf(m pmetric.Metrics, name string) map[string]float64 {
	states := map[string]float64{}
	for _, rm := range m.ResourceMetrics().All() {
		for _, metric := range rm.ScopeMetrics().At(0).Metrics().All() {
			if metric.Name() != "hw.gpu.state" {
				continue
			}
			for _, p := range metric.Gauge().DataPoints().All() {
				state, _ := p.Attributes().Get("hw.state")
				if !matches(p, map[string]string{"hw.name": name}) {
					continue
				}
				states[state.AsString()] = number(p)
				if p.Flags().NoRecordedValue() {
					states[state.AsString()] = -1
				}
			}
		}
	}
	return states
}

func TestEveryGPUHasItsState(t *testing.T) {
	healthy := map[string]float64{"healthy": 1, "unresponsive": 0, "lost": 0}
	_, gpus := library.Machine(t, "l40s", "h100", "rtx-2080-super")
	r := newRig(t, nvml.NewSessions(impatient), func(c *Config) { c.ForgetLostAfter = 300 * time.Millisecond }).ready(3)
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", true)
	defer gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", false)
	r.scrapeNow() // the hang is found in this one
	gpus[1].SetLost(true)
	m := r.scrapeNow()
	assert.Equal(t, map[string]float64{"healthy": 0, "unresponsive": 1, "lost": 0}, statesOf(m, "gpu0"))
	assert.Equal(t, map[string]float64{"healthy": 0, "unresponsive": 0, "lost": 1}, statesOf(m, "gpu1"))
	assert.Equal(t, healthy, statesOf(m, "gpu2"))

	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", false)
	m = r.until("it responds again", func(m pmetric.Metrics) bool { return hasReadings(m, "gpu0") })
	assert.Equal(t, healthy, statesOf(m, "gpu0"))

	ended := map[string]float64{"healthy": -1, "unresponsive": -1, "lost": -1}
	r.until("the lost GPU is forgotten", func(m pmetric.Metrics) bool {
		return assert.ObjectsAreEqual(ended, statesOf(m, "gpu1"))
	})
	assert.Empty(t, statesOf(r.scrapeNow(), "gpu1"))
}
