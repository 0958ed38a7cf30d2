// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
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

var memoryExecutions = flag.Int("memory-executions", 96, "executions of TestNeedAgreesWithTheTruth; make bench-memory runs 1200")

const (
	smallCheckpoint = "v1-5-pruned-emaonly-fp16.safetensors"
	largeCheckpoint = "sd_xl_base_1.0.safetensors"
)

// memoryServers are ComfyUIs that differ in what they do with memory, each on a GPU of its own.
var memoryServers = []memoryServer{
	{profile: "l40s", photos: []simulation.Photo{{Side: 460}, {Side: 960}, {Side: 1280}}},
	{profile: "rtx-2080-super", photos: []simulation.Photo{{Side: 512}, {Side: 960}, {Side: 1280, Checkpoint: "ddcolor_artistic.pth"}}, late: true},
	{profile: "rtx-4080-super", images: []simulation.Image{{Checkpoint: smallCheckpoint, Side: 512, Batch: 1, Steps: 4}, {Checkpoint: largeCheckpoint, Side: 1024, Batch: 1, Steps: 6}}},
	{profile: "rtx-2080-super", images: []simulation.Image{{Checkpoint: smallCheckpoint, Side: 512, Batch: 1, Steps: 4}, {Checkpoint: "dreamshaper_8.safetensors", Side: 1024, Batch: 1, Steps: 5}}},
	{profile: "rtx-4080-super", newer: true, dynamic: true, images: []simulation.Image{
		{Checkpoint: largeCheckpoint, Side: 1024, Batch: 1, Steps: 6}, {Checkpoint: "sd_xl_refiner_1.0.safetensors", Side: 1280, Batch: 1, Steps: 3}, {Checkpoint: smallCheckpoint, Side: 512, Batch: 2, Steps: 4},
	}, photos: []simulation.Photo{{Side: 960}}},
	{profile: "l40s", newer: true, dynamic: true, late: true, images: []simulation.Image{{Checkpoint: largeCheckpoint, Side: 1024, Batch: 2, Steps: 4}, {Checkpoint: smallCheckpoint, Side: 680, Batch: 1, Steps: 3}}},
	{profile: "l40s", newer: true, images: []simulation.Image{{Checkpoint: largeCheckpoint, Side: 1024, Batch: 1, Steps: 6}, {Checkpoint: smallCheckpoint, Side: 512, Batch: 1, Steps: 8}}},
	{profile: "h100", newer: true, photos: []simulation.Photo{{Side: 512}, {Side: 1024}, {Side: 1280}}},
}

// memoryServer is one ComfyUI.
type memoryServer struct {
	profile        string
	newer, dynamic bool
	late           bool // its event loop is busy now and then
	photos         []simulation.Photo
	images         []simulation.Image
}

// on makes the server of a service.
func (s *memoryServer) on(service *simulation.Service) *fakecomfyui.Server {
	version := fakecomfyui.Older
	if s.newer {
		version = fakecomfyui.Newer
	}
	o := service.Options(version)
	if s.newer && !s.dynamic {
		o.Arguments, service.Dynamic = []string{"main.py", "--disable-dynamic-vram"}, false
	}
	return fakecomfyui.NewServerWith(service, o)
}

// busyLoop is how long an event loop is busy: most times for less than 3 ms, now and then for
// 20 to 300 ms.
func busyLoop(seed uint64, late bool) func() time.Duration {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 5))
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if late && random.Float64() < 0.15 {
			return time.Duration(20+random.IntN(281)) * time.Millisecond
		}
		return time.Duration(random.IntN(3000)) * time.Microsecond
	}
}

// memoryRig is a collector in front of the servers.
type memoryRig struct {
	traces string // a file with every trace
	proxy  []string
	memory []*simulation.MemoryHistory

	mu   sync.Mutex
	done []ranExecution
}

// ranExecution is an execution as the server knows it.
type ranExecution struct {
	fakecomfyui.Executed
	server int
	truth  simulation.MemoryTruth
}

