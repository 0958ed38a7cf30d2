// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"math"
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

// rushLasts is for how long clients come in TestRushThroughTheCollector. From compareFrom on the same
// clients come in virtual time, too: a minute is 35 prompts, of which one is three points.
var rushLasts = flag.Duration("rush-lasts", time.Minute, "for how long clients come in TestRushThroughTheCollector; from 5m on the run is compared with virtual time")

const compareFrom = 5 * time.Minute

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
	p.Lasts, p.Warm = *rushLasts, 20
	// One second of the GPU is made in a second, or a little less. A short run does not measure it:
	// virtual time and the race detector do not go together (see make unit).
	capacity, virtually := 1.0, overload.Figures{}
	if *rushLasts >= compareFrom {
		capacity = overload.Capacity(t, p)
		virtually = overload.RunWith(t, p, capacity, overload.Respond("enforce", overload.ProductSettings(p.Limits[0]))).Figures()
		t.Logf("virtual time: %+v", virtually)
	}
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
	if *rushLasts >= compareFrom {
		figure.Print("overload.live.virtual_useful", 100*virtually.Useful, "%")
		figure.AtMost("overload.live.difference", 100*math.Abs(l.Useful-virtually.Useful), "points", 3)
		assert.InDelta(t, virtually.Useful, l.Useful, 0.03, "in real time as in virtual time")
	}
	assert.GreaterOrEqual(t, l.Useful, 0.6, "without a response it is about a half in the first minute, and core as bad as batch")
}
