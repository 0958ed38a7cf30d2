// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// drawn is a PNG, in many hues or in shades of grey.
func drawn(t testing.TB, width, height int, coloured bool) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			l, b, r := 128+60*math.Sin(float64(x+y)/40), 0.0, 0.0
			if coloured {
				b, r = 50*math.Sin(float64(x)/30), 50*math.Cos(float64(y)/30)
			}
			cb, cr := uint8(128+b), uint8(128+r)
			red, green, blue := color.YCbCrToRGB(uint8(l), cb, cr)
			m.SetRGBA(x, y, color.RGBA{red, green, blue, 255})
		}
	}
	var out bytes.Buffer
	require.NoError(t, png.Encode(&out, m))
	return out.Bytes()
}

// uploadFile uploads a file, and returns what arrived at the client.
func uploadFile(t testing.TB, base, name string, file []byte) (body []byte, response *http.Response) {
	t.Helper()
	var sent bytes.Buffer
	w := multipart.NewWriter(&sent)
	part, err := w.CreateFormFile("image", name)
	require.NoError(t, err)
	_, err = part.Write(file)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base, &sent)
	require.NoError(t, err)
	request.Header.Set("Content-Type", w.FormDataContentType())
	request.Header.Set("Accept-Encoding", "gzip")
	response, err = http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	return body, response
}

// judged waits until so many images were judged, by what became of them.
func (a *admissionRig) judged(want map[string]float64) {
	a.t.Helper()
	waitFor(a.t.(*testing.T), func() bool {
		m, err := a.scrape(a.t.Context())
		require.NoError(a.t, err)
		got := values(m, "comfyui.input.images")
		for result, n := range want {
			if got["map[comfyui.input.result:"+result+"]"] != n {
				return false
			}
		}
		return true
	})
}

// counts are the points of a metric that are not 0.
func (a *admissionRig) counts(name string) map[string]float64 {
	m, err := a.scrape(a.t.Context())
	require.NoError(a.t, err)
	return values(m, name)
}

// promptWith is a prompt that loads an image.
func promptWith(id, image string, side int) string {
	return strings.Replace(ddcolor(id, side, ""), "people.png", image, 1)
}

// busy is what may take that long on a machine that is busy with other tests.
const busy = 15 * time.Second

func checking(action string) func(*Config) {
	return func(c *Config) {
		c.atLeast = busy
		c.InputChecks = map[string]InputCheckConfig{"people": {MinSide: 200, MaxAspect: 4, MaxChroma: 4, Action: action}}
	}
}

