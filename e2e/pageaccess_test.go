// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// TestSIGTERMWithViewersEndsTheCollector has 20 viewers look, of whom one does not read. Their
// streams outlive the write timeout of the server, which is 30 s by default and 2 s here, and
// end with the collector.
func TestSIGTERMWithViewersEndsTheCollector(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "l40s")
	p := newLivePage(t)
	c := collect(t, "default.yaml", append(m.environment, p.environment(), "OTELCOL_GPU_COLLECTION_INTERVAL=500ms"),
		"--config=yaml:connectors::gpuadvisor::page::write_timeout: 2s", "--config=yaml:connectors::gpuadvisor::collection_interval: 1s")
	v := p.watch(t, 19)
	p.deafViewer(t)
	require.Eventually(t, func() bool { return p.counter(c, "viewers") == 20 }, patience, 50*time.Millisecond)
	begin := time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) >= 6*time.Second }, patience, 50*time.Millisecond)
	before := v.changes.Load()
	require.Positive(t, before)
	require.Eventually(t, func() bool { return v.changes.Load() >= before+19 }, patience, 10*time.Millisecond, "changes still come")
	assert.Zero(t, v.ended.Load(), "streams that have ended")
	assert.Equal(t, 20, p.counter(c, "viewers"))
	lasted, err := c.Stop(patience)
	require.NoError(t, err)
	assert.Less(t, lasted, promisedEnd)
	v.reading.Wait()
}

// TestAStreamOutlivesAMinute has the time limits of a ready configuration.
func TestAStreamOutlivesAMinute(t *testing.T) {
	besideFirst(t, waiting)
	m := newMachine(t, fakenvml.Current, "l40s")
	p := newLivePage(t)
	collect(t, "default.yaml", append(m.environment, p.environment(), "OTELCOL_GPU_COLLECTION_INTERVAL=1s"))
	v := p.watch(t, 1)
	begin := time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) > 61*time.Second }, 2*time.Minute, 100*time.Millisecond)
	before := v.changes.Load()
	require.Eventually(t, func() bool { return v.changes.Load() > before }, patience, 50*time.Millisecond, "changes still come")
	assert.Zero(t, v.ended.Load())
}

// TestAForeignHostIsRefused asks by the name of another host, as a page elsewhere does whose
// name was changed to resolve to this machine.
func TestAForeignHostIsRefused(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "l40s")
	p := newLivePage(t)
	collect(t, "default.yaml", append(m.environment, p.environment()))
	ask := func(host, path string) int {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel() // ends a stream
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url()+path, nil)
		require.NoError(t, err)
		request.Host = host
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	for _, path := range []string{"/", "/v1/state", "/v1/events"} {
		assert.Equal(t, http.StatusForbidden, ask("rebound.example", path), path)
		assert.Equal(t, http.StatusForbidden, ask("rebound.example:8890", path), path)
		for _, host := range []string{p.address, "localhost:8890", "[::1]"} {
			assert.Equal(t, http.StatusOK, ask(host, path), "%s of %s", path, host)
		}
	}
}

// TestSigningInWithAToken has the collector's own TLS and authentication in front of the page:
// a wrong token is refused, the right one shows the page, with its live figures.
func TestSigningInWithAToken(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "l40s")
	cert, key, _ := certificate(t)
	const token = "a-token-of-this-test"
	p := newLivePage(t)
	c := collect(t, "default.yaml", append(m.environment, p.environment(), "TOKEN="+token),
		"--config=yaml:extensions::bearertokenauth::token: ${env:TOKEN}",
		"--config=yaml:service::extensions: [health_check, shutdown_limit, queue_check/queue, file_storage/queue, bearertokenauth]",
		"--config=yaml:connectors::gpuadvisor::page: {tls: {cert_file: "+cert+", key_file: "+key+"}, auth: {authenticator: bearertokenauth}}")
	for _, with := range []string{"", "another-token", token} { // a program
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+p.address+"/v1/advice?width=1280", http.NoBody)
		require.NoError(t, err)
		if with != "" {
			request.Header.Set("Authorization", "Bearer "+with)
		}
		response, err := client.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		client.CloseIdleConnections()
		if with == token {
			assert.Equal(t, http.StatusOK, response.StatusCode)
		} else {
			assert.Equal(t, http.StatusUnauthorized, response.StatusCode, "token %q", with)
		}
	}
	tab := openPage(t, browser(t, chromedp.Flag("ignore-certificate-errors", true)), "https://"+p.address+"/?lang=en")
	tab.wait(`location.pathname === '/sign-in' && document.querySelector('input[name=token]') !== null`)
	assert.NotContains(t, bodyOf{tab}.String(), "gpu0")
	signIn := func(with string) {
		tab.do(chromedp.SendKeys(`input[name=token]`, with), chromedp.Submit(`input[name=token]`))
	}
	signIn("another-token")
	tab.wait(`location.pathname === '/sign-in' && document.querySelector('[role=alert]') !== null`)
	signIn(token)
	tab.wait(`location.pathname === '/' && document.querySelector('.gpu .used') !== null`)
	tab.wait(`document.querySelector('.band.lost') === null`)
	// The stream is signed in, too.
	m.gpus[0].Set("memory_used", 12_345<<20)
	tab.wait(`document.querySelector('.gpu .used').innerText.startsWith('12.1')`)
	cookie := readPage[string](tab, `document.cookie`)
	assert.Empty(t, cookie, "scripts cannot read the token")
	assert.Zero(t, logLines(t, c.Process, token))
	tab.do(chromedp.Click(`form[action="/sign-out"] button`))
	tab.wait(`location.pathname === '/sign-in'`)
	tab.do(chromedp.Navigate("https://" + p.address + "/prompts/x"))
	tab.wait(`location.pathname === '/sign-in'`)
}
