// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// runCommand is `make run` without the build, on ports of its own.
func runCommand(t *testing.T, environment ...string) *exec.Cmd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run")
	out, err := exec.Command("go", "build", "-C", "../lab", "-o", path, "./run").CombinedOutput()
	require.NoError(t, err, string(out))
	cmd := exec.Command(path)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "SIMULATED_CARDS=l40s,h100", "RUN_FOLDER="+t.TempDir())
	for _, name := range []string{"STORE_PORT", "HEALTH_PORT", "TELEMETRY_PORT", "PROXY_PORT", "TRACES_PORT", "COMFYUI_PORT", "VMALERT_PORT", "ALERTMANAGER_PORT", "LOGS_PORT", "PAGE_PORT"} {
		cmd.Env = append(cmd.Env, name+"="+strconv.Itoa(port(t)))
	}
	cmd.Env = append(cmd.Env, environment...)
	return cmd
}

// children counts processes that have a text in their command line.
func children(t *testing.T, text string) (n int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range lines {
		if raw, err := os.ReadFile(f); err == nil && strings.Contains(strings.ReplaceAll(string(raw), "\x00", " "), text) {
			n++
		}
	}
	return n
}

// notThere is what a client says of a server that is not there, or no longer.
var notThere = regexp.MustCompile(`connection refused|connection reset by peer|broken pipe|EOF`)

func TestRunEndsByItselfWithSuccess(t *testing.T) {
	beside(t, working)
	folder := t.TempDir()
	cmd := runCommand(t, "RUN_SECONDS=5", "RUN_FOLDER="+folder)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Contains(t, string(out), "NO NVIDIA GPU WAS FOUND")
	assert.Contains(t, string(out), "READY")
	assert.Contains(t, string(out), "samples of 2 GPUs arrived")
	assert.Regexp(t, `done: [1-9]\d* prompts ended`, string(out))
	for _, name := range []string{"otelcol-gpu.log", "victoria-metrics.log"} {
		log, err := os.ReadFile(filepath.Join(folder, name))
		require.NoError(t, err)
		for line := range strings.Lines(string(log)) {
			// At the end the hop is closed before the queue, maybe while a request is under way, and
			// what waits on disk for the next start is logged as failed. Log records wait until their
			// store is up, and the page for Alertmanager.
			if !notThere.MatchString(line) || !strings.Contains(line, "/v1/metrics") && !strings.Contains(line, logsPath) && !strings.Contains(line, "/api/v2/alerts") {
				assert.NotRegexp(t, `(?i)\berror\b`, line, "no store for traces is there, and nobody misses it")
			}
		}
	}
	assert.NoFileExists(t, filepath.Join(folder, "jaeger.log"))
}

// TestRunIsReadyWithoutWhatIsStillBeingBuilt has builds of vmalert, VictoriaLogs and
// Alertmanager that never end: make run gives them a lower priority, with nice.
func TestRunIsReadyWithoutWhatIsStillBeingBuilt(t *testing.T) {
	beside(t, working)
	tools := t.TempDir()
	nice, err := exec.LookPath("nice")
	require.NoError(t, err)
	script := "#!/bin/sh\ncase \"$*\" in\n*vmalert|*victoria-logs|*alertmanager) exec sleep 10000 ;;\nesac\nexec " + nice + " \"$@\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(tools, "nice"), []byte(script), 0o755))
	cmd := runCommand(t, "RUN_SECONDS=5", "PATH="+tools+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "what is still being built is no failure: %s", out)
	assert.Contains(t, string(out), "READY")
	assert.Contains(t, string(out), "samples of 2 GPUs arrived")
	assert.NotRegexp(t, `(?m)^(alerts|logs|messages) `, string(out), "none of them was up")
}

