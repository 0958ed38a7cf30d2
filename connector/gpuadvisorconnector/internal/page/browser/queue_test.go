// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

// longQueue is a server with a prompt that runs and sixty that wait.
func longQueue() scene {
	s := sceneOf("1")
	s.waiting = 60
	return s
}

// openLongQueue opens the first screen with it.
func openLongQueue(t *testing.T) (base string, p *tab) {
	t.Helper()
	chromium := startChromium(t)
	base = serveFixture(t, newFixture(t, longQueue()))
	p = openTab(t, chromium)
	p.reshape(wide)
	p.open(base + "/?lang=en")
	return base, p
}

// figures are what the page of a prompt says, by name.
func (p *tab) figures() map[string]string {
	p.t.Helper()
	return read[map[string]string](p, `Object.fromEntries([...document.querySelectorAll('.figures div')].map((e) => [e.querySelector('dt').innerText, e.querySelector('dd').innerText.replaceAll('\u00a0', ' ')]))`)
}

// TestEachPromptThatWaitsIsTwoClicksAway also those that the first screen has no line for.
func TestEachPromptThatWaitsIsTwoClicksAway(t *testing.T) {
	t.Parallel()
	base, p := openLongQueue(t)
	p.wait(`document.querySelectorAll('.all-queues .open').length === 5`)
	assert.Equal(t, "and 56 more", read[string](p, `document.querySelector('.all-queues .rest').innerText`))
	p.do(chromedp.Click(`.all-queues .rest`)) // one
	p.wait(`document.querySelectorAll('.whole .open').length === 61`)
	assert.Equal(t, "?queue=127.0.0.1%3A8188&lang=en", read[string](p, `location.search`), "an address of its own")
	assert.Equal(t, "Queue of 127.0.0.1:8188 gpu0", read[string](p, `document.querySelector('h1').innerText`))
	read[bool](p, fmt.Sprintf(`(document.querySelector('.whole a[href*=%q]').click(), true)`, openID("8188", 57))) // two
	p.wait(`document.querySelector('.detail .sentence')?.innerText === '57 prompts ahead'`)
	assert.Contains(t, p.figures(), "Likely start")
	for _, width := range []int64{360, 1280} {
		for _, language := range []string{"en", "zh"} {
			p.reshape(shape{width, 800, language, width == 360})
			for _, path := range []string{"/?queue=127.0.0.1:8188", "/prompts/" + openID("8188", 57)} {
				p.open(withLanguage(base, path, language))
				p.wait(`document.querySelectorAll('.whole .open').length === 61 || document.querySelector('.figures') !== null`)
				p.check(path, "")
			}
		}
	}
	p.open(base + "/?lang=en&queue=elsewhere")
	p.wait(`document.querySelector('.detail .sentence')?.innerText === 'This ComfyUI server is not known.'`)
	assert.Empty(t, p.noted())
}

// TestAWaitingPromptsPageSaysWhenItStarts for one that the first screen has, by a click.
func TestAWaitingPromptsPageSaysWhenItStarts(t *testing.T) {
	t.Parallel()
	base, p := openLongQueue(t)
	read[bool](p, `(document.querySelectorAll('.open.waiting a')[3].click(), true)`)
	p.wait(`document.querySelector('.detail .sentence')?.innerText === '4 prompts ahead'`)
	shown := p.figures()
	assert.Regexp(t, `^in about \d+ s · \d\d:\d\d:\d\d$`, shown["Likely start"])
	assert.Regexp(t, `20\d\d`, read[string](p, `document.querySelector('.figures [title]').title`), "with its date")
	assert.Regexp(t, `^\d+ s$`, shown["Waiting for"])
	assert.Equal(t, 1, strings.Count(read[string](p, `document.querySelector('main').innerText`), "ahead"), "the place is there once")
	before := shown["Waiting for"]
	p.wait(fmt.Sprintf(`document.querySelector('.figures dd').innerText.replaceAll('\u00a0', ' ') !== %q`, before))
	p.open(base + "/prompts/" + openID("8188", 0) + "?lang=en")
	p.wait(`document.querySelector('.detail .sentence')?.innerText === 'running, node 4 of 6'`)
	assert.Contains(t, p.figures(), "Running for")
	assert.NotContains(t, p.figures(), "Likely start")
	assert.Empty(t, p.noted())
}

