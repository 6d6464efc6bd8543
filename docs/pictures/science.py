"""Draws the pictures of science.md, and writes the table of each example into the page.

`python docs/pictures/science.py [NAME ...] [--iterations N]` trains the examples at full length,
more than half an hour on one core for all, or for N iterations. The page has the command of what
was run, so that command, table and picture belong together.
"""

import argparse
import contextlib
import io
import itertools
import os
import re
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.ticker import NullLocator
from PIL import Image

matplotlib.use("agg")
HERE = Path(__file__).parent.resolve()
EXAMPLES, PAGE = HERE.parents[1] / "examples", HERE.parent / "science.md"
sys.path.insert(0, str(EXAMPLES))  # where the examples find what they share
BLUE, RED = "#2471a3", "#c0392b"  # samples and the simulator, as everywhere in the package


def ensemble(names, result):
    """Bands of one condition, a panel for each sensor; the simulator's own below."""
    theta, truth, members, perfect = (part[0] for part in result)
    time = torch.linspace(0, 1, truth.shape[1])
    figure, panels = pyplot.subplots(2, 3, figsize=(10, 4.4), sharex=True, sharey=True)
    rows = (("model", members, BLUE), ("simulator", perfect, RED))
    for axes, (name, x, colour) in zip(panels, rows, strict=True):
        low, middle, high = x.quantile(torch.tensor([0.1, 0.5, 0.9]), 0)
        for sensor, panel in enumerate(axes):
            panel.fill_between(time, low[sensor], high[sensor], color=colour, alpha=0.25, lw=0)
            panel.plot(time, middle[sensor], color=colour)
            panel.plot(time, x[:2, sensor].T, color=colour, lw=0.6)
            panel.plot(time, truth[sensor], color="black", lw=1)
            panel.set_title(f"{name}, sensor {sensor + 1}")
        axes[0].set_ylabel("displacement [mm]")
    for panel in panels[1]:
        panel.set_xlabel("time [s]")
    amplitude, damping, frequency, noise = theta.tolist()
    figure.suptitle(
        f"{amplitude:.2f} mm, {damping:.2f} / s, {frequency:.2f} Hz, noise {noise:.2f} mm:"
        " the held-out series (black), 80 % bands, medians, two members"
    )
    return figure


def posterior(names, result):
    """Two surveys: samples and truth before the prior; and the ranks of all."""
    truth, samples = result
    source = torch.Generator().manual_seed(9)
    prior = names["simulate"](1000, source)[0].exp()
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.4))
    for row, panel in enumerate(panels[:2]):
        panel.scatter(*prior.T, s=3, color="0.8", label="prior")
        panel.scatter(*samples[row].exp().T, s=5, color=BLUE, label="posterior samples")
        panel.scatter(*truth[row].exp(), s=70, color=RED, marker="x", label="truth")
        panel.set(xscale="log", yscale="log", xlabel="contact rate [1/day]")
        for axis, marks in ((panel.xaxis, (0.2, 0.5, 1, 2)), (panel.yaxis, (0.1, 0.2, 0.4))):
            axis.set_minor_locator(NullLocator())
            axis.set_ticks(marks, marks)
        panel.set_title(f"survey {row + 1}")
    panels[0].set_ylabel("recovery rate [1/day]")
    panels[0].legend(fontsize=7)
    size = samples.shape[1]
    ranks = (samples < truth[:, None]).sum(1)
    edges = torch.linspace(-0.5, size + 0.5, 11)
    panels[2].hist(ranks.numpy(), edges.numpy(), label=["contact", "recovery"], color=[BLUE, "0.5"])
    panels[2].axhline(len(truth) / 10, color=RED, lw=1, label="uniform")
    panels[2].set(xlabel=f"rank of the truth among {size} samples", ylabel="surveys", title="ranks")
    panels[2].legend(fontsize=7, loc="lower center")
    return figure


def point_sets(names, result):
    """Five sets of the data above five of the model."""
    figure, panels = pyplot.subplots(2, 5, figsize=(10, 4.3), sharex=True, sharey=True)
    rows = (("data", *result[:2], RED), ("model", *result[2:], BLUE))
    for axes, (name, points, mask, colour) in zip(panels, rows, strict=True):
        for k, panel in enumerate(axes):
            panel.add_patch(pyplot.Circle((0, 0), 1, fill=False, color="0.8"))
            panel.scatter(*points[k][mask[k]].T, s=14, color=colour)
            panel.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
            panel.set_title(f"{name}, {int(mask[k].sum())} points")
        axes[0].set_ylabel("y [radii]")
    for panel in panels[1]:
        panel.set_xlabel("x [radii]")
    return figure


