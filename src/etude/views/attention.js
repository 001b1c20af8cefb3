// Attention weights: a grid of small matrices, and the chosen one with its tokens.

const SMALL = 64; // largest number of cells per side of a small matrix

// Values of the 16-bit floats from 0 to 1, and their colours. The square root makes small weights
// visible.
const values = new Float32Array(0x3c01);
const pixels = new Uint8ClampedArray(4 * values.length);
for (let code = 0; code < values.length; code++) {
  const exponent = code >> 10, fraction = (code & 1023) / 1024;
  values[code] = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
  pixels.set([...rgb(colour("quantity", Math.sqrt(values[code]))), 255], 4 * code);
}

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Uint16Array(bytes.buffer); // little-endian, as all current browsers
}

function written(weight) { // smaller 16-bit floats have fewer significant digits
  return weight < 1e-4 ? "< 0.0001" : number(weight);
}

class Part {
  constructor(part) {
    Object.assign(this, part);
    this.T = part.queries.length;
    this.S = part.keys.length;
    this.codes = decode(part.weights);
    this.size = part.causal ? (this.T * (this.T + 1)) / 2 : this.T * this.S;
    this.matrix = 0;
    this.names = part.layers.flatMap(([layer, heads]) => heads.map((head) => [layer, head]));
    this.q = this.k = null; // the row and the column that the pointer or the keyboard selects
    if (data.parts.length > 1) add(main, "h2", "", part.title);
    this.box = add(main, "section", "part");
    this.addGrid();
    this.addLarge();
    this.choose(0);
    onWidth(this.box, (width) => this.fit(width));
  }

  code(matrix, q, k) { // the 16-bit float; null where a causal mask hides the key
    if (!this.causal) return this.codes[matrix * this.size + q * this.S + k];
    return k > q ? null : this.codes[matrix * this.size + (q * (q + 1)) / 2 + k];
  }

  weight(q, k) {
    const code = this.code(this.matrix, q, k);
    return code === null ? null : values[code];
  }

  // A canvas with one pixel for each cell; each pixel of a smaller canvas has the largest weight.
  raster(canvas, matrix, most) {
    const step = Math.max(1, Math.ceil(Math.max(this.T, this.S) / most));
    canvas.width = Math.ceil(this.S / step);
    canvas.height = Math.ceil(this.T / step);
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const largest = new Int32Array(canvas.width * canvas.height).fill(-1);
    for (let q = 0; q < this.T; q++) {
      for (let k = 0; k < (this.causal ? q + 1 : this.S); k++) {
        const at = Math.floor(q / step) * canvas.width + Math.floor(k / step);
        largest[at] = Math.max(largest[at], this.code(matrix, q, k));
      }
    }
    largest.forEach((code, at) => {
      if (code >= 0) image.data.set(pixels.subarray(4 * code, 4 * code + 4), 4 * at);
    });
    context.putImageData(image, 0, 0);
  }

  addGrid() {
    const columns = [...new Set(this.names.map(([, head]) => head))];
    const grid = add(this.box, "div", "grid");
    this.columns = columns.length;
    grid.style.gridTemplateColumns = `auto repeat(${columns.length}, auto)`;
    add(grid, "span", "row", columns.length > 1 ? "head" : "");
    for (const head of columns) add(grid, "span", "column", head);
    let matrix = 0;
    this.buttons = [];
    for (const [layer, heads] of this.layers) {
      add(grid, "span", "row", layer === "all" ? "all layers" : `layer ${layer}`);
      for (const head of columns) {
        if (!heads.includes(head)) {
          add(grid, "span");
          continue;
        }
        const chosen = matrix++;
        const button = add(grid, "button");
        button.setAttribute("aria-label", this.nameOf(chosen));
        button.title = this.nameOf(chosen);
        button.addEventListener("click", () => this.choose(chosen));
        const canvas = add(button, "canvas");
        this.raster(canvas, chosen, SMALL);
        this.buttons.push(button);
      }
    }
  }

  nameOf(matrix) {
    const [layer, head] = this.names[matrix];
    if (layer === "all") return "mean of all layers and heads";
    return head === "mean" ? `layer ${layer}, mean of heads` : `layer ${layer}, head ${head}`;
  }

