// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/gate"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// The modes of admission.
const (
	modeObserve = "observe"
	modeEnforce = "enforce"
)

// AdmissionConfig is about whether the server should run a prompt.
type AdmissionConfig struct {
	// Advisor is the gpuadvisor connector of this collector that decides, for example gpuadvisor.
	// Default: none, and every prompt is passed on.
	Advisor *component.ID `mapstructure:"advisor"`
	// Mode is observe, where decisions are noted and change nothing, or enforce. Default: observe.
	Mode string `mapstructure:"mode"`
	// Timeout is how long a decision may take; then the prompt is passed on. Default: 20ms.
	Timeout time.Duration `mapstructure:"timeout"`
	// TrustRequestClass lets extra_data.task_class and extra_data.deadline_s of a request count in
	// enforce. Default: false.
	TrustRequestClass bool `mapstructure:"trust_request_class"`
	// Hold is about prompts that are about to fit.
	Hold HoldConfig `mapstructure:"hold"`
}

// HoldConfig bounds the prompts that are held.
type HoldConfig struct {
	// Timeout is for how long a prompt is held before it is refused. Default: 20s.
	Timeout time.Duration `mapstructure:"timeout"`
	// Prompts is how many are held at a time, Bytes the size of their bodies. Default: 64, 64 MiB.
	Prompts int `mapstructure:"prompts"`
	Bytes   int `mapstructure:"bytes"`
}

func defaultAdmission() AdmissionConfig {
	return AdmissionConfig{Mode: modeObserve, Timeout: 20 * time.Millisecond, Hold: HoldConfig{Timeout: 20 * time.Second, Prompts: 64, Bytes: 64 << 20}}
}

// maxHold is less than the time after which ComfyUI's page gives up without response headers.
const maxHold = 50 * time.Second

// validate adds the mistakes.
func (c *AdmissionConfig) validate(p *configkeys.Problems, mode string) {
	p.AddIf(c.Mode != modeObserve && c.Mode != modeEnforce, "admission::mode", c.Mode, "is not a valid mode", "use observe or enforce")
	p.AddIf(c.Mode == modeEnforce && c.Advisor == nil, "admission::advisor", nil, "is missing, which enforce needs", "name the gpuadvisor connector, for example gpuadvisor")
	p.AddIf(c.Advisor != nil && mode == modePoll, "admission::advisor", c.Advisor, "has no effect in poll mode", "remove it, or set mode: proxy")
	p.AddIf(c.Timeout < time.Millisecond || c.Timeout > time.Second, "admission::timeout", c.Timeout, "is not between 1ms and 1s", "use a duration such as 20ms")
	p.AddIf(c.Hold.Timeout < 0 || c.Hold.Timeout > maxHold, "admission::hold::timeout", c.Hold.Timeout, "is not between 0s and 50s", "use a duration such as 20s: ComfyUI's page gives up after a minute")
	p.AddIf(c.Hold.Prompts < 0, "admission::hold::prompts", c.Hold.Prompts, "is negative", "use a number such as 64, or 0 to hold none")
	p.AddIf(c.Hold.Bytes < 0, "admission::hold::bytes", c.Hold.Bytes, "is negative", "use a number such as 67108864")
}

// named finds the advisor of the configuration, which may be reconfigured.
type named struct {
	advisors *admission.Advisors
	id       component.ID
}

// Advisor implements [gate.Finder].
func (n named) Advisor() admission.Advisor { return n.advisors.Find(n.id) }

// bus and advisors are those that the receiver uses.
func (c *Config) bus() *comfyevents.Bus {
	if c.place != nil {
		return c.place.Bus
	}
	return comfyevents.OfProcess()
}

func (c *Config) advisors() *admission.Advisors {
	if c.place != nil {
		return c.place.Advisors
	}
	return admission.OfProcess()
}

// neighbours frees the memory of other servers of the process.
type neighbours struct{ bus *comfyevents.Bus }

// Free implements [gate.Freer].
func (n neighbours) Free(ctx context.Context, server string) error {
	return n.bus.Servers.Free(ctx, server)
}

// newGate makes the gate of the configuration; nil without an advisor.
func (r *comfyuiReceiver) newGate() *gate.Gate {
	c := &r.cfg.Admission
	if c.Advisor == nil {
		return nil
	}
	return gate.New(gate.Settings{
		Timeout: c.Timeout, HoldTimeout: c.Hold.Timeout, MaxHeld: c.Hold.Prompts, MaxBytes: c.Hold.Bytes, Enforce: c.Mode == modeEnforce,
	}, named{r.cfg.advisors(), *c.Advisor}, neighbours{r.following.bus}, r.now)
}

