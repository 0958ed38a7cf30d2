// The state of the page: what the server sent last, kept current by its stream of events.

import { api, language } from './text.js';

/** @typedef {import('./api').State} State */
/** @typedef {import('./api').Change} Change */

// A stream is silent for ten seconds at most: the server sends a beat.
const silence = 25_000;
// It begins within ten.
const opening = 10_000;

export const store = {
  /** @type {State} */
  state: JSON.parse(document.getElementById('state')?.textContent ?? '{}'),
  // lost is when the connection was lost; busy is true if the server is there, but refuses streams.
  lost: 0,
  busy: false,
  // offset is how far the server's clock is ahead of ours.
  offset: 0,
};

/** @type {Set<() => void>} */
const readers = new Set();

/**
 * subscribe calls f after each change. It returns what ends that.
 * @param {() => void} f
 * @returns {() => void}
 */
export function subscribe(f) {
  readers.add(f);
  return () => { readers.delete(f); };
}

const publish = () => readers.forEach((f) => f());

/** serverNow is the present time by the server's clock, in milliseconds. */
export const serverNow = () => Date.now() + store.offset;

/**
 * lists are the lists of a state that changes come in parts of: their name, the name of their
 * order, and what identifies an item.
 * @type {Array<[name: 'gpus' | 'servers' | 'prompts', order: 'gpu_order' | 'server_order' | 'prompt_order', id: string]>}
 */
const lists = [['gpus', 'gpu_order', 'id'], ['servers', 'server_order', 'name'], ['prompts', 'prompt_order', 'id']];

/**
 * apply returns a state after a change. What did not change stays the same object.
 * @param {State} state
 * @param {Change} change
 * @returns {State}
 */
export function apply(state, change) {
  /** @type {Record<string, any>} */
  const next = { ...state };
  for (const [key, value] of Object.entries(change)) {
    if (!lists.some(([name, order]) => key === name || key === order)) next[key] = value;
  }
  for (const [name, order, id] of lists) {
    if (!change[name] && !change[order]) continue;
    const before = /** @type {Array<Record<string, any>>} */ (state[name] ?? []);
    const items = new Map(before.map((item) => [item[id], item]));
    for (const [key, item] of Object.entries(change[name] ?? {})) items.set(key, item);
    const keys = change[order] ?? before.map((item) => item[id]);
    next[name] = keys.map((/** @type {string} */ key) => items.get(key)).filter(Boolean);
  }
  return /** @type {State} */ (next);
}

/** @type {EventSource | null} */
let source = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let retry;
let failures = 0;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let watchdog;

/** @param {string} time */
function settle(time) {
  if (time) store.offset = Date.parse(time) - Date.now();
  clearTimeout(watchdog);
  watchdog = setTimeout(fail, silence);
}

function connect() {
  clearTimeout(retry);
  if (source || document.hidden) return;
  clearTimeout(watchdog);
  watchdog = setTimeout(fail, opening);
  source = new EventSource(`/v1/events?lang=${language}`);
  source.addEventListener('version', (event) => {
    const version = JSON.parse(event.data);
    const known = document.documentElement.dataset.version;
    if (version !== known && sessionStorage.getItem('reloaded') !== version) {
      sessionStorage.setItem('reloaded', version); // once, if something between keeps an old page
      location.reload();
    }
  });
  source.addEventListener('state', (event) => {
    store.state = JSON.parse(event.data);
    store.lost = failures = 0;
    store.busy = false;
    settle(store.state.time);
    publish();
  });
  source.addEventListener('change', (event) => {
    const change = JSON.parse(event.data);
    store.state = apply(store.state, change);
    settle(change.time);
    publish();
  });
  source.addEventListener('beat', (event) => settle(JSON.parse(event.data).time));
  source.onerror = fail;
}

function disconnect() {
  clearTimeout(retry);
  clearTimeout(watchdog);
  source?.close();
  source = null;
}

async function fail() {
  disconnect();
  failures++;
  store.lost ||= Date.now();
  publish();
  retry = setTimeout(connect, Math.min(5000, 500 * 2 ** Math.min(failures, 4)));
  const { status } = await api('/v1/texts'); // 401 leads to the sign-in
  store.busy = status === 200 && failures > 2;
}

/** start connects while the tab is seen: a browser opens six connections to a server at most. */
export function start() {
  settle(store.state.time);
  document.addEventListener('visibilitychange', () => document.hidden ? disconnect() : connect());
  addEventListener('pagehide', disconnect);
  addEventListener('pageshow', connect);
  connect();
}
