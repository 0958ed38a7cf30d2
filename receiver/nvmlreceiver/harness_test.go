// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var library *fakemachine.Library

// setUpLibrary is called by the generated TestMain.
func setUpLibrary() { library = fakemachine.Setup(fakenvml.Current) }

// fast makes the session inspect the machine often, so that tests wait little.
var fast = nvml.Timing{Rescan: 20 * time.Millisecond, Probe: 500 * time.Millisecond, Close: 500 * time.Millisecond}

// impatient takes calls that take 100 ms for ones that hang, too.
var impatient = nvml.Timing{Rescan: 20 * time.Millisecond, Probe: 500 * time.Millisecond, Close: 500 * time.Millisecond, Deadline: 100 * time.Millisecond}

// buses holds the bus of each set of sessions: receivers that share a session share
// its bus.
var buses sync.Map

func busOf(sessions *nvml.Sessions) *gpuevents.Bus {
	bus, _ := buses.LoadOrStore(sessions, &gpuevents.Bus{})
	return bus.(*gpuevents.Bus)
}

// rig is one receiver whose scrapes are made by hand.
type rig struct {
	*gpuScraper
	t    testing.TB
	logs *observer.ObservedLogs
}

func newRig(t testing.TB, sessions *nvml.Sessions, change func(*Config)) *rig {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.LibraryPath = library.Path
	// The process numbers of the profiles are not this machine's.
	cfg.Processes.ProcPath, cfg.Processes.LogPath, cfg.Processes.PodResources = t.TempDir(), "", ""
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	core, logs := observer.New(zap.DebugLevel)
	settings := receivertest.NewNopSettings(metadata.Type)
	settings.Logger = zap.New(core)
	return startRig(t, settings, cfg, sessions, logs)
}

func startRig(t testing.TB, settings receiver.Settings, cfg *Config, sessions *nvml.Sessions, logs *observer.ObservedLogs) *rig {
	t.Helper()
	s := newGPUScraper(settings, cfg, sessions, busOf(sessions), time.Now)
	require.NoError(t, s.start(context.Background(), componenttest.NewNopHost()))
	s.emitter.hostname = "testhost"
	s.slowCall = time.Minute // a busy test machine is not a slow driver
	t.Cleanup(func() { require.NoError(t, s.shutdown(context.Background())) })
	return &rig{gpuScraper: s, t: t, logs: logs}
}

// ready waits until n GPUs are enumerated.
func (r *rig) ready(n int) *rig {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		s := r.session.Snapshot()
		return s.Enumerated && len(s.GPUs) >= n
	}, 10*time.Second, 5*time.Millisecond)
	return r
}

func (r *rig) scrapeNow() pmetric.Metrics {
	r.t.Helper()
	m, err := r.scrape(context.Background())
	require.NoError(r.t, err)
	return m
}

// until scrapes until the condition holds.
func (r *rig) until(what string, holds func(pmetric.Metrics) bool) pmetric.Metrics {
	r.t.Helper()
	var m pmetric.Metrics
	require.Eventually(r.t, func() bool {
		m = r.scrapeNow()
		return holds(m)
	}, 15*time.Second, 10*time.Millisecond, what)
	return m
}

// eachPoint visits every point of a scrape.
func eachPoint(m pmetric.Metrics, visit func(pmetric.NumberDataPoint)) {
	for _, rm := range m.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				for _, p := range pointsOf(metric).All() {
					visit(p)
				}
			}
		}
	}
}

// point finds one point by its metric and some of its attributes.
func point(m pmetric.Metrics, name string, attributes map[string]string) (found pmetric.NumberDataPoint, ok bool) {
	for i := range m.ResourceMetrics().Len() {
		scopes := m.ResourceMetrics().At(i).ScopeMetrics()
		for j := range scopes.Len() {
			for _, metric := range scopes.At(j).Metrics().All() {
				if metric.Name() != name {
					continue
				}
				points := pointsOf(metric)
				for _, p := range points.All() {
					if matches(p, attributes) {
						return p, true
					}
				}
			}
		}
	}
	return pmetric.NumberDataPoint{}, false
}

func matches(p pmetric.NumberDataPoint, attributes map[string]string) bool {
	for k, v := range attributes {
		if got, ok := p.Attributes().Get(k); !ok || got.AsString() != v {
			return false
		}
	}
	return true
}

// number is a point's value, whatever its type.
func number(p pmetric.NumberDataPoint) float64 {
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		return float64(p.IntValue())
	}
	return p.DoubleValue()
}

func isUp(m pmetric.Metrics, name string) float64 {
	p, ok := point(m, "hw.gpu.up", map[string]string{"hw.name": name})
	if !ok {
		return -1
	}
	return number(p)
}

// hasReadings reports whether a GPU has a live temperature.
func hasReadings(m pmetric.Metrics, name string) bool {
	p, ok := point(m, "hw.temperature", map[string]string{"hw.name": name})
	return ok && !p.Flags().NoRecordedValue()
}
