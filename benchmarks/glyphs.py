"""ECT, then TCM, GC and MCM-4 on the emoji at equal time: pictures and distances, on a GPU.

`python benchmarks/glyphs.py --minutes 7 --out runs/glyphs`: each method gets as many iterations as
fit in that time by the pace of its own first steps; the number is printed, so that the run can be
repeated. TCM's first stage is ECT for half the time, and its second gets the other half.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fewstep as fs
from fewstep.analysis.metrics import evaluate
from fewstep.run.datasets import dataset_of

ECT = {"method": "ect"}


class Arm(NamedTuple):
    """A method with its options, and the numbers of steps that its samples take.

    first: the method that has the first half of the time, from whose weights this one starts;
    teaches: they are its teacher too.
    """

    method: str
    options: dict[str, Any]
    steps: tuple[int, ...] = (1, 2)
    first: str = ""
    teaches: bool = False


ARMS = {
    "ect": Arm("ect", {}),
    "tcm": Arm("tcm", {"base": ECT}, first="ect"),
    "gc": Arm("gc", {"base": ECT, "share": 0.3}),
    "mcm-4": Arm("mcm", {"K": 4}, steps=(4,)),
}


class Plan(NamedTuple):
    """What all arms share; probe: steps that the pace is measured on; n: samples of a score."""

    recipe: str
    seconds: float
    device: str
    out: Path
    probe: int
    n: int
    metrics: Sequence[str] | None  # None: the usual ones
    fields: dict[str, Any]  # in place of the recipe's

    def run(self, arm: Arm, iterations: int, **fields: Any) -> fs.Run:
        make = fs.recipes.RECIPES[self.recipe]
        own = {"method": arm.method, "method_options": arm.options, "iterations": iterations}
        return make(**own, **self.fields, **fields)


def pace(run: fs.Run, device: str, **arguments: Any) -> float:
    """Seconds of a step, without the first ones."""
    fs.train(run, device=device, progress=False, **arguments)
    start = time.perf_counter()
    fs.train(run, device=device, progress=False, **arguments)
    return (time.perf_counter() - start) / run.iterations


def fit_time(arm: Arm, seconds: float, plan: Plan, out: Path, **arguments: Any) -> fs.Generator:
    """The arm's generator after as many iterations as fit in that time, in the folder `out`."""
    probe = plan.run(arm, plan.probe, picture_every=0)
    iterations = max(int(seconds / pace(probe, plan.device, **arguments)), 2)
    return fs.train(plan.run(arm, iterations), out=out, device=plan.device, **arguments)


def train_arms(arms: dict[str, Arm], plan: Plan) -> dict[str, fs.Generator]:
    """A generator of each arm, in `out/NAME`; first halves are in `out/half-METHOD`."""
    generators = {}
    for name, arm in arms.items():
        seconds, arguments = plan.seconds, {}
        if arm.first:
            seconds, half = seconds / 2, plan.out / f"half-{arm.first}"
            fit_time(Arm(arm.first, {}), seconds, plan, half)
            arguments = {"init": half, **({"teacher": half} if arm.teaches else {})}
        generators[name] = fit_time(arm, seconds, plan, plan.out / name, **arguments)
    return generators


def score_arms(
    arms: dict[str, Arm], generators: dict[str, fs.Generator], plan: Plan
) -> list[dict[str, Any]]:
    """A row for each arm, metric and number of steps; also printed, and in `out/results.json`."""
    rows = []
    for name, generator in generators.items():
        dataset, iterations = dataset_of(generator.run.data), generator.run.iterations
        how = {"steps": arms[name].steps, "n": plan.n, "metrics": plan.metrics}
        for r in evaluate(generator, dataset, **how)[0]:
            row = {"arm": name, "iterations": iterations, "metric": r.metric, "steps": r.steps}
            rows.append(row | {"value": r.value, "interval": r.interval, "floor": r.floor})
            print(
                f"{name:<9} {iterations:>7} iterations  {r.metric:<18} {r.steps} steps "
                f" {r.value:.4f}"
            )
        (plan.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--recipe", default="glyphs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/glyphs"))
    parser.add_argument("--probe", type=int, default=50, help="steps that the pace is measured on")
    parser.add_argument("--n", type=int, default=2000, help="samples that are scored")
    args = parser.parse_args()
    about = (args.recipe, 60 * args.minutes, args.device, args.out, args.probe, args.n)
    plan = Plan(*about, metrics=None, fields={})
    score_arms(ARMS, train_arms(ARMS, plan), plan)
    print(f"pictures: {args.out}/*/samples/*.png, numbers: {args.out}/results.json")


if __name__ == "__main__":
    main()
