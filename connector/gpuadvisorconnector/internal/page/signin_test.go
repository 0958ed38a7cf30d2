// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/bearertokenauthextension"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/extension/extensiontest"
)

const rightToken = "correct-horse-battery-staple"

type extensionHost map[component.ID]component.Component

func (h extensionHost) GetExtensions() map[component.ID]component.Component { return h }

// serveWithTokens serves a page behind confighttp's authentication with bearertokenauth, as
// the connector does.
func serveWithTokens(t *testing.T, isTLS bool) served {
	t.Helper()
	factory := bearertokenauthextension.NewFactory()
	settings := factory.CreateDefaultConfig().(*bearertokenauthextension.Config)
	settings.BearerToken = rightToken
	id := component.MustNewID("bearertokenauth")
	extension, err := factory.Create(t.Context(), extensiontest.NewNopSettings(factory.Type()), settings)
	require.NoError(t, err)
	host := extensionHost{id: extension}
	require.NoError(t, extension.Start(t.Context(), host))
	t.Cleanup(func() { require.NoError(t, extension.Shutdown(context.Background())) })

	source := &fakeSource{state: someState()}
	p := New(source, Settings{Endpoint: "127.0.0.1:8890", Interval: 5 * time.Millisecond})
	config := confighttp.NewDefaultServerConfig()
	config.NetAddr = confignet.AddrConfig{Endpoint: "127.0.0.1:0", Transport: confignet.TransportTypeTCP}
	config.Auth = configoptional.Some(confighttp.AuthConfig{Config: configauth.Config{AuthenticatorID: id}})
	server, err := config.ToServer(t.Context(), host.GetExtensions(), componenttest.NewNopTelemetrySettings(), p)
	require.NoError(t, err)
	server.Handler = p.SignIn(server.Handler)
	front := httptest.NewUnstartedServer(server.Handler)
	if isTLS {
		front.StartTLS()
	} else {
		front.Start()
	}
	t.Cleanup(func() {
		p.Close()
		front.CloseClientConnections()
		front.Close()
		http.DefaultClient.CloseIdleConnections()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	if isTLS {
		http.DefaultTransport.(*http.Transport).TLSClientConfig = front.Client().Transport.(*http.Transport).TLSClientConfig
		t.Cleanup(func() { http.DefaultTransport.(*http.Transport).TLSClientConfig = nil })
	}
	return served{p, source, front.URL}
}

// signIn posts the form, and returns the answer.
func (s served) signIn(t *testing.T, token, to string, headers ...string) *http.Response {
	t.Helper()
	form := url.Values{"token": {token}, "to": {to}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/sign-in", strings.NewReader(form.Encode()))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response
}

func TestATokenThatIsTooLongForACookieIsAnsweredSo(t *testing.T) {
	s := serveWithTokens(t, false)
	for token, status := range map[string]int{
		strings.Repeat("x", maxTokenLength):   http.StatusUnauthorized,
		strings.Repeat("x", maxTokenLength+1): http.StatusRequestEntityTooLarge,
		strings.Repeat("x", 20<<10):           http.StatusRequestEntityTooLarge,
	} {
		response := s.signIn(t, token, "/")
		assert.Equal(t, status, response.StatusCode, len(token))
		assert.Empty(t, response.Cookies())
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		isTooLong := status == http.StatusRequestEntityTooLarge
		assert.Equal(t, isTooLong, strings.Contains(string(body), "too long for a cookie. Use a shorter one, or client certificates"), len(token))
		assert.Equal(t, !isTooLong, strings.Contains(string(body), "did not accept this token"), len(token))
	}
}

func TestTwoCollectorsOfAHostDoNotSignEachOtherOut(t *testing.T) {
	names := map[string]bool{}
	for _, endpoint := range []string{"127.0.0.1:8890", "127.0.0.1:8891"} {
		s := serveWithTokens(t, false)
		s.settings.Endpoint = endpoint
		cookies := s.signIn(t, rightToken, "/").Cookies()
		require.Len(t, cookies, 1)
		names[cookies[0].Name] = true
		// The browser sends the other's cookie, too.
		response, _ := s.request(t, http.MethodGet, "/v1/state", "Cookie", "otelcol-gpu-8889=other; "+cookies[0].Name+"="+cookies[0].Value)
		assert.Equal(t, http.StatusOK, response.StatusCode)
	}
	assert.Equal(t, map[string]bool{"otelcol-gpu-8890": true, "otelcol-gpu-8891": true}, names, "a browser keeps both")
}

func TestABrowserSignsInOnceAndSeesThePage(t *testing.T) {
	s := serveWithTokens(t, false)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	get := func(path, accept string) (*http.Response, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, http.NoBody)
		require.NoError(t, err)
		r.Header.Set("Accept", accept)
		response, err := browser.Do(r)
		require.NoError(t, err)
		defer response.Body.Close()
		content := make([]byte, 1<<20)
		n, _ := response.Body.Read(content)
		return response, string(content[:n])
	}
	response, body := get("/prompts/p1?lang=zh", "text/html")
	assert.Equal(t, "/sign-in?to=%2Fprompts%2Fp1%3Flang%3Dzh", response.Request.URL.RequestURI(), "a page leads to the form")
	assert.Contains(t, body, `type="password"`)
	assert.NotContains(t, body, "gpu1", "nothing of the state is shown")
	response, _ = get("/v1/state", "application/json")
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode)
	assert.Equal(t, "Bearer", response.Header.Get("WWW-Authenticate"))

	assert.Contains(t, body, `<html lang="zh">`, "the form has the language that was chosen")

	response = s.signIn(t, "wrong", "/?lang=zh")
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode)
	refused, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Contains(t, string(refused), `<html lang="zh">`)
	assert.Empty(t, response.Cookies())

	response = s.signIn(t, rightToken, "/prompts/p1?lang=zh")
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	assert.Equal(t, "/prompts/p1?lang=zh", response.Header.Get("Location"))
	require.Len(t, response.Cookies(), 1)
	c := response.Cookies()[0]
	assert.True(t, c.HttpOnly)
	assert.Equal(t, http.SameSiteStrictMode, c.SameSite)
	assert.False(t, c.Secure, "there is no TLS")
	assert.NotContains(t, c.Value, rightToken, "another server on this host gets the cookie, too")
	base, err := url.Parse(s.url)
	require.NoError(t, err)
	jar.SetCookies(base, response.Cookies())

	response, body = get("/", "text/html")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Contains(t, body, "data-signed-in")
	response, body = get("/v1/state", "application/json")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Contains(t, body, `"host":"node"`)
	response, body = get("/v1/events", "text/event-stream")
	assert.Equal(t, http.StatusOK, response.StatusCode, "a stream works through all wrappers")
	assert.Contains(t, body, "event: version")

	out, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/sign-out", http.NoBody)
	require.NoError(t, err)
	response, err = browser.Do(out)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	response, _ = get("/v1/state", "application/json")
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode, "signed out")
}

