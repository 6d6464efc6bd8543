"""What to know of samples before they are made: where they ask for what was not trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fewstep.core import abilities, sampling, solvers

if TYPE_CHECKING:
    from fewstep.run.generator import Generator

LOW_START = 10.0  # deviations of the data, below which noise is not all there is


def notes_of(generator: Generator, by: sampling.Sampler, grid: Sequence[float]) -> list[str]:
    """A line for each of the things that this generator has not learned of such samples."""
    lines = [low_start(generator, grid[0]), other_steps(generator, by, len(grid) - 1)]
    return [line for line in (*lines, *other_guidance(generator)) if line]


def low_start(generator: Generator, t: float) -> str:
    """Where sampling starts at a level at which the data still show."""
    process, std = generator.method.process, generator.facts.sigma_data
    if t == process.t_max or (level := process.level(t).item()) >= LOW_START * std:
        return ""
    return (
        f"sampling starts at level {level:.4g} as if that were pure noise: expected at least"
        f" {LOW_START:g} deviations of the data, {LOW_START * std:.4g}"
    )


def other_steps(generator: Generator, by: sampling.Sampler, moves: int) -> str:
    """Where a student of some jumps makes others."""
    steps = abilities.steps(generator.method.times)
    is_jump = by.step is solvers.jump
    if not steps or not is_jump or (moves in steps and by.grid is sampling.nested_grid):
        return ""
    return (
        f"{moves} steps on this grid: {generator.run.method} learns the jumps of"
        f" {', '.join(map(str, steps))} even steps alone, and these were not trained"
    )


def other_guidance(generator: Generator) -> list[str]:
    """Where a student is told more guidance, or another interval, than in training."""
    instruction, most = generator.instruction, getattr(generator.method.tell, "most", math.inf)
    if instruction is None:
        return []
    log_w, low, high = instruction
    lines = []
    if not 0 <= log_w <= math.log(most) + 1e-6:
        lines.append(
            f"guidance = {generator.guidance:g}: this student was told 0 .. {most - 1:g} in"
            " training, and does not know others"
        )
    if not low <= 0.5 <= high:
        lines.append(
            "guidance interval: in training it began below half of the time, at level"
            f" {float(generator.method.process.level(generator.method.process.t_max / 2)):.4g}, and"
            " ended above"
        )
    return lines
