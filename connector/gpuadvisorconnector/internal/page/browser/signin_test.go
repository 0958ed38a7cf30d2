// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
)

// serveWithToken serves a fixture to those who know the token, "right", until the test ends.
func serveWithToken(t *testing.T, f *fixture) (live *page.Page, address string) {
	t.Helper()
	live = page.New(f, page.Settings{Endpoint: "127.0.0.1:0", AllowedHosts: []string{"gpus.test"}, Interval: 50 * time.Millisecond})
	// What confighttp and bearertokenauth do; package page has a test with themselves.
	server := httptest.NewServer(live.SignIn(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer right" {
			http.Error(w, "the token is not valid", http.StatusUnauthorized)
			return
		}
		live.ServeHTTP(w, r)
	})))
	t.Cleanup(func() { live.Close(); server.CloseClientConnections(); server.Close() })
	return live, server.URL
}

// TestABrowserSignsIn does so at a host of which browsers trust neither the connection (no
// Sec-Fetch-Site, no clipboard) nor the name.
func TestABrowserSignsIn(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	live, address := serveWithToken(t, newFixture(t, sceneOf("8")))
	base := strings.Replace(address, "127.0.0.1", "gpus.test", 1)
	p := openTab(t, chromium)
	p.reshape(wide)
	p.do(chromedp.Navigate(base + "/prompts/" + slowestID + "?lang=en"))
	p.wait(`location.pathname === '/sign-in' && document.activeElement.id === 'token'`)
	require.False(t, read[bool](p, `isSecureContext`))
	assert.Empty(t, read[[]string](p, axe(t)+";"+findViolations))
	p.do(chromedp.SendKeys(`#token`, "wrong\n"))
	p.wait(`document.querySelector('[role=alert]')?.innerText === 'The collector did not accept this token.'`)
	_ = p.noted() // the browser logs the 401
	p.do(chromedp.SendKeys(`#token`, "right\n"))
	assert.Contains(t, p.sentence(), slowestSentence, "it leads on to the address that was asked for")
	assert.Empty(t, read[string](p, `document.cookie`), "scripts do not see the cookie")
	require.Eventually(t, func() bool { return live.Counts().Viewers == 1 }, patience, 5*time.Millisecond, "the stream works with the cookie")
	read[bool](p, `(document.querySelector('.copy').click(), true)`)
	p.wait(`document.querySelector('.copy').innerText === 'Copied'`)
	p.mu.Lock()
	p.bases = append(p.bases, base)
	p.mu.Unlock()
	assert.Empty(t, p.noted())
	read[bool](p, `(document.querySelector('.tools form button').click(), true)`)
	p.wait(`location.pathname === '/sign-in'`)
	p.do(chromedp.Navigate(base + "/?lang=en"))
	p.wait(`location.pathname === '/sign-in'`)
}
