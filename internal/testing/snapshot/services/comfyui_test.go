// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/snapshot"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver"
)

// comfyuiPatience is how long a condition may take on a busy machine.
const comfyuiPatience = 40 * time.Second

// comfyuiScrapes keeps the newest collection, and how many there were.
type comfyuiScrapes struct {
	mu   sync.Mutex
	n    int
	last pmetric.Metrics
}

func (s *comfyuiScrapes) take(_ context.Context, md pmetric.Metrics) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	s.last = md
	return nil
}

func (s *comfyuiScrapes) get() (int, pmetric.Metrics) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.last
}

// comfyuiRun is one receiver at work, with what it emitted.
type comfyuiRun struct {
	t         *testing.T
	traces    *consumertest.TracesSink
	logs      *consumertest.LogsSink
	scrapes   *comfyuiScrapes
	telemetry *componenttest.Telemetry
	base      string // of the proxy
	sides     []component.Component
}

// comfyuiSettings say what a receiver is started with, beside its configuration.
type comfyuiSettings struct {
	nextTraces consumer.Traces // else a sink
	nextLogs   consumer.Logs   // else a sink
	noMetrics  bool
}

// comfyuiStart starts a receiver with all its signals; conf is merged over what each
// run needs. The machine's cards are out of reach.
func comfyuiStart(t *testing.T, upstream string, conf map[string]any, s comfyuiSettings) *comfyuiRun {
	t.Helper()
	r := &comfyuiRun{t: t, traces: new(consumertest.TracesSink), logs: new(consumertest.LogsSink), scrapes: &comfyuiScrapes{}, telemetry: componenttest.NewTelemetry()}
	if s.nextTraces == nil {
		s.nextTraces = r.traces
	}
	if s.nextLogs == nil {
		s.nextLogs = r.logs
	}
	nextMetrics, err := consumer.NewMetrics(r.scrapes.take)
	require.NoError(t, err)
	ctx, host := context.Background(), componenttest.NewNopHost()
	// Another program may take a free port away before it is used.
	for tries := 1; ; tries++ {
		address := fmt.Sprint("127.0.0.1:", 20000+rand.IntN(10000)) // below what the kernel gives to clients
		all := confmap.NewFromStringMap(map[string]any{
			"proxy":               map[string]any{"endpoint": address},
			"upstream":            map[string]any{"endpoint": upstream},
			"collection_interval": "100ms",
			"poll_interval":       "100ms",
			"execution_events":    true,
			"device":              "",
			"library_path":        filepath.Join(t.TempDir(), "no-library"),
		})
		require.NoError(t, all.Merge(confmap.NewFromStringMap(conf)))
		f := comfyuireceiver.NewFactory()
		cfg := f.CreateDefaultConfig()
		require.NoError(t, all.Unmarshal(cfg))
		if v, ok := cfg.(interface{ Validate() error }); ok {
			require.NoError(t, v.Validate())
		}
		set := receivertest.NewNopSettings(f.Type())
		set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
		traces, err := f.CreateTraces(ctx, set, cfg, s.nextTraces)
		require.NoError(t, err)
		logs, err := f.CreateLogs(ctx, set, cfg, s.nextLogs)
		require.NoError(t, err)
		if err = traces.Start(ctx, host); err != nil && tries < 20 && strings.Contains(err.Error(), "address already in use") {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, logs.Start(ctx, host))
		r.sides, r.base = []component.Component{traces, logs}, "http://"+address
		if !s.noMetrics {
			metrics, err := f.CreateMetrics(ctx, set, cfg, nextMetrics)
			require.NoError(t, err)
			require.NoError(t, metrics.Start(ctx, host))
			r.sides = append(r.sides, metrics)
		}
		break
	}
	t.Cleanup(func() {
		r.stop()
		require.NoError(t, r.telemetry.Shutdown(ctx))
	})
	return r
}

func (r *comfyuiRun) stop() {
	for _, s := range slices.Backward(r.sides) {
		require.NoError(r.t, s.Shutdown(context.Background()))
	}
	r.sides = nil
}

func (r *comfyuiRun) until(what string, met func() bool) {
	r.t.Helper()
	require.Eventually(r.t, met, comfyuiPatience, 2*time.Millisecond, what)
}