// TestPoorInputIsWarnedOf: the prompt runs, and its span, a metric and a record say what is wrong.
func TestPoorInputIsWarnedOf(t *testing.T) {
	r := newAdmissionRig(t, checking(""))
	close(r.goOn)
	for name, file := range map[string][]byte{"good secret.png": drawn(t, 300, 250, false), "poor secret.png": drawn(t, 150, 100, true)} {
		_, response := uploadFile(t, r.base+"/upload/image", name, file)
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	r.judged(map[string]float64{"judged": 2, "format": 1}) // the rig's own upload is not an image
	accepted(t, r.base, promptWith("good", "good secret.png", 400))
	accepted(t, r.base, promptWith("poor", "poor secret.png", 400))
	accepted(t, r.base, promptWith("large", "poor secret.png", 1000)) // of a class that is not checked
	accepted(t, r.base, promptWith("damaged", "people.png", 400))
	waitFor(t, func() bool { return len(r.byPrompt()) == 4 && r.logs.LogRecordCount() == 1 })
	for _, td := range r.byPrompt() {
		root := spansOf(t, td)[0].Attributes
		for key, value := range root {
			assert.NotContains(t, fmt.Sprint(value), "secret", key)
		}
		assert.Equal(t, "success", root["comfyui.prompt.outcome"])
		assert.NotContains(t, root, "comfyui.admission.decision", "nobody decides")
		switch root["comfyui.prompt.id"] {
		case "poor":
			assert.Equal(t, []any{"too_small", "coloured"}, root["comfyui.input.findings"])
			assert.Equal(t, "warn", root["comfyui.input.action"])
			assert.Equal(t, int64(150), root["comfyui.input.width"])
			assert.Equal(t, int64(100), root["comfyui.input.height"])
			assert.Greater(t, root["comfyui.input.chroma"], 10.0)
			assert.Positive(t, root["comfyui.input.bytes_per_pixel"])
			assert.NotContains(t, root, "comfyui.input.unjudged")
		case "damaged":
			assert.Equal(t, "format", root["comfyui.input.unjudged"])
			assert.NotContains(t, root, "comfyui.input.action")
		default:
			assert.NotContains(t, root, "comfyui.input.findings")
			assert.NotContains(t, root, "comfyui.input.unjudged")
		}
	}
	logged := r.logs.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	assert.Equal(t, "comfyui.prompt.input", logged.EventName())
	assert.Equal(t, "poor input: too_small, coloured", logged.Body().Str())
	assert.False(t, logged.TraceID().IsEmpty())
	assert.Equal(t, map[string]float64{
		"map[comfyui.input.action:warn comfyui.input.finding:coloured comfyui.task_class:people]":  1,
		"map[comfyui.input.action:warn comfyui.input.finding:too_small comfyui.task_class:people]": 1,
	}, r.counts("comfyui.input.findings"))
	assert.Equal(t, map[string]float64{"map[comfyui.input.reason:format comfyui.task_class:people]": 1}, r.counts("comfyui.input.unjudged"))
}

// TestPoorInputIsRejected, in the user's language, also without an advisor; what is good passes.
func TestPoorInputIsRejected(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"without an advisor": checking(actionReject),
		"enforced": func(c *Config) {
			checking(actionReject)(c)
			with(advised(t, &testAdvisor{decide: byClass}), modeEnforce)(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newAdmissionRig(t, change)
			close(r.goOn)
			uploadFile(t, r.base+"/api/upload/image", "good.png", drawn(t, 300, 250, false))
			uploadFile(t, r.base+"/upload/image", "narrow.png", drawn(t, 1000, 210, false))
			r.judged(map[string]float64{"judged": 2})
			before := r.posted("/prompt")
			response, answer := ask(t, r.base, promptWith("narrow", "narrow.png", 400), "Accept-Language", "zh-CN,en;q=0.5")
			assert.Equal(t, http.StatusBadRequest, response.StatusCode)
			assert.Empty(t, response.Header.Get("Retry-After"))
			assert.JSONEq(t, `{"error": {"type": "otelcol_gpu_busy", "message": "图像过于狭长（1000 : 210）：请裁剪或分成几部分，使长边不超过短边的 4 倍", "details": "", "extra_info": {"reason": "input"}}, "node_errors": {}}`, answer)
			_, answer = ask(t, r.base, promptWith("again", "narrow.png", 400))
			assert.Contains(t, answer, "The image is too narrow (1000 : 210): crop it")
			assert.Equal(t, before, r.posted("/prompt"), "it did not reach the server")
			accepted(t, r.base, promptWith("good", "good.png", 400))
			waitFor(t, func() bool { return len(r.byPrompt()) == 3 && r.logs.LogRecordCount() == 2 })
			refused := 0
			for _, td := range r.byPrompt() {
				root := spansOf(t, td)[0].Attributes
				if root["comfyui.prompt.outcome"] == "refused" {
					refused++
					assert.Equal(t, "input", root["error.type"])
					assert.Equal(t, []any{"aspect"}, root["comfyui.input.findings"])
					assert.Equal(t, "reject", root["comfyui.input.action"])
				}
			}
			assert.Equal(t, 2, refused)
			logged := r.logs.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
			assert.Equal(t, "prompt refused for poor input: aspect", logged.Body().Str())
			assert.InDelta(t, 2, r.counts("comfyui.admission.decisions")["map[comfyui.admission.decision:reject comfyui.admission.enforced:true comfyui.admission.reason:input comfyui.task_class:people]"], 0)
		})
	}
}

