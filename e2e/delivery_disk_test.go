// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/storedamage"
)

// TestFullDiskRefusesAndCountsWhatDoesNotFit has the queues, and ComfyUI's open prompts, on
// a disk of 4 MiB.
func TestFullDiskRefusesAndCountsWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("unshare", "-rm", "true").CombinedOutput(); err != nil {
		t.Skipf("user namespaces, in which anybody can mount a disk of a size, are not permitted here: %s", out)
	}
	everyConfiguration(t, "full", rigOptions{interval: 500 * time.Millisecond, comfyui: true}, func(t *testing.T, r *deliveryRig) {
		require.NoError(t, os.MkdirAll(r.queue, 0o700))
		r.command.environment = append(r.command.environment, "OTELCOL_GPU_COMFYUI_STORE="+filepath.Join(r.queue, "comfyui"))
		r.state("answers_503")
		r.startAs("unshare", append([]string{"-rm", "sh", "-c", `mount -t tmpfs -o size=4m tmpfs "$OTELCOL_GPU_QUEUE" && exec "$0" "$@"`, binary()}, r.command.arguments...)...)
		refused := func() bool {
			return r.samples.refused >= 20 && r.logs.refused >= 20 && (r.spans == nil || r.spans.refused >= 20)
		}
		for i := 0; i < 5000 && !refused(); i++ {
			r.send(t.Context(), 1)
		}
		require.True(t, refused(), "what does not fit is refused")
		assert.GreaterOrEqual(t, r.collector.counter("otelcol_exporter_enqueue_failed_metric_points"), float64(r.samples.refused*seriesPerBatch*pointsPerBatch))
		assert.GreaterOrEqual(t, r.collector.counter("otelcol_exporter_enqueue_failed_log_records"), float64(r.logs.refused*recordsPerBatch))
		if r.spans != nil {
			assert.GreaterOrEqual(t, r.collector.counter("otelcol_exporter_enqueue_failed_spans"), float64(r.spans.refused*spansPerBatch))
		}
		scraped := r.collector.counter("otelcol_scraper_scraped_metric_points")
		require.Eventually(t, func() bool { return r.collector.counter("otelcol_scraper_scraped_metric_points") > scraped }, patience, 50*time.Millisecond, "scrapes go on")
		if r.config == "comfyui" {
			_, err := get("http://" + r.proxy + "/queue")
			require.NoError(t, err, "the proxy goes on")
		}
		figure.Print("delivery."+r.name+".log_lines", float64(logLines(t, r.collector.Process, "\twarn\t")+logLines(t, r.collector.Process, "\terror\t")), "lines")
		// exporterhelper skips a request whose dispatch it cannot write to the disk, and
		// counts it nowhere: in one of seven runs 3 of 472 requests, on a busy machine 4800 of
		// 55,400 samples. Other figures called missing have no such excuse (scripts/e2e.sh).
		r.state("there")
		require.True(t, r.send(t.Context(), 0), "there is room again")
		require.Eventually(t, func() bool { return r.queued() == 0 }, 2*patience, 200*time.Millisecond, "what is queued is sent")
		l := r.arrived(t, time.Time{}, 20*time.Second)
		skipped := func(skipped, of int, unit string) {
			figure.AtMost("delivery."+r.name+".skipped_"+unit, float64(skipped), unit, 0)
			assert.LessOrEqual(t, skipped, of/5, "%s of %d", unit, of)
		}
		skipped(l.samples, r.samples.samples(), "samples")
		skipped(l.records, len(r.logs.accepted), "records")
		if r.spans != nil {
			skipped(l.spans, len(r.spans.accepted), "spans")
		}
	})
}