// scrape waits for a collection that fulfils a condition, and then for one that began
// after it.
func (r *comfyuiRun) scrape(what string, met func(values map[string]float64) bool) pmetric.Metrics {
	r.t.Helper()
	seen := 0
	r.until(what, func() bool {
		n, md := r.scrapes.get()
		if n == 0 || !met(comfyuiSums(md)) {
			return false
		}
		seen = n
		return true
	})
	r.until("another collection", func() bool { n, _ := r.scrapes.get(); return n >= seen+2 })
	_, md := r.scrapes.get()
	return md
}

// comfyuiSums are the sums of each metric's points: values of numbers, counts of
// histograms.
func comfyuiSums(md pmetric.Metrics) map[string]float64 {
	all := map[string]float64{}
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				switch m.Type() {
				case pmetric.MetricTypeGauge:
					for _, p := range m.Gauge().DataPoints().All() {
						all[m.Name()] += comfyuiNumber(p)
					}
				case pmetric.MetricTypeSum:
					for _, p := range m.Sum().DataPoints().All() {
						all[m.Name()] += comfyuiNumber(p)
					}
				case pmetric.MetricTypeHistogram:
					for _, p := range m.Histogram().DataPoints().All() {
						all[m.Name()] += float64(p.Count())
					}
				}
			}
		}
	}
	return all
}

func comfyuiNumber(p pmetric.NumberDataPoint) float64 {
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		return float64(p.IntValue())
	}
	return p.DoubleValue()
}

// comfyuiValue prints an attribute's value with its type; figures with nine digits,
// because another order of additions may change the last ones.
func comfyuiValue(v pcommon.Value) string {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return strconv.Quote(v.Str())
	case pcommon.ValueTypeDouble:
		f := v.Double()
		if math.Abs(f) < 1e-9 {
			f = 0
		}
		return fmt.Sprintf("f:%.9g", f)
	case pcommon.ValueTypeSlice:
		var all []string
		for _, one := range v.Slice().All() {
			all = append(all, comfyuiValue(one))
		}
		return "[" + strings.Join(all, " ") + "]"
	case pcommon.ValueTypeMap:
		return comfyuiAttributes(v.Map())
	}
	return v.AsString()
}

// comfyuiAttributes prints attributes by key. What depends on the machine becomes a
// fixed word.
func comfyuiAttributes(m pcommon.Map) string {
	var all []string
	for k, v := range m.All() {
		text := comfyuiValue(v)
		switch k {
		case "host.name":
			text = comfyuiHost(v.Str())
		case "service.instance.id":
			if host, _, err := net.SplitHostPort(v.Str()); err == nil {
				text = comfyuiHost(host) + ":<port>"
			}
		case "process.pid":
			if v.Int() == int64(os.Getpid()) {
				text = "<pid>"
			}
		}
		all = append(all, k+"="+text)
	}
	slices.Sort(all)
	return "{" + strings.Join(all, " ") + "}"
}

func comfyuiHost(name string) string {
	if host, err := os.Hostname(); err == nil && name == host {
		return "<host>"
	}
	return strconv.Quote(name)
}

func comfyuiScope(s pcommon.InstrumentationScope) string {
	return fmt.Sprintf("scope=%s %s%s", s.Name(), s.Version(), comfyuiAttributes(s.Attributes()))
}

// comfyuiLabel tells spans of one trace apart: the name, and the node.
func comfyuiLabel(s ptrace.Span) string {
	if id, ok := s.Attributes().Get("comfyui.node.id"); ok {
		return s.Name() + "#" + id.Str()
	}
	return s.Name()
}

