// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFiguresOfTheScriptsHaveThreeSignificantDigits as those that the page has without scripts: a test
// of package page holds index.go against the same file.
func TestFiguresOfTheScriptsHaveThreeSignificantDigits(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	want, err := os.ReadFile(filepath.Join("..", "testdata", "figures.json"))
	require.NoError(t, err)
	base := serveFixture(t, newFixture(t, sceneOf("1")))
	// of a script of the page: its functions
	format := `import(document.querySelector('script[type=module]').src.replace('app.js', 'format.js')).then((f) => `
	p.open(base + "/?lang=en")
	assert.Empty(t, read[[]string](p, format+`Object.entries(`+string(want)+`).flatMap(([name, all]) => all.flatMap(([v, text]) => f[name](v).replaceAll('\u00a0', ' ') === text ? [] : [name + ' of ' + v + ' is ' + f[name](v) + ', not ' + text])))`))
	for call, text := range map[string]string{
		"energy(6)": "6.00 J", "energy(60, 9)": "60.0 ± 9.0 J", "energy(180, 6)": "180 ± 6 J", "energy(6.67, 0.123)": "6.67 ± 0.12 J", "energy(0.0277, 0.345)": "0.03 ± 0.34 J", "energy(0.00103, 18.3)": "0 ± 18 J", "energy(0, 0)": "0 ± 0 J", "energy(1230, 42)": "1.23 ± 0.04 kJ", "energy(12300, 610)": "12.3 ± 0.6 kJ",
		"percent(0.0046)": "0 %", "celsius(60.4)": "60 °C", "age(0.46)": "0 s", "age(4.6)": "5 s", "age(300)": "5 min", "mark(0, 0.5)": "0 ms", "mark(0.1, 0.5)": "100", "mark(0, 90)": "0 s", "mark(0.3 - 0.1, 2)": "0.2", "mark(20, 90)": "20", "mark(2000, 9000)": "33.3 min",
	} {
		assert.Equal(t, text, read[string](p, fmt.Sprintf(`%sf.%s.replaceAll('\u00a0', ' '))`, format, call)), call)
	}
	p.open(base + "/?lang=zh")
	assert.Equal(t, "460 毫秒", read[string](p, format+`f.seconds(0.46).replaceAll('\u00a0', ' '))`))
}

// findOddFigures lists the figures with a fraction that have other than three significant digits. Those with
// an uncertainty have as many decimals as that, and an axis round places.
const findOddFigures = `[...document.querySelectorAll('.figure, .used, .holds b, .part-list b, .lane .dim')].flatMap((e) => [...e.innerText.replaceAll('\u00a0', ' ').matchAll(/(± )?(?<![\d.:])(\d+\.\d+)(?= (GiB|MiB|ms|s|min|h|J|kJ|W|毫秒|秒|分钟|小时)(?![A-Za-z])| [/])/g)]
	.filter((m) => !m[1] && m[2].replace('.', '').replace(/^0+/, '').length !== 3).map((m) => m[0] + ' in ' + e.innerText))`

// TestEachFigureOnThePageHasThreeSignificantDigits in both languages, whichever view.
func TestEachFigureOnThePageHasThreeSignificantDigits(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	for _, language := range []string{"en", "zh"} {
		for path, ready := range map[string]string{"/": "tr.prompt", "/?gpu=gpu1": ".processes", "/?view=prompts&sort=slowest": ".workflows", "/prompts/" + slowestID: ".waterfall"} {
			p.open(withLanguage(base, path, language))
			p.wait("document.querySelector(`" + ready + "`) !== null")
			assert.NotZero(t, read[int](p, `document.querySelectorAll('.figure').length`))
			assert.Empty(t, read[[]string](p, findOddFigures), "%s in %s", path, language)
		}
	}
}

// unsaid lists the elements of a selector whose icon has no word beside it that is seen.
const unsaid = `((selector) => {
	const all = [...document.querySelectorAll(selector)];
	const bad = all.filter((e) => { const icon = e.querySelector('.icon'); return !icon || !icon.parentElement.innerText.trim() || icon.querySelector('.hidden') || icon.parentElement.getBoundingClientRect().height < 12; });
	return all.length ? bad.map((e) => selector + ': ' + e.innerText) : ['there is no ' + selector];
})`

// TestEachSignHasAWord that is seen: of GPUs in rows and tiles, and of prompts, in each width.
func TestEachSignHasAWord(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("64")))
	for language, words := range map[string][]string{"en": {"out of memory", "full", "throttled by heat", "fine"}, "zh": {"显存不足", "显存已满", "高温节流", "正常"}} {
		p.open(withLanguage(base, "/", language))
		for _, width := range []int64{360, 768, 1280} {
			p.reshape(shape{width, 800, language, false})
			for _, selector := range []string{".gpu", ".tile", "tr.prompt"} {
				assert.Empty(t, read[[]string](p, fmt.Sprintf("%s(%q)", unsaid, selector)), "%d px, %s", width, language)
			}
			assert.Subset(t, read[[]string](p, `[...document.querySelectorAll('.tile .what')].map((e) => e.innerText.trim())`), words, "%d px, %s", width, language)
		}
		results := read[[]string](p, `[...document.querySelectorAll('tr.prompt .reason')].map((e) => e.innerText.trim())`)
		assert.Subset(t, results, map[string][]string{"en": {"succeeded", "failed · out of memory in DDColor_Colorize"}, "zh": {"成功", "失败 · DDColor_Colorize 显存不足"}}[language])
	}
}

// TestAClientThatDoesNotRespondIsNamedBelowItsServer: under the heading of its server, in front of
// the lines that the queue has room for, and whole.
func TestAClientThatDoesNotRespondIsNamedBelowItsServer(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.reshape(wide)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	for language, text := range map[string]string{"en": `^A client has not responded for \d+ s\.$`, "zh": `^一个客户端已 \d+ 秒没有响应。$`} {
		p.open(withLanguage(base, "/", language))
		assert.Equal(t, 1, read[int](p, `document.querySelectorAll('.socket').length`))
		assert.Regexp(t, text, read[string](p, `document.querySelector('.socket').innerText.replaceAll('\u00a0', ' ').trim()`))
		assert.Equal(t, "127.0.0.1:8189", read[string](p, `document.querySelector('.socket').closest('.server').querySelector('h3').firstChild.data`))
		assert.Less(t, read[float64](p, `document.querySelector('.socket').getBoundingClientRect().bottom - document.querySelector('.socket').closest('.server').getBoundingClientRect().top`), 90.0, "beside the heading")
		assert.True(t, read[bool](p, `[...document.querySelectorAll('.sockets')].every((e) => e.scrollHeight <= e.clientHeight && e.title.trim() === e.innerText.trim()) && document.querySelector('.socket').scrollWidth <= document.querySelector('.socket').clientWidth`))
		p.open(withLanguage(base, "/?queue=127.0.0.1:8189", language))
		assert.Regexp(t, text, read[string](p, `document.querySelector('.socket').innerText.replaceAll('\u00a0', ' ').trim()`))
	}
}
