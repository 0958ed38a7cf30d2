// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the built collector against real servers, which the tests
// start themselves.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

var root string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if root, err = figure.Root(); err == nil {
		_, err = os.Stat(binary())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: the collector is not built, run make build:", err)
		os.Exit(1)
	}
	_ = os.Setenv("OTELCOL_GPU_PAGE", "127.0.0.1:0") // of every collector: a free port
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), // idle connections of the HTTP client
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

func binary() string { return filepath.Join(root, "bin", "otelcol-gpu") }

// patience bounds every wait: what takes longer is broken.
const patience = 60 * time.Second

func withPatience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func port(t testing.TB) int {
	t.Helper()
	p, err := stack.FreePort()
	require.NoError(t, err)
	return p
}

func start(t testing.TB, name, path string, environment []string, arguments ...string) *stack.Process {
	t.Helper()
	p, err := stack.Start(t.TempDir(), name, path, environment, arguments...)
	require.NoError(t, err)
	t.Cleanup(func() {
		if p.Alive() {
			p.Kill()
		}
		if t.Failed() {
			for _, line := range p.Warnings(10) {
				t.Logf("%s warned: %s", name, line)
			}
			t.Logf("%s ended its log with:\n%s", name, p.Tail())
		}
	})
	return p
}

func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := stack.Tool(context.Background(), root, name)
	require.NoError(t, err)
	return path
}

// victoriaMetrics starts a VictoriaMetrics, with more arguments.
func victoriaMetrics(t testing.TB, more ...string) stack.Store {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	p := start(t, "victoria-metrics", tool(t, "victoria-metrics"), nil, append([]string{"-httpListenAddr=" + address, "-storageDataPath=" + t.TempDir(),
		"-search.latencyOffset=0s", "-storage.cacheSizeIndexDBTagFilters=1", "-loggerLevel=WARN"}, more...)...)
	require.NoError(t, p.WaitHTTP(withPatience(t), "http://"+address+"/health"))
	return stack.Store{URL: "http://" + address}
}

// startVmalert starts a vmalert that evaluates rules at a store, without a notifier unless one is
// named, and returns the URL of its alerts.
func startVmalert(t testing.TB, rules string, store stack.Store, more ...string) (alerts string) {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	p := start(t, "vmalert", tool(t, "vmalert"), nil, append([]string{"-rule=" + rules, "-datasource.url=" + store.URL, "-remoteWrite.url=" + store.URL, "-remoteRead.url=" + store.URL,
		"-httpListenAddr=" + address, "-disableAlertgroupLabel", "-loggerLevel=WARN"}, more...)...)
	require.NoError(t, p.WaitHTTP(withPatience(t), "http://"+address+"/health"))
	return "http://" + address + "/api/v1/alerts"
}

// remoteWriters are the settings of one exporter for each store, as lines, and their names for
// a pipeline.
func remoteWriters(stores ...stack.Store) (lines, names string) {
	var all []string
	for i, store := range stores {
		name := "prometheus_remote_write/" + strconv.Itoa(i)
		lines += fmt.Sprintf("  %s: {endpoint: %q, timeout: 10s, middlewares: [{id: shutdown_limit}], max_batch_request_parallelism: 1, disable_scope_info: true, remote_write_queue: {enabled: false}, retry_on_failure: {enabled: false}}\n", name, store.URL+"/api/v1/write")
		all = append(all, name)
	}
	return lines, strings.Join(all, ", ")
}

// prometheus starts a Prometheus that accepts remote write, with an out-of-order window.
func prometheus(t testing.TB, window string) (stack.Store, *stack.Process) {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	return prometheusAt(t, address, t.TempDir(), window)
}

func prometheusAt(t testing.TB, address, data, window string) (stack.Store, *stack.Process) {
	t.Helper()
	return startPrometheus(t, address, data, "global: {scrape_interval: 1h}\nstorage: {tsdb: {out_of_order_time_window: "+window+"}}\n")
}

// prometheusWith starts a Prometheus with a configuration, and with more arguments.
func prometheusWith(t testing.TB, config string, more ...string) stack.Store {
	t.Helper()
	store, _ := startPrometheus(t, "127.0.0.1:"+strconv.Itoa(port(t)), t.TempDir(), config, more...)
	return store
}

