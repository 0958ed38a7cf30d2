// One prompt: why it took as long as it did, where the time went, and what it used.

import { html, useEffect, useRef, useState } from './vendor.js';
import { t, api } from './text.js';
import { age, clock, energy, gib, isKnown, moment, percent, seconds, task, together, zone } from './format.js';
import { A, Copy, Icon, gpuNames } from './parts.js';
import { outcome, severity } from './prompts.js';
import { Waterfall } from './waterfall.js';

/** @typedef {import('./api').Detail} Detail */
/** @typedef {import('./api').OpenDetail} OpenDetail */
/** @typedef {import('./api').OpenPrompt} OpenPrompt */
/** @typedef {import('./api').State} State */

/**
 * Parts is the prompt's duration as one bar in its parts.
 * @param {{parts: Detail['parts'], duration: number}} props
 */
function Parts({ parts, duration }) {
  if (!parts?.length) return null;
  return html`<section aria-labelledby="parts"><h2 id="parts">${t('page.parts')}</h2>
    <span class="bar parts" aria-hidden="true">${parts.map((p, i) => html`<span key=${i} class=${`fill ${p.kind}`} style=${{ width: `${p.seconds / duration * 100}%` }} />`)}</span>
    <ul class="part-list">${parts.map((p, i) => html`<li key=${i}><i class=${`swatch ${p.kind}`} /><span>${p.text}</span><b class="figure">${seconds(p.seconds)}</b><span class="figure dim">${percent(p.seconds / duration)}</span></li>`)}</ul>
  </section>`;
}

/** @param {Detail} d */
const size = (d) => d.width && d.height ? `${d.width} × ${d.height}` : d.side || null;

/**
 * @param {Detail} d
 * @param {State} state
 */
function figures(d, state) {
  const b = d.bill;
  return [
    ['duration', seconds(d.duration)],
    ['waited', seconds(d.waited)],
    ['ran', seconds(d.ran)],
    ['usual', d.usual ? t('page.figure.usual.value', { v: seconds(d.usual.median), n: d.usual.executions }) : d.no_usual],
    ['need', b && gib(b.memory_need)],
    ['peak', b && gib(b.memory_peak)],
    ['energy', b && energy(b.energy, b.energy_uncertainty)],
    ['throttled', b && seconds(b.throttle_time)],
    ['quality', b ? [t(`page.quality.${b.quality}`), b.why].filter(Boolean).join(' · ') : d.no_bill],
    ['gpus', gpuNames(state, d.gpus)],
    ['server', d.server],
    ['model', d.model],
    ['size', size(d)],
    ['received', moment(d.received)],
    ['error', d.error_type && [d.error_type, d.error_node].filter(Boolean).join(' · ')],
  ].filter(([, value]) => value);
}

/** @param {{detail: Detail, state: State}} props */
function Figures({ detail: d, state }) {
  return html`<section aria-labelledby="figures"><h2 id="figures">${t('page.figures')}</h2>
    <dl class="figures">${figures(d, state).map(([name, value]) => html`<div key=${name}><dt>${t(`page.figure.${name}`)}</dt><dd class="figure">${value}</dd></div>`)}</dl></section>`;
}

/** @param {{detail: Detail}} props */
function Ids({ detail: d }) {
  return html`<section aria-labelledby="ids"><h2 id="ids">${t('page.ids')}</h2>
    <p class="id"><span class="dim">${t('page.id.prompt')}</span> <code>${d.id}</code> <${Copy} text=${d.id} label=${t('page.copy.prompt')} /></p>
    ${d.trace_id && html`<p class="id"><span class="dim">${t('page.id.trace')}</span> <code>${d.trace_id}</code> <${Copy} text=${d.trace_id} label=${t('page.copy.trace')} /></p>`}
    <p class="links">${(d.links ?? []).map((l) => html`<a key=${l.url} href=${l.url} rel="noreferrer" class="chip">${t('page.open.in', { name: l.name })}</a>`)}
      <a class="chip" data-native href=${`/v1/prompts/${encodeURIComponent(d.id)}/trace`}>${t('page.trace.json')}</a></p></section>`;
}

/**
 * start says in how long a prompt is likely to start.
 * @param {string} starts
 * @param {number} now
 */
const start = (starts, now) => Date.parse(starts) > now ? t('page.figure.starts.in', { d: age((Date.parse(starts) - now) / 1000), time: clock(starts) }) : t('page.figure.starts.now');

/**
 * Waiting is a prompt that has not ended: its place in the queue, or its progress.
 * @param {{open: OpenPrompt, server: string, state: State, now: number}} props
 */
