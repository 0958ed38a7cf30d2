// SPDX-License-Identifier: Apache-2.0

// The calls of ComfyUI's front end (1.49), in its order: a socket, without an id in a new tab;
// the id from the first status, kept for a reload; prompts under that id, with cookies.
"use strict";

const page = { heard: [], extensions: "", ended: new Map() };

// ready is the session's id, once the server has sent it.
page.ready = new Promise((resolve, reject) => {
  document.cookie = "session=1; path=/";
  let query = "";
  const kept = sessionStorage.getItem("clientId");
  if (kept) query = "?clientId=" + kept;
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(scheme + "//" + location.host + "/ws" + query);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    page.extensions = socket.extensions;
    socket.send(JSON.stringify({ type: "feature_flags", data: { supports_preview_metadata: true } }));
  };
  socket.onerror = () => reject(new Error("the socket failed"));
  socket.onmessage = (event) => {
    if (event.data instanceof ArrayBuffer) {
      page.heard.push("binary " + new DataView(event.data).getUint32(0) + " of " + event.data.byteLength + " bytes");
      return;
    }
    const message = JSON.parse(event.data);
    if (message.type === "status") {
      if (message.data.sid) {
        sessionStorage.setItem("clientId", message.data.sid);
        resolve(message.data.sid);
      }
      return; // when the queue's length arrives among the others depends on the moment
    }
    page.heard.push(event.data);
    if (message.type === "executing" && message.data.node === null) {
      page.end(message.data.prompt_id).resolve();
    }
  };
});

// end resolves whoever waits for the end of a prompt, now or later.
page.end = (id) => {
  if (!page.ended.has(id)) {
    let resolve;
    const promise = new Promise((r) => { resolve = r; });
    page.ended.set(id, { promise, resolve });
  }
  return page.ended.get(id);
};

// run posts a prompt, waits until it has ended, and returns what the page heard.
page.run = async (prompt) => {
  const clientId = await page.ready;
  await fetch("/api/queue");
  const response = await fetch("/api/prompt", {
    method: "POST",
    headers: { "Content-Type": "application/json", "Comfy-User": "" },
    body: JSON.stringify({ client_id: clientId, prompt, extra_data: { extra_pnginfo: { workflow: { id: "w" } } } }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(JSON.stringify(answer));
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("the page hears nothing of its prompt")), 10000));
  await Promise.race([page.end(answer.prompt_id).promise, late]);
  const history = await (await fetch("/api/history/" + answer.prompt_id)).json();
  const heard = page.heard.splice(0);
  return JSON.stringify({ heard, status: history[answer.prompt_id].status.status_str, extensions: page.extensions, sid: clientId });
};
