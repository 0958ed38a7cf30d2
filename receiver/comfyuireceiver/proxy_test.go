// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// tap is a server that keeps what it was asked, and answers by a function.
type tap struct {
	*httptest.Server
	seen chan *http.Request
	body chan []byte
}

func newTap(t *testing.T, answer http.HandlerFunc) *tap {
	t.Helper()
	s := &tap{seen: make(chan *http.Request, 100), body: make(chan []byte, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("X-Direct") == "" { // the receiver's own questions
			w.WriteHeader(http.StatusNotFound)
			return
		}
		b, _ := io.ReadAll(r.Body)
		s.seen <- r
		s.body <- b
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// exchange makes the same request directly and through the proxy, and compares what
// the server saw and what the client got.
func exchange(t *testing.T, s *tap, proxied string, make func(base string) *http.Request) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	type seen struct {
		method, uri, host, body   string
		header                    http.Header
		status                    int
		answer                    string
		answerHeader              http.Header
		length                    int64
		transferEncoding, trailer string
	}
	ask := func(base string) seen {
		request := make(base)
		request.Header.Set("X-Direct", "yes")
		request.Host = "comfy.example:1234"
		response, err := client.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NotEmpty(t, s.body, "the request did not reach the server: %s %s", response.Status, answer)
		r, b := <-s.seen, <-s.body
		header := r.Header.Clone()
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Traceparent", "Connection"} {
			header.Del(name)
		}
		answerHeader := response.Header.Clone()
		answerHeader.Del("Date")
		answerHeader.Del("Connection")
		return seen{
			r.Method, r.RequestURI, r.Host, fmt.Sprintf("%x", sha256.Sum256(b)), header,
			response.StatusCode, fmt.Sprintf("%x", sha256.Sum256(answer)), answerHeader, r.ContentLength, fmt.Sprint(r.TransferEncoding), fmt.Sprint(response.Trailer),
		}
	}
	direct := ask(s.URL)
	through := ask(proxied)
	assert.Equal(t, direct, through)
}

func TestRequestsOfEveryKindPassUnchanged(t *testing.T) {
	image := make([]byte, 3<<20)
	_, _ = rand.Read(image)
	s := newTap(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/view"):
			http.ServeContent(w, r, "image.png", time.Unix(1_700_000_000, 0), bytes.NewReader(image))
		case r.URL.Path == "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(image[:1000])
			_ = z.Close()
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case r.URL.Path == "/nothing":
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write([]byte("short and stout"))
		}
	})
	r := newRig(t, s.URL, func(c *Config) { c.Proxy.CompressionAlgorithms = []string{"gzip", "zstd"} }) // has no effect
	request := func(method, path string, body []byte, headers ...string) func(string) *http.Request {
		return func(base string) *http.Request {
			request, err := http.NewRequestWithContext(context.Background(), method, base+path, bytes.NewReader(body))
			require.NoError(t, err)
			for i := 0; i+1 < len(headers); i += 2 {
				request.Header.Add(headers[i], headers[i+1])
			}
			return request
		}
	}
	packed := new(bytes.Buffer)
	z := gzip.NewWriter(packed)
	_, _ = z.Write(image[:5000])
	require.NoError(t, z.Close())
	for name, make := range map[string]func(string) *http.Request{
		"image":            request("GET", "/view?filename=a%20b.png&type=output", nil),
		"part of it":       request("GET", "/api/view?filename=x.png", nil, "Range", "bytes=1000-1999"),
		"not modified":     request("GET", "/view?filename=x.png", nil, "If-Modified-Since", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat)),
		"head":             request("HEAD", "/view?filename=x.png", nil),
		"packed answer":    request("GET", "/gzip", nil, "Accept-Encoding", "gzip, br"),
		"packed body":      request("POST", "/userdata/x", packed.Bytes(), "Content-Encoding", "gzip"),
		"brotli":           request("POST", "/userdata/x", packed.Bytes(), "Content-Encoding", "br"),
		"identity":         request("POST", "/userdata/x", packed.Bytes(), "Content-Encoding", "identity"),
		"packed prompt":    request("POST", "/prompt", packed.Bytes(), "Content-Encoding", "gzip"),
		"unknown encoding": request("POST", "/userdata/x", packed.Bytes(), "Content-Encoding", "rot13"),
		"upload":           request("POST", "/upload/image", image, "Content-Type", "multipart/form-data; boundary=x"),
		"origin":           request("POST", "/queue", []byte(`{"clear": true}`), "Origin", "http://comfy.example:1234", "Cookie", "c=1", "Authorization", "Bearer x"),
		"redirect":         request("GET", "/moved", nil),
		"no content":       request("DELETE", "/nothing", nil),
		"odd path":         request("GET", "/a%2Fb/../c//d?x=1;y=2&z", nil),
		"odd method":       request("PROPFIND", "/", nil),
		"options":          request("OPTIONS", "/prompt", nil, "Access-Control-Request-Method", "POST", "Origin", "http://other.example"),
		"forwarded before": request("GET", "/", nil, "Accept", "*/*", "X-Comfy", "1", "X-Comfy", "2"),
	} {
		t.Run(name, func(t *testing.T) { exchange(t, s, r.base, make) })
	}
}

