// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// shortenedAlerts are the shipped alerts with every for, window and interval divided by a
// factor, and with settings of the mixin.
func shortenedAlerts(t *testing.T, factor int, settings string) (file string) {
	t.Helper()
	out, err := exec.Command("go", "run", "-C", filepath.Join(root, "tools", "rules"), ".", "shorten", root, strconv.Itoa(factor), settings).Output()
	require.NoError(t, err)
	file = filepath.Join(t.TempDir(), "alerts.yaml")
	require.NoError(t, os.WriteFile(file, out, 0o600))
	return file
}

// watcher is a rule engine with the store that it reads.
type watcher struct {
	stack.Store
	name, alerts string
}

// watchers are a Prometheus and a vmalert, which evaluate the same rules. Collectors write to
// both, and both scrape their telemetry: instances by the port.
func watchers(t *testing.T, rules string, telemetry map[int]string) []watcher {
	t.Helper()
	var targets strings.Builder
	for port, instance := range telemetry {
		fmt.Fprintf(&targets, "      - {targets: ['127.0.0.1:%d'], labels: {instance: %s}}\n", port, instance)
	}
	p := prometheusWith(t, fmt.Sprintf(`global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [%q]
scrape_configs:
  - job_name: otelcol-gpu
    metric_name_escaping_scheme: underscores
    static_configs:
%sstorage: {tsdb: {out_of_order_time_window: 1h}}
`, rules, targets.String()), "--query.lookback-delta=10s")
	scrape := filepath.Join(t.TempDir(), "scrape.yaml")
	require.NoError(t, os.WriteFile(scrape, fmt.Appendf(nil, "scrape_configs:\n  - job_name: otelcol-gpu\n    scrape_interval: 500ms\n    scrape_timeout: 500ms\n    static_configs:\n%s", targets.String()), 0o600))
	v := victoriaMetrics(t, "-promscrape.config="+scrape)
	// VictoriaMetrics shows what it was sent up to 4 s later on a busy machine; the default is 30s.
	alerts := startVmalert(t, rules, v, "-notifier.blackhole", "-evaluationInterval=500ms", "-rule.evalDelay=8s", "-datasource.queryStep=10s")
	return []watcher{{p, "Prometheus", p.URL + "/api/v1/alerts"}, {v, "vmalert", alerts}}
}

// writingTo is a configuration in which metrics go to all stores, and wait for a thirtieth of
// the second that they do as it is shipped. The queue is not synced to the disk: with a thirtieth
// of the interval, a disk that others keep busy is as slow as one thirty times as busy.
func writingTo(t *testing.T, all []watcher) (file string) {
	t.Helper()
	stores := make([]stack.Store, 0, len(all))
	for i := range all {
		stores = append(stores, all[i].Store)
	}
	exporters, names := remoteWriters(stores...)
	file = filepath.Join(t.TempDir(), "stores.yaml")
	require.NoError(t, os.WriteFile(file, []byte("exporters:\n  otlp_http/queue: {sending_queue: {batch: {flush_timeout: 33ms}}}\n"+exporters+
		"extensions:\n  file_storage/queue: {fsync: false}\nservice:\n  pipelines:\n    metrics/out: {exporters: ["+names+"]}\n"), 0o600))
	return file
}

// firing are the alerts that fire, by "alert gpu severity".
func (w *watcher) firing(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, labels := range firingLabels(t, w.alerts) {
		all[strings.Join(strings.Fields(labels["alertname"]+" "+labels["hw_name"]+" "+labels["severity"]), " ")] = true
	}
	return all
}

// stuckService never ends a photo.
type stuckService struct{ *simulation.Service }

