// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/reader"
)

// This file has what the receiver reports of changes: in the log, as the component's
// status, and on the bus.

// reportStatus reports the component's status when the session's state changes.
func (s *gpuScraper) reportStatus(snapshot *nvml.Snapshot) {
	s.telemetry.session(snapshot)
	if !s.once.Changed("driver", [...]string{nvml.Absent: "absent", nvml.Ready: "ready", nvml.Mismatch: "mismatch", nvml.Asleep: "asleep"}[snapshot.State]) {
		return
	}
	switch {
	case snapshot.State == nvml.Ready, snapshot.State == nvml.Asleep:
		componentstatus.ReportStatus(s.host, componentstatus.NewEvent(componentstatus.StatusOK))
	case snapshot.State == nvml.Mismatch && s.cfg.ExitOnDriverUpgrade:
		componentstatus.ReportStatus(s.host, componentstatus.NewFatalErrorEvent(snapshot.Err))
	default:
		componentstatus.ReportStatus(s.host, componentstatus.NewRecoverableErrorEvent(snapshot.Err))
	}
}

// reportHang passes on what the session says of a GPU's calls, and ends the wait for it. It
// is called in a goroutine of the session.
func (s *gpuScraper) reportHang(h nvml.Hang) {
	s.bus.ReportHang(h.GPU, h.Err, h.Time)
	select {
	case s.hung <- struct{}{}:
	default:
	}
}

// setCondition stores a GPU's condition, and logs and publishes a change of it.
func (s *gpuScraper) setCondition(g *gpu, to condition, reason error) {
	if to != healthy {
		s.telemetry.missed(g.identity.Name)
	}
	if to == lost && g.condition != lost {
		g.lostSince = s.now()
	}
	from := g.condition
	g.condition = to
	if to != unresponsive { // that is for the session to say
		s.bus.ReportCondition(g.shared, to.String(), to == healthy, reason, s.now())
	}
	g.reader.AllowSampling(to == healthy)
	if from == to {
		return
	}
	info, warn := zap.InfoLevel, zap.WarnLevel
	// The session has logged the driver's state: each GPU's is for debugging only.
	if byDriver := nvml.IsDriverGone(reason); byDriver || to == healthy && g.byDriver {
		info, warn = zap.DebugLevel, zap.DebugLevel
		g.byDriver = byDriver
	}
	log := s.log.With(zap.String("hw.id", g.identity.ID), zap.String("hw.name", g.identity.Name))
	switch {
	case to == healthy && from == lost:
		log.Log(info, "GPU responds again")
	case to == lost:
		log.Log(warn, "GPU is lost; its series are marked stale until it is back", zap.Error(reason))
	}
}

// logChange logs that a row began or ceased to fail. If it does so on several MIG
// devices in one pass, the first is logged; before are the pass's earlier changes.
func (s *gpuScraper) logChange(g *gpu, c reader.Change, before []reader.Change) {
	alike := func(b reader.Change) bool { return b.Row == c.Row && (b.Err == nil) == (c.Err == nil) }
	if c.Instance != "" && slices.ContainsFunc(before, alike) {
		return
	}
	log := s.log.With(zap.String("hw.name", cmp.Or(c.Instance, g.identity.Name)), zap.String("family", c.Row.Name))
	switch {
	case c.Disabled:
		log.Debug("The GPU does not support these readings; they are disabled", zap.Error(c.Err))
	case c.Err != nil:
		log.Warn("Reading failed; its series are marked stale until it works", zap.Error(c.Err))
	default:
		log.Info("Reading works again")
	}
}

// warnOfUnmatched logs, once the GPUs are known, which entries of devices::include name none
// of them.
func (s *gpuScraper) warnOfUnmatched(snapshot *nvml.Snapshot) {
	if len(s.cfg.Devices.Include) == 0 || !snapshot.Enumerated || snapshot.Unidentified > 0 || !s.once.First("devices::include") {
		return
	}
	for i, name := range s.cfg.Devices.Include {
		m := newDeviceMatcher(DeviceFilter{Include: []string{name}})
		found := slices.ContainsFunc(snapshot.GPUs, func(gpu *nvml.GPU) bool {
			id := gpu.Identity()
			return m.matches(id.UUID, id.Index, id.PCIBusID)
		})
		if !found {
			s.log.Warn("No GPU has this name; it is scraped once there is one. Use the UUID, the index or the PCI address of a GPU that nvidia-smi -L lists",
				zap.String("key", "devices::include::"+strconv.Itoa(i)), zap.String("value", name), zap.Int("gpus", len(snapshot.GPUs)))
		}
	}
}

// reportBounds reports what found no room.
func (s *gpuScraper) reportBounds() {
	if n := s.bus.Dropped(); n > 0 {
		s.telemetry.builder.ReceiverNvmlEventsDropped.Add(context.Background(), n)
	}
	if s.owners != nil && s.owners.Omitted() && s.once.First("log folders") {
		s.log.Warn("The kubelet's log folders have too many names; processes of the rest have no pod", zap.String("processes::log_path", s.cfg.Processes.LogPath))
	}
}

// KubeletAnswered is called after each request to the kubelet; err is nil on success.
func (s *gpuScraper) KubeletAnswered(err error) {
	state := ""
	if err != nil {
		state = "failing"
		s.telemetry.builder.ReceiverNvmlKubeletErrors.Add(context.Background(), 1)
	}
	switch {
	case !s.once.Changed("kubelet", state):
	case err != nil:
		s.log.Warn("Cannot read from the kubelet which pods hold the GPUs; retrying",
			zap.String("processes::pod_resources", s.cfg.Processes.PodResources), zap.Error(err))
	default:
		s.log.Info("The kubelet reports again which pods hold the GPUs")
	}
}
