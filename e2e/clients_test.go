// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// simulatedComfyUI starts a ComfyUI without users and returns its URL.
func simulatedComfyUI(t *testing.T) string {
	t.Helper()
	return simulatedComfyUISeen(t, func(*http.Request) {})
}

// simulatedComfyUISeen also shows each request that reaches the server.
func simulatedComfyUISeen(t *testing.T, see func(*http.Request)) string {
	t.Helper()
	server := fakecomfyui.NewServer(fakecomfyui.NewTimedWork())
	return serveComfyUI(t, server, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		see(r)
		server.ServeHTTP(w, r)
	}))
}

// serveComfyUI runs a simulated ComfyUI whose requests arrive through a handler, and returns
// its URL.
func serveComfyUI(t *testing.T, server *fakecomfyui.Server, handler http.Handler) string {
	t.Helper()
	h := httptest.NewServer(handler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		h.CloseClientConnections()
		h.Close()
	})
	return h.URL
}

// TestClientsFromNpmThroughTheProxy has two client libraries of others ask for a photo
// through the proxy, in front of either version. Each gets its steps and the image, and the
// trace has its nodes.
func TestClientsFromNpmThroughTheProxy(t *testing.T) {
	beside(t, working)
	for _, version := range fakecomfyui.Versions {
		t.Run(string(version), func(t *testing.T) { clientsFromNpm(t, version) })
	}
}

func clientsFromNpm(t *testing.T, version fakecomfyui.Version) {
	out, err := exec.Command(filepath.Join(root, "scripts", "npm.sh")).Output()
	require.NoError(t, err)
	packages := strings.TrimSpace(string(out))
	j := startJaeger(t)
	m := newMachine(t, fakenvml.Current, "l40s")
	proxy := "127.0.0.1:" + strconv.Itoa(port(t))
	server := fakecomfyui.NewServerWith(fakecomfyui.NewTimedWork(), fakecomfyui.Options{Version: version})
	collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+serveComfyUI(t, server, server), "OTELCOL_GPU_COMFYUI_PROXY="+proxy,
		"OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp))
	clients := []struct {
		name    string
		photo   string // another each time, so that nothing is cached
		side    int
		command []string
		came    func(t *testing.T, out []byte) (image string)
	}{
		{"@stable-canvas/comfyui-client", "people.png", 400, []string{"node", "stable-canvas.mjs", proxy}, func(t *testing.T, out []byte) string {
			var answer struct {
				Steps  []int
				Result struct{ Images []struct{ Data string } }
			}
			require.NoError(t, json.Unmarshal(out, &answer), string(out))
			require.NotEmpty(t, answer.Steps)
			if version == fakecomfyui.Older { // the newer one leaves out steps that follow fast
				assert.Equal(t, []int{1, 2, 3, 4}, answer.Steps)
			}
			assert.Equal(t, []int{1, 4}, []int{answer.Steps[0], answer.Steps[len(answer.Steps)-1]})
			require.Len(t, answer.Result.Images, 1)
			return answer.Result.Images[0].Data
		}},
		{"@saintno/comfyui-sdk", "buildings.png", 500, []string{"node", "node_modules/.bin/cfli", "--host", "http://" + proxy, "--json", "--no-download", "--file"}, func(t *testing.T, out []byte) string {
			var answer struct {
				Status string
				Media  map[string]string `json:"_media"`
			}
			require.NoError(t, json.Unmarshal(out, &answer), string(out))
			assert.Equal(t, "completed", answer.Status)
			require.Len(t, answer.Media, 1)
			for _, at := range answer.Media {
				return at
			}
			return ""
		}},
	}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			workflow := filepath.Join(t.TempDir(), "workflow.json")
			require.NoError(t, os.WriteFile(workflow, fmt.Appendf(nil, `{"1": {"class_type": "LoadImage", "inputs": {"image": %q}},
				"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": %d, "checkpoint": "ddcolor_paper.pth"}},
				"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "npm"}}}`, c.photo, c.side), 0o600))
			cmd := exec.CommandContext(withPatience(t), c.command[0], append(c.command[1:], workflow)...)
			cmd.Dir = packages
			var problems bytes.Buffer
			cmd.Stderr = &problems
			out, err := cmd.Output()
			require.NoError(t, err, problems.String())
			assert.True(t, strings.HasPrefix(c.came(t, out), "http://"+proxy+"/view?"), string(out))
			require.Eventually(t, func() bool {
				for _, trace := range j.traces("/api/traces?limit=10&lookback=1h&service=comfyui") {
					side, nodes := false, 0
					for i := range trace.Spans {
						s := &trace.Spans[i]
						side = side || s.tag("comfyui.image.side") == float64(c.side)
						if strings.HasPrefix(s.OperationName, "comfyui.node ") {
							nodes++
						}
					}
					if side && nodes == 3 {
						return true
					}
				}
				return false
			}, patience, 1e8, "a trace with three nodes")
		})
	}
}

