// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/owner"
)

// collector makes the scrapes of one nvml receiver: it asks every GPU's
// worker, gathers what came in time, and ends the series of what is gone. It
// never calls NVML itself, so nothing in the driver can hold it up.
type collector struct {
	cfg      *Config
	settings receiver.Settings
	log      *zap.Logger
	sessions *nvml.Sessions
	bus      *gpuevents.Bus
	matcher  deviceMatcher
	rows     []*family

	host      component.Host
	hostname  string
	session   *nvml.Session
	gpus      map[*nvml.GPU]*gpu
	order     []*gpu
	emitter   *emitter
	telemetry *telemetry
	state     nvml.State
	saidState bool
	xids      *xidCounts
	sampler   *sampler
	owners    *owner.Resolver
	holders   holders
	now       func() time.Time
}

func newCollector(settings receiver.Settings, cfg *Config, sessions *nvml.Sessions, bus *gpuevents.Bus) *collector {
	c := &collector{
		cfg: cfg, settings: settings, log: settings.Logger, sessions: sessions, bus: bus,
		matcher: newDeviceMatcher(cfg.Devices),
		gpus:    map[*nvml.GPU]*gpu{}, now: time.Now,
	}
	for _, row := range table() {
		if row.sampled && !cfg.samples() {
			continue
		}
		wanted := row.status && cfg.Metrics.HwStatus.Enabled
		for i := range row.metrics {
			wanted = wanted || row.metrics[i].enabled(&cfg.Metrics)
		}
		if wanted {
			c.rows = append(c.rows, &row)
		}
	}
	return c
}

// sampled reports whether a sampler runs for any of the rows.
func (c *collector) sampled() bool {
	return slices.ContainsFunc(c.rows, func(row *family) bool { return row.sampled })
}

// start acquires the session. It never waits for the driver.
func (c *collector) start(_ context.Context, host component.Host) (err error) {
	c.host = host
	if c.hostname, err = os.Hostname(); err != nil {
		c.log.Warn("the host's name cannot be read; host.name stays empty", zap.Error(err))
	}
	c.emitter = newEmitter(c.cfg, c.settings)
	if c.telemetry, err = newTelemetry(c); err != nil {
		return err
	}
	if c.session, err = c.sessions.Acquire(c.cfg.LibraryPath, c.log); err != nil {
		return err
	}
	if c.sampled() {
		c.sampler = startSampler(c.cfg.SamplingInterval)
	}
	if c.cfg.ownersWanted() {
		c.owners = owner.New(owner.Settings{
			Proc: c.cfg.Processes.ProcPath, Logs: c.cfg.Processes.LogPath, Socket: c.cfg.Processes.PodResources, Interval: c.cfg.Processes.PodResourcesInterval,
			Say: c.sayKubelet, Failed: func() { c.telemetry.builder.ReceiverNvmlKubeletErrors.Add(context.Background(), 1) },
		})
		if err := c.owners.Check(); err != nil {
			c.log.Warn("processes stay without executable and container: set processes::proc_path to where the host's /proc is", zap.String("processes::proc_path", c.cfg.Processes.ProcPath), zap.Error(err))
		}
	}
	if c.cfg.Metrics.HwGpuXidErrors.Enabled {
		if c.xids, err = newXIDCounts(c.session); err != nil {
			return err
		}
	}
	return nil
}

// shutdown gives the session back. It waits a second at most for calls that
// are under way, and not for those that hang.
func (c *collector) shutdown(ctx context.Context) error {
	if c.sampler != nil {
		c.sampler.end()
		c.sampler = nil
	}
	if c.xids != nil {
		c.xids.cancel()
	}
	if c.owners != nil {
		c.owners.Close()
		c.owners = nil
	}
	if c.session != nil {
		for _, gpu := range c.order {
			c.bus.Forget(gpu.shared)
			if !gpu.pending && gpu.shared.Err() == nil {
				gpu.shared.Submit(gpu.free)
			}
		}
		c.sessions.Release(ctx)
		c.session = nil
	}
	if c.telemetry != nil {
		c.telemetry.shutdown()
	}
	return nil
}

// collect makes one scrape. It returns within card_timeout, and what fails
// is told by metrics, the log and the component's status rather than by an
// error, which scraperhelper would log at every scrape.
func (c *collector) collect(ctx context.Context) (pmetric.Metrics, error) {
	if !c.looked(ctx) {
		return pmetric.NewMetrics(), nil // the driver has not answered yet whether there are GPUs
	}
	now := c.now()
	snapshot := c.session.Snapshot()
	c.report(&snapshot)
	c.survey(&snapshot)
	c.ask(ctx, &snapshot)
	return c.emit(now, &snapshot), nil
}

