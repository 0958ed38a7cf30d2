// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

var (
	kills  = flag.Int("kills", 6, "how often the collector is killed in TestNothingAcceptedIsLost")
	outage = flag.Duration("outage", 8*time.Second, "how long the store is down in TestNothingAcceptedIsLost")
)

const (
	seriesPerBatch = 50
	pointsPerBatch = 4 // of each series
)

// sender sends batches over OTLP and remembers what was accepted.
type sender struct {
	otlp     string
	client   *http.Client
	accepted map[int64]bool // timestamps in ms; each has a sample of every series
	refused  int
	clock    int64
	step     int64 // between batches, in ms; 0: they have the present time
	batches  atomic.Int64
}

func newSender(otlp string) *sender {
	return &sender{otlp: otlp, client: &http.Client{Timeout: 10 * time.Second}, accepted: map[int64]bool{}, clock: time.Now().UnixMilli()}
}

// send sends one batch until it is accepted or tries run out (0: for ever).
func (s *sender) send(ctx context.Context, name string, tries int) bool {
	metrics, stamps := s.batch(name)
	raw, err := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
	if err != nil {
		panic(err)
	}
	for try := 1; ; try++ {
		if s.post(ctx, raw) {
			for _, at := range stamps {
				s.accepted[at] = s.accepted[at] || name != poisonName
			}
			s.batches.Add(1)
			return true
		}
		s.refused++
		if try == tries || ctx.Err() != nil {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *sender) post(ctx context.Context, raw []byte) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.otlp+"/v1/metrics", bytes.NewReader(raw))
	if err != nil {
		panic(err)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	response, err := s.client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode == http.StatusOK
}

// batch makes the next batch; no two samples of a series share a timestamp.
func (s *sender) batch(name string) (pmetric.Metrics, []int64) {
	m := pmetric.NewMetrics()
	rm := m.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("host.name", "sender")
	metric := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	metric.SetName(name)
	points := metric.SetEmptyGauge().DataPoints()
	if s.step > 0 {
		s.clock += s.step - pointsPerBatch
	} else {
		s.clock = max(s.clock+1, time.Now().UnixMilli())
	}
	stamps := make([]int64, 0, pointsPerBatch)
	for range pointsPerBatch {
		stamps = append(stamps, s.clock)
		for i := range seriesPerBatch {
			p := points.AppendEmpty()
			p.SetTimestamp(pcommon.Timestamp(s.clock * 1e6))
			p.SetIntValue(s.clock)
			p.Attributes().PutStr("series", strconv.Itoa(i))
		}
		s.clock++
	}
	return m, stamps
}

func (s *sender) samples() int {
	n := 0
	for _, counts := range s.accepted {
		if counts {
			n += seriesPerBatch
		}
	}
	return n
}

// missing counts accepted samples that the store does not hold, or holds wrong.
func (s *sender) missing(t *testing.T, store stack.Store, name string) int {
	t.Helper()
	lost, window := 0, "1h"
	if s.step > 0 {
		window = "26h"
	}
	for i := range seriesPerBatch {
		series, err := store.Query(context.Background(), fmt.Sprintf(`%s{series="%d"}[%s]`, name, i, window))
		require.NoError(t, err)
		held := map[int64]bool{}
		for _, item := range series {
			for _, p := range item.Points {
				held[int64(p.Value)] = true
			}
		}
		for at, counts := range s.accepted {
			if counts && !held[at] {
				lost++
			}
		}
	}
	return lost
}

// counter reads a counter of the collector's own telemetry, summed over its series.
func (c *collector) counter(name string, labels ...string) float64 {
	response, err := http.Get(c.telemetry)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	raw, _ := io.ReadAll(response.Body)
	sum := 0.0
lines:
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(line, label) {
				continue lines
			}
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err == nil {
			sum += v
		}
	}
	return sum
}

// lossRig is a collector with the no-loss configuration behind a gate, that can
// be killed and started again with its ports and its queue.
type lossRig struct {
	t         *testing.T
	gate      *gate
	collector *collector
	command   command
	queue     string
	starts    int
}

