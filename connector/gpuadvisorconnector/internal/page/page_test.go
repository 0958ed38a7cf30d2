// SPDX-License-Identifier: Apache-2.0

package page

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource is a Source of which tests set the state.
type fakeSource struct {
	mu     sync.Mutex
	state  view.State
	asked  int
	query  Query
	rushes int
	fails  bool
	// clock is how far the source's clock is ahead.
	clock time.Duration
}

func (s *fakeSource) State(l texts.Language) view.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	now := s.state
	now.Language, now.Time = string(l), time.Now().UTC().Add(s.clock)
	return now
}

// set changes the state. Lists are replaced, as a Source must.
func (s *fakeSource) set(change func(*view.State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

func (s *fakeSource) askedTimes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *fakeSource) Prompts(_ texts.Language, q Query) view.Prompts {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.query = q
	return view.Prompts{Held: 2, Matched: 1, Prompts: []view.Prompt{somePrompt()}, Open: []view.OpenDetail{someOpen()}, Workflows: []view.Workflow{{Workflow: "colorize", Prompts: 1}}, WorkflowsMatched: 1}
}

func (s *fakeSource) Prompt(l texts.Language, id string) (view.Detail, bool) {
	sentence := "Took its usual time."
	if l == texts.Chinese {
		sentence = "耗时与平时相当。"
	}
	return view.Detail{Prompt: somePrompt(), Sentence: sentence, Parts: []view.Part{{Kind: view.PartWork, Text: "worked", Seconds: 2.4}}}, id == "p1"
}

func (s *fakeSource) Open(_ texts.Language, id string) (view.OpenDetail, bool) {
	return someOpen(), id == "p3"
}

func (s *fakeSource) Queue(_ texts.Language, server string) (view.Server, bool) {
	return view.Server{Name: server, IsUp: true, Waiting: 1, Prompts: []view.OpenPrompt{someOpen().OpenPrompt}, Listed: 1}, server == "127.0.0.1:8188"
}

func someOpen() view.OpenDetail {
	starts := time.Unix(60, 0).UTC()
	return view.OpenDetail{OpenPrompt: view.OpenPrompt{ID: "p3", State: "waiting", Ahead: 54, Since: time.Unix(1, 0).UTC(), Starts: &starts, Text: "54 prompts ahead"}, Server: "127.0.0.1:8188"}
}

func (s *fakeSource) Trace(id string) ([]byte, bool) {
	return []byte(`{"resourceSpans":[]}`), id == "p1"
}

func (s *fakeSource) History(gpu string) (view.History, bool) {
	return view.History{GPU: gpu, Times: []float64{1}, Memory: []*float64{nil}}, gpu == "gpu0"
}

func (s *fakeSource) Rush(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return errors.New("there are no users")
	}
	s.rushes++
	return nil
}

func somePrompt() view.Prompt {
	return view.Prompt{ID: "p1", Server: "127.0.0.1:8188", GPUs: []string{"gpu0"}, Workflow: "colorize", Outcome: "success", Duration: 2.4, Ran: 2.4, Bill: &view.Bill{Quality: "measured"}}
}

func someState() view.State {
	use := 0.5
	return view.State{
		Host: "node", Verdict: view.Condition{Severity: view.Broken, Text: "gpu1 is full.", Remedy: "Stop trainer."},
		GPUs: []view.GPU{
			{ID: "GPU-a", Name: "gpu0", Model: "NVIDIA L40S", Status: "fine", Severity: view.Fine, Utilization: &use, Memory: &view.Memory{Limit: 48 << 30, Used: 12 << 30, Free: 36 << 30}, Power: &view.Power{Value: 210.4}},
			{ID: "GPU-b", Name: "gpu1", Model: "NVIDIA L40S", Status: "full", Severity: view.Broken},
		},
		Servers: []view.Server{{Name: "127.0.0.1:8188", IsUp: true}},
		Prompts: []view.Prompt{somePrompt()}, PromptsHeld: 1,
	}
}

// served is a page, its source and its address.
type served struct {
	*Page
	source *fakeSource
	url    string
}

