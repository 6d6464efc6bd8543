// Samples as pictures: tiles, heat maps, curves, points or a histogram, on a canvas.

import { sizeOf, View } from "./model";

export interface Samples {
  values: Float64Array; // [n, size] in the data's units
  n: number;
}

/** What a picture is drawn with beside the samples. */
export interface Frame {
  view: View;
  shape: number[];
  axes: [number, number]; // which variables are across and up, of samples with several
  range: Range;
  selected?: number;
}

/** The lowest and highest value of each variable. */
export type Range = [number, number][];

const INKS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b5578a", "#a06f00", "#2878b5"],
  dark: ["#56b4e9", "#ff9d5c", "#35c79b", "#e39bc6", "#f0c04a", "#9ecbff"],
};
const inks = () => INKS[document.documentElement.dataset.theme === "dark" ? "dark" : "light"];
const MARGIN = 0.06;

/** How many samples make a good picture. */
export const ENOUGH: Record<View["kind"], number> = {
  tiles: 16,
  fields: 9,
  series: 12,
  numbers: 400,
  plane: 400,
  sets: 6,
};

/** The number of variables of a sample, and the steps between places of one in memory. */
export function layout(view: View, shape: number[]): { variables: number; places: number } {
  if (isCloud(view)) {
    return { variables: shape[shape.length - 1], places: sizeOf(shape.slice(0, -1)) };
  }
  const channels = shape.length > 1 ? shape[0] : 1;
  return { variables: channels, places: sizeOf(shape) / channels };
}

/** The range of each variable, with a little room; of samples that are far out the middle 99 %. */
export function rangeOf(view: View, shape: number[], all: Samples[]): Range {
  const values = Float64Array.from(all.flatMap((one) => [...one.values]));
  const { variables } = layout(view, shape);
  const isLast = isCloud(view);
  const size = sizeOf(shape);
  return Array.from({ length: variables }, (_, variable) => {
    const own = values.filter((_, i) => {
      const place = i % size;
      return (isLast ? place % variables : Math.floor(place / (size / variables))) === variable;
    });
    const sorted = Float64Array.from(own.filter(Number.isFinite)).sort();
    if (!sorted.length) return [-1, 1];
    const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))];
    const [low, high] = [at(0.005), at(0.995)];
    const room = (high - low || Math.abs(high) || 1) * MARGIN;
    return [low - room, high + room];
  });
}

/** A picture's bytes [n, H, W, 4]: rounded as an image file has them. */
export function pixels(view: View, shape: number[], samples: Samples): Uint8ClampedArray {
  const [channels, height, width] = shape;
  const [black, white] = view.grey ?? [0, 1];
  const area = height * width;
  const out = new Uint8ClampedArray(samples.n * area * 4);
  for (let i = 0; i < samples.n; i++) {
    for (let at = 0; at < area; at++) {
      for (let colour = 0; colour < 3; colour++) {
        const channel = Math.min(colour, channels - 1);
        const value = samples.values[(i * channels + channel) * area + at];
        out[(i * area + at) * 4 + colour] = ((value - black) / (white - black)) * 255;
      }
      out[(i * area + at) * 4 + 3] = 255;
    }
  }
  return out;
}

/** Draws the samples on a canvas as wide as its place; clouds of points with others behind. */
export function draw(
  canvas: HTMLCanvasElement,
  samples: Samples,
  frame: Frame,
  behind: Samples | null = null,
): void {
  const width = canvas.clientWidth || 240;
  const density = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = canvas.height = Math.round(width * density);
  const context = canvas.getContext("2d")!;
  context.scale(density, density);
  context.clearRect(0, 0, width, width);
  const { kind } = frame.view;
  if (kind === "tiles" || kind === "fields") tiles(context, width, samples, frame);
  else if (kind === "series") curves(context, width, samples, frame);
  else points(context, width, samples, frame, behind);
}

/** Whether a sample is one point of a picture, or several. */
export const isCloud = (view: View) => ["numbers", "plane", "sets"].includes(view.kind);

/** Which sample stands at a place of the canvas, in shares of its side; -1: none. */
export function sampleAt(frame: Frame, n: number, across: number, down: number): number {
  if (frame.view.kind !== "tiles" && frame.view.kind !== "fields") return -1;
  const side = Math.ceil(Math.sqrt(n));
  const number = Math.floor(down * side) * side + Math.floor(across * side);
  return number < n ? number : -1;
}

function tiles(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
): void {
  const [height, across] = frame.shape.slice(-2);
  const side = Math.ceil(Math.sqrt(samples.n));
  const cell = width / side;
  const gap = samples.n > 1 ? Math.max(1, cell * 0.04) : 0;
  const bytes =
    frame.view.kind === "tiles"
      ? pixels(frame.view, frame.shape, samples)
      : heat(samples, frame, height * across);
  const one = new OffscreenCanvas(across, height);
  const inside = one.getContext("2d")!;
  context.imageSmoothingEnabled = false;
  const longest = Math.max(height, across);
  for (let i = 0; i < samples.n; i++) {
    const area = height * across * 4;
    const part = new Uint8ClampedArray(bytes.subarray(i * area, (i + 1) * area));
    inside.putImageData(new ImageData(part, across, height), 0, 0);
    const [left, top] = [(i % side) * cell + gap / 2, Math.floor(i / side) * cell + gap / 2];
    const scale = (cell - gap) / longest;
    context.drawImage(one, left, top, across * scale, height * scale);
    if (i === frame.selected && samples.n > 1) {
      context.strokeStyle = colour("--accent");
      context.lineWidth = 3;
      context.strokeRect(left + 1, top + 1, cell - gap - 2, cell - gap - 2);
    }
  }
}

