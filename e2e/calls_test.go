// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

var callsTime = flag.Duration("calls", 0, "for how long the NVML calls of each configuration are counted; 0 is the small form, without the scrapes' part")

const (
	// callsSmall is the time of the small form.
	callsSmall = 5 * time.Second
	// shortList and longList are what a list of processes takes on real drivers.
	shortList = 500 * time.Microsecond
	longList  = 4500 * time.Microsecond
)

// busyMachine is a machine of eight GPUs whose driver takes as long as a real one, behind its
// one lock.
func busyMachine(t *testing.T, list time.Duration) *machine {
	t.Helper()
	m := newMachine(t, fakenvml.Current, slices.Repeat([]string{"h100"}, 8)...)
	m.state.Lock(list)
	return m
}

// reports counts what the collector said of GPUs that do not respond.
func reports(t *testing.T, c *collector) (unresponsive, back int) {
	t.Helper()
	return logLines(t, c.Process, "GPU timed out"), logLines(t, c.Process, "GPU responds again")
}

// settleCalls waits until the start is over: every GPU has been scraped.
func settleCalls(t *testing.T, m *machine, d time.Duration) {
	t.Helper()
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(m.gpus, func(g *fakenvml.GPU) bool { return g.Calls("nvmlDeviceGetPerformanceState") == 0 })
	}, patience, 10*time.Millisecond)
	begin := time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) >= d }, patience, 10*time.Millisecond)
}

// callsFor is for how long calls are counted, and whether that is enough for the means of a
// minute.
func callsFor() (d time.Duration, whole bool) {
	if *callsTime > 0 {
		return *callsTime, *callsTime >= time.Minute
	}
	return callsSmall, false
}