// TestTheFiftyFifthInTheQueueHasAPageOfItsOwn by its address: the state has the first fifty.
func TestTheFiftyFifthInTheQueueHasAPageOfItsOwn(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	f := newFixture(t, longQueue())
	base := serveFixture(t, f)
	p := openTab(t, chromium)
	id := openID("8188", 54)
	p.open(base + "/prompts/" + id + "?lang=en")
	p.wait(`document.querySelector('.detail .sentence')?.innerText === '54 prompts ahead'`)
	assert.Regexp(t, `^in about \d+ (s|min) · \d\d:\d\d:\d\d$`, p.figures()["Likely start"])
	assert.Equal(t, "127.0.0.1:8188", p.figures()["ComfyUI server"])
	// It ends, and its trace comes.
	ended := f.usualPrompt(0)
	ended.ID, ended.Received = id, time.Now().UTC().Add(-3*time.Second)
	f.Traces(ended.Traces())
	p.wait(`document.querySelector('.part-list') !== null`)
	assert.Empty(t, p.noted())
}

// TestAPromptIsFoundByItsExactID although its id is a part of a thousand newer ones, and although it
// is as long as ids are kept.
func TestAPromptIsFoundByItsExactID(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("1")
	s.prompts = 0
	f := newFixture(t, s)
	long := strings.Repeat("1a", 128)
	for i, id := range append([]string{"1", long}, make([]string, 600)...) {
		if id == "" {
			id = fmt.Sprintf("1-%d", i)
		}
		f.Traces(sampletrace.Prompt{ID: id, Server: f.server(0), Received: f.begun.Add(-time.Hour), Ran: time.Second}.Traces())
	}
	base := serveFixture(t, f)
	p := openTab(t, chromium)
	for _, id := range []string{"1", long} {
		p.open(base + "/prompts/" + id + "?lang=en")
		p.wait(`document.querySelector('.part-list') !== null || document.querySelector('.detail .sentence')?.innerText.startsWith('This prompt is not known')`)
		assert.NotContains(t, read[string](p, `document.querySelector('.detail .sentence').innerText`), "This prompt is not known", id)
		assert.Equal(t, id, read[string](p, `document.querySelector('.detail .id code')?.innerText ?? ''`))
	}
	assert.Empty(t, p.noted())
}

// TestARefusalIsNotAFault: the sign asks to look at it, its word and reason are in the catalogue.
func TestARefusalIsNotAFault(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	base := serveFixture(t, newFixture(t, sceneOf("refused")))
	p := openTab(t, chromium)
	p.reshape(wide)
	for language, want := range map[string][]string{"en": {"refused: too late", "Refused after 0.01 s: its image", "Send it again when less waits"}, "zh": {"被拒绝：会超时", "提交 0.01 秒后被拒绝", "请等排队变短后重试"}} {
		p.open(withLanguage(base, "/", language))
		row := `document.querySelector('tr.prompt')`
		assert.Equal(t, want[0], read[string](p, row+`.querySelector('.reason:has(.icon.warning)').innerText.trim()`))
		p.open(withLanguage(base, "/prompts/refused-1", language))
		sentence := p.sentence()
		assert.Contains(t, sentence, want[1])
		assert.Contains(t, read[string](p, `document.querySelector('.detail .remedy').innerText`), want[2])
		assert.True(t, read[bool](p, `document.querySelector('.sentence .icon.warning') !== null`))
		assert.True(t, read[bool](p, `document.querySelector('.detail .note') === null`), "that it used no GPU is not a warning")
	}
	assert.Empty(t, p.noted())
}

// TestAnIDThatIsTooLongIsAnError of the request, and none of the collector.
func TestAnIDThatIsTooLongIsAnError(t *testing.T) {
	t.Parallel()
	base := serveFixture(t, newFixture(t, sceneOf("1")))
	response, err := http.Get(base + "/v1/prompts?id=" + strings.Repeat("x", 1001))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, http.StatusBadRequest, response.StatusCode)
}

// TestEachQueueNamesItsGPU on the first screen, on its page, and on the pages of prompts that run or
// wait: two servers on two GPUs.
func TestEachQueueNamesItsGPU(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("8")
	s.waiting = 60
	base := serveFixture(t, newFixture(t, s))
	p := openTab(t, chromium)
	p.reshape(wide)
	p.open(base + "/?lang=en")
	assert.Equal(t, []string{"127.0.0.1:8188 gpu1 5 clients", "127.0.0.1:8189 gpu3 5 clients"}, read[[]string](p, `[...document.querySelectorAll('.server h3')].map((e) => e.innerText.replace(/\s+/g, ' '))`))
	for server, gpu := range map[string]string{"127.0.0.1:8188": "gpu1", "127.0.0.1:8189": "gpu3"} {
		p.open(base + "/?lang=en&queue=" + server)
		assert.Equal(t, "Queue of "+server+" "+gpu, read[string](p, `document.querySelector('h1').innerText`))
		for _, i := range []int{0, 1, 57} { // the state does not have the last
			if server == "127.0.0.1:8189" && i > 0 {
				continue
			}
			p.open(base + "/prompts/" + openID(server, i) + "?lang=en")
			p.wait(`document.querySelector('.figures') !== null`)
			assert.Equal(t, gpu, p.figures()["GPU"], "%s %d", server, i)
		}
	}
}
