// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"cmp"
	"context"
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

// gpuScraper makes the scrapes of one nvml receiver: it asks every GPU's worker, uses the
// readings that come within the interval, leaves out GPUs that need longer, and marks the
// series of those stale whose call hangs. It never calls NVML itself, so that a call that
// hangs does not delay it.
type gpuScraper struct {
	cfg      *Config
	settings receiver.Settings
	log      *zap.Logger
	sessions *nvml.Sessions
	bus      *gpuevents.Bus
	work     *gpuevents.Work
	matcher  deviceMatcher
	rows     []*table.Row
	pacer    *pacer // nil unless the receiver follows work
	slowCall time.Duration
	now      func() time.Time
	// hung holds a value after a change of what the session says of calls that hang.
	hung chan struct{}

	// scraping is held during a scrape, the start and the shutdown. It guards everything
	// declared below.
	scraping  sync.Mutex
	host      component.Host
	hostname  string
	session   *nvml.Session
	watching  subscriptions // to calls that hang
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
	s := &gpuScraper{
		cfg: cfg, settings: settings, log: settings.Logger, sessions: sessions, bus: bus, work: gpuevents.WorkOfProcess(),
		matcher: newDeviceMatcher(cfg.Devices), rows: table.Rows(&cfg.Metrics, cfg.samplerEnabled(), cfg.followsWork()),
		slowCall: reader.SlowCall, now: now, hung: make(chan struct{}, 1), known: map[*nvml.GPU]*gpu{},
	}
	if cfg.followsWork() {
		s.pacer = newPacer(cfg)
	}
	return s
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
	s.sessions.AllowSleep(s.cfg.Sleep == sleepAllow)
	if s.session, err = s.sessions.Acquire(s.cfg.LibraryPath, s.log); err != nil {
		return err
	}
	s.session.SetDeadline(s.cfg.gpuTimeout())
	s.watching.cancel = []func(){s.session.SubscribeHangs(s.reportHang)}
	if s.pacer != nil {
		s.pacer.start(s.work)
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
	if s.cfg.Metrics.HwGpuXidErrors.Enabled || s.cfg.Metrics.HwGpuXidLast.Enabled {
		s.xids, err = newXIDCounts(s.session)
	}
	return err
}

// shutdown releases the session. It waits for calls under way for a second at most, and
// not for those that hang.
func (s *gpuScraper) shutdown(ctx context.Context) error {
	s.scraping.Lock()
	defer s.scraping.Unlock()
	if s.session != nil {
		s.watching.close()
		if s.pacer != nil {
			s.pacer.close()
		}
	}
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

// scrape makes one scrape. It returns within the interval, and card_timeout. Failures are reported by
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
	s.warnOfUnmatched(&snapshot)
	s.ask(now, &snapshot)
	s.wait(ctx)
	return s.emit(now, &snapshot), nil
}

// patience is how long a scrape waits for the GPUs: one that is slow costs the others none of
// their readings, and no shutdown waits long.
func (s *gpuScraper) patience() time.Duration {
	interval := s.cfg.CollectionInterval
	if s.pacer != nil {
		interval = s.pacer.interval()
	}
	return min(interval, s.cfg.gpuTimeout())
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
			g := newGPU(shared, reader.New(shared, reader.Settings{
				Rows: s.rows, Sampler: s.sampled(), Paced: s.pacer != nil, SlowCall: s.slowCall, Now: s.now, Observer: s.bus,
			}, processes))
			if err := shared.Hung(); err != nil {
				s.bus.ReportHang(shared, err, s.now())
				if shared.Hung() == nil { // the session may have said so before this
					s.bus.ReportHang(shared, nil, s.now())
				}
			}
			s.known[shared] = g
			s.gpus = append(s.gpus, g)
			added = true
		}
	}
	if added {
		s.followGPUs()
	}
	slices.SortStableFunc(s.gpus, func(a, b *gpu) int { return cmp.Compare(a.shared.Identity().Index, b.shared.Identity().Index) })
}

// followGPUs has the sampler sample those that are known.
func (s *gpuScraper) followGPUs() {
	if s.sampler == nil {
		return
	}
	readers := make([]*reader.Reader, len(s.gpus))
	for i, g := range s.gpus {
		readers[i] = g.reader
	}
	s.sampler.Follow(readers)
}

// ask sends a request to every GPU that is due, is present and has answered the last one.
func (s *gpuScraper) ask(now time.Time, snapshot *nvml.Snapshot) {
	anyWorks := false
	for _, g := range s.gpus {
		g.leftOut = false
		work, due := s.workOn(g, now)
		anyWorks = anyWorks || work.Working
		late, ok := g.poll()
		if ok && s.pacer == nil { // it is old; the GPU is asked again
			s.account(g, &late)
			g.spare = late
		}
		switch err := g.shared.Err(); {
		case nvml.IsAsleep(err):
			g.leftOut = true // the next scrape forgets it
		case err != nil:
			if !g.pending {
				g.describe(snapshot.DriverVersion, snapshot.CUDAVersion)
			}
			s.setCondition(g, lost, err)
		case ok && s.pacer != nil: // its samples have the times at which they were read
			s.conclude(g, late)
		case g.pending:
			s.miss(g)
		case !due:
			g.leftOut = true // others have work, or work began on another one
		case !g.ask(work, snapshot.DriverVersion, snapshot.CUDAVersion):
			s.miss(g)
		default:
			g.asked, g.watch.asked = true, now
		}
	}
	if s.pacer != nil {
		s.pacer.set(anyWorks)
	}
}

// workOn is the work on a GPU, for a receiver that follows it, and whether the GPU is due: at
// working_interval while it has work, and at once when that begins, else at
// collection_interval.
func (s *gpuScraper) workOn(g *gpu, now time.Time) (work table.Work, due bool) {
	if s.pacer == nil {
		return work, true
	}
	g.instances = g.instances[:0]
	for _, mig := range g.reading.MIG {
		g.instances = append(g.instances, mig.ID)
	}
	work.GPUWork = s.work.On(g.identity.ID, g.instances...)
	before := now.Before(g.watch.until)
	work.Working = g.watch.works(now, work.Known, work.Open, g.reading.Watts)
	interval := s.cfg.CollectionInterval
	if work.Working {
		interval = s.cfg.WorkingInterval
	}
	return work, work.Working && !before || table.Crossed(g.watch.asked, now, interval, 0)
}

// wait waits for the readings until the interval has passed, and concludes each GPU.
func (s *gpuScraper) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	for _, g := range s.gpus {
		if !g.asked {
			continue
		}
		g.asked = false
		if reading, ok := g.await(ctx, s.hung); ok {
			s.conclude(g, reading)
		} else {
			s.miss(g)
		}
	}
}

// miss concludes a GPU that has not answered: its series are marked stale if the session says
// that a call hangs, else it is left out of this scrape.
func (s *gpuScraper) miss(g *gpu) {
	if err := g.shared.Hung(); err != nil {
		s.setCondition(g, unresponsive, err)
		return
	}
	g.leftOut = true
	s.telemetry.missed(g.identity.Name)
}

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
	g.leftOut = false
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
	before := len(s.gpus)
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
	if len(s.gpus) < before {
		s.followGPUs()
	}
	return e.end(counts[:])
}
