// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

const patience = 10 * time.Second

// event is a server-sent event.
type event struct{ name, data string }

// reader reads a stream of events.
type reader struct {
	t      testing.TB
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// watch opens a stream.
func (s served) watch(t testing.TB, query string) *reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/events"+query, http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	t.Cleanup(func() { response.Body.Close() })
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	return &reader{t, lines, cancel}
}

// next is the next event; false at the stream's end.
func (r *reader) next() (e event, ok bool) {
	for r.lines.Scan() {
		switch line := r.lines.Text(); {
		case strings.HasPrefix(line, "event: "):
			e.name = strings.TrimPrefix(line, "event: ")
		case strings.HasPrefix(line, "data: "):
			e.data = strings.TrimPrefix(line, "data: ")
		case line == "":
			return e, true
		}
	}
	return event{}, false
}

// until is the next event with a name.
func (r *reader) until(name string) event {
	r.t.Helper()
	for {
		e, ok := r.next()
		require.True(r.t, ok, "the stream ended before %s", name)
		if e.name == name {
			return e
		}
	}
}

func TestAStreamBeginsWithTheWholeAndGoesOnWithWhatChanged(t *testing.T) {
	s := serve(t, Settings{})
	r := s.watch(t, "?lang=zh")
	assert.JSONEq(t, `"`+s.assets.version+`"`, r.until("version").data)
	whole := r.until("state").data
	var state view.State
	require.NoError(t, json.Unmarshal([]byte(whole), &state))
	assert.Equal(t, "zh", state.Language)
	assert.Len(t, state.GPUs, 2)
	s.source.set(func(now *view.State) {
		now.GPUs = append([]view.GPU(nil), now.GPUs...)
		now.GPUs[1].Status = "hot"
	})
	change := map[string]json.RawMessage{}
	require.NoError(t, json.Unmarshal([]byte(r.until("change").data), &change))
	assert.Contains(t, change, "time")
	delete(change, "time")
	var gpus map[string]view.GPU
	require.NoError(t, json.Unmarshal(change["gpus"], &gpus))
	assert.Len(t, change, 1, "nothing else changed")
	assert.Len(t, gpus, 1, "the other GPU did not change")
	assert.Equal(t, "hot", gpus["GPU-b"].Status)
}

func TestChangesListWhatDiffers(t *testing.T) {
	before := someState()
	for name, change := range map[string]func(*view.State){
		`{}`: func(*view.State) {},
		`{"host":"other"}`: func(s *view.State) {
			s.Host = "other"
		},
		`{"gpu_order":["GPU-b"]}`: func(s *view.State) {
			s.GPUs = s.GPUs[1:]
		},
		`{"gpu_order":["GPU-b","GPU-a"]}`: func(s *view.State) {
			s.GPUs = []view.GPU{s.GPUs[1], s.GPUs[0]}
		},
		`{"simulated":true,"can_rush":true,"prompts_held":2}`: func(s *view.State) {
			s.Simulated, s.CanRush, s.PromptsHeld = true, true, 2
		},
		`{"alerts":{"source":"x","firing":null}}`: func(s *view.State) {
			s.Alerts = &view.Alerts{Source: "x"}
		},
		`{"conditions":[],"events":[]}`: func(s *view.State) {
			s.Conditions, s.Events = []view.Condition{}, []view.Event{}
		},
		`{"server_order":[]}`: func(s *view.State) {
			s.Servers = nil
		},
	} {
		now := someState()
		change(&now)
		// Pointers differ, and what they point at does not.
		got, err := json.Marshal(changes(&before, &now))
		require.NoError(t, err)
		assert.JSONEq(t, name, string(got))
	}
	now := someState()
	now.Prompts = append([]view.Prompt{{ID: "p0"}}, now.Prompts...)
	got := changes(&before, &now)
	assert.Equal(t, []string{"p0", "p1"}, got["prompt_order"])
	assert.Len(t, got["prompts"], 1)
}

func TestNothingIsEncodedWhileNobodyLooks(t *testing.T) {
	s := serve(t, Settings{})
	time.Sleep(20 * s.settings.Interval) // nothing to wait for: nothing happens
	assert.Zero(t, s.source.askedTimes())
	r := s.watch(t, "")
	r.until("state")
	require.Eventually(t, func() bool { return s.source.askedTimes() > 3 }, patience, time.Millisecond)
	assert.EqualValues(t, 1, s.Counts().Encoded, "nothing changed")
	r.cancel()
	require.Eventually(t, func() bool {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		return !s.hub.working && len(s.hub.viewers) == 0
	}, patience, time.Millisecond)
	ended := make(chan struct{})
	go func() {
		s.hub.worker.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		require.Fail(t, "the worker goes on")
	}
	before := s.source.askedTimes()
	s.source.set(func(now *view.State) { now.Host = "other" })
	time.Sleep(20 * s.settings.Interval)
	assert.Equal(t, before, s.source.askedTimes())
	r = s.watch(t, "")
	assert.Contains(t, r.until("state").data, `"host":"other"`, "who comes back gets what is true now")
}