/** The chosen variable of fields, from dark blue by green to yellow. */
function heat(samples: Samples, frame: Frame, area: number): Uint8ClampedArray {
  const size = sizeOf(frame.shape);
  const variable = frame.axes[0];
  const [low, high] = frame.range[variable] ?? [-1, 1];
  // Of fields with more axes it is the middle of these.
  const inner = size / layout(frame.view, frame.shape).variables;
  const first = variable * inner + Math.floor(inner / area / 2) * area;
  const out = new Uint8ClampedArray(samples.n * area * 4);
  for (let i = 0; i < samples.n; i++) {
    for (let at = 0; at < area; at++) {
      const share = (samples.values[i * size + first + at] - low) / (high - low);
      out.set(ramp(Math.min(Math.max(share, 0), 1)), (i * area + at) * 4);
    }
  }
  return out;
}

const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function ramp(share: number): number[] {
  const place = share * (RAMP.length - 1);
  const left = Math.min(Math.floor(place), RAMP.length - 2);
  const mixed = RAMP[left].map((c, i) => c + (place - left) * (RAMP[left + 1][i] - c));
  return [...mixed, 255];
}

function curves(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
): void {
  const size = sizeOf(frame.shape);
  const { variables, places } = layout(frame.view, frame.shape);
  const box = axes(context, width, [[0, places - 1], whole(frame.range)]);
  for (let i = 0; i < samples.n; i++) {
    for (let variable = 0; variable < variables; variable++) {
      context.strokeStyle = inks()[(variables > 1 ? variable : i) % inks().length];
      context.globalAlpha = samples.n > 1 ? 0.75 : 1;
      context.lineWidth = 1.4;
      context.beginPath();
      for (let at = 0; at < places; at++) {
        const value = samples.values[i * size + variable * places + at];
        context.lineTo(...box(at, value));
      }
      context.stroke();
    }
  }
  context.globalAlpha = 1;
}

function points(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
  behind: Samples | null,
): void {
  const { variables } = layout(frame.view, frame.shape);
  if (variables === 1) return histogram(context, width, behind ?? samples, frame, behind && samples);
  const [across, up] = frame.axes;
  const box = axes(context, width, [frame.range[across], frame.range[up]]);
  if (behind && frame.view.kind !== "sets") cloud(context, box, behind, frame, colour("--line"));
  cloud(context, box, samples, frame, behind ? colour("--accent") : null);
}

function cloud(
  context: CanvasRenderingContext2D,
  box: (x: number, y: number) => [number, number],
  samples: Samples,
  frame: Frame,
  ink: string | null,
): void {
  const { variables, places } = layout(frame.view, frame.shape);
  const [across, up] = frame.axes;
  const radius = samples.n * places > 100 ? 1.6 : samples.n * places > 1 ? 3 : 6;
  for (let i = 0; i < samples.n; i++) {
    context.fillStyle = ink ?? inks()[frame.view.kind === "sets" ? i % inks().length : 0];
    context.globalAlpha = samples.n > 50 ? 0.6 : 1;
    for (let place = 0; place < places; place++) {
      const first = (i * places + place) * variables;
      const [left, top] = box(samples.values[first + across], samples.values[first + up]);
      context.beginPath();
      context.arc(left, top, radius, 0, 7);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}

function histogram(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
  one: Samples | null,
): void {
  const bins = new Array(30).fill(0);
  const [low, high] = frame.range[0];
  for (const value of samples.values) {
    const place = Math.floor(((value - low) / (high - low)) * bins.length);
    if (place >= 0 && place < bins.length) bins[place]++;
  }
  const most = Math.max(...bins, 1);
  const box = axes(context, width, [[low, high], [0, most * 1.05]]);
  context.fillStyle = inks()[0];
  bins.forEach((count, i) => {
    const step = (high - low) / bins.length;
    const [left, top] = box(low + i * step, count);
    const [right, bottom] = box(low + (i + 1) * step, 0);
    context.fillRect(left, top, right - left - 1, bottom - top);
  });
  if (one) {
    context.fillStyle = colour("--accent");
    const [left, top] = box(one.values[0], most * 1.05);
    context.fillRect(left - 1.5, top, 3, box(low, 0)[1] - top);
  }
}

const whole = (range: Range): [number, number] => [
  Math.min(...range.map(([low]) => low)),
  Math.max(...range.map(([, high]) => high)),
];

/** Draws axes with the ends of both ranges; the function gives the place of a pair of values. */
function axes(
  context: CanvasRenderingContext2D,
  width: number,
  ranges: [[number, number], [number, number]],
): (x: number, y: number) => [number, number] {
  const [left, bottom, top] = [38, 20, 8];
  const [[x0, x1], [y0, y1]] = ranges;
  const [inner, tall] = [width - left - 8, width - bottom - top];
  context.strokeStyle = context.fillStyle = colour("--quiet");
  context.lineWidth = 1;
  context.strokeRect(left, top, inner, tall);
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "top";
  context.fillText(short(y1), left - 4, top);
  context.fillText(short(x1), left + inner, width - bottom + 4);
  context.textBaseline = "bottom";
  context.fillText(short(y0), left - 4, top + tall);
  context.textAlign = "left";
  context.textBaseline = "top";
  context.fillText(short(x0), left, width - bottom + 4);
  context.beginPath();
  context.rect(left, top, inner, tall);
  context.clip();
  return (x, y) => [
    left + ((x - x0) / (x1 - x0)) * inner,
    top + tall - ((y - y0) / (y1 - y0)) * tall,
  ];
}

const short = (x: number) => String(Number(x.toPrecision(2)));

const colour = (name: string) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();
