// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// testAdvisor decides by a function that tests set, and notes what it is asked.
type testAdvisor struct {
	mu      sync.Mutex
	decide  func(*admission.Request) admission.Decision
	asked   []admission.Request
	last    uint64
	settled map[uint64]string
}

func (a *testAdvisor) Advise(_ context.Context, r *admission.Request) (admission.Decision, error) {
	a.mu.Lock()
	decide := a.decide
	a.asked = append(a.asked, *r)
	a.mu.Unlock()
	d := decide(r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.Verdict == admission.Admit && r.Claim {
		a.last++
		d.Claim = a.last
	}
	return d, nil
}

func (a *testAdvisor) Settle(claim uint64, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.settled == nil {
		a.settled = map[uint64]string{}
	}
	a.settled[claim] = id
}

func (a *testAdvisor) set(decide func(*admission.Request) admission.Decision) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.decide = decide
}

func (a *testAdvisor) requests() []admission.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

// claims are the ids with which claims were settled, in their order; all were.
func (a *testAdvisor) claims(t *testing.T) (ids []string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for claim := uint64(1); claim <= a.last; claim++ {
		id, settled := a.settled[claim]
		assert.True(t, settled, "a claim is lost")
		ids = append(ids, id)
	}
	return ids
}

// Deadlines of the tests' classes: people is urgent, buildings is batch work, the others are in
// between, and old has none.
func byClass(r *admission.Request) admission.Decision {
	d := admission.Decision{Verdict: admission.Admit, Reason: admission.Fits, Class: r.Class}
	after := map[string]time.Duration{"people": 30 * time.Second, "buildings": time.Minute, "old": 0}
	deadline, known := after[r.Class]
	if !known {
		deadline = 2 * time.Minute
	}
	if r.Deadline > 0 {
		deadline = r.Deadline
	}
	if deadline > 0 {
		d.Deadline = time.Now().Add(deadline)
	}
	d.Batch = r.Class == "buildings"
	return d
}

// advised registers an advisor under a test's name, and returns its id.
func advised(t *testing.T, a admission.Advisor) *component.ID {
	t.Helper()
	id := component.MustNewIDWithName("gpuadvisor", regexp.MustCompile(`[^a-zA-Z0-9]`).ReplaceAllString(t.Name(), "_"))
	if a != nil {
		t.Cleanup(admission.OfProcess().Add(id, a))
	}
	return &id
}

func with(id *component.ID, mode string, change ...func(*AdmissionConfig)) func(*Config) {
	return func(c *Config) {
		c.Admission.Advisor, c.Admission.Mode = id, mode
		c.Admission.Timeout = time.Second // of a busy test machine
		for _, f := range change {
			f(&c.Admission)
		}
	}
}

// playAll plays all recordings through the proxy, each in a time of its own.
func playAll(t *testing.T, play func(t *testing.T, r *comfyreplay.Recording)) {
	for _, r := range comfyreplay.All(t) {
		t.Run(r.Name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { play(t, &r) }) })
	}
}

// isRead counts a recording's prompts that are JSON.
func isRead(r *comfyreplay.Recording) (objects int) {
	for i := range r.Lines {
		l := &r.Lines[i]
		if l.Kind == "request" && l.Method == http.MethodPost && strings.TrimPrefix(l.Path, "/api") == "/prompt" && json.Valid(l.Content()) {
			objects++
		}
	}
	return objects
}

// TestObservedPromptsReachTheServerUnchanged, whatever the advisor says: the server of a recording
// compares each request with what it was without a proxy.
func TestObservedPromptsReachTheServerUnchanged(t *testing.T) {
	playAll(t, func(t *testing.T, r *comfyreplay.Recording) {
		a, n := &testAdvisor{}, 0
		a.set(func(*admission.Request) admission.Decision {
			n++
			return []admission.Decision{
				{Verdict: admission.Reject, Reason: admission.Late, Deadline: time.Now().Add(time.Second), RetryAfter: time.Second},
				{Verdict: admission.Hold, Reason: admission.MemoryIdle, Free: "x"},
				{Verdict: admission.Admit, Reason: admission.Fits, Deadline: time.Now().Add(time.Second), Batch: true},
			}[n%3]
		})
		e := &interaction{t: t, clients: map[string]*testClient{}, change: with(advised(t, a), modeObserve)}
		defer e.end()
		e.play(r.Name)
		require.Len(t, a.requests(), posts(r))
		for _, td := range e.sink.AllTraces() {
			for _, s := range spansOf(t, td) {
				if s.Name == "comfyui.prompt" {
					assert.Equal(t, false, s.Attributes["comfyui.admission.enforced"])
					assert.NotContains(t, s.Attributes, "comfyui.task_class.claimed")
				}
			}
		}
		a.claims(t)
	})
}

// added is the place in the queue as the proxy adds it to a body.
var added = regexp.MustCompile(`,"number":([0-9]+\.[0-9]{6})\}(\s*)$`)

// strip takes the number out of prompts, and passes them on as they were.
type strip struct {
	next http.RoundTripper
	t    *testing.T
	mu   sync.Mutex
	n    int
}

