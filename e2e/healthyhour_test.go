// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// healthyFactor is by what the hour and the times of the rules are divided.
var healthyFactor = flag.Int("healthy-factor", 20, "by what the hour of TestAHealthyHourIsSilent and the times of the rules are divided")

// restartable is a simulated ComfyUI whose process can end and come back at the same address.
type restartable struct {
	service *simulation.Service
	address string
	// images counts those since the process's start.
	images atomic.Int64

	// version is Older for one without Dynamic VRAM, whose memory can be short before it runs out.
	version fakecomfyui.Version

	stop func()
}

func newRestartable(t *testing.T, service *simulation.Service, version fakecomfyui.Version) *restartable {
	t.Helper()
	r := &restartable{service: service, version: version, address: "127.0.0.1:" + strconv.Itoa(port(t))}
	r.start(t)
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *restartable) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := fakecomfyui.NewServerWith(r.service, r.service.Options(r.version))
	listener, err := net.Listen("tcp", r.address)
	require.NoError(t, err)
	h := &httptest.Server{Listener: listener, Config: &http.Server{Handler: server}}
	h.Start()
	var working sync.WaitGroup
	working.Go(func() { server.Run(ctx) })
	r.stop = func() { cancel(); working.Wait(); h.CloseClientConnections(); h.Close() }
}

// restart ends the process, and starts it again after what ten seconds are in the hour.
func (r *restartable) restart(ctx context.Context, t *testing.T) {
	t.Helper()
	r.stop()
	r.service.Free()
	r.images.Store(0)
	wait(ctx, 10*time.Second/time.Duration(*healthyFactor))
	r.start(t)
}

