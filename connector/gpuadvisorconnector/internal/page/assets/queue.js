// What waits and runs on each ComfyUI server, and its sockets.

import { html, useEffect, useState } from './vendor.js';
import { t, api } from './text.js';
import { age, task, together } from './format.js';
import { A, Empty, Icon, gpuNames } from './parts.js';
import { Absent, Back } from './prompt.js';

/** @typedef {import('./api').Node} Node */
/** @typedef {import('./api').OpenPrompt} OpenPrompt */
/** @typedef {import('./api').Socket} Socket */
/** @typedef {import('./api').State} State */
/** @typedef {import('./api').Server} ServerState */

// As many prompts of a server have a line of their own, even where fewer wait: then nothing
// below moves. A line stays when the queue moves on, and is that of the next prompt.
/** @type {Record<number, number>} */
const maxPrompts = { 1: 6, 2: 4, 3: 3 };

/** @param {{node: Node}} props */
const Progress = ({ node }) => html`<progress class="progress" max=${node.of || 1} value=${Math.max(0, node.number - 1) + (node.steps ? node.step / node.steps : 0)} aria-label=${t('page.progress')} />`;

/** @param {{prompt: OpenPrompt, now: number}} props */
function Open({ prompt: p, now }) {
  const since = Math.max(0, (now - Date.parse(p.since)) / 1000);
  return html`<li class=${`open ${p.state}`}>
    <${A} href=${`/prompts/${encodeURIComponent(p.id)}`} class="cover">${task(p)}<//>
    <span class="figure dim">${age(since)}</span>
    <span class="text dim">${p.text}</span>
    ${p.node ? html`<${Progress} node=${p.node} />` : html`<span class="progress" />`}
  </li>`;
}

// Sockets without a client are one text, and have no time.
/** @param {Socket} socket */
const socketKey = (socket) => socket.state === 'kept' ? socket.state : socket.since;

/**
 * Sockets says which clients do not respond or have left, above the lines that a server's queue has
 * room for: below them it would read as the next server's. It has its lines even where there is nothing
 * to say: else the queue would move.
 * @param {{server: ServerState, isSingle?: boolean}} props
 */
function Sockets({ server: s, isSingle }) {
  const all = s.sockets ?? [];
  return html`<p class=${isSingle ? 'sockets single' : 'sockets'} title=${all.map((socket) => together(socket.text)).join(' · ')}>${all.map((socket) => html`<span class="socket" key=${socketKey(socket)}><${Icon} severity="warning" /> ${together(socket.text)}</span>`)}</p>`;
}

/** @param {{server: ServerState}} props */
const Totals = ({ server: s }) => s.up ? html`<p class="totals">
    <span><b>${s.running}</b> ${t('page.queue.running')}</span><span><b>${s.waiting}</b> ${t('page.queue.waiting')}</span>
    ${s.oldest_wait > 0 && html`<span>${t('page.queue.oldest', { age: age(s.oldest_wait) })}</span>`}
  </p>` : html`<p class="totals"><span><${Icon} severity="broken" /> ${t('page.server.down')}</span></p>`;

/** @param {{server: ServerState, state: State, now: number, lines: number}} props */
function Server({ server: s, state, now, lines }) {
  const prompts = s.prompts ?? [];
  const shown = prompts.length > lines ? prompts.slice(0, lines - 1) : prompts;
  const rest = s.listed - shown.length;
  return html`<section class="server">
    <h3>${s.name} <span class="on" title=${gpuNames(state, s.gpus)}>${gpuNames(state, s.gpus)}</span>${s.sockets_open > 0 && html` <span class="dim">${t('page.sockets', { n: s.sockets_open })}</span>`}</h3>
    <${Totals} server=${s} />
    <${Sockets} server=${s} isSingle=${lines < 4} />
    <ol class=${`queue lines-${lines}`}>
      ${shown.map((p, i) => html`<${Open} key=${i} prompt=${p} now=${now} />`)}
      ${rest > 0 && html`<li><${A} href=${`/?queue=${encodeURIComponent(s.name)}`} class="rest">${t('page.queue.rest', { n: rest })}<//></li>`}
      ${prompts.length === 0 && s.up && html`<li class="dim">${t('page.queue.empty')}</li>`}
    </ol>
  </section>`;
}

/**
 * Queue is what waits and runs, by server with its GPUs.
 * @param {{state: State, now: number}} props
 */
export function Queue({ state, now }) {
  const { servers } = state;
  const lines = maxPrompts[servers?.length ?? 0] ?? 2;
  return html`<section class="all-queues" aria-labelledby="queue"><h2 id="queue">${t('page.queue')}</h2>
    ${servers?.length ? servers.map((s) => html`<${Server} key=${s.name} server=${s} state=${state} now=${now} lines=${lines} />`) : html`<${Empty}>${t('page.absent.comfyui')}<//>`}
  </section>`;
}

/**
 * WholeQueue is the page of a server's queue: each prompt that is known of it. The state has the
 * first ones only.
 * @param {{name: string, state: State, now: number}} props
 */
export function WholeQueue({ name, state, now }) {
  const [answer, setAnswer] = useState(/** @type {ServerState | null} */ (null));
  const first = (state.servers ?? []).find((s) => s.name === name);
  const isKnown = Boolean(first);
  useEffect(() => {
    let ended = false;
    const load = async () => {
      const { status, body } = await api(`/v1/queue?server=${encodeURIComponent(name)}`);
      if (!ended && status === 200) setAnswer(body);
    };
    if (isKnown) load();
    const again = setInterval(() => isKnown && !document.hidden && load(), 2000);
    return () => { ended = true; clearInterval(again); };
  }, [name, isKnown]);
  if (!first) return html`<${Absent} id=${name} text=${t('page.absent.server')} />`;
  const s = answer ?? first;
  return html`<article class="detail"><${Back} />
    <h1 tabindex="-1">${t('page.queue.of', { name })} <span class="on dim">${gpuNames(state, s.gpus)}</span></h1>
    <${Totals} server=${s} />
    <${Sockets} server=${s} />
    <ol class="queue whole">${(s.prompts ?? []).map((p, i) => html`<${Open} key=${i} prompt=${p} now=${now} />`)}
      ${!s.prompts?.length && s.up && html`<li class="dim">${t('page.queue.empty')}</li>`}</ol>
  </article>`;
}
