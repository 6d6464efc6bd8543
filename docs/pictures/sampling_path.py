"""Draws sampling_path.png in a minute or two: `python docs/pictures/sampling_path.py [ITERATIONS]`.

A consistency model of the ring, trained by the recipe `toy` with seed 0, beside the trajectories of
the exact diffusion model. Points at noise level sigma are drawn times 0.5 / sqrt(0.25 + sigma^2),
so that noise and data have the same spread on the paper.
"""

import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch
from PIL import Image

import fewstep as fs

matplotlib.use("agg")
MOST, LATER = 80.0, 0.821  # noise levels of the first and of the second step
COLOURS = ["#c0392b", "#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#117a65", "#d35400", "#34495e"]


def on_paper(x, sigma):
    return (x * 0.5 / (0.25 + torch.as_tensor(sigma, dtype=x.dtype) ** 2).sqrt()).numpy()


def trajectories(law, x, moves=400):
    """The ODE's path of each point from the highest level to 0: [moves + 1, N, 2], as drawn."""
    grid = [*fs.times.karras(0.002, MOST, moves).tolist(), 0.0]
    path = [torch.tensor(on_paper(x, MOST))]
    for t, s in pairwise(grid):
        x = fs.solvers.ddim(law.process, law, x, t, s, None)
        path.append(torch.tensor(on_paper(x, s)))
    return torch.stack(path).numpy()


def spread(z):
    """The rows nearest to eight points around the origin, near and far in turn."""
    angle = torch.arange(8) * torch.pi / 4 + 0.3
    radius = torch.tensor([2.0, 0.7]).repeat(4)
    marks = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cdist(marks, z).argmin(1)


def arrow(axes, start, end, colour, style="-"):
    shape = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 3, "shrinkB": 2}
    axes.add_patch(FancyArrowPatch(start, end, color=colour, linestyle=style, lw=1.2, **shape))


def dots(axes, x, colours, marker, face=None):
    edges = {} if marker == "x" else {"edgecolors": colours}
    axes.scatter(*x.T, s=26, marker=marker, facecolors=face or colours, zorder=3, **edges)


def main(iterations):
    law = fs.exact.named("ring8")
    generator = fs.train(fs.recipes.toy(iterations=iterations))
    source = torch.Generator().manual_seed(5)
    z, z2 = torch.randn(2, 2000, 2, generator=source)

    def ask(x, sigma):
        return generator.denoiser(x, torch.full((len(x),), sigma, dtype=torch.float64))

    with torch.no_grad():
        start = MOST * z
        first = ask(start, MOST)
        again = first + LATER * z2
        second = ask(again, LATER)
    rows = spread(z)
    figure, panels = pyplot.subplots(1, 3, figsize=(11, 4.2), layout="constrained")
    titles = (
        "diffusion: dozens of small steps\nalong the ODE, from noise (○) to data (●)",
        "consistency model, one step:\nfrom noise straight to the end of the ODE",
        "two steps: to the end (x), noise added\nagain (dotted, □), to the end (●)",
    )
    clouds = (fs.data.load("ring8").train.x0[:2000].numpy(), first.numpy(), second.numpy())
    shown = (rows, rows, rows[::2])
    for axes, title, cloud, some in zip(panels, titles, clouds, shown, strict=True):
        axes.scatter(*cloud.T, s=2, color="0.8", zorder=0)
        axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=10)
        dots(axes, on_paper(start[some], MOST), COLOURS[: len(some)], "o", face="white")
    path = trajectories(law, start[rows].double())
    for i, colour in enumerate(COLOURS):
        panels[0].plot(*path[:, i].T, color=colour, lw=1.3)
        arrow(panels[1], on_paper(start[rows[i]], MOST), first[rows[i]].numpy(), colour)
    for i, colour in zip(rows[::2], COLOURS, strict=False):
        arrow(panels[2], on_paper(start[i], MOST), first[i].numpy(), colour)
        arrow(panels[2], first[i].numpy(), on_paper(again[i], LATER), colour, ":")
        arrow(panels[2], on_paper(again[i], LATER), second[i].numpy(), colour)
    dots(panels[0], path[-1], COLOURS, "o")
    dots(panels[1], first[rows].numpy(), COLOURS, "o")
    dots(panels[2], first[rows[::2]].numpy(), COLOURS[:4], "x")
    dots(panels[2], on_paper(again[rows[::2]], LATER), COLOURS[:4], "s", face="white")
    dots(panels[2], second[rows[::2]].numpy(), COLOURS[:4], "o")
    file = Path(__file__).with_suffix(".png")
    figure.savefig(file, dpi=100)
    Image.open(file).convert("RGB").quantize(64).save(file, optimize=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
