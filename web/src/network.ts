// Networks by onnxruntime, in one thread of WebAssembly: it needs no special headers.

import * as ort from "onnxruntime-web";
import { Condition, Input, readFile, unpack } from "./model";

const NO_WEBASSEMBLY =
  "This browser does not run the network: it needs WebAssembly with SIMD, which old browsers lack,"
  + " and which a setting, an extension or the host's Content-Security-Policy may forbid.";

let prepared: Promise<void> | null = null;

/** Loads onnxruntime once. */
function prepare(): Promise<void> {
  prepared ??= (async () => {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = (await unpack(await readFile("ort.wasm.gz"))).buffer;
    ort.env.logLevel = "error";
  })();
  return prepared;
}

/** The network's file in onnxruntime: arrays of n rows in, n rows out. */
export class Network {
  private constructor(private session: ort.InferenceSession) {}

  static async load(name: string): Promise<Network> {
    const [content] = await Promise.all([readFile(name), prepare()]);
    const options = { executionProviders: ["wasm"] };
    const session = await ort.InferenceSession.create(content, options).catch((error: Error) => {
      const isOld = error.message.includes("no available backend"); // onnxruntime's own words
      throw isOld ? new Error(`${NO_WEBASSEMBLY} (${error.message})`) : error;
    });
    return new Network(session);
  }

  async run(inputs: Record<string, ort.Tensor>): Promise<Float32Array | Float64Array> {
    const results = await this.session.run(inputs);
    const [first] = Object.values(results);
    const values = first.data as Float32Array | Float64Array;
    for (const one of Object.values(inputs)) one.dispose();
    return values;
  }
}

/** A tensor of n rows of an input from plain numbers. */
export function tensor(values: ArrayLike<number | boolean>, input: Input, n: number): ort.Tensor {
  const shape = [n, ...input.shape];
  const numbers = Array.from(values, Number);
  if (input.dtype === "int64") {
    return new ort.Tensor("int64", BigInt64Array.from(numbers, (x) => BigInt(x)), shape);
  }
  if (input.dtype === "bool") return new ort.Tensor("bool", Uint8Array.from(numbers), shape);
  return new ort.Tensor("float32", Float32Array.from(numbers), shape);
}

export function floats(values: Float32Array, shape: number[], n: number): ort.Tensor {
  return new ort.Tensor("float32", values, [n, ...shape]);
}

/** What samples are conditioned on: a label each, and one row of every other part for all. */
export interface Wish {
  labels: number[] | null;
  values: Record<string, (number | boolean)[]>;
}

/** The inputs of a condition for n samples. */
export function conditionInputs(
  wish: Wish,
  conditions: Condition[],
  n: number,
): Record<string, ort.Tensor> {
  const result: Record<string, ort.Tensor> = {};
  if (wish.labels) result.label = tensor(wish.labels, { dtype: "int64", shape: [] }, n);
  for (const one of conditions) {
    const row = wish.values[one.name] ?? one.value;
    const rows = Array.from({ length: n }, () => row).flat();
    result[one.name] = tensor(rows, one, n);
  }
  return result;
}