// comfyuiSpans prints the spans of a run, and gives their labels by their ids. A span's
// number is its place in its trace.
func comfyuiSpans(run string, all []ptrace.Traces) (lines []string, labels map[pcommon.SpanID]string) {
	labels, byID := map[pcommon.SpanID]string{}, map[pcommon.SpanID]ptrace.Span{}
	each := func(do func(ptrace.ResourceSpans, ptrace.ScopeSpans, ptrace.Span, int)) {
		for _, td := range all {
			n := 0
			for _, rs := range td.ResourceSpans().All() {
				for _, ss := range rs.ScopeSpans().All() {
					for _, s := range ss.Spans().All() {
						do(rs, ss, s, n)
						n++
					}
				}
			}
		}
	}
	each(func(_ ptrace.ResourceSpans, _ ptrace.ScopeSpans, s ptrace.Span, _ int) {
		labels[s.SpanID()], byID[s.SpanID()] = comfyuiLabel(s), s
	})
	each(func(rs ptrace.ResourceSpans, ss ptrace.ScopeSpans, s ptrace.Span, n int) {
		parent := "none"
		inTime := s.StartTimestamp() <= s.EndTimestamp()
		if p, ok := byID[s.ParentSpanID()]; ok {
			parent = labels[s.ParentSpanID()]
			inTime = inTime && p.StartTimestamp() <= s.StartTimestamp() && s.EndTimestamp() <= p.EndTimestamp()
			if p.TraceID() != s.TraceID() {
				parent += " of another trace"
			}
		} else if !s.ParentSpanID().IsEmpty() {
			parent = "remote " + s.ParentSpanID().String() + " of trace " + s.TraceID().String()
		}
		var events, links []string
		for _, e := range s.Events().All() {
			events = append(events, e.Name()+comfyuiAttributes(e.Attributes()))
		}
		for _, l := range s.Links().All() {
			links = append(links, comfyuiAttributes(l.Attributes()))
		}
		lines = append(lines, fmt.Sprintf("%s span %d %s parent=(%s) kind=%s status=%s message=%q in_time=%v flags=%d state=%q %s events=%v links=%v resource=%s schema=%q,%q %s",
			run, n, comfyuiLabel(s), parent, s.Kind(), s.Status().Code(), s.Status().Message(), inTime, s.Flags(), s.TraceState().AsRaw(), comfyuiAttributes(s.Attributes()), events, links,
			comfyuiAttributes(rs.Resource().Attributes()), rs.SchemaUrl(), ss.SchemaUrl(), comfyuiScope(ss.Scope())))
	})
	return lines, labels
}

// comfyuiRecords prints log records; the span that one belongs to is named.
func comfyuiRecords(run string, all []plog.Logs, labels map[pcommon.SpanID]string) (lines []string) {
	for _, ld := range all {
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, r := range sl.LogRecords().All() {
					lines = append(lines, fmt.Sprintf("%s record %s severity=%s %q body=%s span=(%s) traced=%v timed=%v,%v flags=%d %s resource=%s schema=%q,%q %s",
						run, r.EventName(), r.SeverityNumber(), r.SeverityText(), comfyuiValue(r.Body()), labels[r.SpanID()], !r.TraceID().IsEmpty(), r.Timestamp() != 0, r.ObservedTimestamp() != 0, r.Flags(),
						comfyuiAttributes(r.Attributes()), comfyuiAttributes(rl.Resource().Attributes()), rl.SchemaUrl(), sl.SchemaUrl(), comfyuiScope(sl.Scope())))
				}
			}
		}
	}
	return lines
}

// comfyuiPoints prints the points of a collection: of histograms the number of
// observations and the bounds.
func comfyuiPoints(run string, md pmetric.Metrics) (lines []string) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				head := fmt.Sprintf("%s metric %s unit=%s %s", run, m.Name(), m.Unit(), m.Type())
				tail := fmt.Sprintf("description=%q resource=%s %s", m.Description(), comfyuiAttributes(rm.Resource().Attributes()), comfyuiScope(sm.Scope()))
				number := func(p pmetric.NumberDataPoint) {
					value := fmt.Sprintf("%s %.9g", p.ValueType(), p.DoubleValue())
					if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
						value = fmt.Sprintf("%s %d", p.ValueType(), p.IntValue())
					}
					if kind, ok := p.Attributes().Get("kind"); ok && kind.Str() == "control" {
						return // as many closing frames as the ends of sockets happen to need, or none
					}
					lines = append(lines, fmt.Sprintf("%s begun=%v %s value=%s %s", head, p.StartTimestamp() != 0, comfyuiAttributes(p.Attributes()), value, tail))
				}
				switch m.Type() {
				case pmetric.MetricTypeGauge:
					for _, p := range m.Gauge().DataPoints().All() {
						number(p)
					}
				case pmetric.MetricTypeSum:
					head += fmt.Sprintf(" %s monotonic=%v", m.Sum().AggregationTemporality(), m.Sum().IsMonotonic())
					for _, p := range m.Sum().DataPoints().All() {
						number(p)
					}
				case pmetric.MetricTypeHistogram:
					head += fmt.Sprint(" ", m.Histogram().AggregationTemporality())
					for _, p := range m.Histogram().DataPoints().All() {
						lines = append(lines, fmt.Sprintf("%s begun=%v %s count=%d sum=%v min=%v max=%v bounds=%v %s", head, p.StartTimestamp() != 0, comfyuiAttributes(p.Attributes()),
							p.Count(), p.HasSum(), p.HasMin(), p.HasMax(), p.ExplicitBounds().AsRaw(), tail))
					}
				default:
					lines = append(lines, head+" "+tail)
				}
			}
		}
	}
	return lines
}

