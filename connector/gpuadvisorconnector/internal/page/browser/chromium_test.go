// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience is for a machine that is busy with other tests.
const patience = time.Minute

// shared is the Chromium of all tests.
var shared struct {
	sync.Once
	ctx  context.Context
	stop []func()
}

// run runs the tests, and ends the Chromium before leaks are looked for.
type run struct{ *testing.M }

func (r run) Run() int {
	code := r.M.Run()
	for _, stop := range slices.Backward(shared.stop) {
		stop()
	}
	return code
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(run{m}) }

// startChromium starts the Chromium with a profile of its own, if it does not run.
func startChromium(t *testing.T) context.Context {
	t.Helper()
	shared.Do(func() {
		path, err := exec.LookPath("chromium")
		require.NoError(t, err, "make browser installs it")
		folder, err := os.MkdirTemp("", "page")
		require.NoError(t, err)
		ctx, stop := chromedp.NewExecAllocator(context.Background(), chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
			chromedp.Flag("host-resolver-rules", "MAP gpus.test 127.0.0.1"), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.UserDataDir(folder))
		ctx, cancel := chromedp.NewContext(ctx)
		shared.ctx, shared.stop = ctx, []func(){func() { _ = os.RemoveAll(folder) }, stop, cancel}
		require.NoError(t, chromedp.Do(ctx)) // starts it
	})
	require.NoError(t, shared.ctx.Err())
	return shared.ctx
}

// tab is a tab, with what it logged and requested.
type tab struct {
	t   *testing.T
	ctx context.Context

	// hasAxe is true if each document has a function that loads axe.
	hasAxe bool

	mu       sync.Mutex
	problems []string
	requests []string
	bases    []string // of the servers that it was sent to
}

// openTab opens a tab in a window of its own, so that it counts as seen.
func openTab(t *testing.T, chromium context.Context, options ...chromedp.ContextOption) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(chromium, options...)
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx}
	require.NoError(t, chromedp.Do(ctx))
	require.NoError(t, chromedp.Listen(ctx, p.note))
	return p
}

func (p *tab) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" {
			content, _ := json.Marshal(e.Args)
			p.problems = append(p.problems, "console: "+string(content))
		}
	case *runtime.EventExceptionThrown:
		content, _ := json.Marshal(e.ExceptionDetails)
		p.problems = append(p.problems, "exception: "+string(content))
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			p.problems = append(p.problems, "log: "+e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
	}
}

// noted returns what the tab logged, and what it requested from other servers than those that
// it was sent to.
func (p *tab) noted() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append([]string(nil), p.problems...)
	for _, to := range p.requests {
		if !strings.HasPrefix(to, "data:") && !slices.ContainsFunc(p.bases, func(base string) bool { return strings.HasPrefix(to, base+"/") }) {
			all = append(all, "request to "+to)
		}
	}
	p.problems, p.requests = nil, nil
	return all
}

// shape is how a reader sees the page.
type shape struct {
	width, height int64
	language      string
	isDark        bool
}

func (s shape) String() string {
	theme := "light"
	if s.isDark {
		theme = "dark"
	}
	return fmt.Sprintf("%d px, %s, %s", s.width, s.language, theme)
}

func (p *tab) reshape(s shape) {
	p.t.Helper()
	scheme := "light"
	if s.isDark {
		scheme = "dark"
	}
	require.NoError(p.t, chromedp.Do(p.ctx, chromedp.EmulateViewport(s.width, s.height), func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return chromedp.Void{}, err
	}))
}

// open opens an address and waits until the page is drawn.
func (p *tab) open(address string) {
	p.t.Helper()
	p.visit(address)
	p.wait(`document.querySelector("#app .verdict") !== null`)
}

// visit opens an address.
func (p *tab) visit(address string) {
	p.t.Helper()
	u, err := url.Parse(address)
	require.NoError(p.t, err)
	p.mu.Lock()
	p.bases = append(p.bases, u.Scheme+"://"+u.Host)
	p.mu.Unlock()
	p.do(chromedp.Navigate(address))
}

// runScripts says whether the tab runs scripts of pages.
func (p *tab) runScripts(runs bool) {
	p.t.Helper()
	p.do(func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !runs})
		return chromedp.Void{}, err
	})
}

// do does something on the page, for a while at most.
func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, steps...))
}

// wait waits for a condition, a JavaScript expression.
func (p *tab) wait(condition string) {
	p.t.Helper()
	end := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](condition))
		cancel()
		if err == nil && ok {
			return
		}
		if time.Now().After(end) {
			require.Failf(p.t, "The page does not get there", "%s: %v\n%s", condition, err, read[string](p, `document.body.innerText`))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// read evaluates an expression, and awaits it if it is a promise.
func read[T any](p *tab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, expression)
	return v
}

// capture is the window as PNG.
func (p *tab) capture() []byte {
	p.t.Helper()
	raw, err := chromedp.Run(p.ctx, func(ctx context.Context, target *chromedp.Target) ([]byte, error) {
		r, err := cdp.Call(ctx, target, page.CaptureScreenshot, page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatPng})
		return r.Data, err
	})
	require.NoError(p.t, err)
	return raw
}

// serveFixture serves a fixture until the test ends.
func serveFixture(t *testing.T, f *fixture) string {
	t.Helper()
	url, stop := serveFor(f)
	t.Cleanup(stop)
	return url
}

// serveFor serves a fixture until it is stopped, which may happen twice.
func serveFor(f *fixture) (url string, stop func()) {
	p := newPage(f)
	server := httptest.NewServer(p)
	return server.URL, func() {
		p.Close()
		server.CloseClientConnections()
		server.Close()
	}
}
