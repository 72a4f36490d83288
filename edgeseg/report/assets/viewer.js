// One picture with what two models found in it, and a slider between them. No library, nothing from elsewhere.
// edgesegViewer.mount(element, {names, models, pictures | count and load, orders, left, right}) -> {show, redraw, grow}
//   names: class names; models: [{name, format, precision}], the first is the reference
//   pictures: [{name, width, height, src, found: [[{class, score, box, rings, pair}] or null, for each model]}]
//   load: async index -> picture, with count; orders: for each model, the order in which its pictures are shown
"use strict";
var edgesegViewer = (() => {
const SVG = "http://www.w3.org/2000/svg";
const SWITCHES = [
  ["boxes", "Boxes"], ["masks", "Masks"], ["labels", "Labels"], ["matched", "Matched"], ["missing", "Missing"], ["extra", "Extra"],
];
const KEYS = "N and P turn pages, plus and minus zoom, 0 shows all; arrow keys move the slider.";
let mounted = 0;

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
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

// The colours of edgeseg's drawn pictures: steps of the golden ratio around the circle of hues.
function colour(index) {
  const hue = (0.02 + index * 0.618034) % 1, lightness = [56, 46, 66][Math.floor(index / 7) % 3];
  return `hsl(${(360 * hue).toFixed(1)} 92% ${lightness}%)`;
}

// What has no partner: of the reference what the other model lost, of another model what it invented.
function states(list, model, otherModel, otherList) {
  if (model > 0) return list.map(one => one.pair < 0 ? "extra" : "matched");
  if (otherModel === 0 || !otherList) return list.map(() => "matched");
  const kept = new Set(otherList.map(one => one.pair));
  return list.map((_, i) => kept.has(i) ? "matched" : "missing");
}

// What is certain is a label.
const score = one => one.score < 1 ? ` ${one.score.toFixed(2)}` : "";

function ring(points) {
  let path = "";
  for (let i = 0; i < points.length; i += 2) path += `${i ? "L" : "M"}${points[i]} ${points[i + 1]}`;
  return path + "Z";
}

class Viewer {
  constructor(element, options) {
    this.names = options.names || [];
    this.models = options.models;
    this.orders = options.orders || [];
    this.load = options.load || (async index => options.pictures[index]);
    this.count = options.load ? options.count || 0 : options.pictures.length;
    this.left = options.left ?? 0;
    this.right = options.right ?? Math.min(1, this.models.length - 1);
    this.at = 0;
    this.split = 0.5;
    this.on = Object.fromEntries(SWITCHES.map(([key]) => [key, true]));
    this.id = `ev${mounted += 1}`;
    this.build(element);
    this.show(0);
  }

  build(element) {
    this.root = make("div", {class: "ev", role: "group", "aria-label": "Picture viewer", onkeydown: event => this.key(event)});
    const title = m => [m.name, m.format, m.precision].filter(Boolean).join(" · ");
    const choose = (side, words) => {
      const select = make("select", {onchange: () => { this[side] = Number(select.value); this.show(0); }});
      select.append(...this.models.map((m, i) => {
        const option = make("option", {value: i});
        option.textContent = title(m);
        return option;
      }));
      select.value = this[side];
      this[`${side}Select`] = select;
      return make("label", {class: "ev-model"}, make("span", {}, words), select);
    };
    this.previous = make("button", {type: "button", onclick: () => this.show(this.at - 1)}, "‹ Previous");
    this.next = make("button", {type: "button", onclick: () => this.show(this.at + 1)}, "Next ›");
    this.title = make("p", {class: "ev-title", "aria-live": "polite"});
    const zoom = (text, label, factor) =>
      make("button", {type: "button", class: "ev-square", "aria-label": label, title: label, onclick: () => this.zoom(factor)}, text);
    const switches = SWITCHES.map(([key, words]) => {
      const box = make("input", {type: "checkbox", checked: true, onchange: () => { this.on[key] = box.checked; this.apply(); }});
      return make("label", {class: `ev-switch ev-${key}`}, box, make("span", {}, words));
    });
    this.buildStage();
    this.words = make("ul", {class: "ev-words"});
    const list = make("details", {class: "ev-list"}, make("summary", {}, "What differs, in words"), this.words);
    this.root.append(
      make("div", {class: "ev-row ev-models"}, choose("left", "Left"), choose("right", "Right")),
      make("div", {class: "ev-row"}, this.previous, this.title, this.next),
      this.stage,
      make("div", {class: "ev-row ev-tools"},
        make("fieldset", {class: "ev-switches"}, make("legend", {}, "Show"), ...switches),
        make("div", {class: "ev-zoom"}, zoom("−", "Zoom out", 1 / 1.5), zoom("+", "Zoom in", 1.5), zoom("Fit", "Fit the whole picture", 0))),
      list, make("p", {class: "ev-hint"}, KEYS));
    element.replaceChildren(this.root);
  }

  buildStage() {
    this.image = shape("image", {preserveAspectRatio: "none", x: 0, y: 0});
    this.sides = ["left", "right"].map(side => shape("g", {"clip-path": `url(#${this.id}${side})`, class: `ev-side ev-${side}`}));
    this.clips = ["left", "right"].map(side => shape("rect"));
    const clips = this.clips.map((clip, i) => shape("clipPath", {id: this.id + ["left", "right"][i]}, clip));
    this.svg = shape("svg", {role: "img", preserveAspectRatio: "none"}, shape("defs", {}, ...clips), this.image, ...this.sides);
    this.handle = make("div", {
      class: "ev-handle", role: "slider", tabindex: 0, "aria-label": "Border between the two models",
      "aria-valuemin": 0, "aria-valuemax": 100, onkeydown: event => this.slideKey(event),
    }, make("span", {class: "ev-knob", "aria-hidden": "true"}, "‹ ›"));
    this.tags = ["left", "right"].map(side => make("span", {class: `ev-tag ev-tag-${side}`, "aria-hidden": "true"}));
    this.stage = make("div", {class: "ev-stage"}, this.svg, ...this.tags, this.handle);
    this.stage.addEventListener("pointerdown", event => this.press(event));
    this.stage.addEventListener("pointermove", event => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) this.stage.addEventListener(end, () => { this.held = null; });
    this.stage.addEventListener("dblclick", event => this.zoom(this.view && this.view.w < this.now.width ? 0 : 2.5, event));
    this.stage.addEventListener("wheel", event => {
      if (!event.ctrlKey) return;  // the wheel alone scrolls the page
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, event);
    }, {passive: false});
    new ResizeObserver(() => this.scale()).observe(this.stage);
  }

  // The pictures in the order of the model on the right: those on which it differs most come first.
  order() {
    const side = this.right || this.left;
    return this.orders[side] || Array.from({length: this.count}, (_, i) => i);
  }

  async show(at) {
    const order = this.order(), asked = this.asked = {};
    this.at = Math.max(0, Math.min(at, order.length - 1));
    this.previous.disabled = this.at <= 0;
    this.next.disabled = this.at >= order.length - 1;
    this.stage.hidden = !order.length;
    if (!order.length) {
      this.title.textContent = "No picture on which this model differs";
      this.words.replaceChildren();
      return;
    }
    let picture;
    try {
      picture = await this.load(order[this.at]);
    } catch (problem) {
      if (asked === this.asked) this.title.textContent = String(problem.message || problem);
      return;
    }
    if (asked !== this.asked) return;  // another one was asked for meanwhile
    this.now = picture;
    this.title.textContent = `${this.at + 1} of ${order.length} · ${picture.name}`;
    this.image.setAttribute("href", picture.src);
    this.image.setAttribute("width", picture.width);
    this.image.setAttribute("height", picture.height);
    this.stage.style.aspectRatio = `${picture.width} / ${picture.height}`;
    this.stage.style.maxWidth = `min(100%, calc(72vh * ${picture.width / picture.height}))`;
    this.view = {x: 0, y: 0, w: picture.width, h: picture.height};
    this.draw();
  }

  draw() {
    const shown = [this.left, this.right], raw = shown.map(m => this.now.found[m]), lists = raw.map(list => list || []);
    const kinds = shown.map((m, i) => states(lists[i], m, shown[1 - i], raw[1 - i]));
    this.sides.forEach((group, i) => {
      const drawn = lists[i].map((one, k) => this.detection(one, kinds[i][k])).reverse();
      const lost = lists[1 - i].filter((_, k) => kinds[1 - i][k] === "missing").map(one => this.detection(one, "missing", true));
      group.replaceChildren(...drawn, ...lost);
    });
    this.tags.forEach((tag, i) => {
      const why = (this.now.why || [])[shown[i]] || "not kept for this picture";
      tag.textContent = `${this.models[shown[i]].name}${raw[i] ? "" : ` (${why})`}`;
    });
    this.tell(lists, kinds);
    this.apply();
    this.scale();
  }

  // One detection; a ghost is what the model of this side lost, drawn where the reference has it.
  detection(one, kind, ghost = false) {
    const [x1, y1, x2, y2] = one.box, name = this.names[one.class] ?? String(one.class);
    const group = shape("g", {class: `ev-found ev-is-${kind}${ghost ? " ev-ghost" : ""}`});
    group.style.setProperty("--own", colour(one.class));
    const words = `${kind === "matched" ? "" : `${kind}: `}${name}${score(one)}`;
    const title = shape("title");
    title.textContent = words;
    group.append(title);
    if (one.rings.length) group.append(shape("path", {class: "ev-mask", d: one.rings.map(ring).join(""), "fill-rule": "evenodd"}));
    group.append(shape("rect", {class: "ev-box", x: x1, y: y1, width: x2 - x1, height: y2 - y1}));
    const label = shape("text", {class: "ev-label", x: x1, y: y1, "data-x": x1, "data-y": y1, "data-score": one.score});
    label.textContent = words;
    group.append(label);
    return group;
  }

  tell(lists, states) {
    const lines = [], model = i => this.models[i ? this.right : this.left].name;
    lists.forEach((list, i) => list.forEach((one, k) => {
      if (states[i][k] !== "matched") lines.push([states[i][k], one, model(i)]);
    }));
    const said = lines.map(([kind, one, where]) => {
      const item = make("li");
      item.textContent = `${this.names[one.class] ?? one.class}${score(one)}, ${kind === "missing" ? "only in" : "extra in"} ${where}`;
      return item;
    });
    const counts = lists.map((list, i) => `${model(i)}: ${list.length}`);
    const kinds = ["missing", "extra"].map(kind => `${lines.filter(l => l[0] === kind).length} ${kind}`);
    const sum = make("li");
    sum.textContent = `Found: ${counts.join(", ")}; ${kinds.join(", ")}`;
    this.words.replaceChildren(sum, ...said);
    this.svg.setAttribute("aria-label", `${this.now.name}. ${sum.textContent}`);
  }

  apply() {
    for (const [key] of SWITCHES) this.root.classList.toggle(`ev-no-${key}`, !this.on[key]);
  }

  // Everything that depends on how large a pixel of the picture is on the screen.
  scale() {
    if (!this.now || !this.view) return;
    const {x, y, w, h} = this.view, unit = w / (this.svg.clientWidth || w);
    this.svg.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
    for (const side of this.sides) this.label(side, 12 * unit);
    this.stage.classList.toggle("ev-zoomed", w < this.now.width);
    this.slide(this.split);
  }

  // Names stand above their boxes, inside the picture; where two would overlap the more important one stays.
  label(side, size) {
    const {x, y, w} = this.view, taken = [];
    const rank = label => 2 * label.parentNode.classList.contains("ev-is-matched") - label.dataset.score;
    for (const label of [...side.querySelectorAll(".ev-label")].sort((a, b) => rank(a) - rank(b))) {
      const wide = 0.58 * size * label.textContent.length, left = Number(label.dataset.x), top = Number(label.dataset.y);
      const at = left < x + w ? Math.max(Math.min(left, x + w - wide - 0.3 * size), Math.min(left, x + 0.3 * size)) : left;
      const base = top - y > 1.3 * size ? top - 0.35 * size : top + 1.1 * size;
      const box = [at, base - size, at + wide, base + 0.2 * size];
      const covered = taken.some(t => box[0] < t[2] && t[0] < box[2] && box[1] < t[3] && t[1] < box[3]);
      if (!covered) taken.push(box);
      label.classList.toggle("ev-covered", covered);
      label.style.fontSize = `${size}px`;
      label.style.strokeWidth = `${0.25 * size}px`;
      label.setAttribute("x", at);
      label.setAttribute("y", base);
    }
  }

  slide(share) {
    this.split = Math.max(0, Math.min(1, share));
    if (!this.view) return;
    const {x, y, w, h} = this.view, at = this.split * w;
    [[x, at], [x + at, w - at]].forEach(([start, width], i) => {
      const clip = this.clips[i];
      for (const [key, value] of Object.entries({x: start, y, width, height: h})) clip.setAttribute(key, value);
    });
    this.handle.style.left = `${100 * this.split}%`;
    const percent = Math.round(100 * this.split);
    this.handle.setAttribute("aria-valuenow", percent);
    this.handle.setAttribute("aria-valuetext", `${percent} % ${this.models[this.left].name}, the rest ${this.models[this.right].name}`);
  }

  zoom(factor, event) {
    if (!this.now) return;
    const {width, height} = this.now, old = this.view, box = this.svg.getBoundingClientRect();
    const fx = event ? (event.clientX - box.left) / box.width : 0.5, fy = event ? (event.clientY - box.top) / box.height : 0.5;
    const w = factor ? Math.min(width, Math.max(width / 16, old.w / factor)) : width, h = w * height / width;
    this.move(old.x + (old.w - w) * fx, old.y + (old.h - h) * fy, w, h);
  }

  move(x, y, w, h) {
    const inside = (value, size, whole) => Math.max(0, Math.min(value, whole - size));
    this.view = {x: inside(x, w, this.now.width), y: inside(y, h, this.now.height), w, h};
    this.scale();
  }

  press(event) {
    if (event.button || !this.now) return;
    const grip = event.target.closest(".ev-handle"), zoomed = this.view.w < this.now.width;
    this.held = {slide: grip || !zoomed, x: event.clientX, y: event.clientY, view: {...this.view}};
    this.stage.setPointerCapture(event.pointerId);
    if (grip) { this.handle.focus(); event.preventDefault(); }
  }

  drag(event) {
    if (!this.held) return;
    const box = this.svg.getBoundingClientRect(), {view} = this.held;
    if (this.held.slide) this.slide((event.clientX - box.left) / box.width);
    else {
      const unit = view.w / box.width;
      this.move(view.x - (event.clientX - this.held.x) * unit, view.y - (event.clientY - this.held.y) * unit, view.w, view.h);
    }
  }

  slideKey(event) {
    const step = event.shiftKey ? 0.1 : 0.02, at = this.split;
    const to = {ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step, Home: 0, End: 1,
      PageDown: at - 0.1, PageUp: at + 0.1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.slide(to);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const act = {n: () => this.show(this.at + 1), p: () => this.show(this.at - 1), "+": () => this.zoom(1.5), "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5), 0: () => this.zoom(0)}[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

function mount(element, options) {
  const viewer = new Viewer(element, options);
  return {
    show: (index, right) => {
      if (right !== undefined) viewer.rightSelect.value = viewer.right = right;
      const at = viewer.order().indexOf(index);
      return viewer.show(at < 0 ? 0 : at);
    },
    redraw: picture => { viewer.now = picture; viewer.draw(); },  // other detections on the same picture
    grow: count => { viewer.count = count; return viewer.show(viewer.at); },
  };
}

return {mount, colour};
})();