  addLarge() {
    const box = (this.large = add(this.box, "div", "large"));
    this.heading = add(box, "h2");
    this.heading.style.marginTop = "0";
    const ticks = [0, 0.05, 0.25, 0.5, 1].map((weight) => [Math.sqrt(weight), String(weight)]);
    addLegend(box, "quantity", "attention weight", ticks);
    const zoom = add(box, "label", "zoom", " size ");
    const slider = add(zoom, "input");
    const most = Math.min(30, Math.max(8, Math.floor(4096 / Math.max(this.T, this.S))));
    Object.assign(slider, { type: "range", min: 1, max: most, step: 0.1 });
    slider.addEventListener("input", () => {
      this.cell = Number(slider.value);
      this.sized = true;
      this.draw();
    });
    this.slider = slider;
    this.canvas = add(add(box, "div", "scroll"), "canvas");
    this.canvas.addEventListener("mousemove", (event) => this.point(event));
    this.canvas.addEventListener("mouseleave", () => this.select(null, null));
    onArrows(this.canvas, (columns, rows) => {
      const { left, top } = this.canvas.getBoundingClientRect();
      const bounded = (value, size) => Math.min(size - 1, Math.max(0, value));
      const q = this.q === null ? 0 : bounded(this.q + rows, this.T);
      const k = this.k === null ? 0 : bounded(this.k + columns, this.S);
      this.select(q, k, left + this.left + k * this.cell, top + this.top + q * this.cell);
    });
    const rows = this.same ? "tokens that attend" : "predicted tokens";
    const columns = this.same ? "tokens attended to" : "tokens of the source";
    add(box, "p", "hint", `Rows: ${rows}; columns: ${columns}. Point at a cell or a token, or ` +
      "use the arrow keys. ␣ is a space, ↵ a newline.");
    this.texts = {};
    if (!this.same) this.addText(box, "keys");
    this.addText(box, "queries");
  }

  addText(box, side) { // the text, whose tokens can be pointed at
    const text = add(box, "div", "text");
    this.texts[side] = this[side].map((label, i) => {
      const span = addToken(text, label);
      const selected = side === "queries" ? [i, null] : [null, i];
      span.addEventListener("mouseenter", (e) => this.select(...selected, e.clientX, e.clientY));
      span.addEventListener("mouseleave", () => this.select(null, null));
      return span;
    });
  }

  fit(width) {
    const longest = Math.max(this.T, this.S);
    const small = Math.floor(Math.min(480, 0.4 * width) / this.columns);
    const scale = Math.min(88, Math.max(26, small)) / longest;
    for (const button of this.buttons) {
      const { style } = button.firstChild;
      style.width = Math.max(8, scale * this.S) + "px";
      style.height = Math.max(8, scale * this.T) + "px";
    }
    if (this.sized) return;
    const room = Math.min(560, Math.max(200, this.large.clientWidth - 120));
    const cell = Math.min(22, Math.max(1, room / longest));
    this.cell = cell < 4 ? Math.floor(10 * cell) / 10 : Math.floor(cell);
    this.slider.value = this.cell;
    this.draw();
  }

  choose(matrix) {
    this.matrix = matrix;
    this.buttons.forEach((each, i) => each.setAttribute("aria-pressed", i === matrix));
    this.heading.textContent = this.nameOf(matrix);
    this.canvas.setAttribute("aria-label", `attention weights, ${this.nameOf(matrix)}`);
    this.image = document.createElement("canvas");
    this.raster(this.image, matrix, Infinity);
    if (this.cell) this.draw();
    this.colourTexts();
  }

