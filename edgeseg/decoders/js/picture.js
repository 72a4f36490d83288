// SPDX-License-Identifier: Apache-2.0
// From a picture to the input tensor, and the way back for coordinates.

import { AGAIN, EdgesegError, brief, f32, isSide, rint } from "./manifest.js";

/** How a source image lies in the network's input: scaled by one ratio, centred, padded. Sizes are [height, width]. */
export class Letterbox {
  constructor(source, size) {
    if (![...source, ...size].every((n) => Number.isInteger(n) && n >= 1)) {
      throw new EdgesegError(`an image of ${source[1]}x${source[0]} pixels does not fit an input of ${size[1]}x${size[0]}`);
    }
    this.source = [...source];
    this.size = [...size];
    this.ratio = Math.min(size[0] / source[0], size[1] / source[1]);
    const [height, width] = source.map((side) => Math.max(1, rint(side * this.ratio)));
    this.resized = [height, width];
    this.scale = [width / source[1], height / source[0]]; // x, y
    // The small shift sends an odd pixel of padding to the right and the bottom, as trained networks saw it.
    this.pad = [rint((size[1] - width) / 2 - 0.1), rint((size[0] - height) / 2 - 0.1)]; // left, top
  }

  /** One coordinate in input pixels -> float32 in source pixels, clipped to the image; axis 0 is x, 1 is y. */
  toSource(value, axis) {
    return Math.min(Math.max(f32((value - this.pad[axis]) / this.scale[axis]), 0), f32(this.source[1 - axis]));
  }
}

/** For each of `to` samples of a row of `from`: the first of its two sources, and the second one's weight in 1/256. */
function taps(from, to) {
  const first = new Int32Array(to), weight = new Int32Array(to), scale = 1 / (to / from);
  for (let i = 0; i < to; i++) {
    const at = scale * (i + 0.5) - 0.5, low = Math.floor(at);
    if (low >= from - 1) first[i] = from - 1;
    else if (low >= 0) [first[i], weight[i]] = [low, rint((at - low) * 256)];
  }
  return { first, weight };
}

/** Pictures into input tensors: letterbox, colour order, layout, dtype. Its buffers serve every picture. */
export class Preprocessor {
  /** `size` is [height, width], for artifacts with a dynamic input; else the manifest's. */
  constructor(manifest, size = manifest.imgsz) {
    const { input, imgsz, stride } = manifest;
    const free = manifest.dynamic || input.shape.includes(-1);
    const sound = Array.isArray(size) && size.length === 2 && size.every((n) => isSide(n) && n % stride === 0);
    if (!(size[0] === imgsz[0] && size[1] === imgsz[1]) && !(free && sound)) {
      throw new EdgesegError(`this artifact takes ${imgsz.join("x")}, not ${brief(size)}`, "Export it with that imgsz, or dynamic");
    }
    const given = input.layout === "nchw" ? input.shape[1] : input.shape[input.shape.length - 1];
    const channels = given > 0 ? given : 3;
    if (![1, 3, 4].includes(channels)) throw new EdgesegError(`an input of ${channels} channels cannot be filled from a picture`);
    this.manifest = manifest;
    this.size = [...size];
    this.shape = input.layout === "nchw" ? [1, channels, ...size] : [1, ...size, channels];
    this._channels = channels;
    this._table = inputTable(input, manifest.input_max);
    this._canvas = new Uint8Array(size[0] * size[1] * 3);
    this._tensor = new this._table.constructor(size[0] * size[1] * channels);
    this._taps = null;
  }

  /**
   * The input tensor of one picture {data, width, height}: RGBA bytes, as ImageData has them; alpha is dropped.
   * Returns {data, shape, letterbox}; `data` is overwritten by the next call.
   */
  prepare(image) {
    const { data, width, height } = image ?? {};
    const bytes = data instanceof Uint8ClampedArray || data instanceof Uint8Array;
    if (!bytes || !(width >= 1 && height >= 1) || data.length !== 4 * width * height) {
      throw new EdgesegError("an image is {data, width, height} with 4 * width * height bytes", "Take ImageData of a canvas");
    }
    const box = new Letterbox([height, width], this.size);
    this._canvas.fill(this.manifest.pad_value);
    this._paste(data, box);
    this._fill();
    return { data: this._tensor, shape: [...this.shape], letterbox: box };
  }