func (s *strip) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost || strings.TrimPrefix(r.URL.Path, "/api") != "/prompt" {
		return s.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	assert.NoError(s.t, err)
	assert.Equal(s.t, r.ContentLength, int64(len(body)))
	assert.Equal(s.t, fmt.Sprint(len(body)), r.Header.Get("Content-Length"))
	if m := added.FindSubmatch(body); m != nil {
		s.mu.Lock()
		s.n++
		s.mu.Unlock()
		body = added.ReplaceAll(body, []byte("}$2"))
	}
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return s.next.RoundTrip(r)
}

// TestEnforcedPromptsDifferInTheirNumberAlone, if none is refused.
func TestEnforcedPromptsDifferInTheirNumberAlone(t *testing.T) {
	edited := 0
	playAll(t, func(t *testing.T, r *comfyreplay.Recording) {
		a := &testAdvisor{decide: byClass}
		s := &strip{t: t}
		e := &interaction{t: t, clients: map[string]*testClient{}, change: with(advised(t, a), modeEnforce), between: func(next http.RoundTripper) http.RoundTripper {
			s.next = next
			return s
		}}
		defer e.end()
		e.play(r.Name)
		assert.Equal(t, isRead(r), s.n)
		edited += s.n
		a.claims(t)
	})
	assert.Greater(t, edited, 30)
}

// gated is a work that waits until it may go on.
type gated struct {
	fakecomfyui.Work
	goOn chan struct{}
}

func (g gated) Colorize(ctx context.Context, _ int, _ string, step func(done, all int) error) error {
	select {
	case <-g.goOn:
	case <-ctx.Done():
	}
	return step(1, 1)
}

// admissionRig is a receiver in front of a simulated server whose work waits.
type admissionRig struct {
	*rig
	server string
	goOn   chan struct{}
	mu     sync.Mutex
	seen   []string // requests to the server, not the receiver's own
	freed  int
}

func newAdmissionRig(t *testing.T, change func(*Config)) *admissionRig {
	t.Helper()
	a := &admissionRig{goOn: make(chan struct{})}
	fake := fakecomfyui.NewServer(gated{fakecomfyui.NewTimedWork(), a.goOn})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		if r.Method == http.MethodPost {
			a.seen = append(a.seen, r.URL.Path)
		}
		if r.URL.Path == "/free" {
			a.freed++
		}
		a.mu.Unlock()
		fake.ServeHTTP(w, r)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.CloseClientConnections(); server.Close() })
	a.server = server.URL
	a.rig = newRig(t, server.URL, change)
	upload(t, a.base)
	return a
}

func (a *admissionRig) posted(path string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.seen {
		if p == path {
			n++
		}
	}
	return n
}

// ddcolor is a prompt for an image of a size, with further fields.
func ddcolor(id string, side int, more string) string {
	return fmt.Sprintf(`{"prompt_id": %q, "prompt": {
		"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": %d, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": %q}}}%s}`, id, side, id, more)
}

// ask sends a prompt, and returns the status and the answer.
func ask(t testing.TB, base, body string, header ...string) (response *http.Response, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/prompt", strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err = http.DefaultClient.Do(request)
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response, string(text)
}

func accepted(t testing.TB, base, body string, header ...string) {
	t.Helper()
	response, answer := ask(t, base, body, header...)
	require.Equal(t, http.StatusOK, response.StatusCode, answer)
}

// pending are the ids of the prompts that wait, in the order of the server's queue, and their
// numbers.
func (a *admissionRig) pending() (ids []string, numbers map[string]float64) {
	response, err := http.Get(a.server + "/queue")
	require.NoError(a.t, err)
	defer response.Body.Close()
	var queue struct {
		Pending [][]any `json:"queue_pending"`
	}
	require.NoError(a.t, json.NewDecoder(response.Body).Decode(&queue))
	slices.SortFunc(queue.Pending, func(x, y []any) int {
		if x[0].(float64) < y[0].(float64) {
			return -1
		}
		return 1
	})
	numbers = map[string]float64{}
	for _, p := range queue.Pending {
		ids = append(ids, p[1].(string))
		numbers[p[1].(string)] = p[0].(float64)
	}
	return ids, numbers
}

// occupy has the server work on a prompt, so that others wait.
func (a *admissionRig) occupy() {
	accepted(a.t, a.base, ddcolor("occupies", 400, ""))
	require.Eventually(a.t, func() bool { ids, _ := a.pending(); return len(ids) == 0 }, 20*time.Second, time.Millisecond)
}

