// GPUs on the first screen: a row each, or tiles where there are many.

import { html } from './vendor.js';
import { t } from './text.js';
import { bareGiB, celsius, clock, digits, gib, isKnown, model, moment, none, percent, task, together, watts } from './format.js';
import { A, Icon, Load, MemoryBar, MemoryLegend, Sparkline, Used, memo, processName, Empty } from './parts.js';

/** @typedef {import('./api').GPU} GPU */
/** @typedef {import('./api').State} State */

// As many GPUs get a row each; more are tiles.
const maxRows = 8;
// Of tiles, as many in trouble get a row above.
const maxTroubled = 4;
// As many rows have two lines each for what is on a GPU.
const maxRoomy = 4;

const worst = { broken: 0, warning: 1, fine: 2 };

/** @param {GPU} gpu */
export const address = (gpu) => `/?gpu=${encodeURIComponent(gpu.name)}`;

/**
 * isStale reports whether a GPU's figures are old, or absent.
 * @param {GPU} gpu
 */
export const isStale = (gpu) => gpu.state === 'unknown' || gpu.state === 'lost' || gpu.state === 'unresponsive';

// What a GPU without a process uses: the driver's own.
const driverMemory = 128 * 2 ** 20;

/**
 * listing is what a list of processes that is empty says: nothing, of a GPU whose samples are not
 * current; that processes are not listed, where something holds the memory all the same; or that there
 * is none.
 * @param {GPU} gpu
 * @returns {'unknown' | 'unlisted' | 'none'}
 */
export const listing = (gpu) => isStale(gpu) || !gpu.memory ? 'unknown' : gpu.memory.used > driverMemory ? 'unlisted' : 'none';

/**
 * hasStopped reports whether a GPU's samples have stopped. The state of a lost GPU is still sampled. The
 * time of the newest is shown, not its age: the condition has the age, as it was when it was found.
 * @param {GPU} gpu
 */
export const hasStopped = (gpu) => gpu.state === 'unknown' && isKnown(gpu.newest_sample);

/** @typedef {{text: string, drawn: any}} Holder */

/**
 * plain is a holder that is its text.
 * @param {string} text
 * @param {string} [name] of its class
 * @returns {Holder}
 */
const plain = (text, name) => ({ text, drawn: html`<span class=${name}>${text}</span>` });

/**
 * holders lists what is on a GPU: what holds its memory, what throttles it, what runs on it, and how much it
 * has to do. What comes and goes with each prompt is last, so that it moves nothing. Throttling that is more
 * than usual is a condition, and the GPU's status then.
 * @param {GPU} gpu
 * @returns {Holder[]}
 */
function holders(gpu) {
  /** @type {Holder[]} */
  const all = [];
  // The largest, in the order of the source: an order by memory would change while one looks.
  const largest = [...(gpu.processes ?? [])].sort((a, b) => b.memory - a.memory).slice(0, 3);
  for (const p of (gpu.processes ?? []).filter((process) => largest.includes(process))) {
    const owner = p.pod || p.server;
    const name = owner ? `${processName(p)} (${owner})` : processName(p);
    all.push({ text: `${name} ${gib(p.memory)}`, drawn: html`<span>${name} <b>${gib(p.memory)}</b></span>` });
  }
  const held = listing(gpu);
  if (!gpu.processes?.length && held === 'unlisted') all.push(plain(t('page.unlisted')));
  const rest = (gpu.processes ?? []).length - largest.length;
  if (rest > 0) all.push(plain(t('page.more', { n: rest })));
  for (const r of gpu.throttling ?? []) all.push(plain(t('page.throttling.row', { share: percent(r.share), why: r.text }), 'throttled'));
  for (const r of gpu.running ?? []) all.push(plain(t('page.runs', { task: task(r) }), 'runs'));
  if (gpu.load && !gpu.running?.length) all.push(plain(t('page.runs', { task: none() }), 'runs')); // the place of the next
  if (gpu.load) all.push({ text: together(gpu.load.text) ?? '', drawn: html`<${Load} load=${gpu.load} />` });
  if (!all.length && held === 'none') all.push(plain(t('page.idle')));
  return all;
}

/**
 * stopped says since when there are no samples of a GPU.
 * @param {GPU} gpu
 * @returns {Holder}
 */
function stopped(gpu) {
  const text = t('page.newest.since', { time: clock(gpu.newest_sample) });
  return { text: `${text} (${moment(gpu.newest_sample)})`, drawn: html`<span class="warning-text"><${Icon} severity="warning" /> ${text}</span>` };
}

/**
 * Holds has as many lines whatever is on a GPU: else rows would move with each prompt. What they have no
 * room for is in the title.
 * @param {{gpu: GPU}} props
 */
