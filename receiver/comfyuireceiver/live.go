// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// liveServer says what is true only now of the receiver's server, for components of the same
// process. It implements [comfyevents.Source].
type liveServer struct {
	resource  pcommon.Resource
	following *follower
	device    *deviceFinder
	hub       *sockets.Hub // nil in poll mode
	textBytes int
	classes   []string
}

// silentAfter is how long a client's host has not accepted what was sent to it when its socket
// counts as silent: longer than a wireless network needs to come back.
const silentAfter = 10 * time.Second

// Name implements [comfyevents.Source].
func (l *liveServer) Name() string {
	return pdataread.Text(l.resource.Attributes(), "service.instance.id")
}

// Server implements [comfyevents.Source].
func (l *liveServer) Server() comfyevents.Server {
	device := l.device.Device()
	s := comfyevents.Server{
		Name: l.Name(),
		GPUs: device.IDs, PID: device.PID, Unread: !l.following.queueRead.Load(), Queued: int(l.following.remaining.Load()),
		Unreachable: l.following.server.unreachable(),
	}
	if len(s.GPUs) == 0 && device.ID != "" {
		s.GPUs = []string{device.ID}
	}
	s.Prompts, s.Open = l.following.tracker.Queue(comfyevents.MaxPrompts)
	for i := range s.Prompts {
		p := &s.Prompts[i]
		l.bound(p)
		if p.Side > 0 {
			p.SizeClass = spans.SizeClass(float64(p.Side))
		}
	}
	if l.hub != nil {
		s.Sockets.Open, s.Sockets.Retained = l.hub.Counts()
		s.Sockets.Silent = l.hub.Silent(silentAfter, comfyevents.MaxSilent)
	}
	s.TaskClasses = l.classes
	l.following.memory.describe(&s)
	s.Unloaded = l.following.loading.unloadedAt()
	return s
}

// bound cuts the texts of clients and servers, as in telemetry.
func (l *liveServer) bound(p *comfyevents.OpenPrompt) {
	for _, text := range []*string{&p.ID, &p.Workflow, &p.TaskClass, &p.Model, &p.Node.ID, &p.Node.Class} {
		*text = boundtext.Line(*text, l.textBytes)
	}
}

// list adds the server to those that the components of this process can ask about, until
// running ends.
func (r *comfyuiReceiver) list(running context.Context) {
	context.AfterFunc(running, r.cfg.bus().Servers.Add(&liveServer{
		resource: r.resource, following: r.following, device: r.device, hub: r.hub, textBytes: r.cfg.Limits.bounds().Label,
		classes: r.cfg.knownClasses(),
	}))
}