// TestQueueIsOrderedByDeadline: batch prompts are last, and a client's own front and number count
// among the prompts of its class only. What reaches the server past the proxy precedes all.
func TestQueueIsOrderedByDeadline(t *testing.T) {
	a := &testAdvisor{decide: byClass}
	r := newAdmissionRig(t, with(advised(t, a), modeEnforce))
	r.occupy()
	for _, p := range []struct {
		id   string
		side int
		more string
	}{
		{"batch", 1000, ""}, {"between", 800, ""}, {"urgent", 400, ""}, {"urgent later", 400, ""},
		{"batch in front", 1000, `, "front": true`}, {"between in front", 800, `, "number": -1e300`}, {"urgent in front", 400, `, "front": true, "client_id": "vip"`},
		{"batch that asks for 0", 1000, `, "number": 0`}, {"urgent twice", 400, `, "number": -3, "number": 5`},
	} {
		accepted(t, r.base, ddcolor(p.id, p.side, p.more))
	}
	accepted(t, r.server, ddcolor("past the proxy", 1000, ""))
	ids, numbers := r.pending()
	assert.Equal(t, []string{
		"past the proxy", "urgent in front", "urgent", "urgent later", "urgent twice", "between in front", "between",
		"batch in front", "batch", "batch that asks for 0",
	}, ids)
	now := float64(time.Now().Unix())
	assert.InDelta(t, now+30, numbers["urgent"], 10)
	assert.InDelta(t, now+120, numbers["between"], 10)
	assert.InDelta(t, now+60+1e10, numbers["batch"], 10)
	assert.ElementsMatch(t, append(ids[1:], "occupies"), a.claims(t), "the claims end with the prompts' ids")
	close(r.goOn)
	waitFor(t, func() bool { return len(r.byPrompt()) == 10 })
	for _, td := range r.byPrompt() {
		root := spansOf(t, td)[0].Attributes
		assert.Equal(t, "admit", root["comfyui.admission.decision"])
		assert.Equal(t, "fits", root["comfyui.admission.reason"])
		assert.Equal(t, true, root["comfyui.admission.enforced"])
		assert.Greater(t, root["comfyui.admission.deadline"], now)
	}
}

// TestUrgentPromptsOfOneClassOvertakeNoOtherClass by being in front of their own.
func TestUrgentPromptsOfOneClassOvertakeNoOtherClass(t *testing.T) {
	classes := []sizing.TaskClass{{Name: "a", MaxSide: 500}, {Name: "b", MaxSide: 900}}
	r := newAdmissionRig(t, func(c *Config) {
		with(advised(t, &testAdvisor{decide: byClass}), modeEnforce)(c)
		c.TaskClasses = classes
	})
	r.occupy()
	accepted(t, r.base, ddcolor("a1", 400, ""))
	accepted(t, r.base, ddcolor("b1", 800, ""))
	accepted(t, r.base, ddcolor("a2", 400, ""))
	accepted(t, r.base, ddcolor("a3", 400, `, "front": true`))
	ids, _ := r.pending()
	assert.Equal(t, []string{"a1", "b1", "a3", "a2"}, ids)
	close(r.goOn)
}