func (s stuckService) Colorize(ctx context.Context, _ int, _ string, _ func(done, all int) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// causes cause one alert each, on a GPU of its own.
var causes = []struct {
	alert, profile string
	cause          func(c *fakenvml.GPU)
	// more is repeated, a few times a second, as long as the test waits.
	more func(c *fakenvml.GPU, n int64)
	// before is what is so from the beginning, in good health.
	before func(c *fakenvml.GPU)
}{
	{alert: "GPUMemoryUsageHigh warning", profile: "l40s", cause: func(c *fakenvml.GPU) { c.Set("memory_used", c.Get("memory_total")*90/100) }},
	{alert: "GPUMemoryUsageCritical critical", profile: "l40s", cause: func(c *fakenvml.GPU) { c.Set("memory_used", c.Get("memory_total")*96/100) }},
	{alert: "GPUXidCritical critical", profile: "h100", cause: xids(79)},
	{alert: "GPUXidWarning warning", profile: "h100", cause: xids(48)},
	{alert: "GPUXidWarning warning", profile: "l40s", cause: xids(13, 13, 13)},
	{alert: "GPUEccUncorrected critical", profile: "h100", cause: func(c *fakenvml.GPU) { c.Set("ecc_dram_uncorrected_volatile", 1) }},
	{alert: "GPURowRemapFailure critical", profile: "h100", cause: field(145, 1)},
	{alert: "GPURecoveryActionNeeded critical", profile: "h100", cause: field(230, 1)},
	{alert: "GPURowRemapPending warning", profile: "h100", cause: field(144, 1)},
	{alert: "GPUPagesRetired warning", profile: "v100", cause: field(31, 1)},
	{alert: "GPUPagesRetired warning", profile: "v100", cause: field(30, 60)},
	{alert: "GPUPredictedFailure warning", profile: "h100", cause: func(c *fakenvml.GPU) { c.Set("remap_banks_none", 1) }},
	{alert: "GPUThermalSlowdown warning", profile: "h100", more: func(c *fakenvml.GPU, n int64) { c.SetField(269, n*1e8, fakenvml.TypeUnsignedLL, fakenvml.Success) }},
	{alert: "GPUPowerBrake warning", profile: "h100", more: func(c *fakenvml.GPU, n int64) { c.SetField(271, n*1e8, fakenvml.TypeUnsignedLL, fakenvml.Success) }},
	{alert: "GPUNearSlowdownTemperature warning", profile: "rtx-4080-super", cause: func(c *fakenvml.GPU) { c.Set("temperature_gpu", c.Get("temperature_limit_slowdown")-1) }},
	{alert: "GPUNearSlowdownTemperature warning", profile: "h100", cause: func(c *fakenvml.GPU) { c.Set("temperature_margin", 2) }},
	{alert: "GPULost critical", profile: "l40s", cause: func(c *fakenvml.GPU) { c.SetLost(true) }},
	{alert: "GPUUnresponsive critical", profile: "l40s", cause: func(c *fakenvml.GPU) { c.SetHang("nvmlDeviceGetMemoryInfo_v2", true) }},
	{alert: "GPUIdleWaste info", profile: "l40s", cause: func(c *fakenvml.GPU) { c.Set("memory_used", c.Get("memory_total")/3); c.Step("gpu", 0) }},
	{alert: "GPUPcieReplays warning", profile: "h100", more: func(c *fakenvml.GPU, n int64) {
		c.Set("pcie_replays", 9+n)
		c.SetField(94, 9+n, fakenvml.TypeUnsignedInt, fakenvml.Success)
	}},
	{alert: "GPUPcieLinkDegraded warning", profile: "h100", cause: func(c *fakenvml.GPU) { c.Set("pcie_width", 8) }},
	{alert: "GPUPcieLinkDegraded warning", profile: "l40s", cause: func(c *fakenvml.GPU) { c.Step("gpu", 100) }, before: func(c *fakenvml.GPU) { c.Set("pcie_generation", 1); c.Step("gpu", 0) }},
	{alert: "GPUNvLinkDown warning", profile: "h100", cause: func(c *fakenvml.GPU) { c.SetNVLinks(links(fakenvml.NVLink{})...) }},
	{alert: "GPUNvLinkErrors warning", profile: "h100", cause: func(c *fakenvml.GPU) {
		c.SetNVLinks(links(fakenvml.NVLink{Active: true, Errors: [5]int64{500}})...)
	}},
	{alert: "GPUMemoryLeakSuspected warning", profile: "l40s", more: func(c *fakenvml.GPU, n int64) { c.Set("memory_used", 1<<30+n*(20<<20)) }},
	{alert: "GPUTelemetrySlow warning", profile: "l40s", cause: func(c *fakenvml.GPU) { c.SetDelay("nvmlDeviceGetMemoryInfo_v2", 600*time.Millisecond) }},
}

// xids are XIDs that happen.
func xids(all ...int64) func(*fakenvml.GPU) {
	return func(c *fakenvml.GPU) {
		for _, xid := range all {
			c.Event(fakenvml.EventXID, xid)
		}
	}
}

func field(id int, v int64) func(*fakenvml.GPU) {
	return func(c *fakenvml.GPU) { c.SetField(id, v, fakenvml.TypeUnsignedInt, fakenvml.Success) }
}

// links are those of an H100, of which the first is as given.
func links(first fakenvml.NVLink) []fakenvml.NVLink {
	all := slices.Repeat([]fakenvml.NVLink{{Active: true}}, 18)
	all[0] = first
	return all
}

// withoutGPU are the alerts that are not of a GPU.
var withoutGPU = []string{
	"Watchdog none", "CollectorExportFailing warning", "CollectorBacklogGrowing warning", "CollectorDataDropped warning",
	"ComfyUIOutOfMemory warning", "ComfyUIModelLoadingHeavy warning", "ComfyUIQueueGrowing warning", "ComfyUIStalled critical", "ComfyUIDown critical",
	"ComfyUIErrorRate warning", "ComfyUILatencySLO critical", "ComfyUILatencySLO warning",
	"GPUMemoryHeadroomShort warning", // it names the GPU by its id
	"GPUTelemetryMissing critical",   // when all the others have fired
}

// TestEveryAlertFires causes every alert in the test library and in simulated ComfyUIs, and
// waits until it fires in a Prometheus and in a vmalert, with shorter times. It keeps one and a half
// cores busy, and its rules have seconds where there are minutes: no other test runs beside it.
func TestEveryAlertFires(t *testing.T) {
	rules := shortenedAlerts(t, 30, `{
		'for'+: { GPUIdleWaste: '10s', CollectorBacklogGrowing: '5s' },
		leakHour: '5s', leakFloorWindow: '2s', leakFloorStep: '1s', // six hours
		linkWindow: '150s', // errors of links are read once a minute
		stalledWindow: '5s', // VictoriaMetrics shows samples a second after they were written
		queueWaitSeconds: 2, latencyBucket: '0.5',
	}`)
	gpus, working, lonely := port(t), port(t), port(t)
	all := watchers(t, rules, map[int]string{gpus: "gpus", working: "comfyui", lonely: "lonely"})
	stores := writingTo(t, all)

	// GPUs, each with a fault of its own.
	m := newMachine(t, fakenvml.Current, profilesOfCauses()...)
	for i := range causes {
		if causes[i].before != nil {
			causes[i].before(m.gpus[i])
		}
	}
	pages := newCausesSeen(newLivePage(t), newLivePage(t), newLivePage(t))
	a := collect(t, "default.yaml", append(m.environment, pages.of[0].environment(), fmt.Sprintf("OTELCOL_GPU_TELEMETRY_PORT=%d", gpus), "OTELCOL_GPU_COLLECTION_INTERVAL=500ms"), "--config", stores, "--config", sooner)
	// ComfyUIs.
	b := newFailingServers(t)
	c := collect(t, "comfyui.yaml", append(b.environment, pages.of[1].environment(), fmt.Sprintf("OTELCOL_GPU_TELEMETRY_PORT=%d", working), "OTELCOL_GPU_COLLECTION_INTERVAL=500ms",
		"OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_TRACES_ENDPOINT=127.0.0.1:"+strconv.Itoa(port(t))), "--config", stores, "--config", b.overlay(t), "--config", sooner, "--config", adviceOften)
	// A collector whose store is away.
	l := newMachine(t, fakenvml.Current, "h100", "h100")
	collect(t, "default.yaml", append(l.environment, pages.of[2].environment(), fmt.Sprintf("OTELCOL_GPU_TELEMETRY_PORT=%d", lonely), "OTELCOL_GPU_COLLECTION_INTERVAL=500ms",
		"OTELCOL_GPU_QUEUE_BYTES=3000000", fmt.Sprintf("OTELCOL_GPU_REMOTE_WRITE_ENDPOINT=http://127.0.0.1:%d", port(t))))

	for i := range all {
		eventually(t, all[i].Store, "hw_gpu_up", atLeast(len(causes)))
		eventually(t, all[i].Store, "comfyui_up", atLeast(len(b.comfyui)))
		eventually(t, all[i].Store, "hw_gpu_nvlink_errors_total", atLeast(1))
		for alert := range all[i].firing(t) {
			assert.True(t, alert == "Watchdog none" || strings.HasPrefix(alert, "Collector"), "%s fires in %s without a cause", alert, all[i].name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var causing sync.WaitGroup
	stop := func() { cancel(); causing.Wait() }
	defer stop()
	wanted := slices.Clone(withoutGPU[:len(withoutGPU)-1])
	for i := range causes {
		name, severity, _ := strings.Cut(causes[i].alert, " ")
		wanted = append(wanted, fmt.Sprintf("%s gpu%d %s", name, i, severity))
		if causes[i].cause != nil {
			causes[i].cause(m.gpus[i])
		}
	}
	causing.Go(func() { repeat(ctx, m) })
	b.fail(ctx, t, &causing)
	fired := []map[string]bool{{}, {}}
	poll := time.NewTicker(500 * time.Millisecond)
	defer poll.Stop()
	left := func(wanted ...string) (names []string) { // that have not fired in both
		pages.collect(t)
		for i := range all {
			maps.Copy(fired[i], all[i].firing(t))
			for _, name := range wanted {
				if !fired[i][name] {
					names = append(names, name+" in "+all[i].name)
				}
			}
		}
		return names
	}
	fires := func(within time.Duration, wanted ...string) {
		names := left(wanted...)
		for deadline := time.Now().Add(within); len(names) > 0 && time.Now().Before(deadline); names = left(wanted...) {
			<-poll.C
		}
		assert.Empty(t, names, "alerts that did not fire")
	}
	fires(3*patience, wanted...)
	pages.check(t, alertsOf(t, rules), poll.C)
	stop()
	a.Kill()
	c.Kill()
	last := withoutGPU[len(withoutGPU)-1]
	fires(patience, last)
	caused := map[string]bool{}
	for _, name := range append(wanted, last) {
		name, _, _ = strings.Cut(name, " ")
		caused[name] = true
	}
	shipped := alertsOf(t, rules)
	for name := range shipped {
		assert.True(t, caused[name], "%s has no cause", name)
	}
	figure.AtLeast("alerts.caused", float64(len(caused)), "alerts", float64(len(shipped)))
}

// alertsOf are the names of the alerts of a rule file.
func alertsOf(t *testing.T, file string) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	all := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "- alert: "); ok {
			all[name] = true
		}
	}
	require.NotEmpty(t, all)
	return all
}

func profilesOfCauses() (all []string) {
	for i := range causes {
		all = append(all, causes[i].profile)
	}
	return all
}

// repeat keeps causing what must go on.
func repeat(ctx context.Context, m *machine) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for n := int64(1); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for i := range causes {
			if causes[i].more != nil {
				causes[i].more(m.gpus[i], n)
			}
		}
	}
}