// all prints what a run emitted, of the metrics a collection.
func (r *comfyuiRun) all(run string, md pmetric.Metrics) []string {
	lines, labels := comfyuiSpans(run, r.traces.AllTraces())
	lines = append(lines, comfyuiRecords(run, r.logs.AllLogs(), labels)...)
	return append(lines, comfyuiPoints(run, md)...)
}

// comfyuiAsked counts what a recording's clients asked, and the prompts among it.
func comfyuiAsked(r *comfyreplay.Recording) (requests, prompts int) {
	for i := range r.Lines {
		if l := &r.Lines[i]; l.Kind == "request" {
			requests++
			if l.Method == http.MethodPost && (l.Path == "/prompt" || l.Path == "/api/prompt") {
				prompts++
			}
		}
	}
	return requests, prompts
}

// comfyuiPlay plays a recording through the proxy.
func comfyuiPlay(t *testing.T, name string, r *comfyreplay.Recording, conf map[string]any) []string {
	server := comfyreplay.Serve(t, r, 2, false)
	run := comfyuiStart(t, server.URL, conf, comfyuiSettings{})
	run.until("the receiver's own socket", server.Watched)
	require.NoError(t, comfyreplay.Drive(context.Background(), r, run.base, 2, false))
	require.NoError(t, server.Done())
	requests, prompts := comfyuiAsked(r)
	run.until("each prompt's trace", func() bool { return len(run.traces.AllTraces()) >= prompts })
	md := run.scrape("all is over", func(v map[string]float64) bool {
		return v["comfyui.prompts.open"] == 0 && v["comfyui.proxy.sockets"] == 0 && v["comfyui.proxy.request.duration"] == float64(requests)
	})
	run.stop()
	require.Len(t, run.traces.AllTraces(), prompts)
	return slices.DeleteFunc(run.all(name, md), func(l string) bool {
		// These prompts take a millisecond: they may have ended when their answer is there,
		// and then their beginning is not told. All others take 150 or more.
		return (strings.HasPrefix(name, "02_") || strings.HasPrefix(name, "19_")) && strings.Contains(l, "record comfyui.execution.started")
	})
}

// comfyuiLines collects lines of runs that go on side by side.
type comfyuiLines struct {
	mu  sync.Mutex
	all []string
}

func (l *comfyuiLines) add(lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, lines...)
}

// comfyuiCapture is a configuration that captures all that is left out by default.
func comfyuiCapture() map[string]any {
	return map[string]any{"capture": map[string]any{
		"prompt_text": true, "file_names": true, "client_address": true, "client_id": true, "redact": []any{`secret-\d+`},
	}}
}

// TestComfyUI records what the receiver emits of the recordings of a real ComfyUI, and
// in front of the simulated one what these have not.
func TestComfyUI(t *testing.T) {
	var lines comfyuiLines
	t.Run("runs", func(t *testing.T) {
		for _, r := range slices.Backward(comfyreplay.All(t)) { // the longest first
			run := func(name string, conf map[string]any) {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					lines.add(comfyuiPlay(t, name, &r, conf))
				})
			}
			run(r.Name, nil)
			if strings.HasPrefix(r.Name, "04_") {
				run(r.Name+"/captured", comfyuiCapture())
			}
		}
		t.Run("workflow/default", func(t *testing.T) {
			t.Parallel()
			lines.add(comfyuiWorkflow(t, "workflow/default", nil))
		})
		t.Run("workflow/captured", func(t *testing.T) {
			t.Parallel()
			conf := comfyuiCapture()
			conf["sizing"] = []any{map[string]any{"node": "With*", "width": "steps", "height": "tall", "batch": "many", "model": "text", "steps": "steps"}}
			conf["task_classes"] = []any{map[string]any{"name": "odd", "node": "WithPreview", "min_side": 3}}
			lines.add(comfyuiWorkflow(t, "workflow/captured", conf))
		})
		t.Run("own_socket", func(t *testing.T) {
			t.Parallel()
			lines.add(comfyuiOwnSocket(t))
		})
		t.Run("unreachable", func(t *testing.T) {
			t.Parallel()
			lines.add(comfyuiUnreachable(t))
		})
	})
	if !t.Failed() {
		snapshot.CheckPart(t, "comfyui", lines.all)
	}
}

