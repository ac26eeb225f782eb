// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// The form of a new ensemble.

const HOUR = 3600e3;
const $ = (id) => document.getElementById(id);
const FIELDS = ["time", "times", "source", "lead_time", "samples", "solver", "steps", "seed"];

export function fill(select, values, texts = values) {
  select.replaceChildren(...values.map((value, i) => new Option(texts[i], value)));
}

// Set up the form with the options of the service.
export function setupForm(options, submit) {
  const { defaults, limits } = options;
  fill($("source"), options.sources);
  fill($("solver"), options.solvers);
  [$("time").value] = defaults.time.split("T");
  const hours = Array.from({ length: 24 }, (_, hour) => String(hour).padStart(2, "0"));
  fill($("hour"), hours, hours.map((hour) => `${hour} UTC`));
  $("hour").value = defaults.time.slice(11, 13);
  $("solver").value = defaults.solver;
  for (const name of ["samples", "steps"]) $(name).value = defaults[name];
  for (const name of ["samples", "steps"]) $(name).max = limits[name];
  $("count").max = limits.times;
  const form = $("order");
  form.querySelector("button").disabled = false;
  form.onsubmit = async (event) => {
    event.preventDefault();
    FIELDS.forEach((name) => showFault(name, ""));
    showFault("order", "");
    if (!checkHere(form)) return;
    try {
      await submit(read());
    } catch (error) {
      showFault(FIELDS.includes(error.field) ? error.field : "order", error.message);
    }
  };
}

// Messages of the browser beside the field, like those of the service.
function checkHere(form) {
  const wrong = [...form.elements].filter((field) => field.name && !field.checkValidity());
  wrong.forEach((field) => showFault(field.name, said(field)));
  if (wrong.length) {
    wrong[0].closest("details")?.setAttribute("open", "");
    wrong[0].focus();
  }
  return wrong.length === 0;
}

function said(field) {
  if (field.type === "number") return `a whole number from ${field.min} to ${field.max}`;
  return field.name === "seed" ? "a whole number, or nothing" : "a day";
}

function showFault(name, text) {
  $(`${name}-fault`).textContent = text;
  const field = $("order").elements[name];
  if (!field) return;
  field.setAttribute("aria-invalid", Boolean(text));
  field.setAttribute("aria-describedby", `${name}-fault`);
  if (text) field.closest("details")?.setAttribute("open", "");
}

function read() {
  const first = Date.parse(`${$("time").value}T${$("hour").value}:00Z`);
  const every = Number($("interval").value) * HOUR;
  const times = Array.from({ length: Number($("count").value) }, (_, i) => (
    new Date(first + i * every).toISOString().slice(0, 16)
  ));
  const order = {
    times,
    source: $("source").value,
    samples: Number($("samples").value),
    steps: Number($("steps").value),
    solver: $("solver").value,
  };
  if ($("lead_time").value.trim()) order.lead_time = $("lead_time").value.trim();
  return $("seed").value.trim() ? { ...order, seed: Number($("seed").value) } : order;
}
