// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unstoppable is DDColor's node: it sends no step, and so is not interrupted.
type unstoppable struct {
	Work
	begun, goOn chan struct{}
}

func (u *unstoppable) Colorize(context.Context, int, string, func(done, all int) error) error {
	close(u.begun)
	<-u.goOn
	return nil
}

// TestInterruptionEndsAPromptBeforeItsNextNode as ComfyUI does, which checks before each node.
func TestInterruptionEndsAPromptBeforeItsNextNode(t *testing.T) {
	work := &unstoppable{NewTimedWork(), make(chan struct{}), make(chan struct{})}
	fake := NewServer(work)
	server := httptest.NewServer(fake)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.Close() })
	post := func(path, kind, body string) {
		response, err := http.Post(server.URL+path, kind, strings.NewReader(body))
		require.NoError(t, err)
		defer response.Body.Close()
		raw, _ := io.ReadAll(response.Body)
		require.Equal(t, http.StatusOK, response.StatusCode, string(raw))
	}
	post("/upload/image", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n")
	post("/prompt", "application/json", `{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": 400, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`)
	<-work.begun
	post("/interrupt", "application/json", "")
	close(work.goOn)
	require.Eventually(t, func() bool {
		response, err := http.Get(server.URL + "/history")
		require.NoError(t, err)
		defer response.Body.Close()
		raw, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		if !strings.Contains(string(raw), "status_str") {
			return false
		}
		assert.Contains(t, string(raw), `"execution_interrupted"`)
		assert.Contains(t, string(raw), `"node_id":"3"`, "the node that was to run")
		return true
	}, 10*time.Second, time.Millisecond)
}