func newMemoryRig(t *testing.T) *memoryRig {
	t.Helper()
	profiles := make([]string, len(memoryServers))
	for i := range memoryServers {
		profiles[i] = memoryServers[i].profile
	}
	m := newMachine(t, fakenvml.Current, profiles...)
	r := &memoryRig{traces: filepath.Join(t.TempDir(), "traces.json")}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	var receivers, names strings.Builder
	for i := range memoryServers {
		of := &memoryServers[i]
		service := simulation.NewService(m.gpus[i], m.profiles[i], uint64(i))
		server := of.on(service)
		history := service.RememberMemory()
		r.memory = append(r.memory, history)
		working.Go(func() { service.Run(ctx) })
		server.Lag, server.Busy = simulation.Late(uint64(i)), busyLoop(uint64(i), of.late)
		server.Done = func(e fakecomfyui.Executed) {
			if e.Node == "" {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.done = append(r.done, ranExecution{Executed: e, server: i})
			}
		}
		h := httptest.NewServer(server)
		t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
		working.Go(func() { server.Run(ctx) })
		proxy := "127.0.0.1:" + strconv.Itoa(port(t))
		r.proxy = append(r.proxy, proxy)
		name := fmt.Sprintf("comfyui/%d", i)
		fmt.Fprintf(&receivers, "  %s: {proxy: {endpoint: %q}, upstream: {endpoint: %q}, device: %q, library_path: '${env:OTELCOL_GPU_NVML_LIBRARY}', execution_events: true, collection_interval: 1s}\n", name, proxy, h.URL, m.gpus[i].UUID())
		names.WriteString(", " + name)
	}
	all := names.String()[2:]
	overlay := filepath.Join(t.TempDir(), "overlay.yaml")
	require.NoError(t, os.WriteFile(overlay, fmt.Appendf(nil, `receivers:
%sexporters:
  file/traces: {path: %q, append: true, flush_interval: 200ms}
service:
  pipelines:
    metrics: {receivers: [nvml, %s]}
    traces: {receivers: [%s]}
    traces/joined: {exporters: [file/traces, signal_to_metrics, span_metrics]}
    logs: {receivers: [nvml, %s]}
`, receivers.String(), r.traces, all, all, all), 0o600))
	store := victoriaMetrics(t)
	collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=15s"), "--config", overlay)
	eventually(t, store, "hw_gpu_process_memory_usage_bytes", atLeast(len(memoryServers))) // they are listed before the first prompt
	return r
}

// work has a user of each server ask for n images.
func (r *memoryRig) work(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	var users sync.WaitGroup
	for i := range memoryServers {
		of := &memoryServers[i]
		random := rand.New(rand.NewPCG(uint64(i), 11))
		users.Go(func() {
			u := simulation.NewUsers("http://" + r.proxy[i])
			for k := range n {
				id := fmt.Sprintf("client-%d-%d", i, k)
				kind := k % (len(of.photos) + len(of.images)) // each comes first once
				if k >= len(of.photos)+len(of.images) {
					kind = random.IntN(len(of.photos) + len(of.images))
				}
				if kind < len(of.photos) {
					assert.NoError(t, u.Order(ctx, id, of.photos[kind:kind+1]))
					continue
				}
				image := of.images[kind-len(of.photos)]
				image.Seed = int64(k)
				assert.NoError(t, u.Generate(ctx, id, []simulation.Image{image}))
			}
		})
	}
	users.Wait()
}

// executions are the spans of executions by prompt, once there are n.
func (r *memoryRig) executions(t *testing.T, n int) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	require.Eventually(t, func() bool {
		for _, line := range exported(t, r.traces) {
			each(line, "traceId", func(span map[string]any) {
				if span["name"] == "comfyui.execution" {
					a := attributesOf(span)
					all[fmt.Sprint(a["comfyui.prompt.id"])] = a
				}
			})
		}
		return len(all) >= n
	}, patience, 300*time.Millisecond, "%d of %d executions arrived", len(all), n)
	return all
}

// attributesOf are those of a span in OTLP's JSON.
func attributesOf(span map[string]any) map[string]any {
	all := map[string]any{}
	list, _ := span["attributes"].([]any)
	for _, kv := range list {
		kv := kv.(map[string]any)
		for kind, v := range kv["value"].(map[string]any) {
			if kind == "intValue" {
				v, _ = strconv.ParseFloat(fmt.Sprint(v), 64)
			}
			all[kv["key"].(string)] = v
		}
	}
	return all
}

