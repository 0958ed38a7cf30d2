// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// begin is a full hour.
var begin = time.Unix(1_800_000_000, 0).Truncate(time.Hour)

func settings() Settings {
	return Settings{Classes: map[string]Class{
		"people":    {Deadline: time.Minute, Objective: 30 * time.Second},
		"buildings": {Objective: 5 * time.Minute, Batch: true},
	}}
}

// of is a request that came some time after begin and took so long, for 2 s of the GPU.
func of(class string, after, took time.Duration) *Request {
	return &Request{
		Server: "node-1:8188", GPU: "GPU-1", Product: "RTX", Class: class, Workflow: "colour", Model: "ddcolor", Side: 680, Batch: 1,
		Came: begin.Add(after), Ended: begin.Add(after + took), Used: 2, Outcome: Made,
	}
}

func (r *Request) with(change func(r *Request)) *Request {
	change(r)
	return r
}

func refusedFor(reason admission.Reason) *Request {
	return of("people", 0, 0).with(func(r *Request) { r.Outcome, r.Reason, r.Used, r.Needs = Refused, reason, 0, 2 })
}

func TestWhatHeldARequestBack(t *testing.T) {
	for name, c := range map[string]struct {
		r    *Request
		want Held
	}{
		"in time":       {of("people", 0, 30*time.Second), Held{}},
		"late":          {of("people", 0, 31*time.Second), Held{Missed: 1, Time: 2}},
		"batch, a long": {of("buildings", 0, 299*time.Second), Held{}},
		"too large": {of("people", 0, 41*time.Second).with(func(r *Request) { r.Used = 40 }),
			Held{Missed: 1, Size: 40, Work: 40}},
		"loading is none of its work": {of("people", 0, 41*time.Second).with(func(r *Request) { r.Used, r.Loading = 40, 38 }), Held{Missed: 1, Time: 2}},
		"late as it was held":         {of("people", 0, 35*time.Second).with(func(r *Request) { r.Held = 10 * time.Second }), Held{Missed: 1, Memory: 2}},
		"held, and late without that": {of("people", 0, 45*time.Second).with(func(r *Request) { r.Held = 10 * time.Second }), Held{Missed: 1, Time: 2}},
		"held, and in time":           {of("people", 0, 25*time.Second).with(func(r *Request) { r.Held = 10 * time.Second }), Held{}},
		"out of memory": {of("people", 0, time.Second).with(func(r *Request) { r.Outcome, r.Used, r.Needs = OutOfMemory, 0.5, 2 }),
			Held{Missed: 1, Memory: 2.5, Dead: 0.5}},
		"refused for time":      {refusedFor(admission.Late), Held{Missed: 1, Time: 2}},
		"refused for batch":     {refusedFor(admission.BatchWaits), Held{Missed: 1, Time: 2}},
		"refused for memory":    {refusedFor(admission.MemoryBusy), Held{Missed: 1, Memory: 2}},
		"refused as too large":  {refusedFor(admission.TooLarge), Held{Missed: 1, Memory: 2}},
		"refused as it is long": {refusedFor(admission.Late).with(func(r *Request) { r.Needs = 70 }), Held{Missed: 1, Size: 70, Work: 70}},
		"late after it was held": {refusedFor(admission.Late).with(func(r *Request) { r.Held = 5 * time.Second }),
			Held{Missed: 1, Memory: 2}},
		"given up":         {of("people", 0, 40*time.Second).with(func(r *Request) { r.Outcome, r.Used, r.Needs = GivenUp, 0, 2 }), Held{Missed: 1, Time: 2}},
		"changed its mind": {of("people", 0, 4*time.Second).with(func(r *Request) { r.Outcome, r.Used, r.Needs = GivenUp, 0, 2 }), Held{}},
	} {
		w := New(settings())
		w.Add(c.r)
		gpus, all := w.heldBack(begin.Add(time.Hour))
		c.want.Requests = 1
		if c.want.Work == 0 {
			c.want.Work = 2
		}
		assert.Equal(t, c.want, all, name)
		c.want.GPU, c.want.Product = "GPU-1", "RTX"
		assert.Equal(t, []Held{c.want}, gpus, name)
	}
}

