// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// someWeek has something of everything.
func someWeek(requests int) *Week {
	s := settings()
	s.Requests = 500
	w := New(s)
	for i := range requests {
		r := of([...]string{"people", "buildings"}[i%2], time.Duration(i)*10*time.Minute, time.Duration(i%60)*time.Second)
		r.Server, r.GPU, r.Side = fmt.Sprint("server ", i%5), fmt.Sprint("GPU ", i%3), 512+i%9*64
		if i%7 == 0 {
			r.Outcome, r.Reason, r.Used, r.Needs = Refused, admission.MemoryBusy, 0, 3
		}
		w.Add(r)
	}
	return w
}

func TestAWeekIsLoadedAsItWasSaved(t *testing.T) {
	for _, requests := range []int{0, 1, 700, 3000} {
		w := someWeek(requests)
		saved := w.Save()
		loaded := New(w.settings)
		require.NoError(t, loaded.Load(saved))
		if requests > 0 {
			assert.Equal(t, w.Copy(w.newest).Recommend(perPixel{}), loaded.Copy(w.newest).Recommend(perPixel{}))
		}
		assert.Equal(t, saved, loaded.Save())
		for range 10 { // both go on alike
			r := of("people", later(w.newest, begin).Sub(begin)+20*time.Minute, 2*time.Second)
			w.Add(r)
			loaded.Add(r)
		}
		assert.Equal(t, w.Copy(w.newest).Recommend(perPixel{}), loaded.Copy(w.newest).Recommend(perPixel{}))
		t.Logf("%d requests held, %d bytes", w.count(), len(saved))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func TestALowerBoundCountsAfterLoading(t *testing.T) {
	w := someWeek(700)
	s := w.settings
	s.Requests = 100
	loaded := New(s)
	require.NoError(t, loaded.Load(w.Save()))
	assert.LessOrEqual(t, loaded.count(), 100)
	assert.Equal(t, w.Copy(w.newest).all, loaded.Copy(w.newest).all, "sums are complete")
}

func TestADamagedWeekIsNotLoaded(t *testing.T) {
	w := someWeek(50)
	saved := w.Save()
	before := someWeek(3)
	want := before.Save()
	for i := range saved {
		damaged := slices.Clone(saved)
		damaged[i] ^= 0x10
		require.Error(t, before.Load(damaged), i)
		require.Error(t, before.Load(saved[:i]), i)
	}
	require.Error(t, before.Load(append(slices.Clone(saved), 0)))
	assert.Equal(t, want, before.Save(), "it is as it was")
}

// FuzzLoad has checksums that are right.
func FuzzLoad(f *testing.F) {
	for _, requests := range []int{0, 1, 20} {
		saved := someWeek(requests).Save()
		f.Add(saved[len(savedHeader) : len(saved)-crc32.Size])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		saved := append([]byte(savedHeader), body...)
		saved = binary.BigEndian.AppendUint32(saved, crc32.ChecksumIEEE(saved))
		w := New(settings())
		if w.Load(saved) != nil {
			return
		}
		for _, b := range w.Bounds() {
			assert.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
		w.Add(of("people", 0, time.Second))
		w.Copy(w.newest).Recommend(perPixel{})
		assert.NoError(t, New(settings()).Load(w.Save()))
	})
}
