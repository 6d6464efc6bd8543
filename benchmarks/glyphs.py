"""ECT, then TCM, GC and MCM-4 on the emoji at equal time: pictures and distances, for a machine
with a GPU.

`python benchmarks/glyphs.py --minutes 7 --out runs/glyphs`: each method gets as many iterations as
fit in that time by the pace of its own first steps, printed so that the run can be repeated by
count. TCM's first stage is ECT for half the time, and its second gets the other half; ECT, GC and
MCM have it all.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import fewstep as fs
from fewstep.analysis.metrics import evaluate
from fewstep.run.sources import dataset_of

ECT = {"method": "ect"}
ARMS: dict[
    str, tuple[str, dict[str, Any], bool]
] = {  # method, options, whether it is the second half of ECT
    "ect": ("ect", {}, False),
    "tcm": ("tcm", {"base": ECT}, True),
    "gc": ("gc", {"base": ECT, "share": 0.3}, False),
    "mcm-4": ("mcm", {"K": 4}, False),
}


def pace(
    recipe: str, method: str, options: dict[str, Any], device: str, steps: int, **given: Any
) -> float:
    """Seconds of a step, the first ones left out."""
    run = fs.recipes.RECIPES[recipe](
        method=method, method_options=options, iterations=steps, picture_every=0
    )
    fs.train(run, device=device, progress=False, **given)
    begun = time.perf_counter()
    fs.train(run, device=device, progress=False, **given)
    return (time.perf_counter() - begun) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--recipe", default="glyphs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/glyphs"))
    parser.add_argument("--probe", type=int, default=50, help="steps that the pace is measured on")
    parser.add_argument("--n", type=int, default=2000, help="samples that are scored")
    args, rows = parser.parse_args(), []
    half = args.out / "half"
    for name, (method, options, continues) in ARMS.items():
        given = {"init": half} if continues else {}
        second = pace(args.recipe, method, options, args.device, args.probe, **given)
        iterations = max(int(60 * args.minutes / second / (2 if continues else 1)), 2)
        if name == "ect":
            first = fs.recipes.RECIPES[args.recipe](
                method=method, method_options=options, iterations=iterations // 2
            )
            fs.train(first, out=half, device=args.device)
        run = fs.recipes.RECIPES[args.recipe](
            method=method, method_options=options, iterations=iterations
        )
        generator = fs.train(run, out=args.out / name, device=args.device, **given)
        steps = (4,) if name == "mcm-4" else (1, 2)
        results, _ = evaluate(generator, dataset_of(run.data), steps=steps, n=args.n)
        rows += [
            {
                "arm": name,
                "iterations": iterations,
                "metric": r.metric,
                "steps": r.steps,
                "value": r.value,
                "interval": r.interval,
                "floor": r.floor,
            }
            for r in results
        ]
        for row in rows[-len(results) :]:
            print(
                f"{name:<6} {iterations:>7} iterations  {row['metric']:<18} {row['steps']} steps "
                f" {row['value']:.4f}"
            )
    (args.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"pictures: {args.out}/*/samples/*.png, numbers: {args.out}/results.json")


if __name__ == "__main__":
    main()
