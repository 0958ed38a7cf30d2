// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"flag"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"net/http"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var shutdownRuns = flag.Int("shutdown-runs", 6, "how often TestSIGTERMEndsTheCollector ends it")

// TestSIGTERMEndsTheCollector ends a collector with 1, 20 and 200 open prompts in turn, while
// the store for traces is there, away and silent in turn (that for metrics is away): it ends
// within 5 s, and the open prompts are in the store of the next process.
func TestSIGTERMEndsTheCollector(t *testing.T) {
	beside(t, working)
	longest, late, forgotten := time.Duration(0), 0, 0
	r := newKillsRig(t)
	response, err := http.Post(r.server.url+"/upload/image", "multipart/form-data; boundary=x",
		strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n"))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	for run := range *shutdownRuns {
		// all nine pairs in nine runs, and each of either in three
		open, state := []int{1, 20, 200}[run%3], []string{"there", "away", "silent"}[(run+run/3)%3]
		switch state {
		case "there":
			r.way.open(t, false)
		case "away":
			r.way.close()
		case "silent":
			r.way.open(t, true)
		}
		r.start()
		// What was open before ends first; then a prompt that lasts, and others behind it.
		cleared, err := http.Post(r.server.url+"/queue", "application/json", strings.NewReader(`{"clear": true}`))
		require.NoError(t, err)
		require.NoError(t, cleared.Body.Close())
		interrupted, err := http.Post(r.server.url+"/interrupt", "application/json", strings.NewReader(`{}`))
		require.NoError(t, err)
		require.NoError(t, interrupted.Body.Close())
		require.Eventually(t, func() bool {
			return r.counter("otelcol_receiver_comfyui_prompts_unfollowed") == 0 && r.server.waiting(t) == 0
		}, patience, 20*time.Millisecond)
		var posts sync.WaitGroup
		var accepted atomic.Int64
		for i := range open {
			posts.Go(func() {
				if r.post(fmt.Sprint("client-", i%7), 4000+run) { // about 12 s of work
					accepted.Add(1)
				}
			})
		}
		posts.Wait()
		require.EqualValues(t, open, accepted.Load())
		lasted, err := r.Stop(patience)
		require.NoError(t, err, r.Tail())
		longest = max(longest, lasted)
		if lasted > promisedEnd {
			late++
			t.Logf("run %d: %d open prompts, traces %s: %v\n%s", run, open, state, lasted, r.Tail())
		}
		assert.Zero(t, logLines(t, r.Process, "panic"), "run %d", run)
		// The next process follows them.
		r.way.open(t, false)
		r.start()
		followed := func() bool {
			return logLines(t, r.Process, "Following the prompts that were open when the last run ended") > 0
		}
		require.Eventually(t, followed, patience, 20*time.Millisecond)
		if n := restored(t, r); n < open {
			forgotten += open - n
			t.Logf("run %d: %d of %d open prompts are followed, traces %s; %d wait at the server\n%s", run, n, open, state, r.server.waiting(t), logOf(t, r.Process))
		}
		r.Kill() // the collector may not handle signals yet
	}
	assert.Zero(t, late, "runs that took longer than %v", promisedEnd)
	assert.Zero(t, forgotten, "open prompts that the next process does not follow")
	figure.Print("shutdown.runs", float64(*shutdownRuns), "runs")
	figure.AtMost("shutdown.longest", longest.Seconds(), "s", promisedEnd.Seconds())
	figure.AtMost("shutdown.late", float64(late), "runs", 0)
	figure.AtMost("shutdown.forgotten", float64(forgotten), "prompts", 0)
	if late == 0 {
		// With no failure in n runs, the rate of failures is below this with 95 % confidence.
		figure.Print("shutdown.failure_rate_bound", 1-math.Pow(0.05, 1/float64(*shutdownRuns)), "ratio")
	}
}

// restored is how many open prompts a collector found in its store, by its log.
func restored(t *testing.T, r *killsRig) (n int) {
	t.Helper()
	for line := range strings.Lines(logOf(t, r.Process)) {
		_, fields, ok := strings.Cut(line, "Following the prompts that were open when the last run ended")
		if !ok {
			continue
		}
		if _, after, ok := strings.Cut(fields, `"prompts": `); ok {
			_, _ = fmt.Sscan(after, &n)
		}
	}
	return n
}