func TestUploadOf100MBPassesWithoutBeingKept(t *testing.T) {
	const size = 100 << 20
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	}))
	defer s.Close()
	r := newRig(t, s.URL, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	response, err := http.Post(r.base+"/upload/image", "application/octet-stream", io.LimitReader(zeros{}, size))
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	assert.Equal(t, fmt.Sprint(size), string(answer))
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size/4), "bytes that were allocated on the way")
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestStreamsPassAsTheyCome(t *testing.T) {
	next := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") == "" { // the receiver's own questions
			w.WriteHeader(http.StatusNotFound)
			return
		}
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "part %d\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	}))
	defer s.Close()
	r := newRig(t, s.URL, nil)
	response, err := http.Get(r.base + "/internal/logs")
	require.NoError(t, err)
	defer response.Body.Close()
	part := make([]byte, 7)
	for i := range 3 {
		_, err := io.ReadFull(response.Body, part)
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprintf("part %d\n", i), string(part), "before the next is made")
		next <- struct{}{}
	}
}

// TestPagesOfAllowedOriginsMayAsk: with cors set, the proxy answers for the server to
// pages of those origins, which ComfyUI by itself does not; to others it sends nothing
// more than the server does.
func TestPagesOfAllowedOriginsMayAsk(t *testing.T) {
	s := newTap(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	r := newRig(t, s.URL, func(c *Config) {
		c.Proxy.CORS = configoptional.Some(confighttp.CORSConfig{AllowedOrigins: []string{"https://photos.example"}, AllowedHeaders: []string{"X-Photo"}})
	})
	ask := func(method, origin string, headers ...string) *http.Response {
		request, err := http.NewRequestWithContext(context.Background(), method, r.base+"/prompt", http.NoBody)
		require.NoError(t, err)
		request.Header.Set("Origin", origin)
		for i := 0; i+1 < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response
	}
	const allowed = "Access-Control-Allow-Origin"
	before := ask(http.MethodOptions, "https://photos.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-photo")
	assert.Equal(t, "https://photos.example", before.Header.Get(allowed))
	assert.Contains(t, strings.ToLower(before.Header.Get("Access-Control-Allow-Headers")), "x-photo")
	assert.Empty(t, s.seen, "the proxy answers by itself")
	assert.Equal(t, "https://photos.example", ask(http.MethodGet, "https://photos.example").Header.Get(allowed))
	assert.Equal(t, "https://photos.example", (<-s.seen).Header.Get("Origin"), "the server decides on what it sees")
	assert.Empty(t, ask(http.MethodGet, "https://other.example").Header.Get(allowed))
	assert.Equal(t, "https://other.example", (<-s.seen).Header.Get("Origin"))
}

func TestAnAnswerThatIsCutShortIsCutShortForTheClient(t *testing.T) {
	const answer = `{"prompt_id": "p"}`
	for name, length := range map[string]string{"of a known length": "100", "in pieces": ""} {
		t.Run(name, func(t *testing.T) {
			s := newTap(t, func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = w.Write([]byte(answer))
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})
			r := newRig(t, s.URL, nil)
			response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(`{"prompt": {}}`))
			require.NoError(t, err)
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.JSONEq(t, answer, string(got))
		})
	}
}

