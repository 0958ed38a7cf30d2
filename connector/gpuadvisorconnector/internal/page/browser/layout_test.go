// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// axe is the text of axe-core, which is installed if it is not there.
func axe(t *testing.T) string {
	t.Helper()
	root, err := figure.Root()
	require.NoError(t, err)
	out, err := exec.Command(filepath.Join(root, "scripts", "npm.sh"), "tools/pagenpm").Output()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "node_modules", "axe-core", "axe.min.js"))
	require.NoError(t, err)
	return string(text)
}

// bringAxe gives each document that the tab opens a function that loads axe: half a megabyte of script
// for each check would keep the browser busier than the check.
func (p *tab) bringAxe(axeText string) {
	p.t.Helper()
	p.do(func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: "window.loadAxe = () => {" + axeText + "\n};"})
		return chromedp.Void{}, err
	})
	p.hasAxe = true
}

const (
	// maxShift is how far the layout may move in a minute while figures change.
	maxShift = 0.02
	// aTenth is how often figures change in a tenth of a minute.
	aTenth = 12
)

// check holds the page, as it is, against everything that holds in every state.
func (p *tab) check(what, axeText string) {
	p.t.Helper()
	assert.Empty(p.t, read[[]string](p, findProblems), what)
	switch {
	case axeText == "":
	case p.hasAxe:
		assert.Empty(p.t, read[[]string](p, "window.loadAxe(); "+findViolations), what)
	default:
		assert.Empty(p.t, read[[]string](p, axeText+";"+findViolations), what)
	}
	assert.Empty(p.t, p.noted(), what)
}

// TestThePageIsReadableInEveryShape opens the first screen with 1, 8 and 64 GPUs, whose
// figures change, in each width, language and theme.
func TestThePageIsReadableInEveryShape(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	axeText := axe(t)
	var states atomic.Int64
	narrowed := inEachWidth()
	still := &cast{t: t, pages: map[string]*page.Page{}}
	t.Run("shapes", func(t *testing.T) {
		// Three tabs at once: more would keep two cores busy with the seconds that they count.
		t.Run("of GPUs", func(t *testing.T) {
			t.Parallel()
			for _, gpus := range []int{1, 8, 64} {
				t.Run(fmt.Sprint(gpus, " GPUs"), func(t *testing.T) {
					s := sceneOf(fmt.Sprint(gpus))
					s.isLive, s.simulated = true, true
					f := newFixture(t, s)
					f.isPaused.Store(true) // but for a tenth of a minute in each width and language
					base := serveFixture(t, f)
					p := openTab(t, chromium)
					p.bringAxe(axeText)
					for _, width := range []int64{360, 768, 1280} {
						for _, language := range []string{"en", "zh"} {
							light, dark := shape{width, 800, language, false}, shape{width, 800, language, true}
							text := ""
							if width == 1280 || gpus == 8 {
								text = axeText // what it looks for does not depend on the number of GPUs
							}
							p.reshape(light)
							p.open(withLanguage(base, "/", language))
							require.True(t, read[bool](p, watchShifts))
							p.check(light.String(), text)
							assert.GreaterOrEqual(t, read[int](p, "document.querySelectorAll('.gpu, .tile').length"), gpus)
							changes := f.changeFor(t, aTenth)
							p.reshape(dark)
							p.check(dark.String(), text)
							assert.LessOrEqual(t, read[float64](p, "window.shift"), maxShift/10*float64(changes)/aTenth, "in %v changes, %s: the layout moves: %v", changes, dark, read[[]string](p, "window.shifts"))
							states.Add(2)
						}
					}
				})
			}
		})
		for _, language := range []string{"en", "zh"} {
			t.Run("states in "+language, func(t *testing.T) {
				t.Parallel()
				p, on := openTab(t, chromium), newStage(t)
				p.bringAxe(axeText)
				for _, s := range shots {
					s.shape.language = language
					shown := p.state(s, axeText, on, still)
					states.Add(1)
					if !narrowed[s.name] {
						continue
					}
					for _, width := range []int64{360, 768, 1280} {
						if width != s.shape.width {
							shown.narrowed(s, width)
							states.Add(1)
						}
					}
				}
			})
		}
	})
	// 1, 8 and 64 GPUs in three widths, two languages and two themes; each screenshot in both languages.
	want := 3*3*2*2 + 2*len(shots)
	want += 2 * 2 * len(narrowed) // those in the two other widths, dark where the screenshot is light
	figure.AtLeast("page.states", float64(states.Load()), "states", float64(want))
	assert.EqualValues(t, want, states.Load())
}

