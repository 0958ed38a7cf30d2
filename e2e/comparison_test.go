// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// TestClientsGetTheSameBytesWithTheProxy runs each scenario against a simulated ComfyUI, and
// against another one of the same kind behind the built collector. Whatever comes back is
// compared byte for byte: status lines, headers (Date aside), bodies as they were encoded, and
// WebSocket messages. One thing differs on purpose: the proxy asks for answers to POST /prompt
// that are not compressed, so that their content is compared. Nothing in them depends on the time or on chance: the servers number
// their ids and have a clock that stands still.
func TestClientsGetTheSameBytesWithTheProxy(t *testing.T) {
	besideFirst(t, working)
	for _, version := range fakecomfyui.Versions {
		for _, compress := range []bool{false, true} {
			name := string(version)
			if compress {
				name += " with compressed answers and messages"
			}
			t.Run(name, func(t *testing.T) {
				direct, upstream := numberedComfyUI(t, version, compress), numberedComfyUI(t, version, compress)
				m := newMachine(t, fakenvml.Current, "l40s")
				proxy := "127.0.0.1:" + strconv.Itoa(port(t))
				collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+upstream, "OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
					"OTELCOL_GPU_TRACES_ENDPOINT=127.0.0.1:1"))
				ways := []*wire{newWire(t, "direct", direct, compress), newWire(t, "through the proxy", "http://"+proxy, compress)}
				for _, s := range scenarios {
					if s.version != "" && s.version != version {
						continue
					}
					t.Run(s.name, func(t *testing.T) {
						for _, w := range ways {
							w.t, w.lines = t, nil
							s.run(w)
						}
						require.NotEmpty(t, ways[0].lines)
						requireSame(t, ways[0].lines, ways[1].lines)
					})
				}
			})
		}
	}
}

// requireSame shows the first line in which two transcripts differ.
func requireSame(t *testing.T, direct, proxied []string) {
	t.Helper()
	for i := range min(len(direct), len(proxied)) {
		require.Equal(t, direct[i], proxied[i], "line %d", i)
	}
	require.Len(t, proxied, len(direct))
}

// numberedComfyUI starts a ComfyUI that gives the same answers in each run.
func numberedComfyUI(t *testing.T, version fakecomfyui.Version, compress bool) string {
	t.Helper()
	var mu sync.Mutex
	count := 0
	server := fakecomfyui.NewServerWith(quickToFail{fakecomfyui.NewTimedWork()}, fakecomfyui.Options{
		Version: version, Compress: compress, Devices: 2,
		Now: func() time.Time { return time.UnixMilli(1795580818097) },
		ID: func() string {
			mu.Lock()
			defer mu.Unlock()
			count++
			return fmt.Sprintf("00000000-0000-4000-8000-%012d", count)
		},
	})
	return serveComfyUI(t, server, server)
}

// quickToFail runs out of memory without delay.
type quickToFail struct{ fakecomfyui.Work }

func (q quickToFail) Colorize(ctx context.Context, side int, checkpoint string, step func(done, all int) error) error {
	if side >= 2048 {
		return fakecomfyui.OutOfMemory(3<<30, 12<<30)
	}
	return q.Work.Colorize(ctx, side, checkpoint, step)
}

// wire is a way to a server, and what came over it in one scenario.
type wire struct {
	t       *testing.T
	name    string
	base    string
	client  *http.Client
	deflate bool
	lines   []string
}

func newWire(t *testing.T, name, base string, deflate bool) *wire {
	transport := &http.Transport{DisableCompression: true} // encodings are the scenario's
	t.Cleanup(transport.CloseIdleConnections)
	return &wire{t: t, name: name, base: base, client: &http.Client{Transport: transport, Timeout: patience}, deflate: deflate}
}

