// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// All members at one cell: a line per member over several times (of forecasts one for each start), a dot per
// member at one time.

import { element, format, labels } from "./colors.js";

const HEIGHT = 240;
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 76, 10, 36];
const LABEL = 60; // pixels per time

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
export const numbers = (values) => values.filter((value) => value !== null);

// `found` is the service's answer for the cell; `shown` has the time and member on the maps.
export function drawChart(svg, found, about, units, shown) {
  const width = svg.clientWidth;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const every = numbers([...found.values.flat(), ...(found.coarse || [])]);
  if (!every.length) return;
  const right = width - RIGHT;
  const y = verticalAxis(svg, every, units, right);
  if (found.values.length > 1) drawSeries(svg, found, about, y, shown, right);
  else drawDots(svg, found, about, y, shown, right);
}

// Round ticks that cover the values.
export function ticksOf(low, high, most) {
  const span = high - low || Math.abs(high) || 1;
  const raw = span / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const first = Math.floor(low / step);
  const last = Math.max(Math.ceil(high / step), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function verticalAxis(svg, every, units, right) {
  const ticks = ticksOf(Math.min(...every), Math.max(...every), 5);
  const [low, high] = [ticks[0], ticks[ticks.length - 1]];
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const texts = labels(ticks);
  ticks.forEach((tick, i) => {
    svg.append(element("line", { x1: LEFT, x2: right, y1: y(tick), y2: y(tick), class: "grid" }));
    const text = i === ticks.length - 1 ? `${texts[i]} ${units}` : texts[i];
    const anchor = i === ticks.length - 1 ? { x: 4, "text-anchor": "start" } : { x: LEFT - 6, "text-anchor": "end" };
    svg.append(element("text", { ...anchor, y: y(tick) + 4 }, text));
  });
  return y;
}

function path(points) {
  let pen = "M";
  let text = "";
  for (const [x, y] of points) {
    if (y === null) pen = "M";
    else {
      text += `${pen}${x.toFixed(1)},${y.toFixed(1)}`;
      pen = "L";
    }
  }
  return text;
}

const momentOf = (time) => Date.parse(`${time}Z`);
export const leadOf = ({ times, starts }, i) => (momentOf(times[i]) - momentOf(starts[i])) / 3600000; // hours

// Numbers of the cases that a line connects, by valid time: those of one start, where it has several lead times.
function linesOf({ times, starts }) {
  const every = times.map((_, t) => t).sort((a, b) => momentOf(times[a]) - momentOf(times[b]));
  const different = [...new Set(starts)];
  if (!starts || different.length === times.length) return [every];
  return different.map((start) => every.filter((t) => starts[t] === start));
}

function drawSeries(svg, found, about, y, shown, right) {
  const moments = about.times.map(momentOf);
  const [first, last] = [Math.min(...moments), Math.max(...moments)];
  const x = (moment) => LEFT + 10 + ((moment - first) / (last - first)) * (right - LEFT - 20);
  const lines = linesOf(about);
  const line = (series, kind) => {
    const point = (t) => [x(moments[t]), series[t] === null ? null : y(series[t])];
    svg.append(element("path", { d: lines.map((states) => path(states.map(point))).join(""), class: kind }));
  };
  const now = x(moments[shown.time]);
  svg.append(element("line", { x1: now, x2: now, y1: TOP, y2: HEIGHT - BOTTOM, class: "now" }));
  about.members.forEach((member, m) => line(found.values.map((values) => values[m]), "member"));
  const picked = about.members.indexOf(shown.member);
  if (picked >= 0) line(found.values.map((values) => values[picked]), "picked");
  const means = found.values.map((values) => (numbers(values).length ? mean(numbers(values)) : null));
  line(means, "mean");
  if (found.coarse) line(found.coarse, "coarse");
  timeLabels(svg, [...new Set(about.times)].sort(), x, right - LEFT);
  const end = moments.indexOf(last);
  const picks = picked >= 0 ? [["picked", `member ${shown.member}`, found.values[end][picked]]] : [];
  names(svg, y, right, [...picks, ["mean", "mean", means[end]], ["coarse", "coarse", found.coarse && found.coarse[end]]]);
}

// As many times as there is room for: the day below the hour where it changes.
function timeLabels(svg, times, x, width) {
  const every = Math.ceil((times.length * LABEL) / width);
  let day = "";
  times.forEach((time, t) => {
    if (t % every) return;
    const [date, hour] = time.split("T");
    const at = x(momentOf(time));
    svg.append(element("text", { x: at, y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, hour));
    if (date !== day) {
      svg.append(element("text", { x: at, y: HEIGHT - BOTTOM + 30, "text-anchor": "middle" }, date.slice(5)));
    }
    day = date;
  });
}

function drawDots(svg, found, about, y, shown, right) {
  const values = found.values[0];
  const room = (right - LEFT) / values.length;
  const center = mean(numbers(values));
  const every = Math.ceil(22 / room);
  values.forEach((value, m) => {
    const x = LEFT + (m + 0.5) * room;
    if (value !== null) {
      svg.append(element("line", { x1: x, x2: x, y1: y(center), y2: y(value), class: "stem" }));
      const kind = about.members[m] === shown.member ? "picked" : "";
      const dot = element("circle", { cx: x, cy: y(value), r: Math.min(0.35 * room, 6), class: kind });
      dot.append(element("title", {}, `member ${about.members[m]}: ${format(value)}`));
      svg.append(dot);
    }
    if (m % every === 0) {
      svg.append(element("text", { x, y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, String(about.members[m])));
    }
  });
  svg.append(element("text", { x: (LEFT + right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, "member"));
  const level = (value, kind) => {
    svg.append(element("line", { x1: LEFT, x2: right, y1: y(value), y2: y(value), class: kind }));
  };
  level(center, "mean");
  const coarse = found.coarse ? found.coarse[0] : null;
  if (coarse !== null) level(coarse, "coarse");
  names(svg, y, right, [["mean", "mean", center], ["coarse", "coarse", coarse]]);
}

// Names at the right, apart from each other.
function names(svg, y, right, entries) {
  const placed = entries.filter(([, , value]) => value !== null && value !== undefined)
    .map(([kind, text, value]) => ({ kind, text, at: y(value) + 4 }))
    .sort((a, b) => a.at - b.at);
  placed.forEach((entry, i) => {
    if (i) entry.at = Math.max(entry.at, placed[i - 1].at + 14);
    svg.append(element("text", { x: right + 6, y: entry.at, class: `name ${entry.kind}` }, entry.text));
  });
}
