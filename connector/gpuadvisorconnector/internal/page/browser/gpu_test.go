// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestALostGPUHasNoAge: its state is still reported, so that the age of its newest sample says
// nothing.
func TestALostGPUHasNoAge(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("lost"))) + "/?lang=en")
	row := read[string](p, `document.querySelector('.gpu.broken').innerText`)
	assert.Contains(t, row, "lost")
	assert.NotContains(t, row, "no sample")
	p.open(serveFixture(t, newFixture(t, sceneOf("stopped"))) + "/?lang=en")
	assert.Regexp(t, `no sample since \d\d:\d\d:\d\d`, read[string](p, `document.querySelector('.gpu.broken').innerText`))
}

// TestTheHistorysAxisHasTimesOfDay, of yesterday too.
func TestTheHistorysAxisHasTimesOfDay(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	for _, language := range []string{"en", "zh"} {
		p.open(serveFixture(t, newFixture(t, sceneOf("1"))) + "/?lang=" + language)
		assert.Equal(t, "23:50", read[string](p, `(async () => {
			const {hour} = await import([...document.querySelectorAll('script[type=module]')].find((s) => s.src.endsWith('app.js')).src.replace('app.js', 'format.js'));
			const yesterday = new Date(Date.now() - 864e5);
			yesterday.setHours(23, 50, 7);
			return hour(yesterday.getTime());
		})()`), language)
	}
}

// TestTroubledTilesAreFirst, and each GPU is a tile once.
func TestTroubledTilesAreFirst(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("64"))) + "/?lang=en")
	order := read[[]int](p, `[...document.querySelectorAll('.tile')].map((tile) => ['broken', 'warning', 'fine'].findIndex((s) => tile.classList.contains(s)))`)
	assert.Len(t, order, 64)
	assert.True(t, slices.IsSorted(order), order)
	assert.Equal(t, []int{0, 1, 2}, slices.Compact(slices.Clone(order)), "there are some of each")
}

// TestTheHistoryIsDrawnBetweenScrapes: of most seconds only some figures are known.
func TestTheHistoryIsDrawnBetweenScrapes(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(serveFixture(t, newFixture(t, sceneOf("8"))) + "/?lang=en&gpu=gpu3")
	p.wait(`document.querySelectorAll('.chart canvas').length === 4`)
	// The share of each chart's columns of pixels, within its axes, in which the line is.
	shares := read[[]float64](p, `(() => {
		const accent = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();
		const [r, g, b] = accent.match(/[0-9a-f]{2}/gi).map((v) => parseInt(v, 16));
		return [...document.querySelectorAll('.chart canvas')].map((canvas) => {
			const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
			const area = canvas.parentElement.querySelector('.u-over').getBoundingClientRect();
			const scale = width / canvas.getBoundingClientRect().width;
			const from = Math.round((area.left - canvas.getBoundingClientRect().left) * scale);
			const columns = Math.floor(area.width * scale);
			let drawn = 0;
			for (let x = from; x < from + columns; x++) {
				for (let y = 0; y < height; y++) {
					const at = 4 * (y * width + x);
					if (Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b) < 60) { drawn++; break; }
				}
			}
			return drawn / columns;
		});
	})()`)
	require.Len(t, shares, 4)
	for i, share := range shares {
		if i == 1 { // a minute of thirty has no samples
			assert.InDelta(t, 1-1.0/30, share, 0.005, "utilisation")
			continue
		}
		assert.Greater(t, share, 0.98, "chart %d", i)
	}
}

// TestWhatHoldsTheMemoryIsNotMadeUp of a GPU whose driver lists no processes, one whose samples have
// stopped and one that is lost. Of a GPU with nothing in use there is none.
func TestWhatHoldsTheMemoryIsNotMadeUp(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	const none, idle = "No process uses this GPU.", "nothing holds memory"
	for _, c := range []struct{ scene, gpu, holds, processes string }{
		{"wsl2", "gpu0", "no process is listed", "No process is listed although memory is in use. Under WSL2 the driver lists none; processes of MIG devices are listed with their device."},
		{"odd", "gpu1/mig1", idle, none},
		{"odd", "gpu0", "", "Unknown: this GPU has no current samples."},
		{"lost", "gpu1", "", "Unknown: this GPU has no current samples."},
	} {
		base := serveFixture(t, newFixture(t, sceneOf(c.scene)))
		p.open(base + "/?lang=en")
		row := fmt.Sprintf(`[...document.querySelectorAll('.gpu')].find((e) => e.querySelector('.who b').innerText === %q).querySelector('.holds')`, c.gpu)
		spans := read[[]string](p, `[...`+row+`.querySelectorAll(':scope > span:not(.warning-text)')].map((e) => e.innerText)`)
		if c.holds == "" {
			assert.Empty(t, spans, "%v", c)
		} else {
			assert.Contains(t, spans, c.holds, "%v", c)
		}
		if c.holds != idle {
			assert.NotContains(t, spans, idle, "%v", c)
		}
		p.open(base + "/?lang=en&gpu=" + url.QueryEscape(c.gpu))
		assert.Equal(t, c.processes, read[string](p, `document.querySelector('[aria-labelledby=processes] .empty').innerText`), "%v", c)
	}
}
