// Reads golden vectors (edgeseg/decoders/README.md) and prints, as JSON, how far the decoder is from what they expect:
// {cases: {name: {boxes, scores, pixels} | {refused} | {error}}, inputs: {name: number of different bytes}}.
import fs from "node:fs";
import path from "node:path";
import { EdgesegError, Letterbox, Postprocessor, Preprocessor, readManifest } from "../../../edgeseg/decoders/js/edgeseg.js";

const root = process.argv[2];
const KINDS = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array, float16: Uint16Array };
const json = (...parts) => JSON.parse(fs.readFileSync(path.join(root, ...parts), "utf8"));
const bytes = (...parts) => new Uint8Array(fs.readFileSync(path.join(root, ...parts)));
const farthest = (a, b) => Math.max(0, ...Array.from(a, (value, i) => Math.abs(value - b[i])));

function pixels(tile, mask) {
  let at = 0, different = 0;
  tile.runs.forEach((run, i) => {
    for (let end = at + run; at < end; at++) different += mask.data[at] !== i % 2;
  });
  return different;
}

function judged(name) {
  const { manifest, outputs, source, size, settings, letterbox, expected } = json(name, "case.json");
  const box = new Letterbox(source, size);
  const tensors = outputs.map(({ file, dtype, shape }) => ({ data: new KINDS[dtype](bytes(name, file).buffer), shape }));
  const { max_det: maxDet, multi_label: multiLabel, ...others } = settings;
  let found;
  try {
    found = new Postprocessor(readManifest(manifest)).detect(tensors, box, { ...others, maxDet, multiLabel });
  } catch (e) {
    return { refused: e.message, known: e instanceof EdgesegError && "error" in expected };
  }
  const geometry = ["ratio", "pad", "resized", "scale"].filter((key) => String(box[key]) !== String(letterbox[key]));
  if ("error" in expected) return { error: `not refused: ${expected.error}` };
  if (geometry.length) return { error: `letterbox: ${geometry}` };
  if (String(Array.from(found.classes)) !== String(expected.classes)) return { error: "other detections" };
  const tiles = expected.tiles ?? [], masks = found.masks ?? [];
  if (tiles.length !== masks.length || (expected.tiles === null) !== (found.masks === null)) return { error: "other masks" };
  const place = tiles.every(({ corner, size: [h, w] }, i) => masks[i].height === h && masks[i].width === w
    && (h * w === 0 || (masks[i].x === corner[0] && masks[i].y === corner[1])));
  if (!place) return { error: "masks elsewhere" };
  return {
    found: expected.scores.length,
    boxes: farthest(found.boxes, expected.boxes.flat()),
    scores: farthest(found.scores, expected.scores),
    pixels: tiles.reduce((sum, tile, i) => sum + pixels(tile, masks[i]), 0),
  };
}

// The vectors' pictures are BGR, a canvas has RGBA.
function differing(name) {
  const { manifest, source, size, image, tensor } = json(name, "input.json");
  const bgr = bytes(name, image.file), data = new Uint8Array((bgr.length / 3) * 4).fill(255);
  for (let i = 0; i < bgr.length / 3; i++) for (let c = 0; c < 3; c++) data[4 * i + c] = bgr[3 * i + 2 - c];
  const { data: got } = new Preprocessor(readManifest(manifest), size).prepare({ data, width: source[1], height: source[0] });
  const made = new Uint8Array(got.buffer, got.byteOffset, got.byteLength), wanted = bytes(name, tensor.file);
  return made.length === wanted.length ? made.reduce((sum, byte, i) => sum + (byte !== wanted[i]), 0) : Infinity;
}

const { cases, inputs } = json("index.json");
const all = (names, judge) => Object.fromEntries(names.map((name) => [name, judge(name)]));
console.log(JSON.stringify({ cases: all(cases, judged), inputs: all(inputs, differing) }));