// TestClientsCannotPromoteThemselves: what a request says of itself counts only with
// trust_request_class, and what cannot be read is not passed on.
func TestClientsCannotPromoteThemselves(t *testing.T) {
	forged := `, "number": -1e12, "front": true, "client_id": "vip", "extra_data": {"task_class": "people", "deadline_s": 0.001, "client_id": "vip", "traceparent": "x"}`
	headers := []string{"X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1", "X-Real-IP", "127.0.0.1", "Comfy-User", "vip"}
	for _, trusts := range []bool{false, true} {
		t.Run(fmt.Sprint(trusts), func(t *testing.T) {
			a := &testAdvisor{decide: byClass}
			r := newAdmissionRig(t, with(advised(t, a), modeEnforce, func(c *AdmissionConfig) { c.TrustRequestClass = trusts }))
			r.occupy()
			accepted(t, r.base, ddcolor("honest", 400, ""))
			accepted(t, r.base, ddcolor("honest batch", 1000, ""))
			accepted(t, r.base, ddcolor("forged", 1000, forged), headers...)
			ids, numbers := r.pending()
			asked := a.requests()[3]
			if trusts {
				assert.Equal(t, []string{"forged", "honest", "honest batch"}, ids)
				assert.Equal(t, "people", asked.Class)
				assert.Equal(t, time.Millisecond, asked.Deadline)
			} else {
				assert.Equal(t, []string{"honest", "forged", "honest batch"}, ids, "in front of its own class only")
				assert.Greater(t, numbers["forged"], 1e10)
				assert.Equal(t, "buildings", asked.Class)
				assert.Zero(t, asked.Deadline)
			}
			close(r.goOn)
			waitFor(t, func() bool { return len(r.byPrompt()) == 4 })
			for _, td := range r.byPrompt() {
				for _, s := range spansOf(t, td) {
					switch id := s.Attributes["comfyui.prompt.id"]; {
					case s.Name != "comfyui.prompt":
					case id != "forged" || trusts:
						assert.NotContains(t, s.Attributes, "comfyui.task_class.claimed")
					default:
						assert.Equal(t, "people", s.Attributes["comfyui.task_class.claimed"])
						assert.Equal(t, "buildings", s.Attributes["comfyui.task_class"])
					}
				}
			}
		})
	}
	const (
		size, link = `"model_input_size": 1280`, `"model_input_size": ["1", 1]`
		decoy      = `"0": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": 64}},`
		executed   = `"8": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": 64, "checkpoint": "ddcolor_paper.pth"}}, "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},`
	)
	for name, replaced := range map[string][]string{
		"link":                       {size, link},
		"link and decoy":             {size, link, `"prompt": {`, `"prompt": {` + decoy},
		"decoy":                      {`"prompt": {`, `"prompt": {` + decoy},
		"link and an executed decoy": {size, link, `"prompt": {`, `"prompt": {` + executed},
		"several":                    {size, link, `"prompt": {`, `"prompt": {` + decoy + executed + strings.Replace(decoy, `"0"`, `"7"`, 1)},
		"twice":                      {size, `"model_input_size": 64, ` + link},
	} {
		t.Run("workflow with "+name, func(t *testing.T) {
			a := &testAdvisor{decide: byClass}
			r := newAdmissionRig(t, with(advised(t, a), modeEnforce))
			defer close(r.goOn)
			r.occupy()
			accepted(t, r.base, ddcolor("honest", 400, ""))
			accepted(t, r.base, ddcolor("honest batch", 1000, ""))
			accepted(t, r.base, strings.NewReplacer(replaced...).Replace(ddcolor("forged", 1280, "")))
			ids, _ := r.pending()
			assert.Equal(t, []string{"honest", "honest batch", "forged"}, ids)
			assert.Equal(t, "buildings", a.requests()[3].Class)
		})
	}
	t.Run("unread", func(t *testing.T) {
		a := &testAdvisor{decide: byClass}
		r := newAdmissionRig(t, func(c *Config) {
			with(advised(t, a), modeEnforce)(c)
			c.Limits.PromptBytes = 4 << 10
		})
		body := ddcolor("forged", 400, `, "front": true`)
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, _ = w.Write([]byte(body))
		require.NoError(t, w.Close())
		var wide bytes.Buffer
		for _, u := range utf16.Encode([]rune(body)) {
			wide.Write([]byte{byte(u), byte(u >> 8)})
		}
		for _, c := range []struct {
			body   string
			header []string
			status int
		}{
			{zipped.String(), []string{"Content-Encoding", "gzip"}, 415},
			{body, []string{"Content-Encoding", "identity"}, 415},
			{wide.String(), []string{"Content-Type", "application/json; charset=utf-16-le"}, 415},
			{wide.String(), []string{"Content-Type", "application/json; charset*=utf-8''utf-16-le"}, 415},
			{wide.String(), []string{"Content-Type", "application/json; charset"}, 415},
			{body + strings.Repeat(" ", 8<<10), nil, 413},
		} {
			response, answer := ask(t, r.base, c.body, c.header...)
			assert.Equal(t, c.status, response.StatusCode, c.header)
			assert.Contains(t, answer, `"reason":"unread"`)
		}
		used := int64(r.cfg.Limits.BodyBytes)
		require.True(t, r.proxy.bodies.reserve(int(used))) // by bodies of others that come slowly
		response, answer := ask(t, r.base, body)
		assert.Equal(t, http.StatusTooManyRequests, response.StatusCode)
		assert.Contains(t, answer, `"reason":"unread"`)
		_, second := ask(t, r.base, body)
		assert.Contains(t, second, `"reason":"unread"`)
		next, _ := ask(t, r.base, body)
		assert.NotEqual(t, response.Header.Get("Retry-After"), next.Header.Get("Retry-After"), "they come one after the other")
		r.proxy.bodies.free(int(used))
		assert.Zero(t, r.posted("/prompt"))
		waitFor(t, func() bool { return len(r.traces.AllTraces()) == 9 && r.logs.LogRecordCount() == 9 })
		for i, td := range r.traces.AllTraces() {
			root := spansOf(t, td)[0]
			assert.Equal(t, "refused", root.Attributes["comfyui.prompt.outcome"])
			assert.Equal(t, "unread", root.Attributes["comfyui.admission.reason"])
			assert.Equal(t, td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID(), r.logs.AllLogs()[i].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).TraceID())
		}
		accepted(t, r.base, body, "Content-Type", "application/json; charset=UTF-8")
		m, err := r.scrape(t.Context())
		require.NoError(t, err)
		assert.InDelta(t, 9, values(m, "comfyui.admission.decisions")["map[comfyui.admission.decision:reject comfyui.admission.enforced:true comfyui.admission.reason:unread comfyui.task_class:]"], 0)
		close(r.goOn)
	})
}

