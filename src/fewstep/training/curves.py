"""The curves of a run: what its log says, against steps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.base import figures
from fewstep.run.config import Run
from fewstep.training.log import SCORE, is_step
from fewstep.training.loggers import Row, numbers
from fewstep.training.scores import best_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {"loss": "loss", "lr": "learning rate", "grad_norm": "norm of the gradient"}
SMOOTH = 25  # windows of the smooth line over all rows
DPI = 110


def curves(rows: Sequence[Row], run: Run) -> bytes:
    """A PNG: loss, learning rate, gradient norm and scores; stages and extension begin at lines.

    Raises UserError without matplotlib.
    """
    scores = {name for row in rows for name in row if name.startswith(SCORE)}
    panels = PANELS | {name: name.removeprefix(SCORE) for name in sorted(scores)}
    with figures.style():
        drawing, plots = figures.axes(len(panels), width=3.4 * len(panels), height=3.0)
        for ax, (name, title) in zip(plots, panels.items(), strict=True):
            _panel(ax, rows, name)
            for text, step in beginnings(rows, run).items():
                label = text if ax is plots[0] else None
                ax.axvline(step, color="#777777", linewidth=0.8, linestyle=":", label=label)
            ax.set(xlabel="step", title=title)
            if ax.get_legend_handles_labels()[1]:
                ax.legend()
    file = io.BytesIO()
    figures.png(drawing, file, DPI)
    return file.getvalue()


def _panel(ax: Axes, rows: Sequence[Row], name: str) -> None:
    """One quantity: a score with its best value, the others as they are and smooth."""
    points = [(row["step"], values[name]) for row in rows if name in (values := numbers(row))]
    if not points:
        return
    steps, y = (np.array(one, dtype=float) for one in zip(*points, strict=True))
    if (y > 0).all() and name != "lr":
        ax.set_yscale("log")
    if name.startswith(SCORE):
        ax.plot(steps, y, "o-")
        stage = max(row.get("stage", 1) for row in rows)
        best = best_of(rows, name.removeprefix(SCORE), stage)
        if best is not None:
            label = f"best: {best.value:.4g} at {best.step}"
            ax.plot(best.step, best.value, "o", label=label)
    elif name == "lr":
        ax.plot(steps, y)
    else:
        ax.plot(steps, y, color=figures.COLOURS[5], alpha=0.5, linewidth=0.8)
        ax.plot(steps, smooth(y))


def smooth(y: Any) -> Any:
    """The mean of the values around each, over a 25th of them; fewer at the ends."""
    window = np.ones(2 * (len(y) // (2 * SMOOTH)) + 1)
    counts = np.convolve(np.ones(len(y)), window, "same")
    return np.convolve(y, window, "same") / counts


def beginnings(rows: Sequence[Row], run: Run) -> dict[str, float]:
    """The step at which each stage after the first begins, and an extension, by its name."""
    step_rows = [row for row in rows if is_step(row) and "stage" in row]
    marks = {
        f"stage {b['stage']}": a["step"] for a, b in pairwise(step_rows) if a["stage"] < b["stage"]
    }
    return marks | ({"extension": run.iterations} if run.extend else {})
