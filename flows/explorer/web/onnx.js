"use strict";
// The backend of a page without a server: the generator as ONNX, drawn by onnxruntime-web in a worker. Seeds are those of
// torch: the same Mersenne twister and the same way from its numbers to normal ones.

class Twister {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed >>> 0;
    for (let i = 1; i < 624; i++) {
      const last = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, last) + i;
    }
    this.at = 624;
    this.cached = null;
  }

  next() {
    const s = this.state;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
        s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  double() {
    const high = this.next() & 0x1fffff;
    return (high * 2 ** 32 + this.next()) / 2 ** 53;
  }

  // As torch.randn: 16 or more numbers are made in blocks of 16, fewer one after another.
  normal(num) {
    const out = new Float32Array(num);
    if (num < 16) {
      for (let i = 0; i < num; i++) {
        if (this.cached !== null) { out[i] = this.cached; this.cached = null; continue; }
        const angle = 2 * Math.PI * this.double(), radius = Math.sqrt(-2 * Math.log1p(-this.double()));
        out[i] = radius * Math.cos(angle);
        this.cached = radius * Math.sin(angle);
      }
      return out;
    }
    const uniform = () => (this.next() & 0xffffff) / 2 ** 24;
    const turned = at => {
      for (let j = at; j < at + 8; j++) {
        const radius = Math.sqrt(-2 * Math.log(1 - out[j])), angle = 2 * Math.PI * out[j + 8];
        out[j] = radius * Math.cos(angle);
        out[j + 8] = radius * Math.sin(angle);
      }
    };
    for (let i = 0; i < num; i++) out[i] = uniform();
    for (let i = 0; i + 16 <= num; i += 16) turned(i);
    if (num % 16) {
      for (let i = num - 16; i < num; i++) out[i] = uniform();
      turned(num - 16);
    }
    return out;
  }
}

