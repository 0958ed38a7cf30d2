// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"hash/maphash"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/gate"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/rate"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// admitter decides about the prompts that the proxy passes on. Without an advisor and limits it
// passes on all of them.
type admitter struct {
	// gate is nil without an advisor, limits without rate limits. advisor is the advisor's id, or its
	// address; finder finds it.
	gate    *gate.Gate
	advisor string
	finder  gate.Finder
	limits  *rate.Limits
	// enforces is true if it holds and refuses prompts, trusts if a request's own class and deadline
	// count then.
	enforces, trusts bool
	// rewrites are the task classes whose prompts are lowered to the largest size that fits.
	rewrites []string
	// inputs is nil without checks of images.
	inputs *inputChecks
	due    dueTimes
	// failing is whether the advisor decides.
	failing logonce.Tracker
	// unreadTurns counts those who were refused since too many bodies are being read.
	unreadTurns atomic.Uint32
}

// newAdmitter makes the admitter of the configuration.
func (r *comfyuiReceiver) newAdmitter() *admitter {
	c := &r.cfg.Admission
	a := &admitter{limits: c.limits(r.now), enforces: c.Mode == modeEnforce, trusts: c.TrustRequestClass, rewrites: c.RewriteSize, due: newDueTimes()}
	a.inputs = r.newInputChecks()
	if !c.advises() {
		return a
	}
	a.finder, a.advisor = remote{r.remote}, c.Remote.Client.Endpoint
	if c.Advisor != nil {
		a.finder, a.advisor = named{r.cfg.advisors(), *c.Advisor}, c.Advisor.String()
	}
	a.gate = gate.New(gate.Settings{
		Timeout: c.Timeout, HoldTimeout: c.Hold.Timeout, MaxHeld: c.Hold.Prompts, MaxBytes: c.Hold.Bytes, Enforce: a.enforces,
	}, a.finder, neighbours{r.following.bus}, r.now)
	return a
}

// neighbours frees the memory of other servers of the process.
type neighbours struct{ bus *comfyevents.Bus }

// Free implements [gate.Freer].
func (n neighbours) Free(ctx context.Context, server string) error {
	return n.bus.Servers.Free(ctx, server)
}

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

// followQueues has prompts that are held asked about again when a queue has changed.
func (a *admitter) followQueues(running context.Context, bus *comfyevents.Bus) {
	if a.gate != nil {
		context.AfterFunc(running, bus.Servers.Changed.Subscribe(func(string) { a.gate.Changed() }))
	}
}

// refuseHeld refuses those that are held from now on, so that they need not be waited for.
func (a *admitter) refuseHeld() {
	if a.gate != nil {
		a.gate.Close()
	}
}

// Bounds implements [bounds.Registered].
func (a *admitter) Bounds() []bounds.Bound {
	all := append(a.due.Bounds(), a.failing.Bounds()...)
	if a.gate != nil {
		all = append(all, a.gate.Bounds()...)
	}
	if a.inputs != nil {
		all = append(all, a.inputs.Bounds()...)
	}
	if a.limits != nil {
		all = append(all, a.limits.Bounds()...)
	}
	return all
}

// arrival is a prompt that has come, until it is passed on or refused.
type arrival struct {
	sub      protocol.Submission
	received time.Time
	// body is as it is passed on.
	body []byte
	// claimed is the task class that the request named, if it does not count; deadline is the one that
	// it named, if it does, else 0.
	claimed  string
	deadline time.Duration
	sizing   sizing.Sizing
	// spare is what the decision left of the time limit.
	spare time.Duration
	// input is what was found about its images; nil if they are not checked.
	input *prompt.Input
}

// arrive reads a prompt: its class, and what it costs.
func (p *proxy) arrive(body []byte) *arrival {
	a := &arrival{sub: p.parse(body), received: p.now(), body: body}
	if p.gate == nil && p.limits == nil && p.inputs == nil {
		return a // nobody decides about it
	}
	deadline := a.sub.Deadline
	if p.enforces && !p.trusts {
		a.claimed, a.sub.TaskClass, deadline = a.sub.TaskClass, "", 0
	}
	a.deadline = time.Duration(min(max(deadline, 0), admission.MaxDeadline.Seconds()) * float64(time.Second))
	a.sizing = p.tracker.Sizing(&a.sub)
	return a
}

// admit decides about a prompt, and holds it while it is about to fit; nil if nobody decides. It
// returns false if the client has left meanwhile.
func (p *proxy) admit(r *http.Request, of *arrival) (a *prompt.Admission, stays bool) {
	class := of.sizing.TaskClass
	if rejected := p.checkInput(of); rejected != nil {
		p.decided(rejected, class)
		return rejected, true
	}
	if p.gate == nil && p.limits == nil {
		return nil, true
	}
	a = &prompt.Admission{Enforced: p.enforces, Claimed: of.claimed}
	after, within := p.allow(r, class)
	if !within && (p.enforces || p.gate == nil) {
		a.Decision = admission.Decision{Verdict: admission.Reject, Reason: admission.Rate, Class: class, RetryAfter: after}
		p.decided(a, class)
		return a, true
	}
	if p.gate == nil {
		return nil, true
	}
	res := p.gate.Decide(r.Context(), p.question(of), len(of.body))
	if p.enforces && p.lower(of, a, &res.Decision) {
		res = p.gate.Again(r.Context(), p.question(of), len(of.body), res.Spare)
	}
	a.Decision, a.Held, a.Released, of.spare = res.Decision, res.Held, res.Released, res.Spare
	if !within && a.Verdict == admission.Admit { // it is followed to its end as what it would have been
		a.Verdict, a.Reason, a.RetryAfter = admission.Reject, admission.Rate, after
	}
	p.decided(a, class)
	p.reportAdvisor(res.Reason == admission.Failed)
	if res.Left {
		return a, false
	}
	if p.enforces && a.Verdict == admission.Admit {
		number := p.due.number(a, class, of.received, of.deadline)
		a.Number = p.tracker.Place(class, of.sub.Number, number)
	}
	return a, true
}

