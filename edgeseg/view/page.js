// The page around the viewer: which picture, which two models, from which score on. The models run where this comes from.
"use strict";
(() => {
const at = id => document.getElementById(id);
const KEPT = 24, ROW = 40, AHEAD = 6;
const items = [];  // {name, index} of the data, then {name, file} of one's own
const order = [];  // what is listed: positions in items, in the order in which they are turned over
const answers = new Map(), asking = new Map(), rows = new Map();
const sides = [];  // the models that the viewer shows: left and right, or the one that there is
let about, viewer, left = 0, right = 0, score = 0, current = -1, raw = null;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function answer(asked) {
  let response;
  try {
    response = await asked;
  } catch (problem) {
    throw problem.name === "AbortError" ? problem : new Error("edgeseg view does not answer: is it still running?");
  }
  const body = await response.json().catch(() => null);
  if (body && body.error) throw new Error(body.error);
  if (!response.ok || !body) throw new Error("Not allowed: open the address that edgeseg view printed again.");
  return body;
}

// What the models found, from the score at which the server begins; asked for once while it is kept.
function found(position) {
  let kept = answers.get(position);
  if (!kept) {
    const item = items[position], stop = new AbortController();
    const bring = {method: "POST", body: item.file, signal: stop.signal};
    kept = answer(item.file ? fetch(`/picture?name=${encodeURIComponent(item.name)}`, bring)
      : fetch(`/picture/${item.index}`, {signal: stop.signal}));
    asking.set(position, stop);
    kept.catch(() => answers.delete(position)).finally(() => asking.delete(position));
  }
  answers.delete(position);
  answers.set(position, kept);
  while (answers.size > KEPT) answers.delete(answers.keys().next().value);
  return kept;
}

// Nobody waits any more for what was asked before, but for some.
function forget(...but) {
  for (const [position, stop] of asking) if (!but.includes(position)) { answers.delete(position); stop.abort(); }
}

function overlap([a, b, c, d], [e, f, g, h]) {
  const shared = Math.max(0, Math.min(c, g) - Math.max(a, e)) * Math.max(0, Math.min(d, h) - Math.max(b, f));
  return shared ? shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared) : 0;
}

// For each of ours its partner in theirs, or -1: one to one, of one class, the largest overlap first, from 0.5 on.
function partners(theirs, ours) {
  const near = [], taken = new Set(), of = ours.map(() => -1);
  theirs.forEach((a, i) => ours.forEach((b, j) => {
    const shared = a.class === b.class ? overlap(a.box, b.box) : 0;
    if (shared >= 0.5) near.push([shared, i, j]);
  }));
  for (const [, i, j] of near.sort((a, b) => b[0] - a[0])) if (of[j] < 0 && !taken.has(i)) { of[j] = i; taken.add(i); }
  return of;
}

const above = list => list && list.filter(one => one.score >= score - 1e-9);

function shown(picture) {
  const first = above(picture.found[left]), second = above(picture.found[right]);
  const lists = [first && first.map((one, i) => ({...one, pair: i}))];
  if (sides.length > 1) {
    const of = first && second && partners(first, second);
    lists.push(second && second.map((one, j) => ({...one, pair: of ? of[j] : 0})));
  }
  const why = [left, right].map(m => picture.about[m].error ? "failed: see below" : picture.about[m].note);
  return {...picture, found: lists, why};
}

function figures(picture) {
  const reference = above(picture.found[left]);
  at("figures").hidden = false;
  at("against").textContent = about.models.length > 1
    ? `Against ${about.models[left].name}: pairs of one class whose boxes overlap by half; agreement is their share of all.` : "";
  at("rows").replaceChildren(...about.models.map((model, m) => {
    const row = element("tr", undefined, {class: m === left ? "left" : m === right ? "right" : ""});
    const head = element("th", model.name, {scope: "row"});
    head.append(" ", element("small", [model.format, model.bytes ? `${(model.bytes / 1e6).toFixed(1)} MB` : ""].filter(Boolean).join(", ")));
    row.append(head);
    const {error, note, ms} = picture.about[m], list = above(picture.found[m]);
    if (!list) {
      row.append(element("td", error || note, {colspan: 6, class: error ? "failure" : "note"}));
      return row;
    }
    const pairs = reference && m !== left ? partners(reference, list).filter(i => i >= 0).length : null;
    const both = reference ? reference.length + list.length : 0;
    const against = pairs === null ? [m === left && about.models.length > 1 ? "reference" : "–", "–", "–"]
      : [both ? `${(200 * pairs / both).toFixed(1)} %` : "–", reference.length - pairs, list.length - pairs];
    const times = ms ? [ms.inference, ms.preprocess + ms.inference + ms.postprocess].map(t => t.toFixed(1)) : ["–", "–"];
    row.append(...[list.length, ...against, ...times].map(value => element("td", value)));
    return row;
  }));
}

function complain(message) {
  at("problem").textContent = message;
  at("problem").hidden = !message;
}

async function load(position) {
  current = position;
  raw = null;
  forget(position);
  mark();
  complain("");
  document.title = `${items[position].name} · edgeseg view`;
  const waiting = setTimeout(() => at("card").classList.add("busy"), 150);
  try {
    const picture = await found(position);
    if (position !== current) return shown(picture);
    raw = picture;
    at("card").classList.remove("failed");
    figures(picture);
    const next = order[order.indexOf(position) + 1];
    if (next !== undefined && !items[next].file) found(next).catch(() => {});  // it is there when it is asked for
    return shown(picture);
  } catch (problem) {
    if (position === current) {
      at("card").classList.add("failed");
      at("figures").hidden = true;
      complain(problem.message);
    }
    throw new Error(items[position].name);
  } finally {
    clearTimeout(waiting);
    if (position === current) at("card").classList.remove("busy");
  }
}

function go(position) {
  if (position === undefined) return;
  at("empty").hidden = true;
  at("card").hidden = false;
  if (viewer) viewer.show(position);
  else {
    const all = order.splice(0, order.length, position);  // the viewer begins with the first
    viewer = edgesegViewer.mount(at("viewer"), {names: about.names, models: sides, load, count: 1, orders: [order, order]});
    order.splice(0, 1, ...all);
    viewer.show(position);
  }
}

const turn = by => go(order[Math.max(0, Math.min(order.length - 1, order.indexOf(current) + by))]);

function refresh() {
  if (!raw) return;
  viewer.redraw(shown(raw));
  figures(raw);
}

function choose(a, b) {
  [left, right] = [a, b];
  [at("left").value, at("right").value] = [a, b];
  sides.splice(0, 2, ...(about.models.length > 1 ? [about.models[a], about.models[b]] : about.models));
  refresh();
}

function rescore(value) {
  score = Math.min(0.95, Math.max(about.lowest, value));
  at("score").value = score;
  at("shownScore").textContent = score.toFixed(2);
  refresh();
}

function listed() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = item => words.every(word => item.name.toLowerCase().includes(word));
  const own = items.map((_, i) => i).filter(i => items[i].file).reverse(), data = items.map((_, i) => i).filter(i => !items[i].file);
  order.splice(0, order.length);
  for (const i of [...own, ...data]) if (fits(items[i])) order.push(i);
  at("count").textContent = words.length ? `${order.length} of ${items.length}` : items.length;
  at("list").scrollTop = 0;
  for (const row of rows.values()) row.remove();
  rows.clear();
  draw();
}