// TestCallsOfTheNodeConfigurationsKeepTheirBudget counts the calls of those that have no
// receiver that follows work, and what their sampler costs.
func TestCallsOfTheNodeConfigurationsKeepTheirBudget(t *testing.T) {
	d, whole := callsFor()
	for _, config := range []string{"default", "node", "no-loss"} {
		t.Run(config, func(t *testing.T) {
			if !whole { // which measures CPU, too
				t.Parallel()
			}
			m := busyMachine(t, longList)
			store := victoriaMetrics(t)
			environment := func(m *machine) []string {
				return append(m.environment, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_TRACES_ENDPOINT=127.0.0.1:1")
			}
			c := collect(t, config+".yaml", environment(m))
			var without *collector
			other := busyMachine(t, longList)
			if whole && config == "default" { // beside it, the same without the sampler
				without = collect(t, config+".yaml", environment(other), "--config=yaml:receivers::nvml::sampling_interval: 0")
				settleCalls(t, other, 0)
			}
			settleCalls(t, m, 2*time.Second)
			var off counted
			var both sync.WaitGroup
			if without != nil {
				both.Go(func() { off = other.count(t, without, d) })
			}
			n := m.count(t, c, d)
			both.Wait()
			unresponsive, _ := reports(t, c)
			assert.Zero(t, unresponsive)
			between(t, 8, 10.5, n.calls["nvmlDeviceGetMemoryInfo_v2"], "the sampler, and the scrape")
			assert.LessOrEqual(t, n.calls["nvmlDeviceGetSamples"], 1.4)
			assert.LessOrEqual(t, n.calls["nvmlDeviceGetFieldValues"], 1.0, "only in the scrape")
			n.checkSum(t, config, 15, whole)
			if !whole {
				return
			}
			n.print(config)
			figure.AtMost("calls."+config+".sum", n.sum(), "calls/s", 15)
			figure.AtMost("calls."+config+".lock_held", 100*n.held, "%", 1)
			figure.AtMost("calls."+config+".unresponsive_reports", float64(unresponsive), "reports", 0)
			assert.LessOrEqual(t, n.held, 0.01, "of the time the lock is held")
			if without != nil {
				// Without what the test library used to mimic a driver that works.
				figure.Print("calls.default.driver_time", 100*n.spun, "%")
				figure.Print("calls.default.cpu", 100*(n.cpu-n.spun), "%")
				figure.Print("calls.default.cpu_without_sampler", 100*(off.cpu-off.spun), "%")
				sampler := 100 * (n.cpu - n.spun - off.cpu + off.spun)
				figure.AtMost("calls.default.sampler_cpu", sampler, "%", 0.5)
				assert.LessOrEqual(t, sampler, 0.75, "CPU of the sampler in percent; a busy machine needs more for the same")
			}
		})
	}
}

// comfyUIMachine is a machine of eight GPUs, each with a ComfyUI and the first with another, and a collector with
// comfyui.yaml and a comfyui receiver in front of each.
type comfyUIMachine struct {
	*photoService // with one more ComfyUI, on the first GPU, at the end
	collector     *collector
	stop          func() // ends the users
}

func newComfyUIMachine(t *testing.T, list time.Duration) *comfyUIMachine {
	t.Helper()
	m := &comfyUIMachine{photoService: newPhotoService(t, busyMachine(t, list), 0, 1, 2, 3, 4, 5, 6, 7, 0), stop: func() {}}
	store, traces := victoriaMetrics(t), startJaeger(t)
	environment := append(slices.Clone(m.environment), "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		"OTELCOL_GPU_TRACES_ENDPOINT="+traces.otlp, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write")
	arguments := []string{"--config", m.overlay(t), "--config=yaml:receivers::comfyui::collection_interval: 15s"}
	for i := 1; i < len(m.comfyui); i++ { // as often as the configuration does
		arguments = append(arguments, fmt.Sprintf("--config=yaml:receivers::comfyui/%d::collection_interval: 15s", i))
	}
	m.collector = collect(t, "comfyui.yaml", environment, arguments...)
	settleCalls(t, m.machine, 2*time.Second)
	return m
}

// work has users order photos at some of the ComfyUIs, one after the other, until it is
// stopped.
func (m *comfyUIMachine) work(t *testing.T, at []*comfyUI) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var users sync.WaitGroup
	for i, c := range at {
		users.Go(func() {
			u := simulation.NewUsers("http://" + c.proxy)
			for n := 0; ctx.Err() == nil; n++ {
				_ = u.Order(ctx, fmt.Sprintf("user-%d-%d", i, n), []simulation.Photo{{Side: 1024}, {Side: 1280}})
			}
		})
	}
	before := m.stop
	m.stop = sync.OnceFunc(func() { cancel(); users.Wait(); before() })
	t.Cleanup(m.stop)
	begin := time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) >= 2*time.Second }, patience, 10*time.Millisecond)
}

func TestCallsOfTheComfyUIConfigurationKeepTheirBudget(t *testing.T) {
	d, whole := callsFor()
	m := newComfyUIMachine(t, longList)
	rest := m.count(t, m.collector, d)
	between(t, 4, 5.5, rest.calls["nvmlDeviceGetFieldValues"], "at rest")
	between(t, 8, 11, rest.calls["nvmlDeviceGetMemoryInfo_v2"], "the sampler's and the fast receiver's are the same")
	assert.LessOrEqual(t, rest.calls["nvmlDeviceGetSamples"], 1.9)

	each := len(m.gpus) // ComfyUIs with a GPU of their own
	m.work(t, m.comfyui[:each])
	working := m.count(t, m.collector, d)
	runs := []callsRun{{"comfyui_at_rest", &rest, 21, 0}, {"comfyui_working", &working, 40, 0}}
	if whole {
		m.state.Lock(shortList)
		short := m.count(t, m.collector, d)
		runs = append(runs, callsRun{"comfyui_working_short_lists", &short, 40, 0})
	}
	assert.LessOrEqual(t, working.calls["nvmlDeviceGetProcessUtilization"], 0.25, "one of ours on each GPU, and a scrape")
	m.work(t, m.comfyui[each:])
	shared := m.count(t, m.collector, d)
	m.stop()
	for i, calls := range shared.of {
		if use := calls["nvmlDeviceGetProcessUtilization"]; i == 0 {
			between(t, 0.5, 1.3, use, "two of ours on the first GPU")
		} else {
			assert.LessOrEqual(t, use, 0.25, "one of ours on GPU %d, and a scrape", i)
		}
	}
	runs = append(runs, callsRun{"comfyui_working_and_one_gpu_shared", &shared, 40, 0})
	unresponsive, _ := reports(t, m.collector)
	assert.Zero(t, unresponsive)
	between(t, 14, 21, working.calls["nvmlDeviceGetFieldValues"], "while prompts are open")
	between(t, 8, 11.5, working.calls["nvmlDeviceGetMemoryInfo_v2"], "while prompts are open")
	assert.LessOrEqual(t, working.calls["nvmlDeviceGetComputeRunningProcesses_v3"], 0.55)
	assert.Zero(t, rest.calls["nvmlDeviceGetTotalEnergyConsumption"]+working.calls["nvmlDeviceGetTotalEnergyConsumption"])
	for _, run := range runs {
		run.n.checkSum(t, run.name, run.sum, whole)
		if whole {
			run.print(t)
		}
	}
	if !whole {
		return
	}
	figure.AtMost("calls.comfyui.unresponsive_reports", float64(unresponsive), "reports", 0)
}

