// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
)

// ask asks the server.
func (m *memoryWatcher) ask(ctx context.Context) {
	m.mu.Lock()
	now := m.now()
	m.hasAsked(now)
	starts := m.starts
	lists := starts || m.isElasticOld(now)
	if lists {
		m.listed = now
	}
	m.mu.Unlock()
	if lists {
		m.device.readProcesses(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	begin := m.now()
	stats, err := m.server.stats(limited)
	end := m.now()
	answer := &memoryAnswer{Stats: stats, asked: begin, at: end}
	if err == nil && starts {
		answer.rests, answer.fresh = m.server.rests(ctx)
	}
	late := limited.Err() != nil
	if err == nil && m.readsRetries() {
		m.readLog(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.failed = begin
	}
	switch {
	case ctx.Err() != nil:
	case late:
		m.pace.Late(end.Sub(begin))
		m.memoryAsked(memoryLate)
	case err != nil:
		m.pace.Answered(end.Sub(begin))
		m.memoryAsked(memoryFailed)
	default:
		m.starts = m.starts && !starts
		m.pace.Answered(end.Sub(begin))
		m.memoryAsked(memoryAnswered)
		m.add(answer, begin)
	}
}

// readsRetries reports whether a prompt that has ended waits for what the log says of it.
func (m *memoryWatcher) readsRetries() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.retriesOn && len(m.ending) > 0 && !m.server.withoutLog.Load()
}

// readLog reads which work was tried again. The question counts for the pace like the others.
func (m *memoryWatcher) readLog(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	begin := m.now()
	log, err := m.server.log(limited)
	end := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.retries = log.RetriesAt(end)
		m.pace.Answered(end.Sub(begin))
	case limited.Err() != nil: // it is not asked again until it restarts
		m.server.withoutLog.Store(true)
		m.pace.Late(end.Sub(begin))
	}
}

// The list of processes is read for the metrics every few seconds while work runs, rarely within
// [memory.MaxSkew] of an answer. A server that works without a pause can load models meanwhile,
// and what is elastic would be too small for as long: an alert on a full GPU takes that for
// memory which cannot be evicted. So the list is read with a question once none was compared
// for oldQuestions questions, or for oldAfter where a slow server is asked rarely, and then with each
// listQuestions-th, or once in listEvery.
const (
	oldQuestions, oldAfter   = 10, 5 * time.Second
	listQuestions, listEvery = 4, 2 * time.Second
	// maxBetween is how far two answers may be apart for a list between them to mean anything: two
	// of a slow server.
	maxBetween = 15 * time.Second
)

// isElasticOld reports whether the list of processes is to be read with this question, for
// what is elastic. The caller holds the lock.
func (m *memoryWatcher) isElasticOld(now time.Time) bool {
	if m.open.OpenCount() == 0 || m.last == nil || len(m.last.Devices) != 1 || !m.last.Dynamic() {
		return false
	}
	interval := m.pace.Interval()
	return now.Sub(m.compared) >= min(oldQuestions*interval, oldAfter) && now.Sub(m.listed) >= min(listQuestions*interval, listEvery)
}

// is forgets everything if the server's process is another one. Once it is known, the server is
// asked right after a list of processes. The caller holds the lock.
func (m *memoryWatcher) is(process memory.Process) {
	before := m.outside.Learned().Process
	if !m.outside.Is(process) {
		return
	}
	m.outside.Restore(m.former)
	m.before, m.unmatched, m.starts, m.without, m.asked = nil, nil, true, false, time.Time{}
	if before != (memory.Process{}) {
		m.history.Restarted()
		m.last, m.retries = nil, nil
		m.loading.restarted(m.now())
	}
}

// add keeps an answer. The caller holds the lock.
func (m *memoryWatcher) add(answer *memoryAnswer, asked time.Time) {
	s := memory.Sample{Asked: asked, At: answer.at}
	gpus := 0
	for i := range answer.Devices {
		if d := &answer.Devices[i]; d.IsGPU() {
			s.Active += d.Active()
			s.Reserved += d.TorchTotal
			s.Used += max(d.Total-d.Free, 0)
			gpus++
		}
	}
	if m.without = gpus == 0; !m.without {
		m.history.Add(s)
	}
	m.before, m.last, m.unmatched = m.last, answer, answer
}

// match compares an answer with a list of the GPU's processes, once one of its time can be
// there. Which GPU a device is, is known where there is one. It reports whether something was
// learned. The caller holds the lock.
func (m *memoryWatcher) match(now time.Time) (learned bool) {
	a := m.unmatched
	if a == nil || now.Sub(a.at) < memory.MaxSkew {
		return false
	}
	m.unmatched = nil
	if len(a.Devices) != 1 {
		return false
	}
	bytes, at, ok := m.device.memory()
	if !ok {
		return false
	}
	if at.Sub(a.at).Abs() > memory.MaxSkew || !m.isSteady(a, at) {
		if b := m.before; m.isBetween(b, a, at) && m.outside.SeeBetween(float64(bytes), max(b.Devices[0].TorchTotal, a.Devices[0].TorchTotal)) {
			m.compared = now
		}
		return false
	}
	m.compared = now
	return m.outside.See(memory.Reading{Process: float64(bytes), Reserved: a.Devices[0].TorchTotal, Dynamic: a.Dynamic(), Fresh: a.fresh})
}

// save stores what was learned. The disk may be slow, so the caller does not hold the lock.
func (m *memoryWatcher) save(ctx context.Context, learned memory.Learned) {
	if m.store.client == nil {
		return
	}
	raw, err := json.Marshal(learned)
	if err == nil {
		err = m.store.client.Set(ctx, memoryKey, raw)
	}
	m.store.report(err)
}

// isBetween reports whether a list of processes was read between two answers of a server with Dynamic
// VRAM while it worked: models may be loaded all the time, and answers may take longer than
// [memory.MaxSkew], so that none is steady. The caller holds the lock.
func (m *memoryWatcher) isBetween(before, after *memoryAnswer, listed time.Time) bool {
	return m.open.OpenCount() > 0 && after == m.last && before != nil && len(before.Devices) == 1 && after.Dynamic() &&
		listed.After(before.at) && listed.Before(after.asked) && after.at.Sub(before.asked) <= maxBetween
}

// isSteady reports whether the allocator kept its reserve between an answer and a list of
// processes: the server rested meanwhile, or the answers before and after the list say the
// same. A server that rests may give memory back soon after a prompt; a list that was read
// later than the answer then shows too little, not too much. The caller holds the lock.
func (m *memoryWatcher) isSteady(a *memoryAnswer, listed time.Time) bool {
	b := m.before
	same := a == m.last && b != nil && len(b.Devices) == 1 && b.Devices[0].TorchTotal == a.Devices[0].TorchTotal && listed.After(b.at)
	switch {
	case m.open.OpenCount() > 0:
		return same && listed.Before(a.at)
	case a.rests:
		return true
	}
	return !a.asked.Before(m.lastEnd) && !listed.Before(m.lastEnd) && (same || !listed.Before(a.asked))
}