// Only the rows that can be seen are there, however many pictures there are.
function draw() {
  const box = at("list"), names = at("names");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - AHEAD);
  const last = Math.min(order.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + AHEAD);
  names.style.height = `${ROW * order.length}px`;
  for (const [k, row] of rows) if (k < first || k >= last) { row.remove(); rows.delete(k); }
  for (let k = first; k < last; k += 1) {
    if (!rows.has(k)) {
      const item = items[order[k]], row = element("li"), button = element("button", item.name, {type: "button", title: item.name});
      if (item.file) button.className = "own";
      button.onclick = () => go(order[k]);
      row.append(button);
      row.style.top = `${ROW * k}px`;
      rows.set(k, row);
    }
    const row = rows.get(k), place = names.children[k - first];
    if (place !== row) names.insertBefore(row, place || null);
  }
  light();
}

function light() {
  for (const [k, row] of rows) {
    if (order[k] === current) row.firstChild.setAttribute("aria-current", "true");
    else row.firstChild.removeAttribute("aria-current");
  }
}

function mark() {
  const box = at("list"), top = ROW * order.indexOf(current);
  if (top >= 0 && (top < box.scrollTop || top + ROW > box.scrollTop + box.clientHeight)) {
    box.scrollTop = top - box.clientHeight / 2;
    draw();
  }
  light();
}

