// SPDX-License-Identifier: Apache-2.0
// Runs the page's model with TF.js: on WebGPU where the browser has it, else on WebAssembly.

function script(name) {
  return new Promise((resolve, reject) => {
    const element = Object.assign(document.createElement("script"), { src: `lib/${name}.min.js`, onload: resolve });
    element.onerror = () => reject(new Error(`lib/${name}.min.js cannot be loaded`));
    document.head.append(element);
  });
}

/** What runs the model: {backend, run(data, shape)}, `run` giving outputs in the manifest's order. `probe` is an input. */
export async function open(folder, manifest, probe) {
  await script("tf-core");
  await script("tf-converter");
  const { tf } = globalThis, failures = [];
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  for (const name of [...(adapter ? ["webgpu"] : []), "wasm"]) {
    try {
      await script(`tf-backend-${name}`);
      if (name === "wasm") {
        tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // one file serves every server, those without isolation too
        tf.wasm.setWasmPaths("lib/");
      }
      if (!(await tf.setBackend(name))) throw new Error("it does not start here");
      const model = await tf.loadGraphModel(`${folder}model.json`), { inputs, outputs } = model.modelSignature;
      const feed = Object.values(inputs)[0].name, nodes = manifest.outputs.map((o) => outputs[o.name].name);
      const run = async (data, shape) => {
        const x = tf.tensor(data, shape), made = [model.execute({ [feed]: x }, nodes)].flat();
        const values = await Promise.all(made.map(async (t) => ({ data: await t.data(), shape: t.shape })));
        tf.dispose([x, made]);
        return values;
      };
      await run(probe.data, probe.shape); // compiles, and finds out now what does not work
      return { backend: `TF.js ${tf.version_core}, ${name === "wasm" ? "WebAssembly" : "WebGPU"}`, run };
    } catch (e) {
      failures.push(`${name}: ${e.message}`);
    }
  }
  throw new Error(failures.join("; "));
}