// comfyuiWork is a card that takes no time, and holds prompts with the model
// ddcolor_modelscope.pth up until it is told to let one go.
type comfyuiWork struct{ gate chan struct{} }

func (w comfyuiWork) Colorize(ctx context.Context, side int, checkpoint string, step func(done, all int) error) error {
	if checkpoint == "ddcolor_modelscope.pth" {
		select {
		case <-w.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i := range 4 {
		if err := step(i+1, 4); err != nil {
			return err
		}
	}
	switch {
	case side >= 2048:
		return fakecomfyui.OutOfMemory(3<<30, 12<<30)
	case checkpoint == "ddcolor_artistic.pth":
		return &fakecomfyui.Failure{Type: "FileNotFoundError", Message: "no secret-17 in holiday.png\n", Traceback: []string{"File \"nodes.py\", line 1\n", "  open(\"/x/holiday.png\", secret-18)\n"}}
	}
	return nil
}

func (comfyuiWork) Free()    {}
func (comfyuiWork) Collect() {}
func (comfyuiWork) Memory() fakecomfyui.Memory {
	return fakecomfyui.Memory{Total: 16 << 30, Free: 11 << 30, TorchTotal: 3 << 30, TorchFree: 1 << 30}
}

// comfyuiServer is a simulated server, or none: then it answers 503. Looks counts the
// answers that end the first half of a look in poll mode.
type comfyuiServer struct {
	*httptest.Server
	t       *testing.T
	current atomic.Pointer[fakecomfyui.Server]
	looks   atomic.Int64
	refused atomic.Int64
	gate    chan struct{}
}

func comfyuiServe(t *testing.T) *comfyuiServer {
	s := &comfyuiServer{t: t, gate: make(chan struct{})}
	s.restart()
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		current := s.current.Load()
		if current == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			s.refused.Add(1)
			return
		}
		if r.URL.Path == "/ws" && r.URL.Query().Get("clientId") == "damaged" {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
			if err == nil {
				_ = c.Write(r.Context(), websocket.MessageText, []byte(`{"type": no`))
				_, _, _ = c.Read(r.Context())
			}
			return
		}
		current.ServeHTTP(w, r)
		if r.URL.Path == "/history" {
			s.looks.Add(1)
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// restart puts a new server in the old one's place.
func (s *comfyuiServer) restart() *fakecomfyui.Server {
	n := fakecomfyui.NewServer(comfyuiWork{s.gate})
	s.current.Store(n)
	return n
}

// work lets a server execute its prompts.
func (s *comfyuiServer) work() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	server := s.current.Load()
	go func() {
		defer close(done)
		server.Run(ctx)
	}()
	s.t.Cleanup(func() {
		cancel()
		<-done
	})
}

func (s *comfyuiServer) ask(method, base, path string, body any, header ...string) string {
	s.t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(s.t, err)
	if text, ok := body.(string); ok {
		raw = []byte(text)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, base+path, strings.NewReader(string(raw)))
	require.NoError(s.t, err)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	answer, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	require.NoError(s.t, response.Body.Close())
	return string(answer)
}

// comfyuiPrompt is a prompt of three nodes.
func comfyuiPrompt(id string, side int, checkpoint string) map[string]any {
	return map[string]any{"prompt_id": id, "prompt": map[string]any{
		"1": map[string]any{"class_type": "LoadImage", "inputs": map[string]any{"image": "people.png"}},
		"2": map[string]any{"class_type": "DDColor_Colorize", "inputs": map[string]any{"image": []any{"1", 0}, "model_input_size": side, "checkpoint": checkpoint}},
		"3": map[string]any{"class_type": "SaveImage", "inputs": map[string]any{"images": []any{"2", 0}, "filename_prefix": "x"}},
	}}
}

// comfyuiTextPrompt has texts, a title, a class of its own, and a parent.
func comfyuiTextPrompt(id string) map[string]any {
	return map[string]any{"prompt_id": id, "client_id": "client-1", "prompt": map[string]any{
		"1":  map[string]any{"class_type": "LoadImage", "inputs": map[string]any{"image": "people.png", "text": "a house on a hill, secret-42"}, "_meta": map[string]any{"title": "the photo"}},
		"2":  map[string]any{"class_type": "WithPreview", "inputs": map[string]any{"image": []any{"1", 0}, "steps": 6, "tall": 4, "many": 3, "text": "in the manner of IMG_1.jpeg"}},
		"10": map[string]any{"class_type": "SaveImage", "inputs": map[string]any{"images": []any{"2", 0}, "filename_prefix": "x"}},
	}, "extra_data": map[string]any{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "extra_pnginfo": map[string]any{"workflow": map[string]any{"id": "workflow-1"}},
	}}
}

const (
	comfyuiParent = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
	comfyuiCard   = "GPU-00000000-0000-0000-0000-000000000001"
)

// comfyuiSocket opens a client's socket through the proxy. It is open at the server,
// which has sent a frame. The returned function closes it.
func comfyuiSocket(t *testing.T, run *comfyuiRun, client string) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), comfyuiPatience)
	t.Cleanup(cancel)
	socket, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(run.base, "http")+"/ws?clientId="+client, nil)
	require.NoError(t, err)
	_, _, err = socket.Read(ctx)
	require.NoError(t, err)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, _, err := socket.Read(ctx); err != nil {
				return
			}
		}
	}()
	return func() {
		_ = socket.Close(websocket.StatusNormalClosure, "")
		<-read
	}
}

