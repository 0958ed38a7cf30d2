// SPDX-License-Identifier: Apache-2.0

package page

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// eightGPUs is a state in which every GPU differs from that of another i.
func eightGPUs(i int) view.State {
	s := someState()
	s.GPUs = nil
	for g := range 8 {
		use := float64((i*7+g)%100) / 100
		gpu := view.GPU{ID: fmt.Sprintf("GPU-5f0a0000-8b1c-4f2e-9c7d-1f6f3b2a%04d", g), Name: fmt.Sprintf("gpu%d", g), Model: "NVIDIA H100 80GB HBM3", Utilization: &use, Memory: &view.Memory{Limit: 80 << 30, Used: int64(i)}, Power: &view.Power{Value: use * 700},
			Processes: []view.Process{{PID: 4242, Name: "python3", Memory: int64(i)}}, Recent: view.Recent{Step: 5, Utilization: make([]float64, 60)}}
		for k := range gpu.Recent.Utilization {
			gpu.Recent.Utilization[k] = float64((i+k)%100) / 100
		}
		s.GPUs = append(s.GPUs, gpu)
	}
	for k := range 20 {
		p := somePrompt()
		p.ID = fmt.Sprint("prompt", k)
		s.Prompts = append(s.Prompts, p)
	}
	return s
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkTwentyViewers has twenty viewers of eight GPUs that all change with each look: the
// share of a core at two looks a second, with what the viewers' own reading costs.
func BenchmarkTwentyViewers(b *testing.B) {
	s := serve(b, Settings{Interval: time.Hour})
	s.source.set(func(now *view.State) { *now = eightGPUs(0) })
	readers := make([]*reader, 20)
	for i := range readers {
		readers[i] = s.watch(b, "")
		readers[i].until("state")
	}
	begun := processorTime(b)
	size := 0
	for i := 0; b.Loop(); i++ {
		s.source.set(func(now *view.State) { *now = eightGPUs(i + 1) })
		s.hub.update("en")
		for _, r := range readers {
			size = len(r.until("change").data)
		}
	}
	perLook := (processorTime(b) - begun).Seconds() / float64(b.N)
	b.ReportMetric(perLook*2*100, "%-of-a-core")
	b.ReportMetric(float64(size)/1e3, "KB/change")
}
