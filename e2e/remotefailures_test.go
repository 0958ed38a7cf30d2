// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// adviceTimeout is the default of admission::timeout, within which an advisor answers or is not waited for.
const adviceTimeout = 20 * time.Millisecond

// remoteGateway is a collector with two proxies, each in front of a ComfyUI of its own: one that asks an
// advisor elsewhere about each prompt, and one without admission.
type remoteGateway struct {
	*collector
	asks, plain string
	store       stack.Store
	client      *http.Client
	// sent counts the prompts that were sent through the one that asks.
	sent int
}

func newRemoteGateway(t *testing.T, advisor string) *remoteGateway {
	t.Helper()
	g := &remoteGateway{store: victoriaMetrics(t), client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(g.client.CloseIdleConnections)
	asks, plain := fmt.Sprintf("127.0.0.1:%d", port(t)), fmt.Sprintf("127.0.0.1:%d", port(t))
	g.asks, g.plain = "http://"+asks, "http://"+plain
	g.collector = collect(t, writeConfig(t, fmt.Sprintf(`
extensions:
  health_check: {endpoint: "127.0.0.1:${env:OTELCOL_GPU_HEALTH_PORT}"}
receivers:
  comfyui:
    proxy: {endpoint: %q}
    upstream: {endpoint: %q}
    device: ""
    collection_interval: 1s
    admission: {mode: enforce, remote: {endpoint: %q}}
  comfyui/plain:
    proxy: {endpoint: %q}
    upstream: {endpoint: %q}
    device: ""
    collection_interval: 1s
exporters:
  prometheus_remote_write: {endpoint: %q}
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {receivers: [comfyui, comfyui/plain], exporters: [prometheus_remote_write]}
`, asks, simulatedComfyUI(t), advisor, plain, simulatedComfyUI(t), g.store.URL+"/api/v1/write")), nil)
	return g
}

func writeConfig(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// prompt sends one, which must be accepted, and returns how long that took.
func (g *remoteGateway) prompt(t *testing.T, proxy string) time.Duration {
	t.Helper()
	const prompt = `{"client_id": "a", "prompt": {
		"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": 64, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`
	if proxy == g.asks {
		g.sent++
	}
	begun := time.Now()
	response, err := g.client.Post(proxy+"/prompt", "application/json", strings.NewReader(prompt))
	require.NoError(t, err)
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode, string(answer))
	require.Contains(t, string(answer), "prompt_id")
	return time.Since(begun)
}

// added sends prompts through both proxies in turn, and returns how much longer the one that asks took: of
// the first five of each, and of all. They are medians.
func (g *remoteGateway) added(t *testing.T) (first, all time.Duration) {
	t.Helper()
	const prompts, few = 41, 5
	var asks, plain []time.Duration
	for range prompts {
		asks = append(asks, g.prompt(t, g.asks))
		plain = append(plain, g.prompt(t, g.plain))
	}
	median := func(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }
	return median(asks[:few]) - median(plain), median(asks) - median(plain)
}

// costs sends prompts while the advisor fails, compares what it adds with its limit, and waits until
// each of them is counted as one about which it did not decide. decided are those about which it did.
func (g *remoteGateway) costs(t *testing.T, failure string, decided int) {
	t.Helper()
	first, all := g.added(t)
	name := "advice.remote." + strings.ReplaceAll(failure, " ", "_")
	figure.Print(name+".added_first_5", float64(first.Microseconds())/1000, "ms")
	figure.AtMost(name+".added", float64(all.Microseconds())/1000, "ms", float64(adviceTimeout.Milliseconds()))
	// Medians, of which a busy machine's noise is a part: the gate's tests have the exact limit, in virtual time.
	assert.Less(t, first, 3*adviceTimeout, failure)
	assert.Less(t, all, 2*adviceTimeout, failure)
	g.counted(t, "failed", g.sent-decided)
}

// counted waits until so many prompts are counted with a reason.
func (g *remoteGateway) counted(t *testing.T, reason string, n int) {
	t.Helper()
	defer func() {
		if t.Failed() {
			series, err := g.store.Query(context.Background(), `sum by (comfyui_admission_reason, comfyui_admission_decision) (comfyui_admission_decisions_total)`)
			t.Logf("%d prompts were sent; counted are %v (%v)", g.sent, series, err)
		}
	}()
	eventually(t, g.store, fmt.Sprintf(`sum(comfyui_admission_decisions_total{comfyui_admission_reason=%q,comfyui_admission_decision="admit"}) == %d`, reason, n), atLeast(1))
}

// advised sends prompts until the advisor decides about one, and returns how many prompts it decided
// about in all.
func (g *remoteGateway) advised(t *testing.T, reason string, before int) (decided int) {
	t.Helper()
	require.Eventually(t, func() bool {
		g.prompt(t, g.asks)
		series, err := g.store.Query(context.Background(), fmt.Sprintf(`sum(comfyui_admission_decisions_total{comfyui_admission_reason=%q})`, reason))
		return err == nil && len(series) == 1 && int(series[0].Value()) > before
	}, patience, 100*time.Millisecond, "the advisor decides")
	// All are counted before those of one reason are: the last may not have been exported yet.
	eventually(t, g.store, fmt.Sprintf(`sum(comfyui_admission_decisions_total) == %d`, g.sent), atLeast(1))
	series, err := g.store.Query(context.Background(), fmt.Sprintf(`sum(comfyui_admission_decisions_total{comfyui_admission_reason=%q})`, reason))
	require.NoError(t, err)
	require.Len(t, series, 1)
	return int(series[0].Value())
}

// TestAnAdvisorsCollectorThatStopsCostsNoPrompt: it is stopped, continues, and is killed.
func TestAnAdvisorsCollectorThatStopsCostsNoPrompt(t *testing.T) {
	beside(t, working)
	m, page := newMachine(t, fakenvml.Current, "l40s"), port(t)
	advisor := collect(t, writeConfig(t, fmt.Sprintf(`
extensions:
  health_check: {endpoint: "127.0.0.1:${env:OTELCOL_GPU_HEALTH_PORT}"}
receivers:
  nvml: {library_path: "${env:OTELCOL_GPU_NVML_LIBRARY}"}
connectors:
  gpuadvisor: {page: {endpoint: "127.0.0.1:%d"}, advice: {claims: true}}
exporters:
  nop:
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {receivers: [nvml], exporters: [gpuadvisor]}
    metrics/advisor: {receivers: [gpuadvisor], exporters: [nop]}
`, page)), m.environment)
	g := newRemoteGateway(t, fmt.Sprintf("http://127.0.0.1:%d", page))
	const reason = "unknown" // nobody follows the server there
	decided := g.advised(t, reason, 0)
	const noDecision, again = "Advisor gave no decision", "Advisor answers again"
	answered := logLines(t, g.Process, again) // it may be late on a busy machine
	suspend(t, advisor.PID())
	g.costs(t, "stopped", decided)
	assert.Equal(t, 1, logLines(t, g.Process, noDecision)-logLines(t, g.Process, again), "logged once, and once for each time that it answered in between")
	require.NoError(t, syscall.Kill(advisor.PID(), syscall.SIGCONT))
	decided = g.advised(t, reason, decided)
	assert.Greater(t, logLines(t, g.Process, again), answered)
	advisor.Kill()
	g.costs(t, "killed", decided)
	assert.True(t, g.Alive())
}

// suspend stops a process, and waits until each of its threads has stopped: a thread that has to wait for a
// processor answers a request that came meanwhile.
func suspend(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, func(name string) bool {
			stat, err := os.ReadFile(name)
			return err != nil || !bytes.Contains(stat, []byte(") T ")) // proc_pid_stat(5)
		})
	}, patience, time.Millisecond, "process %d has not stopped", pid)
}

