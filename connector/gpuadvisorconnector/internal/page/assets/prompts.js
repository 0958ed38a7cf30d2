// Prompts that ended: the last ones of the first screen, and the search with its summary of
// workflows.

import { html, useEffect, useRef, useState } from './vendor.js';
import { t, api, withLanguage } from './text.js';
import { clock, energy, gib, moment, seconds, task } from './format.js';
import { A, Empty, Icon, memo } from './parts.js';

/** @typedef {import('./api').Prompt} Prompt */
/** @typedef {import('./api').Workflow} Workflow */
/** @typedef {import('./api').Prompts} Answer */
/** @typedef {{target: HTMLInputElement | HTMLSelectElement}} Changed */

/**
 * severity is the sign of a prompt's outcome.
 * @param {Prompt} p
 */
export const severity = (p) => {
  if (p.outcome === 'success') return p.slow ? 'warning' : 'fine';
  return ['interrupted', 'cancelled', 'unfinished', 'refused'].includes(p.outcome) ? 'warning' : 'broken';
};

/**
 * outcome is the outcome in a word. Any service may send traces, with outcomes of its own.
 * @param {Prompt} p
 */
export function outcome(p) {
  if (p.outcome === 'success' && p.slow) return t('page.outcome.slow');
  const key = `page.outcome.${p.outcome}`;
  const word = t(key);
  return word === key ? p.outcome : word;
}

/**
 * result is the outcome in a word, and why. A reason of a prompt that was refused has the word, and so may
 * others: in Chinese at their end.
 * @param {Prompt} p
 * @param {string} reason
 */
function result(p, reason) {
  const word = outcome(p);
  if (!reason) return word;
  return p.outcome === 'refused' || reason.startsWith(word) || reason.endsWith(word) ? reason : `${word} · ${reason}`;
}

const Row = memo((/** @type {{prompt: Prompt, longest: number}} */ { prompt: p, longest }) => {
  const reason = p.reason || (p.bill ? '' : t('page.nobill.short'));
  /** @param {number} v */
  const width = (v) => ({ width: `${Math.min(100, v / longest * 100)}%` });
  return html`<tr class="prompt">
    <td class="when figure" title=${moment(p.ended)}>${clock(p.ended)}</td>
    <th scope="row" class="task"><${A} href=${`/prompts/${encodeURIComponent(p.id)}`} class="cover" title=${task(p)}>${task(p)}<//></th>
    <td class="figure waited" data-label=${t('page.waited')}>${seconds(p.waited)}</td>
    <td class="figure ran" data-label=${t('page.ran')}>${seconds(p.ran)}</td>
    <td class="times"><span class="bar" aria-hidden="true"><span class="fill waiting" style=${width(p.waited)} /><span class="fill work" style=${width(p.ran)} /></span></td>
    <td class="figure peak" data-label=${t('page.memory')}>${gib(p.bill?.memory_peak)}</td>
    <td class="figure energy" data-label=${t('page.energy')}>${energy(p.bill?.energy, p.bill?.energy_uncertainty)}</td>
    <td class=${p.reason ? 'reason' : 'reason dim'} title=${p.reason || p.no_bill || ''}><${Icon} severity=${severity(p)} /> ${result(p, reason)}</td>
  </tr>`;
});

/**
 * Table lists prompts. A row is made again for another prompt: what is on the screen does not move.
 * On the first screen names, which others choose, are on one line: a row that grows would move those
 * below it.
 * @param {{prompts: Prompt[], caption: string, isShort?: boolean}} props
 */
function Table({ prompts, caption, isShort }) {
  const longest = Math.max(0.001, ...prompts.map((p) => p.waited + p.ran));
  const columns = ['ended', 'task', 'waited', 'ran', 'times', 'peak', 'energy', 'reason'];
  return html`<table class=${isShort ? 'prompts short' : 'prompts'}><caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map((c) => html`<th scope="col" key=${c} class=${c}>${t(`page.column.${c}`)}</th>`)}</tr></thead>
    <tbody>${prompts.map((p, i) => html`<${Row} key=${`${i} ${p.id}`} prompt=${p} longest=${longest} />`)}</tbody></table>`;
}