function bring(files) {
  complain("");
  const fit = files.filter(file => file.size <= about.most);
  for (const file of fit) items.push({name: file.name || "pasted picture", file});
  at("search").value = "";
  listed();
  if (fit.length) go(items.length - 1);
  const large = files.filter(file => file.size > about.most).map(file => file.name);
  if (large.length) complain(`${large.join(", ")}: more than ${about.most / 2 ** 20} MiB. Save it smaller, or as JPEG.`);
  if (!files.length) complain("There is no picture file in that. Drop files, or copy a picture and paste it.");
}

function keys(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches?.("input[type=search], select")) return;
  const act = {n: () => turn(1), p: () => turn(-1), "/": () => at("search").focus(), o: () => at("file").click(),
    "[": () => rescore(score - 0.05), "]": () => rescore(score + 0.05), s: () => choose(right, left)}[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function listen() {
  at("open").onclick = at("choose").onclick = () => at("file").click();
  at("file").onchange = () => { bring([...at("file").files]); at("file").value = ""; };
  at("left").onchange = () => choose(Number(at("left").value), right);
  at("right").onchange = () => choose(left, Number(at("right").value));
  at("score").oninput = () => rescore(Number(at("score").value));
  at("search").oninput = listed;
  at("search").onkeydown = event => { if (event.key === "Enter") go(order[0]); };
  at("list").onscroll = draw;
  new ResizeObserver(draw).observe(at("list"));
  document.addEventListener("keydown", keys);
  document.addEventListener("paste", event => {
    const files = [...event.clipboardData.files];
    if (files.length || !event.target.matches?.("input")) bring(files);
  });
  let depth = 0;
  const over = by => { depth = by ? Math.max(0, depth + by) : 0; at("dropping").hidden = !depth; };
  document.addEventListener("dragenter", event => { event.preventDefault(); over(1); });
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", event => event.preventDefault());
  document.addEventListener("drop", event => { event.preventDefault(); over(0); bring([...event.dataTransfer.files]); });
}

async function begin() {
  about = await answer(fetch("/about"));
  const many = about.models.length;
  const title = model => [model.name, model.format].filter(Boolean).join(" · ");
  for (const side of ["left", "right"]) {
    at(side).append(...about.models.map((model, m) => element("option", title(model), {value: m})));
    at(`${side}Box`).hidden = many < 2;
  }
  at("models").textContent = about.models.map(model => model.name).join(", ");
  document.body.classList.toggle("alone", many < 2);
  at("score").min = about.lowest;
  about.pictures.forEach((name, index) => items.push({name, index}));
  // A model alone is held against the labels; models against the first of them.
  if (about.labels && many === 2) choose(1, 0);
  else choose(0, Math.min(1, many - 1));
  rescore(about.conf);
  listed();
  listen();
  if (items.length) go(order[0]);
}

begin().catch(problem => complain(problem.message));
})();