func TestOtherClientsSendTheHeaderAsEver(t *testing.T) {
	s := serveWithTokens(t, false)
	response, _ := s.request(t, http.MethodGet, "/v1/state", "Authorization", "Bearer "+rightToken)
	assert.Equal(t, http.StatusOK, response.StatusCode)
	response, _ = s.request(t, http.MethodGet, "/v1/state", "Authorization", "Bearer wrong")
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode)
	response, _ = s.request(t, http.MethodGet, "/v1/state?Authorization=Bearer%20"+url.QueryEscape(rightToken))
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode, "never in an address")
}

func TestUnderTLSTheCookieIsSecure(t *testing.T) {
	s := serveWithTokens(t, true)
	response := s.signIn(t, rightToken, "/")
	require.Len(t, response.Cookies(), 1)
	c := response.Cookies()[0]
	assert.True(t, c.Secure)
	assert.Equal(t, "__Host-otelcol-gpu-8890", c.Name)
	response, _ = s.request(t, http.MethodGet, "/v1/state", "Cookie", c.Name+"="+c.Value)
	assert.Equal(t, http.StatusOK, response.StatusCode)
}

func TestTheSignInRefusesOtherOriginsHostsAndTargets(t *testing.T) {
	s := serveWithTokens(t, false)
	response := s.signIn(t, rightToken, "/", "Sec-Fetch-Site", "cross-site")
	assert.Equal(t, http.StatusForbidden, response.StatusCode)
	for _, path := range []string{"/sign-in", "/"} {
		response, _ = s.request(t, http.MethodGet, path, "Host", "evil.example.com")
		assert.Equal(t, http.StatusForbidden, response.StatusCode, path)
	}
	for _, to := range []string{"https://evil.example.com/", "//evil.example.com", `/\evil.example.com`, "javascript:alert(1)", "", "evil"} {
		response = s.signIn(t, rightToken, to)
		assert.Equal(t, "/", response.Header.Get("Location"), to)
	}
	for _, token := range []string{"", " ", "a\r\nb"} {
		assert.Equal(t, http.StatusUnauthorized, s.signIn(t, token, "/").StatusCode, "%.20q", token)
	}
}

func TestACookieEndsAndCannotBeForged(t *testing.T) {
	now := time.Now()
	first, second := newSealer(), newSealer()
	sealed := first.seal("token", now)
	token, err := first.open(sealed, now.Add(signInLife-time.Minute))
	require.NoError(t, err)
	assert.Equal(t, "token", token)
	_, err = first.open(sealed, now.Add(signInLife+time.Minute))
	assert.ErrorIs(t, err, errCookie)
	_, err = second.open(sealed, now)
	assert.ErrorIs(t, err, errCookie, "another process made it")
	for _, forged := range []string{"", "token", sealed[:len(sealed)-2], "AAAA" + sealed[4:]} {
		_, err = first.open(forged, now)
		assert.ErrorIs(t, err, errCookie, forged)
	}
}