// TestRefusedPromptIsTracedAndLeavesNothing behind: no place, no socket, nothing stored.
func TestRefusedPromptIsTracedAndLeavesNothing(t *testing.T) {
	a := &testAdvisor{}
	now := time.Now()
	a.set(func(r *admission.Request) admission.Decision {
		return admission.Decision{
			Verdict: admission.Reject, Reason: admission.Late, Class: r.Class, Deadline: now.Add(30 * time.Second), RetryAfter: 12400 * time.Millisecond,
			Wait: 41 * time.Second, Completion: 43 * time.Second, CompletionLow: 40 * time.Second, CompletionHigh: 50 * time.Second, MaxSide: 680,
			Memory: admission.Memory{Need: 3 << 30, Room: 5 << 30}, Messages: map[string]string{"zh": "忙", "en": "busy"},
		}
	})
	r := newAdmissionRig(t, func(c *Config) {
		with(advised(t, a), modeEnforce)(c)
		c.OwnSockets = ownAlways
	})
	response, answer := ask(t, r.base, ddcolor("refused", 400, `, "client_id": "c", "extra_data": {"task_class": "evil\nline"}`),
		"Accept-Language", "zh-CN", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	assert.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	assert.Equal(t, "13", response.Header.Get("Retry-After"))
	assert.JSONEq(t, `{"error": {"type": "otelcol_gpu_busy", "message": "忙", "details": "",
		"extra_info": {"reason": "deadline", "retry_after_s": 12.4, "predicted_wait_s": 41, "max_side": 680}}, "node_errors": {}}`, answer)
	waitFor(t, func() bool { return len(r.byPrompt()) == 1 && r.logs.LogRecordCount() == 1 })
	spans := spansOf(t, r.byPrompt()[0])
	require.Len(t, spans, 1)
	for key, want := range map[string]any{
		"comfyui.prompt.outcome": "refused", "error.type": "deadline", "http.response.status_code": int64(429), "comfyui.task_class": "people",
		"comfyui.task_class.claimed": "evil\ufffdline", "comfyui.admission.decision": "reject", "comfyui.admission.reason": "deadline",
		"comfyui.admission.enforced": true, "comfyui.admission.wait": 41.0, "comfyui.admission.completion": 43.0,
		"comfyui.admission.completion.low": 40.0, "comfyui.admission.completion.high": 50.0, "comfyui.admission.retry_after": 12.4,
		"comfyui.admission.max_side": int64(680), "comfyui.admission.memory.need": int64(3 << 30), "comfyui.admission.memory.room": int64(5 << 30),
		"comfyui.admission.deadline": float64(now.Add(30*time.Second).UnixMilli()) / 1000,
	} {
		assert.Equal(t, want, spans[0].Attributes[key], key)
	}
	assert.Empty(t, spans[0].Status, "nothing failed")
	record := r.logs.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	assert.Equal(t, "comfyui.prompt.admission", record.EventName())
	assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", record.TraceID().String())
	assert.Equal(t, "prompt refused: deadline", record.Body().Str())
	assert.Equal(t, plog.SeverityNumberInfo, record.SeverityNumber())
	assert.False(t, r.following.tracker.Busy())
	assert.Zero(t, r.posted("/prompt"), "it did not reach the server")
	withClient, without := r.hub.Counts()
	assert.Zero(t, withClient+without, "a socket was opened for it")
	m, err := r.scrape(t.Context())
	require.NoError(t, err)
	assert.Equal(t, map[string]float64{"map[comfyui.admission.decision:reject comfyui.admission.enforced:true comfyui.admission.reason:deadline comfyui.task_class:people]": 1},
		values(m, "comfyui.admission.decisions"))
}

// TestRefusedPromptIsNotStored: the next process would look for it.
func TestRefusedPromptIsNotStored(t *testing.T) {
	a := &testAdvisor{}
	a.set(func(*admission.Request) admission.Decision {
		return admission.Decision{Verdict: admission.Reject, Reason: admission.Late}
	})
	s, kept, next := newAcceptingServer(t), newMemoryStorage(), new(consumertest.TracesSink)
	id := advised(t, a)
	r := startStoredWith(t, s.URL, kept, next, with(id, modeEnforce))
	assert.Equal(t, http.StatusTooManyRequests, send(t, r.base, smallPrompt))
	waitFor(t, func() bool { return next.SpanCount() == 1 })
	a.set(byClass)
	assert.Equal(t, http.StatusOK, send(t, r.base, smallPrompt))
	waitFor(t, func() bool { return kept.prompts() == 1 })
	require.NoError(t, r.Shutdown(t.Context()))
}

// TestAdvisorThatDoesNotDecideIsLoggedOnce, and when it does again.
func TestAdvisorThatDoesNotDecideIsLoggedOnce(t *testing.T) {
	s, id := newAcceptingServer(t), advised(t, nil)
	r := startStoredWith(t, s.URL, newMemoryStorage(), new(consumertest.TracesSink), with(id, modeEnforce))
	messages := func(part string) int {
		return r.logged.Filter(func(e observer.LoggedEntry) bool {
			return strings.Contains(e.Message, part) && e.ContextMap()["advisor"] == id.String()
		}).Len()
	}
	for range 3 {
		assert.Equal(t, http.StatusOK, send(t, r.base, smallPrompt))
	}
	assert.Equal(t, 1, messages("gave no decision"))
	cause, _ := r.logged.FilterMessageSnippet("gave no decision").All()[0].ContextMap()["cause"].(string)
	assert.Contains(t, cause, "does not run")
	t.Cleanup(admission.OfProcess().Add(*id, &testAdvisor{decide: byClass}))
	for range 3 {
		assert.Equal(t, http.StatusOK, send(t, r.base, smallPrompt))
	}
	assert.Equal(t, 1, messages("Advisor answers again"))
	assert.Equal(t, 1, messages("gave no decision"))
	require.NoError(t, r.Shutdown(t.Context()))
}

// TestARateLimitDoesNotHideThatTheAdvisorGaveNoDecision, where the receiver only observes.
func TestARateLimitDoesNotHideThatTheAdvisorGaveNoDecision(t *testing.T) {
	s, id := newAcceptingServer(t), advised(t, nil)
	r := startStoredWith(t, s.URL, newMemoryStorage(), new(consumertest.TracesSink), with(id, modeObserve, func(c *AdmissionConfig) {
		c.RateLimits = []RateLimitConfig{{RequestsPerMinute: 1}}
	}))
	for range 3 {
		assert.Equal(t, http.StatusOK, send(t, r.base, smallPrompt))
	}
	assert.Equal(t, 1, r.logged.FilterMessageSnippet("gave no decision").Len())
	assert.Zero(t, r.logged.FilterMessageSnippet("Advisor answers again").Len())
	require.NoError(t, r.Shutdown(t.Context()))
}

// TestHeldPromptIsTraced: the time that it was held is a span of its own, and its deadline counts
// from its arrival on.
func TestHeldPromptIsTraced(t *testing.T) {
	a := &testAdvisor{}
	busy := func(r *admission.Request) admission.Decision {
		d := byClass(r)
		d.Verdict, d.Reason = admission.Hold, admission.MemoryBusy
		return d
	}
	a.set(busy)
	r := newAdmissionRig(t, with(advised(t, a), modeEnforce))
	close(r.goOn)
	done, begin := make(chan int, 1), time.Now()
	go func() { response, _ := ask(t, r.base, ddcolor("held", 400, "")); done <- response.StatusCode }()
	waitFor(t, func() bool { return r.proxy.gate.Held() == 1 })
	time.Sleep(100 * time.Millisecond) // it is held for a time
	assert.Zero(t, r.posted("/prompt"))
	a.set(byClass)
	comfyevents.OfProcess().Servers.Changed.Publish("another server")
	assert.Equal(t, http.StatusOK, <-done)
	waitFor(t, func() bool { return len(r.byPrompt()) == 1 })
	var held, root span
	for _, s := range spansOf(t, r.byPrompt()[0]) {
		switch s.Name {
		case "comfyui.hold":
			held = s
		case "comfyui.prompt":
			root = s
		}
	}
	assert.Equal(t, "comfyui.prompt", held.Parent)
	assert.Equal(t, "people", held.Attributes["comfyui.task_class"])
	lasted := time.Duration(held.to - held.from)
	assert.Greater(t, lasted, 100*time.Millisecond)
	assert.Less(t, lasted, time.Since(begin))
	assert.Equal(t, "admit", root.Attributes["comfyui.admission.decision"])
	assert.InDelta(t, float64(begin.Add(30*time.Second).UnixMilli())/1000, root.Attributes["comfyui.admission.deadline"], 0.09)
}

// TestHeldPromptIsAskedAboutWhenAQueueChanges, at once.
func TestHeldPromptIsAskedAboutWhenAQueueChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &testAdvisor{}
		a.set(func(*admission.Request) admission.Decision {
			return admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy}
		})
		e := &interaction{t: t, clients: map[string]*testClient{}, change: with(advised(t, a), modeEnforce)}
		defer e.end()
		e.serve()
		e.start()
		e.post("/upload/image", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n")
		done := make(chan bool, 1)
		go func() { e.prompt("held", "", "400"); done <- true }()
		synctest.Wait()
		require.Equal(t, 1, e.proxy.gate.Held())
		time.Sleep(50 * time.Millisecond)
		a.set(byClass)
		begin := time.Now()
		comfyevents.OfProcess().Servers.Changed.Publish("another server")
		<-done
		assert.Zero(t, time.Since(begin))
	})
}

