"""Direct CM on digits-mixture: the cost of a step, and the student's distance from the ODE.

By source of pairs. `python benchmarks/direct_cm.py [ITERATIONS [SEED ...]]`: the arms in turn, CPU
time of one thread. The ODE error is the root mean square over 1000 one-step samples against the
exact solution from the same noise and label.
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
    """The recipe with 32 levels of Heun's method and batch 128.

    Two arms use the teacher as often as reuse does: by a smaller batch, or by fewer updates.
    """
    few = name.endswith("16")
    iterations = iterations // 8 if name.endswith("updates") else iterations
    return fs.recipes.digits_mixture(
        method="direct_cm",
        method_options={"n": 32, "solver": "heun", **ARMS[name]},
        iterations=iterations,
        batch=16 if few else 128,
        block=16 if few else 32,
        seed=seed,
        picture_every=0,
        checkpoint_every=iterations,
    )


def measure(run: fs.Run, folder: Path) -> tuple[float, float, fs.Generator]:
    """Milliseconds of a step, evaluations of the batch per step, and the student."""
    start = time.process_time()
    teacher = None if run.method_options.get("source") == "cache" else LAW
    student = fs.train(run, teacher=teacher, out=folder, device="cpu", progress=False)
    seconds = time.process_time() - start
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    evaluations = last.get("teacher_evaluations", 0.0)
    return 1e3 * seconds / run.iterations, evaluations / run.iterations, student


def main(iterations: int, seeds: list[int]) -> None:
    n = 1000
    cond = torch.arange(n) % 10
    z = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    end = fs.exact.named("digits-mixture").solve(80 * z, 80.0, 0.0, cond)
    table: dict[str, list[tuple[float, ...]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            start = time.process_time()
            cache = Path(folder) / f"cache-{seed}.safetensors"
            run = run_of("plain", iterations, seed)
            fs.trajectories(run, 5000, LAW, out=cache, progress=False, device="cpu")
            seconds = time.process_time() - start
            print(f"seed {seed}: {seconds:.1f} s for the cache of 5000", file=sys.stderr)
            for name in ARMS:
                run = run_of(name, iterations, seed)
                if "source" in ARMS[name]:
                    run = replace(run, data=str(cache))
                cost, evaluations, student = measure(run, Path(folder) / f"{name}-{seed}")
                with torch.no_grad():
                    samples = student.denoiser(80 * z, 80.0, cond)
                error = (samples - end).square().mean().sqrt().item()
                spread = (samples.var() / end.var()).item()
                table[name].append((cost, evaluations, error, spread))
                print(f"{name}, seed {seed}: {table[name][-1]}", file=sys.stderr, flush=True)
    print("| pairs | ms per step | evaluations per step | ODE error | variance / exact |")
    print("|---|---|---|---|---|")
    for name, rows in table.items():
        columns = [
            ", ".join(f"{value:.3g}" for value in column) for column in zip(*rows, strict=True)
        ]
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(numbers[0] if numbers else 700, numbers[1:] or [1, 2])
