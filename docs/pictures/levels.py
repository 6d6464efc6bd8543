"""Draws noise levels of other codes and of teachers: `python docs/pictures/levels.py [NAME ...]`.

teachers: what networks are told at each level. t2i: the timesteps of students among a teacher's.
shares: what averages keep, and stages of a longer run. moving: for each page of docs/moving the
levels, neighbours and weights of the commands there. Seconds on one core.
"""

import re
import shlex
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from drawing import AMBER, BLUE, DOCS, GREY, RED, WIDE, panels, run, save
from matplotlib import pyplot

import fewstep as fs
from fewstep.cli import train
from fewstep.cli.plan import method_of, noise_of
from fewstep.core.balances import unbalanced
from fewstep.core.conventions import process_named
from fewstep.pipelines.out import times_of
from fewstep.run.profiles import ema_rate

# Title: prediction, process, label; the words of fs.adapt.
FAMILIES = {
    "EDM, EDM2": ("edm", "edm", "ln(level) / 4"),
    "openai's CM": ("edm", "edm", "250 ln(level)"),
    "DDPM": ("eps", "ddpm", "t - 1"),
    "Stable Diffusion": ("eps", "discrete", "t - 1"),
    "cosine, v": ("v", "cosine", "log-SNR"),
    "flow matching": ("flow", "linear", "1000 t"),
}
# Of each page in moving/ what its commands train, by the place of the command on the page.
PAGES = {
    "ect": {"cifar10-ect": 0, "the hour": 2, "imagenet64": 3},
    "consistency_gc": {"gc and ict": 1},
    "openai": {"CD": 0, "CT": 1},
    "diffusers_lcm": {"LCM": 0},
    "fastgen": {"CM": 0, "TCM, stage 2": 1, "sCT, sCD": 2},
}
POINTS = {  # progress, colour and width of a line: they may lie on one another
    "at the start": (0.0, BLUE, 4.5),
    "half way": (0.5, AMBER, 2.8),
    "at the end": (1.0, RED, 1.2),
}
ROWS = 4096
LOW, HIGH = 1e-3, 200.0


def levels_axis(axes, low=0.01, high=100.0):
    axes.set(xscale="log", xlim=(low, high))
    ticks = {0.01: "0.01", 0.1: "0.1", 1: "1", 10: "10", 100: "100"}
    axes.set_xticks([*ticks], ticks.values())
    axes.minorticks_off()


def teachers():
    """What a network is told when a student asks its teacher at a noise level, by fs.adapt."""
    levels = torch.logspace(-2, 2, 401, dtype=torch.float64)
    figure, axes = panels(2, 3, 4.0, sharex=True)
    for panel, (title, (prediction, process, label)) in zip(
        axes.flat, FAMILIES.items(), strict=True
    ):
        told = []

        def network(x, t, told=told):
            told.append(t)
            return torch.zeros_like(x)

        own = fs.adapt(network, prediction, process, label=label)
        own(torch.zeros(len(levels), 1), levels)
        theirs = process_named(process)
        end = theirs.level(torch.tensor(theirs.t_max, dtype=torch.float64))
        there = levels <= end
        panel.plot(levels[there], told[-1][there].double(), color=BLUE, lw=2)
        if not bool(there.all()):
            panel.plot(levels[there][-1], told[-1][there][-1].double(), "o", color=RED)
        panel.set_title(f"{title}\n{label}")
        levels_axis(panel)
    figure.supxlabel("noise level that the student asks for", fontsize=10)
    figure.supylabel("the number that the network gets", fontsize=10)
    save(figure, "teachers.png")


