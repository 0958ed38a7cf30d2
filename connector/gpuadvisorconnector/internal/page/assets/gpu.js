// One GPU: its figures, what holds its memory, and its history.

import { html, Plot, useEffect, useLayoutEffect, useRef, useState } from './vendor.js';
import { t, api } from './text.js';
import { celsius, clock, gib, hour, isKnown, moment, none, percent, task, together, watts } from './format.js';
import { A, Empty, Icon, Load, MemoryBar, processName, sameCondition } from './parts.js';
import { Back } from './prompt.js';
import { hasStopped, listing } from './gpus.js';
import { bridged, nearest, pause } from './series.js';

/** @typedef {import('./api').GPU} GPU */
/** @typedef {import('./api').State} State */
/** @typedef {import('./api').History} Samples */
/** @typedef {import('./series').Column} Column */

/**
 * charts are the figures of the history: what they are called, their columns, and how a value is
 * written.
 * @type {Array<[name: 'memory' | 'utilization' | 'temperature' | 'power', columns: (h: Samples) => Array<Column | null>, format: (v: number | null | undefined) => string]>}
 */
const charts = [
  ['memory', (h) => [h.memory, h.memory_peak], gib],
  ['utilization', (h) => [h.utilization], percent],
  ['temperature', (h) => [h.temperature], celsius],
  ['power', (h) => [h.power], watts],
];

/** @param {string} name */
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * options are those of uPlot.
 * @param {number} width
 * @param {(v: number) => string} format
 * @param {Column[]} columns
 * @param {number | undefined} limit
 * @returns {import('uplot').Options}
 */