/**
 * useFrozen returns a list that does not change while the reader points at it or is in it, the
 * properties of the element that it is in, which stays, and whether a newer list waits. The list of
 * another query replaces it at once, and so does any list one that is empty.
 * @param {Prompt[]} list
 * @param {string} query
 * @returns {[shown: Prompt[], props: Record<string, unknown>, waits: boolean]}
 */
function useFrozen(list, query) {
  const shown = useRef({ list, query });
  const [frozen, freeze] = useState(false);
  if (!frozen || query !== shown.current.query || !shown.current.list.length) shown.current = { list, query };
  /** @param {FocusEvent & {currentTarget: HTMLElement, relatedTarget: Node | null}} event */
  const leave = (event) => { if (!event.currentTarget.contains(event.relatedTarget)) freeze(false); };
  const props = { onMouseEnter: () => freeze(true), onMouseLeave: () => freeze(false), onfocusin: () => freeze(true), onfocusout: leave };
  return [shown.current.list, props, frozen && shown.current.list[0]?.id !== list[0]?.id];
}

const filters = [['slowest', '/?view=prompts&sort=slowest'], ['slow', '/?view=prompts&slow=true'], ['failed', '/?view=prompts&outcome=failed'], ['all', '/?view=prompts']];

/**
 * Last shows the newest prompts, with ways to the slow and failed ones.
 * @param {{prompts: Prompt[] | null, held: number, count: number, isFed: boolean}} props
 */
