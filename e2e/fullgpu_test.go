// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// What the article's rule reads, and what is in use without what can be evicted, where that is
// known.
const (
	usedShare = `hw_gpu_memory_usage_bytes / hw_gpu_memory_limit_bytes`
	heldShare = `(hw_gpu_memory_usage_bytes - on(hw_id) group_left() (max by (hw_id) (comfyui_memory_elastic_bytes) or on(hw_id) max by (hw_id) (0 * hw_gpu_memory_usage_bytes))) / hw_gpu_memory_limit_bytes`
)

// fullServer is a simulated ComfyUI behind a collector.
func fullServer(t *testing.T) (store stack.Store, service *simulation.Service, proxy string) {
	t.Helper()
	m := newMachine(t, fakenvml.Current, "rtx-4080-super")
	service = simulation.NewService(m.gpus[0], m.profiles[0], 3)
	server := (&memoryServer{newer: true, dynamic: true}).on(service)
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { server.Run(ctx) })
	h := httptest.NewServer(server)
	t.Cleanup(func() { cancel(); working.Wait(); h.CloseClientConnections(); h.Close() })
	store, proxy = victoriaMetrics(t), "127.0.0.1:"+strconv.Itoa(port(t))
	collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_COMFYUI="+h.URL, "OTELCOL_GPU_COMFYUI_PROXY="+proxy,
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=1s"))
	eventually(t, store, `comfyui_memory_elastic_bytes`, atLeast(1)) // it was asked while it was fresh
	return store, service, proxy
}

func order(t *testing.T, proxy, user string) {
	t.Helper()
	require.NoError(t, simulation.NewUsers("http://"+proxy).Order(withPatience(t), user, []simulation.Photo{{Side: 1280}, {Side: 1024}}))
}

func TestGPUThatIsFullInGoodHealthIsKnown(t *testing.T) {
	beside(t, working)
	store, service, proxy := fullServer(t)
	service.KeepFull(0.97)
	eventually(t, store, usedShare+" > 0.95", atLeast(1))
	users := 0
	require.Eventually(t, func() bool {
		users++
		order(t, proxy, fmt.Sprint("user", users))
		series, err := store.Query(context.Background(), heldShare+" < 0.6 and "+usedShare+" > 0.95")
		return err == nil && len(series) == 1
	}, patience, time.Second, "what can be evicted is known")
	eventually(t, store, `comfyui_prompts_total{comfyui_prompt_outcome="success"} >= 2`, atLeast(1))
	failed, err := store.Query(context.Background(), `comfyui_prompts_total{comfyui_prompt_outcome!="success"} > 0`)
	require.NoError(t, err)
	assert.Empty(t, failed)
}

func TestGPUThatIsFullAndFailsIsKnown(t *testing.T) {
	beside(t, working)
	store, service, proxy := fullServer(t)
	service.Occupy(4242, 0.955)
	order(t, proxy, "user")
	eventually(t, store, `comfyui_prompts_total{error_type="out_of_memory"} >= 2`, atLeast(1))
	eventually(t, store, heldShare+" > 0.95", atLeast(1))
}
