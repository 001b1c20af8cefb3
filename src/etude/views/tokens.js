// A text whose tokens are coloured by their values.

const { low, high, colours } = data.scale;
const fractionOf = (value) => (value - low) / (high - low);
const middle = (low + high) / 2;
addLegend(main, colours, data.name, [[0, number(low)], [0.5, number(middle)], [1, number(high)]]);
add(main, "p", "hint", "Point at a token, or use the arrow keys. ␣ is a space, ↵ a newline.");
const text = add(main, "div", "text");
let selected = -1;

const tokens = data.labels.map((label, i) => {
  const token = addToken(text, label);
  const value = data.values[i];
  if (value === null) {
    token.classList.add("none");
  } else {
    const fill = colour(colours, fractionOf(value));
    token.style.background = fill;
    token.style.color = inkOn(fill);
  }
  token.addEventListener("mouseenter", (event) => select(i, event.clientX, event.clientY));
  token.addEventListener("mouseleave", () => select(-1));
  return token;
});

function details(i) {
  const rows = [["token", data.labels[i]], ["position", String(i)]];
  rows.push([data.name, number(data.values[i])]);
  if (data.probabilities.length) rows.push(["probability", number(data.probabilities[i])]);
  const top = data.top[i] || [];
  if (top.length) rows.push(["most probable", ""]);
  for (const [label, probability] of top) rows.push([label, number(probability)]);
  return rows;
}

function select(i, x, y) {
  if (selected >= 0) tokens[selected].classList.remove("on");
  selected = i;
  if (i < 0) return hideTip();
  tokens[i].classList.add("on");
  showTip(details(i), x, y);
}

onArrows(text, (columns, rows) => {
  const i = Math.min(tokens.length - 1, Math.max(0, selected + columns + 10 * rows));
  tokens[i].scrollIntoView({ block: "nearest" });
  const { left, bottom } = tokens[i].getBoundingClientRect();
  select(i, left, bottom);
});
text.setAttribute("role", "group");
text.setAttribute("aria-label", "text with coloured tokens");

Object.assign(document.body.dataset, {
  view: "tokens",
  tokens: tokens.length,
  coloured: tokens.filter((token) => token.style.background).length,
});
