"""Draws the pictures of theory.md: `python docs/pictures/theory.py`, a minute on one core.

The data are a mixture of three Gaussians on the line, so all trajectories, jumps and guesses are
exact. Points at noise level sigma are drawn times 1 / sqrt(0.25 + sigma^2) where levels go to 80.
"""

from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from PIL import Image

import fewstep as fs

matplotlib.use("agg")
HERE = Path(__file__).parent.resolve()
STUDENT, NEIGHBOUR, END, GREY = "#2471a3", "#b9770e", "#c0392b", "0.55"
LAW = fs.exact.Mixture(weights=[1, 2, 1], means=[[-0.7], [0.0], [0.65]], std=0.07)
LINE = fs.exact.line(LAW)
MOST, LEAST = 80.0, 0.02
GRID = torch.logspace(1.9031, -1.699, 160, dtype=torch.float64)  # 80 .. 0.02
START = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.04, 0.96, 15)).double() * MOST


def on_paper(x, sigma):
    return x / (0.25 + torch.as_tensor(sigma, dtype=torch.float64) ** 2).sqrt()


def path(x, t, grid):
    """Where the trajectory through x at t is at each time of the grid: [len(grid), N]."""
    return torch.stack([LINE.flow(x, t, s) for s in grid])


def flow(axes, levels=GRID):
    """The density of noised data, and trajectories through it, from noise on the left to data."""
    y = torch.linspace(-2.4, 2.4, 240, dtype=torch.float64)
    columns = []
    for t in levels:
        x = y * (0.25 + t**2).sqrt()
        columns.append(LAW.log_density(x[:, None], float(t)).exp() * (0.25 + t**2).sqrt())
    cloud = torch.stack(columns, 1)
    x = torch.cat([levels, levels.new_tensor([LEAST * 0.98])])
    edges = torch.cat([y - (y[1] - y[0]) / 2, y[-1:] + (y[1] - y[0]) / 2])
    axes.pcolormesh(x, edges, cloud.clamp(max=1.6), cmap="Greys", vmax=2.6, rasterized=True)
    axes.plot(levels, on_paper(path(START, MOST, levels), levels[:, None]), color=GREY, lw=0.8)
    axes.set(xscale="log", xlim=(MOST, LEAST * 0.8), ylim=(-2.2, 2.2), yticks=[])
    axes.set_xticks([80, 10, 1, 0.1, 0.02], ["80", "10", "1", "0.1", "0"])
    axes.minorticks_off()
    axes.set_xlabel("noise level")


def curve(axes, x, t, colour, lw=1.8):
    axes.plot(GRID, on_paper(path(x, t, GRID), GRID[:, None]), color=colour, lw=lw)


def jump(axes, x, t, s, colour, bend=0.25):
    """An arrow from the point x at t to the end of its trajectory at s."""
    end = LINE.flow(x, t, s)
    at = (t, float(on_paper(x, t))), (s, float(on_paper(end, s)))
    shape = {"arrowstyle": "-|>", "color": colour, "connectionstyle": f"arc3,rad={bend}", "lw": 1.4}
    axes.annotate("", at[1], at[0], arrowprops=shape, zorder=4)
    axes.plot(*at[0], "o", color=colour, ms=5, zorder=5)


def draw_flow():
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.5), sharey=True, layout="constrained")
    x = START[3:4]
    for axes in panels:
        flow(axes)
        curve(axes, x, MOST, STUDENT)
    steps = torch.logspace(1.9031, -1.699, 18, dtype=torch.float64)
    panels[0].plot(steps, on_paper(path(x, MOST, steps), steps[:, None]), "o", color=STUDENT, ms=4)
    panels[0].set_title("a diffusion model follows the trajectory in small steps", fontsize=10)
    for t in (60.0, 8.0, 1.5, 0.4):
        jump(panels[1], LINE.flow(x, MOST, t), t, LEAST, END)
    panels[1].set_title("a consistency model jumps to its end from every point", fontsize=10)
    save(figure, "flow.png")


