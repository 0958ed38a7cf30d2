// Asks for one workflow with @stable-canvas/comfyui-client and prints what came:
// [ACCEPT_LANGUAGE=zh] node stable-canvas.mjs HOST:PORT WORKFLOW.json
import { readFileSync } from "node:fs";
import { Client } from "@stable-canvas/comfyui-client";
import WebSocket from "ws";

const [host, file] = process.argv.slice(2);
// The package sets no language of its own; an application's fetch may.
const language = process.env.ACCEPT_LANGUAGE;
const asking = language ? (url, init = {}) => fetch(url, { ...init, headers: { ...init.headers, "Accept-Language": language } }) : fetch;
const client = new Client({ api_host: host, WebSocket, fetch: asking });
await client.connect();
const steps = [];
const result = await client.enqueue(JSON.parse(readFileSync(file, "utf8")), { progress: (p) => steps.push(p.value) });
console.log(JSON.stringify({ steps, result }));
client.close();
process.exit(0);