function Holds({ gpu }) {
  const all = [...(hasStopped(gpu) ? [stopped(gpu)] : []), ...holders(gpu)];
  return html`<div class="holds" title=${all.map((h) => h.text).join(' · ')}>${all.map((h) => h.drawn)}</div>`;
}

/**
 * pair is a figure with its limit, if that is known, and the unit once.
 * @param {{value: number, limit: number | null} | null} part
 * @param {(v: number) => string | number} bare
 * @param {(v: number) => string} format
 */
const pair = (part, bare, format) => {
  if (!part) return none();
  return part.limit ? html`<b>${bare(part.value)}</b> / ${format(part.limit)}` : html`<b>${format(part.value)}</b>`;
};

/** Row is a GPU. */
const Row = memo((/** @type {{gpu: GPU}} */ { gpu }) => html`<li class=${`gpu ${gpu.severity}${isStale(gpu) ? ' stale' : ''}`}>
  <div class="who"><${A} href=${address(gpu)} class="cover"><b>${gpu.name}</b> <span class="dim" title=${gpu.model}>${model(gpu.model)}</span><//></div>
  <div class="what"><${Icon} severity=${gpu.severity} /> ${gpu.status}</div>
  <div class="memory"><${MemoryBar} memory=${gpu.memory} /></div>
  <div class="used figure" data-label=${t('page.memory')}><${Used} memory=${gpu.memory} /></div>
  <div class="use" data-label=${t('page.utilization')}><${Sparkline} values=${gpu.recent?.utilization} /><b class="figure">${percent(gpu.utilization)}</b></div>
  <div class="heat figure" data-label=${t('page.temperature')}>${pair(gpu.temperature, Math.round, celsius)}</div>
  <div class="draw figure" data-label=${t('page.power')}>${pair(gpu.power, digits, watts)}</div>
  <${Holds} gpu=${gpu} />
</li>`);

const Tile = memo((/** @type {{gpu: GPU}} */ { gpu }) => html`<li class=${`tile ${gpu.severity}${isStale(gpu) ? ' stale' : ''}`}>
  <${A} href=${address(gpu)} class="cover"><b>${gpu.name}</b><//>
  <span class="figure">${percent(gpu.utilization)}</span>
  <span class="what"><${Icon} severity=${gpu.severity} /> ${gpu.status}</span>
  <${MemoryBar} memory=${gpu.memory} />
  <span class="dim figure">${gpu.memory ? `${bareGiB(gpu.memory.used)} / ${gib(gpu.memory.limit)}` : none()}</span>
</li>`);

const Head = () => html`<div class="gpu-head" aria-hidden="true">
  <span class="dim">${t('page.gpu')}</span><span><${MemoryLegend} /></span><span class="dim right">${t('page.memory')}</span>
  <span class="dim right">${t('page.utilization')}</span><span class="dim right">${t('page.temperature')}</span><span class="dim right">${t('page.power')}</span>
</div>`;


/**
 * Gpus is the part of the first screen that shows which GPU is full, and with what.
 * @param {{gpus: State['gpus']}} props
 */
export function Gpus({ gpus }) {
  /** @param {GPU} gpu */
  const row = (gpu) => html`<${Row} key=${gpu.id} gpu=${gpu} />`;
  /** @param {GPU[]} shown */
  const rows = (shown) => html`<ul class=${shown.length > maxRoomy ? 'gpus' : 'gpus roomy'}>${shown.map(row)}</ul>`;
  if (!gpus?.length) {
    return html`<section class="all-gpus" aria-labelledby="gpus"><h2 id="gpus">${t('page.gpus')}</h2><${Empty}>${t('page.absent.gpus')}<//></section>`;
  }
  if (gpus.length <= maxRows) {
    return html`<section class="all-gpus" aria-labelledby="gpus"><h2 id="gpus" class="hidden">${t('page.gpus')}</h2><${Head} />${rows(gpus)}</section>`;
  }
  const sorted = [...gpus].sort((a, b) => worst[a.severity] - worst[b.severity]);
  const troubled = sorted.filter((gpu) => gpu.severity !== 'fine');
  /** @param {string} severity */
  const count = (severity) => gpus.filter((gpu) => gpu.severity === severity).length;
  return html`<section class="all-gpus" aria-labelledby="gpus">
    <div class="heading"><h2 id="gpus">${t('page.gpus.count', { n: gpus.length })}</h2>
      <span class="counts">${Object.keys(worst).map((s) => count(s) > 0 && html`<span key=${s}><${Icon} severity=${s} /> ${t(`page.counts.${s}`, { n: count(s) })}</span>`)}</span></div>
    ${troubled.length > 0 && html`<${Head} />${rows(troubled.slice(0, maxTroubled))}`}
    <ul class="tiles">${sorted.map((gpu) => html`<${Tile} key=${gpu.id} gpu=${gpu} />`)}</ul>
  </section>`;
}