def table(names, result):
    """A histogram or bars of each column, and age against income."""
    figure, panels = pyplot.subplots(2, 3, figsize=(10, 5))
    panels, rows = panels.flatten(), (("data", result[0], RED), ("samples", result[1], BLUE))
    grids = (torch.arange(17.5, 92, 3), torch.logspace(3, 6, 40), torch.arange(-0.5, 9))
    for panel, place, grid in zip(panels, range(3), grids, strict=False):
        for name, x, colour in rows:
            panel.hist(x[:, place], grid, color=colour, histtype="step", label=name, density=True)
        panel.set_xlabel(("age [years]", "income a year", "children")[place])
    panels[1].set(xscale="log", yticks=[])
    panels[0].legend(fontsize=7)
    panels[0].set_ylabel("density")
    words = [(3, names["REGIONS"]), (6, names["WORK"])]
    for panel, (start, texts) in zip(panels[3:5], words, strict=True):
        for side, (name, x, colour) in enumerate(rows):
            share = x[:, start : start + 3].mean(0)
            panel.bar(torch.arange(3) + 0.4 * side - 0.2, share, 0.4, color=colour, label=name)
        panel.set_xticks(range(3), texts)
    panels[3].set_ylabel("share")
    for _, x, colour in rows:
        panels[5].scatter(x[:400, 0], x[:400, 1], s=3, color=colour)
    panels[5].set(yscale="log", xlabel="age [years]", ylabel="income a year")
    return figure


def rollout(names, result):
    """States of both along the way, and their spectra."""
    figure = pyplot.figure(figsize=(11, 4.2))
    grid, moments = figure.add_gridspec(2, 6, width_ratios=[1, 1, 1, 1, 0.15, 1.6]), (1, 5, 10, 20)
    most = float(result[0][:, 0].abs().max())
    for row, (name, states) in enumerate(zip(("simulator", "model"), result, strict=True)):
        for column, moment in enumerate(moments):
            panel = figure.add_subplot(grid[row, column])
            shown = panel.imshow(states[moment, 0, 0], cmap="RdBu", vmin=-most, vmax=most)
            panel.set(xticks=[], yticks=[])
            if row == 0:
                panel.set_title(f"after {moment} step{'s' * (moment > 1)}")
            if column == 0:
                panel.set_ylabel(name)
    figure.colorbar(shown, cax=figure.add_subplot(grid[:, 4]), label="tracer [any unit]")
    panel = figure.add_subplot(grid[:, 5])
    for (name, colour), states in zip((("simulator", RED), ("model", BLUE)), result, strict=True):
        for moment, style in ((1, ":"), (20, "-")):
            power = names["spectrum"](states)[moment]
            label = f"{name}, step {moment}"
            panel.plot(range(1, len(power) + 1), power, color=colour, ls=style, label=label)
    panel.set(yscale="log", xlabel="wave number [cycles a side]", title="spectrum")
    panel.set_xticks(range(1, len(power) + 1))
    panel.legend(fontsize=7)
    return figure


DRAWINGS = {f.__name__: f for f in (ensemble, posterior, point_sets, table, rollout)}
OWN = ("actions", "audio")  # examples that draw their pictures themselves


def table_of(said):
    """The lines of the table among what an example printed: from its head to an empty line."""
    lines = said.splitlines()
    first = next(k for k, line in enumerate(lines) if line.split()[:1] == ["evaluations"])
    return "\n".join(itertools.takewhile(str.strip, lines[first:]))


def measure(name, settings):
    """The example's names, what its `main` gives, and its table; it runs in its own folder."""
    names, said, before = runpy.run_path(str(EXAMPLES / f"{name}.py")), io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(said):
                result = names["main"](**settings)
            if name in OWN:
                shutil.copy(f"{name}.png", HERE)
        finally:
            os.chdir(before)
    return names, result, table_of(said.getvalue())


def write_table(name, table, iterations):
    """Puts command and table into the page."""
    command = f"python examples/{name}.py"
    pattern = rf"{re.escape(command)}[ 0-9]*(\n```\n\n```text\n)(?:[^`\n].*\n)*"
    words = f"{command} {iterations}" if iterations else command
    page, count = re.subn(pattern, lambda match: words + match[1] + table + "\n", PAGE.read_text())
    assert count == 1, name
    PAGE.write_text(page)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*DRAWINGS, *OWN]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--iterations", type=int, default=0)
    args = parser.parse_args()
    for name in args.names or names:
        settings = {"iterations": args.iterations} if args.iterations else {}
        with pyplot.rc_context({"font.size": 8, "axes.titlesize": 9}):
            words, result, table = measure(name, settings)
            print(f"{name}\n{table}", flush=True)
            file = HERE / f"{name}.png"
            if name in DRAWINGS:
                figure = DRAWINGS[name](words, result)
                figure.set_layout_engine("constrained")
                figure.savefig(file, dpi=90)
        Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)
        write_table(name, table, args.iterations)


if __name__ == "__main__":
    main()
