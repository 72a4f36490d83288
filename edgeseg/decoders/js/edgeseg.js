// SPDX-License-Identifier: Apache-2.0
/**
 * edgeseg's pre- and postprocessing in JavaScript: no dependency, for browsers and node, with any runtime that gives typed
 * arrays (TF.js, ONNX Runtime Web, LiteRT.js). It does what `edgeseg/vision` does, operation by operation: `f32` stands where
 * Python computes in float32, everything else is float64 in both.
 *
 * Coordinates are continuous pixels: x to the right, y down, origin at the outer corner of the top left pixel.
 * Types are in `edgeseg.d.ts`.
 *
 *     const manifest = readManifest(text);            // the JSON text under the key `edgeseg` of the model's metadata
 *     const before = new Preprocessor(manifest), after = new Postprocessor(manifest); // once: they keep their buffers
 *     const { data, shape, letterbox } = before.prepare(imageData);
 *     const outputs = [...];                          // in the manifest's order, each {data, shape}:
 *         // ONNX Runtime Web  manifest.outputs.map(({ name }) => results[name])
 *         // TF.js             {data: await t.data(), shape: t.shape}
 *         // LiteRT.js         {data: t.toTypedArray(), shape: [...t.type.layout.dimensions]}
 *     const { boxes, scores, classes, masks } = after.detect(outputs, letterbox, { conf: 0.25 });
 */

import { HEADS } from "./heads.js";
import { EdgesegError, f32 } from "./manifest.js";
import { Letterbox } from "./picture.js";
import { Candidates, imageOf } from "./tensors.js";

export { EdgesegError, SCHEMA, readManifest } from "./manifest.js";
export { Letterbox, Preprocessor } from "./picture.js";

/**
 * Greedy suppression: by falling score, a box stays unless one that stayed before it, of its class, overlaps it by more than
 * `iou` of their union (float32). Boxes without area overlap nothing.
 */
function suppress(found, order, iou, maxDet) {
  const { box, kind } = found, threshold = f32(iou), kept = [];
  const area = new Float32Array(found.count);
  for (let i = 0; i < found.count; i++) {
    area[i] = Math.max(f32(box[4 * i + 2] - box[4 * i]), 0) * Math.max(f32(box[4 * i + 3] - box[4 * i + 1]), 0);
  }
  const overlaps = (a, b) => {
    if (kind[a] !== kind[b]) return false;
    const p = 4 * a, q = 4 * b;
    const width = Math.max(f32(Math.min(box[p + 2], box[q + 2]) - Math.max(box[p], box[q])), 0);
    const height = Math.max(f32(Math.min(box[p + 3], box[q + 3]) - Math.max(box[p + 1], box[q + 1])), 0);
    const inter = f32(width * height);
    return inter > f32(f32(f32(area[a] + area[b]) - inter) * threshold);
  };
  for (const i of order) {
    if (kept.length >= maxDet) break;
    if (!kept.some((j) => overlaps(j, i))) kept.push(i);
  }
  return kept;
}

/** Where the source pixels of one axis fall on the grid: the first grid index, and the weight of the next one. */
function axis(pixels, scale, pad, step, cells) {
  const first = new Int32Array(pixels), weight = new Float32Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const at = Math.min(Math.max(((i + 0.5) * scale + pad) / step - 0.5, 0), cells - 1);
    first[i] = Math.min(Math.trunc(at), Math.max(cells - 2, 0));
    weight[i] = at - first[i];
  }
  return { first, weight };
}

/** Tensors into detections. Its buffers serve every picture. */
export class Postprocessor {
  constructor(manifest) {
    if (!(manifest.head in HEADS)) throw new EdgesegError("this is no manifest", "Give what readManifest returned");
    this.manifest = manifest;
    this._found = new Candidates();
    this._axes = null;
    this._bits = new Uint8Array(0);
    this._sums = new Float64Array(0);
    this._logits = this._steps = new Float32Array(0);
  }

  /**
   * Detections of one image of the batch on its source image, by falling score: {boxes, scores, classes, masks, source}.
   * `outputs` are {data, shape} in the manifest's order. `masks[i].data` is overwritten by the next call.
   */
  detect(outputs, letterbox, options = {}) {
    const { conf = 0.25, iou = 0.7, maxDet = 300, multiLabel = false, masks = true, index = 0, classes = null } = options;
    const m = this.manifest, found = this._found;
    for (const [name, value] of [["conf", conf], ["iou", iou]]) {
      if (!(value >= 0 && value <= 1)) throw new EdgesegError(`${name} ${value} is not in 0..1`);
    }
    if (!(Number.isInteger(maxDet) && maxDet >= 0)) throw new EdgesegError(`maxDet ${maxDet} is no whole number from 0`);
    if (outputs?.length !== m.outputs.length) {
      throw new EdgesegError(`the model gave ${outputs?.length} outputs, its manifest names ${m.outputs.length}`);
    }
    if (!(letterbox instanceof Letterbox)) throw new EdgesegError("no letterbox", "Give that of Preprocessor.prepare");
    found.count = 0;
    const images = Array.from(outputs, (tensor, i) => imageOf(tensor, m.outputs[i], index));
    const { proto, coeffs } = HEADS[m.head](images, m, found, conf, multiLabel);
    found.keep((i) => found.box.subarray(4 * i, 4 * i + 4).every(Number.isFinite));
    if (classes) found.keep((i) => classes.includes(found.kind[i]));
    const order = found.order(); // what the model suppressed is not suppressed again
    const kept = m.head === "nms" || m.end2end ? Array.from(order.subarray(0, maxDet)) : suppress(found, order, iou, maxDet);
    const result = this._result(kept, letterbox);
    result.masks = masks && proto ? this._masks(proto, coeffs, result, letterbox) : null;
    return result;
  }

