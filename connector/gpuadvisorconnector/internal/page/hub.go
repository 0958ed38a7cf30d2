// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// maxPending is how many messages a viewer may be behind before it is dropped.
const maxPending = 16

// maxOvertaken is by how much a state may be older than the last one to be skipped: join and
// the worker read the source at the same time, and one may overtake the other. A state that is
// older still has another clock: it was set back.
const maxOvertaken = 10 * time.Second

var (
	errFull   = errors.New("as many viewers as limits::viewers allows are connected")
	errClosed = errors.New("the collector shuts down")
)

// viewer is an open stream. Its messages begin with the whole state. The channel is closed
// when the viewer is dropped.
type viewer struct {
	language texts.Language
	messages chan []byte
}

// broadcast is what the viewers of a language were sent last.
type broadcast struct {
	viewers int
	last    view.State
	// whole is last, encoded; nil until somebody connects.
	whole []byte
}

// hub sends what changes to all viewers. It looks at the source only while there are any,
// and encodes a message once for all viewers of a language.
type hub struct {
	source     Source
	interval   time.Duration
	heartbeat  time.Duration
	maxViewers int
	stopped    context.Context
	stop       context.CancelFunc
	worker     sync.WaitGroup

	// mu guards everything declared below.
	mu         sync.Mutex
	viewers    map[*viewer]struct{}
	broadcasts map[texts.Language]*broadcast
	working    bool
	figures    Counts
}

func newHub(source Source, s Settings) *hub {
	h := &hub{source: source, interval: s.Interval, heartbeat: s.Heartbeat, maxViewers: s.MaxViewers, viewers: map[*viewer]struct{}{}, broadcasts: map[texts.Language]*broadcast{}}
	h.stopped, h.stop = context.WithCancel(context.Background())
	for _, l := range texts.Languages() {
		h.broadcasts[l] = &broadcast{}
	}
	return h
}

// join adds a viewer. The caller leaves when its stream ends.
func (h *hub) join(l texts.Language) (*viewer, error) {
	now := h.source.State(l) // before the lock, which must not wait for the source
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped.Err() != nil {
		return nil, errClosed
	}
	if len(h.viewers) >= h.maxViewers {
		h.figures.Refused++
		return nil, errFull
	}
	b := h.broadcasts[l]
	if b.viewers == 0 { // else the state must be the one that changes are made against
		b.last, b.whole = now, nil
	}
	if b.whole == nil {
		content, err := h.encode("state", b.last)
		if err != nil {
			return nil, err
		}
		b.whole = content
	}
	v := &viewer{language: l, messages: make(chan []byte, maxPending)}
	v.messages <- b.whole
	h.viewers[v] = struct{}{}
	b.viewers++
	if !h.working {
		h.working = true
		h.worker.Go(h.work)
	}
	return v, nil
}

func (h *hub) leave(v *viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(v)
}

// remove is called with the lock held.
func (h *hub) remove(v *viewer) {
	if _, ok := h.viewers[v]; !ok {
		return
	}
	delete(h.viewers, v)
	if b := h.broadcasts[v.language]; b.viewers > 1 {
		b.viewers--
	} else {
		*b = broadcast{}
	}
}

// drop removes a viewer that does not read.
func (h *hub) drop(v *viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.viewers[v]; ok {
		h.figures.Dropped++
		h.remove(v)
	}
}

// work sends changes until nobody looks.
func (h *hub) work() {
	ticker := time.NewTicker(h.interval)
	defer ticker.Stop()
	for {
		select {
		case <-h.stopped.Done():
			return
		case <-ticker.C:
			if h.rest() {
				return
			}
			for _, l := range texts.Languages() {
				h.update(l)
			}
		}
	}
}

// rest reports whether nobody looks; the next viewer starts the work again.
func (h *hub) rest() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.working = len(h.viewers) > 0
	return !h.working
}

// update sends what changed to the viewers of a language.
func (h *hub) update(l texts.Language) {
	h.mu.Lock()
	looked := h.broadcasts[l].viewers > 0
	h.mu.Unlock()
	if !looked {
		return
	}
	now := h.source.State(l)
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.broadcasts[l]
	if age := b.last.Time.Sub(now.Time); b.viewers == 0 || age > 0 && age < maxOvertaken {
		return
	}
	change := changes(&b.last, &now)
	if len(change) == 0 {
		return
	}
	change["time"] = now.Time
	content, err := h.encode("change", change)
	if err != nil {
		return
	}
	b.last, b.whole = now, nil
	for v := range h.viewers {
		if v.language != l {
			continue
		}
		select {
		case v.messages <- content:
		default:
			h.figures.Dropped++
			h.remove(v)
			close(v.messages)
		}
	}
}

// encode makes a server-sent event. It is called with the lock held.
func (h *hub) encode(event string, value any) ([]byte, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	h.figures.Encoded++
	message := make([]byte, 0, len(content)+len(event)+20)
	message = append(message, "event: "+event+"\ndata: "...)
	message = append(message, content...)
	return append(message, "\n\n"...), nil
}

func (h *hub) close() {
	h.mu.Lock() // join starts the worker with it held, or finds that this has stopped
	h.stop()
	h.mu.Unlock()
	h.worker.Wait()
}

func (h *hub) counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.figures
	c.Viewers = len(h.viewers)
	return c
}

// Bounds implements [bounds.Registered].
func (h *hub) Bounds() []bounds.Bound {
	h.mu.Lock()
	defer h.mu.Unlock()
	pending, whole := 0, 0
	for v := range h.viewers {
		pending = max(pending, len(v.messages))
	}
	for _, b := range h.broadcasts {
		whole = max(whole, len(b.whole))
	}
	return []bounds.Bound{
		{Name: "page.hub.viewers", Max: h.maxViewers, Size: len(h.viewers)},
		{Name: "page.hub.broadcasts", Max: len(texts.Languages()), Size: len(h.broadcasts)},
		{Name: "page.viewer.messages", Max: maxPending, Size: pending},
		// Bytes. A GPU is some kilobytes, and the source limits everything else.
		{Name: "page.broadcast.whole", Max: 16 << 20, Size: whole},
	}
}
