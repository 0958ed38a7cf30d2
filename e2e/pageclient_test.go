// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// livePage is the page of a collector.
type livePage struct{ address string }

func newLivePage(t testing.TB) livePage {
	t.Helper()
	return livePage{"127.0.0.1:" + strconv.Itoa(port(t))}
}

// environment has a collector serve its page here.
func (p livePage) environment() string { return "OTELCOL_GPU_PAGE=" + p.address }

func (p livePage) url() string { return "http://" + p.address }

// pageState is what the tests read of /v1/state.
type pageState struct {
	GPUs []struct {
		ID          string
		Name, Model string
		State       string
		Status      string
		Memory      struct{ Limit, Used int64 }
		Utilization float64
		Temperature struct{ Value float64 }
		Power       struct{ Value float64 }
	}
	Verdict    struct{ Cause string }
	Conditions []struct{ Cause, Alert string }
	Alerts     struct{ Firing []struct{ Name string } }
	Servers    []struct{ Waiting int }
	Prompts    []struct{ ID string }
	// PromptsHeld is how many there are in all.
	PromptsHeld int `json:"prompts_held"`
}

// state asks for /v1/state.
func (p livePage) state() (s pageState, err error) {
	text, err := get(p.url() + "/v1/state?lang=en")
	if err == nil {
		err = json.Unmarshal([]byte(text), &s)
	}
	return s, err
}

// wait waits until the state is so, and returns it.
func (p livePage) wait(t testing.TB, within time.Duration, what string, is func(*pageState) bool) (s pageState) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		s, err = p.state()
		return err == nil && is(&s)
	}, within, 20*time.Millisecond, "%s: %+v %v", what, &s, &err)
	return s
}

// counter is a figure of a collector's telemetry about its page, 0 if nothing was counted yet;
// -1 if there is no telemetry yet.
func (livePage) counter(c *collector, of string) int {
	text, err := get(c.telemetry)
	if err != nil || !strings.Contains(text, "otelcol_connector_gpuadvisor_") {
		return -1
	}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); strings.HasPrefix(line, "otelcol_connector_gpuadvisor_"+of) && len(fields) > 1 {
			if n, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
				return int(n)
			}
		}
	}
	return 0
}

// viewers hold streams of events open.
type viewers struct {
	stop    context.CancelFunc
	began   time.Time
	reading sync.WaitGroup
	changes atomic.Int64 // that came to all of them
	ended   atomic.Int64 // streams that have ended
	mu      sync.Mutex
	wanted  string // text of an event
	seen    chan time.Time
}

// watch opens n streams, and waits until each has had the whole state.
func (p livePage) watch(t testing.TB, n int) *viewers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &viewers{stop: cancel, began: time.Now()}
	t.Cleanup(v.close)
	began := make(chan struct{}, n)
	for range n {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url()+"/v1/events?lang=en", nil)
		require.NoError(t, err)
		transport := &http.Transport{} // a connection of its own
		response, err := transport.RoundTrip(request)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, response.StatusCode)
		v.reading.Go(func() {
			defer transport.CloseIdleConnections()
			defer response.Body.Close()
			defer v.ended.Add(1)
			v.read(response, began)
		})
	}
	for range n {
		select {
		case <-began:
		case <-time.After(patience):
			require.Fail(t, "A stream does not begin")
		}
	}
	return v
}

func (v *viewers) read(response *http.Response, began chan<- struct{}) {
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == "event: state":
			began <- struct{}{}
		case line == "event: change":
			v.changes.Add(1)
		case strings.HasPrefix(line, "data: "):
			v.mu.Lock()
			if v.wanted != "" && strings.Contains(line, v.wanted) {
				v.wanted = ""
				v.seen <- time.Now()
			}
			v.mu.Unlock()
		}
	}
}

// want returns where the time comes at which an event with a text comes to the first viewer.
func (v *viewers) want(text string) <-chan time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wanted, v.seen = text, make(chan time.Time, 1)
	return v.seen
}

func (v *viewers) close() {
	v.stop()
	v.reading.Wait()
}

// deafViewer opens a stream and never reads from it.
func (p livePage) deafViewer(t testing.TB) {
	t.Helper()
	conn, err := net.Dial("tcp", p.address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	_, err = fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\n\r\n", p.address)
	require.NoError(t, err)
}

// firing are the alerts that the page lists.
func (s *pageState) firing() (names []string) {
	for _, a := range s.Alerts.Firing {
		names = append(names, a.Name)
	}
	return names
}

// has reports whether a condition of a cause holds.
func (s *pageState) has(cause string) bool {
	return slices.ContainsFunc(s.Conditions, func(c struct{ Cause, Alert string }) bool { return c.Cause == cause })
}
