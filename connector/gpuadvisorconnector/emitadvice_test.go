// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// TestNoSeriesIsEmittedTwice, of prompts that differ in the version or the arguments of their server,
// or in the product of their GPU.
func TestNoSeriesIsEmittedTwice(t *testing.T) {
	r := newRig(t, func(c *Config) { c.CollectionInterval = time.Hour })
	md := pmetric.NewMetrics()
	sm := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	for i, product := range []string{"RTX 4090", "L40S"} {
		for name, v := range map[string]int64{"hw.gpu.memory.usage": 100, "hw.gpu.memory.limit": 1000, "hw.gpu.info": 1} {
			m := sm.Metrics().AppendEmpty()
			m.SetName(name)
			p := m.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
			p.SetIntValue(v)
			p.Attributes().PutStr("hw.id", fmt.Sprint("GPU-", i))
			p.Attributes().PutStr("hw.name", fmt.Sprint("gpu", i))
			p.Attributes().PutStr("hw.model", product)
		}
	}
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), md))
	servers := []comfyevents.Server{
		{Name: "a:8188", GPUs: []string{"GPU-0"}, Version: "0.3"},
		{Name: "a:8188", GPUs: []string{"GPU-0"}, Version: "0.4"}, // an upgrade
		{Name: "a:8188", GPUs: []string{"GPU-0"}, Version: "0.4", Arguments: 0xfedcba9876543210},
		{Name: "b:8188", GPUs: []string{"GPU-1"}, Version: "0.4"},
	}
	for i := range servers {
		remove := r.bus.Servers.Add(&server{servers[i]})
		r.advice.Refresh(r.state.GPUs())
		for n := range 4 {
			p := sent(fmt.Sprint(i, " ", n), time.Minute, 2*time.Second, nil)
			p.Server = servers[i].Name
			p.Execution["hw.id"] = servers[i].GPUs[0]
			require.NoError(t, r.traces.ConsumeTraces(t.Context(), p.Traces()))
		}
		remove()
		r.advice.Refresh(r.state.GPUs())
	}
	require.Len(t, r.advice.Learned(), len(servers))
	seen := map[string]bool{}
	models := map[string]int{}
	for _, m := range r.advisor.metrics(time.Now()).ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		points := m.Gauge().DataPoints()
		if m.Type() == pmetric.MetricTypeSum {
			points = m.Sum().DataPoints()
		}
		for _, p := range points.All() {
			series := fmt.Sprint(m.Name(), p.Attributes().AsRaw()) // fmt prints maps in order
			assert.False(t, seen[series], series)
			seen[series] = true
			if m.Name() != "gpuadvisor.model.samples" {
				continue
			}
			of := ""
			for _, key := range []string{"hw.model", "service.version", "gpuadvisor.arguments"} {
				v, ok := p.Attributes().Get(key)
				assert.True(t, ok, key)
				of += v.Str() + " "
			}
			models[of]++
		}
	}
	assert.Equal(t, map[string]int{"RTX 4090 0.3 0 ": 1, "RTX 4090 0.4 0 ": 1, "RTX 4090 0.4 fedcba9876543210 ": 1, "L40S 0.4 0 ": 1}, models)
}

// TestCoverageIsEmittedByCost, of bounds of memory that were predicted before the prompts ran.
func TestCoverageIsEmittedByCost(t *testing.T) {
	r := newRig(t, func(c *Config) { c.CollectionInterval = time.Hour })
	a := &server{comfyevents.Server{Name: theServer, GPUs: []string{gpuID}}}
	defer r.bus.Servers.Add(a)()
	for n := range 5 {
		id := fmt.Sprint("prompt ", n)
		p := sent(id, time.Minute, 2*time.Second, nil)
		p.Execution[semconv.MemoryReservedPeak], p.Execution[semconv.MemoryReservedGrowth] = 4<<30, 4<<30
		a.is.Prompts = []comfyevents.OpenPrompt{{ID: id, TaskClass: "people", Workflow: "colour", Model: "ddcolor", Side: 680, Batch: 1, Accepted: time.Now(), Started: time.Now()}}
		r.advice.Refresh(nil)
		a.is.Prompts = nil
		r.advice.Refresh(nil)
		require.NoError(t, r.traces.ConsumeTraces(t.Context(), p.Traces()))
	}
	covered := map[string]float64{}
	for _, m := range r.advisor.metrics(time.Now()).ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if m.Name() != "gpuadvisor.prediction.coverage" {
			continue
		}
		for _, p := range m.Gauge().DataPoints().All() {
			assert.Equal(t, "people", p.Attributes().AsRaw()["comfyui.task_class"])
			covered[fmt.Sprint(p.Attributes().AsRaw()["gpuadvisor.cost"])] = p.DoubleValue()
		}
	}
	assert.Equal(t, map[string]float64{"memory": 1}, covered, "no completion was predicted")
}
