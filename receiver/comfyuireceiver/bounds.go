// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

var _ bounds.Registered = (*comfyuiReceiver)(nil)

// Bounds implements [bounds.Registered]. It waits while the receiver starts or shuts down.
// NVML's session is listed by the nvml receiver, with which this one shares it.
func (r *comfyuiReceiver) Bounds() []bounds.Bound {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.following == nil {
		return nil
	}
	all := bounds.Of(r.following, r.export, r.store)
	if r.proxy != nil {
		all = append(all, r.proxy.admitter.Bounds()...)
	}
	if r.remote != nil {
		all = append(all, r.remote.Bounds()...)
	}
	if r.hub != nil {
		all = append(all, r.hub.Bounds()...)
	}
	return all
}

// Bounds implements [bounds.Registered].
func (f *follower) Bounds() []bounds.Bound {
	all := append(bounds.Of(f.instruments, f.tracker, f.classes, f.loading, f.ownSocket), bounds.Bound{
		Name: "comfyuireceiver.follower.unanswered", Max: f.store.maxSlots, Size: int(f.searched.Load()),
	})
	if f.memory != nil {
		all = append(all, f.memory.Bounds()...)
	}
	if p := f.polling.Load(); p != nil {
		all = append(all, p.Bounds()...)
	}
	return all
}

// Bounds implements [bounds.Registered].
func (c *apiClasses) Bounds() []bounds.Bound {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []bounds.Bound{
		{Name: "comfyuireceiver.apiClasses.known", Max: c.limit, Size: len(c.known)},
		{Name: "comfyuireceiver.apiClasses.unknown", Max: c.limit, Size: len(c.unknown)},
	}
}

// Bounds implements [bounds.Registered].
func (p *poller) Bounds() []bounds.Bound {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bounds.Of(&p.failing, p.exported)
}

// Bounds implements [bounds.Registered].
func (m *instruments) Bounds() []bounds.Bound {
	return bounds.Of(m.workflows, m.models, m.classes, m.tasks, m.events, &m.ioOptions, &m.requestOptions)
}

// Bounds implements [bounds.Registered].
func (c *optionCache) Bounds() []bounds.Bound {
	// One that is being added and finds no room counts for a moment.
	return []bounds.Bound{{Name: "comfyuireceiver.optionCache.options", Max: maxSeries, Size: min(int(c.size.Load()), maxSeries)}}
}

// Bounds implements [bounds.Registered].
func (l *labels) Bounds() []bounds.Bound {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []bounds.Bound{
		{Name: "comfyuireceiver.labels.known", Max: l.limit, Size: len(l.known)},
		{Name: "comfyuireceiver.labels.byUse", Max: l.limit, Size: l.byUse.Len()},
	}
}

// Bounds implements [bounds.Registered].
func (o *ownSockets) Bounds() []bounds.Bound {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bounds.Of(o.pollers, o.connected)
}

// Bounds implements [bounds.Registered].
func (e *exporter) Bounds() []bounds.Bound {
	return append(bounds.Of(e.handovers, &e.refused), []bounds.Bound{
		{Name: "comfyuireceiver.exporter.traceItems", Max: cap(e.traceItems), Size: len(e.traceItems)},
		{Name: "comfyuireceiver.exporter.logItems", Max: cap(e.logItems), Size: len(e.logItems)},
	}...)
}

// Bounds implements [bounds.Registered].
func (h *handovers) Bounds() []bounds.Bound {
	h.mu.Lock()
	defer h.mu.Unlock()
	return []bounds.Bound{{Name: "comfyuireceiver.handovers.open", Max: h.limit, Size: len(h.open)}}
}

// Bounds implements [bounds.Registered].
func (s *store) Bounds() []bounds.Bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(s.failing.Bounds(), []bounds.Bound{
		{Name: "comfyuireceiver.store.free", Max: s.maxSlots, Size: len(s.free)},
		{Name: "comfyuireceiver.store.changes", Max: s.maxSlots, Size: len(s.changes)},
		{Name: "comfyuireceiver.store.exported", Max: maxExported, Size: len(s.exported)},
	}...)
}
