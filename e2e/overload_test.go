// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"math"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/overload"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// TestRushThroughTheCollector has clients come at twice a GPU's capacity, through the collector
// with config/enforce.yaml and in real time, and compares with the same clients in virtual time.
func TestRushThroughTheCollector(t *testing.T) {
	besideFirst(t, waiting)
	m := newMachine(t, fakenvml.Current, "l40s")
	screen := simulation.NewScreen(m.gpus[0], m.profiles[0])
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { screen.Run(ctx) })
	t.Cleanup(func() { cancel(); working.Wait() })

	setup := overload.Setups[0]
	setup.Memory = screen.Total()
	p := overload.NewPlan(setup, 1, 2)
	p.Lasts, p.CapacityLasts, p.Warm = 60*time.Second, 300*time.Second, 20
	capacity := overload.Capacity(t, p)
	virtual := overload.RunWith(t, p, capacity, overload.Respond("enforce", overload.ProductSettings(p.Limits[0])))
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	live := overload.RunLive(t, p, capacity, screen, func(servers []string) []string {
		collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+servers[0], "OTELCOL_GPU_COMFYUI_PROXY="+address, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
			"OTELCOL_GPU_COLLECTION_INTERVAL=5s", "OTELCOL_GPU_QUEUE="+t.TempDir()),
			"--config", filepath.Join(root, "config", "enforce.yaml"),
			"--config=yaml:receivers::comfyui::admission::trust_request_class: true",
			"--config=yaml:connectors::gpuadvisor::classes::people::deadline: 30s", "--config=yaml:connectors::gpuadvisor::classes::buildings::deadline: 30s")
		return []string{"http://" + address}
	})
	v, l := virtual.Figures(), live.Figures()
	t.Logf("virtual %+v", v)
	t.Logf("live    %+v", l)
	figure.Print("overload.live.useful", 100*l.Useful, "%")
	figure.Print("overload.live.difference", 100*math.Abs(l.Useful-v.Useful), "points")
	require.Positive(t, l.Useful)
	assert.GreaterOrEqual(t, l.Core, 0.95)
	// A minute holds few prompts, and what is learned before it varies with the machine's speed.
	assert.InDelta(t, v.Useful, l.Useful, 0.2)
}
