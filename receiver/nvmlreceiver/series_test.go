// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/reader"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// migGPU is a GPU whose MIG devices have a counter and a description: NVML has no counter
// of MIG devices yet.
type migGPU struct {
	*emitter
	of  *gpu
	now pcommon.Timestamp
}

func newMIGGPU() *migGPU {
	g := &gpu{series: newSeriesHistory(), identity: table.Identity{ID: "GPU-1", Name: "gpu0"}}
	return &migGPU{emitter: newEmitter(createDefaultConfig().(*Config), receivertest.NewNopSettings(metadata.Type), "testhost"), of: g, now: 1000}
}

// scrape emits the devices with their counters at n, after a successful reading.
func (m *migGPU) scrape(n int64, devices ...*table.Identity) pmetric.Metrics {
	samples := []table.Sample{table.XIDErrors.Of(n, "79", 0), table.Info.Of(1)}
	for _, d := range devices {
		samples = append(samples, table.XIDErrors.Of(n, "79", 0).OnDevice(d), table.Info.Of(1).OnDevice(d))
	}
	m.of.condition, m.of.reading = healthy, reader.Reading{MIG: devices}
	return m.emit(samples)
}

// lost emits the GPU without a reading.
func (m *migGPU) lost() pmetric.Metrics {
	m.of.condition = lost
	return m.emit(nil)
}

func (m *migGPU) emit(samples []table.Sample) pmetric.Metrics {
	m.now++
	m.begin(m.now, false)
	m.gpu(m.of, samples)
	return m.end(make([]int64, 4))
}

func migDevice(id string) *table.Identity {
	return &table.Identity{ID: id, Name: "gpu0/mig0", Driver: "580"}
}

// ends are the points that end a series, by metric; no series may have two points.
func ends(t *testing.T, m pmetric.Metrics) (ended []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, rm := range m.ResourceMetrics().All() {
		for _, metric := range rm.ScopeMetrics().At(0).Metrics().All() {
			for _, p := range pointsOf(metric).All() {
				labels := fmt.Sprint(metric.Name(), p.Attributes().AsRaw())
				assert.False(t, seen[labels], "two points at one time: %s", labels)
				seen[labels] = true
				if p.Flags().NoRecordedValue() {
					ended = append(ended, metric.Name())
				}
			}
		}
	}
	return ended
}

func TestCountersOfDestroyedMIGDevicesAreForgotten(t *testing.T) {
	m := newMIGGPU()
	stays := migDevice("MIG-stays")
	for i := range 1000 {
		m.scrape(int64(i), stays, migDevice(fmt.Sprint("MIG-", i)))
		require.LessOrEqual(t, len(m.of.series.counters), 3, "one of the GPU and of each of its two devices")
		if i%10 == 0 {
			m.lost()
		}
	}
	m.scrape(1000)
	assert.Len(t, m.of.series.counters, 1)
}

func TestCounterOfAMIGDeviceThatGoesBackAtAReloadGetsANewStart(t *testing.T) {
	for name, between := range map[string]func(m *migGPU){
		"between two scrapes": func(*migGPU) {},
		"the GPU was lost":    func(m *migGPU) { m.lost() },
		"a neighbour is gone": func(m *migGPU) { m.scrape(900, migDevice("MIG-1")) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMIGGPU()
			mig0 := map[string]string{"hw.name": "gpu0/mig0"}
			m.scrape(800, migDevice("MIG-1"))
			before, ok := point(m.scrape(900, migDevice("MIG-1"), migDevice("MIG-2")), "hw.gpu.xid.errors", mig0)
			require.True(t, ok)
			between(m)
			back := migDevice("MIG-1")
			back.Name = "gpu0/mig1" // its place may change with the reload
			after, ok := point(m.scrape(3, back), "hw.gpu.xid.errors", map[string]string{"hw.name": "gpu0/mig1"})
			require.True(t, ok)
			assert.GreaterOrEqual(t, after.StartTimestamp(), before.Timestamp(), "it counts since it was last seen, or later")
			again, _ := point(m.scrape(4, migDevice("MIG-1")), "hw.gpu.xid.errors", mig0)
			assert.Equal(t, after.StartTimestamp(), again.StartTimestamp(), "the new start stays")
		})
	}
}

func TestMIGDeviceWhoseIdentityIsReplacedEndsOnlyWhatIsEmittedOtherwise(t *testing.T) {
	m := newMIGGPU()
	assert.Empty(t, ends(t, m.scrape(1, migDevice("MIG-1"))))
	assert.Empty(t, ends(t, m.scrape(2, migDevice("MIG-1"))), "an equal identity")
	upgraded := migDevice("MIG-1")
	upgraded.Driver = "590"
	assert.Equal(t, []string{"hw.gpu.info"}, ends(t, m.scrape(3, upgraded)), "another description")
	renamed := *upgraded
	renamed.Name = "gpu0/mig1"
	assert.ElementsMatch(t, []string{"hw.gpu.info", "hw.gpu.xid.errors"}, ends(t, m.scrape(4, &renamed)), "another name")
}

func TestRelearnBetweenTwoScrapesMarksNoMIGDeviceStale(t *testing.T) {
	library.Machine(t, "h100-mig")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = time.Hour }).ready(1)
	r.scrapeNow()
	device := r.gpus[0].reading.MIG[0]
	r.gpus[0].relearn = true
	m := r.scrapeNow()
	require.NotSame(t, device, r.gpus[0].reading.MIG[0], "the worker described the devices again")
	// Profiling values are averages between two readings: the first has none.
	for _, name := range ends(t, m) {
		assert.Contains(t, []string{"hw.gpu.sm.active", "hw.gpu.sm.occupancy", "hw.gpu.pipe.active", "hw.gpu.engine.active", "hw.gpu.memory.active", "hw.gpu.io.rate"}, name)
	}
}