// comfyuiWorkflow has a client with a socket send prompts through the proxy. The
// server's card is named; its process is left out, because it is looked for meanwhile.
func comfyuiWorkflow(t *testing.T, name string, conf map[string]any) []string {
	server := comfyuiServe(t)
	if conf == nil {
		conf = map[string]any{}
	}
	conf["device"] = comfyuiCard
	run := comfyuiStart(t, server.URL, conf, comfyuiSettings{})
	leave := comfyuiSocket(t, run, "client-1")
	traces := 0
	ended := func() {
		traces++
		run.until("a prompt's trace", func() bool { return len(run.traces.AllTraces()) >= traces })
	}
	// What waits before the server works has its answer before it begins.
	send := func(p map[string]any, header ...string) {
		p["client_id"] = "client-1"
		server.ask(http.MethodPost, run.base, "/upload/image", "") // lets people.png in
		server.ask(http.MethodPost, run.base, "/prompt", p, header...)
	}
	gated := func(id string) { send(comfyuiPrompt(id, 64, "ddcolor_modelscope.pth")) }
	server.work()
	for i, p := range []map[string]any{comfyuiTextPrompt("texts"), comfyuiPrompt("failing", 300, "ddcolor_artistic.pth"), comfyuiPrompt("large", 2048, "ddcolor_paper.pth"), comfyuiPrompt("again", 1280, "ddcolor_paper.pth")} {
		gated(fmt.Sprint("gate-", i))
		if i == 0 {
			send(p, "traceparent", comfyuiParent, "tracestate", "a=b")
		} else {
			send(p)
		}
		server.gate <- struct{}{}
		ended()
		ended()
	}
	gated("interrupted")
	run.until("it is running", func() bool { return comfyuiBegan(run, "interrupted") })
	server.ask(http.MethodPost, run.base, "/interrupt", map[string]any{})
	server.gate <- struct{}{}
	ended()
	own := comfyuiPrompt("named", 500, "ddcolor_paper.pth")
	own["extra_data"] = map[string]any{"task_class": "own class"}
	gated("gate-last")
	send(own)
	server.gate <- struct{}{}
	ended()
	ended()
	refused := comfyuiPrompt("refused", -1, "no-such.pth")
	send(refused)
	ended()
	server.ask(http.MethodPost, run.base, "/prompt", "{no prompt")
	ended()
	leave()
	md := run.scrape("all is over", func(v map[string]float64) bool {
		return v["comfyui.prompts.open"] == 0 && v["comfyui.proxy.sockets"] == 0 && v["comfyui.execution.duration"] > 0
	})
	run.stop()
	for _, td := range run.traces.AllTraces() {
		for _, rs := range td.ResourceSpans().All() {
			for _, s := range rs.ScopeSpans().At(0).Spans().All() {
				s.Attributes().Remove("process.pid")
			}
		}
	}
	lines := run.all(name, md)
	// Frames hold times, whose lengths are the same, but how many lengths of the queue
	// are told depends on how fast they follow one another.
	return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, " comfyui.proxy.io ") })
}

// comfyuiBegan reports whether the beginning of a prompt was told.
func comfyuiBegan(run *comfyuiRun, id string) bool {
	return slices.ContainsFunc(comfyuiRecords("", run.logs.AllLogs(), nil), func(l string) bool {
		return strings.Contains(l, "comfyui.execution.started") && strings.Contains(l, strconv.Quote(id))
	})
}

