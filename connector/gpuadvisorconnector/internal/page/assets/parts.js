// Small parts that views share.

import { html, Component, useState } from './vendor.js';
import { t, withLanguage } from './text.js';
import { bareGiB, gib, none, together } from './format.js';

/** @typedef {import('./api').Condition} Condition */
/** @typedef {import('./api').Memory} Memory */
/** @typedef {import('./api').Process} Process */
/** @typedef {import('./api').State} State */
/** @typedef {Condition['severity']} Severity */

/**
 * memo is a component that is drawn again only if its properties changed.
 * @template {Record<string, any>} Props
 * @param {(props: Props) => any} draw
 */
export function memo(draw) {
  return class extends Component {
    /** @param {Record<string, any>} next */
    shouldComponentUpdate(next) {
      const props = /** @type {Record<string, any>} */ (this.props);
      const keys = new Set([...Object.keys(props), ...Object.keys(next)]);
      return [...keys].some((key) => props[key] !== next[key]);
    }

    /** @param {any} props */
    render(props) { return draw(props); }
  };
}

const shapes = {
  fine: 'M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm3.300 4.300L7 9.600 4.900 7.500l-1 1L7 11.500l5.300-5.200z',
  warning: 'M8 1.200 15.600 14.500H.4Zm-.8 4.600v4.400h1.600V5.800zm0 5.600V13h1.600v-1.600z',
  broken: 'M5 1h6l4 4v6l-4 4H5l-4-4V5Zm0 3.900L8.100 8 5 11.100l.9.9L9 8.900l3.100 3.100.9-.9L9.900 8 13 4.900l-.9-.9L9 7.100 5.900 4z',
};

/**
 * Icon is the sign of a severity. A word stands beside it, or is given for screen readers.
 * @param {{severity: Severity, word?: string}} props
 */
export function Icon({ severity, word }) {
  return html`<span class=${`icon ${severity}`}><svg viewBox="0 0 16 16" aria-hidden="true"><path fill-rule="evenodd" d=${shapes[severity]} /></svg>${word && html`<span class="hidden">${word}</span>`}</span>`;
}

/**
 * Load is how much a GPU has to do for ComfyUI, where that is more than normal.
 * @param {{load: import('./api').Load}} props
 */
export const Load = ({ load }) => html`<span class=${`${load.severity}-text`}><${Icon} severity=${load.severity} /> ${together(load.text)}</span>`;

/**
 * A is a link within the page.
 * @param {{href: string, children: any, [attribute: string]: any}} props
 */
export function A({ href, children, ...rest }) {
  return html`<a href=${withLanguage(href)} ...${rest}>${children}</a>`;
}

/** @type {Array<'needed' | 'elastic' | 'other'>} */
const memoryParts = ['needed', 'elastic', 'other'];

/**
 * memoryText is a GPU's memory for those who do not see the bar.
 * @param {Memory} m
 */
export function memoryText(m) {
  return t('page.memory.text', { used: gib(m.used), limit: gib(m.limit), needed: gib(m.needed), elastic: gib(m.elastic), other: gib(m.other), peak: gib(m.peak) });
}

/** MemoryBar is a GPU's memory in its parts, with the peak as a tick. */
export const MemoryBar = memo((/** @type {{memory: Memory | null}} */ { memory: m }) => {
  if (!m || !m.limit) return html`<span class="bar" />`;
  /** @param {number} v */
  const width = (v) => ({ width: `${Math.max(0, v / m.limit) * 100}%` });
  const reserved = Math.max(0, m.limit - m.free - m.used); // by the driver: it is among the other
  return html`<span class="bar" role="img" aria-label=${memoryText(m)} title=${memoryText(m)}>
    ${memoryParts.map((kind) => html`<span key=${kind} class=${`fill ${kind}`} style=${width(m[kind])} />`)}
    ${m.peak > 0 && html`<span class="tick" style=${{ left: `${Math.min(1, (m.peak + reserved) / m.limit) * 100}%` }} />`}
  </span>`;
});

/** MemoryLegend explains the bar. */
export function MemoryLegend() {
  return html`<span class="legend">${memoryParts.map((kind) => html`<span key=${kind}><i class=${`swatch ${kind}`} />${t(`page.memory.${kind}`)}</span>`)}<span><i class="swatch tick" />${t('page.memory.peak')}</span></span>`;
}

/**
 * Used is a GPU's memory in figures.
 * @param {{memory: Memory | null}} props
 */
export const Used = ({ memory: m }) => m ? html`<b>${bareGiB(m.used)}</b> / ${gib(m.limit)}` : none();

/** Sparkline is the utilisation of the last minutes. A gap is where there is no sample. */
export const Sparkline = memo((/** @type {{values: number[] | null | undefined}} */ { values }) => {
  if (!values?.length) return html`<span class="spark" />`;
  const last = Math.max(1, values.length - 1);
  let line = '';
  let area = '';
  let begin = '';
  values.forEach((v, i) => {
    if (v < 0) return;
    const x = (i / last * 100).toFixed(1);
    const y = (19 - v * 18).toFixed(1);
    const opens = i === 0 || values[i - 1] < 0;
    if (opens) begin = x;
    line += `${opens ? 'M' : 'L'}${x} ${y}`;
    area += opens ? `M${x} 20L${x} ${y}` : `L${x} ${y}`;
    if (i === values.length - 1 || values[i + 1] < 0) area += `L${x} 20L${begin} 20Z`;
  });
  return html`<svg class="spark" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true"><path class="area" d=${area} /><path class="line" d=${line} /></svg>`;
});

/**
 * Copy is a button that copies a text.
 * @param {{text: string, label: string}} props
 */
export function Copy({ text, label }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // there is no clipboard without https, save on localhost
      const field = document.createElement('textarea');
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand('copy');
      field.remove();
    }
    setDone(true);
    setTimeout(() => setDone(false), 2000);
  };
  return html`<button class="copy" onClick=${copy} aria-label=${label}><span aria-live="polite">${done ? t('page.copied') : t('page.copy')}</span></button>`;
}

/**
 * Empty says that something is absent, and why.
 * @param {{children: any}} props
 */
export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

/**
 * gpuName is a GPU's name by its id, or what it was called.
 * @param {State} state
 * @param {string} id
 */
export const gpuName = (state, id) => (state.gpus ?? []).find((gpu) => gpu.id === id)?.name ?? id;

/**
 * gpuNames are the names of GPUs by their ids.
 * @param {State} state
 * @param {string[] | null | undefined} ids
 */
export const gpuNames = (state, ids) => (ids ?? []).map((id) => gpuName(state, id)).join(', ');

/**
 * processName is a process's name, or its PID where the driver or the kernel gives none.
 * @param {Process} p
 */
export const processName = (p) => p.name || t('page.process.unnamed', { pid: p.pid });

/**
 * sameCondition reports whether two conditions are one. A verdict that all is well has no id.
 * @param {Condition} a
 * @param {Condition} b
 */
export const sameCondition = (a, b) => a.id === b.id;