// TestShutdownAnswersHeldPromptsWithinASecond.
func TestShutdownAnswersHeldPromptsWithinASecond(t *testing.T) {
	a := &testAdvisor{}
	a.set(func(*admission.Request) admission.Decision {
		return admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy}
	})
	r := newAdmissionRig(t, with(advised(t, a), modeEnforce))
	type answered struct {
		response *http.Response
		text     string
		after    time.Time
	}
	all := make(chan answered, 5)
	for i := range 5 {
		go func() {
			response, text := ask(t, r.base, ddcolor(fmt.Sprint(i), 400, ""))
			all <- answered{response, text, time.Now()}
		}()
	}
	waitFor(t, func() bool { return r.proxy.gate.Held() == 5 })
	begin := time.Now()
	require.NoError(t, r.Shutdown(t.Context()))
	assert.Less(t, time.Since(begin), 2*time.Second)
	after := map[string]bool{}
	for range 5 {
		one := <-all
		assert.Equal(t, http.StatusServiceUnavailable, one.response.StatusCode)
		assert.Contains(t, one.text, `"reason":"stopping"`)
		assert.Less(t, one.after.Sub(begin), time.Second)
		after[one.response.Header.Get("Retry-After")] = true
	}
	assert.Greater(t, len(after), 2, "they do not come back at once")
	assert.Zero(t, r.posted("/prompt"))
	assert.Len(t, r.byPrompt(), 5, "each has its trace")
	close(r.goOn)
}

