// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
)

// slowestSentence begins what the page says of the slowest prompt of the fixture.
const slowestSentence = "Took 10.2 s, 4.0 times its usual 2.5 s: waited 6.1 s behind 4 prompts"

func (p *tab) sentence() string {
	p.t.Helper()
	p.wait(`document.querySelector('.detail .sentence') !== null && document.querySelector('.part-list') !== null`)
	return read[string](p, `document.querySelector('.detail .sentence').innerText.replaceAll('\u00a0', ' ')`)
}

func TestTheSlowestPromptsSentenceIsTwoClicksAway(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(base + "/?lang=en")
	require.NoError(t, chromedp.Do(p.ctx, chromedp.Click(`.last nav a`))) // one
	p.wait(`document.querySelector('.search tr.prompt a') !== null`)
	require.NoError(t, chromedp.Do(p.ctx, chromedp.Click(`.search tr.prompt a`))) // two
	assert.Contains(t, p.sentence(), slowestSentence)
	assert.Equal(t, "/prompts/"+slowestID, read[string](p, `location.pathname`))
	assert.Equal(t, "?lang=en", read[string](p, `location.search`), "the language stays")
	p.do(chromedp.NavigateBack())
	p.wait(`document.querySelector('.search') !== null`)
	p.open(base + "/prompts/" + slowestID + "?lang=en")
	assert.Contains(t, p.sentence(), slowestSentence, "the address can be sent to somebody")
	assert.Empty(t, p.noted())
}

// tabTo presses Tab until an element that matches is focused.
func (p *tab) tabTo(selector string) {
	p.t.Helper()
	for range 60 {
		p.do(chromedp.KeyEvent(kb.Tab))
		if read[bool](p, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
			outline := read[string](p, `getComputedStyle(document.activeElement).outlineStyle`)
			require.NotEqual(p.t, "none", outline, "one sees where the focus is")
			return
		}
	}
	require.Fail(p.t, "Tab does not get there", selector)
}

func TestTheKeyboardIsEnough(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(base + "/?lang=en")
	p.tabTo(`.skip`)
	p.tabTo(`.gpu a`)
	p.tabTo(`.last nav a[href*="slowest"]`)
	p.do(chromedp.KeyEvent(kb.Enter))
	p.wait(`document.querySelector('.search tr.prompt a') !== null && document.activeElement.matches('h1')`)
	p.tabTo(`tr.prompt a`)
	p.do(chromedp.KeyEvent(kb.Enter))
	assert.Contains(t, p.sentence(), slowestSentence)
}

func TestASearchFinds(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(base + "/?lang=en&view=prompts&outcome=failed")
	p.wait(`document.querySelectorAll('tr.prompt').length === 5 && document.querySelectorAll('tr.prompt .icon.broken').length === 5`)
	p.do(chromedp.SendKeys(`input[type=search]`, "e9b0003"))
	p.wait(`document.querySelectorAll('tr.prompt').length === 1 && location.search.includes('q=e9b0003')`)
	p.do(chromedp.SendKeys(`input[type=search]`, "x"))
	p.wait(`document.querySelector('.search .empty')?.innerText === 'No prompt matches.'`)
	p.open(base + "/?lang=en&view=prompts")
	p.wait(`document.querySelectorAll('.workflows button').length === 2`)
	assert.Equal(t, []string{"4.10 GiB", "152 J", "14.2 GiB", "12.3 kJ"}, read[[]string](p, `[...document.querySelectorAll('.workflows tbody tr')].flatMap((row) => [...row.querySelectorAll('td')].slice(-2).map((e) => e.innerText.replaceAll('\u00a0', ' ')))`), "peak memory and mean energy")
	p.do(chromedp.Click(`.workflows tr:last-child button`))
	p.wait(`location.search.includes('workflow=upscale') && [...document.querySelectorAll('tr.prompt .cover')].every((a) => a.innerText.startsWith('upscale'))`)
}

