// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheNewestSamplesAgeIsAWarningOnlyIfSamplesHaveStopped(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	for _, c := range []struct {
		scene  string
		age    time.Duration
		isSign bool
	}{{"1", 75 * time.Second, false}, {"1", 100 * time.Second, true}, {"stopped", 62 * time.Second, true}} {
		s := sceneOf(c.scene)
		if s.age = c.age; c.scene == "1" {
			s.interval = time.Minute
		}
		p.open(serveFixture(t, newFixture(t, s)) + "/?lang=en")
		assert.Contains(t, read[string](p, `document.querySelector('.context').innerText`), map[string]string{"1": "newest sample", "stopped": "no sample since"}[c.scene], "%v", c)
		assert.Equal(t, c.isSign, read[bool](p, `document.querySelector('.context .warning-text .icon') !== null`), "%v", c)
	}
}

func TestAnAddressWithInvalidEscapesIsAPromptThatIsNotKnown(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("1"))) + "/prompts/%FF?lang=en")
	p.wait(`document.querySelector('.detail .sentence')?.innerText.startsWith('This prompt is not known.')`)
	assert.Equal(t, "%FF", read[string](p, `document.querySelector('.detail .id code').innerText`))
	assert.Empty(t, p.noted())
}

// TestAPromptHasOneRatioToItsUsualTime is the sentence's: a second one, of other times, would
// contradict it.
func TestAPromptHasOneRatioToItsUsualTime(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("8"))) + "/prompts/" + slowestID + "?lang=en")
	assert.Contains(t, p.sentence(), "4.0 times")
	assert.Contains(t, read[[]string](p, `[...document.querySelectorAll('.figures dd')].map((e) => e.innerText.replaceAll('\u00a0', ' '))`), "2.52 s (median of 20 executions)")
	assert.Equal(t, 1, read[int](p, `document.querySelector('main').innerText.split('times').length - 1`))
}

func TestSocketsWithoutAClientAreOneLineThatStays(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("rush")
	s.isLive = true
	f := newFixture(t, s)
	p := openTab(t, chromium)
	p.open(serveFixture(t, f) + "/?lang=en")
	p.wait(`window.before = [...document.querySelectorAll('.socket')], window.before.length === 2`)
	assert.Equal(t, "2 clients left before their prompts ended", read[string](p, `window.before[1].innerText.trim()`), "and no time")
	reads := f.reads.Load()
	require.Eventually(t, func() bool { return f.reads.Load() > reads+5 }, patience, 5e6)
	assert.True(t, read[bool](p, `[...document.querySelectorAll('.socket')].every((e, i) => e === window.before[i])`))
}

func TestAGPUsRowSaysForHowLongAndWhyItWasThrottled(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	throttled := `document.querySelector('.gpu.broken .holds .throttled').innerText.replaceAll('\u00a0', ' ')`
	p.open(base + "/?lang=en")
	assert.Equal(t, "throttled 12 %: power limit", read[string](p, throttled))
	p.open(base + "/?lang=zh")
	assert.Equal(t, "节流 12%：功耗上限", read[string](p, throttled))
	assert.NotRegexp(t, `[ \x{a0}]%`, read[string](p, `document.body.innerText`))
}

func TestTheCountsOfManyGPUsAreSentences(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("64"))) + "/?lang=en")
	counts := read[string](p, `document.querySelector('.counts').innerText`)
	assert.Regexp(t, `8 broken\s+8 need attention\s+48 fine`, counts)
	assert.Equal(t, "Other conditions", read[string](p, `document.querySelector('#conditions').innerText`))
}

func TestAlertsThatFireAreListedWithTheirAgeAndRunbook(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("rush"))) + "/?lang=en")
	listed := read[[]string](p, `[...document.querySelectorAll('[aria-labelledby=alerts] li')].map((e) => e.innerText.replaceAll('\u00a0', ' '))`)
	require.Len(t, listed, 2)
	assert.Regexp(t, `GPUMemoryUsageCritical GPU gpu1 of gpu-node-07 is almost out of memory: 98.2% in use\. for (2 min|12\d s|119 s)`, listed[0])
	assert.Contains(t, listed[1], "ComfyUIQueueGrowing The oldest prompt in the queue of 127.0.0.1:8188 has waited for 1m 35s, and the wait grows.")
	assert.Regexp(t, `/GPUMemoryUsageCritical\.md$`, read[string](p, `document.querySelector('[aria-labelledby=alerts] li a').href`))
	assert.Equal(t, []string{"broken", "warning"}, read[[]string](p, `[...document.querySelectorAll('[aria-labelledby=alerts] li .icon')].map((e) => e.classList[1])`))
}

// TestAReasonIsAFewWords in the search, too: the sentence is in the title, and on the prompt's page.
func TestAReasonIsAFewWords(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	for language, want := range map[string][]string{"en": {"succeeded · no GPU figures", "Too many traces waited for samples."}, "zh": {"成功 · 没有 GPU 数据", "等待采样的 trace 过多。"}} {
		p.open(withLanguage(base, "/?view=prompts&q=e9b0007", language))
		p.wait(`document.querySelectorAll('tr.prompt').length === 1`)
		assert.Equal(t, want, read[[]string](p, `[document.querySelector('tr.prompt .reason').innerText.trim(), document.querySelector('tr.prompt .reason').title]`))
		reasons := read[[]string](p, `[...document.querySelectorAll('tr.prompt .reason')].map((e) => e.innerText)`)
		assert.NotRegexp(t, `[.。]$`, strings.Join(reasons, "\n"))
	}
}

// TestAlertsThatCannotBeReadAreAWarning, and their source is not said to be silent where it responded.
func TestAlertsThatCannotBeReadAreAWarning(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("lost")))
	for language, want := range map[string]string{"en": `^Cannot read alerts from http://127\.0\.0\.1:\d+: it cannot be reached; see the collector's log\.$`, "zh": `^无法从 http://127\.0\.0\.1:\d+ 读取告警：无法连接，原因见采集器日志。$`} {
		p.open(withLanguage(base, "/", language))
		shown := `document.querySelector('[aria-labelledby=alerts] .empty:has(.icon.warning)')`
		assert.Regexp(t, want, read[string](p, shown+`.lastChild.data`))
	}
}

// TestAFigureIsOnOneLineWithItsUnit also in the sentences that the collector makes.
func TestAFigureIsOnOneLineWithItsUnit(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	for _, language := range []string{"en", "zh"} {
		for _, path := range []string{"/", "/?gpu=gpu1", "/prompts/" + slowestID} {
			p.open(withLanguage(base, path, language))
			p.wait(`document.querySelector('main h1') !== null && !document.querySelector('main').innerText.includes('…')`)
			sentences := read[string](p, `[...document.querySelectorAll('.verdict, .notes, .note, .sentence, .socket')].map((e) => e.innerText).join(' | ')`)
			assert.Regexp(t, "[0-9]\u00a0(s|px|GiB|秒)", sentences)
			assert.NotRegexp(t, "[0-9] (s|min|px|GiB|%|°C|秒)([^A-Za-z]|$)", sentences)
		}
	}
}
