// uPlot is a script of the old kind: it sets a global.

declare const uPlot: typeof import('uplot').default;
