"""Draws what a run does with data, processes and cards: `python docs/pictures/parts_of_a_run.py`.

data: columns before and after their units. distributed: who draws which rows of a batch. reproduce:
the planned hours of recipes, two minutes; `... NAME` draws one of them, the others take seconds.
"""

import re
import runpy
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from drawing import AMBER, BLUE, DOCS, GREEN, GREY, RED, panels, run, said, save, section, tables
from matplotlib.patches import Rectangle

import fewstep as fs
from fewstep.base.world import World
from fewstep.run.stages import stages
from fewstep.training.batches import draw_batch

ROWS, STEPS = 8, 2  # of the picture of processes
BINS = {
    "age": np.arange(17.5, 92, 3),
    "income": np.linspace(0, 800_000, 60),
    "children": np.arange(-0.25, 8, 0.5),
}
PROCESSES = (BLUE, AMBER, GREEN, RED)
# What `fewstep plan` is told of the data that a recipe's name begins with.
SHAPES = {
    "cifar10": "3,32,32",
    "imagenet32": "3,32,32",
    "celeba64": "3,64,64",
    "lsun64": "3,64,64",
    "imagenet64": "3,64,64",
    "imagenet128": "3,128,128",
    "imagenet256": "4,32,32",
}


def data():
    """Age, income and children of examples/table.py in their own units and in the network's."""
    sys.path.insert(0, str(DOCS.parent / "examples"))
    example = runpy.run_path(str(DOCS.parent / "examples/table.py"))
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "people.csv")
        example["write_people"](file, 5000, 0)
        columns = ("age", "income", "children")
        own = [fs.data.load(file, columns=columns, units=u) for u in ("auto", "quantile")]
    rows = [own[0].units.to_user(own[0].train.x0), *(one.train.x0 for one in own)]
    titles = ("in the file", "--units auto", "--units quantile")
    figure, axes = panels(3, 3, 4.6)
    for line, (values, title, colour) in enumerate(
        zip(rows, titles, (GREY, BLUE, AMBER), strict=True)
    ):
        for place, name in enumerate(columns):
            panel, column = axes[line, place], values[:, place].double().numpy()
            bins = np.linspace(-2, 4, 31 if name != "children" else 61) if line else BINS[name]
            panel.hist(column, bins, color=colour)
            panel.set_yticks([])
            if line == 0:
                panel.set_title(name)
            else:
                panel.set(xlim=(-2, 4), xticks=[-2, 0, 2, 4])
                beyond = int((column > 4).sum())
                if beyond:
                    words = f"{beyond} rows beyond,\nup to {column.max():.0f}"
                    panel.text(0.97, 0.92, words, transform=panel.transAxes, ha="right", va="top")
        axes[line, 0].set_ylabel(title)
    axes[0, 2].set_xticks([0, 2, 4, 6, 8])
    axes[0, 1].set_xticks([0, 400_000, 800_000], ["0", "400k", "800k"])
    save(figure, "data.png")


def distributed():
    """The rows of three steps, by one process, two and four: each row's number and who draws it."""
    settings = fs.recipes.toy(iterations=STEPS, batch=ROWS, block=2)
    (stage,) = stages(settings, fs.methods.ect())
    arrays = fs.data.load("ring8").train
    figure, axes = panels(3, 1, 4.2, sharex=True)
    for panel, size in zip(axes, (1, 2, 4), strict=True):
        for step, rank in product(range(STEPS), range(size)):
            batch = draw_batch(stage, arrays, step, World(rank, size))
            for place, (row, t) in enumerate(zip(batch.rows, batch.times.t, strict=True)):
                x = rank * ROWS // size + place
                panel.add_patch(Rectangle((x, step), 0.96, 0.94, color=PROCESSES[rank]))
                words = f"{int(row)}\n{float(t):.2g}"
                panel.text(x + 0.48, step + 0.47, words, ha="center", va="center", color="white")
        panel.set(xlim=(0, ROWS), ylim=(STEPS, 0), xticks=[])
        panel.set_yticks([step + 0.5 for step in range(STEPS)], ["step 0", "step 1"])
        panel.set_title(f"{size} process{'es' * (size > 1)}", loc="left")
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    colours = [Rectangle((0, 0), 1, 1, color=colour) for colour in PROCESSES]
    names = [f"process {rank}" for rank in range(4)]
    figure.legend(colours, names, loc="outside lower center", ncols=4, frameon=False)
    save(figure, "distributed.png")


def shape_of(recipe):
    return next(shape for name, shape in SHAPES.items() if recipe.startswith(name))


def hours_stated(cell):
    """GPU-hours in a cell of the page; None where a paper or code states none."""
    found = re.search(r"([\d,]+)$", cell) or re.match(r"([\d,]+) (?:A100|GPU)-hour", cell)
    return float(found[1].replace(",", "")) if found else None


def reproduce():
    """Hours that `fewstep plan` estimates on one H200, and those that papers state for theirs."""
    recipes = {}
    for head, *rows in tables(section("reproduce.md")):
        if head[0] == "recipe":
            place = next(k for k, cell in enumerate(head) if "hours" in cell or "FID" in cell)
            is_tpu = "TPU" in head[place]
            recipes |= {
                row[0].strip("`"): None if is_tpu else hours_stated(row[place]) for row in rows
            }
    figure, axes = panels(height=0.21 * len(recipes) + 0.9)
    for y, (name, stated) in enumerate(recipes.items()):
        words = ["--shape", shape_of(name), "--kind", "h200"]
        if re.match(r"\w+-(cd|ct|cmt)$", name):  # LPIPS's own network is not counted
            words += ["--method.distance", "l2"]
        labels = ["--classes", "1000"] if re.match(r"imagenet(?!32)", name) else []
        hours = said("plan", name, *words, *labels)["hours"]
        axes.plot(hours, y, "o", color=BLUE, label="planned, one H200")
        if stated:
            axes.plot(stated, y, "D", mfc="white", color=RED, label="stated, their machines")
    axes.set_yticks(range(len(recipes)), recipes, fontsize=9)
    axes.set(xscale="log", xlabel="hours of one GPU", ylim=(len(recipes) - 0.4, -0.6))
    axes.grid(axis="x", color="0.88")
    handles, labels = axes.get_legend_handles_labels()
    own = dict(zip(labels, handles, strict=True))
    axes.legend(own.values(), own.keys(), loc="lower left")
    save(figure, "reproduce.png")


ALL = {one.__name__: one for one in (data, distributed, reproduce)}

if __name__ == "__main__":
    run(ALL, sys.argv[1:])
