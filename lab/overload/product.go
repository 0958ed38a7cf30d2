// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/isolation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver"
)

// Product is otelcol-gpu's own response: its advisor, and its proxy in front of each server. The
// advisor knows the GPU by what a sampler reads.
type Product struct {
	Advisor *advice.Advisor

	mode     string
	place    isolation.Place
	node     *Node
	cancel   []func()
	work     sync.WaitGroup
	stopping chan struct{}
}

// advisorID is that of the advisor's component, gpuID the GPU's.
var advisorID = component.MustNewID("gpuadvisor")

const gpuID = "GPU-00000000-0000-4000-8000-000000000001"

// Respond starts the product, in the mode observe or enforce.
func Respond(mode string, settings advice.Settings) Starter {
	return func(n *Node) Response {
		p := &Product{mode: mode, node: n, stopping: make(chan struct{})}
		p.place.Bus, p.place.Advisors = &comfyevents.Bus{}, &admission.Advisors{}
		p.Advisor = advice.NewAdvisor(settings, &p.place.Bus.Servers, time.Now, nil)
		p.cancel = append(p.cancel, p.Advisor.Follow(), p.place.Advisors.Add(advisorID, p.Advisor))
		p.refresh()
		p.work.Go(p.sample)
		return p
	}
}

// ProductSettings are those for the law's classes, whose clients wait for a time.
func ProductSettings(deadline time.Duration) advice.Settings {
	s := advice.DefaultSettings()
	s.Default = advice.Class{Deadline: deadline, Objective: deadline}
	s.Classes = map[string]advice.Class{
		law.Core:  {Deadline: deadline, Objective: deadline},
		law.Batch: {Deadline: deadline, Objective: deadline, Batch: true},
	}
	return s
}

const (
	// sampled is how often a sampler reads the memory of a GPU that works, refreshed how often
	// everything is.
	sampled   = 50 * time.Millisecond
	refreshed = time.Second
)

func (p *Product) sample() {
	ticker := time.NewTicker(sampled)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-p.stopping:
			return
		case now := <-ticker.C:
			r := p.node.Screen.Readings()
			p.Advisor.MemoryRead(gpuID, r.Used, now)
			if now.Sub(last) >= refreshed {
				last = now
				p.refresh()
			}
		}
	}
}

func (p *Product) refresh() {
	r := p.node.Screen.Readings()
	listed := map[int]int64{}
	for _, process := range r.Processes {
		listed[process.PID] = process.Used
	}
	p.Advisor.Refresh([]advice.GPU{{
		ID: gpuID, Product: "NVIDIA simulated", Capacity: p.node.Plan.Setup.Memory, Used: r.Used, At: time.Now(), Processes: listed, Listed: time.Now(), Utilization: -1,
	}})
}

// Handler implements [Response].
func (p *Product) Handler(u *Upstream) http.Handler {
	var front front
	place := p.place
	place.PID = firstPID + u.Index
	place.Transport, place.Listener = u.Transport, &front
	f := comfyuireceiver.NewFactory()
	cfg := f.CreateDefaultConfig().(*comfyuireceiver.Config)
	cfg.Upstream.Endpoint = fmt.Sprintf("http://comfyui-%d.test:8188", u.Index)
	cfg.Device, cfg.OwnSockets = gpuID, "false"
	cfg.Admission.Advisor, cfg.Admission.Mode, cfg.Admission.TrustRequestClass = &advisorID, p.mode, !p.node.Plan.ByWorkflow || p.node.Plan.BelieveClients
	if p.node.Plan.ByWorkflow {
		cfg.TaskClasses = slices.Grow(cfg.TaskClasses, 2)[:2]
		cfg.TaskClasses[0].Name, cfg.TaskClasses[0].Node = law.Batch, batchNode
		cfg.TaskClasses[1].Name = law.Core // whatever else
	}
	// In virtual time the advisor is as fast as it likes: a timer that is due at the same moment
	// must not be.
	cfg.Admission.Timeout = time.Second
	cfg.Isolate(&place)
	set := receiver.Settings{
		ID:                component.NewIDWithName(f.Type(), strconv.Itoa(u.Index)),
		TelemetrySettings: component.TelemetrySettings{Logger: zap.NewNop(), MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider()},
	}
	learn, err := consumer.NewTraces(func(_ context.Context, td ptrace.Traces) error {
		p.Advisor.Traces(td)
		p.note(td)
		return nil
	})
	if err != nil {
		panic(err)
	}
	r, err := f.CreateTraces(context.Background(), set, cfg, learn)
	if err == nil {
		err = r.Start(context.Background(), noHost{})
	}
	if err != nil {
		panic(err)
	}
	p.cancel = append(p.cancel, func() { _ = r.Shutdown(context.Background()) })
	p.refresh()
	return front.handler
}

// note writes down what was predicted of prompts, by their spans.
func (p *Product) note(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		for _, s := range rs.ScopeSpans().At(0).Spans().All() {
			id, ok := s.Attributes().Get("comfyui.prompt.id")
			if s.Name() != "comfyui.prompt" || !ok {
				continue
			}
			if reason, _ := s.Attributes().Get("comfyui.admission.reason"); reason.Str() == string(admission.Failed) {
				panic("the advisor did not decide about " + id.Str()) // in virtual time it always can
			}
			seconds := func(key string) time.Duration {
				v, _ := s.Attributes().Get(key)
				return time.Duration(v.Double() * float64(time.Second))
			}
			if high := seconds("comfyui.admission.completion.high"); high > 0 {
				p.node.PredictedAt(id.Str(), s.StartTimestamp().AsTime(), Band{
					Low: seconds("comfyui.admission.completion.low"), Median: seconds("comfyui.admission.completion"), High: high,
				})
			}
		}
	}
}

// front keeps what a receiver serves.
type front struct{ handler http.Handler }

// Serve implements [isolation.Listener].
func (f *front) Serve(h http.Handler) { f.handler = h }

// noHost has no extensions.
type noHost struct{}

// GetExtensions implements [component.Host].
func (noHost) GetExtensions() map[component.ID]component.Component { return nil }

// Close implements [Response].
func (p *Product) Close() {
	close(p.stopping)
	p.work.Wait()
	for _, cancel := range p.cancel {
		cancel()
	}
}
