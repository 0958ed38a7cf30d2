// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// TestMemoryIsInChromiumWithinASecond changes memory in the test library five times, and reads
// in the browser when the GPU's row had the figure: by its own clock, which is this machine's.
// The median of the times counts, of the slowest configuration.
func TestMemoryIsInChromiumWithinASecond(t *testing.T) {
	beside(t, working)
	const goal = time.Second
	chromium := browser(t)
	slowest := time.Duration(0)
	for _, config := range []string{"default", "node", "comfyui", "no-loss"} {
		m := newMachine(t, fakenvml.Current, "l40s", "h100")
		p := newLivePage(t)
		collect(t, config+".yaml", append(m.environment, p.environment(), "OTELCOL_GPU_COLLECTION_INTERVAL=5s", "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
			fmt.Sprintf("OTELCOL_GPU_COMFYUI_PROXY=127.0.0.1:%d", port(t))))
		p.wait(t, patience, "GPUs after the first scrape", func(s *pageState) bool { return len(s.GPUs) == len(m.gpus) })
		tab := openPage(t, chromium, p.url()+"/?lang=en")
		tab.wait(`document.querySelectorAll('.gpu .used').length === 2 && (globalThis.shown = {}, new MutationObserver(() => {
			globalThis.shown[document.querySelector('.gpu .used b').innerText] ??= Date.now();
		}).observe(document.querySelector('#app'), {subtree: true, childList: true, characterData: true}), true)`)
		var took []time.Duration
		for try := range int64(5) {
			wanted := fmt.Sprintf("%d.0", 11+2*try) // GiB
			changed := time.Now()
			m.gpus[0].Set("memory_used", (11+2*try)<<30)
			tab.wait(fmt.Sprintf(`globalThis.shown[%q] > 0`, wanted))
			seen := time.UnixMilli(readPage[int64](tab, fmt.Sprintf(`globalThis.shown[%q]`, wanted)))
			took = append(took, seen.Sub(changed))
		}
		for i, g := range m.gpus { // each figure of a row, none in the place of another
			g.Set("temperature_gpu", int64(41+7*i))
			g.Step("power", int64(101_000+50_000*i))
			g.Step("gpu", int64(33+20*i))
		}
		tab.wait(`JSON.stringify([...document.querySelectorAll('.gpu')].map((row) => ['.heat b', '.draw b', '.use b'].map((figure) => parseInt(row.querySelector(figure).innerText, 10)))) === '[[41,101,33],[48,151,53]]'`)
		slices.Sort(took)
		t.Logf("%s: %v", config, took)
		assert.Greater(t, took[0], -time.Millisecond, "a figure was there before it was set")
		assert.Less(t, took[2], goal, "median of %s: %v", config, took)
		slowest = max(slowest, took[2])
		assert.Empty(t, tab.noted(false), config)
	}
	figure.AtMost("page.memory.chromium", float64(slowest.Milliseconds()), "ms", float64(goal.Milliseconds()))
}