// TestPowerLossLosesNothingThatWasQueued builds what a disk can hold after a power loss,
// page by page: with fsync, bbolt writes a transaction's pages, syncs, writes one meta page,
// and syncs. So beside the file before a transaction it holds any of the pages, or all
// pages and the meta or not.
func TestPowerLossLosesNothingThatWasQueued(t *testing.T) {
	t.Parallel()
	const mixtures = 4
	everyConfiguration(t, "power", rigOptions{}, func(t *testing.T, r *deliveryRig) {
		r.state("answers_503")
		// Without merging, the sending side rests at the first request, and each request
		// that comes is one transaction.
		r.command.arguments = append(r.command.arguments, "--config=yaml:exporters::otlp_http/queue::sending_queue::batch::min_size: 0",
			"--config=yaml:exporters::otlp_http/logs::sending_queue::batch::min_size: 0")
		if r.spans != nil {
			r.command.arguments = append(r.command.arguments, "--config=yaml:exporters::otlp_grpc::sending_queue::batch::min_size: 0")
		}
		r.start()
		for range 30 {
			require.True(t, r.send(t.Context(), 50))
		}
		require.Eventually(t, func() bool { // no request's dispatch is still to be written
			return r.gate.denied.Load() > 0 && r.logGate.denied.Load() > 0 && (r.spans == nil || r.spanStore.denied.Load() > 0)
		}, patience, 10*time.Millisecond)
		names := queueFiles(t, r.queue)
		require.Len(t, names, 2+r.spanQueues())
		before := readFiles(t, r.queue, names)
		accepted, acceptedSpans, acceptedRecords := maps.Clone(r.samples.accepted), map[string]bool{}, maps.Clone(r.logs.accepted)
		if r.spans != nil {
			acceptedSpans = maps.Clone(r.spans.accepted)
		}
		require.True(t, r.send(t.Context(), 50))
		after := readFiles(t, r.queue, names)
		r.collector.Kill()
		r.samples.accepted, r.logs.accepted = accepted, acceptedRecords // the last requests were under way when the power went
		if r.spans != nil {
			r.spans.accepted = acceptedSpans
		}
		random := rand.New(rand.NewPCG(14, 2))
		r.state("there")
		restart := func(within time.Duration, mix func(before, after *storedamage.File) []byte) lost {
			r.freshStores()
			r.queue = t.TempDir()
			for _, name := range names {
				require.NoError(t, os.WriteFile(filepath.Join(r.queue, name), mix(before[name], after[name]), 0o600))
			}
			r.command.environment = append(r.command.environment, "OTELCOL_GPU_QUEUE="+r.queue)
			r.start()
			// The queue is in order: what has not arrived with the marker is lost.
			marker := newSender(r.collector.otlp)
			defer marker.client.CloseIdleConnections()
			require.True(t, marker.send(t.Context(), "marker", 50))
			record := &logSender{url: r.logs.url, service: "marker", client: marker.client, accepted: map[string]bool{}}
			require.True(t, record.send(t.Context(), 50))
			require.Eventually(t, func() bool {
				return marker.missing(t, r.store, "marker") == 0 && record.missing(t, r.logStore) == 0 && r.queued() == 0
			}, patience, 200*time.Millisecond)
			l := r.arrived(t, time.Time{}, within) // stores show what they have a moment later
			_, err := r.collector.Stop(10 * time.Second)
			require.NoError(t, err)
			return l
		}
		for i := range mixtures {
			l := restart(20*time.Second, func(before, after *storedamage.File) []byte { return mixSynced(t, random, i, before, after) })
			assert.Zero(t, l.samples, "mixture %d: of %d samples", i, r.samples.samples())
			assert.Zero(t, l.records, "mixture %d: of %d log records", i, len(acceptedRecords))
			assert.Zero(t, l.spans, "mixture %d: of %d spans", i, len(acceptedSpans))
		}
		figure.Print("delivery."+r.name+".mixtures", mixtures, "mixtures")
		// The control: a file whose writes were not in order loses what it held.
		l := restart(0, mixMetaFirst)
		assert.Positive(t, l.samples+l.spans, "without fsync the meta page may be there before its pages")
	})
}

func (r *deliveryRig) spanQueues() int {
	if r.spans == nil {
		return 0
	}
	return 1
}

// freshStores puts empty stores behind the gates.
func (r *deliveryRig) freshStores() {
	r.t.Helper()
	r.store, r.logStore = victoriaMetrics(r.t), victoriaLogs(r.t)
	r.gate.pointAt(r.t, r.store.URL)
	r.logGate.pointAt(r.t, r.logStore.url)
	if r.spanStore != nil {
		r.spanStore.mu.Lock()
		r.spanStore.held = map[string]int{}
		r.spanStore.mu.Unlock()
	}
}

// pointAt puts another store behind a gate.
func (g *gate) pointAt(t testing.TB, store string) {
	t.Helper()
	target, err := url.Parse(store)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = g.proxy.ErrorHandler
	g.proxy = proxy
}

// queueFiles lists the store files of a folder.
func queueFiles(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Type().IsRegular() && (strings.HasPrefix(e.Name(), "exporter_") || strings.HasPrefix(e.Name(), "receiver_")) {
			names = append(names, e.Name())
		}
	}
	return names
}

func readFiles(t *testing.T, folder string, names []string) map[string]*storedamage.File {
	t.Helper()
	files := map[string]*storedamage.File{}
	for _, name := range names {
		f, err := storedamage.Read(filepath.Join(folder, name))
		require.NoError(t, err)
		files[name] = f
	}
	return files
}

