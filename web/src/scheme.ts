// The steps of a sampler around evaluations of a network, as fewstep.export.scheme writes them.

import { Ask, Combination, Maker, Model, presence, sizeOf } from "./model";
import { conditionInputs, floats, Network, tensor, Wish } from "./network";
import { normals } from "./random";

type Vectors = Record<string, Float32Array>;

/** The sum of factor * vector. */
function combine(combination: Combination, vectors: Vectors, size: number): Float32Array {
  const out = new Float32Array(size);
  for (const [name, factor] of combination) {
    const vector = vectors[name];
    for (let i = 0; i < size; i++) out[i] += factor * vector[i];
  }
  return out;
}

export interface Made {
  x: Float32Array; // [n, size] in the model's units
  path: { x: Float32Array; level: number | null }[]; // from noise on, before each move
  seconds: number; // of the networks and of all that is around them
}

/** A generator whose network is in this tab. */
export class TabMaker {
  constructor(
    readonly maker: Maker,
    readonly network: Network,
    readonly units: Network,
    readonly model: Model,
  ) {}

  /** Samples of the model's units in the data's, in float64. */
  async inUnits(x: Float32Array, n: number): Promise<Float64Array> {
    return Float64Array.from(await this.units.run({ x0: floats(x, this.model.shape, n) }));
  }

  /** Samples of these unit normals [n, size]; further noise is the seed's, from that row on. */
  async make(
    noise: Float32Array,
    n: number,
    steps: number,
    seed: number,
    wish: Wish,
    row = 0,
  ): Promise<Made> {
    const scheme = this.maker.schemes[String(steps)];
    const size = sizeOf(this.model.shape);
    const there = presence(this.model, wish.values.mask);
    const masked = (x: Float32Array) => (there ? x.map((value, i) => (there[i % size] ? value : 0)) : x);
    const fresh = scheme.noises.map((stream) =>
      masked(normals(seed, stream, row + n, size).subarray(row * size)),
    );
    const start = performance.now();
    let x: Float32Array = masked(noise.map((value) => scheme.start * value));
    const path: Made["path"] = [];
    const past: [Float32Array, Float32Array][] = [];
    let [draw, asked] = [0, 0];
    for (const step of scheme.steps) {
      path.push({ x, level: scheme.levels[asked] });
      const vectors: Vectors = { x };
      past.slice(-4).reverse().forEach(([point, answer], i) => {
        vectors[`past x ${i + 1}`] = point;
        vectors[`past answer ${i + 1}`] = answer;
      });
      if (step.noisy) vectors.noise = fresh[draw++];
      for (let place = 0; place < step.asks.length; place++, asked++) {
        vectors[`answer ${place}`] = masked(await this.answer(step.asks[place], vectors, n, wish));
      }
      x = combine(step.result, vectors, x.length);
      if (step.memory) {
        const [point, answer] = step.memory.map((one) => combine(one, vectors, x.length));
        past.push([point, answer]);
      }
    }
    return { x, path, seconds: (performance.now() - start) / 1e3 };
  }

  /** x0_hat = skip x + out F(in x, level, end, condition). */
  private async answer(
    ask: Ask,
    vectors: Vectors,
    n: number,
    wish: Wish,
  ): Promise<Float32Array> {
    const x = combine(ask.point, vectors, vectors.x.length);
    const level = new Float32Array(n).fill(ask.level);
    const inputs = {
      x: floats(x.map((value) => ask.in * value), this.model.shape, n),
      level: floats(level, [], n),
      ...conditionInputs(wish, this.model.conditions, n),
    };
    if (this.maker.inputs.end) {
      const ends = Array.from({ length: n }, () => ask.end).flat();
      Object.assign(inputs, { end: tensor(ends, this.maker.inputs.end, n) });
    }
    const raw = await this.network.run(inputs);
    return x.map((value, i) => ask.skip * value + ask.out * raw[i]);
  }
}
