// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/gate"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// What the receiver changes in a prompt: its place in the queue, and where that is configured its size.

// loweredHeader is the header of a response to a prompt that was lowered: the longer side, in pixels.
const loweredHeader = "X-Otelcol-Gpu-Lowered-Side"

// lower lowers a prompt that does not fit to the largest size that does, if its class permits that. It
// returns false if the size cannot be lowered: it comes from another node, or would be tiny.
func (p *proxy) lower(of *arrival, a *prompt.Admission, d *admission.Decision) bool {
	class := of.sizing.TaskClass
	if d.Verdict != admission.Reject || d.Reason != admission.TooLarge || d.MaxSide <= 0 || !slices.Contains(p.rewrites, class) {
		return false
	}
	edits, ok := p.tracker.Lower(&of.sub, d.MaxSide)
	if !ok {
		return false
	}
	body, ok := protocol.WithInputs(of.body, edits)
	if !ok {
		return false
	}
	sub := p.parse(body)
	sub.TaskClass = class // by the size that was asked for
	z := p.tracker.Sizing(&sub)
	if z.Side() <= 0 || z.Side() > float64(d.MaxSide) {
		return false
	}
	a.AskedSide, a.LoweredSide = int(of.sizing.Side()), int(z.Side())
	of.sub, of.body, of.sizing = sub, body, z
	return true
}

// pass prepares a prompt that was admitted to be passed on.
func (p *proxy) pass(w http.ResponseWriter, r *http.Request, of *arrival, a *prompt.Admission) {
	if a == nil {
		return
	}
	body := of.body
	if a.Number != 0 {
		body, _ = gate.WithNumber(body, a.Number) // the server rejects one that cannot have it
	}
	if a.LoweredSide > 0 {
		w.Header().Set(loweredHeader, strconv.Itoa(a.LoweredSide))
	}
	if a.Number != 0 || a.LoweredSide > 0 {
		setBody(r, body)
	}
}

// setBody replaces a request's body.
func setBody(r *http.Request, body []byte) {
	r.Body = restored{bytes.NewReader(body), r.Body}
	if r.ContentLength >= 0 {
		r.ContentLength = int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
}
