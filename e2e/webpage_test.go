// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

//go:embed webpage
var webpage embed.FS

// browser starts a Chromium with a profile of its own.
func browser(t *testing.T, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err, "make browser installs it")
	ctx, stop := chromedp.NewExecAllocator(context.Background(), append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.UserDataDir(t.TempDir()),
	}, more...)...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx)) // starts it
	return ctx
}

// tab is a tab of the browser; it has a session storage of its own.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func openTab(t *testing.T, browser context.Context, base string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	p := &tab{t, ctx}
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(base+"/webpage/index.html")))
	return p
}

func (p *tab) reload() {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.ctx, chromedp.Reload()))
}

// heard is what a page saw of one of its prompts.
type heard struct {
	Heard      []string
	Status     string
	Extensions string // of the WebSocket
	SID        string
}

var changing = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|"timestamp":\d{13}`)

// run has the page post a prompt, and returns what it heard, without ids and times.
func (p *tab) run(side int) heard {
	p.t.Helper()
	prompt := fmt.Sprintf("{%s, %s, %s}", load(), colour(side), save())
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("page.run("+prompt+")", chromedp.EvalAwaitPromise))
	require.NoError(p.t, err)
	var h heard
	require.NoError(p.t, json.Unmarshal([]byte(text), &h), text)
	for i := range h.Heard {
		h.Heard[i] = changing.ReplaceAllString(h.Heard[i], "…")
	}
	return h
}

// TestTheWebPageHearsTheSameWithTheProxy opens a page in Chromium that makes the calls of
// ComfyUI's own page, in the same order: directly, and through the built collector. It hears
// the same after its first load, after a reload, and in a second tab beside the first.
func TestTheWebPageHearsTheSameWithTheProxy(t *testing.T) {
	beside(t, working)
	chromium := browser(t)
	for _, version := range fakecomfyui.Versions {
		t.Run(string(version), func(t *testing.T) {
			server := fakecomfyui.NewServerWith(fakecomfyui.NewTimedWork(), fakecomfyui.Options{Version: version, Compress: true})
			var cookies atomic.Int32 // prompts that came with the page's cookie
			mux := http.NewServeMux()
			mux.Handle("/webpage/", http.FileServerFS(webpage))
			mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
				if c, err := r.Cookie("session"); r.Method == http.MethodPost && err == nil && c.Value == "1" {
					cookies.Add(1)
				}
				server.ServeHTTP(w, r)
			})
			upstream := serveComfyUI(t, server, mux)
			j := startJaeger(t)
			m := newMachine(t, fakenvml.Current, "l40s")
			proxy := "127.0.0.1:" + strconv.Itoa(port(t))
			collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+upstream, "OTELCOL_GPU_COMFYUI_PROXY="+proxy,
				"OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp))
			ways := [2][]heard{}
			for i, base := range []string{upstream, "http://" + proxy} {
				// Each way begins with an empty cache.
				response, err := http.Post(upstream+"/free", "application/json", strings.NewReader(`{"free_memory": true}`))
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				first := openTab(t, chromium, base)
				opened := first.run(300)
				first.reload()
				reloaded := first.run(301)
				require.Equal(t, opened.SID, reloaded.SID, "the session storage keeps the id")
				second := openTab(t, chromium, base)
				other := second.run(302)
				require.NotEqual(t, opened.SID, other.SID)
				ways[i] = []heard{opened, reloaded, other, first.run(303)}
			}
			for i := range ways[0] {
				direct, proxied := ways[0][i], ways[1][i]
				direct.SID, proxied.SID = "", ""
				require.NotEmpty(t, direct.Heard)
				assert.Contains(t, direct.Extensions, "permessage-deflate")
				assert.Equal(t, "success", direct.Status)
				assert.Equal(t, milestones(direct), milestones(proxied), "prompt %d", i)
			}
			assert.EqualValues(t, 8, cookies.Load())
			require.Eventually(t, func() bool {
				traced := 0
				for _, trace := range j.traces("/api/traces?limit=20&lookback=1h&service=comfyui") {
					for i := range trace.Spans {
						if strings.HasPrefix(trace.Spans[i].OperationName, "comfyui.node DDColor") {
							traced++
						}
					}
				}
				return traced == 4
			}, patience, 1e8, "the nodes of the four prompts through the proxy are traced")
		})
	}
}

// milestones leaves out the steps between a node's first and last one: of steps that follow
// each other fast, the newer server leaves out some, as time has it.
func milestones(h heard) heard {
	var all []string
	for _, text := range h.Heard {
		var m struct {
			Type string
			Data struct {
				Value, Max float64
				Nodes      map[string]struct{ Value, Max float64 }
			}
		}
		_ = json.Unmarshal([]byte(text), &m)
		between := m.Type == "progress" && m.Data.Value > 1 && m.Data.Value < m.Data.Max
		for _, n := range m.Data.Nodes {
			between = between || n.Value > 1 && n.Value < n.Max
		}
		if !between {
			all = append(all, text)
		}
	}
	h.Heard = all
	return h
}
