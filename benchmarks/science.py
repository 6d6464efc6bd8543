"""What the recipe `auto` gives on made data whose truth is known, beside what is asked of it.

`python benchmarks/science.py NAME [--seed S] [--method diffusion] [--threads 2] [--json]` makes
data, trains, and scores samples of 1, 2 and 4 steps (of a diffusion model, 39 evaluations) against
fresh data. The seed is that of data, run and scores. A number that something is asked of has a mark
and its bar. Three to eight minutes. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier
from torch import Tensor

import fewstep as fs
from fewstep.base.randomness import permutation
from fewstep.statistics.structure import powers, squared_differences

Source = torch.Generator
Write = Callable[[Path, int], Path]  # the data set of a seed into a folder

EVALUATIONS = 39  # of a diffusion model: 20 steps of Heun
CONDITIONS = 400  # five times as many for the intervals of posteriors
KNOWN, DRAWS = 4, 1500  # observations whose exact posterior is compared, samples of each
LEVEL = 0.01  # of the test of all parameters' ranks


@dataclass(frozen=True)
class Number:
    """What is measured at a number of steps, and between which values it should be."""

    name: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def mark(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        return "pass" if self.low <= self.value <= self.high else "MISS"


Score = Callable[[fs.Generator, int, Source], list[Number]]
Task = tuple[Write, Score]


def example(name: str) -> dict[str, Any]:
    folder = str(Path(__file__).parents[1] / "examples")
    if folder not in sys.path:  # where they find what they share
        sys.path.insert(0, folder)
    return runpy.run_path(f"{folder}/{name}.py")


def arrays(names: tuple[str, str], make: Callable[[Source], tuple[Tensor, Tensor]]) -> Write:
    def write(folder: Path, seed: int) -> Path:
        parts = (x.numpy() for x in make(torch.Generator().manual_seed(seed)))
        np.savez(folder / "data.npz", **dict(zip(names, parts, strict=True)))
        return folder / "data.npz"

    return write


def series() -> Task:
    """Damped oscillations `[2000, 3, 64]` given four parameters, the simulator's own beside."""
    names, members = example("ensemble"), 40
    parameters, record = names["parameters"], names["record"]

    def make(source: Source) -> tuple[Tensor, Tensor]:
        theta = parameters(2000, source)
        return record(theta, source), theta

    def score(generator: fs.Generator, steps: int, source: Source) -> list[Number]:
        theta = parameters(CONDITIONS, source)
        cond = theta.repeat_interleave(members, 0)
        truth, own = record(theta, source), record(cond, source)
        x = generator.sample(len(cond), steps=steps, cond=cond)
        sets = [each.reshape(CONDITIONS, members, 3, 64) for each in (x, own)]
        spread, usual = (each.var(1).mean((0, 2)).sqrt() for each in sets)
        ratios = (
            ("roughness", squared_differences(x) / squared_differences(own), 0.15),
            ("spectrum", powers(x, 2).mean(0) / powers(own, 2).mean(0), 0.15),
            ("deviation", x.std((0, 2)) / own.std((0, 2)), 0.1),
            ("deviation given the condition", spread / usual, 0.1),
        )
        inside = fs.metrics.coverage(sets[0], truth, level=0.8).mean()
        return [
            *(
                Number(f"{name}, {end}", float(value), 1 - bar, 1 + bar)
                for name, ratio, bar in ratios  # of channels, and bands of the spectrum
                for end, value in (("least", ratio.min()), ("most", ratio.max()))
            ),
            Number("inside the 80 % interval", float(inside), 0.75, 0.85),
        ]

    return arrays(("x0", "cond"), make), score


