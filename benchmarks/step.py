"""A training step of the digits recipe over its floor: the network's own passes and fused Adam.

The floor is what no trainer of this method can avoid: the target's passes without gradient, both
sides of a derivative as one batch, the student's passes, their backward, and the optimizer's
update, under the same dropout. Of flow maps only rows off the diagonal need a target or a
derivative. Both are timed in turn, in one run, and beside them a step of flow matching: the same
batch, all on the diagonal.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fewstep.base.conditions import pick
from fewstep.core.method import Passes, dropout
from fewstep.data.dataset import Arrays
from fewstep.run.build import with_defaults
from fewstep.run.prepare import prepare
from fewstep.run.recipes import RECIPES
from fewstep.run.stages import Stage
from fewstep.training.batches import Batch, draw_batch
from fewstep.training.preflight import choose_by_trial
from fewstep.training.state import State, new_state
from fewstep.training.step import train_step

ROWS = (
    ("digits", "ect", 1),
    ("digits", "diffusion", 1),
    ("digits-unet", "ect", 8),
    ("digits-dit", "ect", 8),
    *(
        (recipe, method, share)
        for recipe, share in (("digits", 1), ("digits-unet", 8), ("digits-dit", 8))
        for method in ("meanflow", "imf", "soflow", "shortcut", "psd", "lsd")
    ),
)


class Needs(NamedTuple):
    """Beside the student's pass of all rows: what rows off the diagonal take."""

    plain: int = 0  # passes without gradient
    derivatives: int = 0  # each both sides of a difference, as one batch
    learning: int = 0  # passes with gradient
    all_learning: int = 0  # of all rows


FLOW_MAPS = {
    "meanflow": Needs(derivatives=1),
    "imf": Needs(plain=1, derivatives=1, all_learning=1),
    "soflow": Needs(plain=1),
    "shortcut": Needs(plain=2),
    "psd": Needs(plain=2),
    "lsd": Needs(plain=2, learning=1),
}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Result(NamedTuple):
    """Medians of seconds, and of ratios of neighbours."""

    step: float
    floor: float
    over_floor: float
    over_flow_matching: float


def trainer_of(recipe: str, method: str, iterations: int, **options: Any) -> Trainer:
    """A run before its first step, with the derivative that its trial chose."""
    base = RECIPES[recipe](method=method, iterations=iterations)
    more = {**base.method_options, **options}
    prepared = prepare(with_defaults(replace(base, method_options=more)))
    state = new_state(prepared)
    prepared, _ = choose_by_trial(prepared, state)
    return Trainer(Stage(prepared.run, prepared.method), state, prepared.arrays)


class Trainer(NamedTuple):
    stage: Stage
    state: State
    data: Arrays

    def batch(self) -> Batch:
        return draw_batch(self.stage, self.data, self.state.step)

    def step(self) -> None:
        train_step(self.stage, self.state, self.batch())


def compare(recipe: str, method: str, steps: int) -> Result:
    """A method's step, its floor and a step of flow matching, in turn."""
    own, second = (trainer_of(recipe, method, 10 * steps) for _ in range(2))
    matching = trainer_of(recipe, "meanflow", 10 * steps, diagonal=1.0)
    batch, bare = own.batch(), second.state
    times, every = batch.times, torch.arange(len(batch.x0))
    far = every if times.to is None else (times.to < times.t).nonzero().flatten()
    need = FLOW_MAPS.get(method, Needs(plain=int(own.stage.method.target is not None)))
    learning = torch.cat([every, *[far] * need.learning, *[every] * need.all_learning])

    def ask_rows(run: Passes, rows: torch.Tensor) -> torch.Tensor:
        to = None if times.to is None else times.to[rows]
        x, t, cond = batch.x0[rows], times.t[rows], pick(batch.cond, rows)
        return run.at(rows)(bare.student, x, t, cond, to)

    def floor() -> None:
        run = dropout(bare.student, len(every), batch.seeds, batch.x0.device)
        with torch.no_grad():
            for _ in range(need.plain):
                ask_rows(run, far)
            for _ in range(need.derivatives):
                ask_rows(run, torch.cat([far, far]))
        bare.optimizer.zero_grad(set_to_none=True)
        ask_rows(run, learning).sum().backward()
        bare.optimizer.step()

    rounds = [(seconds(own.step), seconds(floor), seconds(matching.step)) for _ in range(steps)][
        steps // 10 :
    ]
    return Result(
        statistics.median(step for step, _, _ in rounds),
        statistics.median(floor for _, floor, _ in rounds),
        statistics.median(step / floor for step, floor, _ in rounds),
        statistics.median(step / flow for step, _, flow in rounds),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    torch.set_num_threads(1)
    parser.add_argument("--recipe", help="rows of this one alone")
    args = parser.parse_args()
    for recipe, method, share in ROWS:
        if args.recipe in (None, recipe):
            result = compare(recipe, method, max(args.steps // share, 20))
            print(
                f"{recipe:<12} {method:<10} step {result.step * 1e3:.2f} ms, floor"
                f" {result.floor * 1e3:.2f} ms, ratio {result.over_floor:.3f}, of flow matching"
                f" {result.over_flow_matching:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
