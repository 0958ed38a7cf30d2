// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// The type of the error in a refusal's body, which no page or client takes for one of its own.
const refusalType = "otelcol_gpu_busy"

// refusal is the body of a refused prompt, in ComfyUI's form.
type refusal struct {
	Error      refusalError   `json:"error"`
	NodeErrors map[string]any `json:"node_errors"`
}

type refusalError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Details string `json:"details"`
	Extra   extra  `json:"extra_info"`
}

type extra struct {
	Reason     admission.Reason `json:"reason"`
	RetryAfter *float64         `json:"retry_after_s,omitempty"`
	Wait       *float64         `json:"predicted_wait_s,omitempty"`
	MaxSide    int              `json:"max_side,omitempty"`
}

// Status is the status of a refusal: 400 for what can never fit, 503 where no GPU can work, else
// 429.
func Status(d *admission.Decision) int {
	switch d.Reason {
	case admission.TooLarge:
		return http.StatusBadRequest
	case admission.Unhealthy:
		return http.StatusServiceUnavailable
	}
	return http.StatusTooManyRequests
}

// defaultMessage is for a decision without messages.
const defaultMessage = "The system is busy; please try again later"

// Refuse answers a prompt that is refused, in the language that the client accepts.
func Refuse(w http.ResponseWriter, r *http.Request, d *admission.Decision) {
	body := refusal{NodeErrors: map[string]any{}}
	body.Error.Type, body.Error.Message = refusalType, Message(d, r.Header.Get("Accept-Language"))
	body.Error.Extra = extra{Reason: d.Reason, MaxSide: d.MaxSide}
	header := w.Header()
	if after := d.RetryAfter.Seconds(); after > 0 && d.Reason != admission.TooLarge {
		exact := math.Round(after*1000) / 1000
		body.Error.Extra.RetryAfter = &exact
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(after))))
	}
	if wait := d.Wait.Seconds(); wait > 0 {
		exact := math.Round(wait*1000) / 1000
		body.Error.Extra.Wait = &exact
	}
	text, err := json.Marshal(body)
	if err != nil { // it holds texts and numbers only
		text = []byte(`{"error": {"type": "` + refusalType + `", "message": "` + defaultMessage + `", "details": "", "extra_info": {}}, "node_errors": {}}`)
	}
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(Status(d))
	_, _ = w.Write(text)
}

// Message is what to tell a user who accepts languages (RFC 9110, section 12.5.4): Chinese if
// that is preferred to English.
func Message(d *admission.Decision, accept string) string {
	language, best := "en", 0.0
	for part := range strings.SplitSeq(accept, ",") {
		tag, parameters, _ := strings.Cut(strings.TrimSpace(part), ";")
		quality := 1.0
		if q, ok := strings.CutPrefix(strings.TrimSpace(parameters), "q="); ok {
			quality, _ = strconv.ParseFloat(q, 64)
		}
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if (primary == "zh" || primary == "en") && quality > best {
			language, best = primary, quality
		}
	}
	if text := d.Messages[language]; text != "" {
		return text
	}
	return defaultMessage
}
