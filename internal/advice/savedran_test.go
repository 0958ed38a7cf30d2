// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAShortageOutlivesTheProcess(t *testing.T) {
	w := crowded(t)
	w.foreign(2900 * gib / 1000)
	w.run("a", 512, 2*time.Second, 4*gib) // 4.6 GiB were enough
	w.foreign(4 * gib)
	before := w.known()
	require.InDelta(t, 4.6/1.05-3.5, before, 0.01)
	next := w.restarted()
	next.foreign(4 * gib)
	assert.InDelta(t, before, next.known(), 1e-9)
	assert.Empty(t, next.ranBefore, "the servers have come")
	next.oom("a", 3*gib)
	next.foreign(4 * gib)
	assert.InDelta(t, 4.7-3.5, next.known(), 0.01, "it learns on")

	for of := range next.kinds.All() {
		next.kinds.Find(of).changed = true
	}
	again := next.restarted()
	again.pass(time.Hour - time.Minute)
	again.foreign(4 * gib)
	assert.Positive(t, again.known())
	again.pass(2 * time.Minute)
	again.foreign(4 * gib)
	assert.Zero(t, again.known(), "an hour later")
}

// TestStorageThatIsReadLateAddsWhatServersExecuted, whose servers have executed more since.
func TestStorageThatIsReadLateAddsWhatServersExecuted(t *testing.T) {
	w := crowded(t)
	w.run("a", 600, 2*time.Second, ofSide(600))
	rest := w.SaveRest(w.now)
	next := crowded(t)
	next.now = w.now.Add(time.Minute)
	next.run("a", 512, 2*time.Second, 0)
	newest := next.now
	require.NoError(t, next.LoadRest(rest, next.now))
	all := next.Engine.servers["a"].ran
	require.Len(t, all, 2)
	assert.Equal(t, sizeOf(600, 1, 0), all[0].Size)
	assert.Equal(t, sizeOf(512, 1, 0), all[1].Size)
	assert.Equal(t, newest, all[1].at, "of its size the newer one counts")
	assert.Empty(t, next.ranBefore)
}

func TestWhatServersExecutedIsSavedUntilTheyCome(t *testing.T) {
	w := crowded(t)
	at := w.now
	absent := New(w.settings)
	require.NoError(t, absent.LoadRest(w.SaveRest(at), at))
	assert.Len(t, absent.ranBefore, 1)
	w.Engine = New(w.settings)
	require.NoError(t, w.LoadRest(absent.SaveRest(at), at))
	assert.Len(t, w.ranBefore, 1, "no server came in between")
	w.expireSamples(at.Add(ranFor - time.Minute))
	assert.Len(t, w.ranBefore, 1)
	w.expireSamples(at.Add(ranFor + time.Minute))
	assert.Empty(t, w.ranBefore)
	assert.NotContains(t, string(absent.SaveRest(at.Add(2*ranFor))), "\"ran\"", "too old to be saved")
}

func TestSavedExecutionsThatMakeNoSenseAreLeftOut(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	good := savedRan{Size: sizeOf(512, 1, 0), At: unix(now), Enough: 4 * gib}
	for name, change := range map[string]func(*savedRan){
		"no time": func(r *savedRan) { r.At = 0 }, "later": func(r *savedRan) { r.At++ }, "old": func(r *savedRan) { r.At -= 2 * 3600 },
		"no size": func(r *savedRan) { r.Size.Pixels = 0 }, "enormous": func(r *savedRan) { r.Size.Batch = 1e300 }, "negative": func(r *savedRan) { r.Enough = -1 },
	} {
		bad := good
		change(&bad)
		raw, err := json.Marshal(savedRest{Version: savedVersion, Ran: map[string][]savedRan{"a": {bad, good}, "b": {bad}, "c": nil}})
		require.NoError(t, err)
		e := New(DefaultSettings())
		require.NoError(t, e.LoadRest(raw, now), name)
		assert.Len(t, e.ranBefore["a"], 1, name)
		assert.Len(t, e.ranBefore, 1, name)
	}
	e := New(DefaultSettings())
	require.NoError(t, e.LoadRest([]byte(`{"version":1}`), now), "of an older collector")
	require.ErrorIs(t, e.LoadRest([]byte(`{"version":1,"ran":7}`), now), ErrSaved)
	assert.Empty(t, e.ranBefore)
}

func TestSavedExecutionsAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := DefaultSettings()
	s.Servers = 3
	many := map[string][]savedRan{}
	for i := range 10 {
		for n := range 10 * maxRan {
			many[fmt.Sprint(i)] = append(many[fmt.Sprint(i)], savedRan{Size: sizeOf(512+n, 1, 0), At: unix(now) - float64(n)})
		}
	}
	e := New(s)
	e.loadRan(many, now)
	assert.Len(t, e.ranBefore, 3)
	for _, executed := range e.ranBefore {
		assert.Len(t, executed, maxRan)
		assert.Equal(t, sizeOf(512, 1, 0), executed[maxRan-1].Size, "the newest ones")
	}
}
