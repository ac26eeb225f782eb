// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// The page: the options of the service, its jobs, and the job that is open.

import * as api from "./api.js";
import { setupForm } from "./form.js";
import { span, Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const RETRY = 2000; // milliseconds

const jobs = new Map(); // id → newest document
const followed = new Map(); // id → AbortController
const viewer = new Viewer(complain);

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function complain(error) {
  if (error.status === 401) askForKey(api.hasKey());
  else notice(`${error.message}.`);
}

function askForKey(refused) {
  $("unlock").hidden = false;
  $("key-fault").textContent = refused ? "This key is not accepted." : "";
  $("key").focus();
}

$("unlock").onsubmit = (event) => {
  event.preventDefault();
  api.setKey($("key").value.trim());
  $("unlock").hidden = true;
  start();
};

// Poll until the service is ready.
async function start() {
  let options;
  try {
    options = await api.options();
  } catch (error) {
    complain(error);
    if (error.status !== 401) setTimeout(start, RETRY);
    return;
  }
  notice("");
  const { name, synthetic } = options.package;
  $("package").textContent = synthetic ? `${name} (trained on SYNTHETIC weather)` : name;
  setupForm(options, order);
  for (const job of (await api.jobs()).reverse()) {
    take(api.token(job.id) ? await api.job(job.id).catch(() => job) : job);
  }
  openHash();
}

async function order(asked) {
  const job = await api.submit(asked);
  wanted = job.id;
  take(job);
  window.location.hash = job.id;
}

const running = ({ state }) => state === "queued" || state === "running";
let wanted = ""; // a job that opens by itself when it is done
let open = ""; // the job on the maps

// A new document of a job: show it, follow it while it runs, open it if it is the wanted one.
function take(job) {
  jobs.set(job.id, job);
  render(job);
  if (job.request && running(job) && !followed.has(job.id)) follow(job.id);
  if (job.state === "done" && wanted === job.id) show(job.id);
}

async function follow(id) {
  const control = new AbortController();
  followed.set(id, control);
  try {
    await api.follow(id, take, control.signal);
  } catch (error) {
    if (error.status === 404) {
      forget(id);
      notice("A job is gone: it was removed, or the service was started anew.");
    } else if (!control.signal.aborted) complain(error);
  } finally {
    followed.delete(id);
  }
}

async function show(id) {
  wanted = "";
  open = id;
  jobs.forEach(render);
  try {
    await viewer.open(jobs.get(id));
    if (window.matchMedia("(max-width: 56rem)").matches) $("result").scrollIntoView();
  } catch (error) {
    open = "";
    complain(error);
  }
}

async function remove(id) {
  followed.get(id)?.abort();
  try {
    await api.remove(id);
  } catch (error) {
    if (error.status !== 404) {
      complain(error);
      return;
    }
  }
  forget(id);
}

function forget(id) {
  api.forgetToken(id);
  jobs.delete(id);
  $(`job-${id}`)?.remove();
  if (!jobs.size) $("jobs").replaceChildren(make("li", { className: "empty", textContent: "None yet." }));
  if (open === id) {
    open = "";
    viewer.close();
  }
}

// The list has no requests of other jobs; their links have them.
async function openHash() {
  const id = window.location.hash.slice(1);
  if (!jobs.has(id) || id === open) return;
  try {
    if (!jobs.get(id).request) take(await api.job(id));
  } catch (error) {
    complain(error);
    return;
  }
  if (jobs.get(id).state === "done") show(id);
  else wanted = id;
}

window.onhashchange = openHash;

// The list

function make(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function render(job) {
  $("jobs").querySelector(".empty")?.remove();
  const { id, request } = job;
  let item = $(`job-${id}`);
  if (!item) {
    item = make("li", { id: `job-${id}` });
    $("jobs").prepend(item);
  }
  item.classList.toggle("open", id === open);
  const title = make("b", { textContent: request ? span(request.times) : "Somebody else's" });
  const text = request ? `${what(request)} · ${told(job)}` : job.state;
  const state = make("span", { className: `state ${job.state}`, textContent: text });
  const button = (text, onclick) => (
    make("button", { type: "button", textContent: text, ariaLabel: `${text} ${title.textContent}`, onclick })
  );
  const buttons = make("span", { className: "row" });
  if (request && job.state === "done") {
    buttons.append(button("Show", () => { window.location.hash = id; show(id); }));
  }
  if (api.token(id)) buttons.append(button(running(job) ? "Cancel" : "Remove", () => remove(id)));
  const bar = make("progress", { max: 1, value: job.progress.fraction });
  bar.ariaLabel = `Progress of ${title.textContent}`;
  const focused = item.contains(document.activeElement) && document.activeElement.textContent;
  item.replaceChildren(title, ...(running(job) ? [bar] : []), state, buttons);
  if (focused) [...buttons.children].find(({ textContent }) => textContent === focused)?.focus();
}

function what({ samples, source, lead_time: leads }) {
  const lead = leads ? ` · lead time ${leads.length > 1 ? `${leads[0]} to ${leads.at(-1)}` : leads[0]}` : "";
  return `${samples} member${samples > 1 ? "s" : ""} · ${source}${lead}`;
}

// Progress in words.
function told(job) {
  const { fraction, members, seconds } = job.progress;
  if (job.state === "done") return `done in ${duration(seconds)}`;
  if (!running(job)) return job.error;
  if (!fraction) return job.stage;
  const left = fraction > 0.05 ? ` · ${duration((seconds * (1 - fraction)) / fraction)} left` : "";
  return `${Math.floor(100 * fraction)} % · ${members.done} of ${members.total} members${left}`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

start();
