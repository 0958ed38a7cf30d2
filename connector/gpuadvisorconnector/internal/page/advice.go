// SPDX-License-Identifier: Apache-2.0

package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// The bounds of requests for advice.
const (
	maxAdviceRequests = 100
	maxAdviceBody     = 256 << 10
	maxAdviceText     = 256
	maxSize           = 1 << 20
	maxDeadline       = int(admission.MaxDeadline / time.Second) // s
)

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
	answer(w, r, viewAdvice(&d, languageOf(r)))
}

// adviseMany answers POST /v1/advice: about many prompts.
func (p *Page) adviseMany(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Requests []view.AdviceRequest `json:"requests"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdviceBody))
	d.DisallowUnknownFields()
	var tooLarge *http.MaxBytesError
	switch err := d.Decode(&body); {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The body exceeds %d bytes", maxAdviceBody))
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, `The body is not {"requests": [...]}: `+printable(err.Error()))
		return
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, "There is something after the body")
		return
	}
	if len(body.Requests) > maxAdviceRequests {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("There are %d requests; send %d at most", len(body.Requests), maxAdviceRequests))
		return
	}
	l := languageOf(r)
	list := view.AdviceList{Advice: make([]view.Advice, 0, len(body.Requests))}
	for i := range body.Requests {
		request, err := adviceRequest(&body.Requests[i])
		if err != nil {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("requests[%d]: %v", i, err))
			return
		}
		d, err := p.settings.Advisor.Advise(r.Context(), &request)
		if err != nil {
			refuse(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		list.Advice = append(list.Advice, viewAdvice(&d, l))
	}
	w.Header().Set("Cache-Control", "no-store")
	answer(w, r, list)
}

// adviceParameters are those of GET /v1/advice.
var adviceParameters = []string{"server", "gpu", "task_class", "workflow", "model", "width", "height", "batch", "steps", "deadline_s", "lang"}

// readAdviceQuery reads the parameters of GET /v1/advice.
func readAdviceQuery(q url.Values) (request admission.Request, err error) {
	v := view.AdviceRequest{Server: q.Get("server"), GPU: q.Get("gpu"), TaskClass: q.Get("task_class"), Workflow: q.Get("workflow"), Model: q.Get("model")}
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
func adviceRequest(v *view.AdviceRequest) (r admission.Request, err error) {
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
		Batch: max(v.Batch, 1), Steps: v.Steps, Deadline: time.Duration(v.Deadline * float64(time.Second)),
	}, nil
}

// viewAdvice is a decision in a language.
func viewAdvice(d *admission.Decision, l texts.Language) view.Advice {
	v := view.Advice{Decision: string(d.Verdict), Reason: string(d.Reason), Message: d.Messages[string(l)], Target: d.Target, Executions: d.Executions}
	seconds := func(d time.Duration) *float64 {
		if d <= 0 {
			return nil
		}
		s := d.Seconds()
		return &s
	}
	if d.Completion > 0 {
		wait := d.Wait.Seconds()
		v.Wait = &wait
	}
	v.Completion, v.Low, v.High, v.RetryAfter = seconds(d.Completion), seconds(d.CompletionLow), seconds(d.CompletionHigh), seconds(d.RetryAfter)
	if d.MaxSide > 0 {
		v.MaxSide = &d.MaxSide
	}
	if d.Memory.Need > 0 {
		v.Need, v.Room = &d.Memory.Need, &d.Memory.Room
	}
	return v
}