// TestClientThatLeavesWhileHeldIsForgotten.
func TestClientThatLeavesWhileHeldIsForgotten(t *testing.T) {
	a := &testAdvisor{}
	a.set(func(*admission.Request) admission.Decision {
		return admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryBusy}
	})
	r := newAdmissionRig(t, with(advised(t, a), modeEnforce))
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/prompt", strings.NewReader(ddcolor("left", 400, "")))
		if err == nil {
			_, err = http.DefaultClient.Do(request)
		}
		gone <- err
	}()
	waitFor(t, func() bool { return r.proxy.gate.Held() == 1 })
	leave()
	require.Error(t, <-gone)
	waitFor(t, func() bool { return r.proxy.gate.Held() == 0 && r.proxy.bodies.used.Load() == 0 })
	a.set(byClass)
	close(r.goOn)
	accepted(t, r.base, ddcolor("stays", 400, ""))
	waitFor(t, func() bool { return len(r.byPrompt()) == 1 })
	assert.Equal(t, 1, r.posted("/prompt"))
}

// TestPromptsPassWhateverTheAdvisorDoes: they are counted, and have the places that the advisor
// last gave to their classes.
func TestPromptsPassWhateverTheAdvisorDoes(t *testing.T) {
	for _, mode := range []string{modeObserve, modeEnforce} {
		t.Run(mode, func(t *testing.T) {
			a := &testAdvisor{decide: byClass}
			id := advised(t, a)
			r := newAdmissionRig(t, with(id, mode, func(c *AdmissionConfig) { c.Timeout = 20 * time.Millisecond }))
			r.occupy()
			accepted(t, r.base, ddcolor("batch", 1000, ""))
			released := make(chan struct{})
			failing := map[string]func(*admission.Request) admission.Decision{
				"blocks":  func(*admission.Request) admission.Decision { <-released; return admission.Decision{} },
				"panics":  func(*admission.Request) admission.Decision { panic("broken") },
				"garbage": func(*admission.Request) admission.Decision { return admission.Decision{Verdict: "maybe"} },
			}
			want := []string{"batch"}
			for name, decide := range failing {
				a.set(decide)
				accepted(t, r.base, ddcolor(name, 400, `, "front": true`))
				accepted(t, r.base, ddcolor("batch "+name, 1000, ""))
				want = append(want, name, "batch "+name)
			}
			close(released)
			ids, numbers := r.pending()
			assert.ElementsMatch(t, want, ids)
			if mode == modeEnforce {
				for _, id := range ids {
					assert.Equal(t, strings.HasPrefix(id, "batch"), numbers[id] > 1e10, "%s: %f", id, numbers[id])
				}
			}
			m, err := r.scrape(t.Context())
			require.NoError(t, err)
			failed := 0.0
			for key, n := range values(m, "comfyui.admission.decisions") {
				if strings.Contains(key, "reason:failed") {
					failed += n
				}
			}
			assert.InDelta(t, 6, failed, 0)
			close(r.goOn)
		})
	}
	t.Run("missing", func(t *testing.T) {
		r := newAdmissionRig(t, with(advised(t, nil), modeEnforce))
		accepted(t, r.base, ddcolor("a", 400, ""))
		close(r.goOn)
		waitFor(t, func() bool { return len(r.byPrompt()) == 1 })
		assert.Equal(t, "failed", spansOf(t, r.byPrompt()[0])[0].Attributes["comfyui.admission.reason"])
	})
}

// TestIdleNeighbourIsAskedToFreeItsMemory once, and one that works is not.
func TestIdleNeighbourIsAskedToFreeItsMemory(t *testing.T) {
	a, neighbour := &testAdvisor{}, newAdmissionRig(t, nil)
	a.set(func(*admission.Request) admission.Decision {
		return admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryIdle, Free: neighbour.instance()}
	})
	r := newAdmissionRig(t, with(advised(t, a), modeEnforce, func(c *AdmissionConfig) { c.Hold.Timeout = time.Second }))
	neighbour.occupy()
	response, answer := ask(t, r.base, ddcolor("a", 400, ""))
	assert.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	assert.Contains(t, answer, `"reason":"memory_idle"`)
	assert.Zero(t, neighbour.posted("/free"), "it works")
	close(neighbour.goOn)
	waitFor(t, func() bool { return len(neighbour.byPrompt()) == 1 && neighbour.following.remaining.Load() == 0 })
	ask(t, r.base, ddcolor("b", 400, ""))
	ask(t, r.base, ddcolor("c", 400, ""))
	assert.Equal(t, 1, neighbour.posted("/free"), "%d questions", len(a.requests()))
	assert.Zero(t, r.posted("/free"))
	assert.NotZero(t, neighbour.following.loading.unloadedAt())
	close(r.goOn)
}

