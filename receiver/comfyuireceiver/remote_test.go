// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission/overhttp"
)

// remoteAdvisor is the page of a gpuadvisor in another collector.
type remoteAdvisor struct {
	url string
	// open are its connections.
	open atomic.Int64

	mu sync.Mutex
	// advice is its answer to each request; silent advisors answer nothing at all.
	advice  overhttp.Advice
	silent  bool
	asked   []overhttp.AdviceRequest
	settled []string
}

func newRemoteAdvisor(t *testing.T) *remoteAdvisor {
	t.Helper()
	a := &remoteAdvisor{}
	server := httptest.NewUnstartedServer(a)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			a.open.Add(1)
		case http.StateClosed:
			a.open.Add(-1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

// ServeHTTP implements [http.Handler].
func (a *remoteAdvisor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	advice, silent := a.advice, a.silent
	a.mu.Unlock()
	raw, _ := io.ReadAll(r.Body)
	if r.Header.Get("X-Key") != "secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if silent {
		<-r.Context().Done()
		return
	}
	if claim, ok := strings.CutPrefix(r.URL.Path, "/v1/advice/claims/"); ok {
		var body overhttp.Settlement
		_ = json.Unmarshal(raw, &body)
		a.mu.Lock()
		a.settled = append(a.settled, claim+" "+body.PromptID)
		a.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		return
	}
	var body struct {
		Requests []overhttp.AdviceRequest `json:"requests"`
	}
	_ = json.Unmarshal(raw, &body)
	a.mu.Lock()
	a.asked = append(a.asked, body.Requests...)
	a.mu.Unlock()
	_ = json.NewEncoder(w).Encode(overhttp.AdviceList{Advice: []overhttp.Advice{advice}})
}

func (a *remoteAdvisor) set(advice overhttp.Advice, silent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advice, a.silent = advice, silent
}

func (a *remoteAdvisor) settlements() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.settled...)
}

// TestAnAdvisorOfAnotherCollectorDecides: it refuses and admits; while it is silent prompts pass, and
// nobody waits for settlements. The receiver leaves none of its connections.
func TestAnAdvisorOfAnotherCollectorDecides(t *testing.T) {
	a := newRemoteAdvisor(t)
	r := newAdmissionRig(t, func(c *Config) {
		c.Admission.Remote.Client.Endpoint, c.Admission.Mode = a.url, modeEnforce
		c.Admission.Remote.Client.Headers.Set("X-Key", "secret")
		c.Admission.Timeout = time.Second // of a busy test machine
	})
	a.set(overhttp.Advice{Decision: "admit", Reason: "fits", Claim: 7}, false)
	accepted(t, r.base, ddcolor("passes", 400, ""))
	require.Eventually(t, func() bool { return len(a.settlements()) == 1 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, []string{"7 passes"}, a.settlements())

	a.set(overhttp.Advice{Decision: "reject", Reason: "memory_busy", Messages: map[string]string{"en": "make it smaller", "zh": "make it smaller"}}, false)
	response, answer := ask(t, r.base, ddcolor("refused", 1280, ""))
	assert.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	assert.Contains(t, answer, "make it smaller")
	assert.Equal(t, 1280, max(a.asked[1].Width, a.asked[1].Height))

	a.set(overhttp.Advice{}, true)
	began := time.Now()
	accepted(t, r.base, ddcolor("silence", 400, ""))
	assert.Less(t, time.Since(began), 5*time.Second)
	a.set(overhttp.Advice{Decision: "admit", Reason: "fits", Claim: 8}, false)
	accepted(t, r.base, ddcolor("afterwards", 400, ""))
	close(r.goOn)
	waitFor(t, func() bool { return len(r.byPrompt()) == 4 })
	reasons := map[any]any{}
	for _, td := range r.byPrompt() {
		root := spansOf(t, td)[0].Attributes
		reasons[root["comfyui.prompt.id"]] = root["comfyui.admission.reason"]
	}
	assert.Equal(t, "failed", reasons["silence"])
	assert.Equal(t, "fits", reasons["passes"])
	assert.Equal(t, "fits", reasons["afterwards"])
	assert.Positive(t, a.open.Load(), "connections are used again")
	r.stopNow()
	require.Eventually(t, func() bool { return a.open.Load() == 0 }, 10*time.Second, time.Millisecond)
}
