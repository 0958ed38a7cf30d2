// SPDX-License-Identifier: Apache-2.0

// Package machine is what metrics and logs say of the GPUs and the ComfyUI servers of a host
// now and in the last half hour. It is pure: no clock, no lock, no I/O. What is not known,
// because no metric says so or its samples have stopped, is absent.
//
// Samples may come in any order and from several receivers: the newer one counts. A sample
// whose time is more than a few seconds ahead of the clock is dropped, so that a clock that
// was set back is noticed and the times from before are forgotten.
package machine

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
)

// Limits bounds what a Machine holds.
type Limits struct {
	// GPUs bounds the devices, MIG devices included; Processes those of one device.
	GPUs, Processes int
	// Servers bounds the ComfyUI servers, Events the last events.
	Servers, Events int
	// History is how far the history reaches, a minute at least; 0 is half an hour.
	History time.Duration
}

// DefaultLimits suit a host with 16 GPUs that are each divided into seven MIG devices.
func DefaultLimits() Limits {
	return Limits{GPUs: 128, Processes: 64, Servers: 64, Events: 200, History: 30 * time.Minute}
}

const (
	// tolerance is how far a sample may be ahead of the clock.
	tolerance = 5 * time.Second
	// sweepInterval is how often what has ended is removed, so long after its end.
	sweepInterval = time.Minute
	// maxText bounds ids and texts from outside, in bytes.
	maxText = 160
)

// What was dropped, by the reason.
const (
	droppedGPU     = "gpu"     // no room for another device
	droppedProcess = "process" // no room for another process of a device
	droppedServer  = "server"  // no room for another server
	droppedSeries  = "series"  // no room for another series of a quantity
	droppedFuture  = "future"  // its time is ahead of the clock
	droppedInvalid = "invalid" // not a number
	droppedEvent   = "event"   // an old event made room for a new one
	droppedHistory = "history" // forgotten because the clock was set back
)

// Machine is the state of a host. It is not safe for concurrent use.
type Machine struct {
	limits    Limits
	gpus      map[string]*GPU
	servers   map[string]*Server
	events    []Event
	dropped   map[string]int64
	catalogue *xid.Catalogue
	host      string
	simulated bool
	// clock is the time of the newest call, swept that of the last sweep.
	clock, swept time.Time
}

// New makes a machine of which nothing is known.
func New(limits Limits) (*Machine, error) {
	catalogue, err := xid.Load()
	if err != nil {
		return nil, err
	}
	limits.History = max(cmp.Or(limits.History, DefaultLimits().History), time.Minute)
	return &Machine{limits: limits, gpus: map[string]*GPU{}, servers: map[string]*Server{}, dropped: map[string]int64{}, catalogue: catalogue}, nil
}

// Host is host.name of the receivers.
func (m *Machine) Host() string { return m.host }

// Simulated reports whether any sample came from the test library.
func (m *Machine) Simulated() bool { return m.simulated }

// Dropped counts what was dropped, by the reason.
func (m *Machine) Dropped() map[string]int64 { return maps.Clone(m.dropped) }

// isLate is no loss: there is a newer value, and the history has a place for it.
const isLate = "late"

func (m *Machine) drop(what string) {
	if what != "" && what != isLate {
		m.dropped[what]++
	}
}

