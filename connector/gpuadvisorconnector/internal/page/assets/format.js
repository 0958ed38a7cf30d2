// Figures with their units: three significant digits, of which index.go makes the same. Counts, ages,
// temperatures and percentages are whole.

import { t, language } from './text.js';

export const none = () => t('page.none');

/**
 * known reports whether there is a figure.
 * @param {number | null | undefined} v
 * @returns {v is number}
 */
const known = (v) => v !== null && v !== undefined && Number.isFinite(v);

/**
 * digits rounds to three significant digits; whole numbers keep all of theirs. What is below half a
 * thousandth is 0.
 * @param {number} v
 */
export function digits(v) {
  const size = Math.abs(v);
  if (size < 0.0005) return '0';
  return size >= 99.95 ? v.toFixed(0) : v.toPrecision(3);
}

/**
 * unit is a figure with its unit, which are never on two lines.
 * @param {'gib' | 'percent' | 'celsius' | 'w' | 'j' | 'kj' | 'ms' | 's' | 'min' | 'h'} name
 * @param {string | number} v
 */
const unit = (name, v) => t(`page.unit.${name}`, { v }).replaceAll(' ', '\u00a0');

/**
 * together is a sentence of the collector whose figures are on one line with their units.
 * @param {string | undefined} text
 */
export const together = (text) => text?.replace(/(\d) (?=(?:ms|s|min|h|MiB|GiB|px|°C|%|毫秒|秒|分|小时)(?![A-Za-z]))/g, '$1\u00a0');

/** @typedef {number | null | undefined} Figure */

/** @param {Figure} bytes */
export const bareGiB = (bytes) => known(bytes) ? digits(bytes / 2 ** 30) : none();

/**
 * gib is a size, in MiB where it is small, as in the collector's sentences.
 * @param {Figure} bytes
 */
export function gib(bytes) {
  if (!known(bytes)) return none();
  const mib = bytes / 2 ** 20;
  if (bytes === 0 || Math.abs(mib) >= 999.5) return unit('gib', digits(mib / 1024));
  return t('figure.mebibytes', { mib: digits(mib) }).replaceAll(' ', '\u00a0');
}

/** @param {Figure} share */
export const percent = (share) => known(share) ? unit('percent', Math.round(share * 100)) : none();
/** @param {Figure} v */
export const celsius = (v) => known(v) ? unit('celsius', Math.round(v)) : none();
/** @param {Figure} v */
export const watts = (v) => known(v) ? unit('w', digits(v)) : none();

/**
 * seconds is a duration, in milliseconds below a second, in minutes or hours where it is long. What is less
 * than a millisecond is shorter than the collector can tell.
 * @param {Figure} v
 */
export function seconds(v) {
  if (!known(v)) return none();
  if (v < 5e-6) return unit('s', 0);
  if (v < 0.0009995) return unit('ms', '< 1');
  if (v < 0.9995) return unit('ms', digits(v * 1000));
  if (v < 999.5) return unit('s', digits(v));
  if (v < 5999) return unit('min', digits(v / 60));
  return unit('h', digits(v / 3600));
}

/**
 * mark is a round place on an axis of seconds that ends at a time. The first has the unit, as long as
 * that is one for all of them.
 * @param {number} v
 * @param {number} end
 */
export function mark(v, end) {
  if (end >= 999.5) return seconds(v);
  const isShort = end < 0.9995;
  const place = Number((isShort ? v * 1000 : v).toPrecision(3));
  return v === 0 ? unit(isShort ? 'ms' : 's', place) : String(place);
}

/**
 * age is a duration since something, in whole units: it grows while it is read.
 * @param {Figure} v
 */
export function age(v) {
  if (!known(v)) return none();
  v = Math.max(0, v);
  if (v < 119.5) return unit('s', Math.round(v));
  if (v < 7170) return unit('min', Math.round(v / 60));
  return unit('h', Math.round(v / 3600));
}

/**
 * isKnown reports whether a time was set: Go's zero time is the year 1.
 * @param {string | null | undefined} time
 * @returns {time is string}
 */
export const isKnown = (time) => Boolean(time) && Date.parse(String(time)) > 0;

/**
 * energy is joules with their uncertainty: both have as many decimals, with which the uncertainty has two
 * digits at most.
 * @param {Figure} v
 * @param {Figure} [uncertainty]
 */
export function energy(v, uncertainty) {
  if (!known(v)) return none();
  const scale = v >= 999.5 ? 1000 : 1;
  const name = scale === 1 ? 'j' : 'kj';
  const size = digits(v / scale);
  if (!known(uncertainty)) return unit(name, size);
  let decimals = size.split('.')[1]?.length ?? 0;
  if (uncertainty > 0) decimals = Math.min(decimals, Math.max(0, 1 - Math.floor(Math.log10(uncertainty / scale))));
  return unit(name, [v, uncertainty].map((each) => (each / scale).toFixed(decimals)).join(' ± '));
}

const locale = language === 'zh' ? 'zh-CN' : 'en-GB';
const ofDay = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const ofYear = new Intl.DateTimeFormat(locale, { month: 'short', day: 'numeric' });
const full = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'long', hourCycle: 'h23' });

/**
 * clock is a local time of day, with the day where that is another.
 * @param {string | number} time
 */
export function clock(time) {
  const at = new Date(time);
  const today = at.toDateString() === new Date().toDateString();
  return today ? ofDay.format(at) : `${ofYear.format(at)} ${ofDay.format(at)}`;
}

const ofHour = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });

/**
 * hour is a local time of day without its seconds, whichever day it is.
 * @param {number} time
 */
export const hour = (time) => ofHour.format(new Date(time));

/**
 * moment is a local time with date and zone.
 * @param {string} time
 */
export const moment = (time) => full.format(new Date(time));

/** zone is the name of the reader's time zone. */
export const zone = () => new Intl.DateTimeFormat(locale, { timeZoneName: 'short' }).formatToParts(new Date()).find((p) => p.type === 'timeZoneName')?.value ?? '';

/**
 * model is a GPU's product in short: without its maker, its memory's kind and its edition.
 * @param {string} name
 */
export const model = (name) => name.replace(/^NVIDIA\s+/, '').replace(/^GeForce\s+/, '').replace(/^.*\s(?=MIG \S+$)/, '').replace(/\s+HBM\w*$/, '').replace(/\s+Generation$/, '').replace(/\s+(Max-Q )?(Server|Workstation) Edition$/, '');

/**
 * task is a workflow with the size of its image.
 * @param {{workflow: string, side?: number}} p
 */
export const task = (p) => [p.workflow || t('page.workflow.none'), p.side].filter(Boolean).join(' ');
