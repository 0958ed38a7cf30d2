// Columns of samples: not every second has one of each.

/** @typedef {import('./api').History} History */

/** @typedef {Array<number | null | undefined>} Column */

/**
 * @param {number | null | undefined} v
 * @returns {v is number}
 */
const isKnown = (v) => v !== null && v !== undefined;

/**
 * distance is the median time between two known values of a column; 0 with fewer than two.
 * @param {number[]} times
 * @param {Column} values
 */
function distance(times, values) {
  const at = times.filter((_, i) => isKnown(values[i]));
  const all = at.slice(1).map((time, i) => time - at[i]).sort((a, b) => a - b);
  return all.length ? all[Math.floor(all.length / 2)] : 0;
}

/**
 * pause is from how many seconds without a value on samples have stopped: as the collector has
 * it, two and a half scrapes, half a minute at least.
 * @param {History} h
 */
export const pause = (h) => Math.max(30, ...[h.memory, h.utilization, h.temperature, h.power].map((values) => 2.5 * distance(h.times ?? [], values ?? [])));

/**
 * bridged sets what is unknown between two values to undefined, where a line goes on; null stays
 * where samples have stopped.
 * @param {number[]} times
 * @param {Column} values
 * @param {number} limit
 * @returns {Column}
 */
export function bridged(times, values, limit) {
  const all = [...values];
  let last = -1;
  values.forEach((v, i) => {
    if (!isKnown(v)) return;
    if (last >= 0 && times[i] - times[last] <= limit) all.fill(undefined, last + 1, i);
    last = i;
  });
  return all;
}

/**
 * nearest is the known value that is closest to a place, among those that a line leads to.
 * @param {Column} values
 * @param {number} at
 */
export function nearest(values, at) {
  for (let d = 0; d < values.length; d++) {
    for (const i of [at - d, at + d]) {
      const v = values[i];
      if (isKnown(v)) return v;
    }
    if (values[at - d] === null || values[at + d] === null) return null;
  }
  return null;
}
