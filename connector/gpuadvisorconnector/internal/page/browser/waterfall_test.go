// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// seenInRows are what the elements of a selector say, one for each span of the waterfall, as far as they
// are seen.
const seenInRows = `((selector) => [...document.querySelectorAll('.spans li')].map((row) => {
	const e = row.querySelector(selector);
	const b = e.getBoundingClientRect();
	return b.width > 1 && getComputedStyle(e).clipPath === 'none' && b.right <= innerWidth ? e.innerText.replaceAll('\u00a0', ' ') : '';
}))`

// TestEachStepHasItsMemoryAndEnergy where one reads them, on a phone too.
func TestEachStepHasItsMemoryAndEnergy(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	for _, width := range []int64{360, 768, 1280} {
		p.reshape(shape{width, 800, "en", false})
		p.open(base + "/prompts/" + slowestID + "?lang=en")
		p.sentence()
		peak, none := "4.10 GiB", "" // the prompt itself and the queue use no GPU
		assert.Equal(t, []string{none, none, peak, peak, peak, peak, peak, peak, peak}, read[[]string](p, seenInRows+`('.peak')`), width)
		assert.Equal(t, []string{none, none, "180 ± 6 J", "5.4 ± 2.0 J", "90.0 ± 2.0 J", "7.2 ± 2.0 J", "64.8 ± 2.0 J", "5.4 ± 2.0 J", "7.2 ± 2.0 J"}, read[[]string](p, seenInRows+`('.energy')`), width)
	}
	p.open(base + "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0007?lang=en") // it has no bill
	p.sentence()
	assert.Equal(t, []string{"", "", "–", "–", "–", "–", "–", "–", "–"}, read[[]string](p, seenInRows+`('.peak')`))
}

// TestTheStepThatFailedSaysSo in a word, beside its colour.
func TestTheStepThatFailedSaysSo(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("8"))) + "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0003?lang=en")
	p.sentence()
	assert.Equal(t, []string{"Prompt", "Execution", "DDColor_Colorize"}, read[[]string](p, `[...document.querySelectorAll('.spans li:has(.span.error) .name')].map((e) => e.innerText.trim().split(' ').find((word) => /^[A-Z]/.test(word)))`), "as the receiver marks them")
	assert.True(t, read[bool](p, `document.querySelector('.span.error') !== null && [...document.querySelectorAll('.spans li:has(.span.error)')].every((e) => e.querySelector('.name .icon.broken') && e.innerText.includes('out_of_memory'))`))
	assert.False(t, read[bool](p, `[...document.querySelectorAll('.spans li:not(:has(.span.error))')].some((e) => e.querySelector('.icon'))`))
}

// TestTheMemoryUnderTheStepsIsDrawnAgainstTheGPUs: against its own maximum each GPU would look full.
func TestTheMemoryUnderTheStepsIsDrawnAgainstTheGPUs(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("1"))) + "/prompts/" + slowestID + "?lang=en")
	p.sentence()
	lane := `document.querySelector('.waterfall > .lane')`
	most := regexp.MustCompile(`^gpu0 memory up to ([0-9.]+) GiB of 24\.0 GiB$`).FindStringSubmatch(read[string](p, lane+`.querySelector('.label').innerText.replaceAll('\u00a0', ' ')`))
	require.Len(t, most, 2)
	memory, err := strconv.ParseFloat(most[1], 64)
	require.NoError(t, err)
	require.Less(t, memory, 20.0, "the GPU is not full")
	top := read[float64](p, `Math.min(...[...`+lane+`.querySelector('.line').getAttribute('d').matchAll(/ ([0-9.]+)/g)].map((m) => Number(m[1])))`)
	assert.InDelta(t, 100-96*memory/24, top, 2)
}