// TestAChangeIsOnThePageWithinASecond uses the default settings.
func TestAChangeIsOnThePageWithinASecond(t *testing.T) {
	chromium := startChromium(t)
	s := sceneOf("1")
	s.isLive = true
	live := page.New(newFixture(t, s), page.Settings{})
	server := httptest.NewServer(live)
	t.Cleanup(func() { live.Close(); server.CloseClientConnections(); server.Close() })
	p := openTab(t, chromium)
	p.open(server.URL)
	p.wait(`window.used = document.querySelector('.gpu .used').innerText, true`)
	// Each look at the source gives other figures: the shortest time of two changes, since this
	// machine may be busy.
	duration := read[float64](p, `new Promise((done) => {
		const times = [];
		const watch = new MutationObserver(() => {
			times.push(performance.now());
			if (times.length < 8) return;
			watch.disconnect();
			done(Math.min(...times.slice(2).map((time, i) => time - times[i])));
		});
		watch.observe(document.querySelector('.gpu .used'), {subtree: true, characterData: true, childList: true});
	})`)
	assert.Less(t, duration, 2000.0, "milliseconds for two changes")
	assert.Greater(t, duration, 100.0, "two changes are two looks")
}

func TestALostConnectionIsShownAndARestartIsFoundAgain(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	listen := func(address string) (*page.Page, *http.Server, string) {
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		live := newPage(newFixture(t, sceneOf("1")))
		server := &http.Server{Handler: live, ReadHeaderTimeout: time.Second}
		go func() { _ = server.Serve(listener) }()
		return live, server, listener.Addr().String()
	}
	live, server, address := listen("127.0.0.1:0")
	p := openTab(t, chromium)
	p.open("http://" + address + "/?lang=en")
	p.wait(`document.querySelector('.band.lost') === null`)
	require.Eventually(t, func() bool { return live.Counts().Viewers == 1 }, patience, 5*time.Millisecond)
	live.Close()
	require.NoError(t, server.Close())
	p.wait(`document.querySelector('.band.lost')?.innerText.includes('Connection to the collector lost for')`)
	assert.Equal(t, "faded", read[string](p, `document.querySelector('main').className`))
	p.wait(`document.querySelector('.verdict.warning .text')?.innerText.startsWith('Last known: ')`)
	age := `document.querySelector('.open.waiting .figure').innerText`
	p.wait(`window.before = ` + age + `, /lost for ([2-9]|\d\d)/.test(document.querySelector('.band.lost').innerText)`)
	p.wait(`/lost for ([4-9]|\d\d)/.test(document.querySelector('.band.lost').innerText)`)
	assert.True(t, read[bool](p, age+` === window.before`), "ages are those of the last state")
	live, server, _ = listen(address)
	t.Cleanup(func() { live.Close(); _ = server.Close() })
	p.wait(`document.querySelector('.band.lost') === null`)
	assert.Equal(t, 1, live.Counts().Viewers)
	p.wait(`document.querySelector('.verdict:not(.faded) .text')?.innerText.startsWith('Last known') === false`)
}

// TestACollectorThatHangsIsNoticed has a tab be hidden and seen again while the collector accepts
// connections and does not answer.
func TestACollectorThatHangsIsNoticed(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	live := newPage(newFixture(t, sceneOf("1")))
	var hangs atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hangs.Load() {
			<-r.Context().Done()
			return
		}
		live.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { live.Close(); server.CloseClientConnections(); server.Close() })
	p := openTab(t, chromium)
	p.open(server.URL + "/?lang=en")
	require.Eventually(t, func() bool { return live.Counts().Viewers == 1 }, patience, 5*time.Millisecond)
	p.setHidden(true)
	require.Eventually(t, func() bool { return live.Counts().Viewers == 0 }, patience, 5*time.Millisecond)
	hangs.Store(true)
	p.setHidden(false)
	p.wait(`document.querySelector('.band.lost')?.innerText.includes('Connection to the collector lost for')`)
	hangs.Store(false)
	p.wait(`document.querySelector('.band.lost') === null`)
}

func TestEightTabsWork(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("1")
	s.isLive = true
	live := newPage(newFixture(t, s))
	server := httptest.NewServer(live)
	t.Cleanup(func() { live.Close(); server.CloseClientConnections(); server.Close() })
	tabs := make([]*tab, 8)
	for i := range tabs {
		tabs[i] = openTab(t, chromium)
		// A tab in the background is hidden; those of a browser without windows say that they are seen.
		if i > 0 {
			tabs[i-1].setHidden(true)
		}
		tabs[i].open(server.URL)
	}
	for _, p := range tabs {
		tabs[len(tabs)-1].setHidden(true)
		p.setHidden(false)
		p.wait(`window.before = document.querySelector('.gpu .used').innerText, true`)
		p.wait(`document.querySelector('.gpu .used').innerText !== window.before`)
		p.setHidden(true)
	}
	require.Eventually(t, func() bool { return live.Counts().Viewers == 0 }, patience, 5*time.Millisecond, "a hidden tab has no stream")
}