// TestAPromptIsNotHeldForItsImage: one that is not judged yet, or not known, is passed on and counted.
func TestAPromptIsNotHeldForItsImage(t *testing.T) {
	r := newAdmissionRig(t, func(c *Config) {
		checking(actionReject)(c)
		c.Limits.ImageBytes = 20 << 10
	})
	close(r.goOn)
	r.judged(map[string]float64{"format": 1})
	uploadFile(t, r.server+"/upload/image", "past.png", drawn(t, 150, 100, true)) // past the proxy
	uploadFile(t, r.base+"/upload/image", "long.png", drawn(t, 1500, 1000, true))
	r.judged(map[string]float64{"length": 1})
	accepted(t, r.base, promptWith("past", "past.png", 400))
	accepted(t, r.base, promptWith("long", "long.png", 400))
	assert.Equal(t, map[string]float64{
		"map[comfyui.input.reason:length comfyui.task_class:people]":  1,
		"map[comfyui.input.reason:unknown comfyui.task_class:people]": 1,
	}, r.counts("comfyui.input.unjudged"))
	assert.Empty(t, r.counts("comfyui.input.findings"))
	require.NoError(t, growth.Within(r.Bounds()))
}

// TestUploadsPassUnchanged: bytes, headers and the answer, whatever they are.
func TestUploadsPassUnchanged(t *testing.T) {
	var mu sync.Mutex
	var seen []byte
	var header http.Header
	status, answer := http.StatusOK, `{"name": "a.png", "subfolder": "", "type": "input"}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if status != http.StatusRequestEntityTooLarge { // which answers before it has read the body
			seen, _ = io.ReadAll(r.Body)
		}
		header = r.Header.Clone()
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	a := &admissionRig{rig: newRig(t, server.URL, checking(actionReject))}
	file := drawn(t, 600, 500, true)
	for n, of := range []struct {
		status int
		answer string
		result string
	}{
		{200, `{"name": "a.png", "subfolder": "", "type": "input"}`, "judged"},
		{200, `{"name": ""}`, "unread"},
		{200, strings.Repeat("x", maxUploadAnswer+100), "unread"},
		{400, `no`, ""},
		{413, `too large`, ""},
		{500, `{"name": "a.png", "subfolder": "", "type": "input"}`, ""},
	} {
		mu.Lock()
		status, answer = of.status, of.answer
		mu.Unlock()
		got, response := uploadFile(t, a.base+"/upload/image", "a.png", file)
		assert.Equal(t, of.status, response.StatusCode)
		assert.Equal(t, of.answer, string(got))
		mu.Lock()
		assert.Empty(t, header.Get("Accept-Encoding"))
		if of.status != http.StatusRequestEntityTooLarge {
			assert.Equal(t, header.Get("Content-Length"), fmt.Sprint(len(seen)), n)
			assert.True(t, bytes.Contains(seen, file))
		}
		mu.Unlock()
	}
	a.judged(map[string]float64{"judged": 1, "unread": 2})
	assert.Len(t, a.counts("comfyui.input.images"), 2)
	for _, b := range a.Bounds() {
		if b.Name == "inputs.job.form" {
			assert.Zero(t, b.Size, "nothing is held")
		}
	}
}

// tooLarge refuses what is larger than a side.
func tooLarge(side int) func(*admission.Request) admission.Decision {
	return func(r *admission.Request) admission.Decision {
		d := byClass(r)
		if r.Side > side {
			d.Verdict, d.Reason, d.MaxSide = admission.Reject, admission.TooLarge, side
		}
		return d
	}
}

// TestAPromptThatNeverFitsIsLowered, where its class permits that: it keeps its class, and the server
// gets the same prompt but for its size and number.
func TestAPromptThatNeverFitsIsLowered(t *testing.T) {
	a := &testAdvisor{decide: tooLarge(700)}
	r := newAdmissionRig(t, with(advised(t, a), modeEnforce, func(c *AdmissionConfig) { c.RewriteSize = []string{"buildings"} }))
	r.occupy()
	response, answer := ask(t, r.base, ddcolor("lowered", 1280, `, "client_id": "é", "extra_data": {"x": [1, {}]}`))
	require.Equal(t, http.StatusOK, response.StatusCode, answer)
	assert.Equal(t, "696", response.Header.Get("X-Otelcol-Gpu-Lowered-Side"))
	requests := a.requests()
	last := requests[len(requests)-1]
	assert.Equal(t, 696, last.Side)
	assert.Equal(t, "buildings", last.Class)
	queued := r.queued("lowered")
	assert.InDelta(t, 696, queued["2"].(map[string]any)["inputs"].(map[string]any)["model_input_size"], 0)
	response, _ = ask(t, r.base, ddcolor("fits", 500, ""))
	assert.Empty(t, response.Header.Get("X-Otelcol-Gpu-Lowered-Side"))
	linked := strings.Replace(ddcolor("linked", 1280, ""), `"3": {`, `"9": {"class_type": "EmptyLatentImage", "inputs": {"width": ["8", 0], "height": 64}}, "3": {`, 1)
	response, answer = ask(t, r.base, linked)
	assert.Equal(t, http.StatusBadRequest, response.StatusCode, "a size comes from another node")
	assert.Contains(t, answer, `"max_side":700`)
	close(r.goOn)
	waitFor(t, func() bool { return len(r.byPrompt()) == 4 })
	for _, td := range r.byPrompt() {
		root := spansOf(t, td)[0].Attributes
		if root["comfyui.prompt.id"] != "lowered" {
			assert.NotContains(t, root, "comfyui.admission.side.lowered")
			continue
		}
		assert.Equal(t, int64(1280), root["comfyui.admission.side.asked"])
		assert.Equal(t, int64(696), root["comfyui.admission.side.lowered"])
		assert.Equal(t, int64(696), root["comfyui.image.side"])
		assert.Equal(t, "buildings", root["comfyui.task_class"])
		assert.Equal(t, "success", root["comfyui.prompt.outcome"])
	}
	a.claims(t)
}

// queued is a prompt in the server's queue.
func (a *admissionRig) queued(id string) map[string]any {
	a.t.Helper()
	response, err := http.Get(a.server + "/queue")
	require.NoError(a.t, err)
	defer response.Body.Close()
	var queue struct {
		Pending [][]any `json:"queue_pending"`
	}
	require.NoError(a.t, json.NewDecoder(response.Body).Decode(&queue))
	for _, p := range queue.Pending {
		if p[1] == id {
			return p[2].(map[string]any)
		}
	}
	a.t.Fatalf("%s is not in the queue", id)
	return nil
}

// TestAPromptIsLoweredOnlyWhereThatIsConfigured, and only as far as it helps.
func TestAPromptIsLoweredOnlyWhereThatIsConfigured(t *testing.T) {
	for name, of := range map[string]struct {
		classes []string
		decide  func(*admission.Request) admission.Decision
		status  int
	}{
		"off":           {nil, tooLarge(700), http.StatusBadRequest},
		"another class": {[]string{"people", "other"}, tooLarge(700), http.StatusBadRequest},
		"no size fits":  {[]string{"buildings"}, tooLarge(0), http.StatusBadRequest},
		"a tiny size":   {[]string{"buildings"}, tooLarge(40), http.StatusBadRequest},
		"still late": {[]string{"buildings"}, func(r *admission.Request) admission.Decision {
			d := tooLarge(700)(r)
			if d.Verdict == admission.Admit {
				d.Verdict, d.Reason = admission.Reject, admission.Late
			}
			return d
		}, http.StatusTooManyRequests},
	} {
		t.Run(name, func(t *testing.T) {
			r := newAdmissionRig(t, with(advised(t, &testAdvisor{decide: of.decide}), modeEnforce, func(c *AdmissionConfig) { c.RewriteSize = of.classes }))
			response, answer := ask(t, r.base, ddcolor("x", 1280, ""))
			assert.Equal(t, of.status, response.StatusCode, answer)
			assert.Empty(t, response.Header.Get("X-Otelcol-Gpu-Lowered-Side"))
			assert.Zero(t, r.posted("/prompt"))
			close(r.goOn)
		})
	}
}

func TestMistakesOfInputChecksAndRewrites(t *testing.T) {
	check := func(key string, value any) map[string]any {
		return map[string]any{"input_checks": map[string]any{"people": map[string]any{key: value}}}
	}
	for _, test := range []struct {
		settings map[string]any
		want     string
	}{
		{check("min_sides", 5), `input_checks::people::min_sides: unknown key; did you mean min_side?`},
		{check("min_side", -1), `input_checks::people::min_side: -1 is negative; use a number of pixels, or 0 to check none`},
		{check("max_side", -1), `input_checks::people::max_side: -1 is negative; use a number of pixels, or 0 to check none`},
		{check("max_aspect", 0.5), `input_checks::people::max_aspect: 0.5 is less than 1, the aspect of a square; use a number such as 4, or 0 to check none`},
		{check("max_aspect", math.NaN()), `input_checks::people::max_aspect: NaN is less than 1`},
		{check("min_bytes_per_pixel", 9), `input_checks::people::min_bytes_per_pixel: 9 is not between 0 and 8; use a number such as 0.03, or 0 to check none`},
		{check("max_chroma", -1), `input_checks::people::max_chroma: -1 is not between 0 and 181; use a number such as 3, or 0 to check none`},
		{check("action", "refuse"), `input_checks::people::action: "refuse" is not a valid action; use warn or reject`},
		{check("action", "warn"), `input_checks::people: checks nothing; set min_side, max_side, max_aspect, min_bytes_per_pixel or max_chroma`},
		{map[string]any{"input_checks": map[string]any{"people": map[string]any{"min_side": 5, "max_side": 4}}}, `input_checks::people::min_side: 5 is greater than max_side; swap the two, or leave one out`},
		{map[string]any{"input_checks": map[string]any{"folk": map[string]any{"min_side": 5}}}, `input_checks::folk: is not a task class; use people, buildings, other, or add it to task_classes`},
		{map[string]any{"mode": "poll", "input_checks": map[string]any{"people": map[string]any{"min_side": 5}}}, `input_checks: 1 have no effect in poll mode; remove them, or set mode: proxy`},
		{map[string]any{"limits": map[string]any{"upload_bytes": 5}, "input_checks": map[string]any{"people": map[string]any{"min_side": 5}}}, `limits::image_bytes: 33554432 is more than limits::upload_bytes; lower it, or raise limits::upload_bytes`},
		{map[string]any{"admission": map[string]any{"rewrite_size": []any{"people"}}}, `admission::rewrite_size: [people] has no effect in observe; remove it, or set admission::mode: enforce`},
		{map[string]any{"admission": map[string]any{"advisor": "gpuadvisor", "mode": "enforce", "rewrite_size": []any{"folk"}}}, `admission::rewrite_size::0: "folk" is not a task class; use people, buildings, other, or add it to task_classes`},
	} {
		_, err := load(test.settings)
		require.ErrorContains(t, err, test.want)
	}
	cfg, err := load(map[string]any{
		"task_classes": []any{map[string]any{"name": "folk"}},
		"input_checks": map[string]any{"folk": map[string]any{"min_side": 300, "max_aspect": 4, "min_bytes_per_pixel": 0.05, "max_chroma": 4, "action": "reject"}},
		"admission":    map[string]any{"advisor": "gpuadvisor", "mode": "enforce", "rewrite_size": []any{"folk", "other"}},
	})
	require.NoError(t, err)
	assert.Equal(t, InputCheckConfig{MinSide: 300, MaxAspect: 4, MinBytesPerPixel: 0.05, MaxChroma: 4, Action: "reject"}, cfg.InputChecks["folk"])
}