func newLossRig(t *testing.T, store string, queueSize int) *lossRig {
	t.Helper()
	r := &lossRig{t: t, gate: newGate(t, store), queue: t.TempDir()}
	r.collector, r.command = collectorCommand(t, "no-loss.yaml", []string{
		"OTELCOL_GPU_QUEUE=" + r.queue, "OTELCOL_GPU_QUEUE_SIZE=" + strconv.Itoa(queueSize),
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT=" + r.gate.url + "/api/v1/write",
		"OTELCOL_GPU_COLLECTION_INTERVAL=1h", "OTELCOL_GPU_NVML_LIBRARY=/no/such/libnvidia-ml.so.1",
	}, "--feature-gates=exporter.prometheusremotewritexporter.RetryOn429")
	r.start()
	return r
}

func (r *lossRig) start() {
	r.t.Helper()
	r.starts++
	r.collector.Process = start(r.t, fmt.Sprintf("otelcol-gpu-%d", r.starts), binary(), r.command.environment, r.command.arguments...)
	require.NoError(r.t, r.collector.WaitHTTP(withPatience(r.t), r.command.health))
}

// drained waits until everything accepted has reached the store.
func (r *lossRig) drained() {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		sent := r.collector.counter("otelcol_exporter_queue_size", `exporter="otlp_http/queue"`)
		idle := r.collector.counter("otelcol_exporter_queue_capacity", `exporter="otlp_http/queue"`)
		return idle > 0 && sent == 0
	}, 5*patience, 100*time.Millisecond, "the queue does not drain") // on a busy machine it has grown for minutes
}

