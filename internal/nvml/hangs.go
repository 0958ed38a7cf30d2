// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

// DefaultDeadline is how long a call may take before its GPU is unresponsive.
const DefaultDeadline = time.Second

// watchInterval is how often the session looks for calls that hang: a hang is reported
// within the deadline and twice this time.
const watchInterval = 100 * time.Millisecond

// Hang is a GPU that became unresponsive because a call has not returned within the
// deadline, or one whose call returned after all.
type Hang struct {
	GPU *GPU
	// Err is why the GPU is unresponsive; nil if its call returned.
	Err  error
	Time time.Time
}

// SubscribeHangs calls f with each hang and each end of one, once, whatever receivers read
// the GPU. f is called in a goroutine of the session and must not block.
func (s *Session) SubscribeHangs(f func(Hang)) (cancel func()) { return s.hangs.Subscribe(f) }

// SetDeadline sets how long a call may take; of several, the shortest holds until the
// session ends.
func (s *Session) SetDeadline(d time.Duration) {
	for {
		present := s.deadline.Load()
		if present != 0 && present <= int64(d) || s.deadline.CompareAndSwap(present, int64(d)) {
			return
		}
	}
}

// callDeadline is the deadline of one call.
func (s *Session) callDeadline() time.Duration {
	switch d := time.Duration(s.deadline.Load()); {
	case s.timing.Deadline > 0:
		return s.timing.Deadline
	case d > 0:
		return d
	}
	return DefaultDeadline
}

// watchCalls reports GPUs whose call hangs, and those whose call has returned, until the
// session ends.
func (s *Session) watchCalls() {
	ticker := time.NewTicker(min(watchInterval, s.callDeadline()/2))
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		for _, gpu := range s.Snapshot().GPUs {
			if h, changed := gpu.checkCall(time.Now(), s.callDeadline()); changed {
				s.reportHang(h)
			}
		}
	}
}

func (s *Session) reportHang(h Hang) {
	id := h.GPU.Identity()
	log := s.log.With(zap.String("hw.id", id.UUID), zap.Int("index", id.Index))
	if h.Err != nil {
		log.Warn("GPU timed out; its series are marked stale until it responds",
			zap.Error(h.Err), zap.Duration("card_timeout", s.callDeadline()))
	} else {
		log.Info("GPU responds again")
	}
	s.hangs.Publish(h)
}

// Hung is why the GPU is unresponsive: the call under way has not returned within the
// deadline. It is nil otherwise.
func (g *GPU) Hung() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hung == 0 {
		return nil
	}
	if began, _, _ := g.worker.calls.underWay(); began != g.hung {
		return nil // it has returned; the session reports it soon
	}
	return g.hungErr
}

// checkCall compares the call under way with the deadline; changed is true if the GPU is to
// be reported as unresponsive, or as responding again. A lost GPU is not unresponsive.
func (g *GPU) checkCall(now time.Time, deadline time.Duration) (h Hang, changed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	began, d, function := g.worker.calls.underWay()
	switch hangs := began != 0 && d >= deadline; {
	case hangs && (g.hung != 0 || g.err == nil):
		g.hung, g.hungErr = began, fmt.Errorf("%s: %w", function, errHangs)
	case g.hung != 0 && began != g.hung:
		g.hung, g.hungErr, g.returned = 0, nil, now
	}
	switch {
	case g.hung != 0 && !g.reported:
		g.reported = true
		g.holdsBack = !g.recovered.IsZero() && now.Sub(g.recovered) < flapWindow
		return Hang{GPU: g, Err: g.hungErr, Time: now}, true
	case g.hung == 0 && g.reported && (!g.holdsBack || now.Sub(g.returned) >= flapWindow):
		g.reported, g.recovered = false, now
		return Hang{GPU: g, Time: now}, true
	}
	return Hang{}, false
}

// flapWindow keeps a GPU with calls that hang now and then from being reported each time: one
// that hangs again within it is unresponsive until none has hung for as long.
const flapWindow = time.Minute