// callsRun is what was counted of a configuration, with its budget: of the calls, and of the
// CPU in percent, 0 if the run has no goal for it.
type callsRun struct {
	name     string
	n        *counted
	sum, cpu float64
}

// print prints the figures. Of the CPU, driver_time is what the test library used to mimic a
// driver that works: the product's own is the rest.
func (r *callsRun) print(t *testing.T) {
	t.Helper()
	const ofAll, ofOne = 4, 0.5
	r.n.print(r.name)
	figure.AtMost("calls."+r.name+".sum", r.n.sum(), "calls/s", r.sum)
	figure.AtMost("calls."+r.name+".lock_held", 100*r.n.held, "%", ofAll)
	figure.AtMost("calls."+r.name+".lock_held_per_gpu", 100*r.n.held/8, "%", ofOne)
	assert.LessOrEqual(t, 100*r.n.held/8, ofOne, "%s: percent of the time the lock is held, for each GPU", r.name)
	figure.Print("calls."+r.name+".driver_time", 100*r.n.spun, "%")
	cpu := 100 * (r.n.cpu - r.n.spun)
	if r.cpu == 0 {
		figure.Print("calls."+r.name+".cpu", cpu, "%")
		return
	}
	figure.AtMost("calls."+r.name+".cpu", cpu, "%", r.cpu)
	assert.LessOrEqual(t, cpu, 1.5*r.cpu, "%s: CPU in percent; a busy machine needs more for the same", r.name)
}