// ask makes a request and notes the answer. Headers are names and values in turn.
func (w *wire) ask(method, path, body string, header ...string) []byte {
	w.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, w.base+path, strings.NewReader(body))
	require.NoError(w.t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := w.client.Do(r)
	require.NoError(w.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(w.t, err)
	if encoding := response.Header.Get("Content-Encoding"); method == http.MethodPost && strings.HasSuffix(path, "/prompt") {
		if encoding != "" {
			raw = decoded(w.t, encoding, raw)
		}
		w.lines = append(w.lines, fmt.Sprintf("%s %s %q: %s %s, %s: %q", method, path, header, response.Proto, response.Status, response.Header.Get("Content-Type"), raw))
		if r.Header.Get("Accept-Encoding") != "" { // the proxy does not pass that on, so that it can read the answer
			return raw
		}
	}
	w.lines = append(w.lines, fmt.Sprintf("%s %s %q: %s %s, length %d, transfer %q, %s: %q",
		method, path, header, response.Proto, response.Status, response.ContentLength, response.TransferEncoding, headers(response.Header), raw))
	return raw
}

func decoded(t *testing.T, encoding string, raw []byte) []byte {
	t.Helper()
	var r io.Reader
	var err error
	switch encoding {
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(raw))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(raw))
	default:
		t.Fatalf("unknown encoding %q", encoding)
	}
	require.NoError(t, err)
	plain, err := io.ReadAll(r)
	require.NoError(t, err)
	return plain
}

// headers are an answer's headers in a line. Date aside, none is a proxy's to change, and
// Sec-WebSocket-Accept follows from the key that the client drew.
func headers(h http.Header) string {
	var all []string
	for name, values := range h {
		if name != "Date" && name != "Sec-Websocket-Accept" {
			all = append(all, fmt.Sprintf("%s=%q", name, values))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// prompt sends a prompt, and returns its id. fields are further ones of the request.
func (w *wire) prompt(client, fields string, nodes ...string) (id string) {
	w.t.Helper()
	if client != "" {
		fields += fmt.Sprintf(`"client_id": %q, `, client)
	}
	var answer struct {
		ID string `json:"prompt_id"`
	}
	raw := w.ask(http.MethodPost, "/prompt", fmt.Sprintf(`{%s"prompt": {%s}}`, fields, strings.Join(nodes, ", ")), "Content-Type", "application/json")
	require.NoError(w.t, json.Unmarshal(raw, &answer), "%s", raw)
	require.NotEmpty(w.t, answer.ID, "%s", raw)
	return answer.ID
}

// node is one node of a prompt.
func node(id, class, inputs string) string {
	return fmt.Sprintf(`%q: {"class_type": %q, "inputs": {%s}}`, id, class, inputs)
}

// load, colour and save are the nodes of the usual workflow.
func load() string { return node("1", "LoadImage", `"image": "people.png"`) }

func colour(side int) string {
	return node("2", "DDColor_Colorize", fmt.Sprintf(`"image": ["1", 0], "model_input_size": %d, "checkpoint": "ddcolor_paper.pth"`, side))
}

func save() string { return node("3", "SaveImage", `"images": ["2", 0], "filename_prefix": "x"`) }

// submitPhoto submits a photo of a side in pixels to a proxy. It returns the status of the answer.
func submitPhoto(t *testing.T, proxy string, side int) (status int) {
	t.Helper()
	response, err := http.Post("http://"+proxy+"/prompt", "application/json", strings.NewReader(`{"prompt": {`+load()+`, `+colour(side)+`, `+save()+`}}`))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

// ear is a client's WebSocket.
type ear struct {
	w    *wire
	conn *websocket.Conn

	mu     sync.Mutex
	heard  []string
	closed error
	next   int // the first frame that until has not seen
}

// open opens a WebSocket, and may send what it supports.
func (w *wire) open(path string, features ...string) *ear {
	w.t.Helper()
	mode := websocket.CompressionDisabled
	if w.deflate {
		mode = websocket.CompressionContextTakeover
	}
	conn, response, err := websocket.Dial(context.Background(), "ws"+strings.TrimPrefix(w.base, "http")+path, &websocket.DialOptions{CompressionMode: mode})
	require.NoError(w.t, err)
	if response.Body != nil {
		_ = response.Body.Close()
	}
	w.lines = append(w.lines, fmt.Sprintf("open %s: %s %s", path, response.Status, headers(response.Header)))
	conn.SetReadLimit(16 << 20)
	e := &ear{w: w, conn: conn}
	w.t.Cleanup(func() { _ = conn.CloseNow() })
	go func() {
		for {
			kind, data, err := conn.Read(context.Background())
			e.mu.Lock()
			if err != nil {
				e.closed = err
				e.mu.Unlock()
				return
			}
			e.heard = append(e.heard, fmt.Sprintf("%s %s", kind, data))
			e.mu.Unlock()
		}
	}()
	e.until(`"sid":`)
	for _, text := range features {
		require.NoError(w.t, conn.Write(context.Background(), websocket.MessageText, []byte(text)))
		e.until(`"type":"feature_flags"`)
	}
	return e
}

// until waits for the next frame with all of the texts, and returns it.
func (e *ear) until(texts ...string) (found string) {
	e.w.t.Helper()
	came := func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for ; e.next < len(e.heard); e.next++ {
			frame := e.heard[e.next]
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(frame, text) }) {
				found = frame
				e.next++
				return true
			}
		}
		return false
	}
	if !assert.Eventually(e.w.t, came, 20*time.Second, time.Millisecond) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.w.t.Fatalf("%s: no frame with %q came; the socket ended with %v and heard:\n%s", e.w.name, texts, e.closed, strings.Join(e.heard, "\n"))
	}
	return found
}