func TestWhatSaysNothingAboutGPUsDoesNotCount(t *testing.T) {
	w := New(settings())
	w.Add(refusedFor(admission.Rate))
	w.Add(refusedFor(admission.Unhealthy))
	w.Add(refusedFor(admission.Stopping).with(func(r *Request) { r.RetryAfter = time.Second }))
	w.Add(of("people", 0, time.Second).with(func(r *Request) { r.Outcome, r.Used = Failed, 0 }))
	w.Add(of("people", 5*time.Second, -time.Second)) // no clock does that
	w.Add(of("people", 0, 0).with(func(r *Request) { r.Came = time.Unix(0, 0) }))
	assert.EqualValues(t, 2, w.Dropped, "and such times cannot be")
	gpus, all := w.heldBack(begin.Add(time.Hour))
	assert.Empty(t, gpus)
	assert.Equal(t, Held{}, all)
	assert.Empty(t, w.Copy(begin.Add(time.Hour)).arrivals)
	w.Add(of("people", 0, time.Second).with(func(r *Request) { r.Outcome = Failed }))
	c := w.Copy(begin.Add(time.Hour))
	require.Len(t, c.arrivals, 1, "it used the GPU")
	assert.False(t, c.arrivals[0].counts)
	assert.Zero(t, c.all.Requests)
}

func TestAShortageIsNamedFromAFiftiethOn(t *testing.T) {
	assert.Equal(t, None, (&Held{}).Shortage())
	assert.Equal(t, None, (&Held{Work: 10_000, Memory: 199, Time: 199}).Shortage())
	assert.Equal(t, Memory, (&Held{Work: 10_000, Memory: 201, Time: 199}).Shortage())
	assert.Equal(t, Time, (&Held{Work: 10_000, Memory: 201, Time: 202}).Shortage())
	assert.Equal(t, Size, (&Held{Work: 10_000, Size: 300}).Shortage())
	assert.Equal(t, None, (&Held{Work: 100, Memory: 50}).Shortage(), "less than a minute")
}

// TestAClientThatTriesAgainCountsOnce: from its first try.
func TestAClientThatTriesAgainCountsOnce(t *testing.T) {
	w := New(settings())
	try := func(after time.Duration) *Request {
		return of("people", after, 0).with(func(r *Request) {
			r.Outcome, r.Reason, r.RetryAfter, r.Used, r.Needs = Refused, admission.MemoryBusy, 12400*time.Millisecond, 0, 2
		})
	}
	w.Add(try(0))
	w.Add(try(13 * time.Second))
	w.Add(of("people", 26*time.Second, 3*time.Second)) // in time
	w.Add(try(100 * time.Second))
	w.Add(of("people", 113100*time.Millisecond, 20*time.Second)) // 33.1 s in all: late, since it was refused for memory
	w.Add(try(200 * time.Second))
	w.Add(of("people", 215*time.Second, 3*time.Second)) // another's
	w.Add(try(300 * time.Second).with(func(r *Request) { r.Side = 1280 }))
	w.Add(of("people", 313*time.Second, 3*time.Second)) // another's
	w.Add(of("people", time.Hour, time.Second))         // by then nobody comes again
	_, all := w.heldBack(begin.Add(2 * time.Hour))
	assert.Equal(t, Held{Requests: 7, Missed: 3, Work: 14, Memory: 6}, all)
	c := w.Copy(begin.Add(2 * time.Hour))
	require.Len(t, c.arrivals, 7)
	assert.Equal(t, begin.UnixMilli(), c.arrivals[0].came, "when it came first")
}