// comfyuiOwnSocket sends a prompt of a client that has no socket: the proxy opens one,
// and the server works only when it has.
func comfyuiOwnSocket(t *testing.T) []string {
	server := comfyuiServe(t)
	run := comfyuiStart(t, server.URL, nil, comfyuiSettings{})
	server.ask(http.MethodPost, run.base, "/upload/image", "")
	p := comfyuiPrompt("alone", 400, "ddcolor_paper.pth")
	p["client_id"] = "client-2"
	server.ask(http.MethodPost, run.base, "/prompt", p)
	run.scrape("its first frame came", func(map[string]float64) bool {
		_, md := run.scrapes.get()
		return slices.ContainsFunc(comfyuiPoints("", md), func(l string) bool {
			return strings.Contains(l, "comfyui.proxy.io") && strings.Contains(l, `kind="text"`)
		})
	})
	server.work()
	run.until("its trace", func() bool { return len(run.traces.AllTraces()) == 1 })
	md := run.scrape("it is over", func(v map[string]float64) bool { return v["comfyui.prompts.open"] == 0 })
	run.stop()
	return slices.DeleteFunc(run.all("own_socket", md), func(l string) bool { return strings.Contains(l, " comfyui.proxy.io ") }) // see above
}

// comfyuiUnreachable sends a prompt to a server that is not there, and ends while one
// is open.
func comfyuiUnreachable(t *testing.T) []string {
	server := comfyuiServe(t)
	run := comfyuiStart(t, server.URL, nil, comfyuiSettings{})
	server.ask(http.MethodPost, run.base, "/upload/image", "")
	server.ask(http.MethodPost, run.base, "/prompt", comfyuiPrompt("open", 400, "ddcolor_paper.pth"))
	run.scrape("it is followed", func(v map[string]float64) bool { return v["comfyui.prompts.open"] == 1 })
	server.current.Store(nil)
	server.ask(http.MethodPost, run.base, "/prompt", comfyuiPrompt("none", 400, "ddcolor_paper.pth"))
	run.scrape("the server is away", func(v map[string]float64) bool { return v["comfyui.up"] == 0 })
	server.CloseClientConnections()
	server.Close()
	server.ask(http.MethodPost, run.base, "/prompt", comfyuiPrompt("none", 400, "ddcolor_paper.pth"))
	md := run.scrape("the server is gone", func(v map[string]float64) bool {
		return v["comfyui.up"] == 0 && v["comfyui.proxy.request.duration"] == 4
	})
	run.stop()
	require.Len(t, run.traces.AllTraces(), 3)
	return run.all("unreachable", md)
}

// TestComfyUIPoll records what the receiver emits of a simulated server that it polls.
func TestComfyUIPoll(t *testing.T) {
	var lines comfyuiLines
	t.Run("runs", func(t *testing.T) {
		for name, run := range map[string]func(*testing.T) []string{"outcomes": comfyuiPollOutcomes, "device": comfyuiPollDevice, "lost": comfyuiPollLost} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lines.add(run(t))
			})
		}
	})
	if !t.Failed() {
		snapshot.CheckPart(t, "comfyui-poll", lines.all)
	}
}

// looked waits for a look that began after the call, up to its second half. The first
// look of a receiver is over when the second is.
func (s *comfyuiServer) looked(run *comfyuiRun) {
	s.t.Helper()
	n := s.looks.Load()
	run.until("two looks", func() bool { return s.looks.Load() >= n+2 })
}