func TestAMessageIsEncodedOnceForAllViewersOfALanguage(t *testing.T) {
	s := serve(t, Settings{})
	readers := make([]*reader, 20)
	for i := range readers {
		readers[i] = s.watch(t, "")
		readers[i].until("state")
	}
	before := s.Counts()
	assert.Equal(t, 20, before.Viewers)
	assert.LessOrEqual(t, before.Encoded, int64(1))
	s.source.set(func(now *view.State) { now.Host = "other" })
	for _, r := range readers {
		assert.Contains(t, r.until("change").data, `"host":"other"`)
	}
	assert.Equal(t, before.Encoded+1, s.Counts().Encoded)
	assert.Contains(t, s.watch(t, "").until("state").data, `"host":"other"`, "who comes later begins with what is true then")
}

func TestViewersAreLimited(t *testing.T) {
	s := serve(t, Settings{MaxViewers: 2})
	first := s.watch(t, "")
	s.watch(t, "?lang=zh").until("state")
	first.until("state")
	response, body := s.request(t, http.MethodGet, "/v1/events")
	assert.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	assert.NotEmpty(t, response.Header.Get("Retry-After"))
	assert.Contains(t, body, "limits::viewers")
	assert.EqualValues(t, 1, s.Counts().Refused)
	for _, b := range s.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
		if b.Name == "page.hub.viewers" {
			assert.Equal(t, bounds.Bound{Name: b.Name, Max: 2, Size: 2}, b)
		}
	}
	first.cancel()
	require.Eventually(t, func() bool { return s.Counts().Viewers == 1 }, patience, time.Millisecond)
	s.watch(t, "").until("state")
}

func TestAViewerThatDoesNotReadIsDropped(t *testing.T) {
	s := serve(t, Settings{WriteTimeout: 50 * time.Millisecond, Interval: time.Hour})
	// Each change is larger than what a connection buffers.
	large := strings.Repeat("x", 8<<20)
	s.source.set(func(now *view.State) { now.Host = large })
	connection, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	require.NoError(t, err)
	defer connection.Close()
	_, err = fmt.Fprint(connection, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.Counts().Dropped == 1 }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { return s.Counts().Viewers == 0 }, patience, 5*time.Millisecond)
}

func TestAViewerThatIsTooFarBehindIsDropped(t *testing.T) {
	s := serve(t, Settings{Interval: time.Hour})
	v, err := s.hub.join("en")
	require.NoError(t, err)
	for i := range maxPending {
		s.source.set(func(now *view.State) { now.PromptsHeld = 100 + i })
		s.hub.update("en")
	}
	assert.EqualValues(t, 1, s.Counts().Dropped)
	assert.Zero(t, s.Counts().Viewers)
	for range maxPending {
		<-v.messages
	}
	_, open := <-v.messages
	assert.False(t, open)
	s.hub.leave(v)
	assert.EqualValues(t, 1, s.Counts().Dropped, "it counts once")
}

func TestAStreamGoesOnIfTheClockIsSetBack(t *testing.T) {
	s := serve(t, Settings{Interval: time.Hour})
	v, err := s.hub.join("en")
	require.NoError(t, err)
	defer s.hub.leave(v)
	<-v.messages // the whole
	step := func(held int, clock time.Duration) {
		s.source.set(func(now *view.State) { now.PromptsHeld = held })
		s.source.mu.Lock()
		s.source.clock = clock
		s.source.mu.Unlock()
		s.hub.update("en")
	}
	step(2, -time.Second)
	assert.Empty(t, v.messages, "a state that was overtaken is skipped")
	step(3, -time.Hour)
	require.Len(t, v.messages, 1)
	assert.Contains(t, string(<-v.messages), `"prompts_held":3`)
	step(4, -time.Hour)
	require.Len(t, v.messages, 1, "and those after it are sent by the clock that holds now")
	assert.Contains(t, string(<-v.messages), `"prompts_held":4`)
}

func TestASilentStreamHasAHeartbeat(t *testing.T) {
	s := serve(t, Settings{Heartbeat: 10 * time.Millisecond})
	r := s.watch(t, "")
	assert.Contains(t, r.until("beat").data, `"time":`)
}

func TestAStreamOutlivesTheServersTimeouts(t *testing.T) {
	s := serve(t, Settings{Heartbeat: 20 * time.Millisecond})
	server := &http.Server{Handler: s.Page, WriteTimeout: 100 * time.Millisecond, ReadTimeout: 100 * time.Millisecond}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	s.url = "http://" + listener.Addr().String()
	begun := time.Now()
	r := s.watch(t, "")
	for time.Since(begun) < 400*time.Millisecond {
		r.until("beat")
	}
}

func TestCloseEndsStreamsSoThatShutdownNeedNotWait(t *testing.T) {
	s := serve(t, Settings{})
	server := &http.Server{Handler: s.Page, ReadHeaderTimeout: time.Second}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(listener) }()
	s.url = "http://" + listener.Addr().String()
	readers := make([]*reader, 20)
	for i := range readers {
		readers[i] = s.watch(t, "")
		readers[i].until("state")
	}
	begun := time.Now()
	s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, server.Shutdown(ctx))
	assert.Less(t, time.Since(begun), 2*time.Second)
	for _, r := range readers {
		for ok := true; ok; {
			_, ok = r.next()
		}
	}
	_, err = s.hub.join("en")
	assert.ErrorIs(t, err, errClosed)
}