func startPrometheus(t testing.TB, address, data, config string, more ...string) (stack.Store, *stack.Process) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	p := start(t, "prometheus", tool(t, "prometheus"), nil, append([]string{"--config.file=" + file, "--storage.tsdb.path=" + data,
		"--web.listen-address=" + address, "--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage", "--log.level=warn"}, more...)...)
	require.NoError(t, p.WaitHTTP(withPatience(t), "http://"+address+"/-/ready"))
	return stack.Store{URL: "http://" + address}, p
}

// machine is a simulated machine for collectors to run on.
type machine struct {
	state       *fakenvml.State
	gpus        []*fakenvml.GPU
	profiles    []*fakenvml.Profile
	environment []string
}

func newMachine(t testing.TB, variant fakenvml.Variant, profiles ...string) *machine {
	t.Helper()
	library, err := fakenvml.Cached(context.Background(), variant)
	require.NoError(t, err)
	state, err := fakenvml.Create(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	t.Cleanup(func() {
		state.Reset() // releases calls that hang
		require.NoError(t, state.Close())
	})
	m := &machine{state: state, environment: []string{fakenvml.Environment + "=" + state.Path(), "OTELCOL_GPU_NVML_LIBRARY=" + library}}
	for _, name := range profiles {
		p, err := fakenvml.LoadProfile(name)
		require.NoError(t, err)
		state.SetDriver(p.Driver.Version, p.Driver.NVML, p.Driver.CUDA)
		m.profiles = append(m.profiles, p)
		m.gpus = append(m.gpus, state.AddGPU(p))
	}
	return m
}

// collector is a running otelcol-gpu.
type collector struct {
	*stack.Process
	telemetry string
	otlp      string
}

// collect starts the built collector with a ready configuration.
func collect(t testing.TB, config string, environment []string, arguments ...string) *collector {
	t.Helper()
	c, all := collectorCommand(t, config, environment, arguments...)
	c.Process = start(t, "otelcol-gpu", binary(), all.environment, all.arguments...)
	require.NoError(t, c.WaitHTTP(withPatience(t), all.health))
	return c
}

type command struct {
	environment, arguments []string
	health                 string
}

func collectorCommand(t testing.TB, config string, environment []string, arguments ...string) (*collector, command) {
	t.Helper()
	health, telemetry, http, grpc, loop := port(t), port(t), port(t), port(t), port(t)
	all := append([]string{
		fmt.Sprintf("OTELCOL_GPU_HEALTH_PORT=%d", health),
		fmt.Sprintf("OTELCOL_GPU_TELEMETRY_PORT=%d", telemetry),
		fmt.Sprintf("OTELCOL_GPU_OTLP_HTTP=127.0.0.1:%d", http),
		fmt.Sprintf("OTELCOL_GPU_OTLP_GRPC=127.0.0.1:%d", grpc),
		fmt.Sprintf("OTELCOL_GPU_LOOP=127.0.0.1:%d", loop),
		"OTELCOL_GPU_QUEUE=" + t.TempDir(),
	}, environment...)
	if !filepath.IsAbs(config) {
		config = filepath.Join(root, "config", config)
	}
	return &collector{telemetry: fmt.Sprintf("http://127.0.0.1:%d/metrics", telemetry), otlp: fmt.Sprintf("http://127.0.0.1:%d", http)},
		command{all, append([]string{"--config", config}, arguments...), fmt.Sprintf("http://127.0.0.1:%d", health)}
}

// eventually queries a store until the answer is right.
func eventually(t testing.TB, store stack.Store, query string, right func([]stack.Series) bool) []stack.Series {
	t.Helper()
	var series []stack.Series
	var err error
	require.Eventually(t, func() bool {
		series, err = store.Query(context.Background(), query)
		return err == nil && right(series)
	}, patience, 50*time.Millisecond, "%s: %s: %v", store.URL, query, &series)
	return series
}

func atLeast(n int) func([]stack.Series) bool {
	return func(s []stack.Series) bool { return len(s) >= n }
}

// logLines counts the lines of a process's log that have a text.
func logLines(t testing.TB, p *stack.Process, text string) int {
	t.Helper()
	raw, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	n := 0
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// get reads what a server returns for a URL; an error if it is not 200.
func get(url string) (string, error) {
	response, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s returned %s", url, response.Status)
	}
	return string(raw), err
}

// logOf is a process's log.
func logOf(t testing.TB, p *stack.Process) string {
	t.Helper()
	raw, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	return string(raw)
}