  // Bilinear in 8-bit fixed point: sums along x in 1/256, along both in 1/65536, rounded once. These are OpenCV's bytes of
  // INTER_LINEAR_EXACT, which every machine has.
  _paste(rgba, box) {
    const [height, width] = box.resized, [left, top] = box.pad, [rows, columns] = box.source;
    if (this._taps?.key !== `${rows}x${columns}`) {
      this._taps = { key: `${rows}x${columns}`, x: taps(columns, width), y: taps(rows, height) };
      this._lines = [0, 1].map(() => ({ row: -1, sums: new Int32Array(width * 3) }));
    }
    for (const line of this._lines) line.row = -1;
    const { x, y } = this._taps, canvas = this._canvas, step = this.size[1] * 3;
    for (let j = 0; j < height; j++) {
      const above = this._line(rgba, y.first[j], columns, x, width);
      const below = this._line(rgba, Math.min(y.first[j] + 1, rows - 1), columns, x, width);
      const w = y.weight[j], start = (top + j) * step + left * 3;
      for (let i = 0; i < width * 3; i++) canvas[start + i] = (above[i] * (256 - w) + below[i] * w + 32768) >>> 16;
    }
  }

  // One source row, scaled along x; the last two stay.
  _line(rgba, row, columns, { first, weight }, width) {
    const line = this._lines[row % 2];
    if (line.row === row) return line.sums;
    line.row = row;
    for (let i = 0, at = 0; i < width; i++) {
      const a = 4 * (row * columns + first[i]), b = first[i] + 1 < columns ? a + 4 : a, w = weight[i];
      for (let c = 0; c < 3; c++) line.sums[at++] = rgba[a + c] * (256 - w) + rgba[b + c] * w;
    }
    return line.sums;
  }

  _fill() {
    const { _canvas: canvas, _tensor: out, _table: table, _channels: channels } = this;
    const pixels = this.size[0] * this.size[1], first = this.manifest.input.layout === "nchw";
    const red = this.manifest.colour === "rgb" ? 0 : 2;
    if (channels === 1) {
      // The weights of ITU-R BT.601 in 1/16384.
      for (let i = 0, p = 0; i < pixels; i++, p += 3) {
        out[i] = table[(4899 * canvas[p] + 9617 * canvas[p + 1] + 1868 * canvas[p + 2] + 8192) >> 14];
      }
      return;
    }
    for (let c = 0; c < channels; c++) {
      const step = first ? 1 : channels, source = c === 1 ? 1 : c === 0 ? red : 2 - red;
      // A fourth channel is an opaque alpha.
      for (let i = 0, p = source, at = first ? c * pixels : c; i < pixels; i++, p += 3, at += step) {
        out[at] = c === 3 ? table[255] : table[canvas[p]];
      }
    }
  }
}

/** The 256 input values of the bytes 0..255: floats up to `top`, or integers q with 0..1 = scale * (q - zero_point). */
function inputTable({ dtype, scale, zero_point: zero }, top) {
  const bytes = Array.from({ length: 256 }, (_, i) => i);
  if (dtype === "float32") {
    return Float32Array.from(bytes, (b) => (top === 1 ? f32(b / 255) : f32(b * f32(top / 255))));
  }
  const kind = { int8: Int8Array, uint8: Uint8Array }[dtype];
  if (!kind || scale === null) throw new EdgesegError(`an input of dtype ${brief(dtype)} with scale ${scale} cannot be filled`, AGAIN);
  const low = dtype === "int8" ? -128 : 0;
  return kind.from(bytes, (b) => Math.min(Math.max(rint(f32(b / 255) / scale) + zero, low), low + 255));
}
