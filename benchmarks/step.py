"""A training step of the digits recipe over its floor: the network's own passes and fused Adam.

The floor is what no trainer of this method can avoid: the target's passes without gradient, jvps,
the student's passes, their backward, and the optimizer's update. Of flow maps only rows off the
diagonal need a target or a derivative. Both are timed in turn, in one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

import fewstep as fs
from fewstep.base.conditions import pick
from fewstep.core import denoiser, derivatives
from fewstep.run.build import build_method, with_defaults
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.run.recipes import RECIPES
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from fewstep.training.state import new_state
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


class Passes(NamedTuple):
    """Beside the student's pass of all rows: what rows off the diagonal take."""

    plain: int = 0  # passes without gradient
    jvps: int = 0
    learning: int = 0  # passes with gradient
    all_learning: int = 0  # of all rows


FLOW_MAPS = {
    "meanflow": Passes(jvps=1),
    "imf": Passes(plain=1, jvps=1, all_learning=1),
    "soflow": Passes(plain=1),
    "shortcut": Passes(plain=2),
    "psd": Passes(plain=2),
    "lsd": Passes(plain=2, learning=1),
}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(recipe: str, method: str, steps: int) -> tuple[float, float, float]:
    """Median seconds of a step and of its floor, and the median ratio of neighbours."""
    dataset = fs.data.load("digits")
    facts = Facts(dataset.shape, dataset.classes, dataset.sigma_data(), dataset.units, "")
    run = with_defaults(RECIPES[recipe](method=method, iterations=10 * steps))
    parts = build_method(run, facts)
    stage = Stage(run, parts)
    state, bare = (new_state(Prepared(run, facts, parts)) for _ in range(2))
    batch = draw_batch(stage, dataset.train, 0)

    def step() -> None:
        train_step(stage, state, draw_batch(stage, dataset.train, state.step))

    times, every = batch.times, torch.arange(len(batch.x0))
    far = every if times.to is None else (times.to < times.t).nonzero().flatten()
    need = FLOW_MAPS.get(method, Passes(plain=int(parts.target is not None)))
    learning = torch.cat([every, *[far] * need.learning, *[every] * need.all_learning])

    def ask(rows: torch.Tensor) -> torch.Tensor:
        x, t, cond = batch.x0[rows], times.t[rows], pick(batch.cond, rows)
        return denoiser.ask(bare.student, x, t, cond, None if times.to is None else times.to[rows])

    def derive(rows: torch.Tensor) -> None:
        x, t, cond = batch.x0[rows], times.t[rows], pick(batch.cond, rows)
        to = times.a[rows]
        along = lambda x, t: bare.student(x, t, cond, to=to)  # noqa: E731
        derivatives.jvp(along, x, t, torch.ones_like(x), torch.ones_like(t))

    def floor() -> None:
        with torch.no_grad():
            for _ in range(need.plain):
                ask(far)
            for _ in range(need.jvps):
                derive(far)
        bare.optimizer.zero_grad(set_to_none=True)
        ask(learning).sum().backward()
        bare.optimizer.step()

    pairs = [(seconds(step), seconds(floor)) for _ in range(steps)][steps // 10 :]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    torch.set_num_threads(1)
    steps = parser.parse_args().steps
    for recipe, method, share in ROWS:
        step, floor, ratio = compare(recipe, method, max(steps // share, 20))
        print(
            f"{recipe:<12} {method:<10} step {step * 1e3:.2f} ms, floor {floor * 1e3:.2f} ms, ratio"
            f" {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