// setHidden makes a tab say that it is hidden or seen.
func (p *tab) setHidden(isHidden bool) {
	p.t.Helper()
	read[bool](p, fmt.Sprintf(`(() => {
		Object.defineProperty(document, 'hidden', {configurable: true, get: () => %v});
		document.dispatchEvent(new Event('visibilitychange'));
		return true;
	})()`, isHidden))
}

func TestWithoutScriptsThePageHasTheVerdictAndTheGPUs(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	p := openTab(t, chromium)
	p.runScripts(false)
	p.visit(base + "/?lang=en")
	text, err := chromedp.Run(p.ctx, chromedp.Text("body"))
	require.NoError(t, err)
	for _, part := range []string{"gpu1 ran out of memory", "lower the size to 1024 px.", "gpu7", "47.3 GiB / 48.0 GiB", "99 %"} {
		assert.Contains(t, text, part)
	}
	p.runScripts(true) // the page's did not run
	aligned := read[[]string](p, `[...document.querySelectorAll('.plain td.figure')].map((e) => getComputedStyle(e).textAlign)`)
	assert.Len(t, aligned, 32, "four figures of eight GPUs")
	assert.Equal(t, []string{"right"}, slices.Compact(aligned))
}

func TestARushIsOneClick(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	f := newFixture(t, sceneOf("rush"))
	p := openTab(t, chromium)
	p.open(serveFixture(t, f) + "/?lang=en")
	assert.Contains(t, read[string](p, `document.querySelector('.simulated').innerText`), "Simulated GPUs")
	p.do(chromedp.Click(`.tools button`))
	p.wait(`document.querySelector('.tools button').innerText === 'Rush has started'`)
	assert.EqualValues(t, 1, f.rushes.Load())
	p.open(serveFixture(t, newFixture(t, sceneOf("8"))) + "/?lang=en")
	assert.True(t, read[bool](p, `document.querySelector('.tools button') === null && document.querySelector('.simulated') === null`), "the GPUs are real")
}

func TestAnIDIsCopiedAndTheTraceIsOneClickAway(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	p := openTab(t, chromium)
	p.open(base + "/prompts/" + slowestID + "?lang=en")
	p.sentence()
	p.reshape(wide)
	read[bool](p, `(document.querySelector(".copy").click(), true)`)
	p.wait(`document.querySelector('.copy').innerText === 'Copied'`)
	links := read[[]string](p, `[...document.querySelectorAll('.links a')].map((a) => a.getAttribute('href'))`)
	require.Len(t, links, 3)
	assert.True(t, strings.HasPrefix(links[0], "http://127.0.0.1:16686/trace/"))
	assert.Equal(t, "/v1/prompts/"+slowestID+"/trace", links[2])
	p.do(chromedp.Click(`.links a[data-native]`))
	p.wait(`document.body.innerText.includes('resourceSpans')`)
}

func TestAPromptsPageFollowsItToItsEnd(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	f := newFixture(t, sceneOf("1"))
	p := openTab(t, chromium)
	p.open(serveFixture(t, f) + "/?lang=en")
	read[bool](p, `(document.querySelector('.open a').click(), true)`)
	p.wait(`document.querySelector('.detail .sentence')?.innerText === 'running, node 4 of 6'`)
	f.endFirst()
	p.wait(`document.querySelector('.part-list') !== null && document.querySelector('.detail .sentence').innerText.includes('Nothing was unusual')`)
	assert.Empty(t, p.noted())
}

func TestConditionsThatDifferOnlyInTheirDetailAreEachListed(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("links")))
	p.open(base + "/?lang=en")
	assert.Contains(t, read[string](p, `document.querySelector('.verdict .text').innerText`), "NVLink 0 of gpu0 went down.")
	assert.Equal(t, "+2 more", read[string](p, `document.querySelector('.verdict .chip').innerText`))
	links := []string{"NVLink 1 of gpu0 went down.", "NVLink 2 of gpu0 went down."}
	assert.Equal(t, links, read[[]string](p, `[...document.querySelectorAll('[aria-labelledby=conditions] li b')].map((e) => e.innerText)`))
	p.open(base + "/?lang=en&gpu=gpu0")
	assert.Equal(t, links, read[[]string](p, `[...document.querySelectorAll('.detail .note b')].map((e) => e.innerText)`))
}

