// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// readyConfigurations are those whose promises are tested, and which of them send spans.
var readyConfigurations = []struct {
	name  string
	spans bool
}{{"default", false}, {"node", true}, {"comfyui", true}, {"no-loss", false}}

// deliveryRig is a collector with a ready configuration beside logs.yaml, its stores behind
// gates, and senders into its pipelines that know what was accepted.
type deliveryRig struct {
	t         *testing.T
	name      string
	config    string
	store     stack.Store
	gate      *gate
	spanStore *spanStore // nil if the configuration sends no spans
	collector *collector
	command   command
	queue     string
	proxy     string // ComfyUI's, if the configuration has one
	comfyui   string // the folder of its open prompts
	truth     truth  // without a path unless asked for
	samples   *sender
	spans     *spanSender
	logStore  logStore
	logGate   *gate
	logs      *logSender
	starts    int
}

type rigOptions struct {
	store       stack.Store
	logs        logStore
	interval    time.Duration // between scrapes; 0: the nvml receiver finds no library
	truth       bool
	comfyui     bool // a simulated server is behind the proxy
	environment []string
}

func newDeliveryRig(t *testing.T, config string, spans bool, name string, o rigOptions) *deliveryRig {
	t.Helper()
	r := &deliveryRig{t: t, name: strings.ReplaceAll(name, "-", "_"), config: config, store: o.store, gate: newGate(t, o.store.URL),
		queue: filepath.Join(t.TempDir(), "queue"), proxy: fmt.Sprintf("127.0.0.1:%d", port(t)), comfyui: filepath.Join(t.TempDir(), "comfyui"), logStore: o.logs, logGate: newGate(t, o.logs.url)}
	environment := []string{
		"OTELCOL_GPU_QUEUE=" + r.queue, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT=" + r.gate.url + "/api/v1/write",
		"OTELCOL_GPU_LOGS_ENDPOINT=" + r.logGate.url + logsPath,
		"OTELCOL_GPU_COMFYUI_PROXY=" + r.proxy, "OTELCOL_GPU_COMFYUI_STORE=" + r.comfyui,
		"OTELCOL_GPU_COMFYUI=http://127.0.0.1:" + strconv.Itoa(port(t)),
	}
	if o.comfyui && config == "comfyui" {
		environment = append(environment, "OTELCOL_GPU_COMFYUI="+simulatedComfyUI(t))
	}
	if spans {
		r.spanStore = newSpanStore(t)
		environment = append(environment, "OTELCOL_GPU_TRACES_ENDPOINT="+r.spanStore.address)
	}
	if o.interval == 0 {
		environment = append(environment, "OTELCOL_GPU_COLLECTION_INTERVAL=1h", "OTELCOL_GPU_NVML_LIBRARY=/no/such/libnvidia-ml.so.1")
	} else {
		m := newMachine(t, fakenvml.Current, "l40s", "h100")
		environment = append(append(environment, m.environment...), "OTELCOL_GPU_COLLECTION_INTERVAL="+o.interval.String())
	}
	// The instance keeps the collectors' series apart; the senders come in where the
	// receivers do.
	sender := port(t)
	arguments := []string{
		"--config", filepath.Join(root, "config", "logs.yaml"),
		"--feature-gates=exporter.prometheusremotewritexporter.RetryOn429",
		"--config=yaml:processors::resource::attributes: [{key: service.name, value: otelcol-gpu, action: insert}, {key: service.instance.id, value: " + r.name + ", action: upsert}]",
		// A connection that a client opened and never used delays the end by up to 5 s.
		fmt.Sprintf("--config=yaml:receivers::otlp/test::protocols::http: {endpoint: 127.0.0.1:%d, read_header_timeout: 2s}", sender),
	}
	// Behind the connector: what the sender gets its success for is in the queue.
	logs := "logs::receivers: [nvml, otlp/test]"
	if config == "comfyui" {
		logs = "logs/joined::receivers: [gpucorrelation, otlp/test]"
	}
	arguments = append(arguments, "--config=yaml:service::pipelines::"+logs)
	switch config {
	case "default":
		arguments = append(arguments, "--config=yaml:service::pipelines::metrics::receivers: [nvml, otlp/test]")
	case "node":
		arguments = append(arguments, "--config=yaml:service::pipelines::metrics::receivers: [nvml, otlp/test]", "--config=yaml:service::pipelines::traces::receivers: [otlp/test]")
	case "comfyui":
		arguments = append(arguments, "--config=yaml:service::pipelines::metrics::receivers: [nvml, comfyui, otlp/test]",
			"--config=yaml:service::pipelines::traces/joined::receivers: [gpucorrelation, otlp/test]", "--config=yaml:receivers::nvml/fast::collection_interval: 1s")
	case "no-loss":
		arguments = append(arguments, "--config=yaml:service::pipelines::metrics/in::receivers: [nvml, otlp/test]")
	}
	if o.truth {
		r.truth = truth{path: filepath.Join(t.TempDir(), "truth.json"), points: map[int64]int{}}
		arguments = append(arguments, "--config=yaml:exporters::file/truth: {path: "+r.truth.path+", append: true}",
			"--config=yaml:service::pipelines::metrics/truth: {receivers: [nvml], exporters: [file/truth]}")
	}
	r.collector, r.command = collectorCommand(t, config+".yaml", append(environment, o.environment...), arguments...)
	r.collector.otlp = fmt.Sprintf("http://127.0.0.1:%d", sender)
	r.samples = newSender(r.collector.otlp)
	t.Cleanup(r.samples.client.CloseIdleConnections)
	r.logs = &logSender{url: r.collector.otlp + "/v1/logs", service: r.name, client: r.samples.client, accepted: map[string]bool{}}
	if spans {
		r.spans = &spanSender{url: r.collector.otlp + "/v1/traces", client: r.samples.client, accepted: map[string]bool{}, last: uint64(port(t)) << 32}
	}
	return r
}

