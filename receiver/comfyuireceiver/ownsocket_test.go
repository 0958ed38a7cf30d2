// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
)

// simulated is a simulated ComfyUI, which forgets a client id as the real one does. It
// sends the ids that connect to a channel.
func simulated(t *testing.T) (base string, connected chan string) {
	t.Helper()
	server, connected := fakecomfyui.NewServer(fakecomfyui.NewTimedWork()), make(chan string, 1000)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" && !strings.HasPrefix(r.URL.Query().Get("clientId"), "otelcol-gpu-") {
			connected <- r.URL.Query().Get("clientId")
		}
		server.ServeHTTP(w, r)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { server.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		h.CloseClientConnections()
		h.Close()
	})
	return h.URL, connected
}

// photo asks for a small photo, each time for another one.
func photo(t *testing.T, base, client string, size int) (prompt string) {
	t.Helper()
	body := fmt.Sprintf(`{"client_id": %q, "prompt": {
		"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": %d, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`, client, size)
	response, err := http.Post(base+"/prompt", "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer response.Body.Close()
	var answer struct {
		ID string `json:"prompt_id"`
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
	require.NotEmpty(t, answer.ID)
	return answer.ID
}

func upload(t testing.TB, base string) {
	t.Helper()
	body := "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n"
	response, err := http.Post(base+"/upload/image", "multipart/form-data; boundary=x", strings.NewReader(body))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
}

func nodesOf(t *testing.T, r *rig, trace int) (nodes []string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(r.traces.AllTraces()) > trace }, 20*time.Second, time.Millisecond)
	for _, s := range spansOf(t, r.traces.AllTraces()[trace]) {
		if strings.HasPrefix(s.Name, "comfyui.node") {
			nodes = append(nodes, s.Name)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// TestPromptsOfAClientWithoutASocketHaveTheirNodes: it sends a prompt with an id and
// asks the history for the end, as many programs do.
func TestPromptsOfAClientWithoutASocketHaveTheirNodes(t *testing.T) {
	base, connected := simulated(t)
	r := newRig(t, base, func(c *Config) { c.OwnSockets = ownAlways })
	upload(t, r.base)
	photo(t, r.base, "poller", 900) // longer than it takes to connect, on a busy machine too
	assert.Equal(t, []string{"comfyui.node DDColor_Colorize #2", "comfyui.node LoadImage #1", "comfyui.node SaveImage #3"}, nodesOf(t, r, 0))
	assert.Equal(t, "poller", <-connected)
	photo(t, r.base, "poller", 901)
	assert.Equal(t, []string{"comfyui.node DDColor_Colorize #2", "comfyui.node SaveImage #3"}, nodesOf(t, r, 1))
	assert.Empty(t, connected, "the socket stays open for the next prompt")

	off, connected := simulated(t)
	r = newRig(t, off, func(c *Config) { c.OwnSockets = ownNever })
	upload(t, r.base)
	photo(t, r.base, "poller", 300)
	assert.Empty(t, nodesOf(t, r, 0))
	assert.Empty(t, connected)
}

// TestClientThatComesLaterHearsOfItsPrompts has clients connect at the same time as
// they send a first prompt: whichever is first at the server, a second prompt's messages
// come to the client.
func TestClientThatComesLaterHearsOfItsPrompts(t *testing.T) {
	base, _ := simulated(t)
	r := newRig(t, base, func(c *Config) { c.OwnSockets = ownAlways })
	upload(t, r.base)
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		client := fmt.Sprint("client-", i)
		var first sync.WaitGroup
		first.Go(func() { photo(t, r.base, client, 40+2*i) })
		conn, response, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(r.base, "http")+"/ws?clientId="+client, nil)
		require.NoError(t, err)
		if response.Body != nil {
			_ = response.Body.Close()
		}
		_, greeting, err := conn.Read(ctx)
		require.NoError(t, err)
		require.Contains(t, string(greeting), `"sid"`)
		first.Wait()
		second := photo(t, r.base, client, 41+2*i)
		for {
			_, text, err := conn.Read(ctx)
			require.NoError(t, err, "client %d hears nothing of its prompt", i)
			if strings.Contains(string(text), "execution_success") && strings.Contains(string(text), second) {
				break
			}
		}
		require.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
		cancel()
	}
	require.Eventually(t, func() bool { return len(r.traces.AllTraces()) == 40 }, 20*time.Second, time.Millisecond)
}