def posterior(
    simulate: Callable[[int, Source], tuple[Tensor, Tensor]],
    exact: Callable[[Tensor, Source], Tensor],
) -> Task:
    """Parameters given observations, 20,000 pairs; `exact` draws from the posterior of one."""

    def score(generator: fs.Generator, steps: int, source: Source) -> list[Number]:
        truth, cond = simulate(5 * CONDITIONS, source)
        each, members = cond.repeat_interleave(99, 0), 99
        x = generator.sample(len(each), steps=steps, cond=each).reshape(len(truth), members, -1)
        inside = fs.metrics.coverage(x, truth, level=0.8).mean(0)
        ranks = fs.metrics.ranks(x[:CONDITIONS], truth[:CONDITIONS])
        p = min(1.0, float(fs.metrics.uniformity(ranks, members).min()) * truth.shape[1])
        accuracies = []
        for observation in cond[:KNOWN]:
            samples = generator.sample(DRAWS, steps=steps, seed=1, cond=observation[None])
            accuracies.append(accuracy(samples, exact(observation, source)))
        has_bar = steps not in (1, 4)  # of two steps, and of the diffusion model
        most, least = (0.55, LEVEL) if has_bar else (math.inf, -math.inf)
        low, high = (0.77, 0.83) if has_bar else (-math.inf, math.inf)
        return [
            Number("C2ST to the posterior, mean", float(np.mean(accuracies)), high=most),
            Number("C2ST to the posterior, worst", max(accuracies)),
            Number("p of the parameters' ranks", p, low=least),
            Number("inside the 80 % interval, least", float(inside.min()), low, high),
            Number("inside the 80 % interval, most", float(inside.max()), low, high),
        ]

    return arrays(("x0", "cond"), lambda source: simulate(20_000, source)), score


def accuracy(x: Tensor, y: Tensor) -> float:
    """C2ST as sbibm has it (arXiv 2101.04653): two layers of 10 D units, the mean of 5 folds."""
    both = torch.cat([x, y]).double()
    both = ((both - both.mean(0)) / both.std(0)).numpy()
    layers = (10 * both.shape[1],) * 2
    network = MLPClassifier(layers, learning_rate_init=0.005, max_iter=300, random_state=1)
    order = permutation(1, "folds", 0, len(both)).numpy()
    return float(cross_val_score(network, both[order], (order < len(x)), cv=5).mean())


def gaussian() -> Task:
    """3 standard normal parameters given five linear observations with noise 0.5."""
    noise, matrix = 0.5, torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    covariance = torch.linalg.inv(torch.eye(3) + matrix.T @ matrix / noise**2)
    root = torch.linalg.cholesky(covariance)

    def simulate(n: int, source: Source) -> tuple[Tensor, Tensor]:
        theta = torch.randn(n, 3, generator=source)
        return theta, theta @ matrix.T + noise * torch.randn(n, 5, generator=source)

    def exact(observation: Tensor, source: Source) -> Tensor:
        mean = covariance @ matrix.T @ observation / noise**2
        return mean + torch.randn(DRAWS, 3, generator=source) @ root.T

    return posterior(simulate, exact)


def moons() -> Task:
    """Two moons of sbibm: an observation is on a half circle about an image of the parameters."""

    def half_circle(n: int, source: Source) -> Tensor:
        angle = math.pi * (torch.rand(n, generator=source) - 0.5)
        radius = 0.1 + 0.01 * torch.randn(n, generator=source)
        return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)

    def simulate(n: int, source: Source) -> tuple[Tensor, Tensor]:
        theta = 2 * torch.rand(n, 2, generator=source) - 1
        a, b = theta.unbind(1)
        image = torch.stack([-(a + b).abs(), b - a], 1) / math.sqrt(2)
        return theta, image + half_circle(n, source)

    def exact(observation: Tensor, source: Source) -> Tensor:
        """Of each possible image one of its two parameters, where they are in the square."""
        image = observation - half_circle(50 * DRAWS, source)
        sign = 1 - 2 * torch.randint(2, (len(image),), generator=source)
        total, gap = -sign * image[:, 0], image[:, 1]
        theta = torch.stack([total - gap, total + gap], 1) / math.sqrt(2)
        return theta[(image[:, 0] <= 0) & (theta.abs() <= 1).all(1)][:DRAWS]

    return posterior(simulate, exact)


def epidemics() -> Task:
    """Two rates given ten counts; the posterior is two million draws of the prior with weights."""
    names = example("posterior")
    normal = torch.randn(2_000_000, 2, generator=torch.Generator().manual_seed(3))
    pool = names["CENTRE"] + names["WIDTH"] * normal
    share = torch.cat([names["shares"](part) for part in pool.split(100_000)])
    share = share.clamp(1e-9, 1 - 1e-7)
    log_share, log_rest = share.log(), (-share).log1p()

    def exact(observation: Tensor, source: Source) -> Tensor:
        log = log_share @ observation + log_rest @ (names["PEOPLE"] - observation)
        sums = (log.double() - log.max()).exp().cumsum(0)
        places = torch.rand(DRAWS, generator=source, dtype=torch.float64) * sums[-1]
        return pool[torch.searchsorted(sums, places).clamp(max=len(pool) - 1)]

    return posterior(names["simulate"], exact)


