"""What a run's schedules do from its first step to its last, known before it is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.base import figures
from fewstep.base.randomness import SAMPLING_BLOCK, uniform
from fewstep.core.method import Method
from fewstep.run.config import Run
from fewstep.run.stages import Stage, stage_at, stages
from fewstep.training.curves import HEIGHT, WIDTH, png_of
from fewstep.training.step import rate_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 60  # of a curve over the run
ROWS = 512  # times at each point
LOW, HIGH = 2e-3, 200.0  # noise levels that are drawn


def schedule(run: Run, method: Method, step: int) -> dict[str, bytes]:
    """PNGs by title: the learning rate, the noise levels and the neighbour's gap over the run.

    step: where the run is now. Raises UserError without matplotlib.
    """
    plan = stages(run, method)
    last = run.iterations - 1
    steps = sorted({round(last * i / (POINTS - 1)) for i in range(POINTS)})
    rates = [_rate(stage_at(plan, one), one) for one in steps]
    levels = [_levels(stage_at(plan, one), one) for one in steps]
    result = {}
    for title in ("planned learning rate", "noise levels", "neighbour's level / level"):
        with figures.style():
            drawing, (ax,) = figures.axes(width=WIDTH, height=HEIGHT)
            if title == "planned learning rate":
                ax.plot(steps, rates)
            elif title == "noise levels":
                _draw_levels(ax, steps, levels)
            else:
                ax.plot(steps, [one["gap"] for one in levels])
                ax.set_ylim(-0.03, 1.03)
            ax.axvline(min(step, last), color="#777777", linewidth=0.8, label="now")
            ax.set(xlabel="step", title=title)
            ax.legend()
        result[title] = png_of(drawing)
    return result


def _rate(stage: Stage, step: int) -> float:
    return rate_at(stage, step, stage.progress(step), stage.number > 1)


def _levels(stage: Stage, step: int) -> dict[str, float]:
    """Of a batch's times at a step: quantiles of the level, and the median of the gap's share."""
    method = stage.method
    u = uniform(stage.run.seed, "schedule", 0, ROWS, method.uniforms, SAMPLING_BLOCK)
    times = method.times(u, stage.progress(step), torch.arange(ROWS))
    t, r = (_level(method, one) for one in (times.t, times.r))
    low, middle, high = torch.quantile(t, t.new_tensor([0.1, 0.5, 0.9])).tolist()
    return {"low": low, "middle": middle, "high": high, "gap": float((r / t).median())}


def _level(method: Method, t: Tensor) -> Any:
    level: Any = method.process.level(t)
    return level.double().nan_to_num(HIGH, HIGH).clamp(LOW, HIGH)


def _draw_levels(ax: Axes, steps: list[int], levels: list[dict[str, float]]) -> None:
    low, high = ([one[name] for one in levels] for name in ("low", "high"))
    ax.fill_between(steps, low, high, alpha=0.18, linewidth=0, label="8 of 10 rows")
    ax.plot(steps, [one["middle"] for one in levels], label="median")
    if all(math.isfinite(one) and one > 0 for one in low):
        ax.set_yscale("log")