func serve(t testing.TB, s Settings) served {
	t.Helper()
	source := &fakeSource{state: someState()}
	if s.Endpoint == "" {
		s.Endpoint = "127.0.0.1:8890"
	}
	if s.Interval == 0 {
		s.Interval = 5 * time.Millisecond
	}
	p := New(source, s)
	server := httptest.NewServer(p)
	t.Cleanup(func() {
		p.Close()
		server.CloseClientConnections()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return served{p, source, server.URL}
}

// request makes a request with headers: name, value, name, value. The header Host is the
// request's.
func (s served) request(t *testing.T, method, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, http.NoBody)
	require.NoError(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	client := &http.Client{Transport: http.DefaultTransport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

func TestTheAddressesAnswer(t *testing.T) {
	s := serve(t, Settings{})
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/v1/state":            {200, `"host":"node"`},
		"/v1/prompts":          {200, `"matched":1`},
		"/v1/prompts/p1":       {200, `"sentence":"Took its usual time."`},
		"/v1/prompts/p2":       {404, `"error":`},
		"/v1/prompts/p1/trace": {200, `resourceSpans`},
		"/v1/prompts/p2/trace": {404, `"error":`},
		"/v1/history?gpu=gpu0": {200, `"times":[1],"memory":[null]`},
		"/v1/history?gpu=gpu9": {404, `"error":`},
		"/v1/texts":            {200, `"page.queue":"Queue"`},
		"/v1/openapi.json":     {200, `"openapi"`},
	} {
		response, body := s.request(t, http.MethodGet, path)
		assert.Equal(t, want.status, response.StatusCode, path)
		assert.Contains(t, body, want.body, path)
		assert.Equal(t, "application/json", response.Header.Get("Content-Type"), path)
		assert.True(t, json.Valid([]byte(body)), path)
	}
	response, _ := s.request(t, http.MethodGet, "/v2/state")
	assert.Equal(t, http.StatusNotFound, response.StatusCode)
}

func TestAQueryIsReadOrRefused(t *testing.T) {
	s := serve(t, Settings{})
	response, _ := s.request(t, http.MethodGet, "/v1/prompts?q=9f3a&outcome=failed&workflow=colorize&slow=true&sort=slowest&limit=7")
	require.Equal(t, http.StatusOK, response.StatusCode)
	assert.Equal(t, Query{Text: "9f3a", Outcome: Failed, Workflow: "colorize", Slow: true, Sort: Slowest, Limit: 7}, s.source.query)
	_, _ = s.request(t, http.MethodGet, "/v1/prompts")
	assert.Equal(t, Query{Sort: Newest, Limit: defaultLimit}, s.source.query)
	for _, query := range []string{"slow=perhaps", "sort=oldest", "limit=0", "limit=501", "limit=x", "q=" + strings.Repeat("x", 201)} {
		response, body := s.request(t, http.MethodGet, "/v1/prompts?"+query)
		assert.Equal(t, http.StatusBadRequest, response.StatusCode, query)
		assert.Contains(t, body, `"error"`, query)
	}
}

func TestTheLanguageIsTheReaders(t *testing.T) {
	s := serve(t, Settings{})
	for _, test := range []struct{ query, header, want string }{
		{"", "", "en"},
		{"", "zh-CN,zh;q=0.9,en;q=0.8", "zh"},
		{"", "en;q=0.5, zh-TW;q=0.8", "zh"},
		{"", "de, en;q=0.3, zh;q=0.2", "en"},
		{"", "fr", "en"},
		{"", "zh;q=0", "en"},
		{"", "zh;q=x, en", "en"},
		{"?lang=zh", "en", "zh"},
		{"?lang=xx", "zh", "zh"},
	} {
		_, body := s.request(t, http.MethodGet, "/v1/state"+test.query, "Accept-Language", test.header)
		assert.Contains(t, body, `"language":"`+test.want+`"`, "%v", test)
	}
	_, body := s.request(t, http.MethodGet, "/?lang=zh")
	assert.Contains(t, body, `<html lang="zh"`)
}

func TestAForeignHostIsRefusedEverywhere(t *testing.T) {
	s := serve(t, Settings{Endpoint: "gpu-node-07:8890", AllowedHosts: []string{"gpus.example.com", "2001:db8::7", "[2001:db8::8]"}})
	for _, host := range []string{"[2001:db8::7]:8890", "[2001:DB8:0::8]", "localhost", "localhost:8890", "127.0.0.1:1", "127.8.8.8", "[::1]:8890", "gpu-node-07:8890", "GPU-node-07", "gpus.example.com:443", "gpus.example.com."} {
		response, _ := s.request(t, http.MethodGet, "/v1/state", "Host", host)
		assert.Equal(t, http.StatusOK, response.StatusCode, host)
	}
	for _, path := range []string{"/", "/prompts/p1", "/assets/x/app.js", "/v1/state", "/v1/events", "/v1/texts", "/v1/openapi.json", "/favicon.ico"} {
		for _, host := range []string{"evil.example.com", "localhost.evil.example.com:8890", "192.168.1.7:8890", "[2001:db8::9]:8890", "gpus.example.com.evil"} {
			response, body := s.request(t, http.MethodGet, path, "Host", host)
			assert.Equal(t, http.StatusForbidden, response.StatusCode, path+" "+host)
			assert.NotContains(t, body, "node", path)
		}
	}
	response, _ := s.request(t, http.MethodPost, "/v1/rush", "Host", "evil.example.com")
	assert.Equal(t, http.StatusForbidden, response.StatusCode)
}

func TestAServerOnEveryAddressMayBeNamedByTheOneThatWasReached(t *testing.T) {
	s := serve(t, Settings{Endpoint: "0.0.0.0:8890"})
	for host, want := range map[string]int{"127.0.0.1": 200, "localhost": 200, "evil.example.com": 403, "192.0.2.1": 403, "0.0.0.0": 403} {
		response, _ := s.request(t, http.MethodGet, "/v1/state", "Host", host)
		assert.Equal(t, want, response.StatusCode, host)
	}
	// The address of a connection that is not a loopback address.
	r := httptest.NewRequest(http.MethodGet, "http://192.0.2.1:8890/v1/state", http.NoBody)
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, address("192.0.2.1:8890")))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	assert.Equal(t, http.StatusOK, w.Code)
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func TestEveryAnswerHasTheHeaders(t *testing.T) {
	s := serve(t, Settings{})
	for _, path := range []string{"/", "/v1/state", "/nothing", "/assets/x/app.js"} {
		response, _ := s.request(t, http.MethodGet, path)
		h := response.Header
		for _, part := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "connect-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			assert.Contains(t, h.Get("Content-Security-Policy"), part, path)
		}
		assert.NotContains(t, h.Get("Content-Security-Policy"), "unsafe")
		assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"), path)
		assert.Equal(t, "DENY", h.Get("X-Frame-Options"), path)
		assert.Equal(t, "same-origin", h.Get("Referrer-Policy"), path)
	}
	response, _ := s.request(t, http.MethodGet, "/v1/state")
	assert.Equal(t, "no-store", response.Header.Get("Cache-Control"))
}

func TestWithoutScriptsThereAreTheVerdictAndTheGPUs(t *testing.T) {
	s := serve(t, Settings{})
	s.source.set(func(state *view.State) {
		newest, hot, most := time.Now().Add(-5*time.Minute), 88.0, 450.0
		state.Newest, state.Verdict.Runbook = &newest, "https://example.com/runbook.md"
		state.GPUs[0].Temperature, state.GPUs[0].Power.Limit = &view.Temperature{Value: 71.4, Limit: &hot}, &most
	})
	_, body := s.request(t, http.MethodGet, "/")
	_, plain, found := strings.Cut(body, "<noscript>")
	require.True(t, found)
	for _, text := range []string{
		"gpu1 is full.", "Stop trainer.", "gpu0 NVIDIA L40S", "12.0 GiB / 48.0 GiB", "50 %", "71 °C / 88 °C", "210 W / 450 W", "full",
		`<a href="https://example.com/runbook.md">Runbook</a>`,
	} {
		assert.Contains(t, plain, text)
	}
	assert.Regexp(t, `<strong>node</strong> · 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC · newest sample 5 min old`, plain)
	assert.NotContains(t, plain, "page.", "each text is in the catalogue")
	_, body = s.request(t, http.MethodGet, "/prompts/p1?lang=zh")
	_, plain, _ = strings.Cut(body, "<noscript>")
	assert.Contains(t, plain, "耗时与平时相当。")
	assert.Contains(t, plain, `<td class="figure">50%</td>`, "Chinese has no space before the sign")
	s.source.set(func(state *view.State) { state.GPUs, state.Newest = nil, nil })
	_, body = s.request(t, http.MethodGet, "/")
	assert.Contains(t, body, "No GPU is known.")
	assert.Contains(t, body, "UTC · no sample yet")
}

func TestWithoutScriptsEachConditionBesideTheVerdictIsListed(t *testing.T) {
	s := serve(t, Settings{})
	link := func(id string) view.Condition {
		return view.Condition{ID: "gpu.nvlink.down/GPU-a//" + id, Severity: view.Broken, Cause: "gpu.nvlink.down", GPU: "GPU-a", Text: "A link of gpu0 is down.", Remedy: "Link " + id + "."}
	}
	s.source.set(func(state *view.State) {
		state.Conditions = []view.Condition{link("0"), link("1"), link("2")}
		state.Verdict = state.Conditions[0]
	})
	_, body := s.request(t, http.MethodGet, "/")
	_, plain, _ := strings.Cut(body, "<noscript>")
	for _, id := range []string{"0", "1", "2"} {
		assert.Equal(t, 1, strings.Count(plain, "Link "+id+"."), id)
	}
}

func TestMarkupInTextsIsText(t *testing.T) {
	s := serve(t, Settings{})
	s.source.set(func(state *view.State) { state.Verdict.Text = `</script><img src=x onerror=alert(1)>` })
	_, body := s.request(t, http.MethodGet, "/")
	assert.NotContains(t, body, "<img")
	assert.Equal(t, 4, strings.Count(body, "</script>"))
}

func TestAssetsAreCompressedAndCached(t *testing.T) {
	s := serve(t, Settings{})
	_, body := s.request(t, http.MethodGet, "/")
	all := regexp.MustCompile(`"(/assets/[^"]+)"`).FindAllStringSubmatch(body, -1)
	require.Greater(t, len(all), 4)
	for _, match := range all {
		path := match[1]
		response, packed := s.request(t, http.MethodGet, path, "Accept-Encoding", "gzip")
		require.Equal(t, http.StatusOK, response.StatusCode, path)
		assert.Equal(t, "gzip", response.Header.Get("Content-Encoding"), path)
		assert.Contains(t, response.Header.Get("Cache-Control"), "immutable", path)
		unpacked, err := gzip.NewReader(strings.NewReader(packed))
		require.NoError(t, err)
		content, err := io.ReadAll(unpacked)
		require.NoError(t, err)
		response, plain := s.request(t, http.MethodGet, path, "Accept-Encoding", "identity")
		assert.Equal(t, string(content), plain, path)
		response, _ = s.request(t, http.MethodGet, path, "If-None-Match", response.Header.Get("ETag"))
		assert.Equal(t, http.StatusNotModified, response.StatusCode, path)
	}
	response, _ := s.request(t, http.MethodGet, "/assets/older/app.js")
	assert.Equal(t, "no-cache", response.Header.Get("Cache-Control"), "of another version")
	for _, name := range []string{"README.md", "htm.LICENSE", "none.js"} {
		response, _ := s.request(t, http.MethodGet, s.assets.path(name))
		assert.Equal(t, http.StatusNotFound, response.StatusCode, name)
	}
	response, _ = s.request(t, http.MethodGet, "/favicon.ico")
	assert.Equal(t, s.assets.path("icon.svg"), response.Header.Get("Location"))
}

func TestARushIsForAPageOfThisServerAndSimulatedGPUs(t *testing.T) {
	s := serve(t, Settings{})
	response, _ := s.request(t, http.MethodPost, "/v1/rush", "Sec-Fetch-Site", "same-origin")
	assert.Equal(t, http.StatusNotFound, response.StatusCode, "the GPUs are real")
	s.source.set(func(state *view.State) { state.CanRush = true })
	for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example.com"}, {"Origin", "null"}} {
		response, _ = s.request(t, http.MethodPost, "/v1/rush", headers...)
		assert.Equal(t, http.StatusForbidden, response.StatusCode, headers)
	}
	response, _ = s.request(t, http.MethodGet, "/v1/rush")
	assert.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
	assert.Zero(t, s.source.rushes)
	response, _ = s.request(t, http.MethodPost, "/v1/rush", "Sec-Fetch-Site", "same-origin")
	assert.Equal(t, http.StatusAccepted, response.StatusCode)
	response, _ = s.request(t, http.MethodPost, "/v1/rush", "Origin", s.url)
	assert.Equal(t, http.StatusAccepted, response.StatusCode)
	assert.Equal(t, 2, s.source.rushes)
	s.source.fails = true
	response, body := s.request(t, http.MethodPost, "/v1/rush", "Origin", s.url)
	assert.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	assert.Contains(t, body, "there are no users")
}