// TestRunShowsPromptsOfItsSimulatedComfyUI causes a rush in `make run` and checks it as
// its user would: in PromQL, in the traces, in Alertmanager and in the logs.
func TestRunShowsPromptsOfItsSimulatedComfyUI(t *testing.T) {
	besideFirst(t, working)
	storePort, tracesPort, alertmanagerPort, logsPort, pagePort := port(t), port(t), port(t), port(t), port(t)
	live := livePage{fmt.Sprintf("127.0.0.1:%d", pagePort)}
	cmd := runCommand(t, fmt.Sprintf("PAGE_PORT=%d", pagePort), fmt.Sprintf("STORE_PORT=%d", storePort), fmt.Sprintf("TRACES_PORT=%d", tracesPort), fmt.Sprintf("ALERTMANAGER_PORT=%d", alertmanagerPort),
		fmt.Sprintf("LOGS_PORT=%d", logsPort), "JAEGER=1")
	var output syncedText
	cmd.Stdout = &output
	enter, err := cmd.StdinPipe()
	require.NoError(t, err)
	begin := time.Now()
	require.NoError(t, cmd.Start())
	defer func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.NoError(t, cmd.Wait())
	}()
	store := stack.Store{URL: fmt.Sprintf("http://127.0.0.1:%d", storePort)}
	eventually(t, store, `comfyui_prompts_total{comfyui_prompt_outcome="success"} > 0`, atLeast(1))
	require.Regexp(t, `(?m)^page +`+live.url()+"$", output.String())
	assert.Equal(t, live.url(), regexp.MustCompile(`http://[^\s/]+`).FindString(output.String()), "the page's address comes first")
	tab := openPage(t, browser(t), live.url()+"/?lang=en")
	tab.wait(`(() => {
		const button = [...document.querySelectorAll('.tools button')].find((b) => b.innerText === 'Cause a rush');
		button?.click();
		return button !== undefined;
	})()`)
	require.Eventually(t, func() bool { return strings.Contains(output.String(), "eight photos") }, patience, 10*time.Millisecond)
	_, err = enter.Write([]byte("\n"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(output.String(), "is on already") }, patience, 10*time.Millisecond, "Enter does the same")
	eventually(t, store, `max_over_time(comfyui_queue_length{state="pending"}[1m]) >= 6`, atLeast(1))
	first := eventually(t, store, `hw_gpu_up{hw_name="gpu0"}`, atLeast(1))[0]
	gpu := first.Labels["hw_id"]
	own := eventually(t, store, `otelcol_receiver_nvml_up`, atLeast(1))[0]
	assert.Equal(t, first.Labels["instance"], own.Labels["instance"], "the collector's own telemetry is scraped under the host's name")
	eventually(t, store, `hw_gpu_process_memory_usage_bytes{hw_id="`+gpu+`",process_executable_name="run"} > 6e9`, atLeast(1))
	j := &jaeger{query: fmt.Sprintf("http://127.0.0.1:%d", tracesPort)}
	require.Eventually(t, func() bool {
		return j.hasSpan("comfyui.prompt", func(s *jaegerSpan) bool { return s.tag("comfyui.image.side") == 1280.0 && s.tag("hw.id") == gpu })
	}, patience, 1e8, "a photo of the rush, with its GPU")
	eventually(t, store, `sum(comfyui_execution_gpu_energy_joules_count{comfyui_image_size_class="<=1280"}) >= 8`, atLeast(1))
	slowest := j.slowest()
	out := filepath.Join(t.TempDir(), "report.html")
	printed, err := exec.Command(reportCommand(t), "-store", store.URL, "-traces", j.query, "-window", "1h", "-out", out).CombinedOutput()
	require.NoError(t, err, string(printed))
	page, err := os.ReadFile(out)
	require.NoError(t, err)
	for _, found := range []string{`data-class="buildings"`, `data-card="gpu0"`, `data-card="gpu1"`, `data-model="ddcolor_paper.pth"`, `data-fact="simulated"`} {
		assert.Contains(t, string(page), found, "the report asks for the names that the collector writes")
	}
	slow := regexp.MustCompile(`data-trace="[0-9a-f]{32}" data-side="1280"`).FindString(string(page))
	assert.NotEmpty(t, slow, "a photo of the rush is among the slowest")
	assert.Contains(t, string(page), `data-trace="`+slowest+`"`)
	assert.Contains(t, fact(t, string(page), slow, "why"), "waited for others", "most of the rush waits")
	assert.GreaterOrEqual(t, strings.Count(string(page), "comfyui.node DDColor_Colorize"), 8, "the rush has no sockets, and its nodes are seen")
	unmarked, err := store.Query(t.Context(), `count by (__name__) (last_over_time({__name__=~"comfyui_.*|hw_gpu_.*",gpu_simulated!="true"}[5m]))`)
	require.NoError(t, err)
	for _, s := range unmarked {
		// The proxy's own are this machine's, not a GPU's.
		assert.Regexp(t, "^comfyui_(proxy|up)", s.Labels["__name__"])
	}

	// The rush goes on until the alert on a full GPU is in Alertmanager.
	command := fmt.Sprintf("alert query --alertmanager.url=http://127.0.0.1:%d", alertmanagerPort)
	require.Eventually(t, func() bool {
		listed, err := exec.Command(tool(t, "amtool"), append(strings.Fields(command), "-o", "json")...).Output()
		return err == nil && strings.Contains(string(listed), `"alertname":"GPUMemoryUsageCritical"`)
	}, 4*patience, time.Second, "the alert is in Alertmanager")
	eventually(t, store, `min_over_time((max by (hw_name) (hw_gpu_memory_usage_bytes{hw_name="gpu0"} / hw_gpu_memory_limit_bytes))[1m:5s]) > 0.95`, atLeast(1))
	eventually(t, store, `ALERTS{alertname="GPUMemoryUsageCritical",alertstate="firing"}`, atLeast(1))
	alerts, err := get(store.URL + "/vmalert/api/v1/alerts")
	require.NoError(t, err)
	assert.Contains(t, alerts, "GPUMemoryUsageCritical", "the store's page Alerting shows what vmalert knows")

	// The page shows it, too: the full GPU, the alert, and the slow prompts with their reasons.
	// A prompt that runs while the GPU fills fails at once, up to a second before the page finds the
	// GPU full or after it: of two conditions that are as bad, the older one is the verdict.
	statuses := map[string]string{"gpu.memory.critical": "full", "comfyui.out_of_memory": "out of memory"}
	live.wait(t, patience, "the full GPU and its alert", func(s *pageState) bool {
		return slices.Contains(s.firing(), "GPUMemoryUsageCritical") && s.has("gpu.memory.critical") && statuses[s.Verdict.Cause] != "" && s.GPUs[0].Status == statuses[s.Verdict.Cause]
	})
	tab.wait(`document.querySelector('[aria-labelledby=alerts]').innerText.includes('GPUMemoryUsageCritical')`)
	took, limit := time.Since(begin), 8*time.Minute // beside other tests
	if *exactGoals {
		limit = 5 * time.Minute
	}
	figure.AtMost("run.newcomer", took.Seconds(), "s", 300)
	assert.Less(t, took, limit, "from make run to the alert on the page")
	waited, err := get(live.url() + "/v1/prompts?slow=true&lang=en")
	require.NoError(t, err)
	assert.Regexp(t, `"reason": ?"waited behind [1-9]`, waited)

	// What is printed then leads to the same places, and to a prompt that failed.
	query := regexp.MustCompile(`curl '(http://127\.0\.0\.1:\d+)/select/logsql/query\?query=(trace_id:=([0-9a-f]{32}))'`)
	require.Eventually(t, func() bool { return query.MatchString(output.String()) }, patience, 100*time.Millisecond)
	assert.Contains(t, output.String(), command)
	for _, reported := range []string{`alerts +http://\S+/vmui/#/rules`, `logs +http://\S+/select/vmui/`, `messages +\S+.* alert query `} {
		assert.Regexp(t, "(?m)^"+reported, output.String(), "each is reported once it is up")
	}
	text, err := get(store.URL + "/vmui/custom-dashboards")
	require.NoError(t, err)
	var shown struct {
		DashboardsSettings []struct{ Title string }
	}
	require.NoError(t, json.Unmarshal([]byte(text), &shown))
	assert.Len(t, shown.DashboardsSettings, 3, "the store's page shows the dashboards")
	assert.Contains(t, output.String(), store.URL+"/vmui/#/rules")
	found := query.FindStringSubmatch(output.String())
	assert.Equal(t, fmt.Sprintf("http://127.0.0.1:%d", logsPort), found[1])
	records := logStore{found[1]}.records(t, found[2])
	require.NotEmpty(t, records)
	assert.True(t, slices.ContainsFunc(records, func(r map[string]string) bool {
		return r["event_name"] == "comfyui.prompt.error" && r["error.type"] == "out_of_memory"
	}), "the failed prompt is among %v", records)
	require.Eventually(t, func() bool { return len(j.traces("/api/traces/"+found[3])) == 1 }, patience, 100*time.Millisecond, "the trace has the same id")
}

