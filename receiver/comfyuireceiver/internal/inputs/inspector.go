// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"context"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
)

// Settings are an Inspector's.
type Settings struct {
	// Images is how many images are remembered.
	Images int
	// UploadBytes bounds an upload that is copied, AllBytes all of them at a time, those that wait to
	// be judged included.
	UploadBytes, AllBytes int
	// Colour decodes images; else their headers alone are read.
	Colour bool
	// Time is what an image may take at least, where that is more than maxTime.
	Time time.Duration
}

const (
	// maxWaiting bounds the uploads that wait to be judged.
	maxWaiting = 64
	// maxMemory and maxTime are [Limits]: what an image may cost.
	maxMemory = 64 << 20
	maxTime   = 500 * time.Millisecond
)

// Observer receives what became of uploads.
type Observer interface {
	// ImageJudged is called for each upload that the server stored, with why something of it is not
	// known; empty if all is. It must not block.
	ImageJudged(unjudged string)
}

// Inspector judges the images of uploads, one at a time, and remembers what it found by the names
// under which the server stored them. Its methods may be called from any goroutine.
type Inspector struct {
	settings Settings
	limits   Limits
	observer Observer
	// running ends with Close.
	running context.Context
	close   context.CancelFunc
	work    sync.WaitGroup

	// mu guards everything declared below.
	mu    sync.Mutex
	known *lru.Cache[string, *Facts]
	// waiting are judged in their order.
	waiting []job
	// copied is how many bytes are reserved.
	copied int
	// judges is true while a goroutine does, closed from Close on.
	judges, closed bool
}

// job is an upload that is to be judged.
type job struct {
	form        []byte
	contentType string
	held        int
	// of is where the result belongs.
	of *Facts
}

// NewInspector makes an inspector. Close ends it.
func NewInspector(s Settings, observer Observer, now func() time.Time) *Inspector {
	i := &Inspector{settings: s, limits: Limits{Memory: maxMemory, Time: max(maxTime, s.Time), Now: now}, observer: observer, known: lru.New[string, *Facts](s.Images)}
	i.running, i.close = context.WithCancel(context.Background())
	return i
}

// Find returns what is known of an image, by [NameOfInput].
func (i *Inspector) Find(name string) Facts {
	i.mu.Lock()
	defer i.mu.Unlock()
	if found := i.known.Find(name); found != nil {
		return **found
	}
	return Facts{Unjudged: Unknown}
}

func (i *Inspector) reserve(n int) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.copied+n > i.settings.AllBytes {
		return false
	}
	i.copied += n
	return true
}

func (i *Inspector) release(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.copied -= n
}

// add has an upload judged.
func (i *Inspector) add(name string, j job) {
	i.mu.Lock()
	reason := ""
	switch {
	case i.closed:
		reason = Stopping
	case len(i.waiting) >= maxWaiting:
		reason = Busy
	}
	if reason != "" {
		i.copied -= j.held
		i.mu.Unlock()
		i.unjudged(name, reason)
		return
	}
	j.of = &Facts{Unjudged: Pending}
	*i.known.FindOrAdd(name) = j.of
	i.waiting = append(i.waiting, j)
	if !i.judges {
		i.judges = true
		i.work.Go(i.judge)
	}
	i.mu.Unlock()
}

// unjudged remembers that an image is not judged.
func (i *Inspector) unjudged(name, reason string) {
	if name != "" {
		i.mu.Lock()
		*i.known.FindOrAdd(name) = &Facts{Unjudged: reason}
		i.mu.Unlock()
	}
	i.observer.ImageJudged(reason)
}

// judge judges what waits.
func (i *Inspector) judge() {
	for {
		i.mu.Lock()
		if len(i.waiting) == 0 {
			i.judges, i.waiting = false, nil
			i.mu.Unlock()
			return
		}
		j := i.waiting[0]
		i.waiting[0] = job{}
		i.waiting = i.waiting[1:]
		i.mu.Unlock()
		f := Facts{Unjudged: Unread}
		if file := imageOf(j.contentType, j.form); file != nil {
			f = Measure(i.running, file, i.settings.Colour, i.limits)
		}
		i.mu.Lock()
		*j.of = f
		i.copied -= j.held
		i.mu.Unlock()
		i.observer.ImageJudged(f.Unjudged)
	}
}

// Close ends what is judged, and what waits for it.
func (i *Inspector) Close() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.close()
	i.work.Wait()
}

// Bounds implements [bounds.Registered].
func (i *Inspector) Bounds() []bounds.Bound {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append(i.known.Bounds(),
		bounds.Bound{Name: "inputs.Inspector.waiting", Max: maxWaiting, Size: len(i.waiting)},
		bounds.Bound{Name: "inputs.job.form", Max: i.settings.AllBytes, Size: i.copied})
}