func (r *deliveryRig) start() {
	r.t.Helper()
	r.startAs(binary(), r.command.arguments...)
}

func (r *deliveryRig) startAs(path string, arguments ...string) {
	r.t.Helper()
	r.starts++
	r.collector.Process = start(r.t, fmt.Sprintf("%s-%d", r.name, r.starts), path, r.command.environment, arguments...)
	require.NoError(r.t, r.collector.WaitHTTP(withPatience(r.t), r.command.health))
}

// state puts every store into a state by name.
func (r *deliveryRig) state(name string) {
	r.t.Helper()
	mode := map[string]int64{"there": pass, "answers_503": http.StatusServiceUnavailable, "answers_429": http.StatusTooManyRequests, "silent": silence, "slow": slow}
	for _, g := range []*gate{r.gate, r.logGate} {
		g.mode.Store(mode[name])
		if name == "refuses" {
			g.refuse()
		} else if g.server == nil {
			g.listen(r.t)
		}
	}
	if r.spanStore == nil {
		return
	}
	r.spanStore.mode.Store(mode[name])
	if name == "refuses" {
		r.spanStore.refuse()
	} else if r.spanStore.server == nil {
		r.spanStore.listen(r.t)
	}
}

// send sends one batch of samples, of log records, and of spans where the configuration sends
// them, until each is accepted or tries run out (0: for ever). It reports whether all were.
func (r *deliveryRig) send(ctx context.Context, tries int) bool {
	accepted := r.samples.send(ctx, r.name, tries)
	accepted = r.logs.send(ctx, tries) && accepted
	if r.spans != nil {
		accepted = r.spans.send(ctx, tries) && accepted
	}
	return accepted
}

// flow sends batches until stop is called.
func (r *deliveryRig) flow(every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		beat := time.NewTicker(every)
		defer beat.Stop()
		for ctx.Err() == nil {
			r.send(ctx, 0)
			select {
			case <-ctx.Done():
			case <-beat.C:
			}
		}
	})
	return func() {
		cancel()
		sending.Wait()
	}
}

// lost counts what was accepted and did not arrive.
type lost struct{ samples, spans, records, scraped int }

// missing counts samples, spans and log records that were accepted and did not arrive, and
// samples that the nvml receiver emitted until a time.
func (r *deliveryRig) missing(t *testing.T, until time.Time) (l lost) {
	t.Helper()
	l.samples = r.samples.missing(t, r.store, r.name)
	l.records = r.logs.missing(t, r.logStore)
	if r.spans != nil {
		l.spans = r.spans.missing(r.spanStore)
	}
	if r.truth.path != "" {
		l.scraped = r.scrapedMissing(t, until)
	}
	return l
}