// failingServers are ComfyUIs of which each fails in its own way.
type failingServers struct {
	*photoService
	services []*simulation.Service
}

func newFailingServers(t *testing.T) *failingServers {
	t.Helper()
	m := newMachine(t, fakenvml.Current, slices.Repeat([]string{"rtx-4080-super"}, failingServersInAll)...)
	f := &failingServers{photoService: &photoService{machine: m, interval: "500ms"}}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	for i := range m.gpus {
		f.gpu = append(f.gpu, m.gpus[i].UUID())
		s := simulation.NewService(m.gpus[i], m.profiles[i], uint64(i))
		f.services = append(f.services, s)
		working.Go(func() { s.Run(ctx) })
		version := fakecomfyui.Newer
		if i == shortServer { // with Dynamic VRAM nothing is short before it runs out
			version = fakecomfyui.Older
		}
		o := s.Options(version)
		var work fakecomfyui.Work = s
		if i == stuckServer {
			work = stuckService{s}
		}
		server := fakecomfyui.NewServerWith(work, o)
		working.Go(func() { server.Run(ctx) })
		h := httptest.NewServer(server)
		t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
		f.comfyui = append(f.comfyui, &comfyUI{gpu: i, server: h, proxy: "127.0.0.1:" + strconv.Itoa(port(t))})
	}
	return f
}