// syncedText is what a command prints, read while it runs.
type syncedText struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements [io.Writer].
func (s *syncedText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *syncedText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestRunProxiesAComfyUIThatRuns has one at the usual address.
func TestRunProxiesAComfyUIThatRuns(t *testing.T) {
	beside(t, working)
	there, err := url.Parse(simulatedComfyUI(t))
	require.NoError(t, err)
	storePort, proxyPort := port(t), port(t)
	cmd := runCommand(t, "COMFYUI_PORT="+there.Port(), fmt.Sprintf("STORE_PORT=%d", storePort), fmt.Sprintf("PROXY_PORT=%d", proxyPort))
	var output bytes.Buffer
	cmd.Stdout = &output
	require.NoError(t, cmd.Start())
	store := stack.Store{URL: fmt.Sprintf("http://127.0.0.1:%d", storePort)}
	eventually(t, store, "comfyui_up == 1", atLeast(1))
	require.NoError(t, simulation.NewUsers(fmt.Sprintf("http://127.0.0.1:%d", proxyPort)).Order(t.Context(), "me", []simulation.Photo{{Side: 300}}))
	eventually(t, store, `sum(comfyui_prompts_total{comfyui_prompt_outcome="success"}) == 1`, atLeast(1))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
	assert.Contains(t, output.String(), "found ComfyUI 0.3.64 at http://127.0.0.1:"+there.Port())
	assert.NotContains(t, output.String(), "Press Enter", "nobody but its users asks for photos")
}

func TestRunLeavesNoProcessBehind(t *testing.T) {
	storePort := port(t)
	cmd := runCommand(t, fmt.Sprintf("STORE_PORT=%d", storePort))
	require.NoError(t, cmd.Start())
	mark := fmt.Sprintf("127.0.0.1:%d", storePort)
	require.Eventually(t, func() bool { return children(t, mark) > 0 }, patience, 20*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
	assert.Zero(t, children(t, mark))

	// And not either when it is killed.
	cmd = runCommand(t, fmt.Sprintf("STORE_PORT=%d", storePort))
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return children(t, mark) > 0 }, patience, 20*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return children(t, mark) == 0 }, patience, 20*time.Millisecond)
}

