"use strict";
// Shared by all views: data, elements, numbers, colours, the legend, and the box with details.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const INK = "#1c1c1c", MARKED = "#d55e00", FONT = '"Noto Sans", "Noto Sans CJK SC", sans-serif';

// Texts of tokens are inserted as text nodes only, so that they cannot become markup.
function add(parent, tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

function number(value) { // 3 significant digits
  if (value === null) return "none";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3) return value.toExponential(2);
  return size < 1000 ? value.toPrecision(3) : String(Number(value.toPrecision(3)));
}

function colour(map, fraction) {
  const index = Math.round(255 * Math.min(1, Math.max(0, fraction)));
  return "#" + data.colours[map].slice(6 * index, 6 * index + 6);
}

function rgb(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

function inkOn(hex) { // the one of black and white with the higher contrast (WCAG 2.2)
  const [r, g, b] = rgb(hex).map((value) => {
    const c = value / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

function addLegend(parent, map, caption, ticks) { // ticks: pairs of a fraction and a text
  const legend = add(parent, "div", "legend");
  add(legend, "div", "caption", caption);
  const canvas = add(legend, "canvas");
  canvas.width = 256;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  for (let i = 0; i < 256; i++) {
    context.fillStyle = colour(map, i / 255);
    context.fillRect(i, 0, 1, 1);
  }
  const labels = add(legend, "div", "ticks");
  for (const [fraction, text] of ticks) {
    add(labels, "span", "", text).style.left = 100 * fraction + "%";
  }
}

function addToken(parent, label) { // a span with dimmed marks; a newline also breaks the line
  const span = add(parent, "span", "token");
  for (const piece of label.split(/([␣↵⇥])/)) {
    if (piece) add(span, "span", "␣↵⇥".includes(piece) ? "mark" : "", piece);
  }
  if (label.includes("↵")) add(parent, "br");
  else parent.append("\u200b"); // the line may break here
  return span;
}

// A canvas of a size in CSS pixels, sharp on screens with more pixels.
function resize(canvas, width, height) {
  const ratio = width * height > 4e6 ? 1 : window.devicePixelRatio || 1;
  canvas.width = Math.ceil(width * ratio);
  canvas.height = Math.ceil(height * ratio);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.textBaseline = "middle";
  return context;
}

// Calls draw(width) now and whenever the width of an element changes. A notebook may set the width
// of a page's frame only after the script has run, without an event.
function onWidth(element, draw) {
  let width = null;
  const check = () => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    draw(width);
  };
  check();
  new ResizeObserver(check).observe(element);
}

function shorten(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const letters = Array.from(text);
  const fits = () => context.measureText(letters.join("") + "…").width <= width;
  while (letters.length && !fits()) letters.pop();
  return letters.join("") + "…";
}

const tip = document.getElementById("tip");

function showTip(rows, x, y) { // rows: lists of texts, the first of which is a label
  tip.textContent = "";
  const table = add(tip, "table");
  for (const row of rows) {
    const line = add(table, "tr");
    for (const text of row) add(line, "td", "", text);
  }
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width < innerWidth ? x + 16 : Math.max(4, x - 16 - width);
  const top = y + 16 + height < innerHeight ? y + 16 : Math.max(4, y - 16 - height);
  tip.style.left = left + "px";
  tip.style.top = top + "px";
}

function hideTip() {
  tip.hidden = true;
}

document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// Calls move(columns, rows) for the arrow keys, while the element has the focus.
function onArrows(element, move) {
  element.tabIndex = 0;
  element.addEventListener("keydown", (event) => {
    if (!ARROWS[event.key]) return;
    event.preventDefault();
    move(...ARROWS[event.key]);
  });
  element.addEventListener("blur", hideTip);
}
