// A live graph of the last minute: the received bitrate above, the round-trip time below, one line per side.
// Two panels with one scale each, rather than two scales in one panel that would invite false comparisons.

import { bitrate, milliseconds } from './words.js';

const WINDOW_MS = 60_000;
const SAMPLES_MAX = 240;
// The newest sample slides in from the right, so that the line moves evenly between samples.
const SLIDE_MS = 500;
// The line moves about 10 px per second: more frames than this would cost the call's own threads, unseen.
const FRAME_MS_MIN = 40;
const GAP_PX = 34;
const LEFT_PX = 2;
const TITLE_PX = 20;

const PANELS = [
  { title: 'Received', field: 'bitrate', show: bitrate, floor: 200_000, share: 0.6 },
  { title: 'Round trip', field: 'rtt', show: milliseconds, floor: 0.002, share: 0.4 },
];

export class Graph {
  #canvas;
  #pen;
  #samples = [];
  #tops = PANELS.map((panel) => panel.floor);
  #colours = {};
  #pointer_px = null;
  #running = false;
  #drawnAt_ms = 0;
  #calm = matchMedia('(prefers-reduced-motion: reduce)');

  constructor(canvas) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext('2d');
    const redraw = () => this.#draw(performance.now());
    const repaint = () => { this.#readColours(); redraw(); };
    new ResizeObserver(() => { this.#fit(); redraw(); }).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
    canvas.addEventListener('pointermove', (event) => { this.#pointer_px = event.offsetX; redraw(); });
    canvas.addEventListener('pointerleave', () => { this.#pointer_px = null; redraw(); });
    this.#readColours();
  }

  start() {
    this.#samples = [];
    this.#tops = PANELS.map((panel) => panel.floor);
    if (this.#running) return;
    this.#running = true;
    requestAnimationFrame((now) => this.#tick(now));
  }

  stop() {
    this.#running = false;
  }

  /** `sample` = { a: { bitrate, rtt }, b: { bitrate, rtt } }, in bit/s and seconds; null where unknown. */
  push(sample) {
    this.#samples.push({ ...sample, at: performance.now() });
    if (this.#samples.length > SAMPLES_MAX) this.#samples.shift();
    if (this.#calm.matches) this.#draw(performance.now());
  }

  #tick(now) {
    if (!this.#running) return;
    if (!this.#calm.matches && now - this.#drawnAt_ms >= FRAME_MS_MIN) {
      this.#drawnAt_ms = now;
      this.#draw(now);
    }
    requestAnimationFrame((next) => this.#tick(next));
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ['a', 'b', 'ink', 'muted', 'hairline', 'surface']) this.#colours[name] = style.getPropertyValue(`--${name}`).trim();
    this.#colours.font = getComputedStyle(document.body).fontFamily;
  }

  #fit() {
    const scale = Math.min(devicePixelRatio || 1, 3);
    this.#canvas.width = Math.round(this.#canvas.clientWidth * scale);
    this.#canvas.height = Math.round(this.#canvas.clientHeight * scale);
    this.#pen.setTransform(scale, 0, 0, scale, 0, 0);
  }

  #draw(now) {
    const width = this.#canvas.clientWidth;
    const height = this.#canvas.clientHeight;
    this.#pen.clearRect(0, 0, width, height);
    const slide = this.#calm.matches ? 0 : SLIDE_MS;
    const xOf = (at) => LEFT_PX + (width - LEFT_PX) * (1 - (now - slide - at) / WINDOW_MS);
    const usable = height - GAP_PX * PANELS.length;
    let top = 0;
    PANELS.forEach((panel, index) => {
      const box = { top: top + TITLE_PX + 6, height: usable * panel.share, width };
      this.#easeTop(index);
      this.#drawPanel(panel, this.#tops[index], box, xOf);
      top = box.top + box.height + GAP_PX - TITLE_PX - 6;
    });
  }

  #easeTop(index) {
    const { field, floor } = PANELS[index];
    const largest = this.#samples.reduce((most, sample) => Math.max(most, sample.a[field] ?? 0, sample.b[field] ?? 0), 0);
    const wanted = roundUp(Math.max(floor, largest * 1.08));
    const step = this.#calm.matches ? 1 : 0.08;
    const next = this.#tops[index] + (wanted - this.#tops[index]) * step;
    this.#tops[index] = Math.abs(wanted - next) < wanted * 0.002 ? wanted : next;
  }

  #drawPanel(panel, scaleTop, box, xOf) {
    const pen = this.#pen;
    const yOf = (value) => box.top + box.height * (1 - value / scaleTop);
    pen.font = `12px ${this.#colours.font}`;
    pen.textBaseline = 'alphabetic';
    pen.fillStyle = this.#colours.muted;
    pen.textAlign = 'left';
    pen.fillText(panel.title, LEFT_PX, box.top - 8);
    pen.textAlign = 'right';
    pen.fillText(panel.show(scaleTop), box.width - 1, box.top - 8);
    pen.strokeStyle = this.#colours.hairline;
    pen.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(yOf(scaleTop * share)) + 0.5;
      pen.beginPath();
      pen.moveTo(LEFT_PX, y);
      pen.lineTo(box.width, y);
      pen.stroke();
    }
    pen.save();
    pen.beginPath();
    pen.rect(LEFT_PX, box.top - 4, box.width - LEFT_PX, box.height + 8);
    pen.clip();
    for (const side of ['b', 'a']) this.#drawLine(side, panel.field, box, xOf, yOf);
    pen.restore();
    if (this.#pointer_px !== null) this.#drawPointed(panel, box, xOf);
  }

  #drawLine(side, field, box, xOf, yOf) {
    const points = this.#samples
      .filter((sample) => sample[side][field] !== null)
      .map((sample) => ({ x: xOf(sample.at), y: yOf(sample[side][field]) }));
    if (points.length < 2) return;
    const pen = this.#pen;
    pen.beginPath();
    traceSmoothly(pen, points);
    pen.strokeStyle = this.#colours[side];
    pen.lineWidth = 2;
    pen.lineJoin = 'round';
    pen.stroke();
    pen.lineTo(points.at(-1).x, box.top + box.height);
    pen.lineTo(points[0].x, box.top + box.height);
    pen.fillStyle = this.#washOf(side, box);
    pen.fill();
  }

  /** Fades towards the base line, so that two overlapping areas do not turn into mud. The colours are #rrggbb; two digits more are their opacity. */
  #washOf(side, box) {
    const wash = this.#pen.createLinearGradient(0, box.top, 0, box.top + box.height);
    wash.addColorStop(0, `${this.#colours[side]}2a`);
    wash.addColorStop(1, `${this.#colours[side]}00`);
    return wash;
  }

  #drawPointed(panel, box, xOf) {
    const nearest = this.#samples.reduce((best, sample) => (
      best === null || Math.abs(xOf(sample.at) - this.#pointer_px) < Math.abs(xOf(best.at) - this.#pointer_px) ? sample : best), null);
    if (!nearest) return;
    const pen = this.#pen;
    const x = Math.min(xOf(nearest.at), box.width - 1);
    pen.strokeStyle = this.#colours.muted;
    pen.beginPath();
    pen.moveTo(x, box.top);
    pen.lineTo(x, box.top + box.height);
    pen.stroke();
    const text = ['a', 'b'].map((side) => `${side.toUpperCase()} ${panel.show(nearest[side][panel.field] ?? NaN)}`).join('   ');
    const wide = pen.measureText(text).width;
    pen.fillStyle = this.#colours.ink;
    pen.textAlign = 'left';
    pen.fillText(text, Math.min(Math.max(LEFT_PX + 84, x - wide / 2), box.width - wide - 84), box.top - 8);
  }
}

/** A monotone cubic through the points (Fritsch and Carlson): smooth, and never beyond the measured values. */
function traceSmoothly(pen, points) {
  const slopes = points.slice(1).map((point, i) => (point.y - points[i].y) / (point.x - points[i].x));
  const tangentAt = (i) => {
    if (i === 0) return slopes[0];
    if (i === points.length - 1) return slopes.at(-1);
    const [before, after] = [slopes[i - 1], slopes[i]];
    return before * after <= 0 ? 0 : 2 * before * after / (before + after);
  };
  pen.moveTo(points[0].x, points[0].y);
  for (let i = 0; i + 1 < points.length; i += 1) {
    const [from, to] = [points[i], points[i + 1]];
    const third = (to.x - from.x) / 3;
    pen.bezierCurveTo(from.x + third, from.y + third * tangentAt(i), to.x - third, to.y - third * tangentAt(i + 1), to.x, to.y);
  }
}

/** The next of 1, 2, 3, 4, 5, 6, 8, 10 × a power of ten: a calm scale with plain labels. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999) * power;
}
