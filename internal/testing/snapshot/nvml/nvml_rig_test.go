// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/snapshot"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver"
)

// nvmlPatience is how long is waited for what must come.
const nvmlPatience = 60 * time.Second

// nvmlConfig is a configuration as YAML would give it: the test library, scrapes
// that follow each other fast, and nothing of this machine. Validate is not
// called: it would refuse a card_timeout beyond the interval, and a shorter one
// would make a busy machine miss cards.
func nvmlConfig(t *testing.T, f receiver.Factory, change map[string]any) component.Config {
	t.Helper()
	keys := map[string]any{
		"library_path":        library.Path,
		"collection_interval": "50ms",
		"initial_delay":       "0s",
		"card_timeout":        "1s",
		"processes":           map[string]any{"proc_path": t.TempDir(), "log_path": "", "pod_resources": ""},
	}
	maps.Copy(keys, change)
	cfg := f.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(keys).Unmarshal(cfg))
	return cfg
}

func nvmlSettings(f receiver.Factory, telemetry *componenttest.Telemetry) receiver.Settings {
	settings := receivertest.NewNopSettings(f.Type())
	settings.ID = component.NewID(f.Type()) // not a random one
	if telemetry != nil {
		settings.TelemetrySettings = telemetry.NewTelemetrySettings()
	}
	return settings
}

// nvmlRig is one receiver of metrics whose scrapes are taken one at a time: until
// the next is asked for, the receiver waits in its consumer.
type nvmlRig struct {
	t       *testing.T
	name    string // begins each line
	batches chan pmetric.Metrics
	next    chan struct{}
	held    bool
	begun   pcommon.Timestamp            // of the first scrape
	scrapes map[pcommon.Timestamp]string // the recorded ones, by their time
	lines   []string
	metrics map[string]bool // the descriptions, once each
}

// nvmlStart starts a receiver of metrics; it ends with the test.
func nvmlStart(t *testing.T, f receiver.Factory, name string, settings receiver.Settings, change map[string]any) *nvmlRig {
	t.Helper()
	r := &nvmlRig{
		t: t, name: name, batches: make(chan pmetric.Metrics), next: make(chan struct{}),
		scrapes: map[pcommon.Timestamp]string{}, metrics: map[string]bool{},
	}
	ended := make(chan struct{})
	next, err := consumer.NewMetrics(func(_ context.Context, m pmetric.Metrics) error {
		select {
		case r.batches <- m:
		case <-ended:
			return nil
		}
		select {
		case <-r.next:
		case <-ended:
		}
		return nil
	})
	require.NoError(t, err)
	rcv, err := f.CreateMetrics(context.Background(), settings, nvmlConfig(t, f, change), next)
	require.NoError(t, err)
	require.NoError(t, rcv.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		close(ended)
		require.NoError(t, rcv.Shutdown(context.Background()))
	})
	return r
}

// scrape lets the receiver go on and returns its next scrape.
func (r *nvmlRig) scrape() pmetric.Metrics {
	r.t.Helper()
	if r.held {
		r.next <- struct{}{}
	}
	select {
	case m := <-r.batches:
		r.held = true
		eachPoint(r.t, m, func(_ pcommon.Resource, _ pmetric.ScopeMetrics, _ pmetric.Metric, _ string, p pmetric.NumberDataPoint) {
			if r.begun == 0 {
				r.begun = p.Timestamp()
			}
		})
		return m
	case <-time.After(nvmlPatience):
		require.Fail(r.t, "no scrape came")
		return pmetric.Metrics{}
	}
}

// gpus is hw.gpu.count.
type gpus struct{ healthy, unresponsive, lost int64 }

// until leaves scrapes out until hw.gpu.count is as wanted.
func (r *nvmlRig) until(want gpus) pmetric.Metrics {
	r.t.Helper()
	for begin := time.Now(); time.Since(begin) < nvmlPatience; {
		m := r.scrape()
		got := map[string]int64{}
		eachPoint(r.t, m, func(_ pcommon.Resource, _ pmetric.ScopeMetrics, metric pmetric.Metric, _ string, p pmetric.NumberDataPoint) {
			if state, ok := p.Attributes().Get("state"); ok && metric.Name() == "hw.gpu.count" {
				got[state.Str()] = p.IntValue()
			}
		})
		if len(got) == 3 && (gpus{got["healthy"], got["unresponsive"], got["lost"]}) == want {
			return m
		}
	}
	require.Fail(r.t, "hw.gpu.count did not come", "%+v", want)
	return pmetric.Metrics{}
}