  draw() {
    const { cell, T, S } = this;
    const size = Math.min(13, Math.max(9, cell - 2));
    const measuring = this.canvas.getContext("2d");
    measuring.font = `${size}px ${FONT}`;
    const longest = (labels) =>
      Math.min(110, Math.max(...labels.map((label) => measuring.measureText(label).width)));
    this.left = Math.ceil(longest(this.queries)) + 8;
    this.top = Math.ceil(longest(this.keys)) + 8;
    const context = resize(this.canvas, this.left + S * cell + 8, this.top + T * cell + 8);
    context.font = `${size}px ${FONT}`;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image, this.left, this.top, S * cell, T * cell);
    context.strokeStyle = "#999";
    context.strokeRect(this.left - 0.5, this.top - 0.5, S * cell + 1, T * cell + 1);
    const step = Math.ceil((size + 1) / cell);
    this.drawLabels(context, this.queries, this.q, step, (text, i) => {
      context.textAlign = "right";
      context.fillText(text, this.left - 4, this.top + (i + 0.5) * cell);
    });
    this.drawLabels(context, this.keys, this.k, step, (text, i) => {
      context.save();
      context.translate(this.left + (i + 0.5) * cell, this.top - 4);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(text, 0, 0);
      context.restore();
    });
    context.strokeStyle = MARKED;
    context.lineWidth = 2;
    if (this.q !== null) {
      const seen = this.causal ? this.q + 1 : S;
      context.strokeRect(this.left, this.top + this.q * cell, seen * cell, cell);
    }
    if (this.k !== null) {
      const first = this.causal ? this.k : 0;
      context.strokeRect(this.left + this.k * cell, this.top + first * cell, cell,
        (T - first) * cell);
    }
    Object.assign(this.canvas.dataset, { left: this.left, top: this.top, cell });
  }

  // Draws every step-th label; the selected one replaces its neighbours.
  drawLabels(context, labels, selected, step, write) {
    labels.forEach((label, i) => {
      const covered = selected !== null && i !== selected && Math.abs(i - selected) < step;
      if (i !== selected && (i % step || covered)) return;
      context.fillStyle = i === selected ? MARKED : INK;
      write(shorten(context, label, 110), i);
    });
  }

  point(event) {
    const q = Math.floor((event.offsetY - this.top) / this.cell);
    const k = Math.floor((event.offsetX - this.left) / this.cell);
    this.select(q < 0 || q >= this.T ? null : q, k < 0 || k >= this.S ? null : k,
      event.clientX, event.clientY);
  }

  select(q, k, x, y) {
    if (q !== this.q || k !== this.k) {
      this.q = q;
      this.k = k;
      this.draw();
      this.colourTexts();
    }
    if (q === null && k === null) hideTip();
    else showTip(this.details(), x, y);
  }

  details() {
    const { q, k } = this;
    const rows = [];
    if (q !== null) rows.push([this.query, this.queries[q], `position ${q}`]);
    if (q !== null && this.after[q]) rows.push(["predicted after", this.after[q], ""]);
    if (k !== null) rows.push([this.key, this.keys[k], `position ${k}`]);
    if (q !== null && k !== null) {
      const weight = this.weight(q, k);
      return [...rows, ["weight", weight === null ? "hidden by the mask" : written(weight), ""]];
    }
    const labels = q === null ? this.queries : this.keys;
    const weights = labels.map((_, i) => (q === null ? this.weight(i, k) : this.weight(q, i)));
    const others = labels.map((label, i) => [label, weights[i], i]);
    const most = others.filter(([, weight]) => weight > 0).sort((a, b) => b[1] - a[1]).slice(0, 5);
    const title = q === null ? "largest weights from" : "largest weights to";
    return [...rows, [title, "", ""],
      ...most.map(([label, weight, i]) => [label, written(weight), `position ${i}`])];
  }

  // Colours the tokens by the weights of the selected row or column.
  colourTexts() {
    const { q, k } = this;
    for (const [side, spans] of Object.entries(this.texts)) {
      const ofKeys = side === "keys" || this.same;
      spans.forEach((span, i) => {
        const weight = q !== null && ofKeys ? this.weight(q, i)
          : q === null && k !== null ? (side === "keys" ? null : this.weight(i, k)) : null;
        const fill = weight === null ? "" : colour("quantity", Math.sqrt(weight));
        span.style.background = fill;
        span.style.color = fill && inkOn(fill);
        span.classList.toggle("on", (side === "queries" && i === q) || (ofKeys && i === k));
      });
    }
  }
}

const parts = data.parts.map((part) => new Part(part));
Object.assign(document.body.dataset, {
  view: "attention",
  matrices: document.querySelectorAll(".grid canvas").length,
  tokens: parts.map((part) => `${part.T}x${part.S}`).join(" "),
});