function options(width, format, columns, limit) {
  const line = { stroke: color('--accent'), width: 1.5, fill: color('--accent-area'), points: { show: false } };
  const peak = { stroke: color('--dim'), width: 1, points: { show: false } };
  const axis = { stroke: color('--dim'), grid: { stroke: color('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui' };
  return {
    width, height: 128, legend: { show: false },
    cursor: { sync: { key: 'gpu' }, y: false },
    scales: { y: { range: (_, __, high) => [0, limit ?? (Math.max(high, 0) || 1)] } },
    axes: [
      { ...axis, size: 24, values: (_, at) => at.map((v) => hour(v * 1000)), space: 60 },
      { ...axis, size: 68, space: 24, values: (_, at) => at.map(format) },
    ],
    series: [{}, line, ...columns.slice(1).map(() => peak)],
  };
}

const byteSteps = [0.5, 1, 2, 4, 8, 16, 32, 64, 128].map((v) => v * 2 ** 30);

/**
 * Chart is one figure over time, drawn by uPlot.
 * @param {{name: string, history: Samples, columns: Column[], format: (v: number | null | undefined) => string, limit: number | undefined}} props
 */
function Chart({ name, history, columns, format, limit }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const [value, setValue] = useState('');
  useLayoutEffect(() => {
    if (!box.current) return undefined;
    const draw = Plot();
    const settings = options(box.current.clientWidth, format, columns, limit);
    if (name === 'memory' && settings.axes) settings.axes[1].incrs = byteSteps;
    settings.hooks = {
      setCursor: [(u) => setValue(u.cursor.idx === null || u.cursor.idx === undefined ? '' : `${clock(u.data[0][u.cursor.idx] * 1000)} · ${format(nearest(/** @type {Column} */ (u.data[1]), u.cursor.idx))}`)],
    };
    const data = /** @type {import('uplot').AlignedData} */ ([history.times ?? [], ...columns]);
    const plot = new draw(settings, data, box.current);
    const resized = new ResizeObserver(() => plot.setSize({ width: box.current?.clientWidth ?? 100, height: 128 }));
    resized.observe(box.current);
    return () => { resized.disconnect(); plot.destroy(); };
  }, [history, limit]);
  const known = (columns[0] ?? []).flatMap((v) => v ?? []);
  const summary = known.length ? t('page.history.summary', { low: format(Math.min(...known)), high: format(Math.max(...known)) }) : none();
  return html`<figure class="chart"><figcaption>${t(`page.${name}`)} <span class="dim figure">${value || summary}</span></figcaption><div ref=${box} role="img" aria-label=${`${t(`page.${name}`)}: ${summary}`} /></figure>`;
}

/** @param {{gpu: GPU}} props */
function History({ gpu }) {
  const [answer, setAnswer] = useState(/** @type {{status: number, body: Samples} | null} */ (null));
  useEffect(() => {
    let ended = false;
    const load = async () => {
      const result = await api(`/v1/history?gpu=${encodeURIComponent(gpu.id)}`);
      if (!ended && result.status !== 0) setAnswer(result);
    };
    load();
    const again = setInterval(() => document.hidden || load(), 5000);
    return () => { ended = true; clearInterval(again); };
  }, [gpu.id]);
  const h = answer?.status === 200 && (answer.body.times?.length ?? 0) > 1 ? answer.body : null;
  const limit = h ? pause(h) : 0;
  const limits = { memory: gpu.memory?.limit, utilization: 1, temperature: gpu.temperature?.limit ?? undefined, power: gpu.power?.limit ?? undefined };
  return html`<section aria-labelledby="history"><h2 id="history">${t('page.history')}</h2>
    ${answer && !h && html`<${Empty}>${t('page.absent.history')}<//>`}
    ${(h || !answer) && html`<div class="charts">${h && charts.map(([name, columns, format]) => {
      const present = columns(h).flatMap((values) => values ? [bridged(h.times ?? [], values, limit)] : []);
      return present.length > 0 && html`<${Chart} key=${name} name=${name} history=${h} columns=${present} format=${format} limit=${limits[name]} />`;
    })}</div>`}</section>`;
}

/** @param {{memory: GPU['memory']}} props */
function Memory({ memory: m }) {
  if (!m) return null;
  /** @type {Array<'needed' | 'elastic' | 'other' | 'free'>} */
  const kinds = ['needed', 'elastic', 'other', 'free'];
  return html`<section aria-labelledby="memory"><h2 id="memory">${t('page.memory')}</h2>
    <${MemoryBar} memory=${m} />
    <ul class="part-list">${kinds.map((kind) => html`<li key=${kind}><i class=${`swatch ${kind}`} /><span>${t(`page.memory.${kind}.long`)}</span><b class="figure">${gib(m[kind])}</b><span class="figure dim">${percent(m[kind] / m.limit)}</span></li>`)}
      <li><i class="swatch tick" /><span>${t('page.memory.peak.at', { time: clock(m.peak_time) })}</span><b class="figure">${gib(m.peak)}</b><span class="figure dim">${percent(m.peak / m.limit)}</span></li></ul></section>`;
}

/** @param {{gpu: GPU}} props */
function Processes({ gpu }) {
  const { processes } = gpu;
  const columns = ['name', 'pid', 'pod', 'server', 'memory'];
  return html`<section aria-labelledby="processes"><h2 id="processes">${t('page.processes')}</h2>
    ${processes?.length ? html`<table class="processes"><thead><tr>${columns.map((c) => html`<th scope="col" key=${c} class=${c}>${t(`page.process.${c}`)}</th>`)}</tr></thead>
      <tbody>${[...processes].sort((a, b) => b.memory - a.memory).map((p) => html`<tr key=${p.pid}><th scope="row">${processName(p)}</th><td class="figure">${p.pid}</td><td>${p.pod || none()}</td><td>${p.server || none()}</td><td class="figure">${gib(p.memory)}</td></tr>`)}</tbody></table>` : html`<${Empty}>${t(`page.absent.processes.${listing(gpu)}`)}<//>`}</section>`;
}

/** @param {GPU} gpu */
const newest = (gpu) => {
  if (!isKnown(gpu.newest_sample)) return t('page.newest.none');
  return hasStopped(gpu) ? t('page.newest.since', { time: moment(gpu.newest_sample) }) : moment(gpu.newest_sample);
};

/**
 * Gpu is the page of a GPU.
 * @param {{name: string, state: State}} props
 */
export function Gpu({ name, state }) {
  const gpu = (state.gpus ?? []).find((g) => g.name === name || g.id === name);
  if (!gpu) return html`<article class="detail"><${Back} /><h1 tabindex="-1" class="sentence">${t('page.absent.gpu', { name })}</h1></article>`;
  const conditions = (state.conditions ?? []).filter((c) => c.gpu === gpu.id && !sameCondition(c, state.verdict));
  const figures = [
    ['utilization', percent(gpu.utilization)],
    ['temperature', gpu.temperature && (gpu.temperature.limit ? t('page.of', { a: celsius(gpu.temperature.value), b: celsius(gpu.temperature.limit) }) : celsius(gpu.temperature.value))],
    ['power', gpu.power && (gpu.power.limit ? t('page.of', { a: watts(gpu.power.value), b: watts(gpu.power.limit) }) : watts(gpu.power.value))],
    ['throttling', gpu.throttling && (gpu.throttling.length ? gpu.throttling.map((r) => `${r.text} ${percent(r.share)}`).join(', ') : t('page.throttling.none'))],
    ['newest', newest(gpu)],
  ];
  return html`<article class="detail"><${Back} />
    <h1 tabindex="-1"><${Icon} severity=${gpu.severity} /> ${gpu.name} <span class="dim">${gpu.model}</span> ${gpu.status}</h1>
    ${conditions.map((c) => html`<p class="note" key=${c.id}><${Icon} severity=${c.severity} word=${t(`page.severity.${c.severity}`)} /> <b>${together(c.text)}</b> ${together(c.remedy)} ${c.runbook && html`<a href=${c.runbook} rel="noreferrer">${t('page.runbook')}</a>`}</p>`)}
    <div class="columns"><${Memory} memory=${gpu.memory} />
      <section aria-labelledby="now"><h2 id="now">${t('page.now')}</h2><dl class="figures">${figures.map(([key, value]) => html`<div key=${key}><dt>${t(`page.${key}`)}</dt><dd class="figure">${value || none()}</dd></div>`)}</dl>
        <div class="doing">${gpu.load && html`<p><${Load} load=${gpu.load} /></p>`}
        ${(gpu.running ?? []).map((r) => html`<p key=${r.prompt}><${A} href=${`/prompts/${encodeURIComponent(r.prompt)}`}>${t('page.runs', { task: task(r) })}<//> <span class="dim">${r.server}</span></p>`)}</div></section></div>
    <${History} gpu=${gpu} />
    <${Processes} gpu=${gpu} />
    <p class="id"><span class="dim">${t('page.id.gpu')}</span> <code>${gpu.id}</code></p>
  </article>`;
}
