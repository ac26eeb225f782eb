// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// A finished ensemble: two maps, the members at a point, and its files.

import * as api from "./api.js";
import { drawChart, leadOf, mean, numbers } from "./chart.js";
import { format, legend, painter } from "./colors.js";
import { fill } from "./form.js";
import { MapView } from "./map.js";

const $ = (id) => document.getElementById(id);
const CYCLE = 1000; // milliseconds a member
const KEPT = 96; // fields in memory

export class Viewer {
  constructor(complain) {
    this.complain = complain;
    this.fine = new MapView($("fine"));
    this.coarse = new MapView($("coarse"));
    this.fields = new Map();
    this.turn = 0;
    for (const id of ["quantity", "when", "show"]) $(id).onchange = () => this.update(id === "quantity");
    for (const [select, back, forth] of [["when", "earlier", "later"], ["show", "previous", "next"]]) {
      $(back).onclick = () => this.step($(select), -1);
      $(forth).onclick = () => this.step($(select), 1);
    }
    $("play").onclick = () => this.play($("play").ariaPressed !== "true");
    for (const view of [this.fine, this.coarse]) {
      view.canvas.onpointermove = (event) => this.read(view.cellAt(event));
      view.canvas.onpointerleave = () => this.read(this.marked);
      view.canvas.onclick = (event) => this.pick(view.cellAt(event));
    }
    $("fine").onkeydown = (event) => this.walk(event);
    let width = 0; // legends and the chart are drawn for the width that they have
    new ResizeObserver(([{ contentRect }]) => {
      if (this.job && Math.round(contentRect.width) !== width) this.update(false);
      width = Math.round(contentRect.width);
    }).observe($("shown"));
  }

  async open(job) {
    this.play(false);
    this.fields.clear();
    const about = await api.overview(job.id);
    Object.assign(this, { job, about, marked: null });
    this.fine.setMesh(about, about.synthetic !== null);
    this.coarse.setMesh(about, about.synthetic_coarse);
    [this.lat, this.lon] = await Promise.all(["lat", "lon"].map((name) => this.field(name, 0, "mean")));
    const { quantities, times } = about;
    fill($("quantity"), quantities.map((_, i) => i), quantities.map(({ label }) => label));
    fill($("when"), times.map((_, i) => i), times.map((_, i) => stateText(about, i)));
    $("when-label").textContent = about.starts ? "Start + lead time (UTC)" : "Valid time (UTC)";
    $("when-field").hidden = times.length < 2;
    $("synthetic").hidden = !about.synthetic;
    $("synthetic").querySelector("span").textContent = (about.synthetic || "").replace(/^synthetic /, "");
    $("point").hidden = true;
    this.describe();
    $("empty").hidden = true;
    $("shown").hidden = false;
    this.fillShow();
    await this.update(false);
  }

  close() {
    this.play(false);
    this.job = null;
    $("shown").hidden = true;
    $("empty").hidden = false;
  }

  get quantity() { return this.about.quantities[Number($("quantity").value)]; }

  get time() { return Number($("when").value); }

  // Members first: a mean of fields is not a possible state of the weather.
  fillShow() {
    const before = $("show").value;
    const { members } = this.about;
    const { threshold, units } = this.quantity;
    const values = members.map((member) => `member-${member}`);
    const texts = members.map((member) => `Member ${member}`);
    if (members.length > 1) {
      values.push("mean", "spread");
      texts.push("Mean", "Spread");
      if (threshold !== null) {
        values.push("probability");
        texts.push(`Probability > ${threshold} ${units}`);
      }
    }
    fill($("show"), values, texts);
    if (values.includes(before)) $("show").value = before;
    $("play").hidden = members.length < 2;
  }

  describe() {
    const { provenance, shape, cell_km: [width], times, members } = this.about;
    $("result-title").textContent = `${span(times)} · ${members.length} member${members.length > 1 ? "s" : ""}`;
    const { package: name, source, solver, number_of_steps: steps, seed, attribution } = provenance;
    $("provenance").textContent = `Package ${name} · source ${source} · ${shape.join(" × ")} cells of ${
      Number(width.toPrecision(2))} km · ${solver}, ${steps} steps · seed ${seed}${attribution ? ` · ${attribution}` : ""}`;
    this.offer();
  }

