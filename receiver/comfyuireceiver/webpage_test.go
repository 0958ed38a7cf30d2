// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tab is one tab of a client that behaves like ComfyUI's web page (front end 1.49): it opens
// /ws without an id, takes the id out of the first status, posts its prompts with it, and
// connects with it again when it is reloaded.
type tab struct {
	t    *testing.T
	base string
	sid  string
	conn *websocket.Conn

	mu    sync.Mutex
	heard []string // the messages about prompts
	ended chan string
}

func openTab(t *testing.T, base string) *tab {
	t.Helper()
	p := &tab{t: t, base: base, ended: make(chan string, 100)}
	p.connect()
	return p
}

func (p *tab) connect() {
	p.t.Helper()
	url := "ws" + strings.TrimPrefix(p.base, "http") + "/ws"
	if p.sid != "" {
		url += "?clientId=" + p.sid
	}
	conn, response, err := websocket.Dial(p.t.Context(), url, &websocket.DialOptions{
		CompressionMode: websocket.CompressionContextTakeover, HTTPHeader: http.Header{"Cookie": {"session=1"}},
	})
	require.NoError(p.t, err)
	if response.Body != nil {
		_ = response.Body.Close()
	}
	conn.SetReadLimit(16 << 20)
	p.conn = conn
	_, text, err := conn.Read(p.t.Context())
	require.NoError(p.t, err)
	var first struct {
		Type string
		Data struct{ SID string }
	}
	require.NoError(p.t, json.Unmarshal(text, &first))
	require.Equal(p.t, "status", first.Type)
	require.NotEmpty(p.t, first.Data.SID)
	p.sid = first.Data.SID
	require.NoError(p.t, conn.Write(p.t.Context(), websocket.MessageText, []byte(`{"type": "feature_flags", "data": {"supports_preview_metadata": true}}`)))
	go p.listen(conn)
}

func (p *tab) listen(conn *websocket.Conn) {
	for {
		kind, text, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		var m struct {
			Type string
			Data struct {
				ID   string `json:"prompt_id"`
				Node any
			}
		}
		if kind != websocket.MessageText || json.Unmarshal(text, &m) != nil || m.Data.ID == "" {
			continue
		}
		p.mu.Lock()
		p.heard = append(p.heard, fmt.Sprint(m.Type, " ", m.Data.Node))
		p.mu.Unlock()
		if m.Type == "executing" && m.Data.Node == nil { // the last message about a prompt
			p.ended <- m.Data.ID
		}
	}
}

func (p *tab) post(size int) (id string) {
	p.t.Helper()
	body := fmt.Sprintf(`{"client_id": %q, "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}, "prompt": {
		"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": %d, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`, p.sid, size)
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.base+"/api/prompt", strings.NewReader(body))
	require.NoError(p.t, err)
	request.Header.Set("Cookie", "session=1")
	request.Header.Set("Accept-Encoding", "gzip, deflate, br")
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	var answer struct {
		ID string `json:"prompt_id"`
	}
	require.NoError(p.t, json.Unmarshal(raw, &answer), string(raw))
	return answer.ID
}

// run posts a prompt and returns what the tab heard about it.
func (p *tab) run(size int) []string {
	p.t.Helper()
	p.mu.Lock()
	p.heard = nil
	p.mu.Unlock()
	id := p.post(size)
	select {
	case ended := <-p.ended:
		require.Equal(p.t, id, ended)
	case <-time.After(20 * time.Second):
		p.t.Fatal("the page hears nothing of its prompt")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.heard...)
}

func (p *tab) close() {
	_ = p.conn.Close(websocket.StatusGoingAway, "")
}

// B1: with the proxy between, the page hears what it hears without it: after its first load,
// after a reload, and in a second tab.
func TestTheWebPageHearsWhatItHearsWithoutTheProxy(t *testing.T) {
	heard := map[string][][]string{}
	for _, through := range []string{"direct", "proxy"} {
		base, _ := simulated(t)
		var r *rig
		if through == "proxy" {
			r = newRig(t, base, nil)
			base = r.base
		}
		upload(t, base)
		page := openTab(t, base)
		heard[through] = append(heard[through], page.run(300))
		page.close()
		page.connect() // a reload
		heard[through] = append(heard[through], page.run(301))
		second := openTab(t, base)
		require.NotEqual(t, page.sid, second.sid)
		heard[through] = append(heard[through], second.run(302), page.run(303))
		second.close()
		heard[through] = append(heard[through], page.run(304))
		page.close()
		if r == nil {
			continue
		}
		waitFor(t, func() bool { return len(r.traces.AllTraces()) == 5 })
		for i := range 5 {
			assert.Contains(t, nodesOf(t, r, i), "comfyui.node DDColor_Colorize #2", "prompt %d", i)
		}
		waitFor(t, func() bool { withClient, kept := r.hub.Counts(); return withClient+kept == 0 })
	}
	for i := range heard["direct"] {
		require.NotEmpty(t, heard["direct"][i])
		assert.Equal(t, heard["direct"][i], heard["proxy"][i], "prompt %d", i)
	}
}

// A page that is closed while its prompt runs: the proxy keeps its socket, under the id that
// the server gave to it.
func TestThePromptOfAPageThatWasClosedHasItsNodes(t *testing.T) {
	base, _ := simulated(t)
	r := newRig(t, base, nil)
	upload(t, r.base)
	page := openTab(t, r.base)
	page.post(1280)
	waitFor(t, func() bool { page.mu.Lock(); defer page.mu.Unlock(); return len(page.heard) > 0 })
	page.close()
	assert.Equal(t, []string{"comfyui.node DDColor_Colorize #2", "comfyui.node LoadImage #1", "comfyui.node SaveImage #3"}, nodesOf(t, r, 0))
}
