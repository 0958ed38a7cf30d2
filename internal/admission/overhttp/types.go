// SPDX-License-Identifier: Apache-2.0

// Package overhttp is advice across collectors: the JSON of /v1/advice of the gpuadvisor
// connector, and an [admission.Advisor] that asks there.
package overhttp

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// Advice is whether a server should run a prompt.
type Advice struct {
	// Decision is admit, hold, reject or redirect; Reason is why.
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
	// Message is what to tell the user, in the language of the request; empty for admit.
	Message string `json:"message"`
	// Target is another server to send it to, for redirect.
	Target string `json:"target,omitempty"`
	// Wait is until it would start, Completion until it would end, Low and High the 90 % band of
	// that, in seconds from now on.
	Wait       *float64 `json:"predicted_wait_s"`
	Completion *float64 `json:"predicted_completion_s"`
	Low        *float64 `json:"predicted_completion_low_s"`
	High       *float64 `json:"predicted_completion_high_s"`
	// RetryAfter is after how many seconds it may be admitted.
	RetryAfter *float64 `json:"retry_after_s"`
	// MaxSide is the largest longer side in pixels that would be admitted now.
	MaxSide *int `json:"max_side"`
	// Need is the upper bound of what the server's process needs with it, Room what the GPU has
	// for that, in bytes.
	Need *int64 `json:"memory_need"`
	Room *int64 `json:"memory_room"`
	// Executions is how many executions of its kind the predictions are made from.
	Executions int `json:"executions"`
	// Claim is what was reserved, of requests that claim: it is settled with POST
	// /v1/advice/claims/{claim}, or ends after a minute. It is a random number below 2^53: whoever
	// knows it may settle it.
	Claim uint64 `json:"claim,omitempty"`
	// Batch is true for work that is never urgent, Deadline for how many seconds from now on the image
	// is of use; of requests that claim.
	Batch    bool     `json:"batch,omitempty"`
	Deadline *float64 `json:"deadline_s,omitempty"`
	// Returned is true if that is left of the deadline of its first try, which was refused.
	Returned bool `json:"returned,omitempty"`
	// Messages are Message in each language, of requests that claim.
	Messages map[string]string `json:"messages,omitempty"`
}

// AdviceList answers several requests, in their order.
type AdviceList struct {
	Advice []Advice `json:"advice"`
}

// AdviceRequest is a prompt that somebody wants to have run.
type AdviceRequest struct {
	// Server is the service.instance.id of the server, GPU the hw.id of its GPU; without them any
	// server of the collector may run it.
	Server string `json:"server,omitempty"`
	GPU    string `json:"gpu,omitempty"`
	// TaskClass, Workflow and Model are as in telemetry.
	TaskClass string `json:"task_class,omitempty"`
	Workflow  string `json:"workflow,omitempty"`
	Model     string `json:"model,omitempty"`
	// Width and Height are the image's, in pixels.
	Width  int `json:"width,omitempty"`
	Height int `json:"height,omitempty"`
	// Batch is how many images, Steps how many steps.
	Batch int `json:"batch,omitempty"`
	Steps int `json:"steps,omitempty"`
	// Deadline is for how many seconds from now on the image is of use; 0 is the class's.
	Deadline float64 `json:"deadline_s,omitempty"`
	// Claim reserves what the prompt needs until it is settled. The connector must allow it
	// (advice::claims).
	Claim bool `json:"claim,omitempty"`
	// Observe says that the prompt is passed on whatever the decision is.
	Observe bool `json:"observe,omitempty"`
	// Caller tells the prompt's client and content from others; 0 if that is not known.
	Caller uint64 `json:"caller,omitempty"`
	// Stays says that the prompt cannot go to another server: its session has begun. So cannot those that
	// claim.
	Stays bool `json:"stays,omitempty"`
}

// Settlement says what became of a claim.
type Settlement struct {
	// PromptID is the id that the server gave; empty if it will not run the prompt.
	PromptID string `json:"prompt_id"`
}

// Of is a decision at a time, its message in a language.
func Of(d *admission.Decision, language string, claims bool, now time.Time) Advice {
	a := Advice{Decision: string(d.Verdict), Reason: string(d.Reason), Message: d.Messages[language], Target: d.Target, Executions: d.Executions}
	seconds := func(d time.Duration) *float64 {
		if d <= 0 {
			return nil
		}
		s := d.Seconds()
		return &s
	}
	if d.Completion > 0 || d.Wait > 0 {
		wait := d.Wait.Seconds()
		a.Wait = &wait
	}
	a.Completion, a.Low, a.High, a.RetryAfter = seconds(d.Completion), seconds(d.CompletionLow), seconds(d.CompletionHigh), seconds(d.RetryAfter)
	if d.MaxSide > 0 {
		a.MaxSide = &d.MaxSide
	}
	if d.Memory.Need > 0 {
		a.Need, a.Room = &d.Memory.Need, &d.Memory.Room
	}
	if claims {
		a.Claim, a.Batch, a.Returned, a.Messages = d.Claim, d.Batch, d.Returned, d.Messages
		if !d.Deadline.IsZero() {
			a.Deadline = seconds(max(d.Deadline.Sub(now), time.Millisecond))
		}
	}
	return a
}

// decision is advice about a prompt of a class, that came at a time.
func (a *Advice) decision(class string, now time.Time) admission.Decision {
	d := admission.Decision{
		Verdict: admission.Verdict(a.Decision), Reason: admission.Reason(a.Reason), Class: class, Target: a.Target, Executions: a.Executions,
		Claim: a.Claim, Batch: a.Batch, Returned: a.Returned, Messages: a.Messages,
		Wait: duration(a.Wait), Completion: duration(a.Completion), CompletionLow: duration(a.Low), CompletionHigh: duration(a.High), RetryAfter: duration(a.RetryAfter),
	}
	if a.Deadline != nil {
		d.Deadline = now.Add(duration(a.Deadline))
	}
	if a.MaxSide != nil {
		d.MaxSide = *a.MaxSide
	}
	if a.Need != nil && a.Room != nil {
		d.Memory = admission.Memory{Need: *a.Need, Room: *a.Room}
	}
	return d
}

// duration is a number of seconds, from 0 to a day.
func duration(s *float64) time.Duration {
	if s == nil || !(*s > 0) {
		return 0
	}
	return time.Duration(min(*s, admission.MaxDeadline.Seconds()) * float64(time.Second))
}

// asked is what a request asks.
func asked(r *admission.Request, server string) AdviceRequest {
	return AdviceRequest{
		Server: server, GPU: r.GPU, TaskClass: r.Class, Workflow: r.Workflow, Model: r.Model, Width: r.Side, Batch: r.Batch, Steps: r.Steps,
		Deadline: r.Deadline.Seconds(), Claim: r.Claim, Observe: r.Observe, Stays: r.Stays, Caller: r.Caller,
	}
}