// TestNeedAgreesWithTheTruth compares what spans say that executions needed with what the
// simulated allocators did.
func TestNeedAgreesWithTheTruth(t *testing.T) {
	beside(t, working)
	r := newMemoryRig(t)
	each := max(*memoryExecutions/len(memoryServers), 1)
	r.work(t, each)
	n := each * len(memoryServers)
	spans := r.executions(t, n)
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Len(t, r.done, n)
	slices.SortFunc(r.done, func(a, b ranExecution) int { return cmp.Or(cmp.Compare(a.server, b.server), a.To.Compare(b.To)) })
	f := memoryFigures{begin: slices.MinFunc(r.done, func(a, b ranExecution) int { return a.From.Compare(b.From) }).From}
	for i := range r.done {
		e := &r.done[i]
		e.truth = r.memory[e.server].Between(e.From, e.To)
		f.add(t, e, spans[e.Prompt])
	}
	f.check(t, n)
}

// memoryFigures compares spans with the truth.
type memoryFigures struct {
	lower, upper     int // how many there are
	lowerAbove       int // lower bounds above the truth
	upperBelow       int // upper bounds below it
	marks, unbounded int // high-water marks, and those without an upper bound
	unsampled        int
	low, high        relative // how far the bounds are from the truth
	needs            relative // of classes with 20 executions, for peaks that last 200 ms
	held             relative // what is held, as if it were needed
	begin            time.Time
	early            int // bounds that are wrong or missing within firstLists of begin
	classes          map[string][]*ranExecution
}

// firstLists is for how long after its start the collector may know too few lists of a GPU's
// processes to say what others hold of it: a known fault.
const firstLists = 5 * time.Second

// wrong is where a wrong bound of an execution counts.
func (f *memoryFigures) wrong(e *ranExecution, usually *int) *int {
	if e.From.Sub(f.begin) < firstLists {
		return &f.early
	}
	return usually
}

func (f *memoryFigures) add(t *testing.T, e *ranExecution, a map[string]any) {
	t.Helper()
	need := float64(e.truth.Need)
	require.NotNil(t, a, "execution of prompt %s on server %d", e.Prompt, e.server)
	describe := func() string {
		return fmt.Sprintf("server %d, %s to %s: needed %.0f MiB, %v", e.server, e.From.Format("05.000"), e.To.Format("05.000"), need/(1<<20), a)
	}
	if v, ok := a["comfyui.memory.active.peak"].(float64); ok {
		f.lower++
		f.low.add(v, need)
		if v > need {
			f.lowerAbove++
			t.Log("lower bound above the truth: ", describe())
		}
	} else {
		f.unsampled++
	}
	bound, bounded := a["comfyui.memory.need.max"].(float64)
	if bounded {
		f.upper++
		f.high.add(bound, need)
		if bound < need {
			*f.wrong(e, &f.upperBelow)++
			t.Log("upper bound below the truth: ", describe())
		}
	}
	if e.truth.HighWater {
		f.marks++
		if !bounded {
			*f.wrong(e, &f.unbounded)++
			t.Log("high-water mark without an upper bound: ", describe())
		}
	}
	if v, ok := a["gpu.memory.peak"].(float64); ok {
		f.held.add(v, need)
	}
	f.addNeed(e, a)
}

// addNeed compares the need of a class with its last 20 executions, if the one that needed most
// did so for 200 ms, and the server answers fast.
func (f *memoryFigures) addNeed(e *ranExecution, a map[string]any) {
	const of = 20
	if f.classes == nil {
		f.classes = map[string][]*ranExecution{}
	}
	if _, ok := a["comfyui.memory.need"]; !ok { // nothing was seen of this one
		return
	}
	class := fmt.Sprint(e.server, a["comfyui.workflow.id"], a["comfyui.model"], a["comfyui.image.size_class"])
	f.classes[class] = append(f.classes[class], e)
	f.classes[class] = f.classes[class][max(len(f.classes[class])-of, 0):]
	if n, _ := a["comfyui.memory.need.executions"].(float64); n < of || memoryServers[e.server].late {
		return
	}
	largest := slices.MaxFunc(f.classes[class], func(a, b *ranExecution) int { return cmp.Compare(a.truth.Need, b.truth.Need) })
	if largest.truth.Lasts < 200*time.Millisecond {
		return
	}
	f.needs.add(a["comfyui.memory.need"].(float64), float64(largest.truth.Need))
}