def circle() -> Task:
    """2,000 sets of 3 to 16 points on a circle."""
    names = example("point_sets")

    def score(generator: fs.Generator, steps: int, source: Source) -> list[Number]:
        _, mask = names["sets"](1000, source)
        x = generator.sample(1000, steps=steps, cond={"mask": mask})
        order, t = torch.randperm(16, generator=source), torch.full((1000,), 0.5).double()
        other = x.masked_fill(~mask[..., None], 7)
        with torch.no_grad():
            plain = generator.denoiser(x, t, {"mask": mask})
            other_order = generator.denoiser(x[:, order], t, {"mask": mask[:, order]})
            other_padding = generator.denoiser(other, t, {"mask": mask})
        most = math.inf if steps in (1, 4) else 2 * names["SCATTER"]
        there = mask[..., None]
        gaps = (other_order - plain[:, order]) * there[:, order], (other_padding - plain) * there
        return [
            Number("scatter of the radius", names["scatter"](x, mask), high=most),
            Number("change by another order", float(gaps[0].abs().max()), high=1e-5),
            Number("change by other padding", float(gaps[1].abs().max()), high=1e-5),
        ]

    return arrays(("x0", "mask"), lambda source: names["sets"](2000, source)), score


def table() -> Task:
    """5,000 people with two categories, against 50,000 others."""
    names = example("table")

    def write(folder: Path, seed: int, rows: int = 5000) -> Path:
        names["write_people"](folder / "people.csv", rows, seed)
        return folder / "people.csv"

    def score(generator: fs.Generator, steps: int, source: Source) -> list[Number]:
        with tempfile.TemporaryDirectory() as folder:
            others, samples = write(Path(folder), source.initial_seed(), 50_000), f"{folder}/x.csv"
            generator.write(samples, generator.sample(50_000, steps=steps))
            x, y = (torch.tensor(fs.data.read(path)["x0"]).double() for path in (samples, others))
        apart = [names["apart"](*pair) for pair in zip(x.T, y.T, strict=True)]
        together = torch.corrcoef(x.T) - torch.corrcoef(y.T)
        count = names["NUMBERS"]
        return [
            Number("Kolmogorov distance of a number", max(apart[:count]), high=0.05),
            Number("difference of a share", max(apart[count:]), high=0.05),
            Number("difference of a correlation", float(together.abs().max()), high=0.05),
        ]

    return write, score


TASKS = {f.__name__: f for f in (series, gaussian, moons, epidemics, circle, table)}


def measure(args: argparse.Namespace) -> dict[int, list[Number]]:
    """The scores by number of steps; those of training at 0."""
    write, score = TASKS[args.name]()
    fields = {"method": args.method, "seed": args.seed, "threads": args.threads}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), args.seed)
        run = fs.recipes.auto(data=path, iterations=args.iterations, **fields)
        wall, cpu = time.perf_counter(), time.process_time()
        generator = fs.train(run, out=args.out, resume=args.out is not None)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    training = [Number("minutes", wall / 60, high=5), Number("of processor time", cpu / 60)]
    counts = (EVALUATIONS,) if args.method == "diffusion" else (1, 2, 4)
    seed = 10_000 + args.seed
    fresh = {k: score(generator, k, torch.Generator().manual_seed(seed)) for k in counts}
    return {0: training, **fresh}


def show(numbers: dict[int, list[Number]]) -> None:
    """A row for each name, a column for each number of steps."""
    training, *columns = numbers.values()
    print("training: " + ", ".join(f"{n.name} {n.value:.3g} {n.mark}" for n in training))
    print(f"{'steps':34}" + "".join(f"{k:>8}      " for k in numbers if k))
    for row in zip(*columns, strict=True):
        bar = next((f"{n.low:g} .. {n.high:g}" for n in row if n.mark), "")
        cells = "".join(f"{n.value:>8.3g} {n.mark:5}" for n in row)
        print(f"{row[0].name:34}{cells} {bar}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="ect")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=0, help="another number than auto's")
    parser.add_argument("--out", help="run folder; a run that is done there is only scored")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    numbers = measure(args)
    if args.json:
        rows = {k: [{**asdict(n), "mark": n.mark} for n in own] for k, own in numbers.items()}
        print(json.dumps({**vars(args), "numbers": rows}))
        return
    print(f"{args.name}, seed {args.seed}, {args.method}, {args.threads} thread(s)")
    show(numbers)


if __name__ == "__main__":
    main()
