// The logit lens: a table of layers and positions, in bands as wide as the page.

const CELL = 76, LINE = 20, MARGIN = 78, SIZE = 12;
const T = data.labels.length, L = data.layers.length;

addLegend(main, "quantity", "probability of the most probable token",
  [[0, "0"], [0.5, "0.5"], [1, "1"]]);
add(main, "p", "hint", "Top row: the text. A frame marks a cell that predicts the next token of the text. " +
  "Point at a cell, or use the arrow keys. ␣ is a space, ↵ a newline.");
const bands = add(main, "div");
let selected = null; // [layer, position]
let columns = 0, canvases = [];

function layOut(width) {
  columns = Math.max(1, Math.min(T, Math.floor((width - MARGIN) / CELL)));
  bands.textContent = "";
  canvases = [];
  for (let first = 0; first < T; first += columns) {
    const canvas = add(bands, "canvas", "band");
    canvas.setAttribute("role", "img");
    const last = Math.min(first + columns, T) - 1;
    canvas.setAttribute("aria-label", `positions ${first} to ${last}`);
    canvas.addEventListener("mousemove", (event) => point(event, first));
    canvas.addEventListener("mouseleave", () => select(null));
    canvases.push(canvas);
  }
  canvases.forEach((_, band) => draw(band));
  Object.assign(document.body.dataset, { view: "lens", columns, bands: canvases.length,
    cells: T * L, left: MARGIN, top: LINE, cell: CELL, line: LINE });
}

function draw(band) {
  const first = band * columns, count = Math.min(columns, T - first);
  const context = resize(canvases[band], MARGIN + count * CELL + 2, (L + 1) * LINE + 2);
  const write = (text, x, y, width) => context.fillText(shorten(context, text, width), x, y);
  context.textAlign = "right";
  context.font = `${SIZE}px ${FONT}`;
  context.fillStyle = "#555";
  data.layers.forEach((name, l) => write(name, MARGIN - 6, (l + 1.5) * LINE, MARGIN - 8));
  context.textAlign = "center";
  for (let i = 0; i < count; i++) {
    const x = MARGIN + i * CELL, at = first + i;
    context.font = `bold ${SIZE}px ${FONT}`;
    context.fillStyle = INK;
    write(data.labels[at], x + CELL / 2, LINE / 2, CELL - 4);
    context.font = `${SIZE}px ${FONT}`;
    for (let l = 0; l < L; l++) {
      const y = (l + 1) * LINE, fill = colour("quantity", data.probabilities[l][at][0]);
      context.fillStyle = fill;
      context.fillRect(x, y, CELL - 1, LINE - 1);
      context.fillStyle = inkOn(fill);
      write(data.names[data.top[l][at][0]], x + CELL / 2, y + LINE / 2, CELL - 6);
      const right = data.top[l][at][0] === data.targets[at];
      const pointed = selected && selected[0] === l && selected[1] === at;
      if (!right && !pointed) continue;
      context.lineWidth = pointed ? 4 : 2;
      context.strokeStyle = MARKED;
      context.strokeRect(x + 1, y + 1, CELL - 3, LINE - 3);
    }
  }
}

function point(event, first) {
  const i = Math.floor((event.offsetX - MARGIN) / CELL);
  const l = Math.floor(event.offsetY / LINE) - 1;
  const inside = i >= 0 && i < columns && first + i < T && l >= 0 && l < L;
  select(inside ? [l, first + i] : null, event.clientX, event.clientY);
}

function select(cell, x, y) {
  const before = selected;
  selected = cell;
  const changed = new Set([before, cell].filter(Boolean).map(([, at]) => Math.floor(at / columns)));
  changed.forEach(draw);
  if (cell === null) return hideTip();
  const [l, at] = cell;
  const rows = [["token", data.labels[at]], ["position", String(at)], ["after", data.layers[l]],
    ["most probable", ""]];
  data.top[l][at].forEach((name, i) => {
    rows.push([data.names[name], number(data.probabilities[l][at][i])]);
  });
  showTip(rows, x, y);
}

onArrows(bands, (right, down) => {
  const bounded = (value, size) => Math.min(size - 1, Math.max(0, value));
  const [l, at] = selected || [-down, -right]; // the first key selects the first cell
  const cell = [bounded(l + down, L), bounded(at + right, T)];
  const canvas = canvases[Math.floor(cell[1] / columns)];
  canvas.scrollIntoView({ block: "nearest" });
  const { left, top } = canvas.getBoundingClientRect();
  select(cell, left + MARGIN + (cell[1] % columns) * CELL, top + (cell[0] + 2) * LINE);
});

onWidth(main, layOut);