// changeFor lets the figures of a scene change until the page has seen a number of changes, and returns
// how many there were: more on a busy machine.
func (f *fixture) changeFor(t *testing.T, changes int64) int64 {
	t.Helper()
	before := f.turns.Load()
	f.isPaused.Store(false)
	require.Eventually(t, func() bool { return f.turns.Load() >= before+changes }, patience, 5*time.Millisecond)
	f.isPaused.Store(true)
	return f.turns.Load() - before
}

// inEachWidth are the names of the screenshots whose view is checked in each width: one of each view,
// but for the first screen with 1, 8 and 64 GPUs, which is anyway, and for what is not there for long.
func inEachWidth() map[string]bool {
	type view struct {
		scene, path, token string
		isPlain            bool
	}
	names, seen := map[string]bool{}, map[view]bool{{scene: "1"}: true, {scene: "8"}: true, {scene: "64"}: true}
	for _, s := range shots {
		if v := (view{s.scene, s.path, s.token, s.isPlain}); !s.isLost && !seen[v] {
			seen[v], names[s.name] = true, true
		}
	}
	return names
}

// narrowed checks what a screenshot shows in another width and in the other theme. Charts follow the
// width when the browser gets to it.
func (p *tab) narrowed(s shot, width int64) {
	p.t.Helper()
	as := shape{width, 800, s.shape.language, !s.shape.isDark}
	p.reshape(as)
	var problems []string
	assert.Eventually(p.t, func() bool {
		problems = read[[]string](p, findProblems)
		return len(problems) == 0
	}, patience, 20*time.Millisecond, "%s as %s", s.name, as)
	assert.Empty(p.t, problems, "%s as %s", s.name, as)
	assert.Empty(p.t, p.noted(), "%s as %s", s.name, as)
}

// state checks what a screenshot shows, on a stage where that can be, and returns the tab that shows it.
func (p *tab) state(s shot, axeText string, on *stage, still *cast) (shown *tab) {
	p.t.Helper()
	what := s.name + " in " + s.shape.language
	switch {
	case s.isLost: // in a tab of its own: the browser logs, soon or later, that nobody answers
		lost := openTab(p.t, p.ctx)
		lost.show(s)
		lost.wait(`document.querySelector('main.faded') !== null`)
		assert.Empty(p.t, read[[]string](lost, findProblems), what)
		return lost
	case s.isPlain:
		plain := openTab(p.t, p.ctx)
		plain.show(s)
		plain.runScripts(true) // those of axe; the page's did not run
		assert.False(p.t, read[bool](plain, `document.querySelector('#app').hasChildNodes()`), what)
		plain.check(what, axeText)
		return plain
	case s.token != "":
		p.show(s)
		if s.token == "wrong" {
			_ = p.noted() // the browser logs the 401
		}
		p.check(what, axeText)
	default:
		p.reshape(s.shape)
		on.change(p, still.of(s.scene), withLanguage("", s.path, s.shape.language))
		p.await(s.ready)
		p.check(what, axeText)
	}
	return p
}

// isInWindow lists the elements of a selector that do not lie within the window, and
// whether there are any.
const isInWindow = `((selector, least) => {
	const all = [...document.querySelectorAll(selector)];
	const bad = all.slice(0, least).filter((e) => { const b = e.getBoundingClientRect(); return b.bottom > innerHeight || b.top < 0 || b.right > innerWidth || b.height === 0; });
	return all.length < least ? ['only ' + all.length + ' of ' + selector] : bad.map((e) => selector + ' ' + e.getBoundingClientRect().bottom + ' ' + e.innerText);
})`

