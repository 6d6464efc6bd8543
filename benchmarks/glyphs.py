"""ECT, then TCM, GC and MCM-4 on the emoji at equal time: pictures and distances, on a GPU.

`python benchmarks/glyphs.py --minutes 7 --out runs/glyphs`: each method gets as many iterations as
fit in that time by the pace of its own first steps; the number is printed, so that the run can be
repeated. TCM's first stage is ECT for half the time, and its second gets the other half.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import fewstep as fs
from fewstep.analysis.metrics import evaluate
from fewstep.run.datasets import dataset_of

ECT = {"method": "ect"}
# Method, options, whether it is the second half of ECT.
ARMS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "ect": ("ect", {}, False),
    "tcm": ("tcm", {"base": ECT}, True),
    "gc": ("gc", {"base": ECT, "share": 0.3}, False),
    "mcm-4": ("mcm", {"K": 4}, False),
}


def run_of(recipe: str, arm: str, iterations: int, **fields: Any) -> fs.Run:
    method, options, _ = ARMS[arm]
    make = fs.recipes.RECIPES[recipe]
    return make(method=method, method_options=options, iterations=iterations, **fields)


def pace(run: fs.Run, device: str, **arguments: Any) -> float:
    """Seconds of a step, without the first ones."""
    fs.train(run, device=device, progress=False, **arguments)
    start = time.perf_counter()
    fs.train(run, device=device, progress=False, **arguments)
    return (time.perf_counter() - start) / run.iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--recipe", default="glyphs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/glyphs"))
    parser.add_argument("--probe", type=int, default=50, help="steps that the pace is measured on")
    parser.add_argument("--n", type=int, default=2000, help="samples that are scored")
    args = parser.parse_args()
    rows = []
    half = args.out / "half"
    for name, (_, _, continues) in ARMS.items():
        arguments = {"init": half} if continues else {}
        probe = run_of(args.recipe, name, args.probe, picture_every=0)
        fitting = 60 * args.minutes / pace(probe, args.device, **arguments)
        iterations = max(int(fitting / 2 if continues else fitting), 2)
        if name == "ect":
            fs.train(run_of(args.recipe, name, iterations // 2), out=half, device=args.device)
        run = run_of(args.recipe, name, iterations)
        generator = fs.train(run, out=args.out / name, device=args.device, **arguments)
        steps = (4,) if name == "mcm-4" else (1, 2)
        results, _ = evaluate(generator, dataset_of(run.data), steps=steps, n=args.n)
        for r in results:
            row = {"arm": name, "iterations": iterations, "metric": r.metric, "steps": r.steps}
            row |= {"value": r.value, "interval": r.interval, "floor": r.floor}
            rows.append(row)
            print(
                f"{name:<6} {iterations:>7} iterations  {r.metric:<18} {r.steps} steps "
                f" {r.value:.4f}"
            )
    (args.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"pictures: {args.out}/*/samples/*.png, numbers: {args.out}/results.json")


if __name__ == "__main__":
    main()
