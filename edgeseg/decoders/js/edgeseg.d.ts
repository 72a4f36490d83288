// SPDX-License-Identifier: Apache-2.0
// Types of edgeseg.js. Sizes are [height, width]; boxes are x1, y1, x2, y2 in pixels.

export type TypedArray = Float32Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array;
export type Size = [height: number, width: number];

export const SCHEMA: number;

/** What is wrong, and what to do about it. */
export class EdgesegError extends Error {
  readonly hint: string;
  constructor(what: string, hint?: string);
}

/** A tensor of the manifest. Integers mean scale * (q - zero_point). */
export interface TensorSpec {
  readonly name: string;
  /** Batch first, -1 for a dynamic size. */
  readonly shape: readonly number[];
  readonly dtype: string;
  /** Channels first or last. */
  readonly layout: "nchw" | "nhwc";
  readonly scale: number | null;
  readonly zero_point: number | null;
}

export interface OutputSpec extends TensorSpec {
  readonly role: "box" | "score" | "coeff" | "proto" | "prediction";
  /** In input pixels; of box, score and coeff. */
  readonly stride: number | null;
}

/** What a reader must know of an artifact. Further keys are as the exporter wrote them. */
export interface Manifest {
  readonly schema: number;
  readonly names: readonly string[];
  readonly imgsz: Readonly<Size>;
  readonly input: TensorSpec;
  readonly outputs: readonly OutputSpec[];
  readonly head: "raw" | "decoded" | "nms";
  readonly task: "segment" | "detect";
  readonly stride: number;
  readonly reg_max: number;
  readonly dynamic: boolean;
  readonly normalized_boxes: boolean;
  readonly pad_value: number;
  readonly colour: "rgb" | "bgr";
  readonly boxes: "xywh" | "xyxy";
  readonly score_logits: boolean;
  readonly input_max: number;
  readonly end2end: boolean;
  readonly [key: string]: unknown;
}

/** The JSON text of an artifact's metadata key `edgeseg`, or that text parsed. Throws EdgesegError. */
export function readManifest(source: string | object): Manifest;

/** How a source image lies in the network's input. Throws EdgesegError for a side below 1 pixel. */
export class Letterbox {
  constructor(source: Size, size: Size);
  readonly source: Size;
  readonly size: Size;
  /** Input pixels per source pixel. */
  readonly ratio: number;
  /** Of the scaled image inside the input. */
  readonly resized: Size;
  /** x, y: input pixels per source pixel that the resize really has. */
  readonly scale: [number, number];
  /** left, top in input pixels. */
  readonly pad: [number, number];
  toSource(value: number, axis: 0 | 1): number;
}

/** RGBA bytes, as `ImageData` has them. */
export interface Picture {
  readonly data: Uint8ClampedArray | Uint8Array;
  readonly width: number;
  readonly height: number;
}

export class Preprocessor {
  /** `size`: for artifacts with a dynamic input. Throws EdgesegError for a size or input that cannot be filled. */
  constructor(manifest: Manifest, size?: Size);
  readonly shape: readonly number[];
  /** `data` is overwritten by the next call. */
  prepare(image: Picture): { data: Float32Array | Int8Array | Uint8Array; shape: number[]; letterbox: Letterbox };
}

/** An output of TF.js (`{data: await t.data(), shape: t.shape}`), ONNX Runtime Web (as it is) or LiteRT.js. */
export type Output = { data: TypedArray; shape: readonly number[] } | { data: TypedArray; dims: readonly number[] };

export interface Options {
  /** Lowest score, 0..1; 0.25. */
  conf?: number;
  /** Boxes of one class that overlap by more are one object, 0..1; 0.7. */
  iou?: number;
  /** 300. */
  maxDet?: number;
  /** One place may be several classes. */
  multiLabel?: boolean;
  /** false spares the masks. */
  masks?: boolean;
  /** Which image of the batch. */
  index?: number;
  /** Only these, counted before maxDet. */
  classes?: readonly number[] | null;
}

/** The part of a mask inside its box: 1 inside, 0 outside, row by row. */
export interface Mask {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** n detections by falling score, in pixels of the source image. */
export interface Detections {
  /** 4 * n. */
  readonly boxes: Float32Array;
  readonly scores: Float32Array;
  readonly classes: Int32Array;
  /** null of a detector, or without masks. */
  readonly masks: Mask[] | null;
  readonly source: Size;
}

export class Postprocessor {
  constructor(manifest: Manifest);
  /** `outputs` in the manifest's order. Masks' `data` is overwritten by the next call. Throws EdgesegError. */
  detect(outputs: ArrayLike<Output>, letterbox: Letterbox, options?: Options): Detections;
}