func TestNothingAcceptedIsLost(t *testing.T) {
	besideFirst(t, working)
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	data := t.TempDir()
	store, server := prometheusAt(t, address, data, "1h")
	r := newLossRig(t, store.URL, 100000)
	s := newSender(r.collector.otlp)
	t.Cleanup(s.client.CloseIdleConnections)

	// A sender that never rests, while the collector and the store suffer.
	flow := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		var sending sync.WaitGroup
		beat := time.NewTicker(10 * time.Millisecond)
		sending.Go(func() {
			defer beat.Stop()
			for ctx.Err() == nil {
				s.send(ctx, "flow", 0)
				select { // at most a hundred batches a second
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
	stop := flow()
	defer func() { stop() }()
	random := rand.New(rand.NewPCG(1, 2))
	// more waits until a counter has risen by n.
	more := func(counter *atomic.Int64, n int64, what string) {
		t.Helper()
		before := counter.Load()
		require.Eventually(t, func() bool { return counter.Load() >= before+n }, patience, time.Millisecond, what)
	}

	for i := range *kills {
		more(&s.batches, 10+random.Int64N(60), "batches are accepted")
		// Some kills while the store refuses, so that the queue is not empty.
		mode := []int64{0, http.StatusInternalServerError, 0, silence}[i%4]
		r.gate.mode.Store(mode)
		if mode != 0 {
			more(&r.gate.denied, 1, "the store refuses")
		}
		more(&s.batches, 5+random.Int64N(30), "batches are accepted while the store refuses")
		r.collector.Kill()
		r.gate.mode.Store(0)
		r.start()
	}
	for _, mode := range []int64{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable, silence} {
		r.gate.mode.Store(mode)
		more(&r.gate.denied, 1, "the store refuses")
		more(&s.batches, 100, "batches are accepted while the store refuses")
		r.gate.mode.Store(0)
		more(&r.gate.passed, 1, "the collector tries again")
	}
	server.Kill() // the store itself is away, for as long as the experiment says
	<-time.NewTimer(*outage).C
	store, _ = prometheusAt(t, address, data, "1h")

	// Batches that the store refuses for good: each dropped once, counted and logged.
	stop() // on a busy machine the queue is never empty while more is sent
	r.drained()
	stop = flow()
	const poisoned = 3
	before := r.collector.counter("otelcol_exporter_send_failed_metric_points", `exporter="otlp_http/queue"`)
	bad := newSender(r.collector.otlp)
	t.Cleanup(bad.client.CloseIdleConnections)
	for range poisoned {
		require.True(t, bad.send(context.Background(), poisonName, 50))
	}
	require.Eventually(t, func() bool {
		return r.collector.counter("otelcol_exporter_send_failed_metric_points", `exporter="otlp_http/queue"`) >= before+poisoned*seriesPerBatch*pointsPerBatch
	}, patience, 100*time.Millisecond, "what is refused for good is counted")
	more(&r.gate.passed, 5, "others pass after the refused batches")
	stop()
	r.drained()
	assert.EqualValues(t, poisoned, r.gate.poison.Load(), "each poisoned batch is tried once")
	assert.InDelta(t, before+poisoned*seriesPerBatch*pointsPerBatch, r.collector.counter("otelcol_exporter_send_failed_metric_points", `exporter="otlp_http/queue"`), 0)
	assert.GreaterOrEqual(t, logLines(t, r.collector.Process, "Dropping data"), poisoned, "what is refused for good is logged")

	samples, lost := s.samples(), 0
	require.Eventually(t, func() bool {
		lost = s.missing(t, store, "flow")
		return lost == 0
	}, patience, time.Second)
	figure.Print("noloss.kills", float64(*kills), "kills")
	figure.Print("noloss.refused", float64(s.refused), "requests")
	figure.Print("noloss.accepted", float64(samples), "samples")
	figure.AtMost("noloss.missing", float64(lost), "samples", 0)
	assert.Zero(t, lost)
	assert.Greater(t, samples, 10000)
}

func TestQueueAtItsBoundRefusesAndLosesNothing(t *testing.T) {
	beside(t, working)
	store, _ := prometheus(t, "1h")
	r := newLossRig(t, store.URL, 20)
	s := newSender(r.collector.otlp)
	t.Cleanup(s.client.CloseIdleConnections)
	require.True(t, s.send(context.Background(), "bound", 50))
	r.gate.mode.Store(http.StatusServiceUnavailable)
	refused := 0
	for range 60 {
		if !s.send(context.Background(), "bound", 1) {
			refused++
		}
	}
	assert.Greater(t, refused, 30, "senders are refused at the bound")
	assert.Positive(t, r.collector.counter("otelcol_exporter_enqueue_failed_metric_points", `exporter="otlp_http/queue"`), "and it is counted")
	r.collector.Kill()
	r.start()
	r.gate.mode.Store(0)
	r.drained()
	require.Eventually(t, func() bool { return s.missing(t, store, "bound") == 0 }, patience, time.Second)
}

// TestQueueFileCutShort cuts the queue's file as a full disk or a torn write
// would. What was delivered stays delivered, the damaged file is set aside, and
// the collector continues.
func TestQueueFileCutShort(t *testing.T) {
	beside(t, working)
	store, _ := prometheus(t, "1h")
	r := newLossRig(t, store.URL, 1000)
	s := newSender(r.collector.otlp)
	t.Cleanup(s.client.CloseIdleConnections)
	for _, part := range []float64{0.5, 0.1, 0.99} {
		for range 20 {
			require.True(t, s.send(context.Background(), "cut", 50))
		}
		r.drained()
		r.collector.Kill()
		files, err := filepath.Glob(filepath.Join(r.queue, "*"))
		require.NoError(t, err)
		cut := 0
		for _, f := range files {
			info, err := os.Stat(f)
			require.NoError(t, err)
			if strings.Contains(f, "otlp_http") && !strings.Contains(f, "backup") && info.Size() > 0 {
				require.NoError(t, os.Truncate(f, int64(float64(info.Size())*part)))
				cut++
			}
		}
		require.Positive(t, cut, "%v", files)
		r.start()
	}
	for range 20 {
		require.True(t, s.send(context.Background(), "cut", 50))
	}
	r.drained()
	require.Eventually(t, func() bool { return s.missing(t, store, "cut") == 0 }, patience, time.Second)
}