// ended waits for the last frame about a prompt.
func (e *ear) ended(id string) { e.w.t.Helper(); e.until(`"type":"executing"`, `"node":null`, id) }

// sid is the id that the server gave to the socket.
func (e *ear) sid() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, rest, _ := strings.Cut(e.heard[0], `"sid":"`)
	id, _, _ := strings.Cut(rest, `"`)
	return id
}

// leave closes the socket and notes what it heard. The lengths of the queue come between a
// client's own messages in any order, so they are noted separately.
func (e *ear) leave() {
	_ = e.conn.Close(websocket.StatusNormalClosure, "")
	e.mu.Lock()
	defer e.mu.Unlock()
	var statuses, others []string
	for _, frame := range e.heard {
		if strings.Contains(frame, `"type":"status"`) {
			statuses = append(statuses, frame)
		} else {
			others = append(others, frame)
		}
	}
	e.w.lines = append(append(e.w.lines, statuses...), others...)
}

// watched runs a prompt with a client's socket open, and asks about it afterwards.
func watched(nodes ...string) func(*wire) {
	return func(w *wire) {
		e := w.open("/ws?clientId=client-a", `{"type": "feature_flags", "data": {"supports_preview_metadata": true}}`)
		id := w.prompt("client-a", "", nodes...)
		e.ended(id)
		e.leave()
		w.ask(http.MethodGet, "/history/"+id, "", "Accept-Encoding", "gzip")
		w.ask(http.MethodGet, "/api/jobs/"+id, "", "Accept-Encoding", "gzip, deflate")
	}
}

const (
	older = fakecomfyui.Older
	newer = fakecomfyui.Newer
	// large takes 0.37 s for each of its steps.
	large = 1400
)

