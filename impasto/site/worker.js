// Paints with ONNX Runtime in WebAssembly, outside the page's thread.
import * as ort from "./runtime/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
// Threads need a server that isolates the page; a plain file server gives one thread.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency) : 1;
const networks = {};
let queue = Promise.resolve();

function planes({ data, width, height }) {
  const count = width * height, values = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) for (let c = 0; c < 3; c++) values[c * count + i] = data[4 * i + c] / 255;
  return new ort.Tensor("float32", values, [1, 3, height, width]);
}

function picture({ data, dims: [, , height, width] }) {
  const count = width * height, image = new ImageData(width, height);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(255 * data[c * count + i]);
    image.data[4 * i + 3] = 255;
  }
  return image;
}

async function paint({ turn, style, image }) {
  try {
    networks[style] ??= await ort.InferenceSession.create(`styles/${style}.onnx`);
    const started = performance.now();
    const { painted } = await networks[style].run({ image: planes(image) });
    self.postMessage({ turn, image: picture(painted), milliseconds: performance.now() - started });
  } catch (error) {
    self.postMessage({ turn, error: `This could not be painted (${error.message}). Try a smaller size.` });
  }
}

self.onmessage = ({ data }) => { queue = queue.then(() => paint(data)); };
