// A prompt's spans on one time axis, with its GPUs' memory and utilisation under them.

import { html, useState } from './vendor.js';
import { t } from './text.js';
import { energy, gib, mark, percent, seconds } from './format.js';
import { Icon, gpuName } from './parts.js';
import { bridged, pause } from './series.js';

/** @typedef {import('./api').Detail} Detail */
/** @typedef {import('./api').History} History */
/** @typedef {import('./api').Span} Span */
/** @typedef {import('./api').State} State */
/** @typedef {import('./series').Column} Column */

// More spans are not drawn: nobody reads them.
const maxSpans = 200;

/**
 * drawn are the spans that are drawn of many: the longest, and whatever their length the queue, the
 * execution and what failed.
 * @param {Span[]} spans
 */
function drawn(spans) {
  if (spans.length <= maxSpans) return spans;
  /** @param {Span} s */
  const rank = (s) => ['prompt', 'queue', 'execution'].includes(s.kind) ? 0 : s.error ? 1 : 2;
  return [...spans].sort((a, b) => rank(a) - rank(b) || b.duration - a.duration).slice(0, maxSpans);
}

/**
 * ordered lists spans as a tree, each below its parent, by their start.
 * @param {Span[]} spans
 */
function ordered(spans) {
  const ids = new Set(spans.map((s) => s.id));
  /** @type {Map<string, Span[]>} */
  const children = new Map();
  for (const s of spans) {
    const parent = ids.has(s.parent) && s.parent !== s.id ? s.parent : '';
    children.set(parent, [...(children.get(parent) ?? []), s]);
  }
  /** @type {Array<{span: Span, depth: number}>} */
  const all = [];
  /**
   * @param {string} parent
   * @param {number} depth
   */
  const visit = (parent, depth) => {
    for (const s of (children.get(parent) ?? []).sort((a, b) => a.start - b.start || a.duration - b.duration)) {
      all.push({ span: s, depth });
      if (depth < 20) visit(s.id, depth + 1);
    }
  };
  visit('', 0);
  return all;
}

/**
 * ticks are round places on an axis that ends at a time.
 * @param {number} end
 */
export function ticks(end) {
  const rough = end / 7;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? end;
  const all = [];
  for (let v = 0; v <= end * 1.0001; v += step) all.push(v);
  return all;
}

/** @param {Span} s */
const label = (s) => s.kind === 'node' ? s.title || s.class || s.name : ['prompt', 'queue', 'execution'].includes(s.kind) ? t(`page.span.${s.kind}`) : s.name;

/**
 * describe is what the columns of a span do not have.
 * @param {Span} s
 */
const describe = (s) => [
  s.class && s.title ? s.class : null,
  (s.loading ?? 0) > 0 ? t(s.loading_estimated ? 'page.span.loading.estimated' : 'page.span.loading', { v: seconds(s.loading) }) : null,
  (s.retry ?? 0) > 0 ? t('page.span.retry', { v: seconds(s.retry) }) : null,
].filter(Boolean).join(' · ');

/**
 * Row is a span: its bar, and in columns how long it took and what it used of the GPU.
 * @param {{span: Span, depth: number, end: number}} props
 */
function Row({ span: s, depth, end }) {
  const more = describe(s);
  // What waits, and the prompt as a whole, uses no GPU.
  const isAbsent = !s.bill && !['execution', 'node'].includes(s.kind);
  return html`<li class="lane" title=${[label(s), more].filter(Boolean).join(' · ')}>
    <span class=${`name depth-${Math.min(depth, 4)}`}>${s.error && html`<${Icon} severity="broken" word=${t('page.outcome.error')} /> `}${label(s)} ${s.error && html`<span class="dim">${s.error}</span>`}<span class="hidden"> ${more}</span></span>
    <span class="track"><${Bar} span=${s} end=${end} /></span><span class="figure dim">${seconds(s.duration)}</span>
    <span class="figure dim peak" data-label=${t('page.memory.peak')}>${isAbsent ? '' : gib(s.bill?.memory_peak)}</span>
    <span class="figure dim energy">${isAbsent ? '' : energy(s.bill?.energy, s.bill?.energy_uncertainty)}</span></li>`;
}

/** @param {{span: Span, end: number}} props */
function Bar({ span: s, end }) {
  const place = { left: `${s.start / end * 100}%`, width: `${s.duration / end * 100}%` };
  const loading = s.duration > 0 ? Math.min(1, (s.loading ?? 0) / s.duration) : 0;
  const retry = s.kind === 'node' && s.duration > 0 ? Math.min(1 - loading, (s.retry ?? 0) / s.duration) : 0;
  return html`<span class=${`span ${s.kind}${s.error ? ' error' : ''}`} style=${place}>
    ${loading > 0 && html`<span class="fill loading" style=${{ width: `${loading * 100}%` }} />`}
    ${retry > 0 && html`<span class="fill retry" style=${{ width: `${retry * 100}%` }} />`}
  </span>`;
}

/**
 * curve is a line through samples that are known, in a box of 100 by 100.
 * @param {number[]} times
 * @param {Column} values
 * @param {number} from
 * @param {number} end
 * @param {number} top
 */