// scenarios are what clients do; those without a version are for both.
var scenarios = []struct {
	name    string
	version fakecomfyui.Version
	run     func(*wire)
}{
	{"questions in each encoding", "", func(w *wire) {
		for _, path := range []string{
			"/prompt", "/api/prompt", "/queue", "/history", "/history?max_items=2", "/history/none", "/system_stats", "/features", "/object_info", "/object_info/DDColor_Colorize",
			"/view?filename=x_00001_.png", "/nothing-here", "/api/nothing-here", "/api/jobs", "/api/jobs?status=wrong", "/api/jobs?limit=0", "/api/jobs/none", "/jobs",
			"/api/users", "/api/settings", "/api/assets", "/api/node_replacements", "/api/global_subgraphs", "/internal/folder_paths", "/queue?a=%zz&b=;c", "/history/a%2Fb",
		} {
			for _, encoding := range []string{"identity", "gzip", "gzip, deflate, br, zstd"} {
				w.ask(http.MethodGet, path, "", "Accept-Encoding", encoding)
			}
		}
	}},
	{"methods and origins", "", func(w *wire) {
		w.ask(http.MethodHead, "/queue", "")
		w.ask(http.MethodOptions, "/prompt", "", "Access-Control-Request-Method", "POST")
		w.ask(http.MethodGet, "/queue", "", "Origin", w.base, "Sec-Fetch-Site", "same-origin")
		w.ask(http.MethodGet, "/queue", "", "Origin", "http://evil.example")
		w.ask(http.MethodGet, "/queue", "", "Sec-Fetch-Site", "cross-site")
		w.lines = slices.DeleteFunc(w.lines, func(line string) bool { return strings.Contains(line, w.base) }) // that request was the same
	}},
	{"prompts that are refused", "", func(w *wire) {
		for _, body := range []string{
			`{`, ``, `{}`, `{"prompt": 5}`, `{"prompt": {}}`, `{"prompt": {` + node("1", "Unknown", "") + `}}`, `{"prompt": {` + load() + `}}`,
			`{"prompt": {` + load() + `, ` + node("2", "DDColor_Colorize", `"image": ["1", 0]`) + `, ` + save() + `}}`,
			`{"prompt": {` + node("1", "LoadImage", `"image": "none.png"`) + `, ` + node("3", "SaveImage", `"images": ["1", 0], "filename_prefix": "x"`) + `}}`,
		} {
			w.ask(http.MethodPost, "/prompt", body, "Content-Type", "application/json")
			w.ask(http.MethodPost, "/prompt", body, "Content-Type", "application/json", "Accept-Encoding", "gzip, deflate")
		}
	}},
	{"ids that are refused", newer, func(w *wire) {
		for _, id := range []string{`"mine"`, `17`, `""`, `"7D5E0A7C-0000-4000-8000-00000000000A"`, `{}`} {
			w.ask(http.MethodPost, "/api/prompt", `{"prompt_id": `+id+`, "prompt": {`+load()+`, `+colour(100)+`, `+save()+`}}`)
		}
		w.ask(http.MethodPost, "/api/jobs/cancel", `{"job_ids": ["not-a-uuid"]}`)
		w.ask(http.MethodPost, "/api/jobs/cancel", `{"job_ids": 5}`)
		w.ask(http.MethodPost, "/api/jobs/cancel", `{`)
		w.ask(http.MethodPost, "/api/jobs/none/cancel", ``)
	}},
	{"an image is uploaded", "", func(w *wire) {
		w.ask(http.MethodPost, "/upload/image", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"mine.png\"\r\n\r\n"+strings.Repeat("pixels", 100000)+"\r\n--x--\r\n",
			"Content-Type", "multipart/form-data; boundary=x")
	}},
	{"a photo", "", watched(load(), colour(300), save())},
	{"the same photo from the cache", "", watched(load(), colour(300), save())},
	{"only the first node from the cache", "", watched(load(), colour(310), save())},
	{"no room on the GPU", "", watched(load(), colour(2100), save())},
	{"a node fails", "", watched(load(), node("2", "DDColor_Colorize", `"image": ["1", 0], "model_input_size": 100, "checkpoint": "ddcolor_artistic.pth"`), save())},
	{"asynchronous nodes", "", watched(load(), node("2", "SlowAsync", `"image": ["1", 0], "seconds": 0.2`), save(),
		node("4", "SlowAsync", `"image": ["1", 0], "seconds": 0.4`), node("5", "SaveImage", `"images": ["4", 0], "filename_prefix": "y"`))},
	{"a node that expands", "", watched(load(), node("2", "Expanding", `"image": ["1", 0], "copies": 3`), save())},
	{"previews with metadata", "", watched(load(), node("2", "WithPreview", `"image": ["1", 0], "steps": 5`), save())},
	{"a list of images", "", watched(load(), node("2", "ListOut", `"image": ["1", 0], "n": 3`), save())},
	{"one bad output among good ones", "", watched(load(), colour(320), save(), node("4", "SaveImage", `"filename_prefix": "y"`))},
	{"a blocked node", newer, watched(load(), node("2", "Blocking", `"image": ["1", 0], "message": "no mask found", "block": true`), save(),
		node("5", "SaveImage", `"images": ["1", 0], "filename_prefix": "after"`))},
	{"lazy inputs", newer, watched(load(), colour(330), node("3", "DDColor_Colorize", `"image": ["1", 0], "model_input_size": 340, "checkpoint": "ddcolor_paper.pth"`),
		node("4", "LazySwitch", `"which": 1, "a": ["2", 0], "b": ["3", 0]`), node("5", "SaveImage", `"images": ["4", 0], "filename_prefix": "x"`))},
	{"an error in an expanded node", newer, watched(load(), node("2", "Loop", `"image": ["1", 0], "n": 1, "size": 2100`), save())},
	{"a text as progress", newer, watched(load(), node("2", "TextOut", `"image": ["1", 0]`))},
	{"newer torch without room", newer, watched(load(), node("2", "Raiser", `"image": ["1", 0], "what": "oom_new"`), save())},
	{"only some outputs", newer, func(w *wire) {
		e := w.open("/ws?clientId=client-a")
		e.ended(w.prompt("client-a", `"partial_execution_targets": ["3"], `, load(), colour(350), save(), node("4", "SaveImage", `"images": ["1", 0], "filename_prefix": "y"`)))
		e.leave()
	}},
	{"previews without metadata", "", func(w *wire) {
		e := w.open("/ws?clientId=client-a")
		e.ended(w.prompt("client-a", "", load(), node("2", "WithPreview", `"image": ["1", 0], "steps": 4`), save()))
		e.leave()
	}},
	{"the web page", "", func(w *wire) {
		e := w.open("/ws", `{"type": "feature_flags", "data": {"supports_preview_metadata": true}}`)
		id := e.sid()
		require.Len(w.t, id, 32)
		e.ended(w.prompt(id, `"extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}, `, load(), colour(360), save()))
		e.leave()
		e = w.open("/ws?clientId=" + id) // reloaded
		e.ended(w.prompt(id, "", load(), colour(370), save()))
		e.leave()
	}},
	{"an id of the client's own, and data passed through", "", func(w *wire) {
		e := w.open("/api/ws?clientId=client-a")
		const id = "7d5e0a7c-0000-4000-8000-000000000001"
		require.Equal(w.t, id, w.prompt("client-a", `"prompt_id": "`+id+`", "extra_data": {"mine": [1, {"a": null}]}, `, load(), colour(380), save()))
		e.ended(id)
		e.leave()
		w.ask(http.MethodGet, "/api/history/"+id, "")
	}},
	{"without a client id, seen by a bystander", "", func(w *wire) {
		e := w.open("/ws?clientId=bystander")
		id := w.prompt("", "", load(), colour(390), save())
		e.until(`"type":"progress_state"`, `"state":"running"`, id)
		e.until(`"queue_remaining":0`)
		e.leave()
		w.ask(http.MethodGet, "/history/"+id, "")
	}},
	{"a queue, of which one is deleted and one interrupted", "", func(w *wire) {
		a, b := w.open("/ws?clientId=client-a"), w.open("/ws?clientId=client-b")
		first := w.prompt("client-a", "", load(), colour(large), save())
		a.until(`"type":"execution_start"`, first) // the one that is put in front must not come first
		second := w.prompt("client-b", "", load(), colour(400), save())
		third := w.prompt("client-b", `"front": true, `, load(), colour(410), save())
		a.until(`"type":"progress"`, first)
		w.ask(http.MethodGet, "/queue", "", "Accept-Encoding", "gzip")
		w.ask(http.MethodPost, "/queue", `{"delete": ["`+second+`"]}`)
		w.ask(http.MethodPost, "/interrupt", `{"prompt_id": "none"}`)
		w.ask(http.MethodPost, "/interrupt", ``)
		a.ended(first)
		b.ended(third)
		a.until(`"queue_remaining":0`)
		a.leave()
		b.leave()
		w.ask(http.MethodGet, "/history/"+first, "")
		w.ask(http.MethodPost, "/history", `{"delete": ["`+first+`"]}`)
		w.ask(http.MethodGet, "/history/"+first, "")
	}},
	{"jobs that are listed and cancelled", newer, func(w *wire) {
		e := w.open("/ws?clientId=client-a")
		var ids []string
		for _, side := range []int{large, 420, 430, 440} {
			ids = append(ids, w.prompt("client-a", "", load(), colour(side), save()))
			if side == large {
				e.until(`"type":"execution_start"`, ids[0])
			}
		}
		e.until(`"type":"progress"`, ids[0])
		w.ask(http.MethodGet, "/api/jobs?status=pending,in_progress", "", "Accept-Encoding", "gzip, deflate")
		w.ask(http.MethodGet, "/api/jobs?limit=2&offset=1&sort_by=execution_duration&sort_order=asc", "")
		w.ask(http.MethodPost, "/api/jobs/"+ids[1]+"/cancel", "")
		w.ask(http.MethodPost, "/api/jobs/cancel", `{"job_ids": ["`+ids[2]+`"]}`)
		w.ask(http.MethodPost, "/api/jobs/"+ids[0]+"/cancel", "")
		e.ended(ids[0])
		e.ended(ids[3])
		e.leave()
		for _, id := range ids {
			w.ask(http.MethodGet, "/api/jobs/"+id, "")
		}
	}},
	{"the same id connects again while its prompt runs", "", func(w *wire) {
		first := w.open("/ws?clientId=client-a")
		id := w.prompt("client-a", "", load(), colour(large), save())
		first.until(`"type":"progress"`, id)
		second := w.open("/ws?clientId=client-a")
		second.ended(id)
		first.leave()
		second.leave()
	}},
	{"the client leaves and comes back while its prompt runs", "", func(w *wire) {
		e := w.open("/ws?clientId=client-a")
		id := w.prompt("client-a", "", load(), colour(large+1), save())
		e.until(`"type":"progress"`, id)
		e.leave()
		e = w.open("/ws?clientId=client-a")
		e.ended(id)
		e.leave()
	}},
	{"the server's log", newer, func(w *wire) {
		e := w.open("/ws?clientId=client-a")
		w.ask(http.MethodPatch, "/internal/logs/subscribe", `{"clientId": "client-a", "enabled": true}`)
		w.prompt("client-a", "", load(), colour(450), save())
		e.until(`"type":"logs"`, "Prompt executed")
		w.ask(http.MethodPatch, "/internal/logs/subscribe", `{"clientId": "client-a", "enabled": false}`)
		e.leave()
	}},
	{"memory is given back", "", func(w *wire) {
		w.ask(http.MethodPost, "/free", `{"unload_models": true, "free_memory": true}`)
		watched(load(), colour(460), save())(w)
		w.ask(http.MethodPost, "/history", `{"clear": true}`)
		w.ask(http.MethodGet, "/history", "")
	}},
}
