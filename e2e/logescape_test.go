// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// TestNothingFromOutsideReachesTheLogUnescaped sends line breaks, terminal sequences and other control
// characters in everything that a client chooses, to the proxy, the page and the advice API, as prompts
// that are admitted, refused and not readable. The log has no line that a client wrote, and no control
// character.
func TestNothingFromOutsideReachesTheLogUnescaped(t *testing.T) {
	beside(t, working)
	const forged = "FORGED-LINE"
	hostile := "x\n2026-01-01T00:00:00.000Z\terror\t" + forged + "\r\x1b[31m\x1b]0;title\x07\u2028\u0085\x00y"
	m := newMachine(t, fakenvml.Current, "l40s")
	p := newLivePage(t)
	proxy := "127.0.0.1:" + strconv.Itoa(port(t))
	c := collect(t, "comfyui.yaml", append(m.environment, p.environment(), "OTELCOL_GPU_COMFYUI="+simulatedComfyUI(t), "OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir()),
		"--config", filepath.Join(root, "config", "enforce.yaml"),
		"--config=yaml:receivers::comfyui::admission: {trust_request_class: true, rate_limits: [{requests_per_minute: 0.01, per: header, header: X-User}]}",
		"--config=yaml:receivers::comfyui::device: 0", "--config=yaml:service::telemetry::logs::level: debug")
	graph := func(class, checkpoint string) map[string]any {
		return map[string]any{
			"1": map[string]any{"class_type": "LoadImage", "inputs": map[string]any{"image": hostile}},
			"2": map[string]any{"class_type": class, "inputs": map[string]any{"image": []any{"1", 0}, "model_input_size": 400, "checkpoint": checkpoint}},
			"3": map[string]any{"class_type": "SaveImage", "inputs": map[string]any{"images": []any{"2", 0}, "filename_prefix": hostile}},
		}
	}
	post := func(address, path string, body any, header http.Header) {
		raw, ok := body.(string)
		if !ok {
			text, err := json.Marshal(body)
			require.NoError(t, err)
			raw = string(text)
		}
		request, err := http.NewRequestWithContext(withPatience(t), http.MethodPost, "http://"+address+path, bytes.NewReader([]byte(raw)))
		require.NoError(t, err)
		request.Header = header
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	for i, body := range []any{
		map[string]any{"prompt_id": hostile, "client_id": hostile, "prompt": graph("DDColor_Colorize", "ddcolor_paper.pth"), "extra_data": map[string]any{"task_class": hostile, "deadline_s": 9}},
		map[string]any{"client_id": hostile, "prompt": graph(hostile, hostile), "extra_data": map[string]any{"task_class": "people", "extra_pnginfo": map[string]any{"workflow": map[string]any{"id": hostile}}}},
		map[string]any{"prompt": map[string]any{hostile: map[string]any{"class_type": hostile, "inputs": map[string]any{hostile: hostile}}}, "number": hostile, "front": hostile},
		`{"prompt": "` + "\x1b[31m" + forged + "\n", // no JSON
	} {
		for _, user := range []string{"user", "user", fmt.Sprint("other", i)} { // the second one is beyond its rate
			post(proxy, "/prompt", body, http.Header{"Content-Type": {"application/json"}, "X-User": {user + "\u2028" + forged}})
		}
	}
	post(proxy, "/prompt", `{"prompt": {}}`, http.Header{"Content-Type": {"application/json; charset=" + forged + "\u0085"}, "Content-Encoding": {forged}})
	post(proxy, "/queue", map[string]any{"delete": []string{hostile}}, http.Header{})
	escaped := url.QueryEscape(hostile)
	for _, path := range []string{"/v1/advice?task_class=" + escaped + "&workflow=" + escaped + "&model=" + escaped + "&server=" + escaped + "&width=" + escaped, "/v1/advice?" + escaped + "=1", "/v1/prompts?q=" + escaped + "&outcome=" + escaped, "/v1/prompts/" + url.PathEscape(hostile), "/v1/queue?server=" + escaped, "/?queue=" + escaped} {
		response, err := http.Get(p.url() + path) //nolint:noctx // a test
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	post(p.address, "/v1/advice", map[string]any{"requests": []map[string]any{{"task_class": hostile, "workflow": hostile, "model": hostile, "server": hostile, "width": 400}}}, http.Header{"Content-Type": {"application/json"}})
	post(p.address, "/v1/advice", `{"requests": ["`+"\x1b"+forged, http.Header{"Content-Type": {"application/json"}, "Accept-Language": {"zh\u2028" + forged}})
	// What no HTTP client sends.
	for _, address := range []string{proxy, p.address} {
		conn, err := (&net.Dialer{}).DialContext(withPatience(t), "tcp", address)
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET /\x1b[31m%s HTTP/1.1\r\nHost: %s\r\nX-Bad: \x1b[31m%s\r\n\r\n\x1b%s\n\n", forged, address, forged, forged)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, _ = conn.Read(make([]byte, 1024))
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return logLines(t, c.Process, "prompt refused") >= 4 }, patience, 50*time.Millisecond, "the refused ones are logged")
	_, err := c.Stop(20 * time.Second)
	require.NoError(t, err)
	raw, err := os.ReadFile(c.Log)
	require.NoError(t, err)
	require.Contains(t, string(raw), forged, "what clients chose is logged, escaped")
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSuffix(line, "\n")
		assert.NotRegexp(t, `^\S*\s*(error\s+)?`+forged, line, "a line that a client wrote")
		assert.Truef(t, utf8.ValidString(line), "invalid UTF-8: %q", line)
		if at := strings.IndexFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' || r == '\u2028' || r == '\u2029' }); at >= 0 {
			assert.Failf(t, "a control character", "%q", line[max(at-80, 0):min(at+80, len(line))])
		}
	}
}
