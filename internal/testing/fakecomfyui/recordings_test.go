// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server with timed work, until the test's bubble ends.
func start(t *testing.T, options Options) (*Server, *http.Client) {
	t.Helper()
	s := NewServerWith(NewTimedWork(), options)
	network := comfyreplay.NewPipes()
	h := &http.Server{Handler: s}
	transport := &http.Transport{DialContext: network.Dial}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = h.Serve(network) }()
	go s.Run(ctx)
	t.Cleanup(func() {
		cancel()
		transport.CloseIdleConnections()
		_ = h.Close()
		synctest.Wait()
	})
	return s, &http.Client{Transport: transport}
}

// TestRecordingsOfTheRealServerPlayAgainstIt has the recordings' clients talk to the
// simulated server, and compares what they get with what the real one gave: order,
// types, keys and status codes; times, ids, paths and sizes of images aside. The
// real server of each run kept its cache and its history from recording to recording, and
// was idle when one began. Time is virtual: whatever the machine does besides, a prompt is
// taken before the next one comes, as it was when the recordings were made.
func TestRecordingsOfTheRealServerPlayAgainstIt(t *testing.T) {
	all := comfyreplay.All(t)
	from := func(number string) int {
		return slices.IndexFunc(all, func(r comfyreplay.Recording) bool { return strings.HasPrefix(r.Name, number) })
	}
	for _, run := range []struct {
		name       string
		version    Version
		recordings []comfyreplay.Recording
	}{
		{"first run of 0.3.64", Older, all[:from("14")]},
		{"second run of 0.3.64", Older, all[from("14"):from("22")]},
		{"run of 0.33.0", Newer, all[from("22"):]},
	} {
		t.Run(run.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := start(t, Options{Version: run.version})
				ids := map[string]string{}
				for i := range run.recordings {
					p := &player{t: t, name: run.recordings[i].Name, client: client, ids: ids, sockets: map[string]*websocket.Conn{}, got: map[string]chan string{}}
					between(t, client, p.name, ids)
					idle(server)
					p.play(&run.recordings[i])
					// A socket that closes takes the id from a newer one, as in the real server.
					synctest.Wait()
					server.mu.Lock()
					require.Empty(t, server.sockets, p.name)
					server.mu.Unlock()
				}
			})
		})
	}
}

// idle waits until the queue is empty.
func idle(s *Server) {
	for s.remaining() > 0 {
		timer := time.NewTimer(10 * time.Millisecond)
		<-timer.C
	}
	synctest.Wait()
}

// between sends the prompts that the real 0.33.0 had between two recordings. Those recordings
// (26 and 30 to 33) are not among ours; what they left behind is seen in 29, 34 and 35: the
// prompt numbers 4 and 8 to 13, of which five are in the history (35's list counts 15
// jobs, two of them its own), among them number 11, which waited for another one and found all its
// nodes cached; and the image of node 1 in the cache.
func between(t *testing.T, client *http.Client, next string, ids map[string]string) {
	switch next[:2] {
	case "27":
		submit(t, client, "DDColor_Colorize", `"model_input_size": 330, "checkpoint": "ddcolor_paper.pth"`)
	case "34":
		for _, size := range []int{710, 720, 730, 730} { // 8, 9, 10, and 11 under its recorded id
			ids["88664ac5-0122-402d-bd93-f91945096292"] = submit(t, client, "DDColor_Colorize", fmt.Sprintf(`"model_input_size": %d, "checkpoint": "ddcolor_paper.pth"`, size))
		}
		for range 2 { // 12, 13
			id := submit(t, client, "DDColor_Colorize", `"model_input_size": 740, "checkpoint": "ddcolor_paper.pth"`)
			status, _ := post(t, client, "/queue", `{"delete": ["`+id+`"]}`)
			require.Equal(t, http.StatusOK, status)
		}
	}
}

// submit sends a prompt whose second node has a class and inputs, and returns its id.
func submit(t *testing.T, client *http.Client, class, inputs string) string {
	t.Helper()
	status, body := post(t, client, "/prompt", `{"client_id": "between", "prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "`+class+`", "inputs": {"image": ["1", 0], `+inputs+`}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "ComfyUI"}}}}`)
	require.Equal(t, http.StatusOK, status, "%s", body)
	var accepted struct {
		ID string `json:"prompt_id"`
	}
	require.NoError(t, json.Unmarshal(body, &accepted))
	return accepted.ID
}