// looked waits, within the first collections' deadline, until the session knows
// whether there are GPUs.
func (c *collector) looked(ctx context.Context) bool {
	select {
	case <-c.session.Inspected():
		return true
	default:
	}
	deadline := time.NewTimer(c.cfg.gpuTimeout())
	defer deadline.Stop()
	select {
	case <-c.session.Inspected():
		return true
	case <-deadline.C:
	case <-ctx.Done():
	}
	return false
}

// survey brings the views up to date with the GPUs that the session knows.
func (c *collector) survey(snapshot *nvml.Snapshot) {
	added := false
	for _, shared := range snapshot.GPUs {
		if c.gpus[shared] != nil || shared.Err() != nil {
			continue // known, or gone before it was ever read
		}
		if id := shared.Identity(); c.matcher.wants(id.UUID, id.Index, id.PCIBusID) {
			view := newGPU(shared, c.rows, c.sampled(), newProcessTable(c.owners, c.cfg.Processes.Limit), c.now)
			c.gpus[shared] = view
			c.order = append(c.order, view)
			added = true
		}
	}
	if added && c.sampler != nil {
		gpus := slices.Clone(c.order)
		c.sampler.gpus.Store(&gpus)
	}
	slices.SortStableFunc(c.order, func(a, b *gpu) int { return cmp.Compare(a.shared.Identity().Index, b.shared.Identity().Index) })
}

// ask submits a job for every GPU that is there and waits for all of them
// until the deadline. GPUs whose last job still hangs are not asked again.
func (c *collector) ask(ctx context.Context, snapshot *nvml.Snapshot) {
	for _, gpu := range c.order {
		if gpu.pending {
			gpu.poll()
		}
		gone := gpu.shared.Err()
		switch {
		case gone != nil:
			if !gpu.pending {
				gpu.describe(snapshot.DriverVersion, snapshot.CUDAVersion)
			}
			c.turn(gpu, lost, gone)
		case gpu.pending:
			c.turn(gpu, unresponsive, errDeadline)
		case !gpu.submit(snapshot.DriverVersion, snapshot.CUDAVersion):
			c.turn(gpu, unresponsive, errQueueFull)
		default:
			gpu.asked = true
		}
	}
	deadline := time.NewTimer(c.cfg.gpuTimeout())
	defer deadline.Stop()
	late := false
	for _, gpu := range c.order {
		if !gpu.asked {
			continue
		}
		gpu.asked = false
		if !late {
			select {
			case <-gpu.done:
				gpu.pending = false
			case <-deadline.C:
				late = true
			case <-ctx.Done():
				late = true
			}
		}
		if late {
			gpu.poll()
		}
		c.conclude(gpu)
	}
}

var (
	errDeadline  = errors.New("a call in NVIDIA's driver has not returned")
	errQueueFull = errors.New("too many receivers wait for this GPU")
)

// conclude judges a GPU after the wait.
func (c *collector) conclude(gpu *gpu) {
	if gpu.pending {
		c.turn(gpu, unresponsive, errDeadline)
		return
	}
	c.telemetry.took(gpu)
	c.telemetry.left(gpu)
	c.sayAll(gpu)
	if gpu.gone != nil {
		c.telemetry.failed(gpu.gone)
		c.turn(gpu, lost, gpu.gone)
		c.session.Wake()
		return
	}
	gpu.divided = gpu.divided[:0]
	for _, inst := range gpu.instances {
		gpu.divided = append(gpu.divided, inst.names)
	}
	gpu.errorsRise = gpu.corrected.take(c.now(), gpu.sheet.health.corrected)
	c.turn(gpu, healthy, nil)
	for _, r := range &reported {
		c.bus.ReportThrottling(gpu.shared, r.name, gpu.sheet.health.throttling&r.bit != 0, c.now())
	}
}

