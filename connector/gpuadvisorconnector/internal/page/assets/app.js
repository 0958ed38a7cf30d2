// The page: its frame, its addresses, and the first screen.

import { html, render, useEffect, useRef, useState } from './vendor.js';
import { t, language, withLanguage, api } from './text.js';
import { age, clock, isKnown, moment, together, zone } from './format.js';
import { store, subscribe, start, serverNow } from './stream.js';
import { A, Empty, Icon, gpuName, sameCondition } from './parts.js';
import { Gpus } from './gpus.js';
import { Gpu } from './gpu.js';
import { Queue, WholeQueue } from './queue.js';
import { Last, Search } from './prompts.js';
import { Absent, Prompt } from './prompt.js';

/** @typedef {import('./api').State} State */
/** @typedef {import('./api').Alert} Alert */

// The newest sample is old after this many seconds, even where the collector has not decided
// that samples have stopped: it knows the scrape interval, and intervals of a minute are usual.
const oldAfter = 90;

/** @param {{href?: string}} props */
const Runbook = ({ href }) => href ? html`<a href=${href} rel="noreferrer" class="why">${t('page.why')}</a>` : null;

/**
 * Verdict is the line on top: what is broken, and what to do. Without a connection it is what was known
 * last, and all may no longer be well.
 * @param {{state: State}} props
 */
function Verdict({ state }) {
  const v = state.verdict;
  const others = (state.conditions ?? []).filter((c) => !sameCondition(c, v)).length;
  const severity = store.lost && v.severity === 'fine' ? 'warning' : v.severity;
  return html`<div class=${`verdict ${severity}${store.lost ? ' faded' : ''}`}><${Icon} severity=${severity} word=${t(`page.severity.${severity}`)} />
    <div><p class="text">${store.lost ? t('page.lost.last', { text: together(v.text) }) : together(v.text)}</p><p class="remedy">${together(v.remedy)} <${Runbook} href=${v.runbook} /></p></div>
    ${others > 0 && html`<${A} href="/#conditions" class="chip">${t('page.conditions.more', { n: others })}<//>`}</div>`;
}

/**
 * Announced is what a screen reader says of the top: something only when it becomes something else. What
 * is seen there has ages and counts, which would be said each second.
 * @param {{state: State}} props
 */
function Announced({ state }) {
  const { severity, id, text } = state.verdict;
  const cause = store.busy ? 'page.lost.busy' : store.lost ? 'page.lost.announced' : `${severity} ${id}`;
  const said = useRef({ cause: '', text: '' });
  if (said.current.cause !== cause) said.current = { cause, text: store.lost ? t(cause) : text };
  return html`<p class="hidden" role="status">${said.current.text}</p>`;
}

function Rush() {
  const [notice, setNotice] = useState('');
  const go = async () => {
    setNotice('sent');
    const { status } = await api('/v1/rush', { method: 'POST' });
    setNotice(status === 202 ? 'started' : 'failed');
    setTimeout(() => setNotice(''), 8000);
  };
  return html`<button class="chip" onClick=${go} disabled=${notice !== ''}><span role="status">${['', 'sent'].includes(notice) ? t('page.rush') : t(`page.rush.${notice}`)}</span></button>`;
}

/** Languages are links to the page in the others. */
function Languages() {
  /** @param {string} l */
  const to = (l) => {
    const url = new URL(location.href);
    url.searchParams.set('lang', l);
    return url.pathname + url.search;
  };
  return html`<nav aria-label=${t('page.language')} class="languages">${['en', 'zh'].map((l) => l === language ? html`<span key=${l} lang=${l} aria-current="true">${t(`page.language.${l}`)}</span>` : html`<a key=${l} lang=${l} hreflang=${l} data-native href=${to(l)}>${t(`page.language.${l}`)}</a>`)}</nav>`;
}

