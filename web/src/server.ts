// Samples that the server makes, where a network is too large for a tab or has no file.

import { Model, reason } from "./model";
import { Wish } from "./network";

/** n samples in the data's units, by POST /v1/samples. */
export async function ask(
  model: Model,
  n: number,
  steps: number,
  seed: number,
  wish: Wish,
): Promise<{ values: Float64Array; seconds: number }> {
  const body: Record<string, unknown> = { n, steps, seed, format: "json" };
  const cond: Record<string, unknown> = {};
  for (const one of model.conditions) {
    cond[one.name] = nested(wish.values[one.name] ?? one.value, one.shape);
  }
  const names = Object.keys(cond);
  if (names.length && wish.labels) body.cond = { ...cond, label: wish.labels };
  else if (names.length === 1 && names[0] !== "mask") body.cond = cond[names[0]];
  else if (names.length) body.cond = cond;
  else if (wish.labels) body.label = wish.labels;
  const start = performance.now();
  const answer = await fetch("v1/samples", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  }).catch(() => {
    throw new Error("The server does not answer. Start “fewstep serve” again, then ask for new noise.");
  });
  if (!answer.ok) throw new Error(await reason(answer, "the server"));
  const values = (await answer.json()).samples.flat(Infinity) as number[];
  const seconds = (performance.now() - start) / 1e3;
  return { values: Float64Array.from(values), seconds };
}

/** Nested lists of that shape. */
function nested(values: unknown[], shape: number[]): unknown {
  if (!shape.length) return values[0];
  if (shape.length === 1) return values;
  const size = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) =>
    nested(values.slice(i * size, (i + 1) * size), shape.slice(1)),
  );
}