// TestAKnownClientMayComeAgainWheneverItLikes, within a minute; others with the same request are not it.
func TestAKnownClientMayComeAgainWheneverItLikes(t *testing.T) {
	by := func(client string) func(*Request) { return func(r *Request) { r.Client = client } }
	try := func(client string, after time.Duration) *Request {
		return of("people", after, 0).with(func(r *Request) {
			r.Outcome, r.Reason, r.RetryAfter, r.Used, r.Needs = Refused, admission.MemoryBusy, 40*time.Second, 0, 2
		}).with(by(client))
	}
	counted := func(all ...*Request) int64 {
		w := New(settings())
		for _, r := range all {
			w.Add(r)
		}
		w.Add(of("people", 2*time.Hour, time.Second)) // by then nobody comes again
		_, held := w.heldBack(begin.Add(3 * time.Hour))
		return held.Requests - 1
	}
	made := func(client string, after time.Duration) *Request {
		return of("people", after, 3*time.Second).with(by(client))
	}
	assert.EqualValues(t, 1, counted(try("a", 0), try("a", 5*time.Second), try("a", 12*time.Second), made("a", 30*time.Second)), "before its Retry-After")
	assert.EqualValues(t, 1, counted(try("a", 0), made("a", 60*time.Second)), "after it")
	assert.EqualValues(t, 2, counted(try("a", 0), made("a", 62*time.Second)), "too late")
	assert.EqualValues(t, 2, counted(try("a", 0), made("b", 5*time.Second)), "another client")
	assert.EqualValues(t, 2, counted(try("a", 0), made("b", 40*time.Second)), "another client, just when it was to come")
	assert.EqualValues(t, 2, counted(try("", 0), made("", 5*time.Second)), "nobody knows whose it is")
	assert.EqualValues(t, 1, counted(try("a", 0), made("a", 5*time.Second).with(func(r *Request) { r.Server = "another" })), "at another server")
	assert.EqualValues(t, 2, counted(try("a", 0), made("a", 5*time.Second).with(func(r *Request) { r.Side = 1280 })), "another request")
	assert.EqualValues(t, 2, counted(try("a", 0), try("a", time.Second/2)), "two requests at once")
	assert.EqualValues(t, 2, counted(try("a", 0), try("a", time.Second/2), made("a", 6*time.Second), made("a", 8*time.Second)), "each of them again")
	assert.EqualValues(t, 2, counted(try("a", 0), made("a", 6*time.Second), made("a", 8*time.Second)), "one comes again once")
}

func TestRequestsOfAKnownClientAreBounded(t *testing.T) {
	w := New(settings())
	for i := range 20000 {
		w.Add(of("people", time.Duration(i)*time.Microsecond, 0).with(func(r *Request) {
			r.Outcome, r.Reason, r.RetryAfter, r.Used, r.Client = Refused, admission.MemoryBusy, time.Hour, 0, fmt.Sprint(i%2*i)
		}))
	}
	require.NoError(t, growth.Within(w.Bounds()))
	assert.Len(t, w.again.byClient[clientKeyOf(w, "0")], maxOfClient)
	w.Add(of("people", 4*time.Hour, time.Second))
	assert.Empty(t, w.again.byClient)
	assert.Empty(t, w.again.byKey)
}

// clientKeyOf is the first of a client's keys.
func clientKeyOf(w *Week, client string) (key clientKey) {
	for key = range w.again.byClient {
		if key.client == client {
			return key
		}
	}
	return key
}

func TestAWeekIsForgotten(t *testing.T) {
	w := New(settings())
	w.Add(of("people", 0, 40*time.Second))
	w.Add(of("buildings", 3*24*time.Hour, time.Second))
	w.Add(of("people", 7*24*time.Hour+2*time.Hour, time.Second))
	c := w.Copy(begin.Add(7*24*time.Hour + 2*time.Hour))
	assert.Len(t, c.arrivals, 2)
	assert.EqualValues(t, 2, c.all.Requests)
	assert.Zero(t, c.all.Time)
	assert.Equal(t, begin.Add(3*24*time.Hour), c.since)
	w.Add(of("people", time.Hour, time.Second))
	assert.EqualValues(t, 1, w.Dropped, "it is too old")
	assert.Zero(t, w.Copy(begin.Add(30*24*time.Hour)).all.Requests)
}