export function Last({ prompts, held, count, isFed }) {
  const [shown, props, waits] = useFrozen(prompts ?? [], '');
  return html`<section class="last" aria-labelledby="last"><div class="heading"><h2 id="last">${t('page.prompts.last')}</h2>
      ${waits && html`<span class="dim" role="status">${t('page.prompts.paused')}</span>`}
      ${held > 0 && html`<nav aria-label=${t('page.prompts.find')}>${filters.map(([name, href]) => html`<${A} key=${name} href=${href} class="chip">${t(`page.filter.${name}`)}<//>`)}</nav>`}</div>
    <div ...${props}>${shown.length > 0 && html`<${Table} prompts=${shown.slice(0, count)} caption=${t('page.prompts.last')} isShort=${true} />`}</div>
    ${shown.length ? html`<p class="dim">${t('page.prompts.held', { n: held })}</p>` : html`<${Empty}>${isFed ? t('page.absent.prompts') : t('page.absent.comfyui')}<//>`}
  </section>`;
}

/** @param {{workflows: Workflow[], matched: number, choose: (workflow: string) => void}} props */
function Workflows({ workflows, matched, choose }) {
  const columns = ['workflow', 'prompts', 'failed', 'median', 'slowest', 'peak', 'energy'];
  return html`<section aria-labelledby="workflows"><h2 id="workflows">${t('page.workflows')}</h2>
    <table class="workflows"><thead><tr>${columns.map((c) => html`<th scope="col" key=${c} class=${c}>${t(`page.workflows.${c}`)}</th>`)}</tr></thead>
      <tbody>${workflows.map((w) => html`<tr key=${w.workflow}>
        <th scope="row"><button class="link" onClick=${() => choose(w.workflow)}>${w.workflow || t('page.workflow.none')}</button></th>
        <td class="figure" data-label=${t('page.workflows.prompts')}>${w.prompts}</td>
        <td class="figure" data-label=${t('page.workflows.failed')}>${w.failed > 0 ? html`<${Icon} severity="broken" /> ${w.failed}` : 0}</td>
        <td class="figure" data-label=${t('page.workflows.median')}>${seconds(w.median)}</td>
        <td class="figure" data-label=${t('page.workflows.slowest')}>${seconds(w.slowest)}</td>
        <td class="figure" data-label=${t('page.workflows.peak')}>${gib(w.memory_peak)}</td>
        <td class="figure" data-label=${t('page.workflows.energy')}>${energy(w.energy_mean)}</td>
      </tr>`)}</tbody></table>
    ${matched > workflows.length && html`<p class="dim">${t('page.workflows.rest', { n: matched - workflows.length })}</p>`}</section>`;
}

const names = ['q', 'outcome', 'slow', 'sort', 'workflow'];

/** @type {Record<string, {slow?: string, outcome?: string}>} */
const kinds = { all: {}, slow: { slow: 'true' }, failed: { outcome: 'failed' }, success: { outcome: 'success' } };
// The outcomes that are no success, by themselves.
const outcomes = ['error', 'interrupted', 'cancelled', 'rejected', 'refused', 'lost', 'unfinished'];
for (const name of outcomes) kinds[name] = { outcome: name };

/** @param {string} name */
const kindName = (name) => outcomes.includes(name) ? t(`page.filter.only`, { outcome: t(`page.outcome.${name}`) }) : t(`page.filter.${name}`);

/**
 * Search finds prompts by id, workflow, model and outcome. The address has the query.
 * @param {{query: URLSearchParams}} props
 */
export function Search({ query }) {
  const [form, setForm] = useState(() => /** @type {Record<string, string>} */ (Object.fromEntries(names.map((name) => [name, query.get(name) ?? '']))));
  const [{ answer, of }, setAnswer] = useState({ answer: /** @type {Answer | null} */ (null), of: '' });
  const [failed, setFailed] = useState(false);
  const [shown, props, waits] = useFrozen(answer?.prompts ?? [], of);
  /** @param {Record<string, string>} change */
  const set = (change) => setForm((before) => ({ ...before, ...change }));
  const wanted = new URLSearchParams(Object.entries(form).filter(([, value]) => value)).toString();
  useEffect(() => {
    history.replaceState(null, '', withLanguage(`/?view=prompts${wanted && `&${wanted}`}`));
    let ended = false;
    const load = async () => {
      const { status, body } = await api(`/v1/prompts?${wanted}&limit=100`);
      if (ended) return;
      setFailed(status !== 200);
      if (status === 200) setAnswer({ answer: body, of: wanted });
    };
    const first = setTimeout(load, answer ? 200 : 0);
    const again = setInterval(() => document.hidden || load(), 5000);
    return () => { ended = true; clearTimeout(first); clearInterval(again); };
  }, [wanted]);
  const kind = Object.keys(kinds).find((k) => (kinds[k].slow ?? '') === form.slow && (kinds[k].outcome ?? '') === form.outcome) ?? 'all';
  return html`<div class="search">
    <h1 tabindex="-1">${t('page.prompts')}</h1>
    <form role="search" class="form" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <label>${t('page.search')} <input type="search" value=${form.q} placeholder=${t('page.search.hint')} onInput=${(/** @type {Changed} */ e) => set({ q: e.target.value })} /></label>
      <label>${t('page.search.kind')} <select value=${kind} onChange=${(/** @type {Changed} */ e) => set({ slow: '', outcome: '', ...kinds[e.target.value] })}>${Object.keys(kinds).map((k) => html`<option key=${k} value=${k}>${kindName(k)}</option>`)}</select></label>
      <label>${t('page.search.sort')} <select value=${form.sort || 'newest'} onChange=${(/** @type {Changed} */ e) => set({ sort: e.target.value === 'newest' ? '' : e.target.value })}>${['newest', 'slowest'].map((k) => html`<option key=${k} value=${k}>${t(`page.sort.${k}`)}</option>`)}</select></label>
      ${form.workflow && html`<button class="chip" onClick=${() => set({ workflow: '' })}>${form.workflow} ✕<span class="hidden">${t('page.search.clear')}</span></button>`}
    </form>
    ${failed && html`<${Empty}>${t('page.absent.answer')}<//>`}
    ${answer && html`<p class="dim" role="status">${t('page.prompts.matched', { n: answer.matched, held: answer.held })} ${waits && t('page.prompts.paused')}</p>
      <div ...${props}>${shown.length ? html`<${Table} prompts=${shown} caption=${t('page.prompts')} />` : html`<${Empty}>${answer.held ? t('page.absent.matches') : t('page.absent.prompts')}<//>`}</div>
      ${answer.matched > shown.length && html`<p class="dim">${t(`page.prompts.listed.${new URLSearchParams(of).get('sort') === 'slowest' ? 'slowest' : 'newest'}`, { n: shown.length })}</p>`}
      ${answer.workflows && answer.workflows.length > 0 && html`<${Workflows} workflows=${answer.workflows} matched=${answer.workflows_matched} choose=${(/** @type {string} */ workflow) => set({ workflow })} />`}`}
  </div>`;
}
