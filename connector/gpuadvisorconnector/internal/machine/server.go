// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Server is a ComfyUI server.
type Server struct {
	// Name is its service.instance.id: host and port.
	Name string

	seriesSet
	// pid is its process; 0 if it is not known.
	pid    int64
	newest int64
}

func (s *Server) add(r *row, key string, at int64, value float64, stale bool) (dropped string) {
	if stale {
		s.end(r.of, key, at)
		return ""
	}
	s.newest = max(s.newest, at)
	return s.put(r, key, at, value)
}

// ServerProcess sets the process of a server, so that what it holds is distinguished from
// what others do.
func (m *Machine) ServerProcess(server string, pid int64) {
	if s := m.servers[server]; s != nil {
		s.pid = pid
	}
}

// Waiting is for how long the oldest prompt of a server has waited, as a component of this
// process knows it between two scrapes.
func (m *Machine) Waiting(server string, oldest time.Duration, t time.Time) {
	if s := m.servers[server]; s != nil {
		m.drop(s.add(rows()["comfyui.queue.oldest.wait"], "", t.UnixNano(), oldest.Seconds(), false))
	}
}

// histogram adds the sums and counts of a histogram: over all series of a scrape that have
// the same key.
func (m *Machine) histogram(r *row, metric pmetric.Metric, from source, now time.Time) {
	if metric.Type() != pmetric.MetricTypeHistogram {
		return
	}
	type total struct {
		sum   float64
		count uint64
		at    int64
	}
	totals := map[string]total{}
	for _, p := range metric.Histogram().DataPoints().All() {
		key, ok := r.key(p.Attributes())
		if !ok || p.Flags().NoRecordedValue() {
			continue
		}
		at, ok := m.time(p.Timestamp(), now)
		if !ok {
			continue
		}
		if sum := p.Sum(); math.IsNaN(sum) || math.IsInf(sum, 0) {
			m.drop(droppedInvalid)
			continue
		}
		if _, known := totals[key]; !known && len(totals) >= maxKeys {
			m.drop(droppedSeries)
			continue
		}
		t := totals[key]
		totals[key] = total{t.sum + p.Sum(), t.count + p.Count(), max(t.at, at)}
	}
	for key, t := range totals {
		if s := m.server(from.server, t.at, false); s != nil {
			s.newest = max(s.newest, t.at)
			m.drop(s.put(r, key, t.at, t.sum))
			m.drop(s.put(&executions, key, t.at, float64(t.count)))
		}
	}
}

// Newest is the time of the newest sample.
func (s *Server) Newest() time.Time { return time.Unix(0, s.newest).UTC() }

// IsUp reports whether the server responds; known is false if nothing says so.
func (s *Server) IsUp(now time.Time) (isUp, known bool) {
	v, known := s.Value(ServerUp, "", now)
	return v == 1, known
}

// gpusOf are the devices that a server uses: those that list its process, and those of which
// it reports memory.
func (m *Machine) gpusOf(s *Server, now time.Time) (all []string) {
	for _, g := range m.GPUs() {
		uses := s.pid != 0 && g.processes[s.pid] != nil
		for _, of := range [...]Quantity{TorchMemory, Elastic, OutsideMemory} {
			uses = uses || s.Series(of, g.ID, now) != nil
		}
		if uses {
			all = append(all, g.ID)
		}
	}
	return slices.Clip(all)
}

// serverOf is the server whose process a process is; empty if it is none's.
func (m *Machine) serverOf(pid int64) string {
	for _, s := range m.servers {
		if s.pid == pid && pid != 0 {
			return s.Name
		}
	}
	return ""
}

// Elastic is what the servers on a device could evict.
func (m *Machine) Elastic(gpu string, now time.Time) (sum float64) {
	for _, s := range m.servers {
		v, _ := s.Value(Elastic, gpu, now)
		sum += v
	}
	return sum
}
