// A detector of `mmmeta export`, run by onnxruntime-web.

// ort.webgpu.min.mjs lacks a Cast to float64, which these files use.
const DIST = './node_modules/onnxruntime-web/dist';
const BUILDS = { wasm: 'ort.wasm.min.mjs', webgpu: 'ort.all.min.mjs' };

// Opens a file. Provider: 'wasm' (the CPU) or 'webgpu'.
export async function openDetector(url, provider = 'wasm') {
  const ort = await import(`${DIST}/${BUILDS[provider]}`);
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`no file ${url}`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const metadata = metadataOf(bytes);
  if (metadata.task !== 'detection') throw new Error(`${url} is not a detector's file`);
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: [provider],
    logSeverityLevel: 3, // it warns of shapes that depend on the image
  });
  return {
    classes: JSON.parse(metadata.classes),
    palette: JSON.parse(metadata.palette),

    // Finds objects in the canvas' ImageData; returns them by descending score.
    async detect({ data, width, height }) {
      const rgb = new Uint8Array(3 * width * height);
      for (let from = 0, to = 0; from < data.length; from += 4) {
        rgb[to++] = data[from];
        rgb[to++] = data[from + 1];
        rgb[to++] = data[from + 2];
      }
      const image = new ort.Tensor('uint8', rgb, [height, width, 3]);
      // Not the masks, if it has any.
      const { boxes, scores, labels } = await session.run({ image }, ['boxes', 'scores', 'labels']);
      const found = [];
      labels.data.forEach((label, i) => {
        if (label < 0n) return; // no more detections
        const box = Array.from(boxes.data.subarray(4 * i, 4 * i + 4));
        found.push({ box, score: scores.data[i], label: Number(label) });
      });
      return found;
    },
  };
}

// Returns the metadata, which onnxruntime-web does not give: field 14 of the file, a
// list of pairs, whose fields 1 and 2 are the key and the value.
export function metadataOf(bytes) {
  const text = new TextDecoder();
  const metadata = {};
  for (const [number, pair] of fields(bytes)) {
    if (number !== 14) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(pair));
    metadata[text.decode(key)] = text.decode(value);
  }
  return metadata;
}

// Yields the number and the bytes of each field of a Protocol Buffers message.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const end = varint() + at;
      yield [Math.floor(tag / 8), bytes.subarray(at, end)];
      at = end;
    } else throw new Error('not a file of ONNX');
  }
}