func TestAnUnreachableServerIsReportedInComfyUIsFormat(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	address := s.URL
	s.Close()
	r := newRig(t, address, nil)
	response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(`{"prompt": {"1": {"class_type": "A", "inputs": {}}}}`))
	require.NoError(t, err)
	defer response.Body.Close()
	assert.Equal(t, http.StatusBadGateway, response.StatusCode)
	var body struct {
		Error struct {
			Type, Message, Details string
			Extra                  map[string]any `json:"extra_info"`
		} `json:"error"`
		Nodes map[string]any `json:"node_errors"`
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&body))
	assert.Equal(t, "upstream_unreachable", body.Error.Type)
	assert.NotNil(t, body.Error.Extra)
	assert.NotNil(t, body.Nodes)
	require.Eventually(t, func() bool { return len(r.traces.AllTraces()) == 1 }, 10*time.Second, time.Millisecond)
	root := spansOf(t, r.traces.AllTraces()[0])[0]
	assert.Equal(t, "error", root.Attributes["comfyui.prompt.outcome"])
	assert.Equal(t, "upstream_unreachable", root.Attributes["error.type"])
}

// accepting is a server that takes every prompt and does nothing.
func accepting(t *testing.T) *tap {
	n := 0
	return newTap(t, func(w http.ResponseWriter, _ *http.Request) {
		n++
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = fmt.Fprintf(w, `{"prompt_id": "p%d", "number": %d, "node_errors": {}}`, n, n)
	})
}