// third is the third full scrape: profiling needs one before.
func (r *nvmlRig) third(n int64) pmetric.Metrics {
	r.t.Helper()
	for range 2 {
		r.until(gpus{healthy: n})
	}
	return r.until(gpus{healthy: n})
}

// record writes the points of a scrape down, one a line: the machine, the resource,
// the series, the situation with the scrape's number in it, the value and the
// start. The scrapes of a series stand side by side when sorted, which is what
// keeps the parts small. moving says of which metrics the
// value is another at each scrape, so that only its sign is written; only names
// the metrics, none means all.
func (r *nvmlRig) record(situation string, m pmetric.Metrics, moving, only map[string]bool) {
	r.t.Helper()
	at := pcommon.Timestamp(0)
	eachPoint(r.t, m, func(resource pcommon.Resource, scope pmetric.ScopeMetrics, metric pmetric.Metric, kind string, p pmetric.NumberDataPoint) {
		if at == 0 {
			at = p.Timestamp()
		}
		require.Equal(r.t, at, p.Timestamp(), "the points of a scrape are of one time")
		r.scrapes[at] = situation
		if len(only) > 0 && !only[metric.Name()] {
			return
		}
		value := valueText(p)
		if moving[metric.Name()] && p.DoubleValue() > 0 {
			value = "moving"
		}
		r.lines = append(r.lines, fmt.Sprintf("%s resource%s %s %s %s %s %s: %s start=%s",
			r.name, attributesText(r.t, resource.Attributes()), metric.Name(), metric.Unit(), kind, attributesText(r.t, p.Attributes()), situation, value, r.startWord(p.StartTimestamp())))
		r.metrics[fmt.Sprintf("metric %s %s %s %q scope=%s %s schema=%s", metric.Name(), metric.Unit(), kind, metric.Description(), scope.Scope().Name(), scope.Scope().Version(), scope.SchemaUrl())] = true
	})
}

// startWord names a start time: the receiver's own start, or the recorded scrape
// whose time it is.
func (r *nvmlRig) startWord(at pcommon.Timestamp) string {
	switch scrape, known := r.scrapes[at]; {
	case at == 0:
		return "none"
	case at == r.begun:
		return "first"
	case at < r.begun:
		return "earlier"
	case known:
		return "later@" + scrape
	}
	return "later"
}

// nvmlPart gathers what several receivers recorded.
type nvmlPart struct {
	lines   []string
	metrics map[string]bool
}

func (p *nvmlPart) add(r *nvmlRig) {
	p.lines = append(p.lines, r.lines...)
	if p.metrics == nil {
		p.metrics = map[string]bool{}
	}
	maps.Copy(p.metrics, r.metrics)
}

// check compares, with the descriptions of the metrics once each.
func (p *nvmlPart) check(t *testing.T, part string) {
	t.Helper()
	for m := range p.metrics {
		p.lines = append(p.lines, m)
	}
	snapshot.CheckPart(t, part, p.lines)
}

// nvmlMachine is a machine of three GPUs of one profile, idle or under load, whose
// averages stand still.
func nvmlMachine(t *testing.T, profile string, load bool) (*fakenvml.State, []*fakenvml.GPU) {
	t.Helper()
	machine, cards := library.Machine(t, profile, profile, profile)
	p, err := fakenvml.LoadProfile(profile)
	require.NoError(t, err)
	for _, c := range cards {
		if load {
			c.SetLoad(p)
		}
		c.SetSamplingPeriods(time.Microsecond, time.Microsecond)
	}
	return machine, cards
}

// nvmlFreeze stops the energy counters, each at a value of its own.
func nvmlFreeze(cards []*fakenvml.GPU) {
	for i, c := range cards {
		c.Freeze()
		c.SetEnergy(int64(7_654_321_000 + 1_234_567*i))
	}
}

// nvmlWait waits for what the test library or a receiver counts.
func nvmlWait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, nvmlPatience, 2*time.Millisecond, what)
}

func nvmlFactory() receiver.Factory { return nvmlreceiver.NewFactory() }