function curve(times, values, from, end, top) {
  let line = '';
  let area = '';
  /** @type {string | null} */
  let begin = null;
  let last = '';
  const close = () => { if (begin !== null) area += `L${last} 100L${begin} 100Z`; begin = null; };
  times.forEach((time, i) => {
    const x = ((time - from) / end * 100).toFixed(2);
    const v = values[i];
    if (v === undefined) return;
    if (v === null) { close(); return; }
    const y = (100 - Math.min(1, v / top) * 96).toFixed(2);
    line += `${begin === null ? 'M' : 'L'}${x} ${y}`;
    area += begin === null ? `M${x} 100L${x} ${y}` : `L${x} ${y}`;
    begin ??= x;
    last = x;
  });
  close();
  return [line, area];
}

/** @param {{name: string, times: number[], values: Column, from: number, end: number, top: number, most: string}} props */
function Lane({ name, times, values, from, end, top, most }) {
  const [line, area] = curve(times, values, from, end, top);
  return html`<div class="lane"><span class="label">${name} <span class="dim">${most}</span></span>
    <svg class="track" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label=${`${name} ${most}`}><path class="area" d=${area} /><path class="line" d=${line} /></svg><span /></div>`;
}

/**
 * Lanes are a GPU's memory and utilisation, each if a sample of it lies within the prompt. The memory is
 * drawn against all that the GPU has, as far as that is known.
 * @param {{series: History, state: State, from: number, end: number}} props
 */
function Lanes({ series: h, state, from, end }) {
  const gpu = gpuName(state, h.gpu);
  const all = (state.gpus ?? []).find((g) => g.id === h.gpu)?.memory?.limit;
  const times = h.times ?? [];
  /**
   * most is the largest value within the prompt; null if none is known.
   * @param {Array<Column | null>} columns
   */
  const most = (...columns) => {
    const inside = columns.flatMap((values) => (values ?? []).flatMap((v, i) => times[i] >= from && times[i] <= from + end ? v ?? [] : []));
    return inside.length ? Math.max(...inside) : null;
  };
  const limit = pause(h);
  const memory = most(h.memory, h.memory_peak);
  const use = most(h.utilization);
  return html`${memory !== null && html`<${Lane} name=${t('page.lane.memory', { gpu })} most=${t('page.lane.most', { v: all ? t('page.of', { a: gib(memory), b: gib(all) }) : gib(memory) })} times=${times} values=${bridged(times, h.memory ?? [], limit)} from=${from} end=${end} top=${all || memory || 1} />`}
    ${use !== null && html`<${Lane} name=${t('page.lane.use', { gpu })} most=${t('page.lane.most', { v: percent(use) })} times=${times} values=${bridged(times, h.utilization ?? [], limit)} from=${from} end=${end} top=${1} />`}`;
}

/**
 * Waterfall draws where a prompt's time went.
 * @param {{detail: Detail, state: State}} props
 */
export function Waterfall({ detail: d, state }) {
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  const known = d.spans ?? [];
  const spans = ordered(drawn(known));
  if (!spans.length) return null;
  const end = known.reduce((last, s) => Math.max(last, s.start + s.duration), Math.max(d.duration, 0.001));
  const rest = known.length - spans.length;
  const from = Date.parse(d.received) / 1000;
  /** @param {MouseEvent & {currentTarget: HTMLElement}} event */
  const point = (event) => {
    const track = event.currentTarget.querySelector('.axis .track')?.getBoundingClientRect();
    if (!track) return;
    const share = (event.clientX - track.left) / track.width;
    setAt(share >= 0 && share <= 1 ? share : null);
  };
  return html`<section aria-labelledby="waterfall"><div class="heading"><h2 id="waterfall">${t('page.waterfall')}</h2>
      <span class="legend">${['queue', 'loading', ...(spans.some(({ span: s }) => (s.retry ?? 0) > 0) ? ['retry'] : []), 'work'].map((kind) => html`<span key=${kind}><i class=${`swatch ${kind === 'queue' ? 'waiting' : kind}`} />${t(`page.legend.${kind}`)}</span>`)}</span></div>
    <div class="waterfall" onMouseMove=${point} onMouseLeave=${() => setAt(null)}>
      <div class="axis" aria-hidden="true"><span class="label" /><span class="track">${ticks(end).map((v) => html`<span key=${v} class=${`mark${v > end * 0.92 ? ' last' : v > end * 0.72 ? ' late' : ''}`} style=${{ left: `${v / end * 100}%` }}><span>${mark(v, end)}</span></span>`)}
        ${at !== null && html`<span class="cursor" style=${{ left: `${at * 100}%` }}><span>${seconds(at * end)}</span></span>`}</span>
        <span class="right">${t('page.column.times')}</span><span class="right peak">${t('page.column.peak')}</span><span class="right energy">${t('page.column.energy')}</span></div>
      <ol class="spans">${spans.map(({ span: s, depth }) => html`<${Row} key=${s.id} span=${s} depth=${depth} end=${end} />`)}</ol>
      ${rest > 0 && html`<p class="dim">${t('page.waterfall.rest', { n: rest })}</p>`}
      ${(d.series ?? []).map((h) => html`<${Lanes} key=${h.gpu} series=${h} state=${state} from=${from} end=${end} />`)}
    </div></section>`;
}