def t2i():
    """Digits noised by Stable Diffusion's table, and the steps at which students are asked."""
    table = process_named("discrete")
    folder = SimpleNamespace(convention=SimpleNamespace(process=table))
    method = fs.methods.direct_cm(n=50, goal="student", process="discrete")
    rows = {f"student, {n} step{'s' * (n > 1)}": times_of(folder, method, n) for n in (8, 4, 2, 1)}
    grid = method.times(torch.linspace(0, 1, 2001).double()[:, None] * 0.9999, 0.0).t.unique()
    rows = {"teacher, 50 steps": grid.tolist(), **rows}
    figure = pyplot.figure(figsize=(WIDE, 3.1), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[1, 4], sharex=True)
    digit = fs.data.load("digits").train.x0[3].double()
    z = torch.randn(digit.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in range(0, 1001, 125):
        x = table.mix(digit[None], z[None], torch.tensor([float(t)]).double())[0, 0]
        box = (t - 48, t + 48, 0, 1)
        upper.imshow(-x, cmap="gray", extent=box, aspect="auto", vmin=-1.2, vmax=1.2)
        level = float(table.level(torch.tensor(float(t)).double()))
        upper.text(t, -0.12, f"{level:.2g}", ha="center", va="top", fontsize=9.5)
    upper.set(ylim=(-0.3, 1), yticks=[], ylabel="level")
    upper.yaxis.label.set(rotation=0, ha="right", y=0.02)
    upper.spines[:].set_visible(False)
    upper.tick_params(bottom=False)
    for y, (name, times) in enumerate(rows.items()):
        few = name.startswith("student")
        lower.plot([0, 1000], [y, y], color="0.85", zorder=0)
        lower.plot(times, [y] * len(times), "o", color=RED if few else GREY, ms=8 if few else 3)
    lower.set_yticks(range(len(rows)), rows)
    lower.set(xlim=(1055, -55), ylim=(len(rows) - 0.5, -0.5), xlabel="step of the table of 1000")
    save(figure, "t2i.png")


def shares():
    """What averages hold of the initial weights; the gaps of a run and of one twice as long."""
    figure, (kept, gap) = panels(1, 2, 3.4)
    for decay, colour in ((0.9999, BLUE), (0.999, AMBER)):
        rates = torch.tensor([ema_rate(step, decay) for step in range(30_000)]).double()
        steps = torch.arange(1, len(rates) + 1)
        kept.plot(steps, decay ** steps.double(), "--", color=colour, label=f"constant {decay}")
    kept.plot(steps, rates.cumprod(0), color=RED, lw=2, label="--ema, with either")
    kept.set(yscale="log", xscale="log", ylim=(1e-6, 1e4), xlabel="iteration")
    kept.set_yticks([1e-6, 1e-4, 1e-2, 1], ["1e-6", "1e-4", "1e-2", "1"])
    kept.set_ylabel("share of initial weights")
    kept.legend(frameon=False, loc="upper left", fontsize=9.5)
    ours = fs.methods.ect().times
    theirs = replace(ours, stages=2 * ours.stages, ratio_max=1.0)  # of the same length each
    size, at = 25_000, torch.arange(0, 400_000, 500)
    curves = {
        "stages of one length": (theirs, 2, {"color": "0.75", "lw": 5}),
        "ours, 200k iterations": (ours, 1, {"color": BLUE}),
        "ours, 400k iterations": (ours, 2, {"color": RED}),
    }
    for name, (times, long, style) in curves.items():
        steps = at[at < ours.stages * size * long]
        shares = [1 - times.ratio(float(k) / (ours.stages * size * long)) for k in steps]
        gap.plot(steps, shares, label=name, **style)
    gap.set(yscale="log", ylim=(1e-5, 1e2), xlabel="iteration", ylabel="(t - r) / t at large t")
    gap.set_yticks([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1], ["1e-5", "1e-4", "1e-3", "0.01", "0.1", "1"])
    gap.minorticks_off()
    gap.set_xticks([0, 200_000, 400_000], ["0", "200k", "400k"])
    gap.legend(frameon=False, loc="upper right", fontsize=9.5)
    save(figure, "moving/shares.png")


def commands(page):
    """The trainings of a page, one a line."""
    text = (DOCS / f"moving/{page}.md").read_text().partition("## Word by word")[0]
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, re.S))
    lines = re.sub(r"\n +", " ", blocks).splitlines()
    word = "fewstep train "
    return [line.removeprefix(word) for line in lines if line.startswith(word)]


def method_in(command):
    """The method that a command trains; of its files none need be here, nor LPIPS's package."""
    for option in ("data", "init", "teacher"):
        command = re.sub(rf" --{option} \S+", "", command)
    words = [*shlex.split(command.replace("distance lpips", "distance l2")), "--data", "digits"]
    _, own, _, _ = train.read(words, "plan")
    data = noise_of("3,32,32", 0) if "cifar10" in command else noise_of("3,64,64", 10)
    return method_of(replace(own, holdout=0.0), data)


def drawn(method, progress):
    """Times of many rows at a point of training, in order of t."""
    source = torch.Generator().manual_seed(0)
    u = torch.rand(ROWS, max(method.uniforms, 1), dtype=torch.float64, generator=source)
    u[:, 0] = (torch.arange(ROWS) + 0.5) / ROWS
    times = method.times(u, progress, torch.arange(ROWS))
    order = times.t.argsort()
    return times._replace(**{name: getattr(times, name)[order] for name in ("t", "r", "a", "w")})


def page(name):
    """A line of panels for each command: levels of t, distance of r, weights."""
    typed, count = commands(name), len(PAGES[name])
    figure, axes = panels(count, 3, 1.1 + 1.5 * count, squeeze=False, sharex=True)
    bins = torch.logspace(-3, 2.3, 17, dtype=torch.float64).numpy()
    for line, (title, place) in zip(axes, PAGES[name].items(), strict=True):
        method = method_in(typed[place])
        for label, (progress, colour, width) in POINTS.items():
            times = drawn(method, progress)
            t, r = (method.process.level(x) for x in (times.t, times.r))
            weight = times.w * method.weight(method.process, times)
            style = {"color": colour, "lw": width, "label": label}
            counts = np.histogram(t.numpy(), bins)[0]
            line[0].stairs(counts / counts.max(), bins, **style)
            few = len(t.unique()) < 3  # a line of one point is not seen
            style |= {"marker": "o" if few else ""}
            line[1].plot(t, 1 - r / t, **style)
            line[2].plot(t, weight, **style)
        if bool((r == t).all()):
            line[1].clear()
            words = "r = t:\na derivative"
            line[1].text(0.5, 0.4, words, transform=line[1].transAxes, ha="center")
            line[1].set(yticks=[], xscale="log")
        else:
            line[1].set(yscale="log")
            line[1].set_ylim(min(0.01, line[1].get_ylim()[0]), 1.6)
        line[2].set_yscale("log")
        low, high = line[2].get_ylim()
        if high < 100 * low:
            line[2].set_ylim(low / 10, high * 3)
        if method.balance is not unbalanced:
            words = "times a learned one"
            line[2].text(0.5, 0.75, words, transform=line[2].transAxes, ha="center")
        line[0].set(yticks=[], ylabel=title, xlim=(LOW, HIGH), xscale="log")
        for panel in line:
            panel.set_xticks([0.01, 1, 100], ["0.01", "1", "100"])
            panel.minorticks_off()
    for panel, title in zip(axes[0], ("rows by level", "(t - r) / t", "weight"), strict=True):
        panel.set_title(title)
    figure.supxlabel("noise level of t", fontsize=10)
    handles, labels = axes[0, 2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    save(figure, f"moving/{name}.png")


def moving():
    for name in PAGES:
        page(name)


ALL = {one.__name__: one for one in (teachers, t2i, shares, moving)}

if __name__ == "__main__":
    run(ALL, sys.argv[1:])
