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
	"strconv"
	"strings"
	"testing"

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

// TestClientsFromNpmReportARefusal: the proxy refuses a prompt, and each of the two client
// libraries fails with the message for the user.
func TestClientsFromNpmReportARefusal(t *testing.T) {
	beside(t, working)
	out, err := exec.Command(filepath.Join(root, "scripts", "npm.sh")).Output()
	require.NoError(t, err)
	packages := strings.TrimSpace(string(out))
	m := newMachine(t, fakenvml.Current, "l40s")
	proxy := "127.0.0.1:" + strconv.Itoa(port(t))
	collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+simulatedComfyUI(t), "OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir()),
		"--config=yaml:receivers::comfyui::admission: {advisor: gpuadvisor, mode: enforce, rate_limits: [{requests_per_minute: 0.01}]}")
	workflow := filepath.Join(t.TempDir(), "workflow.json")
	require.NoError(t, os.WriteFile(workflow, []byte(`{"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": 400, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "npm"}}}`), 0o600))
	graph, err := os.ReadFile(workflow)
	require.NoError(t, err)
	response, err := http.Post("http://"+proxy+"/prompt", "application/json", strings.NewReader(`{"prompt": `+string(graph)+`}`))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode, "the first one is within the limit")
	for _, c := range []struct {
		name    string
		command []string
		reports string
	}{
		{"@stable-canvas/comfyui-client", []string{"node", "stable-canvas.mjs", proxy}, "Too many requests; please try again later"},
		{"@saintno/comfyui-sdk", []string{"node", "--input-type=module", "-e", saintno, proxy}, "Failed to queue prompt: otelcol_gpu_busy: Too many requests; please try again later"},
		{"cfli", []string{"node", "node_modules/.bin/cfli", "--host", "http://" + proxy, "--json", "--no-download", "--file"}, `"status": "failed"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(withPatience(t), c.command[0], append(c.command[1:], workflow)...)
			cmd.Dir = packages
			out, err := cmd.CombinedOutput()
			require.Error(t, err, string(out))
			assert.Contains(t, string(out), c.reports)
		})
	}
}

// saintno has @saintno/comfyui-sdk run a workflow, and prints why it failed.
const saintno = `
import { readFileSync } from "node:fs";
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";
const [host, file] = process.argv.slice(-2);
const api = new ComfyApi("http://" + host);
await api.init().waitForReady();
new CallWrapper(api, new PromptBuilder(JSON.parse(readFileSync(file, "utf8")), [], ["image"]).setOutputNode("image", "3"))
  .onFailed((e) => { console.log(e.message + ": " + e.cause.error.type + ": " + e.cause.error.message); process.exit(1); })
  .onFinished(() => process.exit(0))
  .run();
`