async function embedded(id) {
  const element = document.getElementById(id);
  const answer = await fetch("data:application/octet-stream;base64," + element.textContent.trim());
  element.remove();
  return new Response(answer.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// What runs in the worker, as text of its own.
async function draws() {
  let ort, mapping, lower, upper;
  let last = {key: null, x: null};
  const noisy = (feeds, noise, from) => {
    noise.forEach((data, index) => {
      const side = Math.sqrt(data.length);
      feeds[`noise_${from + index}`] = new ort.Tensor("float32", data, [1, 1, side, side]);
    });
    return feeds;
  };
  const pixelsOf = images => {
    const [, , height, width] = images.dims, size = height * width;
    const pixels = new Uint8ClampedArray(4 * size);
    for (let i = 0; i < size; i++) {
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = Math.round((images.data[c * size + i] + 1) * 127.5);
      pixels[4 * i + 3] = 255;
    }
    return {pixels, width, height};
  };
  const hands = {
    async open({code, wasm, networks}) {
      ort = await import(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
      ort.env.wasm.wasmBinary = wasm;
      ort.env.wasm.numThreads = 1;
      const options = {executionProviders: ["wasm"], logSeverityLevel: 3};
      mapping = await ort.InferenceSession.create(new Uint8Array(networks.mapping), options);
      lower = await ort.InferenceSession.create(new Uint8Array(networks.lower), options);
      upper = await ort.InferenceSession.create(new Uint8Array(networks.upper), options);
    },
    async mapped({z}) {
      const {w} = await mapping.run({z: new ort.Tensor("float32", z, [1, z.length])});
      return w.data;
    },
    // The preview, or the whole picture, which goes on from where the preview of the same key stopped.
    async drawn({key, w, shape, noise, numLower, isPreview}) {
      const styles = new ort.Tensor("float32", w, shape);
      if (key === null || last.key !== key) last = {key, ...await lower.run(noisy({w: styles}, noise.slice(0, numLower), 0))};
      if (isPreview) return pixelsOf(last.small);
      return pixelsOf((await upper.run(noisy({x: last.x, w: styles}, noise.slice(numLower), numLower))).images);
    },
  };
  onmessage = async ({data: {id, name, given}}) => {
    try {
      postMessage({id, result: await hands[name](given)});
    } catch (error) {
      postMessage({id, error: String(error?.message ?? error)});
    }
  };
}

async function openOnnx(data, say) {
  say("Unpacking the generator…");
  const [code, wasm, mapping, lower, upper] = await Promise.all(["ort-code", "ort-wasm", "mapping", "lower", "upper"].map(embedded));
  const worker = new Worker(URL.createObjectURL(new Blob([`(${draws})()`], {type: "text/javascript"})));
  const waiting = new Map();
  let number = 0;
  worker.onmessage = ({data: {id, result, error}}) => {
    const {resolve, reject} = waiting.get(id);
    waiting.delete(id);
    error ? reject(new Error(error)) : resolve(result);
  };
  const call = (name, given, moved = []) => new Promise((resolve, reject) => {
    waiting.set(++number, {resolve, reject});
    worker.postMessage({id: number, name, given}, moved);
  });
  say("Opening the generator…");
  await call("open", {code, wasm, networks: {mapping, lower, upper}}, [code, wasm, mapping, lower, upper]);

  const numLayers = data.num_layers, dim = data.w_avg.length;
  const vectors = new Map(data.vectors.map(one => [one.name, one]));
  const known = new Map();
  const inputs = async seed => {
    if (!known.has(seed)) {
      const twister = new Twister(seed);
      const z = twister.normal(data.z_dim);
      const noise = data.about.has_noise ? data.about.layers.map(({px}) => twister.normal(px * px)) : [];
      if (known.size > 64) known.delete(known.keys().next().value);
      known.set(seed, {noise, w: call("mapped", {z})});
    }
    const {noise, w} = known.get(seed);
    return {noise, w: await w};
  };

  async function styles(at) {
    const {w} = await inputs(at.seed);
    const rows = new Float32Array(numLayers * dim);
    for (let layer = 0; layer < numLayers; layer++) {
      for (let i = 0; i < dim; i++) {
        const mean = data.w_avg[i];
        rows[layer * dim + i] = layer < at.cutoff ? mean + at.psi * (w[i] - mean) : w[i];
      }
    }
    for (const [name, strength] of Object.entries(at.moves)) {
      const {layers: [from, to], deviation, vector} = vectors.get(name);
      for (let layer = from; layer < to; layer++) {
        for (let i = 0; i < dim; i++) rows[layer * dim + i] += strength * deviation * vector[i];
      }
    }
    if (at.mixed) rows.set((await styles(readView(at.mixed))).subarray(at.boundary * dim), at.boundary * dim);
    return rows;
  }

  async function noiseOf(at) {
    const own = (await inputs(at.seed)).noise;
    return Promise.all(own.map(async (layer, index) => {
      const values = at.renoise[index] === null ? layer : (await inputs(at.renoise[index])).noise[index];
      return at.noise[index] === 1 ? values : values.map(value => value * at.noise[index]);
    }));
  }

  const draw = async (w, noise, {key = null, isPreview = false} = {}) => {
    const given = {key, w, shape: [1, numLayers, dim], noise, numLower: data.num_lower, isPreview};
    const {pixels, width, height} = await call("drawn", given);
    return new ImageData(pixels, width, height);
  };
  const pictureOf = async (view, isPreview) => {
    const at = readView(view);
    return draw(await styles(at), await noiseOf(at), {key: view, isPreview});
  };

  return {
    about: async () => data.about,
    picture: async (view, {size, signal} = {}) => {
      const image = await pictureOf(view, size === "preview");
      signal?.throwIfAborted();
      return createImageBitmap(image);
    },
    // A closed walk through the pins: Catmull and Rom's spline through their styles.
    async frame(pins, at, {signal}) {
      const keys = await Promise.all(pins.map(pin => styles(readView(pin))));
      const place = at * keys.length, index = Math.floor(place), t = place - index;
      const [a, b, c, d] = [-1, 0, 1, 2].map(by => keys[(index + by + keys.length) % keys.length]);
      const w = b.map((value, i) => value + 0.5 * t * (c[i] - a[i] + t * (2 * a[i] - 5 * value + 4 * c[i] - d[i] + t * (3 * (value - c[i]) + d[i] - a[i]))));
      const image = await draw(w, await noiseOf(readView(pins[0])), {isPreview: true});
      signal.throwIfAborted();
      return createImageBitmap(image);
    },
    async download(view) {
      const image = await pictureOf(view, false);
      const canvas = new OffscreenCanvas(image.width, image.height);
      canvas.getContext("2d").putImageData(image, 0, 0);
      const png = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
      const at = readView(view);
      const shape = new TextEncoder().encode(`${image.height}x${image.width}x3:`);
      const bytes = new Uint8Array(shape.length + 3 * image.width * image.height);
      bytes.set(shape);
      for (let i = 0, to = shape.length; i < image.data.length; i++) if (i % 4 < 3) bytes[to++] = image.data[i];
      const hash = [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map(byte => byte.toString(16).padStart(2, "0")).join("");
      const seeds = [at.seed, ...(at.mixed ? [readView(at.mixed).seed] : [])];
      const lineage = {...data.origin, kind: "view", seeds, truncation_psi: at.psi, view, drawn_by: "onnxruntime-web", pixels_sha256: hash};
      return new Blob([withTexts(png, {likeness: JSON.stringify(lineage), "XML:com.adobe.xmp": data.xmp})], {type: "image/png"});
    },
  };
}

// International text chunks behind a PNG's header.
function withTexts(png, texts) {
  const parts = [png.subarray(0, 33)];
  for (const [key, text] of Object.entries(texts)) {
    const body = new TextEncoder().encode(`iTXt${key}\0\0\0\0\0${text}`);
    const chunk = new Uint8Array(body.length + 8), numbers = new DataView(chunk.buffer);
    numbers.setUint32(0, body.length - 4);
    chunk.set(body, 4);
    numbers.setUint32(body.length + 4, checksum(body));
    parts.push(chunk);
  }
  return new Blob([...parts, png.subarray(33)]);
}

function checksum(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}