/** @param {{state: State, now: number}} props */
function Context({ state, now }) {
  const newest = isKnown(state.newest_sample) ? (now - Date.parse(state.newest_sample)) / 1000 : null;
  const gpus = state.gpus ?? [];
  const stopped = newest !== null && gpus.length > 0 && gpus.every((gpu) => gpu.state === 'unknown');
  const old = newest !== null && (stopped || newest > oldAfter);
  return html`<p class="context"><b>${state.host}</b>
    <span>${t('page.gpus.count', { n: state.gpus?.length ?? 0 })}</span>
    <span>${t('page.servers.count', { n: state.servers?.length ?? 0 })}</span>
    <span class=${old ? 'warning-text' : ''}>${old && html`<${Icon} severity="warning" /> `}${newest === null ? t('page.newest.none') : stopped ? t('page.newest.since', { time: clock(state.newest_sample ?? '') }) : t('page.newest.age', { age: age(newest) })}</span>
    <span class="dim">${t('page.times', { zone: zone() })}</span></p>`;
}

/** @param {{state: State, now: number}} props */
function Head({ state, now }) {
  return html`<header>
    ${state.simulated && html`<p class="band simulated"><b>${t('page.simulated')}</b> ${t('page.simulated.more')}</p>`}
    ${store.lost > 0 && html`<p class="band lost"><${Icon} severity="broken" /> ${store.busy ? t('page.lost.busy') : t('page.lost', { age: age((Date.now() - store.lost) / 1000) })}</p>`}
    <${Verdict} state=${state} /><${Announced} state=${state} />
    <div class="bar-top"><${Context} state=${state} now=${now} />
      <div class="tools">${state.can_rush && html`<${Rush} />`}<${Languages} />
        ${document.documentElement.dataset.signedIn !== undefined && html`<form method="post" action="/sign-out"><button class="chip">${t('page.signout')}</button></form>`}</div></div>
  </header>`;
}

/** @param {{state: State}} props */
function Conditions({ state }) {
  const others = (state.conditions ?? []).filter((c) => !sameCondition(c, state.verdict));
  if (!others.length) return null;
  return html`<section aria-labelledby="conditions"><h2 id="conditions" tabindex="-1">${t('page.conditions')}</h2>
    <ul class="notes">${others.map((c) => html`<li key=${c.id}><${Icon} severity=${c.severity} word=${t(`page.severity.${c.severity}`)} /><div><b>${together(c.text)}</b> ${together(c.remedy)} <${Runbook} href=${c.runbook} /></div></li>`)}</ul></section>`;
}

/** @param {Alert} a */
const alertSeverity = (a) => a.severity === 'critical' ? 'broken' : 'warning';

/** @param {{alerts: State['alerts'], now: number}} props */
function Alerts({ alerts, now }) {
  if (!alerts) return null;
  return html`<section aria-labelledby="alerts"><h2 id="alerts">${t('page.alerts')}</h2>
    ${alerts.error ? html`<p class="empty"><${Icon} severity="warning" word=${t('page.severity.warning')} /> ${t('page.alerts.error', { source: alerts.source, error: alerts.error })}</p>`
      : alerts.firing?.length ? html`<ul class="notes">${alerts.firing.map((a, i) => html`<li key=${i}><${Icon} severity=${alertSeverity(a)} word=${a.severity} /><div><b>${a.name}</b> ${a.summary} <span class="dim">${t('page.since', { age: age((now - Date.parse(a.since)) / 1000) })}</span> <${Runbook} href=${a.runbook} /></div></li>`)}</ul>`
        : html`<${Empty}>${t('page.absent.alerts')}<//>`}</section>`;
}

/** @param {{events: State['events'], state: State}} props */
function Events({ events, state }) {
  if (!events?.length) return null;
  return html`<section aria-labelledby="events"><h2 id="events">${t('page.events')}</h2>
    <ul class="notes">${events.slice(0, 10).map((e, i) => html`<li key=${i}><${Icon} severity=${e.severity} word=${t(`page.severity.${e.severity}`)} /><div><span class="figure dim" title=${moment(e.time)}>${clock(e.time)}</span> ${e.gpu && html`<b>${gpuName(state, e.gpu)}</b>`} ${e.text}${e.remedy && html`<p>${e.remedy}</p>`}
      ${e.prompt && html` <${A} href=${`/prompts/${encodeURIComponent(e.prompt)}`}>${t('page.event.prompt')}<//>`}</div></li>`)}</ul></section>`;
}

