"""Draws which times each method compares: `python docs/pictures/times.py`, seconds on one core.

A file for each page of a method in times/, and parts.png with seven of them. The times are drawn by
the methods themselves, at their defaults and by the same uniforms at all three points of training.
"""

from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.lines import Line2D
from PIL import Image

import fewstep as fs
from fewstep.analysis.verify.papers import TOGETHER

matplotlib.use("agg")
HERE = Path(__file__).parent.resolve()
ROWS = 24
LOW, HIGH = 2e-3, 200.0  # levels that are drawn; below is 0, above the top of a flow
POINTS = {"at the start": 0.0, "half way": 0.5, "at the end": 1.0}
STUDENT, NEIGHBOUR, END = "#2471a3", "#b9770e", "#c0392b"
SEVEN = ("ect", "cd", "tcm", "gc", "mcm", "direct_cm", "meanflow")
LEGEND = [
    Line2D([], [], color=STUDENT, marker="o", ls="", label="t: the student is asked here"),
    Line2D([], [], color=NEIGHBOUR, marker="_", ms=9, mew=2, ls="", label="r: its neighbour"),
    Line2D([], [], color=END, marker="v", ms=4, ls="", label="a: where both lead"),
]


def draws(method, progress):
    """Times of a batch at a point of training, by uniforms that fill (0, 1) evenly."""
    groups = ROWS // method.group if method.group < ROWS else 1
    rows = groups * method.group
    source = torch.Generator().manual_seed(0)
    u = torch.rand(rows, max(method.uniforms, 1), dtype=torch.float64, generator=source)
    u[:, 0] = (torch.arange(rows) + 0.5) / rows
    return method.times(u, progress, torch.arange(rows))


def levels(process, t):
    return process.level(t).double().nan_to_num(HIGH, HIGH).clamp(LOW, HIGH)


def draw(axes, method, progress):
    times = draws(method, progress)
    t, r, a = (levels(method.process, time) for time in (times.t, times.r, times.a))
    to = a if times.to is None else levels(method.process, times.to)
    order = t.argsort()[:: max(1, len(t) // ROWS)]
    t, r, to = t[order], r[order], to[order]
    diagonal = to >= t
    r = torch.where(diagonal, t, r)
    x = torch.arange(len(t))
    axes.vlines(x, to, t, color="0.8", lw=1)
    axes.vlines(x, r, t, color=STUDENT, lw=1.6)
    axes.plot(x, to, "v", color=END, ms=3.5)
    axes.plot(x, r, "_", color=NEIGHBOUR, ms=6, mew=1.8)
    axes.plot(x, t, "o", color=STUDENT, ms=3)
    axes.set(yscale="log", ylim=(LOW / 1.6, HIGH * 1.6), xticks=[])
    axes.set_yticks([LOW, 0.1, 1, 10, HIGH], ["0", "0.1", "1", "10", "∞"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)


def save(figure, file):
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
    Image.open(file).convert("RGB").quantize(48).save(file, optimize=True)


def page(name):
    method = getattr(fs.methods, name)()
    figure, panels = pyplot.subplots(1, 3, figsize=(9, 2.9), sharey=True, layout="constrained")
    for axes, (title, progress) in zip(panels, POINTS.items(), strict=True):
        draw(axes, method, progress)
        axes.set_title(title, fontsize=10)
    panels[0].set_ylabel("noise level")
    figure.legend(handles=LEGEND, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save(figure, HERE / "times" / f"{TOGETHER.get(name, name)}.png")


def parts():
    figure, panels = pyplot.subplots(2, 4, figsize=(10, 5.2), sharey=True, layout="constrained")
    for axes, name in zip(panels.flat, SEVEN, strict=False):
        draw(axes, getattr(fs.methods, name)(), 0.5)
        axes.set_title(name, fontsize=10, family="monospace")
    panels[-1, -1].axis("off")
    panels[-1, -1].legend(handles=LEGEND, loc="center", fontsize=9, frameon=False)
    for axes in panels[:, 0]:
        axes.set_ylabel("noise level")
    save(figure, HERE / "parts.png")


if __name__ == "__main__":
    done = set()
    for name in fs.methods.__all__:
        if TOGETHER.get(name, name) not in done:
            page(name)
        done.add(TOGETHER.get(name, name))
    parts()
