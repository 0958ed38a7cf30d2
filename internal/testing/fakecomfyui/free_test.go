// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// holder is a Work that counts what /free had it free.
type holder struct {
	unstoppable
	models, nodes atomic.Int64
}

// FreeParts implements [PartFreer].
func (h *holder) FreeParts(models, nodes bool) {
	if models {
		h.models.Add(1)
	}
	if nodes {
		h.nodes.Add(1)
	}
}

func TestFreeActsBetweenPrompts(t *testing.T) {
	work := &holder{unstoppable: unstoppable{Work: NewTimedWork(), begun: make(chan struct{}), goOn: make(chan struct{})}}
	fake := NewServer(work)
	server := httptest.NewServer(fake)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.Close() })
	post := func(path, kind, body string) {
		response, err := http.Post(server.URL+path, kind, strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	freed := func() [2]int64 { return [2]int64{work.models.Load(), work.nodes.Load()} }
	post("/free", "application/json", `{"unload_models": true}`)
	assert.Equal(t, [2]int64{1, 0}, freed(), "an idle server frees at once, and what nodes hold only with free_memory")
	post("/free", "application/json", `{"free_memory": true}`)
	assert.Equal(t, [2]int64{2, 1}, freed(), "free_memory unloads the models, too")
	post("/free", "application/json", `{"free_memory": true, "unload_models": false}`)
	assert.Equal(t, [2]int64{2, 2}, freed())

	post("/upload/image", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n")
	post("/prompt", "application/json", `{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": 400, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`)
	<-work.begun
	post("/free", "application/json", `{"unload_models": true, "free_memory": true}`)
	assert.Equal(t, [2]int64{2, 2}, freed(), "nothing is freed while a prompt runs")
	close(work.goOn)
	require.Eventually(t, func() bool { return freed() == [2]int64{3, 3} }, 10*time.Second, time.Millisecond)
}
