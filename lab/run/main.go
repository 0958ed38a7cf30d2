// SPDX-License-Identifier: Apache-2.0

// Command run is `make run`: the main job on this machine, from the GPUs to a store
// that can be queried. It starts the embedded store (VictoriaMetrics) and the collector
// on the machine's GPUs. Without a GPU it says so and starts simulated ones, through the
// same library path, with a simulated ComfyUI, of version COMFYUI_VERSION (0.3.64 or
// 0.33.0), and its users on the first. With a ComfyUI, the simulated one or that of COMFYUI, it
// also starts the proxy, and with JAEGER=1 a store for traces. With LAW=1, or another seed, the photos
// of the simulated one cost what a service's do, with noise. While samples arrive it builds
// and starts vmalert, VictoriaLogs and Alertmanager, for which nothing waits.
//
// It ends on Ctrl-C, or after RUN_SECONDS with 0 if samples of every GPU arrived until
// the end, else with 1 and the reason. It leaves no process behind.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

func main() {
	if os.Getenv(countGPUs) != "" {
		printGPUs()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	interrupted := ctx.Err() != nil
	stop()
	if err != nil && !interrupted {
		fmt.Fprintln(os.Stderr, "make run:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	s, err := readSettings()
	if err != nil {
		return err
	}
	if err := checkPorts(usedPort{"PAGE_PORT", s.pagePort, "the page"}, usedPort{"STORE_PORT", s.storePort, "the store"}, usedPort{"HEALTH_PORT", s.healthPort, "the collector's health"},
		usedPort{"TELEMETRY_PORT", s.telemetryPort, "the collector's own telemetry"}, usedPort{"VMALERT_PORT", s.vmalertPort, "vmalert"},
		usedPort{"ALERTMANAGER_PORT", s.alertmanagerPort, "Alertmanager"}, usedPort{"LOGS_PORT", s.logsPort, "VictoriaLogs"}); err != nil {
		return err
	}
	storePath, err := stack.Tool(ctx, s.root, "victoria-metrics")
	if err != nil {
		return err
	}
	s.findComfyUI(ctx)
	m, err := s.findGPUs(ctx)
	if err != nil {
		return err
	}
	defer m.end()
	p, err := s.startPrompts(ctx, m)
	if err != nil {
		return err
	}
	defer func() { p.end() }() // listen replaces it

	scrape, err := s.scrapeConfig()
	if err != nil {
		return err
	}
	storeArguments := []string{
		"-httpListenAddr=127.0.0.1:" + strconv.Itoa(s.storePort), "-storageDataPath=" + filepath.Join(s.folder, "store"),
		"-promscrape.config=" + scrape, "-promscrape.suppressScrapeErrors", "-retentionPeriod=30d", "-search.latencyOffset=0s", "-loggerLevel=WARN",
		"-vmalert.proxyURL=http://127.0.0.1:" + strconv.Itoa(s.vmalertPort), // shows the page Alerting
		// Without this a query that found nothing is remembered for ten seconds.
		"-storage.cacheSizeIndexDBTagFilters=1",
	}
	if dashboards := filepath.Join(s.root, "deploy", "vmui", "dashboards"); isFolder(dashboards) {
		storeArguments = append(storeArguments, "-vmui.customDashboardsPath="+dashboards)
	}
	store, err := stack.Start(s.folder, "victoria-metrics", storePath, nil, storeArguments...)
	if err != nil {
		return err
	}
	defer end(store)
	at := fmt.Sprintf("http://127.0.0.1:%d", s.storePort)
	if err := store.WaitHTTP(ctx, at+"/health"); err != nil {
		return err
	}
	beside, err := s.newCompanions(at)
	if err != nil {
		return err
	}
	defer beside.end()            // after the collector, which sends to them
	loop, err := stack.FreePort() // between the queue and remote write; nobody else uses it
	if err != nil {
		return err
	}
	begin := time.Now()
	var arguments []string
	for _, config := range append(p.configs, filepath.Join(s.root, "config", "logs.yaml")) {
		arguments = append(arguments, "--config", config)
	}
	collector, err := stack.Start(s.folder, "otelcol-gpu", filepath.Join(s.root, "bin", "otelcol-gpu"), append(append(m.environment, p.environment...),
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+at+"/api/v1/write",
		"OTELCOL_GPU_LOGS_ENDPOINT="+s.logStore()+"/insert/opentelemetry/v1/logs",
		"OTELCOL_GPU_COLLECTION_INTERVAL="+s.interval.String(),
		"OTELCOL_GPU_QUEUE="+filepath.Join(s.folder, "queue"),
		"OTELCOL_GPU_LOOP=127.0.0.1:"+strconv.Itoa(loop),
		"OTELCOL_GPU_HEALTH_PORT="+strconv.Itoa(s.healthPort),
		"OTELCOL_GPU_TELEMETRY_PORT="+strconv.Itoa(s.telemetryPort),
		"OTELCOL_GPU_PAGE=127.0.0.1:"+strconv.Itoa(s.pagePort),
	), arguments...)
	if err != nil {
		return err
	}
	defer end(collector)

	fmt.Printf("page       http://127.0.0.1:%d\n", s.pagePort)
	fmt.Printf("store      %s/vmui/?#/?g0.expr=hw_gpu_utilization_ratio&g0.range_input=5m   (PromQL: %s/api/v1/query)\n", at, at)
	p.print()
	fmt.Printf("health     http://127.0.0.1:%d\n", s.healthPort)
	fmt.Printf("telemetry  http://127.0.0.1:%d/metrics\n", s.telemetryPort)
	fmt.Printf("output     %s, of each program\n", s.folder)
	j := &job{settings: &s, store: stack.Store{URL: at}, collector: collector, server: store, gpus: m.gpus, users: p.users != nil, begin: begin}
	if err := j.untilReady(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	beside.start(ctx)
	if p.users != nil {
		p.serveRushes(ctx, &rush{settings: &s, service: m.service, users: p.users, comfyui: fmt.Sprintf("http://127.0.0.1:%d", s.comfyPort), store: at})
	}
	return j.watch(ctx)
}

// scrapeConfig has the store scrape the collector's own telemetry.
func (s *settings) scrapeConfig() (path string, err error) {
	path = filepath.Join(s.folder, "scrape.yaml")
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	return path, stack.WriteScrapeConfig(path, host, "127.0.0.1:"+strconv.Itoa(s.telemetryPort), s.interval)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func end(p *stack.Process) {
	if _, err := p.Stop(10 * time.Second); err != nil && !p.Alive() {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
	}
}