// child finds a process that another one started, by its command line.
func child(t *testing.T, parent int, text string) (pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, f := range stats {
			raw, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			_, rest, _ := strings.Cut(string(raw), ") ")
			fields := strings.Fields(rest) // state, parent, …
			if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
				continue
			}
			if line, err := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline")); err == nil && strings.Contains(string(line), text) {
				pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(f)))
				return true
			}
		}
		return false
	}, patience, 20*time.Millisecond)
	return pid
}

func TestRunPrintsWhyItFailed(t *testing.T) {
	cmd := runCommand(t, "RUN_SECONDS=60")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	require.NoError(t, syscall.Kill(child(t, cmd.Process.Pid, "bin/otelcol-gpu"), syscall.SIGKILL))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	assert.Equal(t, 1, exit.ExitCode())
	assert.Contains(t, out.String(), "the collector exited")
}

func TestRunNamesThePortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	out, err := runCommand(t, fmt.Sprintf("TELEMETRY_PORT=%d", taken)).CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), fmt.Sprintf("port %d", taken))
	assert.Contains(t, string(out), "TELEMETRY_PORT=")
}

// BenchmarkResidentMemory measures the memory of the running distribution with 8 GPUs
// after 20 s of work.
func BenchmarkResidentMemory(b *testing.B) {
	for b.Loop() {
		m := newMachine(b, fakenvml.Current, "l40s", "h100", "rtx-4080-super", "h200", "l40s", "h100", "rtx-4080-super", "h200")
		store := victoriaMetrics(b)
		c := collect(b, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
		eventually(b, store, "count_over_time(hw_gpu_up[1m]) > 40", atLeast(8))
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
		require.NoError(b, err)
		for line := range strings.Lines(string(raw)) {
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			kb, _ := strconv.ParseFloat(fields[1], 64)
			switch fields[0] {
			case "VmRSS:":
				b.ReportMetric(kb/1024, "MiB-resident")
			case "RssAnon:":
				b.ReportMetric(kb/1024, "MiB-anonymous")
			}
		}
		_, err = c.Stop(20 * time.Second)
		require.NoError(b, err)
	}
}
