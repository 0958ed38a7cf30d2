// SPDX-License-Identifier: Apache-2.0

package sharedgpu

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
)

// comfy is a simulated ComfyUI without a socket.
type comfy struct {
	t      *testing.T
	server *fakecomfyui.Server
	stop   func()
}

func startComfy(t *testing.T, work fakecomfyui.Work) *comfy {
	ctx, cancel := context.WithCancel(t.Context())
	c := &comfy{t: t, server: fakecomfyui.NewServer(work)}
	var running sync.WaitGroup
	running.Go(func() { c.server.Run(ctx) })
	c.stop = func() { cancel(); running.Wait() }
	return c
}

func (c *comfy) send(path, kind, body string) {
	c.t.Helper()
	request := httptest.NewRequest(http.MethodPost, path, bytes.NewReader([]byte(body)))
	request.Header.Set("Content-Type", kind)
	answer := httptest.NewRecorder()
	c.server.ServeHTTP(answer, request)
	require.Equal(c.t, http.StatusOK, answer.Code, answer.Body.String())
}

func (c *comfy) post(path, body string) { c.t.Helper(); c.send(path, "application/json", body) }

// colour uploads a photo and asks for its colours.
func (c *comfy) colour(side int) {
	c.t.Helper()
	c.send("/upload/image", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"photo.png\"\r\n\r\n.\r\n--x--\r\n")
	c.post("/prompt", fmt.Sprintf(`{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": %d, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`, side))
}