// arrived waits until nothing is missing, and returns what is.
func (r *deliveryRig) arrived(t *testing.T, until time.Time, within time.Duration) lost {
	t.Helper()
	deadline := time.Now().Add(within)
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		l := r.missing(t, until)
		if l == (lost{}) || time.Now().After(deadline) {
			return l
		}
		<-ticker.C
	}
}

// truth is what the nvml receiver emitted, as a file exporter wrote it.
type truth struct {
	path string
	// read is how much of the file was counted, in bytes, points what was in it, by time in
	// milliseconds.
	read   int64
	points map[int64]int
}

// emitted counts, by time in milliseconds, the points that the nvml receiver emitted.
func (r *deliveryRig) emitted(t *testing.T, until time.Time) map[int64]int {
	t.Helper()
	file, err := os.Open(r.truth.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Seek(r.truth.read, io.SeekStart)
	require.NoError(t, err)
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the last line may not be whole yet
			break
		}
		metrics, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(line)
		require.NoError(t, err)
		countPoints(metrics, r.truth.points)
		r.truth.read += int64(len(line))
	}
	emitted := map[int64]int{}
	for at, n := range r.truth.points {
		if at <= until.UnixMilli() {
			emitted[at] = n
		}
	}
	return emitted
}

func countPoints(metrics pmetric.Metrics, into map[int64]int) {
	for _, rm := range metrics.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				var points pmetric.NumberDataPointSlice
				switch metric.Type() {
				case pmetric.MetricTypeGauge:
					points = metric.Gauge().DataPoints()
				case pmetric.MetricTypeSum:
					points = metric.Sum().DataPoints()
				default:
					continue
				}
				for _, p := range points.All() {
					if at := p.Timestamp().AsTime(); !p.Flags().NoRecordedValue() && strings.HasPrefix(metric.Name(), "hw.") {
						into[at.UnixMilli()]++
					}
				}
			}
		}
	}
}

func (r *deliveryRig) scrapedMissing(t *testing.T, until time.Time) (lost int) {
	t.Helper()
	series, err := r.store.Query(context.Background(), fmt.Sprintf(`{__name__=~"hw_.+",instance=%q}[1h]`, r.name))
	require.NoError(t, err)
	held := map[int64]int{}
	for _, s := range series {
		for _, p := range s.Points {
			held[int64(p.Time*1000+0.5)]++
		}
	}
	for at, n := range r.emitted(t, until) {
		lost += max(0, n-held[at])
	}
	return lost
}

func (r *deliveryRig) scraped(t *testing.T, until time.Time) (n int) {
	t.Helper()
	for _, points := range r.emitted(t, until) {
		n += points
	}
	return n
}

// queued is what waits in the queues, in their own units.
func (r *deliveryRig) queued() float64 { return r.collector.counter("otelcol_exporter_queue_size") }

// spanSender sends spans over OTLP/HTTP and remembers what was accepted.
type spanSender struct {
	url      string
	client   *http.Client
	accepted map[string]bool
	refused  int
	last     uint64
}

const spansPerBatch = 10

func (s *spanSender) send(ctx context.Context, tries int) bool {
	traces, ids := s.batch()
	raw, err := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
	if err != nil {
		panic(err)
	}
	if !deliver(ctx, s.client, s.url, raw, tries, &s.refused) {
		return false
	}
	for _, id := range ids {
		s.accepted[id] = true
	}
	return true
}

func (s *spanSender) batch() (ptrace.Traces, []string) {
	traces := ptrace.NewTraces()
	rs := traces.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "sender")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	ids := make([]string, 0, spansPerBatch)
	for range spansPerBatch {
		s.last++
		var id [8]byte
		for i := range id {
			id[i] = byte(s.last >> (56 - 8*i))
		}
		span := spans.AppendEmpty()
		span.SetSpanID(id)
		span.SetTraceID(pcommon.TraceID(append(id[:], id[:]...)))
		span.SetName("work")
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-time.Second)))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		span.Attributes().PutStr("filler", strings.Repeat("x", 200))
		ids = append(ids, span.SpanID().String())
	}
	return traces, ids
}

func (s *spanSender) missing(store *spanStore) (lost int) {
	store.mu.Lock()
	defer store.mu.Unlock()
	for id := range s.accepted {
		if store.held[id] == 0 {
			lost++
		}
	}
	return lost
}