// question is what the advisor is asked.
func (p *proxy) question(of *arrival) *admission.Request {
	z := &of.sizing
	return &admission.Request{
		Server: p.name, Class: z.TaskClass, Workflow: of.sub.Workflow, Model: z.Model, Side: int(z.Side()), Batch: max(int(z.Batch), 1), Steps: int(z.Steps),
		Deadline: of.deadline, Claim: true, Observe: !p.enforces, Caller: caller(of.body),
	}
}

// callerSeed is the process's: a client cannot choose what its prompts' hashes are.
var callerSeed = maphash.MakeSeed()

// caller tells a client's prompt from others, as [admission.Request] wants it: a body names its client.
func caller(body []byte) uint64 {
	const limit = 1 << 53
	return max(maphash.Bytes(callerSeed, body)%limit, 1)
}

// reportAdvisor logs when the advisor no longer answers, and when it does again.
func (p *proxy) reportAdvisor(failed bool) {
	const condition = "advisor"
	switch {
	case failed && p.failing.Changed(condition, "failed"):
		cause := "no valid answer within admission::timeout: it is slow, fails or cannot be reached"
		if p.finder.Advisor() == nil {
			cause = "it does not run in this collector: it is in no pipeline, or has not started"
		}
		p.log.Warn("Advisor gave no decision; admitting prompts", zap.String("advisor", p.advisor), zap.String("cause", cause))
	case !failed && p.failing.Changed(condition, ""):
		p.log.Info("Advisor answers again", zap.String("advisor", p.advisor), zap.Int64("unsettled_claims", p.gate.Unsettled()))
	}
}

// allow counts a prompt of a client against the rate limits.
func (p *proxy) allow(r *http.Request, class string) (retryAfter time.Duration, ok bool) {
	if p.limits == nil {
		return 0, true
	}
	retryAfter, ok = p.limits.Allow(r, class)
	if !ok {
		p.rateLimited(class, p.enforces)
	}
	return retryAfter, ok
}

// decided counts a decision.
func (m *instruments) decided(a *prompt.Admission, class string) {
	m.add("comfyui.admission.decisions", 1,
		attribute.String("comfyui.task_class", m.label(m.tasks, class, a.Reason != admission.Failed)),
		attribute.String("comfyui.admission.decision", string(a.Verdict)), attribute.String("comfyui.admission.reason", string(a.Reason)),
		attribute.Bool("comfyui.admission.enforced", a.Enforced))
}

// rateLimited counts a prompt beyond a rate limit.
func (m *instruments) rateLimited(class string, enforced bool) {
	m.add("comfyui.admission.rate_limited", 1,
		attribute.String("comfyui.task_class", m.label(m.tasks, class, true)), attribute.Bool("comfyui.admission.enforced", enforced))
}

// refuse answers a prompt that the receiver refuses, in place of the server. followed is nil if it is not
// followed.
func (p *proxy) refuse(w http.ResponseWriter, r *http.Request, followed *prompt.Prompt, a *prompt.Admission, status int) {
	gate.Refuse(w, r, &a.Decision, status)
	if followed != nil {
		p.tracker.Answer(followed, p.now(), status, protocol.Answer{Error: protocol.Error{Type: string(a.Reason)}})
	}
}

// unreadRetry is after what time the bodies that are being read may have made room; those who are refused
// at the same time come a second after each other, as far as there are turns.
const (
	unreadRetry = 2 * time.Second
	unreadTurns = 8
)

// refuseUnread refuses a prompt that cannot be read: passed on, it would have any place in the
// server's queue that it asks for.
func (p *proxy) refuseUnread(w http.ResponseWriter, r *http.Request, length int) {
	a := &prompt.Admission{Decision: admission.Decision{Verdict: admission.Reject, Reason: admission.Unread}, Enforced: true}
	status := http.StatusTooManyRequests
	switch {
	case isEncoded(r.Header):
		status = http.StatusUnsupportedMediaType
	case length > p.maxPrompt:
		status = http.StatusRequestEntityTooLarge
	default:
		a.RetryAfter = unreadRetry + time.Duration(p.unreadTurns.Add(1)%unreadTurns)*time.Second
	}
	p.decided(a, "")
	// Of what it is nothing is known but where it came from.
	p.refuse(w, r, p.follow(r, &arrival{received: p.now()}, a), a, status)
}

// isEncoded reports whether a body is, or may be, other than plain text in which each character
// of JSON's syntax is one byte: the server decodes what the header says.
func isEncoded(h http.Header) bool {
	if slices.ContainsFunc(h.Values("Content-Encoding"), func(v string) bool { return v != "" }) || len(h.Values("Content-Type")) > 1 {
		return true
	}
	contentType := h.Get("Content-Type")
	if !strings.Contains(strings.ToLower(contentType), "charset") {
		return false
	}
	_, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return true
	}
	switch strings.ToLower(parameters["charset"]) {
	case "utf-8", "utf8", "us-ascii", "ascii":
		return false
	}
	return true
}
