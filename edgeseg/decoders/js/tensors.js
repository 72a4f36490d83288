// SPDX-License-Identifier: Apache-2.0
// What a runtime gave, read in either layout, and the detections found in it.

import { AGAIN, EdgesegError, f32 } from "./manifest.js";

const INTEGERS = [Int8Array, Uint8Array, Int16Array, Uint16Array, Int32Array];
const HALF = globalThis.Float16Array;

function halves(bits) {
  return Float32Array.from(bits, (h) => {
    const sign = h >> 15 ? -1 : 1, exponent = (h >> 10) & 31, part = h & 1023;
    return exponent === 31 ? (part ? NaN : sign * Infinity)
      : sign * (exponent ? 2 ** (exponent - 15) * (1 + part / 1024) : (2 ** -14 * part) / 1024);
  });
}

/** One image of a tensor: its values, where they begin, its shape without the batch, and what integers mean. */
export function imageOf(tensor, spec, index) {
  const shape = Array.from(tensor?.shape ?? tensor?.dims ?? [], Number);
  let data = tensor?.data;
  if (HALF && data instanceof HALF) data = Float32Array.from(data);
  else if (data instanceof Uint16Array && spec.dtype === "float16") data = halves(data);
  const float = data instanceof Float32Array;
  if (!float && !INTEGERS.some((kind) => data instanceof kind)) {
    throw new EdgesegError(`output ${spec.name} is no typed array of floats or integers`, "Give {data, shape}");
  }
  const size = shape.reduce((product, n) => product * n, 1);
  if (shape.length < 3 || !shape.every((n) => Number.isInteger(n) && n >= 0) || size !== data.length) {
    throw new EdgesegError(`output ${spec.name} has ${data.length} values, which is not its shape [${shape.slice(0, 9)}]`);
  }
  if (!(Number.isInteger(index) && index >= 0 && index < shape[0])) {
    throw new EdgesegError(`output ${spec.name} has ${shape[0]} images, none of index ${index}`);
  }
  if (!float && spec.scale === null) {
    throw new EdgesegError(`output ${spec.name} holds integers but the manifest gives no scale for it`, AGAIN);
  }
  const dims = shape.slice(1);
  return { data, base: index * dims.reduce((product, n) => product * n, 1), dims, float, spec };
}

/** A tensor of one image as cells x channels, in either layout. */
export class Table {
  constructor(image, channels) {
    const { dims, spec } = image, first = spec.layout === "nchw";
    const count = dims.length <= 3 ? dims[first ? 0 : dims.length - 1] : 0;
    if (count !== channels) {
      throw new EdgesegError(`output ${spec.name} has shape [n,${dims}], not ${channels} channels as ${spec.layout}`,
        "The manifest does not belong to this model, or the class names are not its own");
    }
    this.cells = dims.reduce((product, n) => product * n, 1) / (channels || 1);
    this.width = dims.length === 3 ? dims[first ? 2 : 1] : this.cells;
    [this.cellStep, this.step] = first ? [1, this.cells] : [channels, 1];
    Object.assign(this, { data: image.data, base: image.base, float: image.float, spec, channels, first });
    this.zero = f32(spec.zero_point ?? 0);
    this.scale = f32(spec.scale ?? 1);
  }

  /** The channels start..stop-1, without a copy. */
  part(start, stop) {
    return Object.assign(Object.create(Table.prototype), this, { base: this.base + start * this.step, channels: stop - start });
  }

  /** float32 of a value as it is stored. */
  real(q) {
    return this.float ? q : f32(f32(f32(q) - this.zero) * this.scale);
  }

  at(cell, channel) {
    return this.real(this.data[this.base + cell * this.cellStep + channel * this.step]);
  }

  /** The threshold in the tensor's own numbers; Infinity when none can reach it. */
  least(threshold) {
    return this.float ? f32(threshold) : Math.ceil(threshold / this.spec.scale + this.spec.zero_point);
  }
}

export function prototypeOf(image) {
  const { dims, spec } = image;
  if (dims.length !== 3) throw new EdgesegError(`output ${spec.name} has shape [n,${dims}], a prototype has four dimensions`);
  const [k, h, w] = spec.layout === "nchw" ? dims : [dims[2], dims[0], dims[1]];
  return { ...image, k, h, w, zero: image.float ? 0 : spec.zero_point, first: spec.layout === "nchw" };
}

/** Rows of numbers that grow: detections before suppression, in the order of stride, cell and class. */
export class Candidates {
  constructor() {
    this.count = 0;
    this._room(1024);
  }

  _room(n) {
    const grown = (kind, old, width) => {
      const made = new kind(n * width);
      if (old) made.set(old);
      return made;
    };
    this.level = grown(Int32Array, this.level, 1); // index of the stride
    this.cell = grown(Int32Array, this.cell, 1);
    this.kind = grown(Int32Array, this.kind, 1); // class
    this.score = grown(Float32Array, this.score, 1);
    this.box = grown(Float32Array, this.box, 4);
  }

  add(level, cell, kind, score) {
    if (this.count === this.score.length) this._room(2 * this.count);
    const i = this.count++;
    [this.level[i], this.cell[i], this.kind[i], this.score[i]] = [level, cell, kind, score];
  }

  /** Those for which `wanted(i)` holds, in the same order. */
  keep(wanted) {
    let n = 0;
    for (let i = 0; i < this.count; i++) {
      if (!wanted(i)) continue;
      [this.level[n], this.cell[n], this.kind[n], this.score[n]] = [this.level[i], this.cell[i], this.kind[i], this.score[i]];
      this.box.copyWithin(4 * n, 4 * i, 4 * i + 4);
      n++;
    }
    this.count = n;
  }

  /** Indices by falling score, equal ones as they came. */
  order() {
    const { score } = this;
    return Uint32Array.from({ length: this.count }, (_, i) => i).sort((a, b) => score[b] - score[a] || a - b);
  }

  /** The best `most`; of equal scores the first. */
  best(most) {
    if (this.count <= most) return;
    const chosen = new Uint8Array(this.count);
    for (const i of this.order().subarray(0, most)) chosen[i] = 1;
    this.keep((i) => chosen[i]);
  }
}