func post(t *testing.T, client *http.Client, path, body string) (status int, answer []byte) {
	t.Helper()
	response, err := client.Post(base+path, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, answer
}

// base names the server to an HTTP client whose every connection leads to it.
const base = "http://127.0.0.1:8188"

// player is the clients' side of one recording.
type player struct {
	t       *testing.T
	name    string
	client  *http.Client
	ids     map[string]string // the recorded ids of prompts and sockets, as this server named them
	sockets map[string]*websocket.Conn
	got     map[string]chan string
}

func (p *player) play(r *comfyreplay.Recording) {
	t := p.t
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	want := map[string][]string{}
	var closing []string
	begin := time.Now()
	for i := range r.Lines {
		l := &r.Lines[i]
		switch l.Kind {
		case "ws_open", "ws_send", "request":
			at := l.MS
			if l.Method == http.MethodPost && strings.HasSuffix(l.Path, "/prompt") {
				at = answerOf(r, i).MS // the real server takes a prompt when it answers, milliseconds later
			}
			timer := time.NewTimer(time.Until(begin.Add(time.Duration(at-r.Lines[0].MS) * time.Millisecond)))
			<-timer.C
		}
		switch l.Kind {
		case "ws_open":
			c, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(base, "http")+p.named(l.Path), &websocket.DialOptions{HTTPClient: p.client})
			require.NoError(t, err)
			c.SetReadLimit(16 << 20)
			p.sockets[l.Client], p.got[l.Client] = c, make(chan string, 10000)
			_, first, err := c.Read(ctx)
			require.NoError(t, err)
			if recorded := sid(r.Lines[i+1].Data); recorded != "" { // as a page that opens /ws without an id
				p.ids[recorded] = sid(first)
			}
			p.got[l.Client] <- describe(websocket.MessageText, first)
			go read(ctx, c, p.got[l.Client])
		case "ws_send":
			require.NoError(t, p.sockets[l.Client].Write(ctx, websocket.MessageText, l.Data))
		case "request":
			p.ask(ctx, r, i)
		case "ws_text":
			want[l.Client] = append(want[l.Client], describe(websocket.MessageText, l.Data))
		case "ws_binary":
			want[l.Client] = append(want[l.Client], "binary "+l.Head[:8])
		case "ws_closed":
			if strings.HasPrefix(r.Name, "20") { // the client leaves before the end
				p.compare(l.Client, want[l.Client])
				_ = p.sockets[l.Client].CloseNow()
				continue
			}
			closing = append(closing, l.Client)
		}
	}
	for _, client := range closing {
		p.compare(client, want[client])
	}
	for _, c := range p.sockets {
		_ = c.CloseNow()
	}
}

// named replaces the recorded server's ids by this one's.
func (p *player) named(text string) string {
	for recorded, here := range p.ids {
		text = strings.ReplaceAll(text, recorded, here)
	}
	return text
}

// sid is the id that the first message of a socket gives to the client.
func sid(data []byte) string {
	var m struct {
		Data struct {
			SID string `json:"sid"`
		} `json:"data"`
	}
	_ = json.Unmarshal(data, &m)
	return m.Data.SID
}

func read(ctx context.Context, c *websocket.Conn, into chan<- string) {
	defer close(into)
	for {
		kind, data, err := c.Read(ctx)
		if err != nil {
			return
		}
		into <- describe(kind, data)
	}
}

// compare waits for as many frames as were recorded. The lengths of the queue
// arrive between a client's own messages in any order, so they are compared
// separately.
func (p *player) compare(client string, want []string) {
	t := p.t
	var got []string
	timeout := time.After(10 * time.Second)
	for len(got) < len(want) {
		select {
		case f, ok := <-p.got[client]:
			if !ok {
				timeout = time.After(0)
				continue
			}
			got = append(got, f)
		case <-timeout:
			t.Errorf("%s: %s: %d frames came, not %d", p.name, client, len(got), len(want))
			want = want[:len(got)]
		}
	}
	isStatus := func(s string) bool { return strings.HasPrefix(s, "status") }
	split := func(all []string) (statuses, others []string) {
		for _, s := range all {
			if isStatus(s) {
				statuses = append(statuses, s)
			} else {
				others = append(others, s)
			}
		}
		return statuses, others
	}
	wantStatus, wantOthers := split(want)
	gotStatus, gotOthers := split(got)
	assert.Equal(t, wantOthers, gotOthers, "%s: %s", p.name, client)
	assert.Equal(t, wantStatus, gotStatus, "%s: %s", p.name, client)
}

// answerOf is the recorded answer to a request.
func answerOf(r *comfyreplay.Recording, request int) *comfyreplay.Line {
	for i := request + 1; i < len(r.Lines); i++ {
		if l := &r.Lines[i]; l.Kind == "response" && l.Client == r.Lines[request].Client {
			return l
		}
	}
	return &comfyreplay.Line{}
}