// TestServerFreesItsMemoryOnceAMinute at most, whoever asks.
func TestServerFreesItsMemoryOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		freed := 0
		e := &interaction{t: t, clients: map[string]*testClient{}, see: func(r *http.Request) {
			if r.URL.Path == "/free" {
				body, _ := io.ReadAll(r.Body)
				assert.JSONEq(t, `{"unload_models": true, "free_memory": true}`, string(body))
				mu.Lock()
				defer mu.Unlock()
				freed++
			}
		}}
		defer e.end()
		e.serve()
		e.start()
		running, cancel := context.WithCancel(context.Background())
		defer cancel()
		e.list(running)
		servers := &comfyevents.OfProcess().Servers
		for minute := 1; minute <= 3; minute++ {
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() { assert.NoError(t, servers.Free(t.Context(), "comfyui:8188")) })
			}
			all.Wait()
			time.Sleep(comfyevents.FreeInterval - time.Second)
			require.NoError(t, servers.Free(t.Context(), "comfyui:8188"))
			mu.Lock()
			assert.Equal(t, minute, freed)
			mu.Unlock()
			time.Sleep(time.Second)
		}
		assert.ErrorIs(t, servers.Free(t.Context(), "unknown"), comfyevents.ErrNotListed)
	})
}

// TestRateLimitsRefuseOnlyIfEnforced; client ids and forwarding headers do not count.
func TestRateLimitsRefuseOnlyIfEnforced(t *testing.T) {
	for _, mode := range []string{modeObserve, modeEnforce} {
		t.Run(mode, func(t *testing.T) {
			a := &testAdvisor{decide: byClass}
			r := newAdmissionRig(t, with(advised(t, a), mode, func(c *AdmissionConfig) {
				c.RateLimits = []RateLimitConfig{{TaskClass: "people", RequestsPerMinute: 1, Burst: 2}}
			}))
			for i := range 5 {
				response, answer := ask(t, r.base, ddcolor(fmt.Sprint(i), 400, fmt.Sprintf(`, "client_id": "c%d", "extra_data": {"task_class": "x"}`, i)), "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i))
				if mode == modeObserve || i < 2 {
					require.Equal(t, http.StatusOK, response.StatusCode)
					continue
				}
				require.Equal(t, http.StatusTooManyRequests, response.StatusCode)
				assert.Contains(t, answer, `"reason":"rate"`)
				assert.Equal(t, "60", response.Header.Get("Retry-After"))
			}
			accepted(t, r.base, ddcolor("batch", 1000, ""))
			m, err := r.scrape(t.Context())
			require.NoError(t, err)
			limited := values(m, "comfyui.admission.rate_limited")
			if mode == modeEnforce {
				assert.Equal(t, map[string]float64{"map[comfyui.admission.enforced:true comfyui.task_class:people]": 3}, limited)
				assert.Len(t, a.requests(), 3, "it is not asked about the others")
			} else {
				assert.Empty(t, limited, "another class: in observe the request's own counts")
			}
			close(r.goOn)
		})
	}
	t.Run("observed", func(t *testing.T) {
		r := newAdmissionRig(t, func(c *Config) { c.Admission.RateLimits = []RateLimitConfig{{RequestsPerMinute: 1}} })
		for i := range 3 {
			accepted(t, r.base, ddcolor(fmt.Sprint(i), 400, ""))
		}
		m, err := r.scrape(t.Context())
		require.NoError(t, err)
		assert.Equal(t, map[string]float64{"map[comfyui.admission.enforced:false comfyui.task_class:people]": 2}, values(m, "comfyui.admission.rate_limited"))
		assert.Equal(t, map[string]float64{"map[comfyui.admission.decision:reject comfyui.admission.enforced:false comfyui.admission.reason:rate comfyui.task_class:people]": 2},
			values(m, "comfyui.admission.decisions"))
		close(r.goOn)
		followedAsRefused(t, r, 3, 2)
	})
	t.Run("observed with an advisor", func(t *testing.T) {
		a := &testAdvisor{decide: byClass}
		r := newAdmissionRig(t, with(advised(t, a), modeObserve, func(c *AdmissionConfig) { c.RateLimits = []RateLimitConfig{{RequestsPerMinute: 1}} }))
		for i := range 3 {
			accepted(t, r.base, ddcolor(fmt.Sprint(i), 400, ""))
		}
		assert.Len(t, a.requests(), 3)
		assert.Len(t, a.claims(t), 3, "they run")
		close(r.goOn)
		followedAsRefused(t, r, 3, 2)
	})
}

// followedAsRefused waits for the traces of prompts, of which so many would have been refused for their
// rate: those have a log record.
func followedAsRefused(t *testing.T, r *admissionRig, prompts, wouldBe int) {
	t.Helper()
	waitFor(t, func() bool { return len(r.traces.AllTraces()) == prompts && r.logs.LogRecordCount() == wouldBe })
	n := 0
	for _, td := range r.traces.AllTraces() {
		a := spansOf(t, td)[0].Attributes
		assert.Equal(t, "success", a["comfyui.prompt.outcome"])
		if a["comfyui.admission.reason"] == "rate" {
			n++
			assert.Equal(t, "reject", a["comfyui.admission.decision"])
			assert.Equal(t, false, a["comfyui.admission.enforced"])
		}
	}
	assert.Equal(t, wouldBe, n)
}