func (f *memoryFigures) check(t *testing.T, n int) {
	t.Helper()
	figure.Print("memory.executions", float64(n), "executions")
	figure.AtMost("memory.lower_bounds_above_the_truth", float64(f.lowerAbove), "executions", 0)
	figure.AtMost("memory.upper_bounds_below_the_truth", float64(f.upperBelow), "executions", 0)
	figure.Print("memory.lower_bounds", float64(f.lower), "executions")
	figure.Print("memory.upper_bounds", float64(f.upper), "executions")
	figure.Print("memory.high_water_marks", float64(f.marks), "executions")
	figure.AtMost("memory.high_water_marks_without_a_bound", float64(f.unbounded), "executions", 0)
	figure.Print("memory.wrong_bounds_of_the_first_seconds", float64(f.early), "executions")
	figure.Print("memory.without_a_sample", float64(f.unsampled), "executions")
	figure.Print("memory.lower_bound_error", 100*f.low.mean(), "%")
	figure.Print("memory.upper_bound_error", 100*f.high.mean(), "%")
	figure.Print("memory.held_error", 100*f.held.mean(), "%")
	figure.Print("memory.needs_of_20", float64(len(f.needs.errors)), "executions")
	assert.Zero(t, f.lowerAbove, "lower bounds above the truth")
	assert.Zero(t, f.upperBelow, "upper bounds below the truth")
	assert.Zero(t, f.unbounded, "high-water marks without an upper bound")
	assert.Positive(t, f.marks)
	assert.Greater(t, f.lower, n/2)
	if len(f.needs.errors) > 0 {
		figure.AtMost("memory.need_error_max", 100*f.needs.quantile(1), "%", 3)
		assert.LessOrEqual(t, f.needs.quantile(1), 0.03, "error of a need after 20 executions")
	}
	if n >= 1000 {
		assert.Greater(t, len(f.needs.errors), 100)
	}
}

// TestContextOutlivesTheCollector starts a collector in front of a server that has run
// nothing, and another one once the server has filled its GPU with weights.
func TestContextOutlivesTheCollector(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "rtx-4080-super")
	service := simulation.NewService(m.gpus[0], m.profiles[0], 3)
	server := (&memoryServer{newer: true, dynamic: true}).on(service)
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { server.Run(ctx) })
	h := httptest.NewServer(server)
	t.Cleanup(func() { cancel(); working.Wait(); h.CloseClientConnections(); h.Close() })
	store, proxy := victoriaMetrics(t), "127.0.0.1:"+strconv.Itoa(port(t))
	environment := append(slices.Clone(m.environment), "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_COMFYUI="+h.URL, "OTELCOL_GPU_COMFYUI_PROXY="+proxy,
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=1s")
	is := func(of func() int64) func([]stack.Series) bool {
		return func(s []stack.Series) bool { return len(s) == 1 && s[0].Value() == float64(of()) }
	}
	held := func() int64 { held, _ := service.Outside(); return held }
	elastic := func() int64 { _, elastic := service.Outside(); return elastic }

	first := collect(t, "comfyui.yaml", environment)
	eventually(t, store, `comfyui_memory_context_bytes`, is(held))
	eventually(t, store, `comfyui_memory_elastic_bytes`, is(elastic))
	images := func(id string, seed int64) {
		t.Helper()
		require.NoError(t, simulation.NewUsers("http://"+proxy).Generate(withPatience(t), id, []simulation.Image{
			{Checkpoint: largeCheckpoint, Side: 512, Batch: 1, Steps: 2, Seed: seed}, {Checkpoint: "sd_xl_refiner_1.0.safetensors", Side: 512, Batch: 1, Steps: 2, Seed: seed},
		}))
	}
	images("first", 1)
	require.Greater(t, elastic(), int64(10<<30))
	first.Kill()

	collect(t, "comfyui.yaml", environment)
	// Lists of processes are 5 s apart, and not all are of the time of an answer.
	seed := int64(2)
	require.Eventually(t, func() bool {
		images(fmt.Sprint("next", seed), seed)
		seed++
		series, err := store.Query(context.Background(), `comfyui_memory_elastic_bytes`)
		return err == nil && is(elastic)(series)
	}, patience, time.Second)
	eventually(t, store, `comfyui_memory_context_bytes`, is(held))
	headroom := eventually(t, store, `comfyui_memory_headroom_bytes`, atLeast(1))[0].Value()
	assert.InDelta(t, float64(service.Memory().Free+elastic()), headroom, 0, "what is elastic is room for the next prompt")

	response, err := http.Post("http://"+proxy+"/free", "application/json", strings.NewReader(`{"unload_models": true, "free_memory": true}`))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Zero(t, elastic())
	eventually(t, store, `comfyui_memory_elastic_bytes`, is(elastic)) // though the server is not asked again
}
