// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
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

// Status is the status of a refusal: 400 for what can never fit or gives a poor result, 503 where no GPU can work or the
// receiver shuts down, else 429.
func Status(d *admission.Decision) int {
	switch d.Reason {
	case admission.TooLarge, admission.Input:
		return http.StatusBadRequest
	case admission.Unhealthy, admission.Stopping:
		return http.StatusServiceUnavailable
	}
	return http.StatusTooManyRequests
}

// messages are for decisions without messages of their own.
var messages = map[admission.Reason]map[string]string{
	"":                 {"en": "The system is busy; please try again later", "zh": "当前系统繁忙，请稍后重试"},
	admission.Rate:     {"en": "Too many requests; please try again later", "zh": "请求过于频繁，请稍后重试"},
	admission.Stopping: {"en": "The system is restarting; please try again in a few seconds", "zh": "系统正在重启，请几秒后重试"},
	admission.Input:    {"en": "An image of the request would give a poor result; please choose another one", "zh": "该图像难以得到好的效果，请更换图像"},
	admission.Unread:   {"en": "The request cannot be read; please send it as uncompressed JSON in UTF-8, or make it smaller", "zh": "无法读取请求，请使用未压缩的 UTF-8 JSON，或减小请求"},
}

// Refuse answers a prompt that is refused, in the language that the client accepts.
func Refuse(w http.ResponseWriter, r *http.Request, d *admission.Decision, status int) {
	body := refusal{NodeErrors: map[string]any{}}
	body.Error.Type, body.Error.Message = refusalType, Message(d, r.Header.Get("Accept-Language"))
	body.Error.Extra = extra{Reason: d.Reason, MaxSide: d.MaxSide}
	header := w.Header()
	if after := d.RetryAfter.Seconds(); after > 0 && d.Reason != admission.TooLarge && d.Reason != admission.Input {
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
		text = []byte(`{}`)
	}
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// maxMessage bounds a message, in bytes.
const maxMessage = 1024

// Message is what to show to a user who accepts languages (RFC 9110, section 12.5.4): Chinese if
// that is preferred to English.
func Message(d *admission.Decision, accept string) string {
	language, best := "en", 0.0
	for part := range strings.SplitSeq(accept, ",") {
		tag, parameters, _ := strings.Cut(strings.TrimSpace(part), ";")
		quality := 1.0
		if q, ok := strings.CutPrefix(strings.ReplaceAll(parameters, " ", ""), "q="); ok {
			quality, _ = strconv.ParseFloat(q, 64)
		}
		primary, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
		if (primary == "zh" || primary == "en") && quality > best {
			language, best = primary, quality
		}
	}
	if text := boundtext.Line(d.Messages[language], maxMessage); text != "" && isShown(text) {
		return text
	}
	if of := messages[d.Reason]; of != nil {
		return of[language]
	}
	return messages[""][language]
}

// isShown reports whether ComfyUI's page shows a message as it is: it has others of its own for
// these.
func isShown(text string) bool {
	return !strings.HasPrefix(text, "Rate Limit Exceeded:") && !strings.Contains(text, "CUDA out of memory") &&
		!strings.Contains(text, "GPU out of memory") && !strings.Contains(text, "Allocation on device")
}
