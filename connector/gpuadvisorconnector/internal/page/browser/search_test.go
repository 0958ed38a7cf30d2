// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
)

// pointAt moves the pointer to the middle of an element.
func (p *tab) pointAt(selector string) {
	p.t.Helper()
	at := read[[]float64](p, fmt.Sprintf(`(() => { const b = document.querySelector(%q).getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()`, selector))
	p.do(chromedp.MouseEvent(chromedp.MouseMoved, at[0], at[1]))
	p.wait(fmt.Sprintf(`document.querySelector(%q).matches(':hover')`, selector))
}

// TestASearchShowsWhatWasAskedFor although the pointer is over its list, which holds still then: rows of
// the query before would pass for the answer.
func TestASearchShowsWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	p := openTab(t, chromium)
	p.reshape(wide)
	rows := `[...document.querySelectorAll('tr.prompt')]`
	p.open(base + "/?lang=en&view=prompts")
	p.wait(rows + `.length > 20`)
	p.pointAt(`tr.prompt:nth-child(2)`)
	p.do(chromedp.SendKeys(`input[type=search]`, "e9b0003"))
	p.wait(`document.querySelector('.search [role=status]').innerText.startsWith('1 of ') && ` + rows + `.map((e) => e.querySelector('a').getAttribute('href').slice(-12)).join() === '0003?lang=en'`)
	p.do(chromedp.SendKeys(`input[type=search]`, "x"))
	p.wait(`document.querySelector('.search .empty')?.innerText === 'No prompt matches.'`)
	read[bool](p, `(() => { const e = document.querySelector('input[type=search]'); e.value = ''; return e.dispatchEvent(new Event('input')); })()`)
	p.wait(rows + `.length > 20`)

	p.pointAt(`tr.prompt:nth-child(2)`)
	for kind, condition := range map[string]string{
		"failed": `every((e) => e.querySelector('.icon.broken'))`, "success": `every((e) => !e.querySelector('.icon.broken'))`,
	} {
		read[bool](p, fmt.Sprintf(`(() => { const e = document.querySelector('select'); e.value = %q; return e.dispatchEvent(new Event('change')); })()`, kind))
		p.wait(`document.querySelector('tr.prompt') !== null && ` + rows + "." + condition)
	}
	assert.Empty(t, p.noted())
}

// TestAListSaysWhatItLeavesOut in its last line: prompts beyond a hundred, workflows beyond fifty.
func TestAListSaysWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("1")
	s.prompts = 0
	f := newFixture(t, s)
	for i := range 130 {
		one := f.usualPrompt(i)
		one.Received, one.Root["comfyui.workflow.id"] = f.begun.Add(-time.Duration(i+10)*time.Second), fmt.Sprint("workflow-", i%57)
		f.Traces(one.Traces())
	}
	base := serveFixture(t, f)
	p := openTab(t, chromium)
	p.reshape(wide)
	after := `document.querySelector('%s').closest('div, section').parentElement.innerText`
	for language, want := range map[string][]string{
		"en": {"The newest 100 are listed.", "The slowest 100 are listed.", "7 more workflows are not shown"},
		"zh": {"仅列出最新的 100 个。", "仅列出最慢的 100 个。", "另有 7 个工作流未显示"},
	} {
		for i, sort := range []string{"newest", "slowest"} {
			p.open(withLanguage(base, "/?view=prompts&sort="+sort, language))
			p.wait(`document.querySelectorAll('tr.prompt').length === 100 && document.querySelectorAll('.workflows tbody tr').length === 50`)
			shown := read[string](p, fmt.Sprintf(after, "table.prompts"))
			assert.Contains(t, shown, want[i])
			assert.Contains(t, shown, want[2])
			p.check(sort+" in "+language, "")
		}
		p.open(withLanguage(base, "/?view=prompts&q=9b0007", language))
		p.wait(`document.querySelectorAll('tr.prompt').length === 1`)
		shown := read[string](p, fmt.Sprintf(after, "table.prompts"))
		for _, text := range want {
			assert.NotContains(t, shown, text, "all are listed")
		}
	}
}

// TestAFailureHasItsWordOnce whichever end of the reason has it.
func TestAFailureHasItsWordOnce(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("1")))
	p := openTab(t, chromium)
	for language, want := range map[string]string{"en": "failed in DDColor_Colorize", "zh": "DDColor_Colorize 失败"} {
		p.open(withLanguage(base, "/?view=prompts&q=e9b0003", language))
		p.wait(`document.querySelectorAll('tr.prompt').length === 1`)
		assert.Equal(t, want, read[string](p, `document.querySelector('tr.prompt .reason').innerText.trim()`))
	}
}

// TestAUsualTimeIsOfWhatRan on a known GPU; what never ran has none.
func TestAUsualTimeIsOfWhatRan(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	f := newFixture(t, sceneOf("refused"))
	nowhere := f.usualPrompt(0)
	nowhere.ID, nowhere.Received = "nowhere", f.begun.Add(-4*time.Second)
	delete(nowhere.Execution, "hw.id")
	f.Traces(nowhere.Traces())
	base := serveFixture(t, f)
	p := openTab(t, chromium)
	p.open(base + "/prompts/refused-1?lang=en")
	p.sentence()
	assert.NotContains(t, p.figures(), "Usually")
	p.open(base + "/prompts/nowhere?lang=en")
	assert.Contains(t, p.sentence(), "It is not known which GPU it used, so there is nothing to compare with.")
	assert.Equal(t, "unknown which GPU it used", p.figures()["Usually"])
}
