// Columns of samples: not every second has one of each.

const isKnown = (v) => v !== null && v !== undefined;

/** distance is the median time between two known values of a column; 0 with fewer than two. */
function distance(times, values) {
  const at = times.filter((_, i) => isKnown(values[i]));
  const all = at.slice(1).map((time, i) => time - at[i]).sort((a, b) => a - b);
  return all.length ? all[Math.floor(all.length / 2)] : 0;
}

/** pause is from how many seconds without a value on samples have stopped: as the collector has it, two and a half scrapes, half a minute at least. */
export const pause = (h) => Math.max(30, ...[h.memory, h.utilization, h.temperature, h.power].filter(Boolean).map((values) => 2.5 * distance(h.times, values)));

/** bridged sets what is unknown between two values to undefined, where a line goes on; null stays where samples have stopped. */
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

/** nearest is the known value that is closest to a place, among those that a line leads to. */
export function nearest(values, at) {
  for (let d = 0; d < values.length; d++) {
    for (const i of [at - d, at + d]) if (isKnown(values[i])) return values[i];
    if (values[at - d] === null || values[at + d] === null) return null;
  }
  return null;
}
