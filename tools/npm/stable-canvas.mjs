// Asks for one workflow with @stable-canvas/comfyui-client and prints what came:
// node stable-canvas.mjs HOST:PORT WORKFLOW.json
import { readFileSync } from "node:fs";
import { Client } from "@stable-canvas/comfyui-client";
import WebSocket from "ws";

const [host, file] = process.argv.slice(2);
const client = new Client({ api_host: host, WebSocket, fetch });
await client.connect();
const steps = [];
const result = await client.enqueue(JSON.parse(readFileSync(file, "utf8")), { progress: (p) => steps.push(p.value) });
console.log(JSON.stringify({ steps, result }));
client.close();
process.exit(0);