func TestTraceContextComesInAndGoesOut(t *testing.T) {
	s := accepting(t)
	r := newRig(t, s.URL, nil)
	const header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	const extra = "00-11111111111111111111111111111111-2222222222222222-00"
	post := func(body, traceparent string) string {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, r.base+"/prompt", strings.NewReader(body))
		require.NoError(t, err)
		if traceparent != "" {
			request.Header.Set("Traceparent", traceparent)
		}
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		<-s.body
		return (<-s.seen).Header.Get("Traceparent")
	}
	first := post(`{"prompt": {}, "client_id": "a", "extra_data": {"traceparent": "`+extra+`"}}`, header)
	second := post(`{"prompt": {}, "client_id": "a", "extra_data": {"traceparent": "`+extra+`"}}`, "")
	third := post(`{"prompt": {}, "client_id": "a"}`, "")
	assert.Contains(t, first, "0af7651916cd43dd8448eb211c80319c", "the header takes precedence")
	assert.Contains(t, second, "11111111111111111111111111111111")
	assert.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`, third)
	r.stopNow()
	require.Len(t, r.byPrompt(), 3)
	for _, td := range r.byPrompt() {
		root := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
		outgoing := map[string]string{"p1": first, "p2": second, "p3": third}[root.Attributes().AsRaw()["comfyui.prompt.id"].(string)]
		assert.Equal(t, root.TraceID().String(), outgoing[3:35])
		assert.Equal(t, root.SpanID().String(), outgoing[36:52], "the server's spans belong under the root")
		if outgoing == first {
			assert.Equal(t, "b7ad6b7169203331", root.ParentSpanID().String())
		}
	}
}

func TestEndOfTheReceiverEndsOpenPromptsAsUnfinished(t *testing.T) {
	s := accepting(t)
	r := newRig(t, s.URL, nil)
	for range 3 {
		response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(`{"prompt": {"1": {"class_type": "A", "inputs": {}}}, "client_id": "a"}`))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	require.Equal(t, 3, r.following.tracker.OpenCount())
	r.stopNow()
	require.Len(t, r.byPrompt(), 3)
	for _, td := range r.byPrompt() {
		assert.Equal(t, "unfinished", spansOf(t, td)[0].Attributes["comfyui.prompt.outcome"])
	}
}

// TestPipelineThatFailsOrBlocksStopsNoImage is the rule that the request path fails open:
// all requests are served, and what could not be exported is counted.
func TestPipelineThatFailsOrBlocksStopsNoImage(t *testing.T) {
	for name, next := range map[string]*blocker{
		"refuses": {err: consumererror.NewPermanent(io.ErrUnexpectedEOF)},
		"blocks":  {wait: make(chan struct{})},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			s := newTap(t, func(w http.ResponseWriter, _ *http.Request) {
				n++
				w.WriteHeader(http.StatusBadRequest) // each request ends its prompt
			})
			r := newRigTo(t, s.URL, next, func(c *Config) { c.Limits.Queue = 2 })
			for range 20 {
				response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(`{"prompt": {}}`))
				require.NoError(t, err)
				assert.Equal(t, http.StatusBadRequest, response.StatusCode)
				require.NoError(t, response.Body.Close())
			}
			assert.Equal(t, 20, n)
			if next.wait != nil {
				close(next.wait)
			}
			r.stopNow()
			dropped := counted(t, r.telemetry, "dropped")["traces"]
			exported := int64(len(next.sink.AllTraces()))
			assert.Equal(t, int64(20), dropped+exported)
			if next.wait == nil {
				assert.Zero(t, exported)
			} else {
				assert.Positive(t, exported)
				assert.LessOrEqual(t, exported, int64(3), "the queue, and the one that was on its way")
			}
		})
	}
}

func TestPromptsThatCannotBeReadPassAndAreCounted(t *testing.T) {
	s := accepting(t)
	r := newRig(t, s.URL, func(c *Config) { c.Limits.PromptBytes = 100 })
	long := `{"prompt": {"1": {"class_type": "A", "inputs": {"text": "` + strings.Repeat("x", 200) + `"}}}}`
	response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(long))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Equal(t, long, string(<-s.body), "whole, though it was not read whole")
	assert.Zero(t, r.following.tracker.OpenCount())
	assert.Equal(t, map[string]int64{"unread": 1}, counted(t, r.telemetry, "prompts.unfollowed"))
}

func TestNothingPrivateIsInTelemetryUnlessSwitchedOn(t *testing.T) {
	const secret = "grandmother_1950.png"
	s := newTap(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error": {"type": "invalid", "message": "no file ` + secret + ` of alice"}, "node_errors": {}}`))
	})
	body := `{"client_id": "client-7", "prompt": {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a portrait of alice"}}, "2": {"class_type": "LoadImage", "inputs": {"image": "` + secret + `"}}}}`
	emitted := func(change func(*Config)) string {
		r := newRig(t, s.URL, change)
		response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Eventually(t, func() bool { return len(r.logs.AllLogs()) == 1 }, 10*time.Second, time.Millisecond)
		r.stopNow()
		spans := spansOf(t, r.traces.AllTraces()[0])
		record := r.logs.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
		return fmt.Sprint(spans, record.Body().AsString(), record.Attributes().AsRaw())
	}
	silent := emitted(nil)
	for _, private := range []string{secret, "portrait", "client-7", "127.0.0.1"} {
		assert.NotContains(t, silent, private)
	}
	open := emitted(func(c *Config) {
		c.Capture = spans.Capture{PromptText: true, FileNames: true, ClientAddress: true, ClientID: true, Redact: []string{"alice"}}
	})
	for _, private := range []string{secret, "a portrait of ***", "client-7", "127.0.0.1"} {
		assert.Contains(t, open, private)
	}
	assert.NotContains(t, open, "alice", "redaction applies to what is captured")
}
