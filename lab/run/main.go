// SPDX-License-Identifier: Apache-2.0

// Command run is `make run`: the main job on this machine, from the GPUs to a store
// that can be queried. It starts the embedded store (VictoriaMetrics) and the collector
// on the machine's GPUs. Without a GPU it says so and starts simulated ones, through the
// same library path, with a simulated ComfyUI, of version COMFYUI_VERSION (0.3.64 or
// 0.33.0), and its users on the first. With a ComfyUI, the simulated one or that of COMFYUI, it also starts the proxy, and with
// JAEGER=1 a store for traces.
//
// It ends on Ctrl-C, or after RUN_SECONDS with 0 if samples of every GPU arrived until
// the end, else with 1 and the reason. It leaves no process behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
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

// settings come from the environment, so that `make run NAME=value` sets them.
type settings struct {
	storePort, healthPort, telemetryPort int
	proxyPort, tracesPort, comfyPort     int
	comfyui                              string              // a real one's URL
	version                              fakecomfyui.Version // of the simulated one
	seconds                              int
	interval                             time.Duration
	jaeger                               bool
	gpus                                 []string
	root, folder                         string
}

func readSettings() (s settings, err error) {
	for name, p := range map[string]struct {
		to       *int
		fallback int
	}{
		"STORE_PORT":     {&s.storePort, 8428},
		"HEALTH_PORT":    {&s.healthPort, 13133},
		"TELEMETRY_PORT": {&s.telemetryPort, 8888},
		"PROXY_PORT":     {&s.proxyPort, 8189},
		"TRACES_PORT":    {&s.tracesPort, 16686},
		"COMFYUI_PORT":   {&s.comfyPort, 8188},
		"RUN_SECONDS":    {&s.seconds, 0},
	} {
		*p.to = p.fallback
		if v := os.Getenv(name); v != "" {
			if *p.to, err = strconv.Atoi(v); err != nil || *p.to < 0 {
				return s, fmt.Errorf("%s=%s: give a number, such as %s=%d", name, v, name, p.fallback)
			}
		}
	}
	s.interval = time.Second
	if v := os.Getenv("INTERVAL"); v != "" {
		if s.interval, err = time.ParseDuration(v); err != nil || s.interval <= 0 {
			return s, fmt.Errorf("INTERVAL=%s: give a duration, such as INTERVAL=1s", v)
		}
	}
	switch v := os.Getenv("JAEGER"); v {
	case "", "0":
	case "1":
		s.jaeger = true
	default:
		return s, fmt.Errorf("JAEGER=%s is not a valid value: use JAEGER=1 to store traces", v)
	}
	s.comfyui = os.Getenv("COMFYUI")
	if u, err := url.Parse(s.comfyui); s.comfyui != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return s, fmt.Errorf("COMFYUI=%s: give the server's URL, such as COMFYUI=http://127.0.0.1:8188", s.comfyui)
	}
	s.version = fakecomfyui.Older
	if v := os.Getenv("COMFYUI_VERSION"); v != "" {
		if s.version = fakecomfyui.Version(v); !slices.Contains(fakecomfyui.Versions, s.version) {
			return s, fmt.Errorf("COMFYUI_VERSION=%s is not a valid version of the simulated ComfyUI: use one of %s", v, fakecomfyui.Versions)
		}
	}
	gpus := os.Getenv("SIMULATED_CARDS")
	if gpus == "" {
		gpus = "rtx-4080-super,l40s,h100"
	}
	s.gpus = strings.Split(gpus, ",")
	if s.root, err = figure.Root(); err != nil {
		return s, err
	}
	if s.folder = os.Getenv("RUN_FOLDER"); s.folder == "" {
		s.folder = filepath.Join(s.root, ".run")
	}
	return s, os.MkdirAll(s.folder, 0o755)
}

// usedPort is a port with its name in the environment.
type usedPort struct {
	name string
	port int
	use  string
}

// checkPorts returns an error that names every port that is in use.
func checkPorts(ports ...usedPort) error {
	var errs []error
	for _, p := range ports {
		if err := stack.CheckPort(p.port); err != nil {
			errs = append(errs, fmt.Errorf("port %d for %s is in use: stop what listens there (ss -ltnp 'sport = :%d'), or choose another: make run %s=%d",
				p.port, p.use, p.port, p.name, p.port+1000))
		}
	}
	return errors.Join(errs...)
}

