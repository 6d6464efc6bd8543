"""Draws pictures of the how-to pages: `python docs/pictures/howto.py [NAME ...]`, ten minutes.

laws: samples of the exact laws. curves: a run of the recipe `digits` with scores. sevens, frontier
and doctor: what `sample` and these commands draw of the shipped digits. mark: the site's.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch
from PIL import Image

import fewstep as fs
from fewstep.cli import main as fewstep

matplotlib.use("agg")
HERE = Path(__file__).parent.resolve()
LAWS = ("gaussian", "two-modes", "ring8", "grid25", "rings64", "digits-mixture", "smooth32")
COLOUR = "#2471a3"


def save(figure, name):
    figure.savefig(HERE / name, dpi=100)
    pyplot.close(figure)
    shrink(HERE / name)


def shrink(file, colours=128):
    Image.open(file).convert("RGB").quantize(colours).save(file, optimize=True)


def laws(_):
    figure, panels = pyplot.subplots(2, 4, figsize=(10, 5), layout="constrained")
    panels[-1, -1].axis("off")
    for axes, name in zip(panels.flat, LAWS, strict=False):
        law = fs.exact.named(name)
        numbers = torch.Size(law.shape).numel()
        x = law.sample(4000 if numbers < 3 else 16, seed=0).double()
        if numbers == 1:
            axes.hist(x.flatten().numpy(), bins=80, color=COLOUR)
        elif numbers == 2:
            axes.scatter(*x.T, s=1, color=COLOUR)
            axes.set_aspect("equal")
        else:
            side = int(numbers**0.5)
            tiles = x.reshape(4, 4, side, side).clamp(-1, 1)
            tiles = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=1.0)
            axes.imshow(tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1), cmap="gray")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{name}: {numbers} number{'s' * (numbers > 1)}", fontsize=10)
    save(figure, "laws.png")


def curves(folder):
    run = folder / "run"
    words = ["--eval-every", "250", "--seed", "0", "--device", "cpu", "--quiet"]
    assert fewstep(["train", "digits", "--out", str(run), *words]) == 0
    shutil.copy(run / "curves.png", HERE)
    shrink(HERE / "curves.png")


def frontier(folder):
    out = folder / "frontier"
    assert fewstep(["frontier", "digits", "--out", str(out), "--quiet"]) == 0
    shutil.copy(out / "frontier.png", HERE)
    shrink(HERE / "frontier.png")


def doctor(folder):
    out = folder / "doctor"
    assert fewstep(["doctor", "digits", "--full", "--out", str(out)]) == 0
    shutil.copy(out / "loss-by-noise-level.png", HERE / "doctor.png")
    shrink(HERE / "doctor.png")


def sevens(folder):
    out = folder / "sevens.png"
    assert fewstep(["sample", "digits", "--label", "7", "--steps", "2", "--out", str(out)]) == 0
    shutil.copy(out, HERE)


def mark(_):
    """One jump from noise to a sample."""
    figure = pyplot.figure(figsize=(1.28, 1.28))
    axes = figure.add_axes((0, 0, 1, 1))
    shape = {"arrowstyle": "-|>", "mutation_scale": 22, "connectionstyle": "arc3,rad=-0.35"}
    axes.add_patch(FancyArrowPatch((0.2, 0.3), (0.8, 0.36), lw=7, color="#e8b04a", **shape))
    axes.plot(0.2, 0.28, "o", ms=20, color="white")
    axes.plot(0.82, 0.28, "o", ms=20, color="#e8b04a")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    figure.savefig(HERE.parent / "assets" / "mark.png", dpi=100, transparent=True)
    pyplot.close(figure)


ALL = {one.__name__: one for one in (mark, laws, sevens, curves, frontier, doctor)}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for each in sys.argv[1:] or ALL:
            ALL[each](Path(name))