// The servers by their fault.
const (
	fullServerOf = iota // out of memory
	loadingServer
	stuckServer
	slowServer
	deadServer
	shortServer
	failingServersInAll
)

// fail causes every alert of ComfyUI.
func (f *failingServers) fail(ctx context.Context, t *testing.T, causing *sync.WaitGroup) {
	t.Helper()
	end := f.services[fullServerOf].Occupy(4242, 0.955)
	t.Cleanup(end)
	causing.Go(func() { // prompts that fail
		u := simulation.NewUsers("http://" + f.comfyui[fullServerOf].proxy)
		for n := 0; ctx.Err() == nil; n++ {
			_ = u.Order(ctx, fmt.Sprint("client-full-", n), []simulation.Photo{{Side: 1280}})
		}
	})
	causing.Go(func() { // two models that take turns, once it is known how long each takes without
		photos := make([]simulation.Photo, 500)
		for i := range photos {
			photos[i].Side = 256
			if i < 10 && i >= 5 || i >= 10 && i%2 == 0 {
				photos[i].Checkpoint = "ddcolor_artistic.pth"
			}
		}
		_ = simulation.NewUsers("http://"+f.comfyui[loadingServer].proxy).Order(ctx, "client-loading", photos)
	})
	for i := range 3 { // of which two wait for one that never ends
		causing.Go(func() {
			_ = simulation.NewUsers("http://"+f.comfyui[stuckServer].proxy).Order(ctx, fmt.Sprint("client-stuck-", i), []simulation.Photo{{Side: 512}})
		})
	}
	f.short(ctx, t, causing)
	f.slow(ctx, causing)
	f.comfyui[deadServer].server.CloseClientConnections()
	f.comfyui[deadServer].server.Listener.Close()
}
