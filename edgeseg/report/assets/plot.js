// Many models on one plane: what is bought (y) for what (x), with the third figure as the size of a point.
"use strict";
(() => {
const {make, shape, number, choose, kinds} = edgesegPage;
// Okabe and Ito's colours, which colour-blind people can tell apart; a second round is drawn hollow.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c7a00", "#7f7f7f"];
const LEFT = 62, RIGHT = 18, TOP = 14, BOTTOM = 48;

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(n => n * power).find(n => n >= raw), found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function styles(points) {
  const groups = [...new Set(points.map(p => p.group))];
  return new Map(groups.map((group, i) => [group, {colour: COLOURS[i % COLOURS.length], hollow: Math.floor(i / COLOURS.length) % 2 === 1}]));
}

// Float is round, whole numbers are square, half floats lie between; all have the same area.
function mark(kind, r) {
  if (kind === "int8") return shape("rect", {x: -0.886 * r, y: -0.886 * r, width: 1.772 * r, height: 1.772 * r, transform: "rotate(45)"});
  if (kind === "fp16") return shape("path", {d: `M0 ${-1.45 * r}L${1.26 * r} ${0.72 * r}L${-1.26 * r} ${0.72 * r}Z`});
  return shape("circle", {r});
}

function coloured(node, {colour, hollow}) {
  node.setAttribute("stroke", colour);
  node.setAttribute("stroke-width", 2);
  node.setAttribute("fill", colour);
  node.setAttribute("fill-opacity", hollow ? 0.12 : 0.78);
  return node;
}

// Beaten by none: no other point is at least as good on both axes and better on one.
function frontier(points, x, y, better) {
  const good = p => better === "low" ? -p.values[y] : p.values[y];
  const beats = (a, b) => a.values[x] <= b.values[x] && good(a) >= good(b) && (a.values[x] < b.values[x] || good(a) > good(b));
  return points.filter(p => !points.some(q => beats(q, p))).sort((a, b) => a.values[x] - b.values[x]);
}

const has = (p, key) => typeof p.values[key] === "number";

function axes(svg, size, xs, ys, x, y, range) {
  const {px, py} = size;
  for (const value of ticks(range.x[0], range.x[1], Math.max(3, Math.floor(size.width / 130)))) {
    svg.append(shape("text", {x: px(value), y: size.height - BOTTOM + 18, "text-anchor": "middle"}, number(value)));
  }
  for (const value of ticks(range.y[0], range.y[1], 5).filter(value => value <= (y.most ?? Infinity))) {
    svg.append(shape("line", {class: "grid", x1: LEFT, x2: size.width - RIGHT, y1: py(value), y2: py(value)}));
    svg.append(shape("text", {x: LEFT - 8, y: py(value) + 4, "text-anchor": "end"}, number(value)));
  }
  svg.append(shape("text", {x: (LEFT + size.width - RIGHT) / 2, y: size.height - 8, "text-anchor": "middle"}, `${x.label} (less is better)`));
  const words = `${y.label} (${y.better === "low" ? "less" : "more"} is better)`;
  svg.append(shape("text", {transform: `translate(14,${(TOP + size.height - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle"}, words));
}

// Where a name can stand without covering another one; nowhere: the point tells it when asked.
function place(taken, cx, cy, r, text, size) {
  const w = 6.6 * text.length, spots = [[cx + r + 5, cy + 4], [cx - r - 5 - w, cy + 4], [cx - w / 2, cy - r - 6], [cx - w / 2, cy + r + 15]];
  for (const [x, y] of spots) {
    const box = [x, y - 11, x + w, y + 3];
    if (x < LEFT || x + w > size.width - 2 || y < TOP || y > size.height - BOTTOM + 2) continue;
    if (taken.some(t => box[0] < t[2] && t[0] < box[2] && box[1] < t[3] && t[1] < box[3])) continue;
    taken.push(box);
    return [x, y];
  }
  return null;
}

function plot(section) {
  const {points, xs, ys} = section, style = styles(points), state = {x: 0, y: 0};
  const chart = make("div", {class: "chart"}), words = make("p", {class: "note"}), tip = make("div", {class: "tip", hidden: true});
  const usable = (axis, list) => list.map((a, i) => [a, i]).filter(([a]) => points.some(p => has(p, a.key)));
  const control = (name, text, list) => {
    const known = usable(name, list);
    state[name] = known.length ? known[0][1] : 0;
    return choose(text, known.map(([a]) => a.label), 0, i => { state[name] = known[i][1]; draw(); });
  };

  function tell(p) {
    const figures = [...ys, ...xs].filter(a => has(p, a.key)).map(a => `${a.label}: ${number(p.values[a.key], a.digits)}`);
    return `${p.name}\n${[p.group, p.kind].filter(Boolean).join(" ")}\n${figures.join("\n")}`;
  }

  function draw() {
    const x = xs[state.x], y = ys[state.y], third = xs[(state.x + 1) % xs.length];
    const width = Math.max(300, chart.clientWidth || 800), height = Math.round(Math.min(440, Math.max(280, width * 0.5)));
    const shown = points.filter(p => has(p, x.key) && has(p, y.key));
    const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${y.label} against ${x.label}, ${shown.length} models`});
    tip.hidden = true;
    chart.replaceChildren(svg, tip);
    if (!shown.length) {
      words.textContent = "Nothing was measured on both axes.";
      return;
    }
    const spread = key => [Math.min(...shown.map(p => p.values[key])), Math.max(...shown.map(p => p.values[key]))];
    const [low, high] = spread(y.key), air = (high - low) * 0.14 || Math.abs(high) * 0.02 || 0.01;
    const range = {x: [0, spread(x.key)[1] * 1.1 || 1], y: [low - air, high + air]};
    const px = value => LEFT + (width - LEFT - RIGHT) * (value - range.x[0]) / (range.x[1] - range.x[0]);
    const py = value => TOP + (height - TOP - BOTTOM) * (1 - (value - range.y[0]) / (range.y[1] - range.y[0]));
    const size = {width, height, px, py}, best = frontier(shown, x.key, y.key, y.better);
    axes(svg, size, xs, ys, x, y, range);
    const line = best.map(p => `${px(p.values[x.key])},${py(p.values[y.key])}`).join(" ");
    svg.append(shape("polyline", {class: "frontier", points: line}));
    const largest = Math.max(...shown.map(p => third !== x && has(p, third.key) ? p.values[third.key] : 0)) || 1;
    const radius = p => third !== x && has(p, third.key) ? 4 + 8 * Math.sqrt(p.values[third.key] / largest) : 8;
    const taken = shown.map(p => {
      const [cx, cy, r] = [px(p.values[x.key]), py(p.values[y.key]), 1.25 * radius(p)];
      return [cx - r, cy - r, cx + r, cy + r];
    });
    for (const p of [...shown].sort((a, b) => radius(b) - radius(a))) point(svg, p, px(p.values[x.key]), py(p.values[y.key]), radius(p), taken, size);
    const names = best.map(p => `${p.name} (${number(p.values[x.key], x.digits)}; ${number(p.values[y.key], y.digits)})`);
    const area = third !== x ? ` The area of a point grows with ${third.label}.` : "";
    words.textContent = `The line joins those that none beats in both ${x.label} and ${y.label}: ${names.join(", ")}.${area}`;
  }

  function point(svg, p, cx, cy, r, taken, size) {
    const text = tell(p), group = shape("g", {class: "point", tabindex: 0, role: "img", "aria-label": text.replaceAll("\n", ", "), transform: `translate(${cx},${cy})`});
    group.append(shape("circle", {class: "halo", r: r + 5}), coloured(mark(p.kind, r), style.get(p.group)));
    if (p.mark) group.append(shape("circle", {class: "marked", r: r + 4}));
    const show = () => {
      tip.textContent = text;
      tip.hidden = false;
      const left = Math.min(cx + r + 10, size.width - tip.offsetWidth - 4);
      tip.style.left = `${Math.max(4, left === cx + r + 10 ? left : cx - r - 10 - tip.offsetWidth)}px`;
      tip.style.top = `${Math.max(0, Math.min(cy - tip.offsetHeight / 2, size.height - tip.offsetHeight))}px`;
    };
    for (const event of ["pointerenter", "focus"]) group.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) group.addEventListener(event, () => { tip.hidden = true; });
    group.addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });
    svg.append(group);
    const label = p.label || p.name, spot = place(taken, cx, cy, 1.25 * r, label, size);
    if (spot) svg.append(shape("text", {class: "name", x: spot[0], y: spot[1]}, label));
  }

  const sample = (node, text) => make("li", {}, shape("svg", {viewBox: "-13 -7 26 14", "aria-hidden": "true"}, node), make("span", {}, text));
  const forms = [...new Set(points.map(p => p.kind))].map(kind => {
    const node = mark(kind, 5);
    node.setAttribute("fill", "none");
    node.setAttribute("stroke", "currentColor");
    node.setAttribute("stroke-width", 1.5);
    return sample(node, kind);
  });
  const colours = [...style].map(([group, how]) => sample(coloured(shape("circle", {r: 5}), how), group));
  const controls = make("div", {class: "controls"}, control("y", "Up", ys), control("x", "Across", xs));
  new ResizeObserver(() => { if (chart.dataset.width !== String(chart.clientWidth)) { chart.dataset.width = chart.clientWidth; draw(); } }).observe(chart);
  draw();
  return make("div", {}, controls, chart, make("ul", {class: "legend", "aria-label": "Legend"}, ...colours, ...forms), words);
}

Object.assign(kinds, {plot});
Object.assign(edgesegPage, {styles, coloured});
})();
