// SPDX-License-Identifier: Apache-2.0
// Runs the page's model with ONNX Runtime Web: on WebGPU where the browser has it and can suspend WebAssembly while the GPU
// works (JSPI), else on WebAssembly alone.

/** What runs the model: {backend, run(data, shape)}, `run` giving outputs in the manifest's order. `probe` is an input. */
export async function open(folder, manifest, probe) {
  const adapter = "Suspending" in WebAssembly ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
  const failures = [];
  for (const [provider, library] of [...(adapter ? [["webgpu", "jspi"]] : []), ["wasm", "wasm"]]) {
    try {
      const ort = await import(`./lib/ort.${library}.min.mjs`);
      ort.env.logLevel = "error";
      const session = await ort.InferenceSession.create(`${folder}model.onnx`, { executionProviders: [provider] });
      const run = async (data, shape) => {
        const made = await session.run({ [manifest.input.name]: new ort.Tensor(manifest.input.dtype, data, shape) });
        return manifest.outputs.map(({ name }) => made[name]);
      };
      await run(probe.data, probe.shape); // compiles, and finds out now what does not work
      const threads = ort.env.wasm.numThreads || 1;
      const backend = provider === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
      return { backend: `ONNX Runtime Web ${ort.env.versions.web}, ${backend}`, run };
    } catch (e) {
      failures.push(`${provider}: ${e.message}`);
    }
  }
  throw new Error(failures.join("; "));
}