def draw_leads():
    """Where the student is asked, and where it leads."""
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 6), layout="constrained")
    for axes in panels.flat:
        flow(axes)
    one, two, three, four = panels.flat
    rows = START[[2, 6, 11]]
    for x in rows:
        for t in (40.0, 1.2):
            jump(one, LINE.flow(x[None], MOST, t), t, LEAST, END)
    one.set_title("consistency: from every t to the data", fontsize=10)
    method = fs.methods.tcm()
    edge = method.trained_from
    two.axvspan(edge, LEAST * 0.8, color=NEIGHBOUR, alpha=0.18)
    two.axvline(edge, color=NEIGHBOUR, lw=1.5)
    two.text(edge * 0.8, 1.8, "the frozen first stage answers", fontsize=9, color="#7a4f08")
    for x in rows:
        jump(two, LINE.flow(x[None], MOST, 20.0), 20.0, LEAST, END)
        jump(two, LINE.flow(x[None], MOST, edge), edge, LEAST, NEIGHBOUR, 0.15)
    two.set_title(f"tcm: trained from t' = {edge:g} on alone", fontsize=10)
    segments = fs.methods.mcm(K=4)
    borders = segments.process.level(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    bounds = [LEAST, *borders, MOST]
    for border in borders:
        three.axvline(border, color=NEIGHBOUR, lw=1.5)
    for x in rows:
        for low, high in pairwise(bounds):
            t = high if high == MOST else high * 0.97
            jump(three, LINE.flow(x[None], MOST, t), t, low, END)
    three.set_title("mcm, K = 4: to the start of t's segment", fontsize=10)
    for x, ways in zip(rows, ((50, 3, 0.3, LEAST), (30, LEAST), (60, 1, 0.1, LEAST)), strict=True):
        for t, to in pairwise(ways):
            jump(four, LINE.flow(x[None], MOST, t), t, to, END)
    four.set_title(
        "flow maps: from every t to every lower a, which the student is told", fontsize=10
    )
    save(figure, "leads.png")


def draw_pair():
    """One row of a loss: pairs of the data alone, and of a teacher; the student is the denoiser."""
    t, r = torch.tensor([0.5]).double(), torch.tensor([0.3]).double()
    times = fs.Times(t, r, torch.zeros(1).double(), torch.ones(1).double())
    x0, z = torch.tensor([[0.65]]).double(), torch.tensor([[-0.6]]).double()
    models = fs.Models(student=LAW, teacher=LAW)
    couplings = {
        "coupling: the same data and noise": fs.couplings.Data(),
        "coupling: a teacher's move": fs.couplings.Teacher(fs.solvers.heun),
    }
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    grid = torch.linspace(0.58, 0.0, 117, dtype=torch.float64)
    for axes, (title, coupling) in zip(panels, couplings.items(), strict=True):
        x_t, x_r = coupling(models, LAW.process, x0, z, times, None)
        guess, goal = float(LAW(x_t, t)), float(LAW(x_r, r))
        around = x_t[:, 0] + torch.linspace(-0.9, 0.9, 13).double()
        axes.plot(grid, path(around, 0.5, grid), color="0.85", lw=0.8)
        axes.plot(grid, path(x_t[:, 0], 0.5, grid), color=GREY, lw=1.4, label="trajectory of x_t")
        if isinstance(coupling, fs.couplings.Data):
            axes.plot(grid, x0[0] + grid * z[0], ":", color="black", lw=1.2, label="x0 + sigma z")
        for at, x, end, colour in ((t, x_t, guess, STUDENT), (r, x_r, goal, NEIGHBOUR)):
            shape = {"arrowstyle": "-|>", "color": colour, "lw": 1.6}
            axes.annotate("", (0, end), (float(at), float(x)), arrowprops=shape, zorder=4)
            axes.plot(float(at), float(x), "o", color=colour, ms=6, zorder=5)
        axes.text(float(t), float(x_t) - 0.1, "x_t", color=STUDENT, ha="center", fontsize=11)
        axes.text(float(r), float(x_r) + 0.05, "x_r", color=NEIGHBOUR, ha="center", fontsize=11)
        axes.plot(0, float(x0), "*", color="black", ms=10, label="x0")
        axes.plot([-0.015, -0.015], [guess, goal], color=END, lw=4)
        axes.text(-0.024, (guess + goal) / 2, "d", color=END, fontsize=12, va="center")
        axes.text(0.22, guess - 0.08, "student", color=STUDENT, fontsize=10)
        axes.text(0.12, goal + 0.07, "target", color=NEIGHBOUR, fontsize=10)
        axes.set(xlim=(0.58, -0.05), ylim=(-0.2, 1.0), xlabel="noise level")
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=9, frameon=False, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, "pair.png")


def draw_pairs():
    """Straight lines between noise and data: drawn apart, and with the model's endpoints (gc)."""
    source = torch.Generator().manual_seed(1)
    count, t = 4000, 2.0
    z = torch.randn(count, dtype=torch.float64, generator=source)
    x0 = LAW.sample(count, seed=2)[:, 0].double()
    ends = fs.exact.transport.ends(LAW, x0[:, None], z[:, None], t)[:, 0]
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
    sets = {"data as drawn": x0, "data := the model's endpoint from level 2": ends}
    for axes, (title, end) in zip(panels, sets.items(), strict=True):
        cost = float(fs.exact.transport.cost(end[:, None], z[:, None]).mean())
        axes.plot([0, 1], torch.stack([z[:60], end[:60]]), color=STUDENT, lw=0.7, alpha=0.8)
        axes.set_title(f"{title}: mean (x0 - z)² = {cost:.2f}", fontsize=10)
        axes.set_xticks([0, 1], ["noise z", "data x0"])
        axes.set_yticks([])
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, "pairs.png")


def draw_processes():
    """alpha and sigma of the named processes over their times."""
    named = {
        "edm": fs.process.edm(),
        "cosine": fs.process.cosine(),
        "linear": fs.process.linear(),
        "trig": fs.process.trig(),
    }
    figure, panels = pyplot.subplots(1, 4, figsize=(10, 2.5), layout="constrained")
    for axes, (name, process) in zip(panels, named.items(), strict=True):
        t = torch.linspace(0, 1, 400, dtype=torch.float64) * (3 if name == "edm" else process.end)
        axes.plot(t, process.alpha(t), color=STUDENT, label="alpha: of the data")
        axes.plot(t, process.sigma(t), color=END, label="sigma: of the noise")
        axes.set_title(name, fontsize=10, family="monospace")
        axes.set_xlabel("time")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    save(figure, "processes.png")


def save(figure, name):
    file = HERE / name
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
    Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    draw_flow()
    draw_leads()
    draw_pair()
    draw_pairs()
    draw_processes()
