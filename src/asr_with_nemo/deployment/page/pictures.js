// Waveform and spectrogram on two canvases: scrolling while somebody speaks, whole for a recording.
const SIZE = 512; // samples of a Fourier transform
const SECONDS = 8; // on the screen while recording
const HIGHEST = 8000; // Hz
const FLOOR = -90, TOP = -20; // dB

const WINDOW = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));
const COSINE = Float32Array.from({ length: SIZE / 2 }, (_, n) => Math.cos((2 * Math.PI * n) / SIZE));
const SINE = Float32Array.from({ length: SIZE / 2 }, (_, n) => Math.sin((2 * Math.PI * n) / SIZE));

/** Decibels of each frequency of SIZE samples (Cooley and Tukey, 1965). */
function spectrum(samples) {
  const real = new Float32Array(SIZE), imaginary = new Float32Array(SIZE);
  for (let n = 0, reversed = 0; n < SIZE; n++) {
    real[reversed] = (samples[n] ?? 0) * WINDOW[n];
    let bit = SIZE >> 1;
    while (reversed & bit) { reversed ^= bit; bit >>= 1; }
    reversed |= bit;
  }
  for (let half = 1; half < SIZE; half *= 2) {
    const step = SIZE / (2 * half);
    for (let start = 0; start < SIZE; start += 2 * half) {
      for (let n = 0; n < half; n++) {
        const a = start + n, b = a + half, c = COSINE[n * step], s = -SINE[n * step];
        const x = real[b] * c - imaginary[b] * s, y = real[b] * s + imaginary[b] * c;
        real[b] = real[a] - x; imaginary[b] = imaginary[a] - y;
        real[a] += x; imaginary[a] += y;
      }
    }
  }
  return Float32Array.from({ length: SIZE / 2 }, (_, n) =>
    10 * Math.log10((real[n] ** 2 + imaginary[n] ** 2) / (SIZE * SIZE / 16) + 1e-12));
}

// Some colours of matplotlib's "inferno"; those between are mixed.
const INFERNO = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
const COLOURS = Array.from({ length: 256 }, (_, n) => {
  const place = (n / 256) * (INFERNO.length - 1), below = Math.floor(place), share = place - below;
  return INFERNO[below].map((value, channel) => value * (1 - share) + INFERNO[below + 1][channel] * share);
});
const BACKGROUND = "rgb(0 0 4)";

export class Pictures {
  constructor(waveform, spectrogram) {
    this.canvases = [waveform, spectrogram];
    this.clear(48000);
  }

  /** Start anew, for sound of a rate. */
  clear(rate) {
    this.rate = rate;
    this.chunks = [];
    this.length = 0;
    this.drawn = 0;
    for (const canvas of this.canvases) {
      const scale = Math.min(2, window.devicePixelRatio || 1);
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
      const context = canvas.getContext("2d");
      context.fillStyle = BACKGROUND;
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
  }

  /** Samples that the microphone gave. */
  add(samples) {
    this.chunks.push(samples);
    this.length += samples.length;
  }

  /** All samples, as one array. */
  samples() {
    const all = new Float32Array(this.length);
    let at = 0;
    for (const chunk of this.chunks) { all.set(chunk, at); at += chunk.length; }
    return all;
  }

  /** Draw what has been added since the last time, and let the rest scroll. */
  scroll() {
    const width = this.canvases[0].width, perColumn = (SECONDS * this.rate) / width;
    const columns = Math.min(width, Math.floor((this.length - this.drawn) / perColumn));
    if (columns < 1) return;
    const recent = this.#last(this.length - this.drawn + SIZE);
    for (const canvas of this.canvases) canvas.getContext("2d").drawImage(canvas, -columns, 0);
    const first = Math.max(0, recent.length - (this.length - this.drawn));
    for (let column = 0; column < columns; column++) {
      const start = first + Math.floor(column * perColumn);
      this.#column(recent, start, Math.ceil(perColumn), width - columns + column);
    }
    this.drawn += Math.floor(columns * perColumn);
  }

  /** Draw a whole recording. */
  whole(samples, rate) {
    this.clear(rate);
    this.add(samples);
    this.redraw();
  }

  /** Draw all of it again, in the size that the canvases have now. */
  redraw() {
    const samples = this.samples(), { rate } = this;
    this.clear(rate);
    this.add(samples);
    this.drawn = samples.length;
    const width = this.canvases[0].width, perColumn = samples.length / width;
    for (let column = 0; column < width; column++) {
      this.#column(samples, Math.floor(column * perColumn), Math.max(1, Math.ceil(perColumn)), column);
    }
  }

  get seconds() { return this.length / this.rate; }

  #last(count) {
    const chunks = [];
    let size = 0;
    for (let n = this.chunks.length - 1; n >= 0 && size < count; n--) { chunks.unshift(this.chunks[n]); size += this.chunks[n].length; }
    const all = new Float32Array(size);
    let at = 0;
    for (const chunk of chunks) { all.set(chunk, at); at += chunk.length; }
    return all;
  }

  #column(samples, start, count, x) {
    const [waveform, spectrogram] = this.canvases;
    let low = 0, high = 0;
    for (let n = start; n < start + count && n < samples.length; n++) { low = Math.min(low, samples[n]); high = Math.max(high, samples[n]); }
    const middle = waveform.height / 2, gain = waveform.height * 0.9;
    const context = waveform.getContext("2d");
    context.fillStyle = BACKGROUND;
    context.fillRect(x, 0, 1, waveform.height);
    context.fillStyle = "#7aa7ff";
    const top = Math.max(0, middle - high * gain), bottom = Math.min(waveform.height, middle - low * gain);
    context.fillRect(x, top, 1, Math.max(1, bottom - top));

    const middleOf = Math.max(0, Math.min(samples.length - SIZE, start + (count >> 1) - SIZE / 2));
    const decibels = spectrum(samples.subarray(middleOf, middleOf + SIZE));
    const height = spectrogram.height, image = new ImageData(1, height);
    for (let y = 0; y < height; y++) {
      const bin = Math.min(SIZE / 2 - 1, Math.round(((height - 1 - y) / height) * HIGHEST * SIZE / this.rate));
      const shade = COLOURS[Math.max(0, Math.min(255, Math.round((255 * (decibels[bin] - FLOOR)) / (TOP - FLOOR))))];
      image.data.set([...shade, 255], 4 * y);
    }
    spectrogram.getContext("2d").putImageData(image, x, 0);
  }
}
