// SPDX-License-Identifier: Apache-2.0

package page

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission/overhttp"
)

// The bounds of requests for advice.
const (
	maxAdviceRequests = 100
	maxAdviceBody     = 256 << 10
	maxAdviceText     = 256
	maxSettlement     = 1 << 10
	maxSize           = 1 << 20
	maxDeadline       = int(admission.MaxDeadline / time.Second) // s
)

// lateBody is the answer to those that send slowly; page::read_timeout bounds that.
const lateBody = "The body did not arrive in time"

// advice answers GET /v1/advice: about one prompt, by the parameters.
func (p *Page) advice(w http.ResponseWriter, r *http.Request) {
	request, err := readAdviceQuery(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	d, err := p.settings.Advisor.Advise(r.Context(), &request)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	answer(w, r, overhttp.Of(&d, string(languageOf(r)), false, time.Now()))
}

// adviseMany answers POST /v1/advice: about many prompts.
func (p *Page) adviseMany(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Requests []overhttp.AdviceRequest `json:"requests"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdviceBody))
	d.DisallowUnknownFields()
	var tooLarge *http.MaxBytesError
	switch err := d.Decode(&body); {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The body exceeds %d bytes", maxAdviceBody))
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		refuse(w, http.StatusRequestTimeout, lateBody)
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, `The body is not a valid {"requests": [...]}: `+printable(err.Error()))
		return
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, "The body has data after the JSON document")
		return
	}
	if len(body.Requests) > maxAdviceRequests {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("There are %d requests; send %d at most", len(body.Requests), maxAdviceRequests))
		return
	}
	if slices.ContainsFunc(body.Requests, func(v overhttp.AdviceRequest) bool { return v.Claim }) && !p.mayClaim(w, r) {
		return
	}
	requests := make([]admission.Request, len(body.Requests))
	for i := range body.Requests { // all of them before the first claims
		var err error
		if requests[i], err = adviceRequest(&body.Requests[i]); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("requests[%d]: %v", i, err))
			return
		}
	}
	decisions, err := p.decide(r.Context(), requests)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	l, now := languageOf(r), time.Now()
	list := overhttp.AdviceList{Advice: make([]overhttp.Advice, 0, len(decisions))}
	free := ""
	for i := range decisions {
		d := &decisions[i]
		if requests[i].Claim && d.Verdict == admission.Hold && d.Free != "" {
			free = d.Free
		}
		list.Advice = append(list.Advice, overhttp.Of(d, string(l), requests[i].Claim, now))
	}
	w.Header().Set("Cache-Control", "no-store")
	answer(w, r, list)
	if r.Context().Err() != nil { // the end of the answer is sent when this returns: the caller does not have it
		p.withdraw(decisions)
	}
	if free != "" {
		p.free(free)
	}
}

// decide asks about prompts. If the caller gives up meanwhile, or one cannot be decided about, nothing
// stays claimed.
func (p *Page) decide(ctx context.Context, requests []admission.Request) (all []admission.Decision, err error) {
	for i := range requests {
		d, failed := p.settings.Advisor.Advise(ctx, &requests[i])
		if err = failed; err != nil {
			break
		}
		all = append(all, d)
	}
	if err = cmp.Or(err, ctx.Err()); err == nil {
		return all, nil
	}
	p.withdraw(all)
	return nil, err
}

// withdraw ends what decisions claimed.
func (p *Page) withdraw(all []admission.Decision) {
	for i := range all {
		if all[i].Claim != 0 {
			p.settings.Advisor.Settle(all[i].Claim, "")
		}
	}
}

// free has a server's memory freed, without waiting for it: the answer has ended. If that fails, or is
// left out since others are under way, the caller's prompt stays held, and asks again.
func (p *Page) free(server string) {
	if p.settings.Free == nil {
		return
	}
	p.ending.Lock()
	defer p.ending.Unlock()
	if p.running.Err() != nil {
		return
	}
	select {
	case p.freeing <- struct{}{}:
	default:
		return
	}
	p.work.Go(func() {
		defer func() { <-p.freeing }()
		ctx, cancel := context.WithTimeout(p.running, freeTimeout)
		defer cancel()
		_ = p.settings.Free(ctx, server)
	})
}

// maxFreeing bounds the requests to free memory that are under way.
const maxFreeing = 4

// freeTimeout bounds a request to free a server's memory.
const freeTimeout = 2 * time.Second

// mayClaim reports whether a request may claim; it refuses one that may not.
func (p *Page) mayClaim(w http.ResponseWriter, r *http.Request) bool {
	if !p.settings.Claims {
		refuse(w, http.StatusForbidden, "Claims are not allowed: set advice::claims: true")
		return false
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		refuse(w, http.StatusForbidden, "Requests from another origin are not allowed")
		return false
	}
	return true
}

// settle answers POST /v1/advice/claims/{claim}: it ends a claim.
func (p *Page) settle(w http.ResponseWriter, r *http.Request) {
	if !p.mayClaim(w, r) {
		return
	}
	claim, err := strconv.ParseUint(r.PathValue("claim"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, printable(r.PathValue("claim"))+" is not a valid claim number")
		return
	}
	var body overhttp.Settlement
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSettlement))
	d.DisallowUnknownFields()
	switch err := d.Decode(&body); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		refuse(w, http.StatusRequestTimeout, lateBody)
		return
	case err != nil || len(body.PromptID) > maxAdviceText:
		refuse(w, http.StatusBadRequest, `The body is not a valid {"prompt_id": "..."}`)
		return
	}
	p.settings.Advisor.Settle(claim, body.PromptID)
	w.WriteHeader(http.StatusNoContent)
}

// adviceParameters are those of GET /v1/advice.
var adviceParameters = []string{"server", "gpu", "task_class", "workflow", "model", "width", "height", "batch", "steps", "deadline_s", "lang"}

// readAdviceQuery reads the parameters of GET /v1/advice.
func readAdviceQuery(q url.Values) (request admission.Request, err error) {
	v := overhttp.AdviceRequest{Server: q.Get("server"), GPU: q.Get("gpu"), TaskClass: q.Get("task_class"), Workflow: q.Get("workflow"), Model: q.Get("model")}
	for name, into := range map[string]*int{"width": &v.Width, "height": &v.Height, "batch": &v.Batch, "steps": &v.Steps} {
		if text := q.Get(name); text != "" {
			if *into, err = strconv.Atoi(text); err != nil {
				return request, fmt.Errorf("%s=%s is not valid: use a whole number", name, printable(text))
			}
		}
	}
	if text := q.Get("deadline_s"); text != "" {
		if v.Deadline, err = strconv.ParseFloat(text, 64); err != nil {
			return request, fmt.Errorf("deadline_s=%s is not valid: use a number of seconds", printable(text))
		}
	}
	for name := range q {
		if !slices.Contains(adviceParameters, name) {
			return request, fmt.Errorf("%s is not a parameter: use server, gpu, task_class, workflow, model, width, height, batch, steps or deadline_s", printable(name))
		}
	}
	return adviceRequest(&v)
}

// adviceRequest checks a request.
func adviceRequest(v *overhttp.AdviceRequest) (r admission.Request, err error) {
	for _, text := range []struct{ name, value string }{{"server", v.Server}, {"gpu", v.GPU}, {"task_class", v.TaskClass}, {"workflow", v.Workflow}, {"model", v.Model}} {
		if len(text.value) > maxAdviceText {
			return r, fmt.Errorf("%s is longer than %d bytes", text.name, maxAdviceText)
		}
	}
	for _, number := range []struct {
		name  string
		value int
	}{{"width", v.Width}, {"height", v.Height}, {"batch", v.Batch}, {"steps", v.Steps}} {
		if number.value < 0 || number.value > maxSize {
			return r, fmt.Errorf("%s=%d is not between 0 and %d", number.name, number.value, maxSize)
		}
	}
	if !(v.Deadline >= 0 && v.Deadline <= float64(maxDeadline)) {
		return r, fmt.Errorf("deadline_s=%v is not between 0 and %d", v.Deadline, maxDeadline)
	}
	return admission.Request{
		Server: v.Server, GPU: v.GPU, Class: v.TaskClass, Workflow: v.Workflow, Model: v.Model, Side: max(v.Width, v.Height),
		Batch: max(v.Batch, 1), Steps: v.Steps, Deadline: time.Duration(v.Deadline * float64(time.Second)), Claim: v.Claim, Observe: v.Observe, Stays: v.Stays, Caller: v.Caller,
	}, nil
}
