"""Direct CM on digits-mixture: what a step costs and how far the student is from the teacher's ODE,
by source of pairs.

python benchmarks/direct_cm.py [ITERATIONS [SEED ...]]: arms in turn, CPU time of one thread. The
ODE error is the root mean square over 1000 samples of one-step samples against the exact solution
from the same noise and label.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fewstep as fs

LAW = "exact:digits-mixture"
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reuse 8": {"reuse": 8},
    "reuse 8, levels as they come": {"reuse": 8, "reweight": False},
    "cache of 5000": {"source": "cache"},
    "plain, batch 16": {},
    "plain, an eighth of the updates": {},
}


def run_of(name: str, iterations: int, seed: int) -> fs.Run:
    """The recipe with 32 levels of Heun's method, batch 128; two arms ask the teacher as often as
    reuse does.
    """
    iterations = iterations // 8 if name.endswith("updates") else iterations
    return fs.recipes.digits_mixture(
        method="direct_cm",
        method_options={"n": 32, "solver": "heun", **ARMS[name]},
        iterations=iterations,
        batch=16 if name.endswith("16") else 128,
        block=16 if name.endswith("16") else 32,
        seed=seed,
        picture_every=0,
        checkpoint_every=iterations,
    )


def measured(run: fs.Run, folder: Path) -> tuple[float, float, fs.Generator]:
    """Milliseconds of a step, evaluations of the batch per step, and the student."""
    begun = time.process_time()
    teacher = None if run.method_options.get("source") == "cache" else LAW
    student = fs.train(run, teacher=teacher, out=folder, device="cpu", progress=False)
    spent = time.process_time() - begun
    asked = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]).get(
        "teacher_evaluations", 0.0
    )
    return 1e3 * spent / run.iterations, asked / run.iterations, student


def main(iterations: int, seeds: list[int]) -> None:
    law, n = fs.exact.named("digits-mixture"), 1000
    cond = torch.arange(n) % 10
    z = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    end = law.solve(80 * z, 80.0, 0.0, cond)
    table: dict[str, list[tuple[float, ...]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            begun, cache = time.process_time(), Path(folder) / f"cache-{seed}.safetensors"
            fs.trajectories(
                run_of("plain", iterations, seed),
                5000,
                LAW,
                out=cache,
                progress=False,
                device="cpu",
            )
            print(
                f"seed {seed}: {time.process_time() - begun:.1f} s for the cache of 5000",
                file=sys.stderr,
            )
            for name in ARMS:
                run = run_of(name, iterations, seed)
                run = replace(run, data=str(cache)) if "source" in ARMS[name] else run
                cost, asked, student = measured(run, Path(folder) / f"{name}-{seed}")
                with torch.no_grad():
                    got = student.denoiser(80 * z, 80.0, cond)
                error = (got - end).square().mean().sqrt().item()
                table[name].append((cost, asked, error, (got.var() / end.var()).item()))
                print(f"{name}, seed {seed}: {table[name][-1]}", file=sys.stderr, flush=True)
    print(
        "| pairs | ms per step | evaluations per step | ODE error | variance / exact"
        " |\n|---|---|---|---|---|"
    )
    for name, found in table.items():
        columns = [
            ", ".join(f"{value:.3g}" for value in column) for column in zip(*found, strict=True)
        ]
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(numbers[0] if numbers else 700, numbers[1:] or [1, 2])
