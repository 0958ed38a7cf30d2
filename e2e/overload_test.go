// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/overload"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// TestRushThroughTheCollector has clients come at twice a GPU's capacity, through the collector
// with config/enforce.yaml and in real time.
func TestRushThroughTheCollector(t *testing.T) {
	besideFirst(t, working)
	m := newMachine(t, fakenvml.Current, "l40s")
	screen := simulation.NewScreen(m.gpus[0], m.profiles[0])
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { screen.Run(ctx) })
	t.Cleanup(func() { cancel(); working.Wait() })

	setup := overload.Setups[0]
	setup.Memory = screen.Total()
	p := overload.NewPlan(setup, 1, 2)
	p.Lasts, p.Warm = 60*time.Second, 20
	// One second of the GPU is made in a second, or a little less. It is not measured here: virtual
	// time and the race detector do not go together (see make unit).
	const capacity = 1.0
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	live := overload.RunLive(t, p, capacity, screen, func(servers []string) []string {
		collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+servers[0], "OTELCOL_GPU_COMFYUI_PROXY="+address, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
			"OTELCOL_GPU_COLLECTION_INTERVAL=5s", "OTELCOL_GPU_QUEUE="+t.TempDir()),
			"--config", filepath.Join(root, "config", "enforce.yaml"),
			"--config=yaml:receivers::comfyui::admission::trust_request_class: true",
			"--config=yaml:connectors::gpuadvisor::classes::people::deadline: 30s", "--config=yaml:connectors::gpuadvisor::classes::buildings::deadline: 30s")
		return []string{"http://" + address}
	})
	l := live.Figures()
	t.Logf("%+v", l)
	figure.Print("overload.live.useful", 100*l.Useful, "%")
	figure.Print("overload.live.core", 100*l.Core, "%")
	assert.GreaterOrEqual(t, l.Core, 0.95)
	assert.GreaterOrEqual(t, l.Useful, 0.6, "without a response it is about a half in the first minute, and core as bad as batch")
}
