// What assets/vendor/preact.js exports: htm with Preact in it, without types.

export { Component, render } from 'preact';
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
export function html(strings: TemplateStringsArray, ...values: unknown[]): import('preact').VNode<any>;