// GPUs are the devices that have not vanished, by their index.
func (m *Machine) GPUs() []*GPU {
	all := make([]*GPU, 0, len(m.gpus))
	for _, g := range m.gpus {
		if g.live > 0 || len(g.processes) > 0 {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b *GPU) int { return cmp.Or(compareNatural(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return all
}

// GPU finds a device by its hw.id; nil if it is not known.
func (m *Machine) GPU(id string) *GPU { return m.gpus[id] }

// Servers are the ComfyUI servers, by their names.
func (m *Machine) Servers() []*Server {
	return slices.SortedFunc(maps.Values(m.servers), func(a, b *Server) int { return cmp.Compare(a.Name, b.Name) })
}

// Newest is the time of the newest sample of any GPU; false if there is none.
func (m *Machine) Newest() (time.Time, bool) {
	newest := int64(0)
	for _, g := range m.gpus {
		newest = max(newest, g.newest)
	}
	return time.Unix(0, newest).UTC(), newest > 0
}

// source is what the resource of metrics or log records says.
type source struct{ host, gpu, server string }

func sourceOf(resource pcommon.Resource) source {
	a := resource.Attributes()
	return source{host: pdataread.Text(a, semconv.HostName), gpu: pdataread.Text(a, semconv.GPUID), server: pdataread.Text(a, "service.instance.id")}
}

// isOf sets the host to that of a GPU's sample: other services of the pipeline may be in
// containers, with names of their own.
func (m *Machine) isOf(from source) {
	if from.host != "" && from.host != m.host {
		m.host = boundtext.Line(from.host, maxText)
	}
}

// Metrics adds a scrape.
func (m *Machine) Metrics(md pmetric.Metrics, now time.Time) {
	m.advance(now)
	for _, rm := range md.ResourceMetrics().All() {
		from := sourceOf(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				r := rows()[metric.Name()]
				switch {
				case r == nil:
				case r.kind == histogram:
					m.histogram(r, metric, from, now)
				default:
					for _, p := range pdataread.Points(metric).All() {
						m.point(r, p, from, now)
					}
				}
			}
		}
	}
}

// MemoryRead adds a reading of a GPU's memory between two scrapes. Its time is by the clock of
// this process.
func (m *Machine) MemoryRead(gpu string, used int64, t time.Time) {
	g := m.gpus[gpu]
	if g == nil {
		return
	}
	m.drop(g.put(rows()["hw.gpu.memory.usage"], "", t.UnixNano(), float64(used)))
	g.history.put(peakColumn, t.UnixNano(), float64(used), false)
}

// advance notices a clock that was set back, and removes what has ended.
func (m *Machine) advance(now time.Time) {
	if now.Add(tolerance).Before(m.clock) {
		m.restart()
		m.swept = now // so that all have the time to be sampled again
	}
	m.clock = now
	if age := now.Sub(m.swept); age >= 0 && age < sweepInterval {
		return
	}
	m.swept = now
	before := now.Add(-sweepInterval).UnixNano()
	for id, g := range m.gpus {
		g.sweep(before)
		g.forgetProcesses(now.Add(-Lookback).UnixNano())
		if g.live == 0 && len(g.processes) == 0 && g.newest < before {
			delete(m.gpus, id)
		}
	}
	for name, s := range m.servers {
		s.sweep(before)
		if s.newest < now.Add(-m.limits.History).UnixNano() {
			delete(m.servers, name)
		}
	}
}

// restart forgets the times of a clock that was set back.
func (m *Machine) restart() {
	for _, g := range m.gpus {
		g.restart()
		m.drop(droppedHistory)
	}
	for _, s := range m.servers {
		s.restart()
		s.newest = 0
	}
}

// point adds a point of a gauge or a sum.
func (m *Machine) point(r *row, p pmetric.NumberDataPoint, from source, now time.Time) {
	a := p.Attributes()
	key, ok := r.key(a)
	if !ok {
		return
	}
	stale := p.Flags().NoRecordedValue()
	value := pdataread.Number(p)
	if !stale && (math.IsNaN(value) || math.IsInf(value, 0)) {
		m.drop(droppedInvalid)
		return
	}
	at, ok := m.time(p.Timestamp(), now)
	if !ok {
		return
	}
	m.simulated = m.simulated || pdataread.True(a, semconv.Simulated)
	if r.of.ofServer() {
		if s := m.server(from.server, at, stale); s != nil {
			m.drop(s.add(r, key, at, value, stale))
		}
		return
	}
	id := cmp.Or(pdataread.Text(a, semconv.GPUID), from.gpu)
	if id == "" {
		return
	}
	if g := m.gpu(boundtext.Line(id, maxText), at, stale); g != nil {
		m.isOf(from)
		m.drop(g.add(r, key, at, value, stale, a, m.limits.Processes))
	}
}

// time is when a point was sampled; false if that is ahead of the clock.
func (m *Machine) time(t pcommon.Timestamp, now time.Time) (int64, bool) {
	if t == 0 {
		return now.UnixNano(), true
	}
	if t > pcommon.NewTimestampFromTime(now.Add(tolerance)) {
		m.drop(droppedFuture)
		return 0, false
	}
	return int64(t), true
}

// key is by what a point's series is distinguished; false if the point is not read.
func (r *row) key(a pcommon.Map) (string, bool) {
	for _, w := range r.where {
		if v, ok := a.Get(w.key); !ok || v.AsString() != w.value {
			return "", false
		}
	}
	if len(r.by) == 0 {
		return "", true
	}
	parts := make([]string, len(r.by))
	for i, by := range r.by {
		if v, ok := a.Get(by); ok {
			parts[i] = v.AsString()
		}
	}
	if slices.Contains(r.except, parts[len(parts)-1]) {
		return "", false
	}
	return boundtext.Line(strings.Join(parts, "|"), maxText), true
}

// gpu finds a device, or makes it for a sample. At the bound the one without samples for the
// longest time makes room, if its samples have stopped.
func (m *Machine) gpu(id string, at int64, stale bool) *GPU {
	if g := m.gpus[id]; g != nil || stale {
		return g
	}
	if len(m.gpus) >= m.limits.GPUs {
		m.drop(droppedGPU)
		var oldest *GPU
		for _, g := range m.gpus {
			if oldest == nil || g.newest < oldest.newest {
				oldest = g
			}
		}
		if oldest == nil || at-oldest.newest < time.Minute.Nanoseconds() {
			return nil
		}
		delete(m.gpus, oldest.ID)
	}
	g := newGPU(id, m.limits.History)
	m.gpus[id] = g
	return g
}

// server is gpu for ComfyUI servers.
func (m *Machine) server(name string, at int64, stale bool) *Server {
	name = boundtext.Line(cmp.Or(name, "ComfyUI"), maxText)
	if s := m.servers[name]; s != nil || stale {
		return s
	}
	if len(m.servers) >= m.limits.Servers {
		m.drop(droppedServer)
		var oldest *Server
		for _, s := range m.servers {
			if oldest == nil || s.newest < oldest.newest {
				oldest = s
			}
		}
		if oldest == nil || at-oldest.newest < time.Minute.Nanoseconds() {
			return nil
		}
		delete(m.servers, oldest.Name)
	}
	s := &Server{Name: name}
	m.servers[name] = s
	return s
}

// compareNatural orders gpu2 before gpu10.
func compareNatural(a, b string) int {
	digits := func(s string) int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			m, n := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0")
			if c := cmp.Or(cmp.Compare(len(m), len(n)), cmp.Compare(m, n)); c != 0 {
				return c
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}