function Waiting({ open, server, state, now }) {
  const gpus = gpuNames(state, (state.servers ?? []).find((s) => s.name === server)?.gpus);
  return html`<article class="detail"><${Back} />
    <p class="dim">${task(open)} · ${t(`page.queue.${open.state}`)}</p>
    <h1 tabindex="-1" class="sentence"><span role="status">${open.text}</span></h1>
    <dl class="figures">${isKnown(open.since) && html`<div><dt>${t(`page.figure.since.${open.state}`)}</dt><dd class="figure">${age((now - Date.parse(open.since)) / 1000)}</dd></div>`}
      ${open.starts && html`<div><dt>${t('page.figure.starts')}</dt><dd class="figure" title=${moment(open.starts)}>${start(open.starts, now)}</dd></div>`}
      ${open.node && html`<div><dt>${t('page.figure.node')}</dt><dd class="figure">${t('page.node', { class: open.node.class, i: open.node.number, of: open.node.of })}</dd></div>`}
      <div><dt>${t('page.figure.server')}</dt><dd>${server}</dd></div>
      ${gpus && html`<div><dt>${t('page.figure.gpus')}</dt><dd>${gpus}</dd></div>`}</dl>
    <p class="id"><span class="dim">${t('page.id.prompt')}</span> <code>${open.id}</code> <${Copy} text=${open.id} label=${t('page.copy.prompt')} /></p>
  </article>`;
}

export const Back = () => html`<p class="back"><${A} href="/">← ${t('page.back')}<//></p>`;

/**
 * Absent is shown instead of a prompt that there is no answer for.
 * @param {{id: string, text: string}} props
 */
export const Absent = ({ id, text }) => html`<article class="detail"><${Back} /><h1 tabindex="-1" class="sentence">${text}</h1>
  <p class="id"><code>${id}</code></p></article>`;

/**
 * findOpen finds a prompt that has not ended in the state.
 * @param {State} state
 * @param {string} id
 * @returns {[open: OpenPrompt | null, server: string]}
 */
function findOpen(state, id) {
  for (const s of state.servers ?? []) {
    const open = (s.prompts ?? []).find((p) => p.id === id);
    if (open) return [open, s.name];
  }
  return [null, ''];
}

/**
 * Prompt is the page of a prompt. While it is open it follows the state, which has the first of a
 * queue; the others are asked for.
 * @param {{id: string, state: State, now: number}} props
 */
export function Prompt({ id, state, now }) {
  const [answer, setAnswer] = useState(/** @type {{status: number, body: Detail | OpenDetail | null} | null} */ (null));
  const [open, server] = findOpen(state, id);
  const isOpen = Boolean(open);
  const wasOpen = useRef(false);
  wasOpen.current ||= isOpen;
  useEffect(() => {
    let ended = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let again;
    let tries = 0;
    const load = async () => {
      // Asked first whether it is known: a browser logs each 404 as an error.
      let result = await api(`/v1/prompts?limit=1&id=${encodeURIComponent(id)}`);
      const found = result.status === 200 ? result.body : {};
      if (found.prompts?.length) result = await api(`/v1/prompts/${encodeURIComponent(id)}`);
      else if (found.open?.length) result = { status: 200, body: found.open[0] };
      else if (result.status === 200) result = { status: 404, body: null };
      if (ended) return;
      const waits = result.status === 200 && 'state' in result.body;
      wasOpen.current ||= waits;
      // Its trace comes some seconds after its end.
      const mayCome = result.status !== 200 && tries++ < 60;
      setAnswer(result.status === 404 && wasOpen.current && mayCome ? null : result);
      if (waits || mayCome) again = setTimeout(load, 1000);
    };
    if (!isOpen) load();
    return () => { ended = true; clearTimeout(again); };
  }, [id, isOpen]);
  const body = answer?.status === 200 ? answer.body : null;
  if (body && !('state' in body)) {
    const d = body;
    return html`<article class="detail"><${Back} />
      <p class="dim">${task(d)} · ${t('page.received.at', { time: moment(d.received) })}</p>
      <h1 tabindex="-1" class="sentence"><${Icon} severity=${severity(d)} word=${outcome(d)} /> ${together(d.sentence)}</h1>
      ${d.remedy && html`<p class="remedy">${together(d.remedy)}</p>`}
      ${!d.bill && d.no_bill && d.outcome !== 'refused' && html`<p class="note"><${Icon} severity="warning" /> ${t('page.nobill', { why: d.no_bill })}</p>`}
      <${Parts} parts=${d.parts} duration=${d.duration} />
      <${Waterfall} detail=${d} state=${state} />
      <div class="columns"><${Figures} detail=${d} state=${state} /><${Ids} detail=${d} /></div>
      <p class="dim">${t('page.times', { zone: zone() })}</p>
    </article>`;
  }
  if (open) return html`<${Waiting} open=${open} server=${server} state=${state} now=${now} />`;
  if (body) return html`<${Waiting} open=${body} server=${/** @type {OpenDetail} */ (body).server} state=${state} now=${now} />`;
  if (!answer) return html`<article class="detail"><${Back} /><h1 tabindex="-1" class="sentence">${t('page.loading')}</h1></article>`;
  return html`<${Absent} id=${id} text=${answer.status === 0 ? t('page.absent.answer') : t('page.absent.prompt')} />`;
}