// brokenAdvisor is a server in place of an advisor's page, that answers as the test wants.
type brokenAdvisor struct {
	answer atomic.Pointer[func(http.ResponseWriter, *http.Request)]
	asked  atomic.Int64
}

func (b *brokenAdvisor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	b.asked.Add(1)
	(*b.answer.Load())(w, r)
}

func (b *brokenAdvisor) set(answer func(http.ResponseWriter, *http.Request)) { b.answer.Store(&answer) }

var tenMiB = bytes.Repeat([]byte(" "), 10<<20)

// brokenAnswers are what an advisor answers, or something else at its address.
var brokenAnswers = map[string]func(http.ResponseWriter, *http.Request){
	"slow":           func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"slow body":      func(w http.ResponseWriter, r *http.Request) { begin(w, `{"advice": [`); <-r.Context().Done() },
	"no JSON":        func(w http.ResponseWriter, _ *http.Request) { begin(w, "\x1b[31m<html>\nfatal: all is lost</html>") },
	"truncated JSON": func(w http.ResponseWriter, _ *http.Request) { begin(w, adviceToAdmit[:40]) },
	"other JSON": func(w http.ResponseWriter, _ *http.Request) {
		begin(w, `{"advice": [{"decision": "reject", "reason": "\u001b[31m\nfits"}]}`)
	},
	"10 MiB": func(w http.ResponseWriter, _ *http.Request) {
		begin(w, adviceToAdmit)
		_, _ = w.Write(tenMiB)
	},
	"status 500": func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		begin(w, adviceToAdmit)
	},
	"redirect": func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			begin(w, adviceToAdmit)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	},
	"closes": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
}

const adviceToAdmit = `{"advice": [{"decision": "admit", "reason": "fits", "message": ""}]}`

// begin sends a text at once.
func begin(w http.ResponseWriter, text string) {
	_, _ = io.WriteString(w, text)
	_ = http.NewResponseController(w).Flush()
}

// TestAnAdvisorThatAnswersGarbageCostsNoPrompt, nor one that is slow.
func TestAnAdvisorThatAnswersGarbageCostsNoPrompt(t *testing.T) {
	besideFirst(t, waiting)
	b := &brokenAdvisor{}
	works := func(w http.ResponseWriter, _ *http.Request) { begin(w, adviceToAdmit) }
	b.set(works)
	server := httptest.NewServer(b)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	g := newRemoteGateway(t, server.URL)
	decided := g.advised(t, "fits", 0)
	for failure, answer := range brokenAnswers {
		b.set(answer)
		before := b.asked.Load()
		g.costs(t, failure, decided)
		assert.Greater(t, b.asked.Load(), before, "it was asked")
		if strings.HasPrefix(failure, "slow") { // or the next would be asked about one prompt a second
			b.set(works)
			decided = g.advised(t, "fits", decided)
		}
	}
	b.set(works)
	g.advised(t, "fits", decided)
	assert.Zero(t, logLines(t, g.Process, "all is lost"), "nothing that it answers is logged")
	assert.NotContains(t, logOf(t, g.Process), "\x1b")
}