// ask makes a request and compares the answer's form.
func (p *player) ask(ctx context.Context, r *comfyreplay.Recording, i int) {
	t, l, recorded := p.t, &r.Lines[i], answerOf(r, i)
	path, body := p.named(l.Path), p.named(string(l.Content()))
	request, err := http.NewRequestWithContext(ctx, l.Method, base+path, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	response, err := p.client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	what := fmt.Sprintf("%s, line %d: %s %s", p.name, i+1, l.Method, l.Path)
	assert.Equal(t, recorded.Status, response.StatusCode, "%s: %s", what, raw)
	assert.Equal(t, recorded.ContentType, response.Header.Get("Content-Type"), what)
	var accepted, known struct {
		ID         string   `json:"prompt_id"`
		Number     *float64 `json:"number"`
		Pagination any      `json:"pagination"`
	}
	if json.Unmarshal(raw, &accepted) == nil && json.Unmarshal(recorded.Content(), &known) == nil && known.ID != "" {
		p.ids[known.ID] = accepted.ID
	}
	assert.Equal(t, known.Number, accepted.Number, what)
	assert.Equal(t, known.Pagination, accepted.Pagination, what)
	if strings.HasPrefix(l.Path, "/history?max_items") || strings.HasSuffix(l.Path, "/history") {
		return // what was there from before differs
	}
	assert.Equal(t, form(recorded.Content(), p.ids), form(raw, nil), what)
}

// form is the shape of a JSON text: keys, types and texts that mean something.
func form(raw []byte, ids map[string]string) any {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return strings.TrimSpace(string(raw))
	}
	return shape("", v, ids)
}

// anyText are keys whose texts are another server's own.
var anyText = []string{
	"prompt_id", "traceback", "exception_message", "filename", "argv", "name", "type", "required_frontend_version", "installed_templates_version", "python_version",
	"pytorch_version", "os", "display_name",
}

func shape(key string, v any, ids map[string]string) any {
	switch x := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, inner := range x {
			if id, ok := ids[k]; ok {
				k = id
			}
			if len(k) == sha256.Size*2 {
				k = "sha256" // of a template: how many are installed is the machine's
			}
			out[k] = shape(k, inner, ids)
		}
		return out
	case []any:
		if key == "traceback" || key == "argv" || key == "executed" || key == "current_outputs" {
			return "list"
		}
		out := make([]any, len(x))
		for i, inner := range x {
			out[i] = shape(key, inner, ids)
		}
		return out
	case string:
		switch {
		case slices.Contains(anyText, key):
			return "text"
		case strings.HasPrefix(x, "tensor("):
			return "tensor"
		}
		if id, ok := ids[x]; ok {
			return id
		}
		return x
	case float64:
		return "number"
	case nil:
		if key == "index" {
			return "number" // the recorded server had no GPU
		}
	}
	return v
}

// describe is a frame as tests compare it.
func describe(kind websocket.MessageType, data []byte) string {
	if kind == websocket.MessageBinary {
		return fmt.Sprintf("binary %x", data[:4])
	}
	var m struct {
		Type string         `json:"type"`
		Data map[string]any `json:"data"`
	}
	_ = json.Unmarshal(data, &m)
	text := m.Type
	switch m.Type {
	case "status":
		if sid, ok := m.Data["sid"].(string); ok && len(sid) == 32 {
			m.Data["sid"] = "sid"
		}
		raw, _ := json.Marshal(m.Data)
		return text + " " + string(raw)
	case "executing", "executed", "progress", "execution_cached":
		for _, k := range []string{"node", "display_node", "value", "max", "nodes"} {
			if v, ok := m.Data[k]; ok {
				text += fmt.Sprint(" ", k, "=", v)
			}
		}
	case "progress_state":
		nodes, _ := m.Data["nodes"].(map[string]any)
		ids := make([]string, 0, len(nodes))
		for id := range nodes {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			n := nodes[id].(map[string]any)
			text += fmt.Sprint(" ", id, "=", n["state"], " ", n["value"], "/", n["max"], " ", n["display_node_id"], n["parent_node_id"], n["real_node_id"])
		}
	}
	keys, _ := json.Marshal(shape("", m.Data, nil))
	if m.Type == "executed" || m.Type == "execution_error" || m.Type == "execution_interrupted" || m.Type == "feature_flags" {
		return text + " " + string(keys)
	}
	all := make([]string, 0, len(m.Data))
	for k := range m.Data {
		all = append(all, k)
	}
	slices.Sort(all)
	return text + " " + strings.Join(all, ",")
}
