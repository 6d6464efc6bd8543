// Samples as pictures: tiles, heat maps, curves, points or a histogram, on a canvas.

import { Look, Range, Samples } from "./look";
import { Column, View } from "./model";

/** What a picture is drawn with beside the samples. */
export interface Frame {
  look: Look;
  axes: [number, number]; // which variables are across and up, of samples with several
  range: Range;
  selected: number; // the sample that is marked; -1: none
  tallest: number; // samples in the highest bar of histograms that stand side by side; 0: its own
}

type Box = (x: number, y: number) => [number, number];
type Area = [left: number, top: number, width: number, height: number];

const INKS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b5578a", "#a06f00", "#2878b5"],
  dark: ["#56b4e9", "#ff9d5c", "#35c79b", "#e39bc6", "#f0c04a", "#9ecbff"],
};
const inks = () => INKS[document.documentElement.dataset.theme === "dark" ? "dark" : "light"];
const BINS = 30;
const SMALL = 150; // pixels of a picture that has no room for words
const NEAR = 16; // pixels from a point that is clicked

/** Channels of a series that are drawn, each in a panel. */
export const PANELS = 6;

/** How many samples make a good picture. */
export const ENOUGH: Record<View["kind"], number> = {
  tiles: 16,
  fields: 9,
  series: 12,
  numbers: 400,
  plane: 400,
  sets: 9,
};

/** A picture's bytes [n, H, W, 4]: rounded as an image file has them. */
export function pixels(look: Look, samples: Samples): Uint8ClampedArray {
  const [channels, height, width] = look.shape;
  const [black, white] = look.view.grey ?? [0, 1];
  const area = height * width;
  const out = new Uint8ClampedArray(samples.n * area * 4);
  for (let i = 0; i < samples.n; i++) {
    for (let at = 0; at < area; at++) {
      const to = (i * area + at) * 4;
      for (let colour = 0; colour < 3; colour++) {
        const channel = Math.min(colour, channels - 1);
        const value = samples.values[(i * channels + channel) * area + at];
        out[to + colour] = ((value - black) / (white - black)) * 255;
        out[to + 3] = Number.isNaN(value) ? 0 : 255;
      }
    }
  }
  return out;
}

