// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission/overhttp"
)

// asked is an advisor that admits images below 1000 pixels, and remembers what it was asked.
type asked struct {
	mu       sync.Mutex
	requests []admission.Request
}

func (a *asked) Advise(_ context.Context, r *admission.Request) (admission.Decision, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, *r)
	if r.Side < 1000 {
		return admission.Decision{Verdict: admission.Admit, Reason: admission.Fits, Executions: 40, Wait: 0, Completion: 2 * time.Second, CompletionLow: time.Second, CompletionHigh: 3 * time.Second}, nil
	}
	return admission.Decision{
		Verdict: admission.Reject, Reason: admission.Late, Executions: 40, MaxSide: 680, RetryAfter: 12400 * time.Millisecond, Wait: 41 * time.Second, Completion: 43 * time.Second,
		Memory: admission.Memory{Need: 5 << 30, Room: 6 << 30}, Messages: map[string]string{"en": "busy", "zh": "当前系统繁忙，建议将尺寸调整为680以下以加快处理速度"},
	}, nil
}

func (*asked) Settle(uint64, string) {}

func adviceRig(t *testing.T) (s served, advisor *asked, get func(method, address, body, language string) (int, string)) {
	t.Helper()
	advisor = &asked{}
	s = serve(t, Settings{Advisor: advisor})
	return s, advisor, func(method, address, body, language string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.url+address, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Accept-Language", language)
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(text)
	}
}

func TestAdviceAboutOnePrompt(t *testing.T) {
	_, advisor, get := adviceRig(t)
	status, text := get("GET", "/v1/advice?server=node-1:8188&task_class=people&model=m&workflow=w&width=1280&height=720&batch=2&steps=20&deadline_s=1.5", "", "zh-CN,zh;q=0.9")
	require.Equal(t, http.StatusOK, status, text)
	assert.Equal(t, admission.Request{Server: "node-1:8188", Class: "people", Model: "m", Workflow: "w", Side: 1280, Batch: 2, Steps: 20, Deadline: 1500 * time.Millisecond}, advisor.requests[0], "nothing is claimed")
	var a overhttp.Advice
	require.NoError(t, json.Unmarshal([]byte(text), &a))
	assert.Equal(t, "reject", a.Decision)
	assert.Equal(t, "deadline", a.Reason)
	assert.Equal(t, "当前系统繁忙，建议将尺寸调整为680以下以加快处理速度", a.Message)
	assert.InDelta(t, 12.4, *a.RetryAfter, 1e-9)
	assert.InDelta(t, 41, *a.Wait, 1e-9)
	assert.Equal(t, 680, *a.MaxSide)
	assert.EqualValues(t, 5<<30, *a.Need)
	_, text = get("GET", "/v1/advice?width=1280", "", "de, en;q=0.5")
	assert.Contains(t, text, `"message":"busy"`)
	_, text = get("GET", "/v1/advice?width=500", "", "")
	assert.Contains(t, text, `"decision":"admit"`)
	assert.Contains(t, text, `"predicted_wait_s":0,`, "it would start at once")
}

func TestAdviceAboutManyPrompts(t *testing.T) {
	_, advisor, get := adviceRig(t)
	status, text := get("POST", "/v1/advice", `{"requests": [{"width": 500}, {"height": 1280, "task_class": "people"}]}`, "en")
	require.Equal(t, http.StatusOK, status, text)
	var list overhttp.AdviceList
	require.NoError(t, json.Unmarshal([]byte(text), &list))
	require.Len(t, list.Advice, 2)
	assert.Equal(t, []string{"admit", "reject"}, []string{list.Advice[0].Decision, list.Advice[1].Decision})
	assert.Equal(t, 1280, advisor.requests[1].Side)
}

func TestMalformedRequestsForAdviceAreNamed(t *testing.T) {
	_, advisor, get := adviceRig(t)
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		method, address, body string
		status                int
		problem               string
	}{
		{"GET", "/v1/advice?width=big", "", 400, `width=\"big\" is not valid`},
		{"GET", "/v1/advice?width=-1", "", 400, "width=-1 is not between"},
		{"GET", "/v1/advice?steps=99999999", "", 400, "steps=99999999"},
		{"GET", "/v1/advice?deadline_s=NaN", "", 400, "deadline_s=NaN"},
		{"GET", "/v1/advice?deadline_s=soon", "", 400, `deadline_s=\"soon\"`},
		{"GET", "/v1/advice?size=1280", "", 400, `\"size\" is not a parameter`},
		{"GET", "/v1/advice?task_class=" + long, "", 400, "task_class is longer"},
		{"POST", "/v1/advice", "", 400, "The body is not a valid"},
		{"POST", "/v1/advice", `{"request": []}`, 400, "request"},
		{"POST", "/v1/advice", `{"requests": [{"width": 1}, {"width": -1}]}`, 400, "requests[1]: width=-1"},
		{"POST", "/v1/advice", `{"requests": []} {}`, 400, "after the JSON document"},
		{"POST", "/v1/advice", `{"requests": [` + strings.Repeat(`{},`, 100) + `{}]}`, 400, "There are 101"},
		{"POST", "/v1/advice", `{"requests": [{"model": "` + strings.Repeat("x", 300<<10) + `"}]}`, 413, "exceeds"},
	} {
		status, text := get(c.method, c.address, c.body, "")
		assert.Equal(t, c.status, status, c.problem)
		assert.Contains(t, text, c.problem)
		assert.True(t, json.Valid([]byte(text)))
	}
	assert.Empty(t, advisor.requests, "nor is the first of two asked about that were sent together")
	s := serve(t, Settings{})
	response, _ := s.request(t, "GET", "/v1/advice")
	assert.Equal(t, http.StatusNotFound, response.StatusCode, "without an advisor")
}

func FuzzAdvice(f *testing.F) {
	f.Add("width=1280&task_class=people", `{"requests": [{"width": 500}]}`)
	f.Add("deadline_s=1e999", `{"requests": null}`)
	p := New(&fakeSource{}, Settings{Endpoint: "127.0.0.1:0", Advisor: &asked{}})
	defer p.Close()
	f.Fuzz(func(t *testing.T, query, body string) {
		for _, r := range []*http.Request{
			{Method: http.MethodGet, URL: &url.URL{Path: "/v1/advice", RawQuery: query}, Host: "127.0.0.1", Header: http.Header{}, Body: http.NoBody},
			{Method: http.MethodPost, URL: &url.URL{Path: "/v1/advice"}, Host: "127.0.0.1", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))},
		} {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			assert.True(t, json.Valid(w.Body.Bytes()), "%s", w.Body.String())
		}
	})
}
