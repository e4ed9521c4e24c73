// The page: choose an image, and see the boxes. ?model=FILE.onnx&provider=webgpu
import { openDetector } from './detector.js';

const [file, threshold, status, canvas] = ['file', 'threshold', 'status', 'canvas'].map(
  (id) => document.getElementById(id),
);
const context = canvas.getContext('2d', { willReadFrequently: true });
const options = new URLSearchParams(location.search);
let detector, bitmap, found;

async function run() {
  [bitmap, found] = [await createImageBitmap(file.files[0]), []];
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  draw();
  status.textContent = 'Looking ...';
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const start = performance.now();
  found = await detector.detect(pixels);
  const took = Math.round(performance.now() - start);
  status.textContent = `${took} ms, image of ${canvas.width}x${canvas.height} pixels`;
  draw();
}

function draw() {
  if (!bitmap) return;
  context.drawImage(bitmap, 0, 0);
  context.font = '14px system-ui, sans-serif';
  context.textBaseline = 'top';
  context.lineWidth = 2;
  const shown = found.filter(({ score }) => score > threshold.value);
  for (const { box, score, label } of shown.reverse()) { // the best on top
    const [x1, y1, x2, y2] = box;
    const [r, g, b] = detector.palette[label];
    const text = `${detector.classes[label]} ${score.toFixed(2)}`;
    context.strokeStyle = context.fillStyle = `rgb(${r}, ${g}, ${b})`;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const width = context.measureText(text).width + 6;
    const left = Math.max(Math.min(x1, canvas.width - width), 0); // inside of the image
    context.fillRect(left, y1, width, 18);
    context.fillStyle = 0.299 * r + 0.587 * g + 0.114 * b < 128 ? 'white' : 'black';
    context.fillText(text, left + 3, y1 + 2);
  }
}

function explain(error) {
  status.textContent = `Error: ${error.message ?? error}`;
}

threshold.addEventListener('input', draw);
file.addEventListener('change', () => run().catch(explain));
try {
  detector = await openDetector(options.get('model') ?? 'model.onnx', options.get('provider') ?? 'wasm');
  status.textContent = 'Choose an image.';
  file.disabled = false;
} catch (error) {
  explain(error);
}