/** The chosen variable of fields, from dark blue by green to yellow. */
function heat(samples: Samples, { look, axes, range }: Frame): Uint8ClampedArray {
  const [low, high] = range[axes[0]];
  const area = look.places;
  const out = new Uint8ClampedArray(samples.n * area * 4);
  for (let i = 0; i < samples.n; i++) {
    for (let at = 0; at < area; at++) {
      const value = samples.values[(i * look.variables + axes[0]) * area + at];
      if (Number.isNaN(value)) continue;
      const share = (value - low) / (high - low);
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

/** Height by width of a sample's own place. */
function shapeOfTile({ view, shape }: Look): number {
  return view.kind === "sets" ? 1 : shape[shape.length - 2] / shape[shape.length - 1];
}

/** Columns and rows of n tiles, so that the picture of all is about as high as wide. */
function grid(look: Look, n: number): [number, number] {
  const ideal = Math.sqrt(n * shapeOfTile(look));
  const off = (count: number) => Math.abs(Math.log(count / ideal));
  const counts = Array.from({ length: n }, (_, i) => n - i).filter((count) => n % count === 0);
  const columns = counts.reduce((best, count) => (off(count) < off(best) - 1e-9 ? count : best));
  return [columns, n / columns];
}

/** Height by width of a picture of n samples. */
export function aspect(look: Look, n: number): number {
  if (look.hasTiles) {
    const [columns, rows] = grid(look, n);
    return (rows * shapeOfTile(look)) / columns;
  }
  const panels = Math.min(look.variables, PANELS);
  return look.view.kind === "series" ? [0.75, 1, 1.2, 1.5, 1.8, 2.1][panels - 1] : 1;
}

/** Draws the samples on a canvas as wide as its place; clouds of points with others behind. */
export function draw(
  canvas: HTMLCanvasElement,
  samples: Samples,
  frame: Frame,
  behind: Samples | null = null,
): void {
  const ratio = aspect(frame.look, samples.n);
  canvas.style.aspectRatio = String(1 / ratio);
  const width = canvas.clientWidth || 240;
  const height = width * ratio;
  const density = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d")!;
  context.scale(density, density);
  const { kind } = frame.look.view;
  if (kind === "tiles" || kind === "fields") tiles(context, width, samples, frame);
  else if (kind === "sets") sets(context, width, samples, frame);
  else if (kind === "series") curves(context, width, height, samples, frame);
  else points(context, width, samples, frame, behind);
}

/** Which sample stands at a place of the canvas, in pixels; -1: none. */
export function sampleAt(
  canvas: HTMLCanvasElement,
  frame: Frame,
  samples: Samples,
  across: number,
  down: number,
): number {
  const { look } = frame;
  const width = canvas.clientWidth;
  if (look.hasTiles) {
    const [columns] = grid(look, samples.n);
    const cell = width / columns;
    const row = Math.floor(down / (cell * shapeOfTile(look)));
    const number = row * columns + Math.min(Math.floor(across / cell), columns - 1);
    return number >= 0 && number < samples.n ? number : -1;
  }
  if (!look.isCloud || look.places > 1 || isHistogram(frame)) return -1;
  const place = placesOf(document.createElement("canvas").getContext("2d")!, width, frame);
  let [best, least] = [-1, NEAR];
  for (let i = 0; i < samples.n; i++) {
    const [left, top] = place(samples, i);
    const distance = Math.hypot(left - across, top - down);
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

/** Whether a click on a picture can choose a sample. */
export const isClickable = (frame: Frame) =>
  frame.look.hasTiles || (frame.look.isCloud && frame.look.places === 1 && !isHistogram(frame));

function tiles(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
): void {
  const [height, across] = frame.look.shape.slice(-2);
  const bytes = frame.look.view.kind === "tiles" ? pixels(frame.look, samples) : heat(samples, frame);
  const one = new OffscreenCanvas(across, height);
  const inside = one.getContext("2d")!;
  context.imageSmoothingEnabled = false;
  inCells(context, width, samples.n, frame, (i, [left, top, wide, tall]) => {
    const area = height * across * 4;
    const part = new Uint8ClampedArray(bytes.subarray(i * area, (i + 1) * area));
    inside.putImageData(new ImageData(part, across, height), 0, 0);
    context.drawImage(one, left, top, wide, tall);
  });
}

/** Draws each sample in its own place, and a frame around the one that is marked. */
function inCells(
  context: CanvasRenderingContext2D,
  width: number,
  n: number,
  frame: Frame,
  one: (i: number, area: Area) => void,
): void {
  const [columns] = grid(frame.look, n);
  const wide = width / columns;
  const tall = wide * shapeOfTile(frame.look);
  const gap = n > 1 ? Math.max(1, Math.min(wide, tall) * 0.04) : 0;
  for (let i = 0; i < n; i++) {
    const [left, top] = [(i % columns) * wide + gap / 2, Math.floor(i / columns) * tall + gap / 2];
    one(i, [left, top, wide - gap, tall - gap]);
    if (i === frame.selected && n > 1) {
      context.strokeStyle = colour("--accent");
      context.lineWidth = 3;
      context.strokeRect(left + 1, top + 1, wide - gap - 2, tall - gap - 2);
    }
  }
}

function sets(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
): void {
  const { variables, places } = frame.look;
  const [across, up] = frame.axes;
  const ranges = [frame.range[across], frame.range[up]] as const;
  const isOne = samples.n === 1;
  inCells(context, width, samples.n, frame, (i, area) => {
    const box = isOne ? axes(context, width, width, ranges) : plainBox(context, area, ranges);
    context.fillStyle = isOne ? colour("--accent") : inks()[0];
    for (let place = 0; place < places; place++) {
      const at = (i * places + place) * variables;
      dot(context, box(samples.values[at + across], samples.values[at + up]), isOne ? 3 : 1.8);
    }
    context.restore();
  });
}

/** A dot; none for a point that is not there. */
function dot(context: CanvasRenderingContext2D, [left, top]: [number, number], size: number): void {
  if (Number.isNaN(left + top)) return;
  context.beginPath();
  context.arc(left, top, size, 0, 7);
  context.fill();
}

/** A panel for each channel, with a line for each sample: a sample has one colour in all. */
function curves(
  context: CanvasRenderingContext2D,
  width: number,
  height: number,
  samples: Samples,
  frame: Frame,
): void {
  const { variables, places, view } = frame.look;
  const panels = Math.min(variables, PANELS);
  const tall = height / panels;
  const order = [...Array(samples.n).keys()].filter((i) => i !== frame.selected);
  if (frame.selected >= 0 && frame.selected < samples.n) order.push(frame.selected); // on top
  for (let panel = 0; panel < panels; panel++) {
    context.save();
    context.translate(0, panel * tall);
    const name = variables > 1 ? view.columns[panel]?.name : "";
    const box = axes(context, width, tall, [[0, places - 1], frame.range[panel]], ["", name]);
    for (const i of order) {
      const isChosen = samples.n > 1 && i === frame.selected;
      context.strokeStyle = isChosen ? colour("--accent") : inks()[samples.n > 1 ? 0 : panel];
      context.globalAlpha = samples.n > 1 && !isChosen ? 0.5 : 1;
      context.lineWidth = isChosen ? 2.2 : 1.4;
      context.beginPath();
      let isDown = false; // a value that is not there breaks the line
      for (let at = 0; at < places; at++) {
        const value = samples.values[(i * variables + panel) * places + at];
        if (Number.isNaN(value)) isDown = false;
        else if (isDown) context.lineTo(...box(at, value));
        else context.moveTo(...box(at, value));
        isDown = !Number.isNaN(value);
      }
      context.stroke();
    }
    context.restore(); // the panel's clip
    context.restore();
  }
}

const isHistogram = (frame: Frame) =>
  frame.look.variables === 1 || frame.axes[0] === frame.axes[1];

function points(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
  behind: Samples | null,
): void {
  if (isHistogram(frame)) return histogram(context, width, behind ?? samples, frame, behind && samples);
  const place = placesOf(context, width, frame);
  if (behind) cloud(context, place, behind, frame.look, colour("--line"));
  const ink = colour("--accent");
  cloud(context, place, samples, frame.look, behind ? ink : inks()[0]);
  if (!behind && frame.selected >= 0 && frame.look.places === 1) {
    context.fillStyle = ink;
    dot(context, place(samples, frame.selected), 4.5);
  }
  context.restore();
}

/** Draws the axes of a cloud; the function gives the place of one of its points. */
function placesOf(
  context: CanvasRenderingContext2D,
  width: number,
  frame: Frame,
): (samples: Samples, i: number) => [number, number] {
  const { look, range } = frame;
  const columns = frame.axes.map((i) => look.view.columns[i]);
  const names = look.view.kind === "numbers" ? columns.map((one) => one?.name ?? "") : [];
  const ranges = frame.axes.map((i) => range[i]) as [Range[0], Range[0]];
  const box = axes(context, width, width, ranges, names, columns);
  // Points of one category are spread, else they would be one dot.
  const spread = columns.map((one, k) => (one?.categories.length ? [0.618034, 0.754878][k] : 0));
  return (samples, i) => {
    const [x, y] = frame.axes.map((variable, k) => {
      const value = samples.values[i * look.variables + variable];
      return spread[k] ? value + 0.6 * (((i * spread[k]) % 1) - 0.5) : value;
    });
    return box(x, y);
  };
}

function cloud(
  context: CanvasRenderingContext2D,
  place: (samples: Samples, i: number) => [number, number],
  samples: Samples,
  look: Look,
  ink: string,
): void {
  const count = samples.n * look.places;
  context.fillStyle = ink;
  context.globalAlpha = count > 50 ? 0.6 : 1;
  for (let i = 0; i < count; i++) {
    dot(context, place(samples, i), count > 100 ? 1.6 : count > 1 ? 3 : 6);
  }
  context.globalAlpha = 1;
}

/** How many samples each bar of a histogram has. */
export function bars(samples: Samples, { look, range, axes }: Frame): number[] {
  const variable = axes[0];
  const counts = new Array<number>(look.view.columns[variable]?.categories.length || BINS).fill(0);
  const [low, high] = range[variable];
  for (let i = variable; i < samples.values.length; i += look.variables) {
    const place = Math.floor(((samples.values[i] - low) / (high - low)) * counts.length);
    if (place >= 0 && place < counts.length) counts[place]++;
  }
  return counts;
}

function histogram(
  context: CanvasRenderingContext2D,
  width: number,
  samples: Samples,
  frame: Frame,
  one: Samples | null,
): void {
  const variable = frame.axes[0];
  const counts = bars(samples, frame);
  const [low, high] = frame.range[variable];
  const top = Math.max(frame.tallest, ...counts, 1) * 1.05;
  const { columns, kind } = frame.look.view;
  const name = kind === "numbers" && frame.look.variables > 1 ? columns[variable].name : "";
  const box = axes(context, width, width, [[low, high], [0, top]], [name, "samples"], [columns[variable]]);
  context.fillStyle = inks()[0];
  const step = (high - low) / counts.length;
  counts.forEach((count, i) => {
    const [left, height] = box(low + i * step, count);
    const [right, bottom] = box(low + (i + 1) * step, 0);
    context.fillRect(left, height, Math.max(right - left - 1, 1), bottom - height);
  });
  if (one) {
    context.fillStyle = colour("--accent");
    const [left, height] = box(one.values[variable], top);
    context.fillRect(left - 1.5, height, 3, box(low, 0)[1] - height);
  }
  context.restore();
}

/** A frame without words, and the place in it of a pair of values; `restore` ends its clip. */
function plainBox(
  context: CanvasRenderingContext2D,
  [left, top, wide, tall]: Area,
  [[x0, x1], [y0, y1]]: readonly [Range[0], Range[0]],
): Box {
  context.strokeStyle = colour("--line");
  context.lineWidth = 1;
  context.strokeRect(left, top, wide, tall);
  context.save();
  context.beginPath();
  context.rect(left, top, wide, tall);
  context.clip();
  return (x, y) => [
    left + ((x - x0) / (x1 - x0)) * wide,
    top + tall - ((y - y0) / (y1 - y0)) * tall,
  ];
}

/** Axes with the ends of both ranges, or categories, and names; as `plainBox`. */
function axes(
  context: CanvasRenderingContext2D,
  width: number,
  height: number,
  ranges: readonly [Range[0], Range[0]],
  names: string[] = [],
  columns: (Column | undefined)[] = [],
): Box {
  if (width < SMALL) return plainBox(context, [1, 1, width - 2, height - 2], ranges);
  context.font = "11px system-ui, sans-serif";
  const [across, up] = ranges.map((range, k) => marks(range, columns[k]));
  const wide = Math.max(...up.map(([, text]) => context.measureText(text).width));
  const name = names[1] && !columns[1]?.categories.length ? names[1] : "";
  const left = Math.max(wide + 6, 36); // panels one below the other mostly have one margin
  const [bottom, top, right] = [20, 6, 8];
  const [inner, tall] = [width - left - right, height - bottom - top];
  context.fillStyle = colour("--quiet");
  const ends = (list: [number, string][], i: number, [first, middle, last]: string[]) =>
    i === 0 ? first : i === list.length - 1 ? last : middle;
  context.textBaseline = "top";
  across.forEach(([share, text], i) => {
    context.textAlign = ends(across, i, ["left", "center", "right"]) as CanvasTextAlign;
    if (columns[0]?.categories.length) context.textAlign = "center";
    context.fillText(text, left + share * inner, height - bottom + 4);
  });
  context.textAlign = "right";
  up.forEach(([share, text], i) => {
    context.textBaseline = ends(up, i, ["bottom", "middle", "top"]) as CanvasTextBaseline;
    if (columns[1]?.categories.length) context.textBaseline = "middle";
    context.fillText(text, left - 4, top + (1 - share) * tall);
  });
  context.textAlign = "center";
  context.textBaseline = "top";
  if (names[0] && !columns[0]?.categories.length) {
    context.fillText(names[0], left + inner / 2, height - bottom + 4, inner * 0.6);
  }
  if (context.measureText(name).width < tall - 20) {
    context.save();
    context.translate(left - 15, top + tall / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(name, 0, 0);
    context.restore();
  }
  return plainBox(context, [left, top, inner, tall], ranges);
}

/** Where on an axis, in shares of it, something is written: its ends, or each category. */
function marks([low, high]: Range[0], column?: Column): [number, string][] {
  const names = column?.categories ?? [];
  if (!names.length) {
    const [first, last] = twoEnds(low, high);
    return [[0, first], [1, last]];
  }
  const every = Math.ceil(names.length / 6);
  return names
    .map((name, i): [number, string] => [(i - low) / (high - low), shortened(name)])
    .filter((_, i) => i % every === 0);
}

const shortened = (name: string) => (name.length > 9 ? `${name.slice(0, 8)}…` : name);

/** Both ends of a range with as many digits as tell them apart. */
export function twoEnds(low: number, high: number): [string, string] {
  const most = Math.max(Math.abs(low), Math.abs(high));
  const digits = Math.min(Math.max(Math.ceil(Math.log10(most / (high - low))) + 1, 2), 12);
  const text = (x: number) => {
    const rounded = Number(x.toPrecision(digits));
    const isPlain = rounded === 0 || (Math.abs(rounded) >= 1e-3 && Math.abs(rounded) < 1e5);
    return isPlain ? String(rounded) : rounded.toExponential().replace("e+", "e");
  };
  return [text(low), text(high)];
}

const colour = (name: string) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();
