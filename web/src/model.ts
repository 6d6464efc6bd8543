// What `fewstep.page.model` writes: the facts of a generator, and where its files are.

export type Combination = [string, number][];

export interface Ask {
  point: Combination;
  skip: number;
  out: number;
  in: number;
  level: number;
  end: number[];
}

export interface Step {
  asks: Ask[];
  result: Combination;
  noisy: boolean;
  memory: [Combination, Combination] | null;
}

export interface Scheme {
  start: number;
  noises: string[];
  times: number[];
  levels: (number | null)[];
  steps: Step[];
}

export interface Input {
  dtype: "float32" | "int64" | "bool";
  shape: number[];
}

export interface Maker {
  name: "student" | "teacher";
  method: string;
  sampler_steps: number[];
  default: number;
  file: string | null;
  units: string | null;
  why: string;
  inputs: Record<string, Input>;
  schemes: Record<string, Scheme>;
}

export interface Condition {
  name: string;
  dtype: Input["dtype"];
  shape: number[];
  value: (number | boolean)[];
  columns: string[];
  has_controls: boolean;
}

export interface Labels {
  count: number;
  names: string[];
  occurring: number[];
  any: boolean;
}

export interface Column {
  name: string;
  type: "float" | "int" | "bool" | "category";
  categories: string[];
}

export interface View {
  kind: "tiles" | "fields" | "series" | "numbers" | "plane" | "sets";
  grey: [number, number] | null;
  columns: Column[];
  axis: number | null; // along which a sample's channels are
  latents: boolean;
}

export interface Model {
  data: string;
  about: {
    method: string;
    network: string;
    weights: number;
    trained_steps: number;
    fingerprint: string;
  };
  shape: number[];
  view: View;
  labels: Labels | null;
  conditions: Condition[];
  makers: Maker[];
  check: { seed: number; n: number; steps: number; samples: string } | null;
  server: boolean;
}

/** The numbers of one sample. */
export const sizeOf = (shape: number[]) => shape.reduce((a, b) => a * b, 1);

/** How many elements a mask has, where all are along one of its axes; 0 for other masks. */
export function elementsOf({ name, dtype, shape }: Condition): number {
  const longer = shape.filter((n) => n > 1);
  return name === "mask" && dtype === "bool" && longer.length === 1 ? longer[0] : 0;
}

/** Whether each number of a sample is there, by a mask of its first axes; null: all are. */
export function presence(model: Model, values: Condition["value"] | undefined): boolean[] | null {
  const mask = model.conditions.find((one) => one.name === "mask" && one.dtype === "bool");
  if (!mask || !values || values.every(Boolean)) return null;
  const { shape } = model;
  return Array.from({ length: sizeOf(shape) }, (_, i) => {
    let [rest, at] = [i, 0];
    const index = shape.map((_, axis) => {
      const step = sizeOf(shape.slice(axis + 1));
      const place = Math.floor(rest / step);
      rest %= step;
      return place;
    });
    mask.shape.forEach((n, axis) => (at = at * n + (n > 1 ? index[axis] : 0)));
    return Boolean(values[at]);
  });
}

/** A file by its name: of this page itself, where it holds them, else beside it. */
export async function readFile(name: string): Promise<Uint8Array<ArrayBuffer>> {
  const inside = document.getElementById(`file:${name}`);
  if (inside) return fromBase64(inside.textContent ?? "");
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(await reason(answer, name));
  return new Uint8Array(await answer.arrayBuffer());
}

/** Why a request failed: the server's own line, where it has one. */
export async function reason(answer: Response, what: string): Promise<string> {
  const text = await answer.text();
  try {
    return JSON.parse(text).error;
  } catch {
    return `${what}: ${answer.status} ${answer.statusText}`;
  }
}

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  // Browsers since 2025 do it themselves, thirty times as quickly.
  const { fromBase64: own } = Uint8Array as { fromBase64?(text: string): Uint8Array<ArrayBuffer> };
  return own ? own.call(Uint8Array, text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

export async function readModel(): Promise<Model> {
  return JSON.parse(new TextDecoder().decode(await readFile("model.json")));
}

/** A gzip file's content; some hosts unpack such files themselves. */
export async function unpack(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