// watchGate has prompts that are held asked about again when a queue has changed.
func (r *comfyuiReceiver) watchGate(running context.Context, g *gate.Gate) {
	if g == nil {
		return
	}
	context.AfterFunc(running, r.following.bus.Servers.Changed.Subscribe(func(string) { g.Changed() }))
}

// admit asks about a prompt, and holds it while it is about to fit; nil without an advisor. It
// returns false if the client has left meanwhile.
func (p *proxy) admit(r *http.Request, sub *protocol.Submission, bodyBytes int) (a *prompt.Admission, stays bool) {
	if p.gate == nil {
		return nil, true
	}
	a = &prompt.Admission{Enforced: p.enforces}
	deadline := sub.Deadline
	if p.enforces && !p.trusts {
		a.Claimed, sub.TaskClass, deadline = sub.TaskClass, "", 0
	}
	z := p.tracker.Sizing(sub)
	res := p.gate.Decide(r.Context(), &admission.Request{
		Server: p.name, Class: z.TaskClass, Workflow: sub.Workflow, Model: z.Model, Side: int(z.Side()), Batch: max(int(z.Batch), 1), Steps: int(z.Steps),
		Deadline: time.Duration(min(max(deadline, 0), maxDeadline) * float64(time.Second)), Claim: true,
	}, bodyBytes)
	a.Decision, a.Held, a.Released = res.Decision, res.Held, res.Released
	p.decided(a, z.TaskClass)
	if res.Left {
		return a, false
	}
	if p.enforces && a.Verdict == admission.Admit && !a.Deadline.IsZero() {
		a.Number = p.numberOf(a, sub, z.TaskClass)
	}
	return a, true
}

// settle ends what was reserved for a prompt, which the server accepted with an id.
func (p *proxy) settle(a *prompt.Admission, id string) {
	if a != nil && p.gate != nil {
		p.gate.Settle(a.Claim, id)
	}
}

// maxDeadline bounds what a request may ask for, in seconds.
const maxDeadline = 24 * 60 * 60

// batchNumber is by how much the numbers of batch prompts are greater: the server runs them last.
const batchNumber = 1e10

// numberOf is the place in the server's queue: the deadline, in seconds since 1970. What the
// caller asked for counts among the prompts of its class.
func (p *proxy) numberOf(a *prompt.Admission, sub *protocol.Submission, class string) float64 {
	number := float64(a.Deadline.UnixMicro()) / 1e6
	if a.Batch {
		number += batchNumber
	}
	if asked := sub.Number; asked != nil {
		const before = 1e-3
		if first, ok := p.tracker.FirstOf(class, *asked); ok && first-before < number {
			number = first - before
		}
	}
	return number
}

// decided counts a decision.
func (m *instruments) decided(a *prompt.Admission, class string) {
	m.add("comfyui.admission.decisions", 1,
		attribute.String("comfyui.task_class", m.label(m.tasks, class, a.Reason != admission.Failed)),
		attribute.String("comfyui.admission.decision", string(a.Verdict)), attribute.String("comfyui.admission.reason", string(a.Reason)),
		attribute.Bool("comfyui.admission.enforced", a.Enforced))
}

// refuse answers a prompt that the receiver refuses, in place of the server.
func (p *proxy) refuse(w http.ResponseWriter, r *http.Request, followed *prompt.Prompt) {
	a := followed.Admission
	gate.Refuse(w, r, &a.Decision)
	p.tracker.Answer(followed, p.now(), gate.Status(&a.Decision), protocol.Answer{Error: protocol.Error{Type: string(a.Reason)}})
}

// withNumber puts the place in the queue into a prompt's body.
func (p *proxy) withNumber(r *http.Request, body []byte, number float64) {
	edited, ok := gate.WithNumber(body, number)
	if !ok {
		return
	}
	r.Body = restored{io.MultiReader(bytes.NewReader(edited)), r.Body}
	if r.ContentLength >= 0 {
		r.ContentLength = int64(len(edited))
		r.Header.Set("Content-Length", strconv.Itoa(len(edited)))
	}
}

// freeInterval is how often the server is asked at most to free its memory for a neighbour.
const freeInterval = time.Minute

// Free implements [comfyevents.Freer]: it has the server unload its models and forget what its
// nodes hold. It does nothing if that was asked for in the last minute.
func (l *liveServer) Free(ctx context.Context) error {
	f := l.following
	now := f.now()
	if last := f.freed.Load(); last != nil && now.Sub(*last) < freeInterval {
		return nil
	}
	f.freed.Store(&now)
	err := f.server.free(ctx)
	if err == nil {
		f.loading.unloaded(f.now())
		f.log.Info("Server freed its memory for another one on its GPU", zap.String("server", f.name))
	}
	return err
}
