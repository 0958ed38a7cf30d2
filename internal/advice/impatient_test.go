// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// TestWhoComesAgainTooEarlyKeepsItsTime, and keeps nobody else waiting: it counts once.
func TestWhoComesAgainTooEarlyKeepsItsTime(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	for range 15 { // 30 s of work
		w.queued("a", "people", 512)
	}
	from := func(caller uint64) admission.Decision {
		return w.Advise(&admission.Request{Server: "a", Class: "people", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Claim: true, Caller: caller}, w.now)
	}
	first := from(1)
	require.Equal(t, admission.Reject, first.Verdict)
	at := w.now.Add(first.RetryAfter)
	for w.pass(100 * time.Millisecond); at.Sub(w.now) > time.Second; w.pass(100 * time.Millisecond) {
		d := from(1)
		require.Equal(t, admission.Reject, d.Verdict)
		assert.InDelta(t, at.Sub(w.now).Seconds(), d.RetryAfter.Seconds(), 1.01, "callers wait for whole seconds")
	}
	promises := &w.gpus[theGPU].promises
	assert.Len(t, promises.all, 1)
	assert.Len(t, promises.byCaller, 1)
	other := from(2)
	assert.Len(t, promises.all, 2)
	assert.Less(t, other.RetryAfter, 2*first.RetryAfter+4*time.Second, "as after one")
	w.pass(time.Minute)
	promises.forget(w.now)
	assert.Empty(t, promises.byCaller)
}

// TestAPromiseIsTheCallersOwn: another prompt like it does not take its time, while it has one itself.
func TestAPromiseIsTheCallersOwn(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var p promises
	key := promiseKey{side: 512}
	for i, caller := range []uint64{7, 8, 0} {
		p.add(&promise{promiseKey: key, at: now.Add(time.Duration(i) * 10 * time.Second), came: now.Add(-time.Duration(i) * time.Minute), caller: caller})
	}
	_, ok := p.returned(key, 8, now, true)
	assert.False(t, ok, "its time comes later")
	came, ok := p.returned(key, 7, now, true)
	assert.True(t, ok)
	assert.Equal(t, now, came)
	_, ok = p.returned(key, 7, now, true)
	assert.False(t, ok, "once")
	now = now.Add(10 * time.Second)
	came, ok = p.returned(key, 9, now, true)
	assert.True(t, ok, "a client may change its prompt, for example its seed")
	assert.Equal(t, now.Add(-10*time.Second-time.Minute), came)
	_, ok = p.returned(key, 8, now, true)
	assert.False(t, ok)
	_, ok = p.returned(promiseKey{side: 1280}, 0, now.Add(10*time.Second), true)
	assert.False(t, ok, "another size")
	_, ok = p.returned(key, 0, now.Add(10*time.Second), true)
	assert.True(t, ok)
}
