// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// The service's HTTP interface: JSON, binary fields, and the events of a job.

const ROOT = "v1/downscale";
const TRIES = 3; // for the stream of events, before polling takes over
const POLL = 2000; // milliseconds

export class ApiError extends Error {
  constructor(status, body) {
    super(body.detail || `the service answered ${status}`);
    this.status = status;
    this.field = body.field;
  }
}

export function setKey(key) {
  sessionStorage.setItem("key", key);
}

export function hasKey() {
  return Boolean(sessionStorage.getItem("key"));
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (hasKey()) headers.authorization = `Bearer ${sessionStorage.getItem("key")}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { detail: "the service cannot be reached" });
  }
  if (answer.ok) return answer;
  throw new ApiError(answer.status, await answer.json().catch(() => ({})));
}

const json = async (path, options) => (await ask(path, options)).json();

export const options = () => json(`${ROOT}/options`);
export const jobs = async () => (await json(ROOT)).jobs;
export const job = (id) => json(`${ROOT}/${id}`);
export const overview = (id) => json(`${ROOT}/${id}/fields`);
export const remove = (id) => (
  ask(`${ROOT}/${id}`, { method: "DELETE", headers: { "x-job-token": token(id) } })
);
export const storePath = (id) => `${ROOT}/${id}/store.zip`;
export const figurePath = (link) => link.slice(link.indexOf(ROOT));

// Token of a job that was submitted here; empty for other jobs.
export const token = (id) => localStorage.getItem(`token-${id}`) || "";
export const forgetToken = (id) => localStorage.removeItem(`token-${id}`);

export async function submit(order) {
  const headers = { "content-type": "application/json" };
  const found = await json(ROOT, { method: "POST", headers, body: JSON.stringify(order) });
  localStorage.setItem(`token-${found.id}`, found.token);
  return found;
}

export function point(id, quantity, row, column) {
  return json(`${ROOT}/${id}/points/${encodeURIComponent(quantity)}?row=${row}&column=${column}`);
}

// One field as a Float32Array, by rows of the mesh.
export async function field(id, quantity, time, show, part = "value") {
  const query = new URLSearchParams({ time, show, part });
  const answer = await ask(`${ROOT}/${id}/fields/${encodeURIComponent(quantity)}?${query}`);
  return littleEndian(await answer.arrayBuffer());
}

function littleEndian(buffer) {
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] === 1) return new Float32Array(buffer);
  const view = new DataView(buffer);
  return Float32Array.from({ length: buffer.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

// With a key, a link cannot do it: browsers send no key with it.
export async function download(path, name) {
  const link = document.createElement("a");
  link.href = hasKey() ? URL.createObjectURL(await (await ask(path)).blob()) : path;
  link.download = name;
  link.click();
  if (hasKey()) setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Follow a job to its end: `tell` is called with each new document. Server-sent events, read with fetch so
// that a key can be sent; where they do not come through, polling.
export async function follow(id, tell, signal) {
  let seen = "";
  for (let failed = 0; failed < TRIES && !signal.aborted; failed += 1) {
    try {
      const before = seen;
      const end = await stream(id, tell, signal, seen, (identity) => { seen = identity; });
      if (end) return;
      if (seen !== before) failed = 0;
    } catch (error) {
      if (signal.aborted || error.status === 404 || error.status === 401) throw error;
    }
    await pause(1000);
  }
  while (!signal.aborted) {
    try {
      const found = await job(id);
      tell(found);
      if (found.state !== "queued" && found.state !== "running") return;
    } catch (error) {
      if (error.status !== 0) throw error; // the service may come back
    }
    await pause(POLL);
  }
}

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

async function stream(id, tell, signal, seen, note) {
  const headers = { accept: "text/event-stream", ...(seen && { "last-event-id": seen }) };
  const answer = await ask(`${ROOT}/${id}/events`, { headers, signal });
  if (answer.status === 204) return true;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return false;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const said = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      if (!said.data) continue;
      note(said.id);
      tell(JSON.parse(said.data));
      if (said.event !== "progress") return true;
    }
  }
}
