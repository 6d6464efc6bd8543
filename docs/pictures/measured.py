"""Draws numbers of pages and commands: `python docs/pictures/measured.py [NAME ...]`.

speed: the first table of ratios in docs/speed.md. verify: errors of the quick checks over their
tolerances. metrics: the scores of the shipped digits beside their floors. Two minutes on one core.
"""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from PIL import Image

from fewstep.cli import main as fewstep

matplotlib.use("agg")
HERE = Path(__file__).parent.resolve()
COLOUR = "#2471a3"


def save(figure, name):
    figure.savefig(HERE / name, dpi=100)
    pyplot.close(figure)
    Image.open(HERE / name).convert("RGB").quantize(48).save(HERE / name, optimize=True)


def said(*words):
    """What a command prints as JSON."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        fewstep([*words, "--json"])
    return json.loads(output.getvalue())


def speed():
    """Of rows `| recipe | network | method | ratio (low .. high) | |`, empty cells as above."""
    rows, recipe = [], ""
    number = r"(\d?\.\d+)"
    table = (HERE.parent / "speed.md").read_text().partition("| recipe |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0]:
            recipe = cells[0].strip("`").split(" ")[0] + " (3x32x32)" * ("--shape" in cells[0])
        match = re.match(rf"{number} \({number} \.\. {number}\)", cells[3])
        if match:
            rows.append((recipe, cells[2].strip("`"), *map(float, match.groups())))
    figure, axes = pyplot.subplots(figsize=(9, 0.22 * len(rows) + 0.9), layout="constrained")
    names = [f"{recipe}  {method}" for recipe, method, *_ in rows]
    for y, (_, _, ratio, low, high) in enumerate(rows):
        axes.plot([low, high], [y, y], color=COLOUR, lw=2)
        axes.plot(ratio, y, "o", color=COLOUR, ms=4)
    axes.axvline(1, color="0.5", lw=1)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("a training step over the bare passes that it makes (95 % interval)")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "speed.png")


def verify():
    checks = [one for one in said("verify", "--quick")["checks"] if one["error"] is not None]
    shares = [max(one["error"] / one["tolerance"], 1e-7) for one in checks if one["tolerance"]]
    exact = sum(not one["tolerance"] for one in checks)
    figure, axes = pyplot.subplots(figsize=(9, 2.6), layout="constrained")
    edges = [10 ** (-7 + i / 4) for i in range(31)]
    axes.hist(shares, bins=edges, color=COLOUR)
    axes.axvline(1, color="#c0392b", lw=1.5)
    axes.set(xscale="log", xlabel="error of a check over its tolerance; 1e-7 stands for less")
    title = f"{len(shares)} quick checks with a tolerance; {exact} more must agree exactly"
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "verify.png")


def metrics():
    rows = [one for one in said("eval", "digits", "--steps", "1,2")["results"] if "floor" in one]
    names = list(dict.fromkeys(row["metric"] for row in rows))
    figure, panels = pyplot.subplots(2, 5, figsize=(10, 4), layout="constrained")
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(panels.flat, names, strict=False):
        mine = [row for row in rows if row["metric"] == name]
        axes.axhspan(*mine[0]["floor_interval"], color="0.88")
        axes.axhline(mine[0]["floor"], color="0.5", lw=1)
        for row in mine:
            axes.plot([row["steps"]] * 2, row["interval"], color=COLOUR, lw=2)
            axes.plot(row["steps"], row["value"], "o", color=COLOUR, ms=4)
        axes.set(xlim=(0.5, 2.5), xticks=[1, 2])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("steps; grey: real held-out digits, 95 %", fontsize=9)
    save(figure, "metrics.png")


ALL = {one.__name__: one for one in (speed, verify, metrics)}

if __name__ == "__main__":
    for each in sys.argv[1:] or ALL:
        ALL[each]()