// wait waits until a time has passed, or the context has ended.
func wait(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// inMemory is a folder in memory, where the machine has that: what others write to its disk makes
// writing to a file wait, too.
func inMemory(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("/dev/shm", "otelcol-gpu-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(folder)) })
	return folder
}

// firedAt is from when to when an alert fired within a window, after a time.
func firedAt(store stack.Store, alert, window string, begin time.Time) string {
	at := func(of string) string {
		series, err := store.Query(context.Background(), fmt.Sprintf(`%s_over_time(timestamp(ALERTS{alertstate="firing",alertname=%q})[%s:1s])`, of, alert, window))
		if err != nil || len(series) == 0 {
			return "?"
		}
		return fmt.Sprintf("%.0f s", series[0].Value()-float64(begin.Unix()))
	}
	return fmt.Sprintf("from %s to %s after the begin; the hour lasts %v", at("min"), at("max"), time.Hour/time.Duration(*healthyFactor))
}

// course logs how the collector fared: how old the newest sample of a GPU was, and what the
// collector itself counted, each 5 s of a window.
func course(t *testing.T, store stack.Store, window string) {
	t.Helper()
	for _, of := range []string{
		"time() - max(timestamp(hw_gpu_memory_usage_bytes))",
		"sum by (exporter) (otelcol_exporter_queue_size)",
		"sum by (exporter) (rate(otelcol_exporter_send_failed_metric_points[10s]))",
		"rate(otelcol_process_cpu_seconds[10s])",
	} {
		series, err := store.Query(context.Background(), "("+of+")["+window+":5s]")
		if err != nil {
			t.Logf("%s: %s", of, err)
			continue
		}
		for _, s := range series {
			values := make([]string, 0, len(s.Points))
			for _, p := range s.Points {
				values = append(values, strconv.FormatFloat(p.Value, 'g', 3, 64))
			}
			t.Logf("%s %v: %s", of, s.Labels, strings.Join(values, " "))
		}
	}
}

// TestAHealthyHourIsSilent runs an hour of a service in good health, with what happens in one:
// memory that is full of what can be evicted, models that are loaded, servers and a collector
// that start again, a client that crashes. No alert fires but the one that always does. The
// hour is shorter, and so is every for, window and interval of the rules.
func TestAHealthyHourIsSilent(t *testing.T) {
	besideFirst(t, working)
	hour := time.Hour / time.Duration(*healthyFactor)
	telemetry := port(t)
	// Some things take as long whatever the factor: a ComfyUI that answers slowly, as all do on a busy
	// machine, is asked once in 5 s, so that what is elastic is known as late; a collector starts, or
	// waits for its turn.
	rules := shortenedAlerts(t, *healthyFactor, "{ 'for'+: { GPUMemoryUsageHigh: '20s', GPUMemoryUsageCritical: '20s', GPUTelemetryMissing: '40s' }, telemetryFresh: '10s' }")
	all := watchers(t, rules, map[int]string{telemetry: "vm"})
	m := newMachine(t, fakenvml.Current, "rtx-4080-super", "rtx-4080-super", "h100", "v100")
	p := &photoService{machine: m, interval: "500ms"}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	var servers []*restartable
	for i := range 2 {
		p.gpu = append(p.gpu, m.gpus[i].UUID())
		s := simulation.NewService(m.gpus[i], m.profiles[i], uint64(i))
		working.Go(func() { s.Run(ctx) })
		servers = append(servers, newRestartable(t, s, []fakecomfyui.Version{fakecomfyui.Newer, fakecomfyui.Older}[i]))
		p.comfyui = append(p.comfyui, &comfyUI{gpu: i, server: &httptest.Server{URL: "http://" + servers[i].address}, proxy: "127.0.0.1:" + strconv.Itoa(port(t))})
	}
	j, queue, folder := startJaeger(t), inMemory(t), inMemory(t)
	command := func() *collector {
		return collect(t, "comfyui.yaml", append(m.environment, fmt.Sprintf("OTELCOL_GPU_TELEMETRY_PORT=%d", telemetry), "OTELCOL_GPU_COLLECTION_INTERVAL=500ms",
			"OTELCOL_GPU_QUEUE="+queue, "OTELCOL_GPU_COMFYUI_STORE="+folder, "OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp), "--config", writingTo(t, all), "--config", p.overlay(t), "--config", adviceOften,
			"--config=yaml:receivers::nvml::card_timeout: 10s", "--config=yaml:receivers::nvml/fast::card_timeout: 10s", // a busy machine is not a slow GPU
			"--config=yaml:receivers::comfyui::memory::interval: 200ms", "--config=yaml:receivers::comfyui/1::memory::interval: 200ms")
	}
	c := command()
	for i := range all {
		eventually(t, all[i].Store, "comfyui_up == 1", atLeast(2))
	}
	begin := time.Now()
	for i := range servers {
		// Photos of buildings do not fit beside two other models: by day such a service is not in good health.
		u := simulation.NewUsers("http://" + p.comfyui[i].proxy).At(5)
		working.Go(func() { u.Run(ctx, 2, uint64(i)) })
		working.Go(func() { // images beside the photos: models that take turns
			for n := 0; ctx.Err() == nil; n++ {
				if i == 0 { // one model after the other fills the memory with what can be evicted
					servers[i].service.KeepFull(min(0.4+0.1*float64(servers[i].images.Add(1)), 0.97))
				}
				checkpoint := []string{largeCheckpoint, "v1-5-pruned-emaonly-fp16.safetensors"}[n%2]
				_ = u.Generate(ctx, fmt.Sprint("painter-", i, "-", n), []simulation.Image{{Checkpoint: checkpoint, Side: 512, Batch: 1, Steps: 8}})
				wait(ctx, 5*time.Second)
			}
		})
	}
	until := func(minute int) {
		wait(ctx, time.Until(begin.Add(time.Duration(minute)*time.Minute/time.Duration(*healthyFactor))))
	}
	until(10)
	m.gpus[0].Event(fakenvml.EventXID, 13)
	until(20)
	servers[1].restart(ctx, t)
	until(30)
	_, err := c.Stop(20 * time.Second)
	require.NoError(t, err)
	command()
	until(45)
	servers[0].restart(ctx, t)
	until(60)
	wrong := map[string]bool{}
	window := fmt.Sprintf("%ds", int(time.Since(begin).Seconds())+1)
	for i := range all {
		fired := func(matcher string) []stack.Series {
			series, err := all[i].Query(context.Background(), `count_over_time(ALERTS{alertstate="firing",`+matcher+`}[`+window+`])`)
			require.NoError(t, err)
			return series
		}
		alerts := fired(`alertname!="Watchdog"`)
		for _, s := range alerts {
			t.Errorf("%s fires in %s: %v, %s", s.Labels["alertname"], all[i].name, s.Labels, firedAt(all[i].Store, s.Labels["alertname"], window, begin))
			wrong[fmt.Sprint(s.Labels["alertname"], s.Labels["hw_name"], s.Labels["severity"])] = true
		}
		if len(alerts) > 0 {
			course(t, all[i].Store, window)
		}
		watchdog := fired(`alertname="Watchdog"`)
		require.Len(t, watchdog, 1, "the rules were evaluated")
		assert.Greater(t, watchdog[0].Value(), hour.Seconds(), "rules of %s were evaluated once a second at least", all[i].name)
		eventually(t, all[i].Store, `sum(increase(comfyui_prompts_total{comfyui_prompt_outcome="success"}[`+window+`])) > 20`, atLeast(1))
		eventually(t, all[i].Store, `max_over_time(hw_gpu_xid_errors_total{hw_gpu_xid="13"}[`+window+`]) == 1`, atLeast(1))
		eventually(t, all[i].Store, `max_over_time(min_over_time((hw_gpu_memory_usage_bytes / hw_gpu_memory_limit_bytes)[25s:500ms])[`+window+`:1s]) > 0.95`, atLeast(1)) // for longer than the rules' for
		eventually(t, all[i].Store, `min(count_over_time(gpuadvisor_memory_shortage_bytes[`+window+`])) > 100`, atLeast(1))
		eventually(t, all[i].Store, `sum(max_over_time(comfyui_loading_time_seconds_total[`+window+`])) > 0`, atLeast(1))
	}
	figure.AtMost("alerts.false", float64(len(wrong)), "alerts", 0)
}