func run(ctx context.Context) (err error) {
	s, err := readSettings()
	if err != nil {
		return err
	}
	if err := checkPorts(usedPort{"STORE_PORT", s.storePort, "the store"}, usedPort{"HEALTH_PORT", s.healthPort, "the collector's health"},
		usedPort{"TELEMETRY_PORT", s.telemetryPort, "the collector's own telemetry"}); err != nil {
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
	defer p.end()

	scrape, err := s.scrapeConfig()
	if err != nil {
		return err
	}
	store, err := stack.Start(s.folder, "victoria-metrics", storePath, nil,
		"-httpListenAddr=127.0.0.1:"+strconv.Itoa(s.storePort), "-storageDataPath="+filepath.Join(s.folder, "store"),
		"-promscrape.config="+scrape, "-promscrape.suppressScrapeErrors", "-retentionPeriod=30d", "-search.latencyOffset=0s", "-loggerLevel=WARN",
		// Without this a query that found nothing is remembered for ten seconds.
		"-storage.cacheSizeIndexDBTagFilters=1")
	if err != nil {
		return err
	}
	defer end(store)
	at := fmt.Sprintf("http://127.0.0.1:%d", s.storePort)
	if err := store.WaitHTTP(ctx, at+"/health"); err != nil {
		return err
	}
	loop, err := stack.FreePort() // between the queue and remote write; nobody else uses it
	if err != nil {
		return err
	}
	begin := time.Now()
	var arguments []string
	for _, config := range p.configs {
		arguments = append(arguments, "--config", config)
	}
	collector, err := stack.Start(s.folder, "otelcol-gpu", filepath.Join(s.root, "bin", "otelcol-gpu"), append(append(m.environment, p.environment...),
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+at+"/api/v1/write",
		"OTELCOL_GPU_COLLECTION_INTERVAL="+s.interval.String(),
		"OTELCOL_GPU_QUEUE="+filepath.Join(s.folder, "queue"),
		"OTELCOL_GPU_LOOP=127.0.0.1:"+strconv.Itoa(loop),
		"OTELCOL_GPU_HEALTH_PORT="+strconv.Itoa(s.healthPort),
		"OTELCOL_GPU_TELEMETRY_PORT="+strconv.Itoa(s.telemetryPort),
	), arguments...)
	if err != nil {
		return err
	}
	defer end(collector)

	fmt.Printf("store      %s/vmui/?#/?g0.expr=hw_gpu_utilization_ratio&g0.range_input=5m   (PromQL: %s/api/v1/query)\n", at, at)
	p.print()
	fmt.Printf("health     http://127.0.0.1:%d\n", s.healthPort)
	fmt.Printf("telemetry  http://127.0.0.1:%d/metrics\n", s.telemetryPort)
	fmt.Printf("logs       %s\n", s.folder)
	j := &job{settings: s, store: stack.Store{URL: at}, collector: collector, server: store, gpus: m.gpus, users: p.users != nil, begin: begin}
	if err := j.untilReady(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	p.listen(ctx)
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

func end(p *stack.Process) {
	if _, err := p.Stop(10 * time.Second); err != nil && !p.Alive() {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
	}
}

// machine is the GPUs that the collector will see.
type machine struct {
	environment []string // of the collector
	gpus        int      // how many must arrive
	service     *simulation.Service
	end         func()
}

// findGPUs finds real GPUs; without any it starts simulated ones, the first of which
// works for a ComfyUI.
func (s *settings) findGPUs(ctx context.Context) (*machine, error) {
	if os.Getenv("SIMULATED_CARDS") == "" {
		if n := realGPUs(ctx); n > 0 {
			fmt.Printf("GPUs       %d, read through the NVIDIA driver\n", n)
			return &machine{gpus: n, end: func() {}}, nil
		}
	}
	fmt.Println()
	fmt.Println("NO NVIDIA GPU WAS FOUND ON THIS MACHINE. THE GPUS BELOW ARE SIMULATED:")
	fmt.Printf("%s; every series carries gpu_simulated=\"true\".\n\n", strings.Join(s.gpus, ", "))
	path, err := fakenvml.Cached(ctx, fakenvml.Current)
	if err != nil {
		return nil, err
	}
	state, err := fakenvml.Create(filepath.Join(s.folder, "fakenvml.state"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	m := &machine{
		environment: []string{fakenvml.Environment + "=" + state.Path(), "OTELCOL_GPU_NVML_LIBRARY=" + path}, gpus: len(s.gpus),
		end: func() { cancel(); working.Wait() },
	}
	for i, name := range s.gpus {
		profile, err := fakenvml.LoadProfile(strings.TrimSpace(name))
		if err != nil {
			m.end()
			return nil, fmt.Errorf("SIMULATED_CARDS: %w", err)
		}
		state.SetDriver(profile.Driver.Version, profile.Driver.NVML, profile.Driver.CUDA)
		if i == 0 && s.comfyui == "" {
			service := simulation.NewService(state.AddGPU(profile), profile, uint64(i+1))
			m.service = service
			working.Go(func() { service.Run(ctx) })
			continue
		}
		gpu := simulation.New(state.AddGPU(profile), profile, uint64(i+1))
		working.Go(func() { gpu.Run(ctx) })
	}
	return m, nil
}

// countGPUs is set in the environment of the child that counts the GPUs.
const countGPUs = "OTELCOL_GPU_COUNT_CARDS"

// realGPUs counts the GPUs that the driver reports, in a process of its own: whatever
// the driver does, this one does not hang.
func realGPUs(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), countGPUs+"=1")
	out, err := cmd.Output()
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	return n
}

// printGPUs is the child's work.
func printGPUs() {
	sessions := nvml.NewSessions(nvml.Timing{})
	session, err := sessions.Acquire("", zap.NewNop())
	if err != nil {
		return
	}
	<-session.Inspected()
	if s := session.Snapshot(); !s.Simulated {
		fmt.Println(len(s.GPUs) + s.Unidentified)
	}
}

// job watches the samples that arrive.
type job struct {
	settings
	store             stack.Store
	collector, server *stack.Process
	gpus              int
	users             bool // prompts must arrive too
	begin             time.Time
}

// prompts counts those that ended since the collector's start.
func (j *job) prompts(ctx context.Context) (float64, error) {
	series, err := j.store.Query(ctx, fmt.Sprintf("sum(comfyui_prompts_total and timestamp(comfyui_prompts_total) >= %d)", j.begin.Unix()))
	if err != nil || len(series) == 0 {
		return 0, err
	}
	return series[0].Value(), nil
}

const readyWithin = 60 * time.Second

// untilReady waits until the first samples of every GPU can be queried.
func (j *job) untilReady(ctx context.Context) error {
	deadline := time.NewTimer(readyWithin)
	defer deadline.Stop()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		// What an earlier run left in the store does not count.
		series, err := j.store.Query(ctx, fmt.Sprintf("hw_gpu_up == 1 and timestamp(hw_gpu_up) >= %d", j.begin.Unix()))
		prompts := 0.0
		if err == nil && len(series) >= j.gpus && j.users {
			prompts, err = j.prompts(ctx)
		}
		if err == nil && len(series) >= j.gpus && (!j.users || prompts > 0) {
			and := ""
			if j.users {
				and = " and the first prompt"
			}
			fmt.Printf("\nREADY: samples of %d GPUs%s can be queried, %.1f s after the collector started\n", len(series), and, time.Since(j.begin).Seconds())
			printReadyFigure()
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.collector.Exited():
			return fmt.Errorf("the collector exited:\n%s", j.collector.Tail())
		case <-j.server.Exited():
			return fmt.Errorf("the store exited:\n%s", j.server.Tail())
		case <-deadline.C:
			return fmt.Errorf("after %v samples of %d of %d GPUs and %.0f prompts have arrived; the collector's log ends with:\n%s", readyWithin, len(series), j.gpus, prompts, j.collector.Tail())
		case <-ticker.C:
		}
	}
}

// printReadyFigure prints the time since make was called. It has a goal only if nothing
// was cached: make passes both.
func printReadyFigure() {
	began, err := strconv.ParseInt(os.Getenv("RUN_BEGIN"), 10, 64)
	if err != nil {
		return
	}
	seconds := time.Since(time.Unix(began, 0)).Seconds()
	if os.Getenv("RUN_CACHES") == "empty" {
		figure.AtMost("run.ready_from_nothing", seconds, "s", 210)
	} else {
		figure.Print("run.ready", seconds, "s")
	}
}

// watch runs until the time is over or the user stops it, and checks what arrived.
func (j *job) watch(ctx context.Context) error {
	var over <-chan time.Time
	if j.seconds > 0 {
		over = time.After(time.Duration(j.seconds) * time.Second)
		fmt.Printf("running for %d s\n", j.seconds)
	} else {
		fmt.Println("press Ctrl-C to stop")
	}
	select {
	case <-ctx.Done():
		fmt.Println("\nstopping")
		return nil
	case <-j.collector.Exited():
		return fmt.Errorf("the collector exited:\n%s", j.collector.Tail())
	case <-j.server.Exited():
		return fmt.Errorf("the store exited:\n%s", j.server.Tail())
	case <-over:
	}
	window := max(5*time.Second, 3*j.interval)
	series, err := j.store.Query(ctx, fmt.Sprintf("count_over_time(hw_gpu_up[%dms])", window.Milliseconds()))
	if err != nil {
		return err
	}
	if len(series) < j.gpus {
		return fmt.Errorf("in the last %v samples of %d of %d GPUs arrived; the collector's log ends with:\n%s", window, len(series), j.gpus, j.collector.Tail())
	}
	total, err := j.store.Query(ctx, fmt.Sprintf(`sum(count_over_time({__name__=~"hw_.*"}[%ds]))`, int(time.Since(j.begin).Seconds())+1))
	if err == nil && len(total) > 0 {
		fmt.Printf("done: %.0f samples of %d GPUs arrived\n", total[0].Value(), len(series))
	}
	if j.users {
		prompts, err := j.prompts(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("done: %.0f prompts ended\n", prompts)
	}
	return nil
}
