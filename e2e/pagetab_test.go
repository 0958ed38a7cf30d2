// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// pageTab is a tab with a live page, and what it logged.
type pageTab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string
}

func openPage(t *testing.T, chromium context.Context, address string) *pageTab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(chromium)
	t.Cleanup(cancel)
	p := &pageTab{t: t, ctx: ctx}
	require.NoError(t, chromedp.Do(ctx))
	require.NoError(t, chromedp.Listen(ctx, p.note))
	p.do(chromedp.EmulateViewport(1280, 800), chromedp.Navigate(address))
	return p
}

func (p *pageTab) note(event any) {
	text := ""
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" {
			content, _ := json.Marshal(e.Args)
			text = "console: " + string(content)
		}
	case *runtime.EventExceptionThrown:
		content, _ := json.Marshal(e.ExceptionDetails)
		text = "exception: " + string(content)
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			text = "log: " + e.Entry.Text + " " + e.Entry.URL
		}
	}
	if text != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.problems = append(p.problems, text)
	}
}

// noted returns what the tab logged since the last call. Chromium itself logs each request that
// does not reach a server that is away.
func (p *pageTab) noted(isAway bool) (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range p.problems {
		if !isAway || !strings.Contains(text, "log: Failed to load resource: net::ERR_") {
			all = append(all, text)
		}
	}
	p.problems = nil
	return all
}

func (p *pageTab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, steps...))
}

// wait waits until an expression of JavaScript is true.
func (p *pageTab) wait(condition string) {
	p.t.Helper()
	var failed error
	require.Eventually(p.t, func() bool {
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		defer cancel()
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](condition))
		failed = err
		return err == nil && ok
	}, patience, 20*time.Millisecond, "%s: %v: %s", condition, &failed, bodyOf{p})
}

// bodyOf prints the text of a page as it is when a test fails.
type bodyOf struct{ p *pageTab }

func (b bodyOf) String() string {
	text, err := chromedp.Run(b.p.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
	if err != nil {
		return err.Error()
	}
	return text
}

// readPage evaluates an expression, and awaits it if it is a promise.
func readPage[T any](p *pageTab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, expression)
	return v
}
