// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// A map on a canvas: the cells of the mesh as they are, and over them coast, grid lines, wind and a marked cell.

const LEFT = 44; // CSS pixels for the labels of parallels
const BOTTOM = 22; // and of meridians
const EDGE = 8;
const ARROWS = 24; // CSS pixels between two arrows
const LONGEST = 44; // CSS pixels, of the strongest wind of the scale
const INK = "#16191d";

export class MapView {
  constructor(canvas) {
    this.canvas = canvas;
    this.cells = document.createElement("canvas");
    this.mark = null;
    this.arrows = null;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // The mesh and its lines, from the service.
  setMesh(about, synthetic) {
    const [H, W] = about.shape;
    const [width, height] = about.cell_km;
    Object.assign(this, { H, W, about, synthetic, aspect: (W * width) / (H * height) });
    this.cells.width = W;
    this.cells.height = H;
    this.mark = null;
  }

  setField(values, paint, arrows) {
    const image = new ImageData(this.W, this.H);
    for (let row = 0, i = 0; row < this.H; row += 1) {
      for (let column = 0; column < this.W; column += 1, i += 1) {
        const [r, g, b] = paint(values[i]);
        const at = 4 * (this.down(row) * this.W + this.right(column));
        image.data[at] = r;
        image.data[at + 1] = g;
        image.data[at + 2] = b;
        image.data[at + 3] = 255;
      }
    }
    this.cells.getContext("2d").putImageData(image, 0, 0);
    this.arrows = arrows;
    this.draw();
  }

  // Rows from the top and columns from the left of a row and column of the mesh, and back: they mirror.
  down(row) { return this.about.north_up ? this.H - 1 - row : row; }

  right(column) { return this.about.east_right ? column : this.W - 1 - column; }

  get plot() {
    const width = this.canvas.clientWidth - LEFT - EDGE;
    return { width, height: width / this.aspect };
  }

  x(column) { return LEFT + ((this.right(column) + 0.5) / this.W) * this.plot.width; }

  y(row) { return EDGE + ((this.down(row) + 0.5) / this.H) * this.plot.height; }

  // The cell under a pointer; null beside the map.
  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.plot;
    const column = Math.floor(((event.clientX - box.left - LEFT) / width) * this.W);
    const row = Math.floor(((event.clientY - box.top - EDGE) / height) * this.H);
    if (!(column >= 0 && column < this.W && row >= 0 && row < this.H)) return null;
    return { row: this.down(row), column: this.right(column) };
  }

  setMark(cell) {
    this.mark = cell;
    this.draw();
  }

  draw() {
    if (!this.about || !this.canvas.clientWidth) return;
    const { width, height } = this.plot;
    const ratio = window.devicePixelRatio || 1;
    const total = Math.round(height + EDGE + BOTTOM);
    this.canvas.style.height = `${total}px`;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(total * ratio);
    const ink = this.canvas.getContext("2d");
    ink.scale(ratio, ratio);
    ink.imageSmoothingEnabled = false;
    ink.drawImage(this.cells, LEFT, EDGE, width, height);
    ink.save();
    ink.beginPath();
    ink.rect(LEFT, EDGE, width, height);
    ink.clip();
    this.drawLines(ink);
    if (this.arrows) this.drawArrows(ink);
    if (this.mark) this.drawMark(ink);
    if (this.synthetic) this.drawStamp(ink);
    ink.restore();
    ink.strokeStyle = INK;
    ink.lineWidth = 1;
    ink.strokeRect(LEFT, EDGE, width, height);
    this.drawLabels(ink);
  }

  trace(ink, line) {
    ink.beginPath();
    for (let i = 0; i < line.length; i += 2) ink.lineTo(this.x(line[i]), this.y(line[i + 1]));
    ink.stroke();
  }

  drawLines(ink) {
    const { coast, parallels, meridians } = this.about.overlay;
    ink.lineJoin = "round";
    ink.lineWidth = 0.6;
    ink.strokeStyle = "rgba(22, 25, 29, 0.4)";
    ink.setLineDash([4, 3]);
    for (const { lines } of [...parallels, ...meridians]) lines.forEach((line) => this.trace(ink, line));
    ink.setLineDash([]);
    for (const [wide, style] of [[2.4, "rgba(255, 255, 255, 0.6)"], [1.1, INK]]) {
      ink.lineWidth = wide;
      ink.strokeStyle = style;
      coast.forEach((line) => this.trace(ink, line));
    }
  }