// TestClientsFromNpmReportARefusal has three client libraries of others be refused, for their rate and since the
// image would come too late: each reports the sentence that is for the user, in the language that it accepts.
func TestClientsFromNpmReportARefusal(t *testing.T) {
	beside(t, working)
	out, err := exec.Command(filepath.Join(root, "scripts", "npm.sh")).Output()
	require.NoError(t, err)
	packages := strings.TrimSpace(string(out))
	workflow := filepath.Join(t.TempDir(), "workflow.json")
	require.NoError(t, os.WriteFile(workflow, []byte("{"+load()+", "+colour(512)+", "+save()+"}"), 0o600))
	for _, refused := range []struct {
		name, setting string
		en, zh        string // regular expressions
	}{
		{"rate", "receivers::comfyui::admission::rate_limits: [{requests_per_minute: 0.01}]", "Too many requests; please try again later", "请求过于频繁，请稍后重试"},
		// One runs, one waits: the next one would be late, and a smaller one would not.
		{"deadline", "connectors::gpuadvisor: {classes: {people: {deadline: 600s}}, advice: {measured: [{side: 256, time: 25s}, {side: 512, time: 300s}]}}",
			`The system is busy\. Images of up to [2-5]\d\d pixels are processed sooner`, `当前系统繁忙，建议将尺寸调整为[2-5]\d\d以下以加快处理速度`},
	} {
		t.Run(refused.name, func(t *testing.T) {
			m := newMachine(t, fakenvml.Current, "l40s")
			proxy := "127.0.0.1:" + strconv.Itoa(port(t))
			// On a busy machine an advisor that has 20 ms is late now and then, which admits.
			server, page := fakecomfyui.NewServer(unendingWork{fakecomfyui.NewTimedWork()}), newLivePage(t)
			collect(t, "comfyui.yaml", append(m.environment, page.environment(), "OTELCOL_GPU_COMFYUI="+serveComfyUI(t, server, server), "OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir()),
				"--config", filepath.Join(root, "config", "enforce.yaml"), "--config=yaml:receivers::comfyui: {device: 0, admission: {timeout: 1s}}", "--config=yaml:"+refused.setting)
			require.Equal(t, http.StatusOK, submitPhoto(t, proxy, 256), "the first one")
			if refused.name == "deadline" {
				require.Eventually(t, func() bool { // the advisor knows the server's queue and GPU
					body, err := get(page.url() + "/v1/advice?task_class=people&width=512&height=512")
					return err == nil && regexp.MustCompile(`"reason": ?"fits"`).MatchString(body)
				}, patience, 50*time.Millisecond)
			}
			require.Eventually(t, func() bool { return submitPhoto(t, proxy, 512) == http.StatusTooManyRequests }, patience, 100*time.Millisecond)
			for _, c := range []struct {
				name    string
				command []string
				reports string // around the sentence
				zh      bool
			}{
				{"@stable-canvas/comfyui-client", []string{"node", "stable-canvas.mjs", proxy}, "%s", true},
				{"@saintno/comfyui-sdk", []string{"node", "--input-type=module", "-e", saintno, proxy}, `^Failed to queue prompt: otelcol_gpu_busy: %s\n$`, true},
				{"cfli", []string{"node", "node_modules/.bin/cfli", "--host", "http://" + proxy, "--json", "--no-download", "--file"}, `"status": "failed"`, false},
			} {
				for language, sentence := range map[string]string{"en": refused.en, "zh": refused.zh} {
					if language == "zh" && !c.zh {
						continue
					}
					t.Run(c.name+"/"+language, func(t *testing.T) {
						cmd := exec.CommandContext(withPatience(t), c.command[0], append(slices.Clone(c.command[1:]), workflow)...)
						cmd.Dir = packages
						if language == "zh" {
							cmd.Env = append(os.Environ(), "ACCEPT_LANGUAGE=zh-CN")
						}
						out, err := cmd.CombinedOutput()
						require.Error(t, err, string(out))
						assert.Regexp(t, strings.ReplaceAll(c.reports, "%s", sentence), string(out))
					})
				}
			}
		})
	}
}

// unendingWork never ends a photo.
type unendingWork struct{ fakecomfyui.Work }

func (unendingWork) Colorize(ctx context.Context, _ int, _ string, _ func(done, all int) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// saintno has @saintno/comfyui-sdk run a workflow, and prints why it failed.
const saintno = `
import { readFileSync } from "node:fs";
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";
const [host, file] = process.argv.slice(-2);
const language = process.env.ACCEPT_LANGUAGE;
if (language) { // the package sets none of its own
  const plain = globalThis.fetch;
  globalThis.fetch = (url, init = {}) => plain(url, { ...init, headers: { ...init.headers, "Accept-Language": language } });
}
const api = new ComfyApi("http://" + host);
await api.init().waitForReady();
new CallWrapper(api, new PromptBuilder(JSON.parse(readFileSync(file, "utf8")), [], ["image"]).setOutputNode("image", "3"))
  .onFailed((e) => { console.log(e.message + ": " + e.cause.error.type + ": " + e.cause.error.message); process.exit(1); })
  .onFinished(() => process.exit(0))
  .run();
`
