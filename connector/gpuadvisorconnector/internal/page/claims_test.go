// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission/overhttp"
)

// claiming is an advisor that decides what the test wants, and remembers what it was asked.
type claiming struct {
	mu       sync.Mutex
	requests []admission.Request
	settled  []string
	decision admission.Decision
	freed    chan string
	// asked is called after each decision; nil for nothing. Its error is Advise's.
	asked func(n int) error
}

func (c *claiming) Advise(_ context.Context, r *admission.Request) (admission.Decision, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, *r)
	if c.asked != nil {
		if err := c.asked(len(c.requests)); err != nil {
			return admission.Decision{}, err
		}
	}
	return c.decision, nil
}

func (c *claiming) Settle(claim uint64, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled = append(c.settled, fmt.Sprint(claim, " ", id))
}

func (c *claiming) settlements() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.settled)
}

func (c *claiming) Free(_ context.Context, server string) error {
	c.freed <- server
	return nil
}

// TestAnAdvisorIsTheSameOverHTTP asks one through the page's server with the client that a proxy of
// another collector has.
func TestAnAdvisorIsTheSameOverHTTP(t *testing.T) {
	advisor := &claiming{freed: make(chan string, 1)}
	s := serve(t, Settings{Advisor: advisor, Claims: true, Free: advisor.Free})
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	client := overhttp.NewClient(http.DefaultClient, s.url+"/", "", func() time.Time { return now })
	request := admission.Request{Server: "node-1:8188", Class: "people", Workflow: "w", Model: "m", Side: 1280, Batch: 2, Steps: 20, Deadline: 30 * time.Second, Claim: true}

	advisor.decision = admission.Decision{
		Verdict: admission.Admit, Reason: admission.Fits, Class: "people", Batch: true, Deadline: time.Now().Add(30 * time.Second), Returned: true, Wait: time.Second, Completion: 3 * time.Second,
		CompletionLow: 2 * time.Second, CompletionHigh: 4 * time.Second, Executions: 40, Memory: admission.Memory{Need: 5 << 30, Room: 6 << 30}, Claim: 7,
	}
	d, err := client.Advise(t.Context(), &request)
	require.NoError(t, err)
	assert.Equal(t, request, advisor.requests[0])
	assert.InDelta(t, 30, d.Deadline.Sub(now).Seconds(), 5, "by the clock of the one who asks")
	want := advisor.decision
	want.Deadline = d.Deadline
	assert.Equal(t, want, d)
	client.Settle(7, "prompt 1")
	client.Settle(8, "")
	require.Eventually(t, func() bool { return advisor.settlements() == 2 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, []string{"7 prompt 1", "8 "}, advisor.settled)

	advisor.decision = admission.Decision{
		Verdict: admission.Hold, Reason: admission.MemoryIdle, Class: "people", RetryAfter: 500 * time.Millisecond, MaxSide: 680, Free: "node-1:8189",
		Messages: map[string]string{"en": "busy", "zh": "当前系统繁忙"},
	}
	d, err = client.Advise(t.Context(), &request)
	require.NoError(t, err)
	assert.Equal(t, "node-1:8189", <-advisor.freed, "by the collector that has it")
	want = advisor.decision
	want.Free = ""
	assert.Equal(t, want, d)

	renamed := overhttp.NewClient(http.DefaultClient, s.url, "127.0.0.1:8188", time.Now)
	_, err = renamed.Advise(t.Context(), &request)
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:8188", advisor.requests[2].Server)
	<-advisor.freed
}

func TestClaimsMustBeAllowed(t *testing.T) {
	advisor := &claiming{decision: admission.Decision{Verdict: admission.Admit, Reason: admission.Fits, Claim: 7}}
	closed := serve(t, Settings{Advisor: advisor})
	client := overhttp.NewClient(http.DefaultClient, closed.url, "", time.Now)
	_, err := client.Advise(t.Context(), &admission.Request{Claim: true})
	require.ErrorIs(t, err, overhttp.ErrAdvice)
	assert.Empty(t, advisor.requests)
	d, err := client.Advise(t.Context(), &admission.Request{})
	require.NoError(t, err, "to ask is free")
	assert.Zero(t, d.Claim)
	client.Settle(7, "")
	client.Close() // it has sent the settlement
	assert.Empty(t, advisor.settled)

	open := serve(t, Settings{Advisor: advisor, Claims: true})
	for _, c := range []struct{ path, body, origin, problem string }{
		{"/v1/advice", `{"requests": [{"claim": true}]}`, "http://evil.example.com", "another origin"},
		{"/v1/advice/claims/7", `{"prompt_id": ""}`, "http://evil.example.com", "another origin"},
		{"/v1/advice/claims/seven", `{"prompt_id": ""}`, "", `\"seven\" is not a valid claim number`},
		{"/v1/advice/claims/7", `{"id": ""}`, "", "The body is not a valid"},
		{"/v1/advice/claims/7", `{"prompt_id": "` + fmt.Sprintf("%2000d", 1) + `"}`, "", "The body is not a valid"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, open.url+c.path, strings.NewReader(c.body))
		require.NoError(t, err)
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.GreaterOrEqual(t, response.StatusCode, 400, c.problem)
		assert.Contains(t, string(body), c.problem)
	}
	assert.Empty(t, advisor.settled)
}

// TestWhatIsNoAdviceIsAnError: the caller passes the prompt on.
func TestWhatIsNoAdviceIsAnError(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"garbage":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"none":        func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"advice": []}`)) },
		"too long":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) },
		"an error":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"not allowed": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
	} {
		server := httptest.NewServer(handler)
		_, err := overhttp.NewClient(server.Client(), server.URL, "", time.Now).Advise(t.Context(), &admission.Request{})
		require.ErrorIs(t, err, overhttp.ErrAdvice, name)
		server.Close()
	}
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := overhttp.NewClient(silent.Client(), silent.URL, "", time.Now).Advise(ctx, &admission.Request{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestAnAnswerDoesNotWaitForMemoryToBeFreed: the proxy waits 20 ms for it, and admits what it has no
// answer about.
func TestAnAnswerDoesNotWaitForMemoryToBeFreed(t *testing.T) {
	advisor := &claiming{decision: admission.Decision{Verdict: admission.Hold, Reason: admission.MemoryIdle, Free: "node-1:8189"}}
	began, ended := make(chan struct{}, 100), make(chan struct{}, 100)
	s := serve(t, Settings{Advisor: advisor, Claims: true, Free: func(ctx context.Context, _ string) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	}})
	client := overhttp.NewClient(http.DefaultClient, s.url, "", time.Now)
	for range 2 * maxFreeing {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		d, err := client.Advise(ctx, &admission.Request{Claim: true})
		cancel()
		require.NoError(t, err)
		assert.Equal(t, admission.Hold, d.Verdict)
	}
	for range maxFreeing {
		<-began
	}
	for _, b := range s.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
	closing := time.Now()
	s.Close()
	assert.Less(t, time.Since(closing), freeTimeout, "it ends them")
	assert.Len(t, ended, maxFreeing, "and waits for them")
	assert.Empty(t, began, "others were left out")
	s.free("node-1:8189")
	assert.Empty(t, began, "none begins afterwards")
}

// TestNothingStaysClaimedForACallerThatGetsNoDecision.
func TestNothingStaysClaimedForACallerThatGetsNoDecision(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for name, c := range map[string]struct {
		body    string
		asked   func(int) error
		status  int
		settled []string
	}{
		"one is not valid": {`{"requests": [{"claim": true}, {"width": -1}]}`, nil, http.StatusBadRequest, nil},
		"one fails": {`{"requests": [{"claim": true}, {"claim": true}]}`, func(n int) error {
			if n == 2 {
				return context.DeadlineExceeded
			}
			return nil
		}, http.StatusServiceUnavailable, []string{"7 "}},
		"the caller leaves": {`{"requests": [{"claim": true}, {"claim": true}]}`, func(n int) error {
			if n == 2 {
				leave()
			}
			return nil
		}, http.StatusServiceUnavailable, []string{"7 ", "7 "}},
	} {
		advisor := &claiming{decision: admission.Decision{Verdict: admission.Admit, Reason: admission.Fits, Claim: 7}, asked: c.asked}
		p := New(&fakeSource{}, Settings{Endpoint: "127.0.0.1:0", Advisor: advisor, Claims: true})
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1/v1/advice", strings.NewReader(c.body))
		if name != "the caller leaves" {
			r = r.WithContext(t.Context())
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		p.Close()
		assert.Equal(t, c.status, w.Code, name)
		assert.Equal(t, c.settled, advisor.settled, name)
	}
	advisor := &claiming{decision: admission.Decision{Verdict: admission.Admit, Reason: admission.Fits, Claim: 7}}
	p := New(&fakeSource{}, Settings{Endpoint: "127.0.0.1:0", Advisor: advisor, Claims: true})
	defer p.Close()
	ctx, leave = context.WithCancel(t.Context())
	p.ServeHTTP(&leaving{httptest.NewRecorder(), leave}, httptest.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1/v1/advice", strings.NewReader(`{"requests": [{"claim": true}]}`)))
	assert.Equal(t, []string{"7 "}, advisor.settled, "the caller leaves before the answer ends")
}

// leaving is a caller that leaves during the answer.
type leaving struct {
	*httptest.ResponseRecorder
	leave func()
}

func (l *leaving) Write(b []byte) (int, error) {
	l.leave()
	return l.ResponseRecorder.Write(b)
}