func TestAProcessWithoutANameIsListedByItsPID(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	base := serveFixture(t, newFixture(t, sceneOf("odd")))
	p.open(base + "/?lang=en")
	assert.Contains(t, read[[]string](p, `[...document.querySelectorAll('.gpu .holds span')].map((e) => e.innerText.replaceAll('\u00a0', ' '))`), "PID 2 2.00 GiB")
	p.open(base + "/?lang=en&gpu=gpu15")
	assert.Contains(t, read[[]string](p, `[...document.querySelectorAll('.processes th[scope=row]')].map((e) => e.innerText)`), "PID 2")
}

func TestTheFirstScreenHasTheWholeReasonOfAnOutOfMemory(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(serveFixture(t, newFixture(t, sceneOf("8"))) + "/?lang=en")
	assert.Contains(t, read[[]string](p, `[...document.querySelectorAll('.last td.reason')].map((e) => e.innerText)`), " failed · out of memory in DDColor_Colorize")
	heights := read[[]float64](p, `[...document.querySelectorAll('.last tr.prompt')].map((e) => Math.round(e.getBoundingClientRect().height))`)
	for _, height := range heights {
		assert.InDelta(t, heights[0], height, 1, "on a single line")
	}
}

func TestTheTabsTitleHasTheVerdict(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("1"))) + "/?lang=en")
	p.wait(`document.title === 'gpu-node-07 · GPUs and prompts'`)
	p.open(serveFixture(t, newFixture(t, sceneOf("8"))) + "/?lang=en")
	p.wait(`document.title === '✕ gpu-node-07 · GPUs and prompts'`)
}

// TestThePartsAndTheWaterfallAreDrawnToScale measures bars on the screen.
func TestThePartsAndTheWaterfallAreDrawnToScale(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("8")))
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(base + "/prompts/" + slowestID + "?lang=en")
	p.sentence()
	shares := read[[]float64](p, `(() => { const bar = document.querySelector('.bar.parts').getBoundingClientRect(); return [...document.querySelectorAll('.bar.parts .fill')].map((e) => e.getBoundingClientRect().width / bar.width); })()`)
	require.Len(t, shares, 5)
	for i, want := range []float64{6.1 / 10.2, 2.1 / 10.2, 0.6 / 10.2, 0.4 / 10.2, 1.0 / 10.2} {
		assert.InDelta(t, want, shares[i], 0.005)
	}
	// The execution begins where the queue ends, and the lanes have the same axis.
	ends := read[[]float64](p, `(() => { const box = (s) => document.querySelector(s).getBoundingClientRect(); const track = box('.axis .track'); return [box('.span.queue').right, box('.span.execution').left, track.left + track.width * 6.1 / 10.2, box('svg.track').left - track.left, box('svg.track').width - track.width]; })()`)
	assert.InDelta(t, ends[0], ends[1], 1)
	assert.InDelta(t, ends[2], ends[1], 1)
	assert.InDelta(t, 0, ends[3], 0.5)
	assert.InDelta(t, 0, ends[4], 0.5)
	assert.Contains(t, read[string](p, `document.querySelector('.waterfall > .lane').innerText`), "gpu1 memory", "a GPU has its name")
}

func TestAnEventNamesItsGPUAndThePromptThatRan(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(t, sceneOf("lost"))) + "/?lang=en")
	text := read[string](p, `[...document.querySelectorAll('[aria-labelledby=events] li')].find((e) => e.innerText.includes('XID')).innerText`)
	assert.Regexp(t, `gpu1 XID 79: GPU has fallen off the bus\s+Drain the host and reboot it`, text)
	read[bool](p, `(document.querySelector('[aria-labelledby=events] li a').click(), true)`)
	assert.Contains(t, p.sentence(), "waited 6.1 s behind 4 prompts")
}

func TestAListDoesNotChangeWhileOnePointsAtIt(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("1")
	s.isLive = true
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(serveFixture(t, newFixture(t, s)) + "/?lang=en")
	first := `document.querySelector('tr.prompt a').getAttribute('href')`
	p.wait(`window.before = ` + first + `, true`)
	p.wait(first + ` !== window.before`)
	read[bool](p, `(document.querySelector('tr.prompt a').focus(), true)`)
	p.wait(`document.querySelector('.last [role=status]') !== null`)
	assert.True(t, read[bool](p, `document.activeElement.matches('tr.prompt a')`))
	read[bool](p, `(document.activeElement.blur(), true)`)
	p.wait(`document.querySelector('.last [role=status]') === null`)
}