  // The store, and the pictures of the time that is shown.
  offer() {
    const { id, links, bytes } = this.job;
    const stem = `/corrdiff-${this.about.labels[this.time || 0]}-`;
    const pictures = links.figures.filter((link) => link.includes(stem) && !link.includes("-sample-"));
    const picked = $("show").value?.startsWith("member-") ? $("show").value.slice(7) : "0";
    pictures.push(...links.figures.filter((link) => link.endsWith(`${stem}sample-${picked}.png`)));
    const files = [["Zarr store, zipped", api.storePath(id), `${(bytes / 1e6).toFixed(1)} MB`]];
    for (const link of pictures) {
      const kind = link.split(stem)[1].replace(".png", "");
      const names = { ensemble: "Picture of the ensemble", lowres: "Picture of the coarse input" };
      files.push([names[kind] || `Picture of member ${picked}`, api.figurePath(link), "PNG"]);
    }
    $("downloads").replaceChildren(...files.map(([text, path, note]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${text} (${note})`;
      button.onclick = () => api.download(path, path.split("/").pop()).catch(this.complain);
      return button;
    }));
  }

  field(name, time, show, part = "value") {
    const key = [name, time, show, part].join("|");
    if (!this.fields.has(key)) {
      if (this.fields.size >= KEPT) this.fields.delete(this.fields.keys().next().value);
      const found = api.field(this.job.id, name, time, show, part);
      found.catch(() => this.fields.delete(key));
      this.fields.set(key, found);
    }
    return this.fields.get(key);
  }

  async update(newQuantity) {
    if (newQuantity) this.fillShow();
    this.turn += 1;
    const { turn, quantity, time } = this;
    const show = $("show").value;
    try {
      const loads = [show, "coarse"].map((what) => this.load(quantity, time, what));
      const [fine, coarse] = await Promise.all(loads);
      if (turn !== this.turn) return; // a newer request was made meanwhile
      this.shownFine = this.paint(this.fine, "fine", fine);
      $("coarse-figure").hidden = !coarse;
      this.shownCoarse = coarse && this.paint(this.coarse, "coarse", coarse);
      this.offer();
      this.read(this.marked);
      if (this.marked) await this.chart();
    } catch (error) {
      this.complain(error);
    }
  }

  // A field with its colours, units, title and arrows.
  async load(quantity, time, show) {
    const twin = show === "coarse" ? quantity.coarse : quantity;
    if (!twin) return null;
    const scale = { spread: quantity.spread, probability: this.about.probability }[show] || twin.scale;
    const units = show === "probability" ? "%" : twin.units;
    const windy = quantity.wind && !["spread", "probability"].includes(show);
    const [values, along, up] = await Promise.all(["value", ...(windy ? ["along", "up"] : [])].map((part) => (
      this.field(quantity.name, time, show, part)
    )));
    const arrows = windy ? { along, up, strongest: quantity.scale.max, units } : null;
    const averaged = show === "mean" && units === "dBZ" ? " · averaged in dBZ" : "";
    const note = show === "spread" ? " · standard deviation" : averaged;
    const title = titleOf(quantity, twin, show, this.about.members.length);
    return { values, scale, units, arrows, note, title };
  }

  paint(view, id, shown) {
    view.setField(shown.values, painter(shown.scale, this.about.missing), shown.arrows);
    $(`${id}-title`).textContent = shown.title;
    view.canvas.setAttribute("aria-label", `Map: ${shown.title}. Arrow keys move the marked cell.`);
    legend($(`${id}-legend`), shown.scale, shown.units, shown.title);
    const finite = shown.values.filter(Number.isFinite);
    const low = finite.reduce((a, b) => Math.min(a, b), Infinity); // too many for the arguments of Math.min
    const high = finite.reduce((a, b) => Math.max(a, b), -Infinity);
    const texts = [["min", low], ["mean", mean(finite)], ["max", high]].map(([name, v]) => `${name} ${format(v)}`);
    $(`${id}-range`).textContent = `${texts.join(" · ")} ${shown.units}${shown.note}`;
    return shown;
  }

  // The values under the pointer.
  read(cell) {
    if (!cell || !this.shownFine) {
      $("reading").textContent = "Point at a map for its value; click it for all members there.";
      return;
    }
    const i = cell.row * this.fine.W + cell.column;
    const value = ({ values, units }) => `${format(values[i])} ${units}`;
    const coarse = this.shownCoarse ? ` · coarse input ${value(this.shownCoarse)}` : "";
    const name = $("show").selectedOptions[0].text.toLowerCase();
    const where = place(this.lat[i], this.lon[i]);
    $("reading").textContent = `${where}: ${name} ${value(this.shownFine)}${coarse}`;
  }

  pick(cell) {
    if (!cell) return;
    this.marked = cell;
    this.fine.setMark(cell);
    this.coarse.setMark(cell);
    this.read(cell);
    this.chart().catch(this.complain);
  }

  async chart() {
    const { job, quantity, marked, about } = this;
    const found = await api.point(job.id, quantity.name, marked.row, marked.column);
    if (this.job !== job || this.quantity !== quantity || this.marked !== marked) return;
    const { units, coarse } = quantity;
    const show = $("show").value;
    const member = show.startsWith("member-") ? Number(show.slice(7)) : null;
    $("point").hidden = false;
    $("point-title").textContent = `${quantity.label} at ${place(found.lat, found.lon)}, all members`;
    const values = numbers(found.values[this.time]).sort((a, b) => a - b);
    const from = about.starts ? ` (${stateText(about, this.time)})` : "";
    const texts = [
      `${about.times[this.time].replace("T", " ")} UTC${from}: mean ${format(mean(values))}`,
      `members from ${format(values[0])} to ${format(values[values.length - 1])} ${units}`,
    ];
    if (found.coarse) {
      texts.push(`${coarse.label.toLowerCase()} of the coarse input ${format(found.coarse[this.time])} ${coarse.units}`);
    }
    $("point-summary").textContent = texts.join(", ");
    const drawn = coarse && coarse.units === units ? found : { ...found, coarse: null };
    drawChart($("chart"), drawn, about, units, { time: this.time, member });
  }

  // Arrow keys move the marked cell.
  walk(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };
    const move = moves[event.key];
    if (!move || !this.about) return;
    event.preventDefault();
    const { H, W } = this.fine;
    const from = this.marked || { row: H >> 1, column: W >> 1 };
    const north = this.about.north_up ? 1 : -1;
    const east = this.about.east_right ? 1 : -1;
    const bound = (value, size) => Math.min(Math.max(value, 0), size - 1);
    this.pick({ row: bound(from.row + north * move[0], H), column: bound(from.column + east * move[1], W) });
  }

  step(select, by, among = select.options.length) {
    select.selectedIndex = (select.selectedIndex + by + among) % among;
    return this.update(false);
  }

  play(on) {
    clearInterval(this.timer);
    $("play").ariaPressed = String(on);
    $("play").textContent = on ? "❚❚ Stop" : "▶ Cycle members";
    if (on) this.timer = setInterval(() => this.step($("show"), 1, this.about.members.length), CYCLE);
  }
}

function titleOf(quantity, twin, show, members) {
  if (show === "coarse") return `Coarse input: ${twin.label.toLowerCase()}`;
  if (show.startsWith("member-")) return `${quantity.label}, member ${show.slice(7)}`;
  return {
    mean: `${quantity.label}: mean of ${members} members`,
    spread: `${quantity.label}: spread of ${members} members`,
    probability: `${quantity.label}: share of members > ${quantity.threshold} ${quantity.units}`,
  }[show];
}

function place(lat, lon) {
  const turned = ((((lon + 180) % 360) + 360) % 360) - 180;
  return `${Math.abs(lat).toFixed(2)}°${lat < 0 ? "S" : "N"} ${Math.abs(turned).toFixed(2)}°${turned < 0 ? "W" : "E"}`;
}

// A case in words: "2024-07-24 06:00", of forecasts "2024-07-24 00:00 + 6 h".
function stateText(about, i) {
  const time = (about.starts || about.times)[i].replace("T", " ");
  return about.starts ? `${time} + ${leadOf(about, i)} h` : time;
}

// First and last of some times: "2024-07-24 00:00 to 18:00 UTC".
export function span(times) {
  const sorted = [...times].sort();
  const [first, last] = [sorted[0], sorted.at(-1)].map((time) => time.split("T"));
  const end = first[0] === last[0] ? last[1] : last.join(" ");
  return `${first.join(" ")}${times.length > 1 ? ` to ${end}` : ""} UTC`;
}
