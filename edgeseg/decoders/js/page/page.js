// SPDX-License-Identifier: Apache-2.0
// The page beside a model: pictures and the camera in, masks, boxes and labels out. `engine.js` runs the network; each result
// is also an event `detections` of the document, with what Postprocessor.detect returned.
import { Postprocessor, Preprocessor, readManifest } from "./edgeseg/edgeseg.js";
import { colourOf, draw } from "./draw.js";
import { open } from "./engine.js";

const $ = (id) => document.getElementById(id);
const view = $("canvas"), paper = view.getContext("2d", { willReadFrequently: true });
const page = { manifest: null, engine: null, before: null, after: null, last: null, stream: null, busy: false };

function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").classList.toggle("wrong", wrong);
}

function facts(rows) {
  $("facts").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => {
    const [term, fact] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, fact.textContent] = [name, value];
    return [term, fact];
  }));
}

const nameOf = (kind) => page.manifest.names[kind];
const milliseconds = (t) => `${t.toFixed(t < 10 ? 1 : 0)} ms`;

function list({ scores, classes, masks }) {
  const counts = new Map();
  for (const kind of classes) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const words = [...counts].map(([kind, n]) => `${n} × ${nameOf(kind)}`);
  $("summary").textContent = words.length ? words.join(", ") : "Nothing found";
  $("rows").closest("table").hidden = !scores.length;
  $("rows").replaceChildren(...Array.from(scores, (score, i) => {
    const row = document.createElement("tr"), cells = [0, 1, 2].map(() => row.appendChild(document.createElement("td")));
    const swatch = document.createElement("canvas");
    swatch.width = swatch.height = 1;
    const ink = swatch.getContext("2d");
    ink.fillStyle = `rgb(${colourOf(classes[i])})`;
    ink.fillRect(0, 0, 1, 1);
    cells[0].append(swatch, nameOf(classes[i]));
    cells[1].textContent = score.toFixed(2);
    cells[2].textContent = masks ? masks[i].data.reduce((sum, bit) => sum + bit, 0) : "–";
    return row;
  }));
}

/** Detections of what the network last gave, at the score that the slider says. */
function show() {
  const { image, outputs, letterbox, times } = page.last, start = performance.now();
  const found = page.after.detect(outputs, letterbox, { conf: Number($("conf").value) });
  times.Decoding = performance.now() - start;
  [view.width, view.height, view.hidden] = [image.width, image.height, false];
  draw(paper, image, found, nameOf);
  list(found);
  facts({ Backend: page.engine.backend, ...Object.fromEntries(Object.entries(times).map(([k, t]) => [k, milliseconds(t)])),
    Picture: `${image.width} × ${image.height} pixels` });
  document.dispatchEvent(new CustomEvent("detections", { detail: found }));
}

/** Run the network on RGBA pixels. */
async function look(image) {
  const start = performance.now(), { data, shape, letterbox } = page.before.prepare(image);
  const prepared = performance.now(), outputs = await page.engine.run(data, shape);
  const times = { Preparing: prepared - start, Network: performance.now() - prepared };
  page.last = { image, outputs, letterbox, times };
  show();
}

const aside = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

/** Pixels of a picture or a frame of video, as they are in it. */
function pixels(source, width, height) {
  [aside.canvas.width, aside.canvas.height] = [width, height]; // empty, too
  aside.drawImage(source, 0, 0);
  return aside.getImageData(0, 0, width, height);
}

async function picture(file) {
  if (!file || page.busy || !page.engine) return;
  stop();
  page.busy = true;
  say("Working");
  await new Promise(requestAnimationFrame);
  try {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
      throw new Error(`${file.name} is no picture that this browser can read. Take a JPEG, PNG or WebP.`);
    });
    await look(pixels(bitmap, bitmap.width, bitmap.height));
    bitmap.close();
    say("");
  } catch (e) {
    say(e.message, true);
  }
  page.busy = false;
}

function stop() {
  page.stream?.getTracks().forEach((track) => track.stop());
  page.stream = null;
  $("camera").setAttribute("aria-pressed", "false");
  $("camera").textContent = "Use the camera";
}

async function camera() {
  if (page.stream) return stop();
  try {
    if (!navigator.mediaDevices) throw new Error("The camera needs https, or this machine's own address (localhost).");
    page.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    $("camera").setAttribute("aria-pressed", "true");
    $("camera").textContent = "Stop the camera";
    const stream = page.stream, video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    video.srcObject = stream;
    await video.play();
    say("");
    while (page.stream === stream) {
      await look(pixels(video, video.videoWidth, video.videoHeight));
      await new Promise(requestAnimationFrame);
    }
  } catch (e) {
    stop();
    say(e.name === "NotAllowedError" ? "The camera was not allowed. Allow it for this page, and try again." : e.message, true);
  }
}

function listen() {
  $("file").addEventListener("change", () => picture($("file").files[0]));
  $("camera").addEventListener("click", camera);
  $("conf").addEventListener("input", () => {
    $("conf-value").textContent = Number($("conf").value).toFixed(2);
    if (page.last) show();
  });
  const drop = (event, over) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
  };
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => drop(event, true));
  document.addEventListener("dragleave", (event) => drop(event, false));
  document.addEventListener("drop", (event) => {
    drop(event, false);
    picture(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => picture(event.clipboardData.files[0]));
}

async function start() {
  listen();
  try {
    const answer = await fetch("manifest.json");
    if (!answer.ok) throw new Error(`manifest.json: ${answer.status} ${answer.statusText}`);
    const { edgeseg: text } = await answer.json();
    page.manifest = readManifest(text);
    const { description, format, precision, imgsz, names } = page.manifest;
    $("title").textContent = document.title = description || "edgeseg";
    $("about").textContent = `${format} ${precision}, ${imgsz.join(" × ")} pixels, ${names.length} classes`;
    page.before = new Preprocessor(page.manifest);
    page.after = new Postprocessor(page.manifest);
    page.engine = await open("model/", page.manifest, page.before.prepare(new ImageData(32, 32)));
    facts({ Backend: page.engine.backend });
    $("file").disabled = $("camera").disabled = false;
    say("Ready");
  } catch (e) {
    say(`The model cannot be used here: ${e.message}`, true);
    console.error(e);
  }
}

start();