  _result(kept, letterbox) {
    const { box, score, kind } = this._found;
    const rows = kept.map((i) => [i, ...[0, 1, 2, 3].map((side) => letterbox.toSource(box[4 * i + side], side % 2))]);
    const visible = rows.filter(([, x1, y1, x2, y2]) => x2 > x1 && y2 > y1);
    return {
      index: visible.map(([i]) => i),
      boxes: Float32Array.from(visible.flatMap(([, ...sides]) => sides)),
      scores: Float32Array.from(visible, ([i]) => Math.min(score[i], 1)),
      classes: Int32Array.from(visible, ([i]) => kind[i]),
      masks: null,
      source: letterbox.source,
    };
  }

  /**
   * Masks at the size of the source image, each cropped to its box: set where the logit at the pixel's centre, bilinear on
   * the prototype's grid, is above 0. A logit is the dot product of coefficients and prototype (Bolya et al. 2019, "YOLACT").
   */
  _masks(proto, coeffs, { index, boxes }, { source, size, scale, pad }) {
    const key = [...source, ...size, proto.h, proto.w].join();
    if (this._axes?.key !== key) {
      const across = axis(source[1], scale[0], pad[0], size[1] / proto.w, proto.w);
      this._axes = { key, across, down: axis(source[0], scale[1], pad[1], size[0] / proto.h, proto.h) };
    }
    // The pixels whose centres lie in the box.
    const inside = (side, limit) => Math.min(Math.max(Math.ceil(side - 0.5), 0), limit);
    const tiles = index.map((_, n) => {
      const [x, y] = [inside(boxes[4 * n], source[1]), inside(boxes[4 * n + 1], source[0])];
      const [right, bottom] = [inside(boxes[4 * n + 2], source[1]), inside(boxes[4 * n + 3], source[0])];
      return { x, y, width: Math.max(right - x, 0), height: Math.max(bottom - y, 0) };
    });
    const area = tiles.reduce((sum, { width, height }) => sum + width * height, 0);
    if (area > 2 ** 31 - 1) throw new EdgesegError(`the masks have ${area} pixels together`, "Lower maxDet, or scale the picture down");
    if (this._bits.length < area) this._bits = new Uint8Array(area);
    let at = 0;
    return tiles.map((tile, n) => {
      const data = this._bits.subarray(at, (at += tile.width * tile.height)), i = index[n];
      if (data.length) this._tile(proto, coeffs[this._found.level[i]], this._found.cell[i], tile, data);
      return { ...tile, data };
    });
  }

  _tile(proto, table, cell, { x, y, width, height }, data) {
    const { across, down } = this._axes;
    const i0 = across.first[x], j0 = down.first[y];
    const columns = Math.min(across.first[x + width - 1] + 2, proto.w) - i0;
    const rows = Math.min(down.first[y + height - 1] + 2, proto.h) - j0;
    const sums = this._dot(proto, table, cell, i0, j0, columns, rows);
    const size = rows * width;
    if (this._logits.length < size) [this._logits, this._steps] = [new Float32Array(size), new Float32Array(size)];
    const logits = this._logits, steps = this._steps, { first, weight } = across;
    // One axis after the other, as a + f * (b - a); the last sum is only a comparison.
    for (let j = 0, at = 0; j < rows; j++) {
      for (let i = 0, base = j * columns - i0; i < width; i++, at++) {
        const p = base + first[x + i], a = f32(sums[p]);
        logits[at] = columns === 1 ? a : f32(f32(f32(sums[p + 1]) - a) * weight[x + i]) + a;
      }
    }
    steps.fill(0, 0, width);
    for (let i = 0; i + width < size; i++) steps[i] = logits[i + width] - logits[i];
    for (let j = 0, at = 0; j < height; j++) {
      const p = (down.first[y + j] - j0) * width, w = down.weight[y + j];
      for (let i = p; i < p + width; i++) data[at++] = f32(steps[i] * w) > -logits[i] ? 1 : 0;
    }
  }

  // Logits in a window of the grid, up to a positive factor.
  _dot({ data, base, first, k, h, w, zero }, table, cell, i0, j0, columns, rows) {
    const size = columns * rows;
    if (this._sums.length < size) this._sums = new Float64Array(size);
    const sums = this._sums.fill(0, 0, size), [step, pixel] = first ? [h * w, 1] : [1, k];
    for (let c = 0; c < k; c++) {
      const factor = table.at(cell, c);
      for (let j = 0, at = 0; j < rows; j++) {
        let p = base + c * step + ((j0 + j) * w + i0) * pixel;
        for (let i = 0; i < columns; i++, p += pixel) sums[at++] += factor * (data[p] - zero);
      }
    }
    return sums;
  }
}