func TestTheFirstScreenAnswersThreeQuestions(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	for _, gpus := range []int{1, 8} {
		for _, language := range []string{"en", "zh"} {
			s := sceneOf(fmt.Sprint(gpus))
			s.trouble, s.simulated = fullGPU, true // the band takes room, too
			base := serveFixture(t, newFixture(t, s))
			p.reshape(shape{1280, 800, language, false})
			p.open(withLanguage(base, "/", language))
			seen := func(selector string, least int) {
				assert.Empty(t, read[[]string](p, fmt.Sprintf("%s(%q, %d)", isInWindow, selector, least)), "%d GPUs, %s", gpus, language)
			}
			seen(".verdict .text", 1) // is something broken,
			seen(".verdict .remedy", 1)
			seen(".gpu.broken .what", 1) // which GPU is full,
			seen(".gpu .holds", gpus)    // and with what,
			seen(".gpu .bar", gpus)
			seen("tr.prompt .reason", 2) // why is this image slow
			seen(".last nav a", 4)
			assert.Contains(t, read[string](p, `document.querySelector('.gpu.broken .holds').innerText`), "trainer (finetune-7f9c)")
		}
	}
}

// TestNothingMovesWhileFiguresChange has as many changes as half a minute has: figures of
// eight GPUs, prompts that wait and run, and one that ends with each fourth look.
func TestNothingMovesWhileFiguresChange(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("8")
	s.isLive = true
	f := newFixture(t, s)
	base := serveFixture(t, f)
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(base + "/?lang=en")
	require.True(t, read[bool](p, watchShifts))
	before := f.reads.Load()
	require.Eventually(t, func() bool { return f.reads.Load() >= before+60 }, patience, 5e6)
	assert.LessOrEqual(t, read[float64](p, "window.shift"), maxShift/2, "the layout moves: %v", read[[]string](p, "window.shifts"))
}

// TestNothingMovesOnAGPUsPage while prompts start and end on it, and it becomes busy. The condition that it
// is busy is above.
func TestNothingMovesOnAGPUsPage(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("8")
	s.isLive = true
	f := newFixture(t, s)
	base := serveFixture(t, f)
	p := openTab(t, chromium)
	for _, width := range []int64{360, 768} { // the history is below
		p.reshape(shape{width, 800, "en", false})
		p.open(base + "/?lang=en&gpu=gpu3")
		p.wait(`document.querySelector('.chart canvas') !== null`)
		tops := read[[]float64](p, `new Promise((done) => {
			const tops = [], seen = new Set();
			const watch = new MutationObserver(() => {
				tops.push(document.querySelector('#history').getBoundingClientRect().top - document.querySelector('#now').getBoundingClientRect().top);
				seen.add(document.querySelectorAll('.doing p').length);
				if (!seen.has(0) || !seen.has(2)) return;
				watch.disconnect();
				done([Math.min(...tops), Math.max(...tops)]);
			});
			watch.observe(document.querySelector('main'), {subtree: true, characterData: true, childList: true});
		})`)
		assert.InDelta(t, tops[0], tops[1], 0.5, "%d px", width)
	}
}

// TestEachPromptIsOneLine whatever its figures and its name are: a row that is higher than the one
// whose place it takes moves those below it.
func TestEachPromptIsOneLine(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.reshape(wide)
	for _, name := range []string{"1", "rush", "8", "odd"} { // 1, 2, 8 and 3 GPUs
		base := serveFixture(t, newFixture(t, sceneOf(name)))
		for _, language := range []string{"en", "zh"} {
			p.open(withLanguage(base, "/", language))
			heights := read[[]float64](p, `[...document.querySelectorAll('.last tr.prompt')].map((e) => Math.round(e.getBoundingClientRect().height))`)
			assert.GreaterOrEqual(t, len(heights), 5, "%s in %s", name, language)
			for i, height := range heights {
				assert.InDelta(t, 27, height, 1, "row %d of %s in %s: %s", i, name, language, read[string](p, fmt.Sprintf(`document.querySelectorAll('.last tr.prompt')[%d].innerText`, i)))
			}
			assert.Empty(t, read[[]string](p, findProblems), "%s in %s", name, language)
		}
	}
}
