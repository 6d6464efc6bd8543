"""Draws architecture.png from the imports of the source: `python -m docs.pictures.architecture`."""

from collections import Counter
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.patches import Arc, FancyBboxPatch
from PIL import Image
from tests.project.test_layers import PACKAGES, crossings

matplotlib.use("agg")
ROLES = {
    "base": "errors, options, conditions, randomness, disk, JSON, tensors of files, devices",
    "networks": "one factory per network; layers that they share",
    "data": "data sets and files of any kind; hostile files stop here",
    "statistics": "what two sets of samples have in common: distances, tests, kinds of data",
    "core": "the one loss and its parts: process, times, solvers, targets, couplings, ...",
    "methods": "a method is a function that chooses parts",
    "exact": "laws of data whose denoisers and ODE solutions are known",
    "adapters": "networks of other libraries as denoisers",
    "foreign": "weights and folders of other libraries",
    "run": "a run as a value and on disk: Run, recipes, checkpoints, generator",
    "training": "the loop and all it needs: batches, step, log, processes, incidents",
    "analysis": "what is measured: metrics, frontier, doctor, verify, claims",
    "studies": "many runs side by side: sweeps of settings, comparisons of run folders",
    "bench": "what a step or sample takes beside the bare network",
    "export": "generators as ONNX, torch.export and plain Python",
    "pipelines": "text to image: networks of diffusers' pipelines, prompts as labels",
    "page": "a generator as a page that samples in the browser",
    "serve": "a generator over HTTP: queue, batches, limits",
    "watch": "runs as pages while they train",
    "cli": "one thin file for each verb",
}
COLOURS = pyplot.get_cmap("tab20").colors[::2] + pyplot.get_cmap("tab20").colors[1::2]


def main() -> None:
    counts = Counter((package, other) for package, other, _ in crossings())
    figure, axes = pyplot.subplots(figsize=(9.5, 6), layout="constrained")
    for (package, other), count in sorted(counts.items()):
        upper, lower = PACKAGES.index(package), PACKAGES.index(other)
        height = upper - lower
        axes.add_patch(
            Arc(
                (0, (upper + lower) / 2),
                width=0.62 * height + 0.4,
                height=height,
                theta1=90,
                theta2=270,
                lw=0.4 + 0.4 * count**0.5,
                color=COLOURS[upper],
                alpha=0.75,
            )
        )
    for row, package in enumerate(PACKAGES):
        box = FancyBboxPatch(
            (0.08, row - 0.3),
            1.5,
            0.6,
            boxstyle="round,pad=0.02",
            fc="white",
            ec=COLOURS[row],
            lw=1.6,
        )
        axes.add_patch(box)
        axes.text(0.83, row, package, ha="center", va="center", fontsize=11, weight="bold")
        axes.text(1.78, row, ROLES[package], va="center", fontsize=10)
    axes.set(xlim=(-6.3, 8.6), ylim=(-0.5, len(PACKAGES) - 0.5))
    axes.axis("off")
    file = Path(__file__).with_suffix(".png")
    figure.savefig(file, dpi=100)
    Image.open(file).convert("RGB").quantize(200).save(file, optimize=True)


if __name__ == "__main__":
    main()
