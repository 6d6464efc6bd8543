// What of a sample is drawn, in which order: channels first, columns of a table as one number each.

import { Column, sizeOf, View } from "./model";

/** Samples [n, size] in the data's units as they are drawn: NaN where a mask has no element. */
export interface Samples {
  values: Float64Array;
  n: number;
}

/** The lowest and highest value of each variable. */
export type Range = [number, number][];

const MARGIN = 0.06;

/** How samples of a shape are laid out to be drawn: [channels, ...] or, of clouds, [..., columns]. */
export class Look {
  readonly shape: number[];
  readonly variables: number;
  readonly places: number; // values of each variable in a sample
  readonly isCloud: boolean; // whether a sample is one point of a picture, or several
  readonly hasTiles: boolean; // whether each sample has a place of its own
  private readonly from: Int32Array; // where each drawn number stands in a sample

  constructor(
    readonly view: View,
    private readonly own: number[],
  ) {
    const { kind, axis } = view;
    this.isCloud = ["numbers", "plane", "sets"].includes(kind);
    this.hasTiles = ["tiles", "fields", "sets"].includes(kind);
    const strides = own.map((_, i) => sizeOf(own.slice(i + 1)));
    let axes = own.map((_, i) => i);
    let first = 0;
    if (kind === "series" || kind === "fields") {
      axes = axes.filter((i) => i !== axis);
      for (; kind === "fields" && axes.length > 2; axes.shift()) {
        first += Math.floor(own[axes[0]] / 2) * strides[axes[0]]; // the middle of these
      }
      if (axis !== null) axes.unshift(axis);
    }
    const shape = axes.map((i) => own[i]);
    this.from = new Int32Array(sizeOf(shape));
    for (let i = 0; i < this.from.length; i++) {
      let [rest, at] = [i, first];
      for (let k = axes.length - 1; k >= 0; k--) {
        at += (rest % shape[k]) * strides[axes[k]];
        rest = Math.floor(rest / shape[k]);
      }
      this.from[i] = at;
    }
    if ((kind === "series" || kind === "fields") && axis === null) shape.unshift(1);
    if (kind === "numbers") shape[shape.length - 1] = view.columns.length;
    this.shape = shape;
    this.variables = this.isCloud ? shape[shape.length - 1] : shape[0];
    this.places = sizeOf(shape) / this.variables;
  }

  /** Samples as they are drawn. there: whether each number of a sample is; null: all are. */
  samples(values: Float64Array, n: number, there: boolean[] | null): Samples {
    const { from } = this;
    const size = sizeOf(this.own);
    const out = new Float64Array(n * from.length);
    for (let i = 0; i < out.length; i++) {
      const at = from[i % from.length];
      out[i] = there && !there[at] ? NaN : values[Math.floor(i / from.length) * size + at];
    }
    return { values: this.byColumn(out), n };
  }

  /** A category's numbers as its place among the categories, whole numbers rounded. */
  private byColumn(values: Float64Array): Float64Array {
    const { columns, kind } = this.view;
    if (kind !== "numbers" || columns.every((one) => one.type === "float")) return values;
    const widths = columns.map((one) => one.categories.length || 1);
    const width = widths.reduce((a, b) => a + b);
    const rows = values.length / width;
    const out = new Float64Array(rows * columns.length);
    for (let row = 0, at = 0; row < rows; row++) {
      columns.forEach((one, k) => {
        const part = values.subarray(at, at + widths[k]);
        out[row * columns.length + k] = asType(part, one);
        at += widths[k];
      });
    }
    return out;
  }

  /** The variable of a drawn number. */
  variableAt(i: number): number {
    return this.isCloud ? i % this.variables : Math.floor(i / this.places) % this.variables;
  }

  /** The range of each variable with a little room; of samples that are far out the middle 99 %. */
  range(all: Samples[]): Range {
    const { variables, view } = this;
    const ranges = Array.from({ length: variables }, (_, variable): [number, number] => {
      const count = view.columns[variable]?.categories.length;
      if (view.kind === "numbers" && count) return [-0.6, count - 0.4];
      const own = all.flatMap(({ values }) => [
        ...values.filter((x, i) => this.variableAt(i) === variable && Number.isFinite(x)),
      ]);
      const sorted = Float64Array.from(own).sort();
      if (!sorted.length) return [-1, 1];
      const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))];
      const [low, high] = [at(0.005), at(0.995)];
      const room = (high - low || Math.abs(high) || 1) * MARGIN;
      return [low - room, high + room];
    });
    if (view.kind !== "plane" && view.kind !== "sets") return ranges;
    // Coordinates of one plane have one scale.
    const half = Math.max(...ranges.map(([low, high]) => (high - low) / 2));
    return ranges.map(([low, high]) => [(low + high) / 2 - half, (low + high) / 2 + half]);
  }

  /** How many numbers lie outside of their range. */
  outside(all: Samples[], range: Range): number {
    const isOutside = (x: number, i: number) => {
      const [low, high] = range[this.variableAt(i)];
      return x < low || x > high;
    };
    return all.reduce((sum, { values }) => sum + values.filter(isOutside).length, 0);
  }
}

function asType(part: Float64Array, column: Column): number {
  if (part.some(Number.isNaN)) return NaN;
  if (column.type === "category") return part.indexOf(Math.max(...part));
  return column.type === "float" ? part[0] : Math.round(part[0]);
}
