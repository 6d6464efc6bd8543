"""What a method's step costs more than its base's: TCM's second stage, GC at share 1/2, MeanFlow.

Steps of the two are taken in turn, in one run, on the digits with the recipe's network; the ratio
is the median of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import fewstep as fs
from fewstep.run.build import build_method, with_defaults
from fewstep.run.facts import facts_of
from fewstep.run.prepare import Prepared
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from fewstep.training.state import new_state
from fewstep.training.step import train_step

ECT = {"method": "ect", "p_mean": -0.4, "p_std": 1.8, "stages": 5}
ICT = {"method": "ict", "s1": 160}
PAIRS: tuple[tuple[str, str, dict[str, Any], str, dict[str, Any], float], ...] = (
    ("digits", "tcm", {"base": ECT}, "ect", ECT, 1.05),
    ("digits", "gc", {"base": ICT, "share": 0.5}, "ict", ICT, 1.15),
    ("digits", "gc", {"base": ECT, "share": 0.5}, "ect", ECT, 1.15),
    ("digits-unet", "tcm", {"base": ECT}, "ect", ECT, 1.05),
    ("digits-dit", "tcm", {"base": ECT}, "ect", ECT, 1.05),
    ("digits-unet", "gc", {"base": ECT, "share": 0.5}, "ect", ECT, 1.15),
    # Three of four rows are flow matching; public trainers take 5 / 3 = 1.67.
    ("digits", "meanflow", {}, "meanflow", {"diagonal": 1.0}, 1.25),
    ("digits-unet", "meanflow", {}, "meanflow", {"diagonal": 1.0}, 1.25),
    ("digits-dit", "meanflow", {}, "meanflow", {"diagonal": 1.0}, 1.25),
)


def stepper(recipe: str, method: str, options: dict[str, Any], steps: int) -> Callable[[], float]:
    """A function that takes one step, late in a run, and returns its seconds."""
    options = {name: value for name, value in options.items() if name != "method"}
    make = fs.recipes.RECIPES[recipe]
    run = with_defaults(make(method=method, method_options=options, iterations=10 * steps))
    dataset = fs.data.load("digits")
    facts = facts_of(run, dataset)
    if method == "tcm":
        run = replace(run, stage=2)
    parts = build_method(run, facts)
    stage = Stage(run, parts)
    state = new_state(Prepared(run, facts, parts))
    state.step = 8 * steps  # where ECT's targets no longer are the data

    def step() -> float:
        start = time.perf_counter()
        train_step(stage, state, draw_batch(stage, dataset.train, state.step))
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    torch.set_num_threads(1)
    steps = parser.parse_args().steps
    for recipe, method, options, base, base_options, most in PAIRS:
        number = steps if recipe == "digits" else max(steps // 8, 20)
        one = stepper(recipe, method, options, number)
        other = stepper(recipe, base, base_options, number)
        pairs = [(one(), other()) for _ in range(number)][number // 10 :]
        ratio = statistics.median(a / b for a, b in pairs)
        ours = statistics.median(a for a, _ in pairs) * 1e3
        theirs = statistics.median(b for _, b in pairs) * 1e3
        print(
            f"{recipe:<12} {method:<4} {ours:.2f} ms, {base} {theirs:.2f} ms, ratio {ratio:.3f} (at"
            f" most {most})"
        )


if __name__ == "__main__":
    main()
