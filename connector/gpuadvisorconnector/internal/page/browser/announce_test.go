// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// hear collects in window.said what a screen reader says by itself, in window.seen the verdicts that are
// seen, and in window.turns how often the verdict became another one: on a busy machine a prompt waits for
// so long that it does.
const hear = `(() => {
	const live = '[role=status], [role=alert], [aria-live]';
	window.said = [];
	window.seen = new Set();
	window.turns = [document.querySelector('.verdict').className];
	new MutationObserver((records) => {
		const regions = new Set(records.map((r) => (r.target.closest ? r.target : r.target.parentElement)?.closest(live)).filter(Boolean));
		for (const r of records) for (const node of r.addedNodes) if (node.querySelectorAll) for (const e of [node, ...node.querySelectorAll('*')]) if (e.matches(live)) regions.add(e);
		regions.forEach((e) => window.said.push(e.textContent));
		window.seen.add(document.querySelector('.verdict .text').innerText);
		const turn = document.querySelector('.verdict').className;
		if (turn !== window.turns.at(-1)) window.turns.push(turn);
	}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ['role', 'aria-live']});
	return true;
})()`

// TestAScreenReaderSaysOnlyWhatBecomesSomethingElse: ages and counts change each second.
func TestAScreenReaderSaysOnlyWhatBecomesSomethingElse(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	s := sceneOf("1")
	s.isLive = true
	url, stop := serveFor(newFixture(t, s))
	t.Cleanup(stop)
	p := openTab(t, chromium)
	p.open(url + "/?lang=en")
	read[bool](p, hear)
	p.wait(`window.seen.size >= 10`)
	assert.True(t, read[bool](p, `window.said.length === window.turns.length - 1`), "as often as it became another one: %q", read[[]string](p, `window.said`))
	stop()
	p.wait(`/lost for ([3-9]|\d\d)/.test(document.querySelector('.band.lost')?.innerText)`)
	assert.True(t, read[bool](p, `window.said.length === window.turns.length - 1`), "%q", read[[]string](p, `window.said`))
	assert.Equal(t, "Connection to the collector lost", read[string](p, `window.said.at(-1)`))
	p.open(serveFixture(t, newFixture(t, sceneOf("8"))) + "/?lang=en")
	assert.Contains(t, read[string](p, `document.querySelector('header [role=status].hidden').innerText`), "gpu1 ran out of memory")
}
