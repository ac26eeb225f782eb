// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// Values to colours, and their legend.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
}

const bytes = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

// A function from a value to [r, g, b].
export function painter(scale, missing) {
  const colors = scale.colors.map(bytes);
  const none = bytes(missing);
  if (!scale.edges) {
    const factor = colors.length / (scale.max - scale.min || 1);
    return (value) => {
      if (Number.isNaN(value)) return none;
      const shade = Math.floor((value - scale.min) * factor);
      return colors[Math.min(Math.max(shade, 0), colors.length - 1)];
    };
  }
  const [under, over] = [bytes(scale.under), bytes(scale.over)];
  const last = scale.edges.length - 1;
  return (value) => {
    if (Number.isNaN(value)) return none;
    if (value < scale.edges[0]) return under;
    // The last interval of probabilities holds its upper end.
    if (value >= scale.edges[last]) return value > scale.edges[last] ? over : colors[last - 1];
    let step = 0;
    while (value >= scale.edges[step + 1]) step += 1;
    return colors[step];
  };
}

const BAR = 12;

// A colour bar with numbers and unit.
export function legend(svg, scale, units, label) {
  const width = svg.clientWidth;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} 32`);
  svg.setAttribute("aria-label", `Colours: ${label}, ${units}`);
  const edges = scale.edges;
  const low = edges ? edges[0] : scale.min;
  const high = edges ? edges[edges.length - 1] : scale.max;
  const [left, right] = [14, width - 14 - 9 * units.length];
  const x = (value) => left + ((value - low) / (high - low || 1)) * (right - left);
  const count = scale.colors.length;
  scale.colors.forEach((fill, i) => {
    const start = edges ? x(edges[i]) : left + (i / count) * (right - left);
    const end = edges ? x(edges[i + 1]) : left + ((i + 1) / count) * (right - left);
    svg.append(element("rect", { x: start, y: 1, width: end - start + (edges ? 0 : 0.6), height: BAR, fill }));
  });
  svg.append(element("rect", { x: left, y: 1, width: right - left, height: BAR, class: "frame" }));
  const texts = labels(scale.ticks);
  scale.ticks.forEach((tick, i) => {
    svg.append(element("line", { x1: x(tick), x2: x(tick), y1: BAR + 1, y2: BAR + 5, class: "tick" }));
    svg.append(element("text", { x: x(tick), y: 30, "text-anchor": "middle" }, texts[i]));
  });
  svg.append(element("text", { x: width - 2, y: BAR, "text-anchor": "end" }, units));
}

// Round numbers, all with as many decimals as one of them needs.
export function labels(ticks) {
  const texts = ticks.map((tick) => String(Number(tick.toPrecision(6))));
  const decimals = Math.max(...texts.map((text) => (text.split(".")[1] || "").length));
  return ticks.map((tick) => tick.toFixed(decimals).replace("-", "−"));
}

// A value with as many digits as a forecaster reads.
export function format(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 1000 ? 0 : size < 1 && size > 0 ? 2 : 1).replace("-", "−");
}