// mixSynced is one of the files that a synced transaction can leave behind.
func mixSynced(t *testing.T, random *rand.Rand, i int, before, after *storedamage.File) []byte {
	t.Helper()
	_, transaction := before.NewestMeta()
	_, next := after.NewestMeta()
	require.Equal(t, transaction+1, next, "one transaction lies between the copies")
	mixed := slices.Clone(before.Raw)
	if len(after.Raw) > len(mixed) && random.IntN(2) == 0 { // the file had grown
		mixed = append(mixed, make([]byte, len(after.Raw)-len(mixed))...)
	}
	page := before.PageSize
	for p := 2; (p+1)*page <= min(len(mixed), len(after.Raw)); p++ {
		if i == 0 || random.IntN(2) == 0 { // the first mixture has all pages and no meta
			copy(mixed[p*page:(p+1)*page], after.Raw[p*page:(p+1)*page])
		}
	}
	return mixed
}

// mixMetaFirst has the later file's meta pages and none of its other pages.
func mixMetaFirst(before, after *storedamage.File) []byte {
	mixed := slices.Clone(before.Raw)
	copy(mixed[:2*before.PageSize], after.Raw)
	return mixed
}

// TestDamagedStoreFilesAreSetAside damages every store file of every configuration in each
// way: the collector starts, delivers, and says once for each file what it did.
func TestDamagedStoreFilesAreSetAside(t *testing.T) {
	t.Parallel()
	everyConfiguration(t, "damage", rigOptions{comfyui: true}, func(t *testing.T, r *deliveryRig) {
		r.state("answers_503")
		r.start()
		for range 30 {
			require.True(t, r.send(t.Context(), 50))
		}
		if r.config == "comfyui" {
			r.prompt()
		}
		// Not killed: within a transaction, pages of the one before may be overwritten, and damage of the
		// newest meta page is not harmless then.
		_, err := r.collector.Stop(10 * time.Second)
		require.NoError(t, err)
		r.state("there")
		folders := []string{r.queue}
		if r.config == "comfyui" {
			folders = append(folders, r.comfyui)
		}
		damaged := 0
		for _, kind := range slices.Concat(storedamage.Kinds, storedamage.Harmless[1:]) {
			harmless := kind.Name == storedamage.Harmless[1].Name
			var files []string
			environment := r.command.environment
			for i, folder := range folders {
				fresh := t.TempDir()
				for _, name := range queueFiles(t, folder) {
					raw, err := os.ReadFile(filepath.Join(folder, name))
					require.NoError(t, err)
					path := filepath.Join(fresh, name)
					require.NoError(t, os.WriteFile(path, raw, 0o600))
					require.NoError(t, kind.Apply(path))
					files = append(files, path)
				}
				environment = append(environment, []string{"OTELCOL_GPU_QUEUE=", "OTELCOL_GPU_COMFYUI_STORE="}[i]+fresh)
			}
			require.Len(t, files, map[string]int{"default": 2, "node": 3, "comfyui": 4, "no-loss": 2}[r.config])
			original := r.command.environment
			r.command.environment = environment
			r.start()
			r.command.environment = original
			require.True(t, r.send(t.Context(), 50), kind.Name)
			if r.config == "comfyui" {
				_, err := get("http://" + r.proxy + "/queue")
				require.NoError(t, err, "%s: the proxy serves", kind.Name)
			}
			aside := 0
			for _, path := range files {
				found, err := filepath.Glob(path + ".damaged-*")
				require.NoError(t, err)
				aside += len(found)
			}
			expected := len(files)
			if harmless {
				expected = 0
			}
			assert.Equal(t, expected, aside, "%s: files set aside", kind.Name)
			assert.Equal(t, expected, logLines(t, r.collector.Process, "Queue file is damaged"), "%s: one warning for each", kind.Name)
			assert.InDelta(t, expected, r.collector.counter("otelcol_extension_queue_check_damaged"), 0, "%s: counted", kind.Name)
			damaged += aside
			_, err := r.collector.Stop(10 * time.Second)
			require.NoError(t, err, kind.Name)
		}
		figure.Print("delivery."+r.name+".set_aside", float64(damaged), "files")
	})
}

// prompt posts a prompt through the proxy, so that an open one is stored.
func (r *deliveryRig) prompt() {
	r.t.Helper()
	body := `{"client_id": "e2e", "prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": 512, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "e2e"}}}}`
	response, err := http.Post("http://"+r.proxy+"/prompt", "application/json", bytes.NewReader([]byte(body)))
	require.NoError(r.t, err)
	require.NoError(r.t, response.Body.Close())
	require.Equal(r.t, http.StatusOK, response.StatusCode)
}
