// SPDX-License-Identifier: Apache-2.0

package browser

// watchShifts begins to sum up how far the layout moves.
const watchShifts = `(() => {
	window.shift = 0;
	window.shifts = [];
	new PerformanceObserver((list) => {
		for (const e of list.getEntries()) {
			if (e.hadRecentInput) continue;
			window.shift += e.value;
			window.shifts.push(e.value.toFixed(4) + ' ' + e.sources.map((s) => s.node?.parentElement?.className + ' > ' + (s.node?.className || s.node?.nodeName)).join(', '));
		}
	}).observe({type: 'layout-shift', buffered: false});
	return true;
})()`

// findProblems lists what a reader would stumble over: text that is cut or lies over other
// text, sideways scrolling, keys of the catalogue, and figures that are not numbers.
const findProblems = `(() => {
	const problems = [];
	const top = document.querySelector('#app:not(:empty)') ?? document.body;
	const root = document.scrollingElement;
	if (root.scrollWidth > innerWidth) problems.push('scrolls sideways: ' + root.scrollWidth + ' > ' + innerWidth);
	const missing = document.body.innerText.match(/page\.[a-z_.]+|NaN|undefined|Invalid Date|\[object/);
	if (missing) problems.push('text: ' + missing[0]);
	for (const e of document.querySelectorAll('.warning-text, .broken-text')) if (!e.querySelector('.icon')) problems.push('a colour without a sign: ' + e.innerText);
	for (const e of document.querySelectorAll('.reason, .verdict, .remedy, .conditions')) if (e.innerText.includes('…')) problems.push('cut by a script: ' + e.innerText.slice(0, 60));
	// Both ask each element once.
	const remember = (f) => { const known = new Map(); const g = (e) => { if (!known.has(e)) known.set(e, e === top ? null : f(e) || g(e.parentElement)); return known.get(e); }; return g; };
	const clipped = remember((e) => getComputedStyle(e).clipPath !== 'none' && e); // for screen readers only
	// A name that somebody chose, and what a place of so many lines has no room for, may be cut with an
	// ellipsis; the title has all of it.
	const bare = (text) => text.replace(/[\s·]/g, '');
	const shortened = remember((e) => getComputedStyle(e).textOverflow === 'ellipsis' && bare(e.closest('[title]')?.title ?? '').includes(bare(e.textContent)) && e);
	const isCut = (e) => e.scrollWidth > e.clientWidth + 1 || getComputedStyle(e).overflowY === 'hidden' && e.scrollHeight > e.clientHeight + 1;
	const narrow = remember((e) => isCut(e) && e.clientWidth > 0 && !shortened(e) && !e.classList.contains('waterfall') && getComputedStyle(e).display !== 'inline' && e);
	// within is as much of a box of an element as those leave that may cut it.
	const within = (e, box) => {
		let { left, top, right, bottom } = box;
		for (let around = shortened(e); around; around = shortened(around.parentElement)) {
			const b = around.getBoundingClientRect();
			[left, top, right, bottom] = [Math.max(left, b.left), Math.max(top, b.top), Math.min(right, b.right), Math.min(bottom, b.bottom)];
		}
		return { left, top, right, bottom, width: right - left, height: bottom - top };
	};
	const boxes = [];
	const walker = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
	while (walker.nextNode()) {
		const node = walker.currentNode;
		const element = node.parentElement;
		if (!node.data.trim() || element.closest('script, .hidden, option, textarea, .skip, svg')) continue;
		const style = getComputedStyle(element);
		if (style.visibility === 'hidden' || style.display === 'none') continue;
		if (clipped(element)) continue;
		const range = document.createRange();
		range.selectNodeContents(node);
		for (const whole of range.getClientRects()) {
			const box = within(element, whole);
			if (box.width > 0 && box.height > 0) boxes.push([box, node]);
		}
		const cut = narrow(element);
		if (cut) problems.push('cut: ' + cut.className + ' ' + cut.scrollWidth + ' > ' + cut.clientWidth + ': ' + node.data.slice(0, 60));
	}
	for (const [box, node] of boxes) {
		if (box.right > innerWidth + 1 || box.left < -1) problems.push('outside: ' + node.data.slice(0, 60));
	}
	boxes.sort((a, b) => a[0].top - b[0].top);
	for (let i = 0; i < boxes.length; i++) {
		for (let k = i + 1; k < boxes.length && boxes[k][0].top < boxes[i][0].bottom - 6; k++) {
			const [a, b] = [boxes[i][0], boxes[k][0]];
			if (boxes[i][1] !== boxes[k][1] && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1) problems.push('over each other: ' + boxes[i][1].data.slice(0, 40) + ' | ' + boxes[k][1].data.slice(0, 40));
		}
	}
	return problems.slice(0, 8);
})()`

// findViolations runs the rules of axe, which is evaluated before, whose violations are serious or
// critical: those violations with the first element of each. Axe gives a violation the impact of its rule.
const findViolations = `axe.run({resultTypes: ['violations'], runOnly: {type: 'rule', values: axe._audit.rules.filter((rule) => rule.enabled && !rule.tags.includes('experimental') && !rule.tags.includes('deprecated') && !['minor', 'moderate'].includes(rule.impact)).map((rule) => rule.id)}}).then((r) => r.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => v.id + ': ' + v.nodes.slice(0, 3).map((n) => n.target + ' ' + n.failureSummary).join(' | ')))`
