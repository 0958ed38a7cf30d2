// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"errors"
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// handovers follows traces from the receiver to the exporters' queue. A connector that
// holds traces says so on the bus before its ConsumeTraces returns, and what became of
// them later: only then does the prompt leave the store.
type handovers struct {
	settled settler
	limit   int // of open

	mu sync.Mutex
	// open are the traces that are on their way; guarded by mu.
	open map[rootSpan]*handover
	// cancel ends the subscription. It may be called more than once.
	cancel func()
	// last is set when the receiver has stopped, until no trace is on its way.
	last drained
}

// drained is called once, when no trace is on its way. It must not block.
type drained interface{ drained() }

// settler learns what became of a prompt's trace. It must not block.
type settler interface {
	// handedOver is called once for each prompt: accepted if its trace is with all
	// exporters, else it is lost.
	handedOver(p *prompt.Prompt, accepted bool)
}

type rootSpan struct {
	trace pcommon.TraceID
	span  pcommon.SpanID
}

func rootOfPrompt(p *prompt.Prompt) rootSpan {
	return rootSpan{pcommon.TraceID(p.Context.TraceID()), pcommon.SpanID(p.Context.SpanID())}
}

type handover struct {
	prompt *prompt.Prompt
	// holders is how many components hold the trace.
	holders  int
	returned bool // by the next consumer
	refused  bool
	left     bool // to the next process
}

func newHandovers(bus *comfyevents.Bus, s settler, limit int) *handovers {
	h := &handovers{settled: s, limit: limit, open: map[rootSpan]*handover{}}
	h.cancel = bus.Handovers.Subscribe(h.observe)
	return h
}

// begin is called before a prompt's trace is passed to the next consumer. False if too many
// are on their way: what becomes of the trace is not observed, and its prompt has left the
// store.
func (h *handovers) begin(p *prompt.Prompt) bool {
	h.mu.Lock()
	key := rootOfPrompt(p)
	fits := len(h.open) < h.limit || h.open[key] != nil
	if fits {
		h.open[key] = &handover{prompt: p}
	}
	h.mu.Unlock()
	if !fits {
		h.settled.handedOver(p, true)
	}
	return fits
}

// passed is called when the next consumer has returned for the last time, with or without
// an error, or with errLeft.
func (h *handovers) passed(p *prompt.Prompt, err error) {
	if errors.Is(err, errLeft) {
		h.mu.Lock()
		delete(h.open, rootOfPrompt(p))
		h.mu.Unlock()
		return
	}
	h.update(rootOfPrompt(p), func(o *handover) {
		o.returned = true
		o.refused = o.refused || err != nil
	})
}

func (h *handovers) observe(e comfyevents.Handover) {
	h.update(rootSpan{e.Trace, e.Root}, func(o *handover) {
		switch e.Custody {
		case comfyevents.Held:
			o.holders++
		case comfyevents.Accepted:
			o.holders--
		case comfyevents.Refused:
			o.holders--
			o.refused = true
		case comfyevents.Abandoned:
			o.holders--
			o.left = true
		}
	})
}

func (h *handovers) update(key rootSpan, apply func(*handover)) {
	h.mu.Lock()
	o := h.open[key]
	if o == nil {
		h.mu.Unlock()
		return // of another receiver, or settled
	}
	apply(o)
	done := o.returned && o.holders <= 0
	if done {
		delete(h.open, key)
	}
	last := h.ifDrained()
	h.mu.Unlock()
	if done && !o.left {
		h.settled.handedOver(o.prompt, !o.refused)
	}
	if last != nil {
		last.drained()
	}
}

// ifDrained returns what is to be called now; nil if nothing is. The caller holds the lock.
func (h *handovers) ifDrained() (last drained) {
	if len(h.open) == 0 {
		last, h.last = h.last, nil
	}
	return last
}

// whenDrained calls last once no trace is on its way: at once, or by the one that ends.
func (h *handovers) whenDrained(last drained) {
	h.mu.Lock()
	h.last = last
	now := h.ifDrained()
	h.mu.Unlock()
	if now != nil {
		now.drained()
	}
}

// abandon forgets the traces that are still on their way.
func (h *handovers) abandon() {
	h.mu.Lock()
	clear(h.open)
	last := h.ifDrained()
	h.mu.Unlock()
	if last != nil {
		last.drained()
	}
}