func comfyuiPollOutcomes(t *testing.T) []string {
	server := comfyuiServe(t)
	server.work()
	send := func(p map[string]any) { server.ask(http.MethodPost, server.URL, "/prompt", p) }
	server.ask(http.MethodPost, server.URL, "/upload/image", "")
	send(comfyuiPrompt("before", 48, "ddcolor_paper.pth"))
	require.Eventually(t, func() bool {
		return strings.Contains(server.ask(http.MethodGet, server.URL, "/history/before", ""), "before")
	}, comfyuiPatience, time.Millisecond)
	run := comfyuiStart(t, server.URL, map[string]any{"mode": "poll"}, comfyuiSettings{})
	server.looked(run)
	require.Empty(t, run.traces.AllTraces(), "what was there before is left out")
	traces := 0
	ended := func() {
		t.Helper()
		traces++
		run.until("a prompt's trace", func() bool { return len(run.traces.AllTraces()) >= traces })
	}
	for _, p := range []map[string]any{
		comfyuiPrompt("success", 500, "ddcolor_paper.pth"), comfyuiPrompt("repeat", 500, "ddcolor_paper.pth"), comfyuiPrompt("large", 2048, "ddcolor_paper.pth"),
		comfyuiPrompt("failing", 1280, "ddcolor_artistic.pth"), comfyuiTextPrompt("texts"),
	} {
		send(p)
		ended()
	}
	send(comfyuiPrompt("interrupted", 64, "ddcolor_modelscope.pth"))
	server.looked(run)
	server.ask(http.MethodPost, server.URL, "/interrupt", map[string]any{})
	server.gate <- struct{}{}
	ended()
	send(comfyuiPrompt("holding", 80, "ddcolor_modelscope.pth"))
	send(comfyuiPrompt("deleted", 80, "ddcolor_paper.pth"))
	server.looked(run)
	server.ask(http.MethodPost, server.URL, "/queue", map[string]any{"delete": []any{"deleted"}})
	ended()
	server.gate <- struct{}{}
	ended()
	send(comfyuiPrompt("open", 96, "ddcolor_modelscope.pth"))
	server.looked(run)
	md := run.scrape("one is open", func(v map[string]float64) bool {
		return v["comfyui.prompts.open"] == 1 && v["comfyui.queue.length"] == 1
	})
	run.stop()
	return run.all("outcomes", md)
}

// comfyuiPollDevice names the card; the server's process is this one, and once it is
// found it is told.
func comfyuiPollDevice(t *testing.T) []string {
	server := comfyuiServe(t)
	server.work()
	run := comfyuiStart(t, server.URL, map[string]any{"mode": "poll", "device": comfyuiCard}, comfyuiSettings{})
	server.ask(http.MethodPost, server.URL, "/upload/image", "")
	server.looked(run)
	for i := 1; ; i++ {
		server.ask(http.MethodPost, server.URL, "/prompt", comfyuiPrompt(fmt.Sprint("warm-", i), 500+i, "ddcolor_paper.pth"))
		run.until("its trace", func() bool { return len(run.traces.AllTraces()) == i })
		found, _ := comfyuiSpans("", run.traces.AllTraces()[i-1:])
		if strings.Contains(strings.Join(found, " "), "process.pid=") {
			break
		}
		require.Less(t, i, 500, "the server's process is not found")
	}
	warm, records := len(run.traces.AllTraces()), len(run.logs.AllLogs())
	server.ask(http.MethodPost, server.URL, "/prompt", comfyuiPrompt("on a card", 500, "ddcolor_artistic.pth"))
	run.until("its trace and its record", func() bool { return len(run.traces.AllTraces()) == warm+1 && len(run.logs.AllLogs()) == records+1 })
	md := run.scrape("it is over", func(v map[string]float64) bool { return v["comfyui.prompts.open"] == 0 })
	run.stop()
	lines, labels := comfyuiSpans("device", run.traces.AllTraces()[warm:])
	lines = append(lines, comfyuiRecords("device", run.logs.AllLogs()[records:], labels)...)
	for _, l := range comfyuiPoints("device", md) { // counts include those before
		if strings.Contains(l, ".memory.") {
			lines = append(lines, l)
		}
	}
	return lines
}

// comfyuiPollLost has the server restart without its queue. It is polled by traces and
// logs alone, so that what it refuses are looks.
func comfyuiPollLost(t *testing.T) []string {
	server := comfyuiServe(t)
	server.work()
	run := comfyuiStart(t, server.URL, map[string]any{"mode": "poll"}, comfyuiSettings{noMetrics: true})
	server.ask(http.MethodPost, server.URL, "/upload/image", "")
	server.looked(run)
	server.ask(http.MethodPost, server.URL, "/prompt", comfyuiPrompt("running", 64, "ddcolor_modelscope.pth"))
	server.ask(http.MethodPost, server.URL, "/prompt", comfyuiPrompt("waiting", 64, "ddcolor_paper.pth"))
	server.looked(run)
	server.current.Store(nil)
	run.until("looks are refused", func() bool { return server.refused.Load() >= 2 })
	server.restart()
	run.until("both are lost", func() bool { return len(run.traces.AllTraces()) == 2 && run.logs.LogRecordCount() == 2 })
	run.stop()
	return run.all("lost", pmetric.NewMetrics())
}
