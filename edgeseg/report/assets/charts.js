// What is taken for what, and precision over recall.
"use strict";
(() => {
const {make, shape, number, choose, table, kinds, styles, coloured} = edgesegPage;
const MOST = 25;  // mix-ups in the list

// entries: [found, there, count]; the index behind the last class is the background.
function confusion({names, entries, title}) {
  const nothing = names.length, used = new Set(entries.flatMap(([found, there]) => [found, there]));
  const order = names.map((_, i) => i).filter(i => used.has(i)), at = new Map([...order, nothing].map((cls, i) => [cls, i]));
  const total = new Map();
  for (const [, there, count] of entries) total.set(there, (total.get(there) || 0) + count);
  return make("div", {class: "split"}, heat({names, entries, order, at, total, nothing}), mixups({names, entries, total, nothing, title}));
}

function heat({names, entries, order, at, total, nothing}) {
  const n = order.length + 1, side = n > 40 ? 16 : n > 20 ? 20 : n > 10 ? 28 : 40;
  const words = cls => cls === nothing ? "(nothing)" : names[cls], short = text => text.length > 16 ? `${text.slice(0, 15)}…` : text;
  const gap = 8 + 6.2 * Math.max(...[...order, nothing].map(cls => short(words(cls)).length)), whole = gap + n * side;
  const svg = shape("svg", {viewBox: `0 0 ${whole} ${whole}`, width: whole, height: whole, class: "heat", role: "img",
    "aria-label": "Confusion matrix: rows are what was found, columns what is there. The table beside it lists its mistakes."});
  for (const [cls, i] of at) {
    const middle = gap + (i + 0.5) * side;
    svg.append(shape("line", {class: "grid", x1: gap, x2: whole, y1: gap + i * side, y2: gap + i * side}));
    svg.append(shape("line", {class: "grid", y1: gap, y2: whole, x1: gap + i * side, x2: gap + i * side}));
    svg.append(shape("text", {x: gap - 5, y: middle + 4, "text-anchor": "end"}, short(words(cls))));
    svg.append(shape("text", {transform: `translate(${middle + 4},${gap - 5}) rotate(-90)`}, short(words(cls))));
  }
  for (const [found, there, count] of entries) {
    const x = gap + at.get(there) * side, y = gap + at.get(found) * side, share = count / total.get(there);
    const cell = shape("rect", {class: "cell", x, y, width: side, height: side, "fill-opacity": Math.max(0.08, share).toFixed(3)});
    cell.append(shape("title", {}, sentence(words, nothing, found, there, count, share)));
    svg.append(cell);
    const size = side < 20 ? 9 : 11, text = String(count);
    if (text.length * size * 0.62 > side - 1) continue;
    svg.append(shape("text", {class: share > 0.55 ? "count over" : "count", x: x + side / 2, y: y + side / 2 + 4}, text));
  }
  const place = make("div", {class: "scroll chart", tabindex: 0, role: "region", "aria-label": "Confusion matrix"}, svg);
  svg.style.maxWidth = `${whole}px`;
  svg.style.minWidth = `${gap + 13 * n}px`;
  return make("div", {}, place, make("p", {class: "note"}, "Down: what was found. Across: what is there. Darker: a larger share of what is there."));
}

function sentence(words, nothing, found, there, count, share) {
  const part = `${count} (${(100 * share).toFixed(0)} %)`;
  if (found === nothing) return `${words(there)}: ${part} not found`;
  if (there === nothing) return `${words(found)}: ${count} found where nothing is`;
  return found === there ? `${words(there)}: ${part} found` : `${words(there)}: ${part} found as ${words(found)}`;
}

function mixups({names, entries, total, nothing, title}) {
  const wrong = entries.filter(([found, there]) => found !== there).sort((a, b) => b[2] - a[2]).slice(0, MOST);
  const rows = wrong.map(([found, there, count]) => ({cells: [
    there === nothing ? "(nothing)" : names[there], found === nothing ? "(not found)" : names[found], count,
    there === nothing ? null : 100 * count / total.get(there),
  ]}));
  const columns = [{label: "There is", text: true}, {label: "Found as", text: true}, {label: "Times"}, {label: "Share, %", digits: 0}];
  return make("div", {}, table({title: `${title || "Confusion"}: most frequent mistakes`, columns, rows}));
}

// models: [{name, group, kind, box: {"-1": [...], class: [...]}, seg}], per mille of precision over recall 0..1; -1 is the mean.
function curves(section) {
  const {names, models} = section, style = styles(models), chart = make("div", {class: "chart"}), state = {kind: 0, cls: 0};
  const parts = ["box", "seg"].filter(kind => models.some(m => m[kind])), said = {box: "Boxes", seg: "Masks"};
  const classes = [-1, ...names.map((_, i) => i).filter(i => models.some(m => parts.some(kind => m[kind]?.[i])))];
  const legend = make("ul", {class: "legend", "aria-label": "Models, with the area below each curve"});

  function draw() {
    const width = Math.max(300, chart.clientWidth || 700), height = Math.round(Math.min(420, Math.max(260, width * 0.55)));
    const px = r => 52 + (width - 66) * r, py = p => 12 + (height - 58) * (1 - p), kind = parts[state.kind], cls = classes[state.cls];
    const about = `Precision over recall of ${said[kind].toLowerCase()}, ${cls < 0 ? "mean of all classes" : names[cls]}`;
    const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about});
    for (const value of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      svg.append(shape("line", {class: "grid", x1: px(0), x2: px(1), y1: py(value), y2: py(value)}));
      svg.append(shape("text", {x: px(0) - 8, y: py(value) + 4, "text-anchor": "end"}, String(value)));
      svg.append(shape("text", {x: px(value), y: height - 28, "text-anchor": "middle"}, String(value)));
    }
    svg.append(shape("text", {x: px(0.5), y: height - 8, "text-anchor": "middle"}, "recall"));
    svg.append(shape("text", {transform: `translate(13,${py(0.5)}) rotate(-90)`, "text-anchor": "middle"}, "precision at IoU 0.50"));
    const lines = models.map(m => {
      const values = m[kind]?.[cls];
      if (!values) return null;
      const points = values.map((p, i) => `${px(i / (values.length - 1)).toFixed(1)},${py(p / 1000).toFixed(1)}`).join(" ");
      const line = shape("polyline", {class: "curve", points, stroke: style.get(m.group).colour});
      if (m.kind !== "fp32") line.setAttribute("stroke-dasharray", m.kind === "int8" ? "7 4" : "2 3");
      line.append(shape("title", {}, m.name));
      svg.append(line);
      return line;
    });
    chart.replaceChildren(svg);
    legend.replaceChildren(...models.flatMap((m, i) => lines[i] ? [entry(m, i, lines, m[kind][cls])] : []));
  }

  function entry(m, i, lines, values) {
    const sample = coloured(shape("line", {x1: -13, x2: 13, y1: 0, y2: 0}), style.get(m.group));
    if (m.kind !== "fp32") sample.setAttribute("stroke-dasharray", m.kind === "int8" ? "7 4" : "2 3");
    const area = values.reduce((sum, p) => sum + p, 0) / values.length / 1000;
    const item = make("li", {}, shape("svg", {viewBox: "-13 -7 26 14", "aria-hidden": "true"}, sample), make("span", {}, `${m.name}: ${number(area, 3)}`));
    item.addEventListener("pointerenter", () => lines.forEach((line, k) => line?.classList.toggle("faint", k !== i)));
    item.addEventListener("pointerleave", () => lines.forEach(line => line?.classList.remove("faint")));
    return item;
  }

  const controls = make("div", {class: "controls"},
    choose("Of", parts.map(kind => said[kind]), 0, i => { state.kind = i; draw(); }),
    choose("Class", classes.map(cls => cls < 0 ? "mean of all" : names[cls]), 0, i => { state.cls = i; draw(); }));
  new ResizeObserver(() => { if (chart.dataset.width !== String(chart.clientWidth)) { chart.dataset.width = chart.clientWidth; draw(); } }).observe(chart);
  draw();
  return make("div", {}, controls, chart, legend);
}

Object.assign(kinds, {confusion, curves});
})();