/**
 * promptRows is how many prompts the first screen has room for.
 * @param {number} gpus
 */
const promptRows = (gpus) => gpus > 8 ? 8 : Math.max(5, 16 - 2 * gpus);

/** @param {{state: State, now: number}} props */
function Overview({ state, now }) {
  const gpus = state.gpus?.length ?? 0;
  return html`<div class="overview">
    <h1 class="hidden" tabindex="-1">${t('page.title')}</h1>
    <div class="main"><${Gpus} gpus=${state.gpus} />
      <${Last} prompts=${state.prompts} held=${state.prompts_held} count=${promptRows(gpus)} isFed=${(state.servers ?? []).length > 0} /></div>
    <div class="side"><${Queue} state=${state} now=${now} />
      <div class="more"><${Conditions} state=${state} /><${Alerts} alerts=${state.alerts} now=${now} /><${Events} events=${state.events} state=${state} /></div></div>
  </div>`;
}

/**
 * unescaped decodes a part of an address; null if its escapes are not valid (%FF).
 * @param {string} part
 */
function unescaped(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

/** @param {{state: State, now: number}} props */
function View({ state, now }) {
  const query = new URLSearchParams(location.search);
  const [, prompt] = location.pathname.match(/^\/prompts\/(.+)$/) ?? [];
  if (prompt) {
    const id = unescaped(prompt);
    return id === null ? html`<${Absent} id=${prompt} text=${t('page.absent.prompt')} />` : html`<${Prompt} key=${prompt} id=${id} state=${state} now=${now} />`;
  }
  if (query.has('gpu')) return html`<${Gpu} key=${query.get('gpu')} name=${query.get('gpu')} state=${state} />`;
  if (query.has('queue')) return html`<${WholeQueue} key=${query.get('queue')} name=${query.get('queue')} state=${state} now=${now} />`;
  if (query.get('view') === 'prompts') return html`<div class="detail"><p class="back"><${A} href="/">← ${t('page.back')}<//></p><${Search} query=${query} /></div>`;
  return html`<${Overview} state=${state} now=${now} />`;
}

// A tab in the background shows by its title that something is wrong.
const signs = { fine: '', warning: '! ', broken: '✕ ' };

function App() {
  const [, draw] = useState(0);
  useEffect(() => {
    const again = () => draw((n) => n + 1);
    const ends = subscribe(again);
    const ticker = setInterval(() => document.hidden || again(), 1000); // ages grow
    addEventListener('popstate', again);
    addEventListener('navigate-here', again);
    return () => { ends(); clearInterval(ticker); removeEventListener('popstate', again); removeEventListener('navigate-here', again); };
  }, []);
  const { state } = store;
  const now = store.lost ? Date.parse(state.time) : serverNow(); // ages are of one moment with the rest
  useEffect(() => { document.title = `${signs[state.verdict.severity]}${state.host} · ${t('page.title')}`; }, [state.verdict.severity, state.host]);
  return html`<a class="skip" href="#content" data-native>${t('page.skip')}</a>
    <${Head} state=${state} now=${now} />
    <main id="content" class=${store.lost ? 'faded' : ''}><${View} state=${state} now=${now} /></main>`;
}

/**
 * follow shows another view of the page for a link to one.
 * @param {MouseEvent} event
 */
function follow(event) {
  const link = /** @type {Element} */ (event.target).closest('a');
  if (!link?.hasAttribute('href') || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || 'native' in link.dataset || !(url.pathname === '/' || url.pathname.startsWith('/prompts/'))) return;
  event.preventDefault();
  history.pushState(null, '', withLanguage(url.pathname + url.search));
  dispatchEvent(new Event('navigate-here'));
  setTimeout(() => {
    /** @type {HTMLElement | null} */
    const target = url.hash ? document.querySelector(url.hash) : document.querySelector('main h1');
    target?.focus({ preventScroll: !url.hash });
    if (url.hash) target?.scrollIntoView();
    else scrollTo(0, 0);
  });
}

document.addEventListener('click', follow);
render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById('app')));
start();
