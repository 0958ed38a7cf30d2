// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/owner"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/reader"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// gpuScraper makes the scrapes of one nvml receiver: it asks every GPU's worker, uses
// the readings that come before the deadline, and marks the other GPUs' series stale. It
// never calls NVML itself, so that a call that hangs does not delay it.
type gpuScraper struct {
	cfg      *Config
	settings receiver.Settings
	log      *zap.Logger
	sessions *nvml.Sessions
	bus      *gpuevents.Bus
	matcher  deviceMatcher
	rows     []*table.Row
	now      func() time.Time

	// scraping is held during a scrape, the start and the shutdown. It guards everything
	// declared below.
	scraping  sync.Mutex
	host      component.Host
	hostname  string
	session   *nvml.Session
	known     map[*nvml.GPU]*gpu
	gpus      []*gpu // by index
	emitter   *emitter
	telemetry *telemetry
	once      logonce.Tracker
	xids      *xidCounts
	sampler   *reader.Sampler
	owners    *owner.Resolver
	holders   holders
}

func newGPUScraper(
	settings receiver.Settings, cfg *Config, sessions *nvml.Sessions, bus *gpuevents.Bus, now func() time.Time,
) *gpuScraper {
	return &gpuScraper{
		cfg: cfg, settings: settings, log: settings.Logger, sessions: sessions, bus: bus, matcher: newDeviceMatcher(cfg.Devices),
		rows: table.Rows(&cfg.Metrics, cfg.samplerEnabled()), now: now, known: map[*nvml.GPU]*gpu{},
	}
}

// sampled reports whether any of the rows needs the sampler.
func (s *gpuScraper) sampled() bool {
	return slices.ContainsFunc(s.rows, func(row *table.Row) bool { return row.Sampled })
}

// start acquires the session. It does not wait for the driver.
func (s *gpuScraper) start(_ context.Context, host component.Host) (err error) {
	s.scraping.Lock()
	defer s.scraping.Unlock()
	s.host = host
	if s.hostname, err = os.Hostname(); err != nil {
		s.log.Warn("Cannot read the host name; host.name is empty", zap.Error(err))
	}
	s.emitter = newEmitter(s.cfg, s.settings, s.hostname)
	if s.telemetry, err = newTelemetry(s.settings, s.rows); err != nil {
		return err
	}
	if s.session, err = s.sessions.Acquire(s.cfg.LibraryPath, s.log); err != nil {
		return err
	}
	if s.sampled() {
		s.sampler = reader.StartSampler(s.cfg.SamplingInterval)
	}
	if s.cfg.needsOwners() {
		s.owners = owner.New(owner.Settings{
			Proc: s.cfg.Processes.ProcPath, Logs: s.cfg.Processes.LogPath, Socket: s.cfg.Processes.PodResources,
			Interval: s.cfg.Processes.PodResourcesInterval, Observer: s, Now: s.now,
		})
		if err := s.owners.Check(); err != nil {
			s.log.Warn("Cannot read the process table; processes have no executable and no container. Set processes::proc_path to the host's /proc",
				zap.String("processes::proc_path", s.cfg.Processes.ProcPath), zap.Error(err))
		}
	}
	if s.cfg.Metrics.HwGpuXidErrors.Enabled {
		s.xids, err = newXIDCounts(s.session)
	}
	return err
}

// shutdown releases the session. It waits for calls under way for a second at most, and
// not for those that hang.
func (s *gpuScraper) shutdown(ctx context.Context) error {
	s.scraping.Lock()
	defer s.scraping.Unlock()
	if s.sampler != nil {
		s.sampler.Stop()
		s.sampler = nil
	}
	if s.xids != nil {
		s.xids.close()
	}
	if s.owners != nil {
		s.owners.Close()
		s.owners = nil
	}
	if s.session != nil {
		for _, g := range s.gpus {
			s.bus.Forget(g.shared)
			if !g.pending && g.shared.Err() == nil {
				g.reader.Free()
			}
		}
		s.sessions.Release(ctx)
		s.session = nil
	}
	if s.telemetry != nil {
		s.telemetry.shutdown()
	}
	return nil
}

// scrape makes one scrape. It returns within card_timeout. Failures are reported by
// metrics, the log and the component's status, not as an error, which scraperhelper
// would log at every scrape.
func (s *gpuScraper) scrape(ctx context.Context) (pmetric.Metrics, error) {
	s.scraping.Lock()
	defer s.scraping.Unlock()
	if !s.inspected(ctx) {
		return pmetric.NewMetrics(), nil // the driver has not yet responded, so the GPUs are unknown
	}
	now := s.now()
	snapshot := s.session.Snapshot()
	s.reportStatus(&snapshot)
	s.update(&snapshot)
	s.ask(&snapshot)
	s.wait(ctx)
	return s.emit(now, &snapshot), nil
}

