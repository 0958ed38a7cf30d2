// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
)

// quickWork makes an image at once.
type quickWork struct{ fakecomfyui.Work }

func (quickWork) Colorize(_ context.Context, _ int, _ string, step func(done, all int) error) error {
	return step(1, 1)
}

// quickServer is a simulated server that makes images at once.
func quickServer(t testing.TB) (url string) {
	t.Helper()
	fake := fakecomfyui.NewServer(quickWork{fakecomfyui.NewTimedWork()})
	server := httptest.NewServer(fake)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.CloseClientConnections(); server.Close() })
	return server.URL
}

// fewWait is how many prompts run and wait at each server at most.
const fewWait = 15

// enforcement are two proxies, each in front of a server of its own: one has no advisor, the
// other enforces what one decides.
type enforcement struct {
	client  *http.Client
	proxies [2]*rig
	advisor *advice.Advisor
	n, turn int
}

func newEnforcement(t testing.TB) *enforcement {
	t.Helper()
	const gpu = "GPU-00000000-0000-4000-8000-000000000001"
	settings := advice.DefaultSettings()
	settings.Default.Deadline = admission.MaxDeadline
	settings.Measured = []advice.Measured{{Side: 512, Time: 10 * time.Millisecond, Memory: 1 << 30}}
	e := &enforcement{client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}}
	e.advisor = advice.NewAdvisor(settings, &comfyevents.OfProcess().Servers, time.Now, nil)
	id := component.MustNewIDWithName("gpuadvisor", "enforcement")
	t.Cleanup(admission.OfProcess().Add(id, e.advisor))
	t.Cleanup(e.advisor.Follow())
	t.Cleanup(e.client.CloseIdleConnections)
	for k := range e.proxies {
		e.proxies[k] = newRig(t, quickServer(t), func(c *Config) {
			if c.Device = gpu; k == 1 {
				c.Admission.Advisor, c.Admission.Mode, c.Admission.Timeout = &id, modeEnforce, time.Second
			}
		})
		upload(t, e.proxies[k].base)
	}
	e.advisor.Refresh([]advice.GPU{{ID: gpu, Capacity: 24 << 30, At: time.Now().Add(time.Hour), Utilization: -1}})
	require.Eventually(t, func() bool { // the server has said what its queue holds
		d, err := e.advisor.Advise(t.Context(), &admission.Request{Server: e.proxies[1].proxy.name, Model: "ddcolor_paper.pth", Side: 512, Batch: 1})
		return err == nil && d.Reason == admission.Fits
	}, 10*time.Second, time.Millisecond)
	return e
}

// send sends a prompt to each proxy, and returns how long each took in milliseconds.
func (e *enforcement) send(t testing.TB) (ms [2]float64) {
	t.Helper()
	e.turn++
	for i := range e.proxies {
		k := (i + e.turn) % len(e.proxies) // in turn: the work of the one is under way when the other is asked
		r := e.proxies[k]
		// As many wait as at a server that is busy, not all that were ever sent.
		require.Eventually(t, func() bool { return r.following.tracker.OpenCount() <= fewWait }, 10*time.Second, time.Millisecond)
		e.n++
		begin := time.Now()
		response, err := e.client.Post(r.base+"/prompt", "application/json", strings.NewReader(ddcolor(fmt.Sprint("bench-", e.n), 512, "")))
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		ms[k] = float64(time.Since(begin).Microseconds()) / 1000
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	return ms
}

// decided is how many decisions had a reason.
func (e *enforcement) decided(reason admission.Reason) (n int64) {
	for of, count := range e.advisor.Counts() {
		if of.Reason == reason {
			n += count
		}
	}
	return n
}

// BenchmarkPromptWithEnforcement: `make bench-advice` compares what enforcement adds with its goal, 1 ms
// for 99 of 100 prompts.
func BenchmarkPromptWithEnforcement(b *testing.B) {
	const rounds, warm = 2000, 200
	e := newEnforcement(b)
	for b.Loop() {
		var ms [2][]float64
		for i := range rounds {
			took := e.send(b)
			for k := range took {
				if i >= warm {
					ms[k] = append(ms[k], took[k])
				}
			}
		}
		slices.Sort(ms[0])
		slices.Sort(ms[1])
		at := func(share float64) float64 {
			i := int(float64(len(ms[0])-1) * share)
			return ms[1][i] - ms[0][i]
		}
		b.ReportMetric(at(0.5), "added-p50-ms")
		b.ReportMetric(at(0.99), "added-p99-ms")
	}
	require.Greater(b, e.decided(admission.Fits), int64(rounds/2))
	require.Zero(b, e.decided(admission.Failed))
}

// TestEnforcementIsFast is the benchmark with small numbers, and with a margin for the race detector
// and a machine that does something else.
func TestEnforcementIsFast(t *testing.T) {
	e := newEnforcement(t)
	var added []float64
	for range 50 {
		took := e.send(t)
		added = append(added, took[1]-took[0])
	}
	slices.Sort(added)
	require.Less(t, added[len(added)/2], 50.0)
	require.Equal(t, int64(50), e.decided(admission.Fits)+e.decided(admission.Idle)+e.decided(admission.Unknown))
}