// turn notes a GPU's condition and logs it when it changes.
func (c *collector) turn(gpu *gpu, to condition, reason error) {
	if to != healthy {
		c.telemetry.missed(gpu)
	}
	if to == lost && gpu.condition != lost {
		gpu.lostSince = c.now()
	}
	from := gpu.condition
	gpu.condition = to
	c.bus.ReportCondition(gpu.shared, to.String(), to == healthy, reason, c.now())
	gpu.samplable.Store(to == healthy)
	if from == to {
		return
	}
	fields := []zap.Field{zap.String("hw.id", gpu.names.id), zap.String("hw.name", gpu.names.name)}
	// The session has said what befell the driver; each GPU need not say it again.
	log, kind := c.log.Log, nvml.KindOf(reason)
	if byDriver := kind == nvml.DriverGone || kind == nvml.VersionMismatch; byDriver || to == healthy && gpu.byDriver {
		log = func(_ zapcore.Level, message string, fields ...zap.Field) { c.log.Debug(message, fields...) }
		gpu.byDriver = byDriver
	}
	switch to {
	case healthy:
		if from != unknown {
			log(zap.InfoLevel, "GPU answers again", fields...)
		}
	case unresponsive:
		log(zap.WarnLevel, "GPU does not answer in time; its series end until it does", append(fields, zap.Error(reason), zap.Duration("card_timeout", c.cfg.gpuTimeout()))...)
	case lost:
		log(zap.WarnLevel, "GPU is lost; its series end until it is back", append(fields, zap.Error(reason))...)
	}
}

// sayAll logs the changes of a GPU's families. What befalls several of its MIG
// devices at once is said of the first.
func (c *collector) sayAll(gpu *gpu) {
	for i, change := range gpu.changes {
		repeated := change.instance != "" && change.row != nil && slices.ContainsFunc(gpu.changes[:i], func(before rowChange) bool {
			return before.row == change.row && (before.err == nil) == (change.err == nil)
		})
		if repeated {
			change.row = nil // counted, not said
		}
		c.say(gpu, change)
	}
}

// say logs what changed about one family of a GPU, and counts errors.
func (c *collector) say(gpu *gpu, change rowChange) {
	if change.err != nil && !change.off {
		c.telemetry.failed(change.err)
	}
	if change.row == nil {
		return
	}
	fields := []zap.Field{zap.String("hw.name", cmp.Or(change.instance, gpu.names.name)), zap.String("family", change.row.name)}
	switch {
	case change.off:
		c.log.Debug("not supported on this GPU; switched off", append(fields, zap.Error(change.err))...)
	case change.err != nil:
		c.log.Warn("reading fails; its series end until it works", append(fields, zap.Error(change.err))...)
	default:
		c.log.Info("reading works again", fields...)
	}
}

// report tells the component's status when the session's state changes.
func (c *collector) report(snapshot *nvml.Snapshot) {
	c.telemetry.session(snapshot)
	if c.saidState && snapshot.State == c.state {
		return
	}
	c.saidState, c.state = true, snapshot.State
	switch {
	case snapshot.State == nvml.Ready:
		componentstatus.ReportStatus(c.host, componentstatus.NewEvent(componentstatus.StatusOK))
	case snapshot.State == nvml.Mismatch && c.cfg.ExitOnDriverUpgrade:
		componentstatus.ReportStatus(c.host, componentstatus.NewFatalErrorEvent(snapshot.Err))
	default:
		componentstatus.ReportStatus(c.host, componentstatus.NewRecoverableErrorEvent(snapshot.Err))
	}
}

// sayKubelet logs when the kubelet's answers begin or cease to come.
func (c *collector) sayKubelet(err error) {
	if err != nil {
		c.log.Warn("the kubelet does not tell which pods hold the GPUs; asking again", zap.String("processes::pod_resources", c.cfg.Processes.PodResources), zap.Error(err))
	} else {
		c.log.Info("the kubelet tells which pods hold the GPUs")
	}
}

// emit turns the views into points.
func (c *collector) emit(now time.Time, snapshot *nvml.Snapshot) pmetric.Metrics {
	e := c.emitter
	c.holders.update(c.owners)
	e.begin(pcommon.NewTimestampFromTime(now), c.hostname, snapshot.Simulated)
	counts := [...]int64{healthy: 0, unresponsive: int64(snapshot.Unidentified), lost: int64(snapshot.LostUnidentified)}
	c.order = slices.DeleteFunc(c.order, func(gpu *gpu) bool {
		forget := gpu.condition == lost && c.cfg.ForgetLostAfter > 0 && now.Sub(gpu.lostSince) >= c.cfg.ForgetLostAfter
		if forget {
			e.forget(gpu)
		} else {
			counts[gpu.condition]++
			e.gpu(gpu, c.xids, c.holders.of(gpu))
		}
		if forget = forget && gpu.shared.Err() != nil; forget {
			c.bus.Forget(gpu.shared)
			delete(c.gpus, gpu.shared)
		}
		return forget
	})
	return e.end(counts[:])
}