// inspected waits, within the deadline of the first scrapes, until the session has
// inspected the machine.
func (s *gpuScraper) inspected(ctx context.Context) bool {
	select {
	case <-s.session.Inspected():
		return true
	default:
	}
	deadline := time.After(s.cfg.gpuTimeout())
	select {
	case <-s.session.Inspected():
		return true
	case <-deadline:
	case <-ctx.Done():
	}
	return false
}

// update adds the GPUs that are new to the session.
func (s *gpuScraper) update(snapshot *nvml.Snapshot) {
	added := false
	for _, shared := range snapshot.GPUs {
		if s.known[shared] != nil || shared.Err() != nil || len(s.gpus) >= nvml.MaxGPUs {
			continue // known, or lost before it was read; at the limit, others are forgotten first
		}
		if id := shared.Identity(); s.matcher.matches(id.UUID, id.Index, id.PCIBusID) {
			processes := table.NewProcesses(s.owners, s.cfg.Processes.Limit)
			g := newGPU(shared, reader.New(shared, reader.Settings{Rows: s.rows, Sampler: s.sampled(), Now: s.now}, processes))
			s.known[shared] = g
			s.gpus = append(s.gpus, g)
			added = true
		}
	}
	if added && s.sampler != nil {
		readers := make([]*reader.Reader, len(s.gpus))
		for i, g := range s.gpus {
			readers[i] = g.reader
		}
		s.sampler.Follow(readers)
	}
	slices.SortStableFunc(s.gpus, func(a, b *gpu) int { return cmp.Compare(a.shared.Identity().Index, b.shared.Identity().Index) })
}

// ask sends a request to every GPU that is present and has answered the last one.
func (s *gpuScraper) ask(snapshot *nvml.Snapshot) {
	for _, g := range s.gpus {
		if late, ok := g.poll(); ok {
			s.account(g, &late)
			g.spare = late
		}
		switch err := g.shared.Err(); {
		case err != nil:
			if !g.pending {
				g.describe(snapshot.DriverVersion, snapshot.CUDAVersion)
			}
			s.setCondition(g, lost, err)
		case g.pending:
			s.setCondition(g, unresponsive, errDeadline)
		case !g.ask(snapshot.DriverVersion, snapshot.CUDAVersion):
			s.setCondition(g, unresponsive, errQueueFull)
		default:
			g.asked = true
		}
	}
}

// wait waits for the readings until the deadline, and concludes each GPU.
func (s *gpuScraper) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.gpuTimeout())
	defer cancel()
	for _, g := range s.gpus {
		if !g.asked {
			continue
		}
		g.asked = false
		if reading, ok := g.await(ctx); ok {
			s.conclude(g, reading)
		} else {
			s.setCondition(g, unresponsive, errDeadline)
		}
	}
}

var (
	errDeadline  = errors.New("a call in NVIDIA's driver has not returned")
	errQueueFull = errors.New("too many receivers wait for this GPU")
)

// conclude judges a GPU by its reading.
func (s *gpuScraper) conclude(g *gpu, reading reader.Reading) {
	s.account(g, &reading)
	if reading.Lost != nil {
		s.telemetry.callFailed(reading.Lost)
		s.setCondition(g, lost, reading.Lost)
		s.session.Wake()
		g.spare = reading
		return
	}
	g.accept(reading, s.now())
	s.setCondition(g, healthy, nil)
	for _, r := range &table.ThrottleReasons {
		s.bus.ReportThrottling(g.shared, r.Name, reading.Health.Throttling&r.Bit != 0, s.now())
	}
}

// account counts a reading in the receiver's own telemetry, and logs what changed.
func (s *gpuScraper) account(g *gpu, reading *reader.Reading) {
	s.telemetry.observe(g.identity.Name, reading)
	for i := range reading.Changes {
		s.logChange(g, reading.Changes[i], reading.Changes[:i])
	}
}

// emit turns the GPUs into points.
func (s *gpuScraper) emit(now time.Time, snapshot *nvml.Snapshot) pmetric.Metrics {
	e := s.emitter
	s.holders.update(s.owners)
	s.reportBounds()
	e.begin(pcommon.NewTimestampFromTime(now), snapshot.Simulated)
	counts := [...]int64{healthy: 0, unresponsive: int64(snapshot.Unidentified), lost: int64(snapshot.LostUnidentified)}
	s.gpus = slices.DeleteFunc(s.gpus, func(g *gpu) bool {
		forgotten := !slices.Contains(snapshot.GPUs, g.shared) // by the session
		if !forgotten && (g.condition != lost || s.cfg.ForgetLostAfter <= 0 || now.Sub(g.lostSince) < s.cfg.ForgetLostAfter) {
			counts[g.condition]++
			e.gpu(g, s.holders.appendTo(s.xids.appendTo(g.samples(), g.shared), g))
			return false
		}
		e.forget(g)
		if !forgotten && g.shared.Err() == nil {
			return false // it is back, and is read in the next scrape
		}
		if forgotten {
			s.xids.forget(g.shared)
		}
		s.bus.Forget(g.shared)
		delete(s.known, g.shared)
		return true
	})
	return e.end(counts[:])
}
