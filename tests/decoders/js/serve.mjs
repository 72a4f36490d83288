// What the tests ask of the JavaScript decoder: one JSON request a line on standard input, one JSON answer a line.
// Arrays travel as {dtype, shape, data}, the bytes in base64.
import readline from "node:readline";
import { Letterbox, Postprocessor, Preprocessor, readManifest } from "../../../edgeseg/decoders/js/edgeseg.js";

const KINDS = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array, int32: Int32Array, float16: Uint16Array };
const made = new Map(); // one processor a manifest: buffers are used again, as in a program

function array({ dtype, shape, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64"));
  return { data: new KINDS[dtype](bytes.buffer), shape };
}

const text = (a) => Buffer.from(a.buffer, a.byteOffset, a.byteLength).toString("base64");

function one(kind, manifest, size) {
  const key = JSON.stringify([kind.name, manifest, size]);
  if (!made.has(key)) made.set(key, size ? new kind(readManifest(manifest), size) : new kind(readManifest(manifest)));
  return made.get(key);
}

const COMMANDS = {
  prepare({ manifest, size, image }) {
    const { data, shape } = array(image);
    const got = one(Preprocessor, manifest, size).prepare({ data, width: shape[1], height: shape[0] });
    return { data: text(got.data), shape: got.shape, letterbox: got.letterbox };
  },
  detect({ manifest, outputs, source, size, options }) {
    const found = one(Postprocessor, manifest).detect(outputs.map(array), new Letterbox(source, size), options);
    const masks = found.masks?.map(({ data, ...place }) => ({ ...place, data: text(data) })) ?? null;
    return { boxes: text(found.boxes), scores: text(found.scores), classes: text(found.classes), masks };
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { command, ...request } = JSON.parse(line);
  let answer;
  try {
    answer = COMMANDS[command](request);
  } catch (e) {
    answer = { error: e.message, kind: e.name };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
