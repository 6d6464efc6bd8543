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
    from matplotlib.figure import Figure as Drawing

PANELS = {"loss": "loss", "lr": "learning rate", "grad_norm": "norm of the gradient"}
SMOOTH = 25  # windows of the smooth line over all rows
DPI = 110
WIDTH, HEIGHT = 4.2, 2.8  # inches of a quantity alone


def curves(rows: Sequence[Row], run: Run) -> bytes:
    """A PNG: loss, learning rate, gradient norm and scores; stages and extension begin at lines.

    Raises UserError without matplotlib.
    """
    own = titles(rows)
    with figures.style():
        drawing, plots = figures.axes(len(own), width=3.4 * len(own), height=3.0)
        for ax, (name, title) in zip(plots, own.items(), strict=True):
            _draw(ax, rows, run, name, title, has_names=ax is plots[0])
    return png_of(drawing)


def panels(rows: Sequence[Row], run: Run) -> dict[str, bytes]:
    """The same, each quantity a PNG of its own, by its title. Raises UserError."""
    result = {}
    for name, title in titles(rows).items():
        with figures.style():
            drawing, (ax,) = figures.axes(width=WIDTH, height=HEIGHT)
            _draw(ax, rows, run, name, title, has_names=True)
        result[title] = png_of(drawing)
    return result


def titles(rows: Sequence[Row]) -> dict[str, str]:
    """What is drawn, by its name in the log."""
    scores = {name for row in rows for name in row if name.startswith(SCORE)}
    return PANELS | {name: name.removeprefix(SCORE) for name in sorted(scores)}


def png_of(drawing: Drawing) -> bytes:
    """The drawing as a PNG."""
    file = io.BytesIO()
    figures.png(drawing, file, DPI)
    return file.getvalue()


def _draw(
    ax: Axes, rows: Sequence[Row], run: Run, name: str, title: str, *, has_names: bool
) -> None:
    """One quantity, and lines where stages and the extension begin; has_names: with their names."""
    _panel(ax, rows, name)
    for text, step in beginnings(rows, run).items():
        label = text if has_names else None
        ax.axvline(step, color="#777777", linewidth=0.8, linestyle=":", label=label)
    ax.set(xlabel="step", title=title)
    if ax.get_legend_handles_labels()[1]:
        ax.legend()


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
