// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

func refuse(d *admission.Decision, language string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/prompt", nil)
	if language != "" {
		r.Header.Set("Accept-Language", language)
	}
	Refuse(w, r, d, Status(d))
	return w
}

func TestRefusalHasComfyUIsShape(t *testing.T) {
	w := refuse(&admission.Decision{
		Verdict: admission.Reject, Reason: admission.Late, RetryAfter: 12400 * time.Millisecond, Wait: 41 * time.Second, MaxSide: 680,
		Messages: map[string]string{"zh": "当前系统繁忙，建议将尺寸调整为680以下以加快处理速度", "en": "busy"},
	}, "zh-CN,zh;q=0.9")
	assert.Equal(t, http.StatusTooManyRequests, w.Code)
	assert.Equal(t, "13", w.Header().Get("Retry-After"), "rounded up")
	assert.Equal(t, "application/json; charset=utf-8", w.Header().Get("Content-Type"))
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	assert.JSONEq(t, `{"error":{"type":"otelcol_gpu_busy","message":"当前系统繁忙，建议将尺寸调整为680以下以加快处理速度","details":"",`+
		`"extra_info":{"reason":"deadline","retry_after_s":12.4,"predicted_wait_s":41,"max_side":680}},"node_errors":{}}`, w.Body.String())
}

func TestRefusalsStatusAndRetryAfter(t *testing.T) {
	for _, c := range []struct {
		reason admission.Reason
		status int
		after  time.Duration
		header string
	}{
		{admission.Late, 429, time.Second, "1"},
		{admission.Late, 429, 1001 * time.Millisecond, "2"},
		{admission.BatchWaits, 429, time.Millisecond, "1"},
		{admission.MemoryBusy, 429, 0, ""},
		{admission.MemoryIdle, 429, 90 * time.Second, "90"},
		{admission.Rate, 429, 1500 * time.Millisecond, "2"},
		{admission.TooLarge, 400, time.Minute, ""},
		{admission.Unhealthy, 503, 10 * time.Second, "10"},
		{admission.Stopping, 503, 3 * time.Second, "3"},
	} {
		w := refuse(&admission.Decision{Reason: c.reason, RetryAfter: c.after}, "")
		assert.Equal(t, c.status, w.Code, c.reason)
		assert.Equal(t, c.header, w.Header().Get("Retry-After"), c.reason)
		var body refusal
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
		assert.Equal(t, c.reason, body.Error.Extra.Reason)
		assert.Equal(t, c.header != "", body.Error.Extra.RetryAfter != nil, c.reason)
		assert.NotEmpty(t, body.Error.Message)
	}
}

func TestMessageIsInTheLanguageThatTheClientPrefers(t *testing.T) {
	d := &admission.Decision{Messages: map[string]string{"zh": "忙", "en": "busy"}}
	for accept, want := range map[string]string{
		"":                          "busy",
		"*":                         "busy",
		"zh":                        "忙",
		"zh-CN,zh;q=0.9,en;q=0.8":   "忙",
		"en-US,en;q=0.9,zh-CN;q=.8": "busy",
		"en;q=0.2, zh-TW; q=0.3":    "忙",
		"ZH-hans":                   "忙",
		"zh;q=0":                    "busy",
		"zh;q=x":                    "busy",
		"fr, zh;q=0.1":              "忙",
		"zhx":                       "busy",
		strings.Repeat(",;q=", 100): "busy",
	} {
		assert.Equal(t, want, Message(d, accept), accept)
	}
}

// TestMessageIsOneThatThePageShows: it has others of its own for some texts, and a decision may
// have none, or one that is endless.
func TestMessageIsOneThatThePageShows(t *testing.T) {
	for _, text := range []string{"", "Rate Limit Exceeded: you", "a CUDA out of memory", "GPU out of memory", "Allocation on device 0"} {
		d := &admission.Decision{Reason: admission.Late, Messages: map[string]string{"en": text, "zh": text}}
		assert.Equal(t, "The system is busy; please try again later", Message(d, "en"), text)
		assert.Equal(t, "当前系统繁忙，请稍后重试", Message(d, "zh"), text)
	}
	assert.LessOrEqual(t, len(Message(&admission.Decision{Messages: map[string]string{"en": strings.Repeat("x", 1<<20)}}, "en")), maxMessage)
	for reason, of := range messages {
		for _, language := range []string{"en", "zh"} {
			assert.NotEmpty(t, of[language], reason)
			assert.True(t, isShown(of[language]), reason)
			assert.Equal(t, of[language], Message(&admission.Decision{Reason: reason}, language))
		}
	}
}

// shown is what ComfyUI's page shows of an answer to POST /prompt that is not 200: the message, or
// a text of its own. The page parses the body, whatever the status.
func shown(w *httptest.ResponseRecorder) string {
	var body struct {
		Error      any            `json:"error"`
		NodeErrors map[string]any `json:"node_errors"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		return "Unexpected token"
	}
	e, isObject := body.Error.(map[string]any)
	message, isText := e["message"].(string)
	details, hasDetails := e["details"].(string)
	kind, _ := e["type"].(string)
	switch {
	case !isObject || !isText || !hasDetails:
		return "undefined"
	case len(body.NodeErrors) > 0:
		return "node errors"
	case strings.HasPrefix(message, "Rate Limit Exceeded:"), strings.Contains(message, "CUDA out of memory"),
		strings.Contains(message, "GPU out of memory"), strings.Contains(message, "Allocation on device"):
		return "another text"
	}
	switch kind {
	case "server_error", "no_prompt", "prompt_no_outputs", "missing_node_type", "prompt_outputs_failed_validation", "OOMError", "RequestError":
		return "another text"
	}
	return strings.TrimSpace(message + " " + details)
}

// TestPageShowsTheMessage of each refusal, whatever the advisor's message is.
func TestPageShowsTheMessage(t *testing.T) {
	for _, reason := range []admission.Reason{
		admission.Late, admission.BatchWaits, admission.MemoryIdle, admission.MemoryBusy, admission.TooLarge, admission.Unhealthy, admission.Rate,
		admission.Stopping, admission.Unread,
	} {
		for language, of := range map[string]string{"zh-CN,zh;q=0.9": "zh", "en-GB": "en"} {
			d := &admission.Decision{Reason: reason, Messages: map[string]string{"zh": "当前系统繁忙，建议将尺寸调整为680以下以加快处理速度", "en": "\"<b>680</b>\" \xff"}}
			text := shown(refuse(d, language))
			if of == "zh" {
				assert.Equal(t, "当前系统繁忙，建议将尺寸调整为680以下以加快处理速度", text)
			} else {
				assert.Equal(t, "\"<b>680</b>\" \ufffd", text)
			}
			for _, message := range []string{"", "Rate Limit Exceeded: x", "CUDA out of memory: x"} {
				d.Messages = map[string]string{of: message}
				text := shown(refuse(d, language))
				assert.NotEqual(t, "another text", text)
				assert.NotEmpty(t, text)
			}
		}
	}
}
