// The frame of a report: header, sections, tables that sort. What it shows is the JSON in the page; strangers' words are only
// ever set as text.
"use strict";
var edgesegPage = (() => {
const SVG = "http://www.w3.org/2000/svg";
const kinds = {};

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A number with as many decimals as its column has, else with four digits that count.
function number(value, digits) {
  if (value === null || value === undefined) return "–";
  if (digits !== undefined && digits !== null) return value.toFixed(digits).replace(/^-(?=[0.]+$)/, "");  // no minus before nothing
  return String(Number(value.toPrecision(4)));
}

function choose(words, options, chosen, change) {
  const select = make("select", {onchange: () => change(Number(select.value))});
  select.append(...options.map((text, i) => make("option", {value: i}, text)));
  select.value = chosen;
  return make("label", {}, make("span", {}, words), select);
}

// A box that scrolls by itself, which a keyboard can reach when it does.
function scrolling(title, inside) {
  return make("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": title}, inside);
}

// A cell is null, a number, a text, or {value, text, tone, small}: `value` is what is sorted by.
const plain = cell => cell !== null && typeof cell === "object" ? cell.value ?? cell.text ?? null : cell;

function filled(cell, column, tag) {
  const rich = cell !== null && typeof cell === "object" ? cell : {value: cell};
  const text = rich.text ?? (typeof rich.value === "number" ? number(rich.value, column.digits) : rich.value ?? "–");
  const made = make(tag, {class: [column.text ? "text" : "", column.words ? "words" : "", rich.tone || ""].join(" ").trim() || null});
  const parts = tag === "th" ? String(text).split(/(?<=[_./-])/) : [String(text)];  // a name breaks where its parts end
  made.append(make("span", {}, ...parts.flatMap((part, i) => i ? [make("wbr"), part] : [part])));
  if (rich.small) made.append(make("small", {}, rich.small));
  if (tag === "th") made.setAttribute("scope", "row");
  return made;
}

function table(section) {
  const {columns, rows} = section, body = make("tbody");
  const lines = rows.map(({cells, mark}) => ({
    cells, node: make("tr", {class: mark || null}, ...cells.map((cell, i) => filled(cell, columns[i], i ? "td" : "th"))),
  }));
  const heads = columns.map((column, i) => {
    const button = make("button", {type: "button", onclick: () => sort(i), title: column.title || null}, column.label);
    return make("th", {scope: "col", class: column.text ? "text" : null, "aria-sort": "none"}, button);
  });
  function sort(i) {
    const was = heads[i].getAttribute("aria-sort"), first = columns[i].text ? "ascending" : "descending";
    const now = was === "none" ? first : was === "ascending" ? "descending" : "ascending", way = now === "ascending" ? 1 : -1;
    heads.forEach((head, k) => head.setAttribute("aria-sort", k === i ? now : "none"));
    const ordered = [...lines].sort((a, b) => {
      const [x, y] = [plain(a.cells[i]), plain(b.cells[i])];
      if (x === null || y === null) return (x === null) - (y === null);  // what is not known comes last, either way
      return way * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, {numeric: true}));
    });
    body.replaceChildren(...ordered.map(line => line.node));
  }
  body.append(...lines.map(line => line.node));
  const made = make("table", {"aria-label": section.title || "Figures"}, make("thead", {}, make("tr", {}, ...heads)), body);
  return scrolling(section.title || "Figures", made);
}

// One of several sections, chosen by a list.
function choice(section) {
  const place = make("div");
  const show = i => place.replaceChildren(drawn(section.options[i].section));
  const options = section.options.map(o => o.label);
  show(0);
  return make("div", {}, make("div", {class: "controls"}, choose(section.label, options, 0, show)), place);
}

function viewer(section) {
  const place = make("div");
  edgesegViewer.mount(place, section);
  return place;
}

function drawn(section) {
  return kinds[section.kind](section);
}

function start() {
  const report = JSON.parse(document.getElementById("data").textContent), main = document.getElementById("report");
  const facts = report.about.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value))));
  const titled = report.sections.map((s, i) => [s.title, `part${i}`]).filter(([title]) => title);
  const links = titled.map(([title, id]) => make("a", {href: `#${id}`}, title));
  main.append(make("header", {}, make("h1", {}, report.title), make("dl", {class: "facts"}, ...facts),
    ...(report.note ? [make("p", {class: "note"}, report.note)] : []),
    ...(links.length > 1 ? [make("nav", {"aria-label": "Parts of this page"}, ...links)] : [])));
  report.sections.forEach((section, i) => {
    const box = make("section", {id: `part${i}`, "data-kind": section.kind});
    if (section.title) {
      box.append(make("h2", {id: `title${i}`}, section.title));
      box.setAttribute("aria-labelledby", `title${i}`);
    }
    if (section.note) box.append(make("p", {class: "note"}, section.note));
    main.append(box);
    box.append(drawn(section));
  });
}

Object.assign(kinds, {table, choice, viewer});
return {make, shape, number, choose, table, kinds, start};
})();
