// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
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

// TestALaneIsWhereSamplesAre: without one within the prompt there is no figure, and no line that would
// pass for nothing used.
func TestALaneIsWhereSamplesAre(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	f := newFixture(t, sceneOf("8"))
	gap := gpuID(3) // a minute without samples of its utilisation
	for id, prompt := range map[string]struct {
		received time.Time
		ran      time.Duration
		gpu      string
	}{
		"usual": {f.begun.Add(-time.Minute), 2 * time.Second, gpuID(1)},
		"old":   {f.begun.Add(-2 * time.Hour), 2 * time.Second, gpuID(1)},
		"short": {f.begun.Add(-time.Minute).Truncate(time.Second).Add(400 * time.Millisecond), time.Millisecond, gpuID(1)},
		"gap":   {f.begun.Add(-11 * f.interval), 2 * time.Second, gap},
	} {
		one := f.usualPrompt(0)
		one.ID, one.Received, one.Ran, one.Execution["hw.id"] = id, prompt.received, prompt.ran, prompt.gpu
		f.Traces(one.Traces())
	}
	p := openTab(t, chromium)
	base := serveFixture(t, f)
	for id, want := range map[string]string{"usual": "gpu1 memory up to GiB of 48.0 GiB, gpu1 utilisation up to %", "old": "", "short": "", "gap": "gpu3 memory up to GiB of 48.0 GiB"} {
		p.open(base + "/prompts/" + id + "?lang=en")
		p.sentence()
		lanes := read[string](p, `[...document.querySelectorAll('.waterfall > .lane .label')].map((e) => e.innerText.replaceAll('\u00a0', ' ').replace(/up to [0-9.]+/, 'up to')).join(', ')`)
		assert.Equal(t, want, lanes, id)
		assert.NotContains(t, read[string](p, `document.querySelector('.waterfall').innerText.replaceAll('\u00a0', ' ')`), "up to 0 ", id)
	}
}

// TestTheLongestStepsOfManyAreDrawn with what failed, and the last line says how many are not.
func TestTheLongestStepsOfManyAreDrawn(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	f := newFixture(t, sceneOf("1"))
	many := f.usualPrompt(0)
	many.ID, many.Received, many.Error, many.ErrorNode, many.Nodes = "many", f.begun.Add(-time.Minute), "ValueError", 7, nil
	for i := range 260 {
		node := sampletrace.Node{Class: "Quick", Share: 0.001 + 1e-6*float64(i)}
		switch {
		case i >= 250:
			node = sampletrace.Node{Class: "Late", Share: 0.05}
		case i == many.ErrorNode:
			node = sampletrace.Node{Class: "Broken", Share: 1e-6}
		}
		many.Nodes = append(many.Nodes, node)
	}
	f.Traces(many.Traces())
	p := openTab(t, chromium)
	base := serveFixture(t, f)
	for language, want := range map[string]string{"en": "63 more steps are not shown", "zh": "另有 63 个步骤未显示"} {
		p.open(withLanguage(base, "/prompts/many", language))
		p.sentence()
		count := func(name string) int {
			return read[int](p, `[...document.querySelectorAll('.spans .name')].filter((e) => e.innerText.includes('`+name+`')).length`)
		}
		assert.Equal(t, 10, count("Late"))
		assert.Equal(t, 1, count("Broken"))
		assert.Equal(t, 200, read[int](p, `document.querySelectorAll('.spans li').length`))
		assert.Equal(t, want, read[string](p, `document.querySelector('.spans + p').innerText`))
	}
	p.open(base + "/prompts/" + slowestID + "?lang=en")
	p.sentence()
	assert.True(t, read[bool](p, `document.querySelector('.spans + p') === null`))
}
