// SPDX-License-Identifier: Apache-2.0

package overhttp

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves with a handler, to a client of its own. open are its connections.
func serve(t *testing.T, handler http.HandlerFunc) (c *Client, open *atomic.Int64) {
	t.Helper()
	open = new(atomic.Int64)
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	server.Start()
	c = NewClient(&http.Client{Transport: &http.Transport{}}, server.URL, "", time.Now)
	t.Cleanup(func() { c.Close(); server.Close() })
	return c, open
}

// TestNobodyWaitsForSettlements, and a silent advisor leaves no more of them than there is room for.
func TestNobodyWaitsForSettlements(t *testing.T) {
	goOn := make(chan struct{})
	var settled atomic.Int64
	c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		<-goOn
		settled.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	began := time.Now()
	for i := range 2 * maxSettlements {
		c.Settle(uint64(i+1), "")
	}
	assert.Less(t, time.Since(began), time.Second)
	for _, b := range c.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
	close(goOn)
	require.Eventually(t, func() bool { return settled.Load() >= maxSettlements && c.Bounds()[0].Size == 0 }, 10*time.Second, time.Millisecond)
	assert.LessOrEqual(t, settled.Load(), int64(maxSettlements+1))
	c.Settle(1000, "")
	require.Eventually(t, func() bool { return settled.Load() >= maxSettlements+1 }, 10*time.Second, time.Millisecond, "later ones are sent")
}

func TestCloseSendsWhatWaitsAndClosesConnections(t *testing.T) {
	var settled atomic.Int64
	c, open := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		settled.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	for i := range 10 {
		c.Settle(uint64(i+1), "")
	}
	c.Close()
	assert.EqualValues(t, 10, settled.Load())
	require.Eventually(t, func() bool { return open.Load() == 0 }, 10*time.Second, time.Millisecond)
	c.Settle(11, "")
	_, err := c.Advise(t.Context(), &admission.Request{})
	require.ErrorIs(t, err, ErrAdvice)
	assert.EqualValues(t, 10, settled.Load(), "nothing afterwards")
}

// TestCloseDoesNotWaitForASilentAdvisor.
func TestCloseDoesNotWaitForASilentAdvisor(t *testing.T) {
	came := make(chan struct{}, 10)
	ended := make(chan struct{})
	c, _ := serve(t, func(http.ResponseWriter, *http.Request) {
		came <- struct{}{}
		<-ended
	})
	defer close(ended)
	for i := range 10 {
		c.Settle(uint64(i+1), "")
	}
	asked := make(chan error, 1)
	go func() {
		_, err := c.Advise(context.Background(), &admission.Request{})
		asked <- err
	}()
	<-came
	<-came
	began := time.Now()
	c.Close()
	assert.Less(t, time.Since(began), settleTimeout)
	require.Error(t, <-asked)
}

// TestARedirectIsNotFollowed, be it within the host: what authenticates is for the address of the configuration.
func TestARedirectIsNotFollowed(t *testing.T) {
	var elsewhere atomic.Int64
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/elsewhere") {
			elsewhere.Add(1)
			_, _ = io.WriteString(w, `{"advice": [{"decision": "reject", "reason": "deadline"}]}`)
			return
		}
		http.Redirect(w, r, "/elsewhere"+r.URL.Path, http.StatusTemporaryRedirect)
	})
	_, err := c.Advise(t.Context(), &admission.Request{})
	require.ErrorIs(t, err, ErrAdvice)
	c.Settle(7, "")
	c.Close() // it has sent the settlement
	assert.Zero(t, elsewhere.Load())
}

// TestAnAnswerThatIsTooLargeIsNone, even if what fits is complete.
func TestAnAnswerThatIsTooLargeIsNone(t *testing.T) {
	var sent atomic.Int64
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, err := io.WriteString(w, `{"advice": [{"decision": "admit", "reason": "fits"}]}`)
		for spaces := strings.Repeat(" ", 1<<10); err == nil && sent.Load() < 100<<20; sent.Add(1 << 10) {
			_, err = io.WriteString(w, spaces)
		}
	})
	_, err := c.Advise(t.Context(), &admission.Request{})
	require.ErrorContains(t, err, "exceeds 65536 bytes")
	c.Close()
	assert.Less(t, sent.Load(), int64(100<<20), "the rest is not read")
}
