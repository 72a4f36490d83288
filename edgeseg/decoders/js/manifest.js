// SPDX-License-Identifier: Apache-2.0
// The manifest of an artifact, checked; and what every part of this reader shares.

export const SCHEMA = 1;
export const AGAIN = "Export the model again";
export const f32 = Math.fround;

const MOST_SIDE = 1 << 16;

/** What is wrong, and what to do about it (`hint`). */
export class EdgesegError extends Error {
  constructor(what, hint = "") {
    super(hint ? `${what}. ${hint}` : what);
    this.name = "EdgesegError";
    this.hint = hint;
  }
}

export const isSide = (n) => Number.isInteger(n) && n > 0 && n <= MOST_SIDE;
export const brief = (value) => String(JSON.stringify(value) ?? value).slice(0, 60);

/** Nearest integer, ties to the even one, as IEEE 754 rounds. */
export function rint(x) {
  const low = Math.floor(x);
  return x - low < 0.5 || (x - low === 0.5 && low % 2 === 0) ? low : low + 1;
}

function checkTensor(t, what) {
  const number = (v) => v === null || v === undefined || (typeof v === "number" && Number.isFinite(v));
  const sound = t && typeof t === "object" && typeof t.name === "string" && Array.isArray(t.shape) && t.shape.length <= 8
    && t.shape.every((n) => Number.isInteger(n) && n >= -1 && n <= 2 ** 31)
    && number(t.scale) && number(t.zero_point) && (t.scale == null) === (t.zero_point == null) && !(t.scale <= 0 && t.scale != null)
    && ["nchw", "nhwc"].includes(t.layout ?? "nchw");
  if (!sound) throw new EdgesegError(`the manifest's ${what} is no tensor: ${brief(t)}`, AGAIN);
  return { dtype: "float32", layout: "nchw", scale: null, zero_point: null, role: "prediction", stride: null, ...t };
}

/**
 * Read an artifact's manifest: the JSON text of its metadata key `edgeseg`, or that text parsed.
 * Keys that are not known here are left alone: they describe what this reader does not need.
 */
export function readManifest(source) {
  let raw = source;
  if (typeof source === "string") {
    try {
      raw = JSON.parse(source);
    } catch (e) {
      throw new EdgesegError(`the manifest is no JSON (${e.message.slice(0, 80)})`, AGAIN);
    }
  }
  if (!raw || typeof raw !== "object" || Array.isArray(raw)) throw new EdgesegError("the manifest is no JSON object", AGAIN);
  if (raw.schema !== SCHEMA) {
    throw new EdgesegError(`manifest schema ${brief(raw.schema)} is not ${SCHEMA}`, "Take the edgeseg.js of the edgeseg that exported");
  }
  const m = {
    head: "raw", stride: 32, task: "segment", batch: 1, channels: 3, reg_max: 16, dynamic: false, normalized_boxes: false,
    pad_value: 114, colour: "rgb", boxes: "xywh", score_logits: false, input_max: 1, end2end: false, ...raw,
  };
  const words = Array.isArray(m.names) && m.names.every((n) => typeof n === "string");
  const numbers = Array.isArray(m.imgsz) && m.imgsz.length === 2 && [...m.imgsz, m.stride, m.reg_max, m.channels].every(isSide);
  const bytes = Number.isInteger(m.pad_value) && m.pad_value >= 0 && m.pad_value <= 255;
  const kinds = ["raw", "decoded", "nms"].includes(m.head) && ["segment", "detect"].includes(m.task)
    && ["xywh", "xyxy"].includes(m.boxes) && ["rgb", "bgr"].includes(m.colour);
  if (!words || !numbers || !bytes || !kinds || !(m.input_max > 0) || !Array.isArray(m.outputs)) {
    throw new EdgesegError("the manifest holds a value that none can have", AGAIN);
  }
  m.input = Object.freeze(checkTensor(m.input, "input"));
  m.outputs = Object.freeze(m.outputs.map((o) => Object.freeze(checkTensor(o, "output"))));
  return Object.freeze(m);
}