// TestAWeekIsBounded has much more of everything than there is room for.
func TestAWeekIsBounded(t *testing.T) {
	s := settings()
	s.Requests = 2000
	w := New(s)
	for i := range 60_000 {
		r := of("people", time.Duration(i)*10*time.Second, 40*time.Second)
		switch i % 4 {
		case 1:
			r.Server, r.GPU = fmt.Sprint("server ", i), fmt.Sprint("GPU ", i)
		case 2:
			r.Workflow, r.Steps = fmt.Sprint("workflow ", i), i
		case 3:
			r.Outcome, r.Reason, r.RetryAfter, r.Needs, r.Side = Refused, admission.Late, 12*time.Hour, 3, i
		}
		w.Add(r)
		if i%1000 == 0 {
			for _, b := range w.Bounds() {
				require.LessOrEqual(t, b.Size, b.Max, b.Name)
			}
		}
	}
	c := w.Copy(w.newest)
	assert.Greater(t, len(c.arrivals), 400)
	assert.LessOrEqual(t, len(c.arrivals), 2000)
	assert.LessOrEqual(t, cap(w.arrivals), 3*2000+64)
	assert.Positive(t, w.level)
	used := 0
	for i := range w.sources {
		used += w.sources[i].used
	}
	assert.Equal(t, w.count(), used, "sources are counted")
	for range 3 { // after a quiet week everything is held again
		for i := range 100 {
			w.Add(of("people", w.newest.Sub(begin)+2*time.Hour, time.Duration(i)*time.Millisecond))
		}
	}
	assert.Zero(t, w.level)
}

func TestMoreGPUsThanThereIsRoomForCountTogether(t *testing.T) {
	w := New(settings())
	for i := range 2 * maxGPUs {
		w.Add(of("people", time.Second, time.Second).with(func(r *Request) { r.GPU = fmt.Sprint(i) }))
	}
	gpus, all := w.heldBack(begin.Add(time.Hour))
	assert.Len(t, gpus, maxGPUs)
	assert.EqualValues(t, 2*maxGPUs, all.Requests)
	assert.EqualValues(t, maxGPUs+1, gpus[0].Requests)
	assert.EqualValues(t, maxGPUs+1, w.Dropped)
}

// TestARequestCostsTheSameHoweverManyAreHeld adds batches of requests, a tenth of which are refused,
// to a short week and to one with ten times as many, of as many more servers.
func TestARequestCostsTheSameHoweverManyAreHeld(t *testing.T) {
	with := func(times int) func(i int) {
		w := New(settings())
		add := func(i int) {
			r := of("people", time.Duration(i)*100*time.Millisecond, 2*time.Second)
			r.Server = fmt.Sprint(i % (20 * times))
			if i%10 == 0 {
				r.Outcome, r.Reason, r.RetryAfter = Refused, admission.Late, 12*time.Second
			}
			w.Add(r)
		}
		n := 0
		for ; n < 10_000*times; n++ {
			add(n)
		}
		return func(int) {
			for range 50 {
				add(n)
				n++
			}
		}
	}
	growth.Constant(t, "50 requests", with(1), with(10))
}

func BenchmarkAdd(b *testing.B) {
	w := New(settings())
	r := of("people", 0, 2*time.Second)
	b.ReportAllocs()
	for i := range b.N {
		r.Came = begin.Add(time.Duration(i) * time.Second)
		r.Ended = r.Came.Add(2 * time.Second)
		w.Add(r)
	}
}
