// Texts of the catalogue, and requests in the page's language.

/** @type {Record<string, string | {one: string, other: string}>} */
const catalogue = JSON.parse(document.getElementById('texts')?.textContent ?? '{}');

export const language = document.documentElement.lang;

/**
 * t is a text with its placeholders filled in. args.n decides between singular and plural.
 * @param {string} key
 * @param {Record<string, unknown>} args
 * @returns {string}
 */
export function t(key, args = {}) {
  let text = catalogue[key] ?? key;
  if (typeof text === 'object') text = args.n === 1 ? text.one : text.other;
  return text.replace(/\{([a-z_]+)\}/g, (all, name) => name in args ? String(args[name]) : all);
}

/**
 * withLanguage adds the language to an address if the reader chose it.
 * @param {string} path
 */
export function withLanguage(path) {
  const chosen = new URLSearchParams(location.search).get('lang');
  if (!chosen) return path;
  const url = new URL(path, location.origin);
  url.searchParams.set('lang', chosen);
  return url.pathname + url.search;
}

// After so many milliseconds a request is given up: one that hangs keeps one of the browser's six
// connections.
const patience = 30_000;

/**
 * api requests JSON in the page's language; status is 0 if there is no answer.
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<{status: number, body: any}>}
 */
export async function api(path, options = {}) {
  const url = new URL(path, location.origin);
  url.searchParams.set('lang', language);
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(patience), ...options });
    if (response.status === 401) location.reload(); // leads to the sign-in
    const body = response.headers.get('Content-Type')?.includes('json') ? await response.json() : null;
    return { status: response.status, body };
  } catch {
    return { status: 0, body: null };
  }
}
