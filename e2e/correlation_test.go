// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
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

var (
	correlatedPrompts = flag.Int("prompts", 60, "prompts of TestBillsAgreeWithTheTruth; make e2e-correlation runs 1000")
	exactGoals        = flag.Bool("goals", false, "assert the goals of the figures; without it twice the goals")
)

// photoService is a simulated machine with ComfyUIs on its GPUs, and what they did.
type photoService struct {
	*machine
	gpu     []string // hw.id of each GPU
	history []*simulation.History
	// work is the simulated work on each GPU.
	work    []*simulation.GPU
	comfyui []*comfyUI
	// interval is that of the scrapes, 1s if it is empty.
	interval string

	mu   sync.Mutex
	done []executed
}

type comfyUI struct {
	gpu    int
	server *httptest.Server
	proxy  string
}

// executed is what a ComfyUI on a GPU did.
type executed struct {
	fakecomfyui.Executed
	gpu int
}

// newPhotoService starts ComfyUIs on GPUs; gpus[i] is the GPU of ComfyUI i.
func newPhotoService(t *testing.T, m *machine, gpus ...int) *photoService {
	t.Helper()
	p := &photoService{machine: m}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	services := map[int]*simulation.Service{}
	for i := range m.gpus {
		p.gpu = append(p.gpu, m.gpus[i].UUID())
		s := simulation.NewService(m.gpus[i], m.profiles[i], uint64(i))
		services[i] = s
		p.history = append(p.history, s.Remember())
		p.work = append(p.work, s.GPU)
		working.Go(func() { s.Run(ctx) })
	}
	for i, gpu := range gpus {
		s := services[gpu]
		if slices.Contains(gpus[:i], gpu) {
			s = s.Another(uint64(100 + i))
		}
		s.EmptyCache = 0
		server := fakecomfyui.NewServer(s)
		server.Lag = simulation.Late(uint64(i))
		server.Done = func(e fakecomfyui.Executed) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.done = append(p.done, executed{e, gpu})
		}
		c := &comfyUI{gpu: gpu, server: httptest.NewServer(server), proxy: "127.0.0.1:" + strconv.Itoa(port(t))}
		t.Cleanup(func() { c.server.CloseClientConnections(); c.server.Close() })
		working.Go(func() { server.Run(ctx) })
		p.comfyui = append(p.comfyui, c)
	}
	return p
}

