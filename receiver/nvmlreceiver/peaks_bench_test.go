// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// BenchmarkPeaks reports how many spikes of 200 ms are observed with their height, the
// error of the active time, and the sampler's cost, each beside a plain reader at the
// scrapes. One iteration takes 36 s.
func BenchmarkPeaks(b *testing.B) {
	const scrapes, interval = 12, 3 * time.Second
	profiles := make([]string, 8)
	for i := range profiles {
		profiles[i] = "l40s"
	}
	_, gpus := library.Machine(b, profiles...)
	for _, c := range gpus {
		c.SetSamplingPeriods(166*time.Millisecond, time.Second)
		c.Step("gpu", 0)
	}
	r := newRig(b, nvml.NewSessions(nvml.Timing{}), func(c *Config) {
		c.Metrics.HwGpuXidErrors.Enabled = false // the test library has to poll for events
	}).ready(8)
	general := map[string]string{"hw.gpu.task": "general", "hw.name": "gpu0"}
	random := rand.New(rand.NewPCG(3, 4))
	active := func() float64 {
		p, _ := point(r.scrapeNow(), "hw.gpu.active.time", general)
		return p.DoubleValue()
	}
	for b.Loop() {
		r.scrapeNow()
		before := active()
		seen, plain := 0, 0
		var truth, polled float64
		began, cpu := time.Now(), cpuTime(b)
		for range scrapes {
			end := time.Now().Add(interval)
			idleUntil(time.Now().Add(time.Duration(random.Int64N(int64(interval - 400*time.Millisecond)))))
			height := int64(20000+random.IntN(20000)) * mib
			gpus[0].Set("memory_used", height)
			gpus[0].Step("gpu", 100)
			spike := time.Now()
			idleUntil(spike.Add(200 * time.Millisecond))
			gpus[0].Set("memory_used", 1000*mib)
			gpus[0].Step("gpu", 0)
			truth += time.Since(spike).Seconds()
			idleUntil(end)
			m := r.scrapeNow()
			if p, ok := point(m, "hw.gpu.memory.usage.max", map[string]string{"hw.name": "gpu0"}); ok && p.IntValue() == height {
				seen++
			}
			if p, ok := point(m, "hw.gpu.memory.usage", map[string]string{"hw.name": "gpu0"}); ok && p.IntValue() == height {
				plain++
			}
			u, _ := point(m, "hw.gpu.utilization", general)
			polled += u.DoubleValue() * interval.Seconds()
		}
		used := cpuTime(b) - cpu
		b.ReportMetric(used.Seconds()/time.Since(began).Seconds()*100, "cpu-%")
		idleUntil(time.Now().Add(200 * time.Millisecond))
		b.ReportMetric(float64(seen)/scrapes*100, "seen-%")
		b.ReportMetric(float64(plain)/scrapes*100, "plain-seen-%")
		b.ReportMetric(abs(active()-before-truth)/truth*100, "busy-error-%")
		b.ReportMetric(abs(polled-truth)/truth*100, "plain-busy-error-%")
	}
}

// idleUntil waits for a time of the wall clock without using the processor, whose time is
// measured.
func idleUntil(at time.Time) {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	<-timer.C
}

func abs(v float64) float64 { return max(v, -v) }

// cpuTime is the processor time of this process: the sampler's, a scrape
// every three seconds, and the test's own.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/stat")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime in ticks of 10 ms
		n, err := strconv.Atoi(f)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
