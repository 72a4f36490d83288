// Runs one TF.js graph model for edgeseg: `node runner.mjs PACKAGES MODEL [BACKEND,...]`, a child process of runtime.py.
//
// Messages go over stdin and stdout, each: length of the header (uint32 little-endian), header (JSON), payload. The header's
// `bytes` is the payload's length. First the child says what it has loaded, or {"error"}; then every request
// {"shape", "dtype", "bytes"} with an input tensor is answered by {"outputs": [{"shape", "dtype", "bytes"}], "bytes"} with
// the output tensors one after the other, or by {"error"}. It ends when its standard input does.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

const [packages, folder, wanted = "wasm,cpu"] = process.argv.slice(2);
// Standard output belongs to the messages.
for (const name of ["log", "info", "debug", "warn"]) console[name] = (...words) => console.error(...words);

function send(header, parts = []) {
  const bytes = parts.reduce((sum, p) => sum + p.byteLength, 0);
  const text = Buffer.from(JSON.stringify({ ...header, bytes }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  writeAll(Buffer.concat([length, text, ...parts.map((p) => Buffer.from(p.buffer, p.byteOffset, p.byteLength))]));
}

function writeAll(data) {
  for (let at = 0; at < data.length; ) {
    try {
      at += fs.writeSync(1, data, at);
    } catch (e) {
      if (e.code !== "EAGAIN") throw e;
    }
  }
}

// The next `count` bytes of standard input, or null at its end.
function read(count) {
  const data = Buffer.alloc(count);
  for (let at = 0; at < count; ) {
    let got;
    try {
      got = fs.readSync(0, data, at, count - at);
    } catch (e) {
      if (e.code === "EAGAIN") continue;
      if (e.code === "EOF") return null;
      throw e;
    }
    if (!got) return null;
    at += got;
  }
  return data;
}

function receive() {
  const length = read(4);
  if (length === null) return null;
  const header = JSON.parse(read(length.readUInt32LE()).toString());
  return { header, payload: read(header.bytes) };
}

function artifacts() {
  const model = JSON.parse(fs.readFileSync(path.join(folder, "model.json"), "utf8"));
  if (model.format && model.format !== "graph-model") throw new Error(`model.json holds a ${model.format}, not a graph-model`);
  const files = model.weightsManifest.flatMap((group) => group.paths).map((p) => fs.readFileSync(path.join(folder, p)));
  const data = Buffer.concat(files);
  return {
    modelTopology: model.modelTopology,
    weightSpecs: model.weightsManifest.flatMap((group) => group.weights),
    weightData: data.buffer.slice(data.byteOffset, data.byteOffset + data.length),
    format: model.format,
    signature: model.signature,
    userDefinedMetadata: model.userDefinedMetadata,
  };
}

// The first backend that runs the model, and why those before it did not.
async function load(tf, names) {
  const require = createRequire(path.join(packages, "package.json"));
  const failures = [];
  for (const name of names) {
    try {
      if (name === "wasm") {
        const wasm = require("@tensorflow/tfjs-backend-wasm");
        wasm.setWasmPaths(path.dirname(require.resolve("@tensorflow/tfjs-backend-wasm")) + path.sep);
      }
      if (!(await tf.setBackend(name))) throw new Error("it does not start here");
      await tf.ready();
      const model = await tf.loadGraphModel(tf.io.fromMemory(artifacts()));
      return { model, failures };
    } catch (e) {
      failures.push(`${name}: ${e.message}`);
    }
  }
  throw new Error(failures.join("; "));
}

// Tensors of the signature: [{name, node, shape, dtype}]; the converter of others may leave no signature.
function tensors(model, kind) {
  const signed = Object.entries(model.modelSignature?.[kind] ?? {});
  const known = Object.fromEntries(model[kind].map((t) => [t.name.split(":")[0], t]));
  const rows = signed.map(([name, info]) => [name, (info.name ?? name).split(":")[0], info]);
  const all = rows.length ? rows : model[kind].map((t) => [t.name.split(":")[0], t.name.split(":")[0], {}]);
  return all.map(([name, node, info]) => {
    const dims = info.tensorShape?.dim?.map((d) => Number(d.size));
    return { name, node, shape: dims ?? known[node]?.shape ?? null, dtype: known[node]?.dtype ?? "float32" };
  });
}

async function execute(model, feeds, nodes) {
  try {
    return model.execute(feeds, nodes);
  } catch (e) {
    if (!/executeAsync/.test(e.message)) throw e;
    return model.executeAsync(feeds, nodes);
  }
}

async function main() {
  const tf = createRequire(path.join(packages, "package.json"))("@tensorflow/tfjs");
  const { model, failures } = await load(tf, wanted.split(","));
  const inputs = tensors(model, "inputs");
  const outputs = tensors(model, "outputs");
  const version = tf.version_core;
  send({ ready: true, backend: tf.getBackend(), version, failures, inputs, outputs, metadata: model.metadata ?? {} });
  for (let message = receive(); message !== null; message = receive()) {
    try {
      const { shape, dtype, name } = message.header;
      const raw = message.payload;
      const values = dtype === "int32" ? new Int32Array(raw.buffer, raw.byteOffset, raw.length / 4)
                                       : new Float32Array(raw.buffer, raw.byteOffset, raw.length / 4);
      const x = tf.tensor(values, shape, dtype);
      const made = await execute(model, { [name]: x }, outputs.map((o) => o.node));
      const results = Array.isArray(made) ? made : [made];
      const data = [];
      for (const t of results) data.push(await t.data());
      send({ outputs: results.map((t, i) => ({ shape: t.shape, dtype: t.dtype, bytes: data[i].byteLength })) }, data);
      tf.dispose([x, ...results]);
    } catch (e) {
      send({ error: e.message });
    }
  }
}

main().then(() => process.exit(0), (e) => {
  send({ error: e.message });
  process.exit(1);
});