  // Labels where the lines meet the left and the lower edge.
  drawLabels(ink) {
    const { parallels, meridians } = this.about.overlay;
    const { height } = this.plot;
    ink.fillStyle = "#3b424c";
    ink.font = "12px system-ui, sans-serif";
    ink.textBaseline = "middle";
    ink.textAlign = "right";
    for (const [label, end] of this.ends(parallels, (a, b) => a.x < b.x)) {
      if (end.x < LEFT + 4) ink.fillText(label, LEFT - 5, end.y);
    }
    ink.textBaseline = "top";
    ink.textAlign = "center";
    for (const [label, end] of this.ends(meridians, (a, b) => a.y > b.y)) {
      if (end.y > EDGE + height - 4) ink.fillText(label, end.x, EDGE + height + 6);
    }
  }

  // The end of each labelled line that lies furthest towards an edge.
  ends(lines, further) {
    return lines.map(({ label, lines: parts }) => {
      const points = parts.flatMap((line) => [0, line.length - 2].map((i) => (
        { x: this.x(line[i]), y: this.y(line[i + 1]) }
      )));
      return [label, points.reduce((best, point) => (further(point, best) ? point : best))];
    });
  }

  drawArrows(ink) {
    const { along, up, strongest, units } = this.arrows;
    const step = Math.max(Math.round((ARROWS / this.plot.width) * this.W), 1);
    const [east, north] = [this.about.east_right ? 1 : -1, this.about.north_up ? -1 : 1];
    const length = LONGEST / strongest;
    for (const [wide, style] of [[3, "rgba(255, 255, 255, 0.55)"], [1.2, INK]]) {
      ink.lineWidth = wide;
      ink.strokeStyle = style;
      for (let row = step >> 1; row < this.H; row += step) {
        for (let column = step >> 1; column < this.W; column += step) {
          const i = row * this.W + column;
          const [dx, dy] = [along[i] * east * length, up[i] * north * length];
          if (Number.isFinite(dx) && Math.hypot(dx, dy) > 1) arrow(ink, this.x(column), this.y(row), dx, dy);
        }
      }
    }
    this.drawKey(ink, strongest, units);
  }

  // What a long arrow means.
  drawKey(ink, strongest, units) {
    const usual = Number((strongest / 2).toPrecision(1));
    const length = (usual / strongest) * LONGEST;
    const left = LEFT + this.plot.width - length - 68;
    ink.fillStyle = "rgba(255, 255, 255, 0.85)";
    ink.fillRect(left, EDGE, length + 68, 20);
    ink.fillStyle = ink.strokeStyle = INK;
    ink.lineWidth = 1.2;
    arrow(ink, left + 8 + length / 2, EDGE + 10, length, 0);
    ink.font = "12px system-ui, sans-serif";
    ink.textAlign = "left";
    ink.textBaseline = "middle";
    ink.fillText(`${usual} ${units}`, left + length + 14, EDGE + 10.5);
  }

  // On the picture itself, which may be copied without the page.
  drawStamp(ink) {
    const foot = EDGE + this.plot.height;
    ink.fillStyle = "rgba(255, 255, 255, 0.85)";
    ink.fillRect(LEFT, foot - 20, 86, 20);
    ink.fillStyle = "#a8321f";
    ink.font = "bold 12px system-ui, sans-serif";
    ink.textAlign = "left";
    ink.textBaseline = "middle";
    ink.fillText("SYNTHETIC", LEFT + 6, foot - 9);
  }

  drawMark(ink) {
    const [x, y] = [this.x(this.mark.column), this.y(this.mark.row)];
    for (const [wide, style] of [[4, "#ffffff"], [2, "#c2185b"]]) {
      ink.lineWidth = wide;
      ink.strokeStyle = style;
      ink.beginPath();
      ink.arc(x, y, 6, 0, 2 * Math.PI);
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        ink.moveTo(x + 6 * dx, y + 6 * dy);
        ink.lineTo(x + 11 * dx, y + 11 * dy);
      }
      ink.stroke();
    }
  }
}

// An arrow about a point.
function arrow(ink, x, y, dx, dy) {
  const [tipX, tipY] = [x + dx / 2, y + dy / 2];
  const head = Math.min(5, Math.hypot(dx, dy) / 2) / Math.hypot(dx, dy);
  ink.beginPath();
  ink.moveTo(x - dx / 2, y - dy / 2);
  ink.lineTo(tipX, tipY);
  for (const side of [1, -1]) {
    ink.moveTo(tipX, tipY);
    ink.lineTo(tipX - head * (dx + side * 0.6 * dy), tipY - head * (dy - side * 0.6 * dx));
  }
  ink.stroke();
}
