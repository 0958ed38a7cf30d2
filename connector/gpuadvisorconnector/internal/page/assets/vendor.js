// What the page uses of others, in one place.

export { html, render, Component, useState, useEffect, useLayoutEffect, useMemo, useRef } from './preact.js';

/** Plot is uPlot, which is a script of the old kind. */
/** @returns {typeof import('uplot')} */
export const Plot = () => /** @type {any} */ (globalThis).uPlot;