// endlessWork is a collector with comfyui.yaml as it is, with one ComfyUI on another host, so
// that its GPU is not known and all eight are read as often as if each worked. Its prompt does
// not end, so that following and relaying it costs little.
func endlessWork(t *testing.T, m *machine) *collector {
	t.Helper()
	upstream, proxy := newEndlessComfyUI(t), "127.0.0.1:"+strconv.Itoa(port(t))
	store, traces := victoriaMetrics(t), startJaeger(t)
	c := collect(t, "comfyui.yaml", append(slices.Clone(m.environment), "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_COMFYUI="+upstream,
		"OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_TRACES_ENDPOINT="+traces.otlp, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	settleCalls(t, m, time.Second)
	response, err := http.Post("http://"+proxy+"/prompt", "application/json", strings.NewReader(`{"prompt": {"1": {"class_type": "KSampler", "inputs": {}}}, "client_id": "a"}`)) //nolint:noctx // a test
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	settleCalls(t, m, time.Second)
	return c
}

func TestTheComfyUIConfigurationUsesLittleCPUWhileAllGPUsWork(t *testing.T) {
	d, whole := callsFor()
	m := busyMachine(t, longList)
	c := endlessWork(t, m)
	n := m.count(t, c, d)
	between(t, 14, 21, n.calls["nvmlDeviceGetFieldValues"], "every GPU")
	unresponsive, _ := reports(t, c)
	assert.Zero(t, unresponsive)
	n.checkSum(t, "all GPUs", 40, whole)
	if whole {
		(&callsRun{"comfyui_all_gpus", &n, 40, 3}).print(t)
	}
}

// newEndlessComfyUI is the URL of a server that accepts a prompt and never finishes it, at an
// address of this machine that is not a loopback one: as on another host.
func newEndlessComfyUI(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	at := slices.IndexFunc(addresses, func(a net.Addr) bool {
		ip, ok := a.(*net.IPNet)
		return ok && ip.IP.To4() != nil && !ip.IP.IsLoopback()
	})
	host := "0.0.0.0" // where the machine has no other: connections to it come to this machine
	if at >= 0 {
		host = addresses[at].(*net.IPNet).IP.String()
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0")) //nolint:noctx // a test
	require.NoError(t, err)
	running := `[0, "prompt-1", {"1": {"class_type": "KSampler", "inputs": {}}}, {"client_id": "a"}, []]`
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodPost && r.URL.Path == "/prompt":
			_, _ = io.WriteString(w, `{"prompt_id": "prompt-1", "number": 0, "node_errors": {}}`)
		case r.URL.Path == "/queue":
			_, _ = io.WriteString(w, `{"queue_running": [`+running+`], "queue_pending": []}`)
		default:
			http.NotFound(w, r)
		}
	}))
	_ = s.Listener.Close()
	s.Listener = listener
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// TestAHostileDriverCausesNoFalseReport has a driver that stalls now and then, its lock held.
func TestAHostileDriverCausesNoFalseReport(t *testing.T) {
	d, whole := callsFor()
	m := newComfyUIMachine(t, longList)
	m.work(t, m.comfyui[:len(m.gpus)])
	m.state.Stall(1000, 500*time.Millisecond)
	n := m.count(t, m.collector, d)
	m.state.Stall(0, 0)
	unresponsive, _ := reports(t, m.collector)
	assert.Zero(t, unresponsive)
	assert.GreaterOrEqual(t, n.held, 0.5/5, "the lock was held by the stalls")
	if whole {
		figure.Print("calls.hostile.stalls.lock_held", 100*n.held, "%")
		figure.AtMost("calls.hostile.stalls.unresponsive_reports", float64(unresponsive), "reports", 0)
	}
}

// TestACallThatHangsIsReportedOnceAndCostsTheOthersNothing has one call of one GPU take 1.5 s,
// without the lock.
func TestACallThatHangsIsReportedOnceAndCostsTheOthersNothing(t *testing.T) {
	d, whole := callsFor()
	m := busyMachine(t, longList)
	c := endlessWork(t, m)
	var h hungCall
	// A busy test machine is late now and then, without a call that hangs: one of three that
	// costs the others nothing shows that it does not.
	for victim := 1; victim <= 3; victim++ {
		h = m.hang(t, c, victim, d)
		assert.Less(t, h.reported, 2*time.Second)
		assert.LessOrEqual(t, h.missed, int64(3))
		if h.missed <= 0 {
			break
		}
	}
	assert.LessOrEqual(t, h.missed, int64(0), "readings of the other GPUs")
	if whole {
		figure.AtMost("calls.hostile.hang.reported_after", h.reported.Seconds(), "s", 2)
		figure.AtMost("calls.hostile.hang.reports", float64(h.reports), "reports", 1)
		figure.AtMost("calls.hostile.hang.recoveries", float64(h.recoveries), "recoveries", 1)
		figure.AtMost("calls.hostile.hang.readings_missed_on_others", float64(max(h.missed, 0)), "readings", 0)
	}
}

// between asserts that a rate keeps to the budget, and that it is not much less: a busy test
// machine is late now and then.
func between(t *testing.T, low, high, rate float64, what string) {
	t.Helper()
	assert.GreaterOrEqual(t, rate, low, what)
	assert.LessOrEqual(t, rate, high, what)
}
