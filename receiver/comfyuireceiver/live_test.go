// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// live is what components of the same process see of the rig's server.
func live(r *rig) (found []comfyevents.Server) {
	for _, s := range comfyevents.OfProcess().Servers.All() {
		if s.Name != "" && s.Name == r.instance() {
			found = append(found, s)
		}
	}
	return found
}

func (r *rig) instance() string {
	v, _ := r.resource.Attributes().Get("service.instance.id")
	return v.Str()
}

func TestTheQueueAndProgressAreKnownInTheProcess(t *testing.T) {
	base, _ := simulated(t)
	r := newRig(t, base, func(c *Config) { c.OwnSockets = ownAlways })
	upload(t, r.base)
	require.Len(t, live(r), 1)
	assert.Empty(t, live(r)[0].Prompts)
	for i := range 3 {
		photo(t, r.base, "c", 1088+i)
	}
	var seen comfyevents.Server
	require.Eventually(t, func() bool {
		seen = live(r)[0]
		return len(seen.Prompts) == 3 && seen.Prompts[0].Node.Class == "DDColor_Colorize" && seen.Prompts[0].Node.Step > 0
	}, 20*time.Second, time.Millisecond)
	assert.Equal(t, 3, seen.Open)
	running, next, last := seen.Prompts[0], seen.Prompts[1], seen.Prompts[2]
	assert.Equal(t, []int{1088, 1089, 1090}, []int{running.Side, next.Side, last.Side}, "in the order of the queue")
	assert.False(t, running.Started.IsZero())
	assert.Equal(t, "2", running.Node.ID)
	assert.Equal(t, 2, running.Node.Number)
	assert.Equal(t, 3, running.Node.Of)
	assert.Less(t, running.Node.Step, running.Node.Steps)
	assert.True(t, next.Started.IsZero() && last.Started.IsZero(), "they wait")
	assert.Equal(t, "buildings", last.TaskClass)
	assert.Equal(t, "ddcolor_paper.pth", last.Model)
	assert.Equal(t, 1, seen.Sockets.Retained, "the proxy's own")
	require.Eventually(t, func() bool { return len(r.byPrompt()) == 3 }, 20*time.Second, 10*time.Millisecond)
	assert.Empty(t, live(r)[0].Prompts)
	for i, trace := range r.byPrompt() {
		for _, s := range spansOf(t, trace) {
			if s.Name == "comfyui.queue" {
				assert.EqualValues(t, i, s.Attributes["comfyui.queue.ahead"])
			}
		}
	}
	r.stopNow()
	require.Eventually(t, func() bool { return len(live(r)) == 0 }, 10*time.Second, time.Millisecond, "a receiver that has shut down is not asked")
}

// TestAServerWhoseProcessEndsIsUnreachable until it is back, though nothing waits at it.
func TestAServerWhoseProcessEndsIsUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	serve := func(listener net.Listener) *httptest.Server {
		s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.NotFoundHandler()}}
		s.Start()
		return s
	}
	s := serve(listener)
	r := newRig(t, "http://"+address, nil)
	following := r.following
	_, _ = following.server.length(t.Context())
	assert.Zero(t, live(r)[0].Unreachable, "it answers, though not as expected")
	s.Close()
	before := time.Now()
	_, err = following.server.length(t.Context())
	require.Error(t, err)
	since := live(r)[0].Unreachable
	assert.WithinRange(t, since, before, time.Now())
	_, err = following.server.length(t.Context())
	require.Error(t, err)
	assert.Equal(t, since, live(r)[0].Unreachable, "since the first time")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = following.server.length(canceled)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, since, live(r)[0].Unreachable, "that says nothing")
	listener, err = net.Listen("tcp", address)
	require.NoError(t, err)
	s = serve(listener)
	defer s.Close()
	require.Eventually(t, func() bool { return live(r)[0].Unreachable.IsZero() }, 10*time.Second, time.Millisecond, "it is asked whether it is back")
}