// overlay is the configuration with a comfyui receiver in front of each ComfyUI.
func (p *photoService) overlay(t *testing.T) string {
	t.Helper()
	var receivers, names strings.Builder
	for i, c := range p.comfyui {
		name, device := "comfyui", p.gpu[c.gpu]
		if i%2 == 1 { // the one by its UUID, the other by its index
			device = strconv.Itoa(c.gpu)
		}
		if i > 0 {
			name = fmt.Sprintf("comfyui/%d", i)
		}
		fmt.Fprintf(&receivers, "  %s: {proxy: {endpoint: %q}, upstream: {endpoint: %q}, device: %s, library_path: '${env:OTELCOL_GPU_NVML_LIBRARY}', collection_interval: %s, execution_events: true, storage: file_storage/comfyui}\n", name, c.proxy, c.server.URL, device, cmp.Or(p.interval, "1s"))
		names.WriteString(", " + name)
	}
	path := filepath.Join(t.TempDir(), "overlay.yaml")
	text := "receivers:\n" + receivers.String() + "service:\n  pipelines:\n" +
		"    metrics: {receivers: [nvml" + names.String() + "]}\n    traces: {receivers: [" + names.String()[2:] + "]}\n    logs: {receivers: [nvml" + names.String() + "]}\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// order submits n photos in all, from three users of every ComfyUI.
func (p *photoService) order(t *testing.T, n int, seed uint64) {
	t.Helper()
	var users sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	random := rand.New(rand.NewPCG(seed, 9))
	const clients = 3
	parts := len(p.comfyui) * clients
	for i, c := range p.comfyui {
		for k := range clients {
			share := n / parts
			if i*clients+k < n%parts {
				share++
			}
			photos := make([]simulation.Photo, share)
			for j := range photos {
				photos[j].Side = []int{256, 320, 460, 512, 680, 960, 1024, 1280}[random.IntN(8)]
				if random.IntN(6) == 0 {
					photos[j].Checkpoint = "ddcolor_artistic.pth"
				}
			}
			users.Go(func() {
				assert.NoError(t, simulation.NewUsers("http://"+c.proxy).Order(ctx, fmt.Sprintf("client-%d-%d", i, k), photos))
			})
		}
	}
	users.Wait()
}

// shares returns how many traces used a GPU at a time.
func (p *photoService) shares(gpu int) func(int64) (int, int64) {
	var all []executed
	for _, e := range p.done {
		if e.gpu == gpu && e.Node == "" {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b executed) int { return a.From.Compare(b.From) })
	return func(at int64) (n int, until int64) {
		until = math.MaxInt64
		for _, e := range all {
			switch from, to := e.From.UnixNano(), e.To.UnixNano(); {
			case from > at:
				return max(n, 1), min(until, from)
			case at < to:
				n++
				until = min(until, to)
			}
		}
		return max(n, 1), until
	}
}

// relative holds the relative errors of one figure.
type relative struct{ errors []float64 }

func (r *relative) add(got, want float64) {
	if want > 0 {
		r.errors = append(r.errors, math.Abs(got-want)/want)
	}
}

func (r *relative) mean() float64 {
	sum := 0.0
	for _, e := range r.errors {
		sum += e
	}
	return sum / float64(max(len(r.errors), 1))
}

// deviation is how far the mean of so few spans may be off by chance: two standard errors.
func (r *relative) deviation() float64 {
	if len(r.errors) < 2 {
		return 0
	}
	mean, squares := r.mean(), 0.0
	for _, e := range r.errors {
		squares += (e - mean) * (e - mean)
	}
	n := float64(len(r.errors))
	return 2 * math.Sqrt(squares/(n-1)/n)
}

func (r *relative) quantile(q float64) float64 {
	if len(r.errors) == 0 {
		return 0
	}
	slices.Sort(r.errors)
	return r.errors[int(q*float64(len(r.errors)-1))]
}

// accuracy compares figures with the truth.
type accuracy struct {
	peak, energy, busy         relative
	throttleError, throttleAll float64   // s
	apart                      []float64 // energies, J
	spans                      int
	// starved are spans whose peak is not compared: the machine was so busy that the sampler
	// came late, as gpu.samples.gap says.
	starved int
}

// starvedGap is three times the working_interval of comfyui.yaml.
const starvedGap = 0.15 // s

// joules is a quantile of the errors of energies.
func (a *accuracy) joules(q float64) float64 {
	if len(a.apart) == 0 {
		return 0
	}
	slices.Sort(a.apart)
	return a.apart[int(q*float64(len(a.apart)-1))]
}

func (a *accuracy) add(s *jaegerSpan, truth simulation.Truth) {
	a.spans++
	number := func(key string) float64 { v, _ := s.tag(key).(float64); return v }
	a.apart = append(a.apart, math.Abs(number("gpu.energy")-truth.Energy))
	peak := truth.Peak
	if s.tag("gpu.memory.source") != "card" { // process, or shared_memory where the desktop is listed beside it
		peak = truth.PeakHeld
	}
	if number("gpu.samples.gap") > starvedGap {
		a.starved++
	} else {
		a.peak.add(number("gpu.memory.peak"), float64(peak))
	}
	a.energy.add(number("gpu.energy"), truth.Energy)
	a.busy.add(number("gpu.utilization.mean")*float64(s.Duration)/1e6, truth.Busy)
	a.throttleError += math.Abs(number("gpu.throttle.time") - truth.Throttled.Seconds())
	a.throttleAll += truth.Throttled.Seconds()
}

// goals of the mean errors of one class of spans, in percent.
type goals struct{ peak, energy, throttle float64 }

// check prints the figures of a class and asserts its goals: from at least minSpans
// spans, exactly with -goals, else with a margin of two for a busy machine, and what the
// mean of few prompts may be off by chance: where two share a GPU, one peak that lay between
// two readings is an error of a third.
func (a *accuracy) check(t *testing.T, name string, minSpans int, g goals) {
	t.Helper()
	figure.Print("correlation."+name+".spans", float64(a.spans), "spans")
	figure.Print("correlation."+name+".starved", float64(a.starved), "spans")
	require.GreaterOrEqual(t, a.spans, minSpans, "spans of the class %s that were compared", name)
	require.LessOrEqual(t, a.starved, a.spans/2, "spans of the class %s whose samples were further apart than %v s", name, starvedGap)
	peak, energy := g.peak, g.energy
	figure.AtMost("correlation."+name+".memory_peak_error", 100*a.peak.mean(), "%", peak)
	figure.Print("correlation."+name+".memory_peak_error_p95", 100*a.peak.quantile(0.95), "%")
	figure.AtMost("correlation."+name+".energy_error", 100*a.energy.mean(), "%", energy)
	figure.Print("correlation."+name+".energy_error_p95", 100*a.energy.quantile(0.95), "%")
	figure.Print("correlation."+name+".utilization_error", 100*a.busy.mean(), "%")
	margin, byChance := 2.0, (*relative).deviation
	if *exactGoals {
		margin, byChance = 1, func(*relative) float64 { return 0 }
	}
	assert.LessOrEqual(t, 100*(a.peak.mean()-byChance(&a.peak)), margin*g.peak, "mean error of the peak memory of %s in percent, at least", name)
	assert.LessOrEqual(t, 100*(a.energy.mean()-byChance(&a.energy)), margin*g.energy, "mean error of the energy of %s in percent, at least", name)
	if a.throttleAll > 0.05 {
		figure.AtMost("correlation."+name+".throttle_time_error", 100*a.throttleError/a.throttleAll, "%", g.throttle)
		assert.LessOrEqual(t, 100*a.throttleError/a.throttleAll, margin*g.throttle, "error of the throttled time of %s in percent", name)
	}
}

// TestBillsAgreeWithTheTruth runs ComfyUIs on several GPUs, two of them on one, with
// many users, and compares the figures on the spans with what the GPUs did, and with
// what joining samples of 15 s by time would give.
func TestBillsAgreeWithTheTruth(t *testing.T) {
	j := startJaeger(t)
	store, _ := prometheus(t, "10m")
	p := newPhotoService(t, newMachine(t, fakenvml.Current, "l40s", "h100", "rtx-4080-super"), 0, 1, 1, 2)
	c := collect(t, "comfyui.yaml", append(p.environment, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		"OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=15s"),
		"--config", p.overlay(t))
	eventually(t, store, `hw_gpu_up`, atLeast(3))
	n := *correlatedPrompts
	p.order(t, n, 1)

	var traces []jaegerTrace
	require.Eventually(t, func() bool {
		traces = j.traces(fmt.Sprintf("/api/traces?limit=%d&lookback=2h&service=comfyui", 2*n))
		return len(traces) >= n
	}, patience, 200*time.Millisecond, "%d of %d traces arrived", len(traces), n)
	eventually(t, store, fmt.Sprintf(`sum(comfyui_execution_gpu_energy_joules_count) == %d`, n), atLeast(1))
	p.compare(t, store, traces, n)
	exemplarsLeadToTraces(t, store, traces)
	// Whether a receiver names its GPU by UUID or by index.
	eventually(t, store, `count by (instance) (comfyui_prompts_total{gpu_simulated="true"})`, atLeast(len(p.comfyui)))
	unmarked, err := store.Query(context.Background(), `count by (__name__, instance) ({__name__=~"comfyui_.+|hw_.+",gpu_simulated!="true"})`)
	require.NoError(t, err)
	assert.Empty(t, unmarked)
	_, err = c.Stop(20 * time.Second)
	require.NoError(t, err)
}

// instant is the shortest duration of a node that is compared by itself: loading and
// saving an image use microseconds of a GPU in the simulation.
const instant = 10 * time.Millisecond

func (p *photoService) compare(t *testing.T, store stack.Store, traces []jaegerTrace, n int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Len(t, traces, n)
	spans := map[string]*jaegerSpan{} // by prompt and node
	billed, explained, lost := 0, 0, 0
	for i := range traces {
		for k := range traces[i].Spans {
			s := &traces[i].Spans[k]
			node := s.tag("comfyui.node.id")
			if node == nil {
				node = ""
			}
			if node != "" || s.OperationName == "comfyui.execution" {
				spans[fmt.Sprint(s.tag("comfyui.prompt.id"), " ", node)] = s
			}
			if s.OperationName == "comfyui.prompt" {
				switch {
				case s.tag("gpu.energy") != nil && s.tag("gpu.memory.peak") != nil:
					billed++
				case s.tag("gpu.correlation.reason") != nil:
					explained++
				}
			}
		}
	}
	share := map[int]func(int64) (int, int64){}
	for i := range p.history {
		share[i] = p.shares(i)
	}
	var long, short, nodes, unseen, naive accuracy
	for _, e := range p.done {
		s := spans[e.Prompt+" "+e.Node]
		if s == nil {
			lost++
			continue
		}
		truth := p.history[e.gpu].Between(e.From, e.To, share[e.gpu])
		samples, _ := s.tag("gpu.samples").(float64)
		switch {
		case samples == 0 || e.To.Sub(e.From) < instant:
			unseen.add(s, truth)
		case e.To.Sub(e.From) < 500*time.Millisecond:
			short.add(s, truth)
		case e.Node != "":
			nodes.add(s, truth)
		default:
			long.add(s, truth)
			p.askNaively(t, store, e, truth, &naive)
		}
	}
	figure.AtLeast("correlation.prompts_with_figures_or_reason", 100*float64(billed+explained)/float64(n), "%", 100)
	figure.Print("correlation.prompts_with_figures", 100*float64(billed)/float64(n), "%")
	figure.AtMost("correlation.spans_lost", float64(lost), "spans", 0)
	long.check(t, "executions", n/3, goals{peak: 1, energy: 3, throttle: 5})
	nodes.check(t, "nodes", n/3, goals{peak: 1, energy: 3, throttle: 5})
	short.check(t, "under_500ms", n/4, goals{peak: 5, energy: 10, throttle: 5})
	figure.Print("correlation.without_a_sample.spans", float64(unseen.spans), "spans")
	figure.Print("correlation.without_a_sample.memory_peak_error", 100*unseen.peak.mean(), "%")
	figure.Print("correlation.without_a_sample.energy_error_p95", unseen.joules(0.95), "J")
	figure.Print("naive_15s.memory_peak_error", 100*naive.peak.mean(), "%")
	figure.Print("naive_15s.memory_peak_error_p95", 100*naive.peak.quantile(0.95), "%")
	figure.Print("naive_15s.energy_error", 100*naive.energy.mean(), "%")
	figure.Print("naive_15s.energy_error_p95", 100*naive.energy.quantile(0.95), "%")
	assert.Equal(t, n, billed+explained, "every prompt has its figures or a reason")
	assert.Zero(t, lost, "spans")
}

// askNaively joins by time in PromQL what a scrape each 15 s has stored: memory and power
// of the last sample before the end.
func (p *photoService) askNaively(t *testing.T, store stack.Store, e executed, truth simulation.Truth, into *accuracy) {
	t.Helper()
	at := func(query string) float64 {
		series, err := store.QueryAt(context.Background(), fmt.Sprintf(query, p.gpu[e.gpu]), e.To)
		require.NoError(t, err)
		if len(series) == 0 {
			return 0
		}
		return series[0].Value()
	}
	into.spans++
	into.peak.add(at(`hw_gpu_memory_usage_bytes{hw_id="%s"}`), float64(truth.Peak))
	into.energy.add(at(`hw_power_watts{hw_id="%s",hw_gpu_power_scope="instant"}`)*e.To.Sub(e.From).Seconds(), truth.Energy)
}

// exemplarsLeadToTraces follows the exemplars of each kind of duration to a trace.
func exemplarsLeadToTraces(t *testing.T, store stack.Store, traces []jaegerTrace) {
	t.Helper()
	for _, span := range []string{"comfyui.execution", "comfyui.queue", "comfyui.node DDColor_Colorize"} {
		query := url.Values{"query": {`comfyui_span_duration_seconds_bucket{span_name="` + span + `",comfyui_task_class="people",comfyui_image_size_class="<=512"}`}, "start": {"0"}, "end": {strconv.FormatInt(time.Now().Unix()+60, 10)}}
		if strings.HasPrefix(span, "comfyui.node") { // nodes have the dimensions of their own
			query.Set("query", `comfyui_span_duration_seconds_bucket{span_name="`+span+`"}`)
		}
		var answer struct {
			Data []struct {
				Exemplars []struct{ Labels map[string]string }
			}
		}
		require.Eventually(t, func() bool {
			response, err := http.Get(store.URL + "/api/v1/query_exemplars?" + query.Encode())
			require.NoError(t, err)
			defer response.Body.Close()
			require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
			return len(answer.Data) > 0
		}, patience, 500*time.Millisecond, "no exemplar of %s", span)
		id := answer.Data[0].Exemplars[0].Labels["trace_id"]
		assert.True(t, slices.ContainsFunc(traces, func(tr jaegerTrace) bool { return tr.TraceID == id }), "%s leads to no trace: %v", span, answer.Data[0])
	}
}
