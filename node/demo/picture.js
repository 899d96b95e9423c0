// The generated moving picture: a trunk cable of twisting lines with packets running along it, a clock and a
// frame counter. It needs no camera and no secure context, so the demo works on http://10.x as well.

export const PALETTES = {
  a: { letter: 'A', hue: 14, spread: 34, sky: ['#1b0e12', '#3b1a17', '#120a12'], direction: 1, start_s: 8 },
  b: { letter: 'B', hue: 192, spread: 40, sky: ['#06151c', '#0c2f38', '#070f1c'], direction: -1, start_s: 31 },
};

const WIDTH = 640;
const HEIGHT = 360;
const FRAMES_PER_SECOND = 30;
const LINES = 13;
const STEP_PX = 10;
// With reduced motion the picture still changes, because a still one would prove nothing, but it drifts.
const CALM_PACE = 0.12;

export class Picture {
  #canvas = document.createElement('canvas');
  #pen = this.#canvas.getContext('2d', { alpha: false });
  #palette;
  #sky;
  #timer;
  #time_s;
  #drawnAt = performance.now();
  #frame = 0;
  #calm = matchMedia('(prefers-reduced-motion: reduce)');

  constructor(palette) {
    this.#palette = palette;
    this.#time_s = palette.start_s;
    this.#canvas.width = WIDTH;
    this.#canvas.height = HEIGHT;
    this.#sky = paintSky(palette);
    this.#draw();
    this.track = this.#canvas.captureStream(FRAMES_PER_SECOND).getVideoTracks()[0];
    this.track.contentHint = 'motion';
    // A timer instead of animation frames: those stop altogether in a tab that is out of sight.
    this.#timer = setInterval(() => this.#draw(), 1000 / FRAMES_PER_SECOND);
  }

  stop() {
    clearInterval(this.#timer);
    this.track.stop();
  }

  #draw() {
    const now = performance.now();
    this.#time_s += (now - this.#drawnAt) / 1000 * (this.#calm.matches ? CALM_PACE : 1);
    this.#drawnAt = now;
    this.#frame += 1;
    const pen = this.#pen;
    pen.globalCompositeOperation = 'source-over';
    pen.drawImage(this.#sky, 0, 0);
    pen.globalCompositeOperation = 'lighter';
    for (let line = 0; line < LINES; line += 1) this.#drawLine(line);
    pen.globalCompositeOperation = 'source-over';
    this.#drawLegend();
  }

  #drawLine(line) {
    const pen = this.#pen;
    const share = line / (LINES - 1);
    const hue = this.#palette.hue + (share - 0.5) * 2 * this.#palette.spread;
    pen.beginPath();
    for (let x = -STEP_PX; x <= WIDTH + STEP_PX; x += STEP_PX) pen.lineTo(x, this.#heightOf(share, x));
    pen.lineWidth = 5;
    pen.strokeStyle = `hsl(${hue} 90% 55% / 0.10)`;
    pen.stroke();
    pen.lineWidth = 1.6;
    pen.strokeStyle = `hsl(${hue} 88% 62% / 0.62)`;
    pen.stroke();
    this.#drawPackets(line, share, hue);
  }

  #drawPackets(line, share, hue) {
    const pen = this.#pen;
    const { direction } = this.#palette;
    const speed_px_s = 62 + ((line * 37) % 53);
    const length_px = WIDTH + 120;
    const start = (line * 211) % length_px;
    const along = (start + this.#time_s * speed_px_s) % length_px - 60;
    for (let tail = 0; tail < 5; tail += 1) {
      const behind = along - tail * 7;
      const x = direction > 0 ? behind : WIDTH - behind;
      pen.fillStyle = `hsl(${hue} 100% ${82 - tail * 7}% / ${0.95 - tail * 0.19})`;
      pen.beginPath();
      pen.arc(x, this.#heightOf(share, x), 3.4 - tail * 0.5, 0, 2 * Math.PI);
      pen.fill();
    }
  }

  /** The lines share one slow wave, and their spacing waxes and wanes, so that the cable twists. */
  #heightOf(share, x) {
    const t = this.#time_s * this.#palette.direction;
    const u = x / WIDTH * 2 * Math.PI;
    const middle = HEIGHT * 0.47 + 46 * Math.sin(u * 0.72 - t * 0.42) + 14 * Math.sin(u * 1.9 + t * 0.31);
    const twist = Math.sin(u * 0.58 - t * 0.27 + 0.9) * 122 + Math.sin(u * 1.3 + t * 0.19) * 26;
    return middle + (share - 0.5) * twist;
  }

  #drawLegend() {
    const pen = this.#pen;
    const now = new Date();
    const clock = `${now.toTimeString().slice(0, 8)}.${Math.floor(now.getMilliseconds() / 100)}`;
    pen.fillStyle = 'rgb(255 255 255 / 0.94)';
    pen.textBaseline = 'alphabetic';
    pen.font = '600 34px ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace';
    pen.textAlign = 'left';
    pen.fillText(clock, 22, HEIGHT - 24);
    pen.font = '15px ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace';
    pen.fillStyle = 'rgb(255 255 255 / 0.72)';
    pen.textAlign = 'right';
    pen.fillText(`frame ${this.#frame}`, WIDTH - 22, HEIGHT - 24);
    pen.fillText(`from ${this.#palette.letter}`, WIDTH - 22, 36);
  }
}

function paintSky(palette) {
  const canvas = document.createElement('canvas');
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const pen = canvas.getContext('2d');
  const gradient = pen.createLinearGradient(0, 0, WIDTH * 0.7, HEIGHT);
  palette.sky.forEach((colour, index) => gradient.addColorStop(index / (palette.sky.length - 1), colour));
  pen.fillStyle = gradient;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  return canvas;
}
