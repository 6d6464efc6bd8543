"""Why a generator that learns from its own endpoints may diverge: one part is changed at a time.

One-dimensional data N(0, s^2), s = 0.5, 20 intervals of a Karras grid up to 5, all as likely; two
hidden layers of 64, or a number for each level. `expected` is the standard deviation of one-step
samples by the recursion of least squares, where that applies.

    python benchmarks/feedback.py [--seeds 3]

prints the mean and its standard error over the seeds, and keeps the numbers of every seed in
results/feedback.json; those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.conditions import Cond
from fewstep.core.couplings import GeneratorInduced
from fewstep.core.denoiser import Models, Preconditioned
from fewstep.core.times import Adjacent, karras
from fewstep.core.times.curricula import Fixed

STD = 0.5  # of the data
LOW = 0.002
TOP = 5.0
INTERVALS = 20
BATCH = 512
KEEP = 0.99  # of the average at each update
ITERATIONS = 1500
EVERY = 50  # updates from one look at the samples to the next
DIVERGED = 5.0  # standard deviation of samples
STOPPED = 100.0  # likewise; training ends there
SCALING = fs.scalings.Edm(sigma_data=STD, shift=LOW)
LEVELS = karras(LOW, TOP, INTERVALS, 7.0).flip(0)


class Net(nn.Module):
    """(x, noise label) -> like x, by two hidden layers of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, x: Tensor, label: Tensor, cond: Cond = None) -> Tensor:
        return self.layers(torch.cat([x, label[:, None].to(x)], 1))


class Table(nn.Module):
    """(x, t) -> g_t x with a number for each level, 1 at the lowest: levels share no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter((STD / (STD**2 + LEVELS**2).sqrt()).float())

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond = None) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        level = (times[:, None] - LEVELS).abs().argmin(1)
        return torch.where(level == 0, 1.0, self.gains[level])[:, None] * x


def exact(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    """The end of the ODE from x at t: x s / sqrt(s^2 + t^2)."""
    return x * (STD / (STD**2 + t.to(x)[:, None] ** 2).sqrt())


@dataclass(frozen=True)
class Always:
    """A target that is this network, whatever the models are."""

    network: Any
    needs = frozenset[str]()

    def __call__(self, models: Models) -> Any:
        return self.network


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting; the first is the one that diverges."""

    share: float = 1.0
    predictor: str = "ema"  # student, exact, or frozen: the average after 300 updates
    target: str = "student"  # or exact
    table: bool = False
    distance: Any = fs.distances.mse
    weight: Any = fs.weights.one
    bound: float = math.inf
    clip: float = math.inf  # largest norm of the gradient

    def network(self) -> nn.Module:
        return Table() if self.table else Preconditioned(Net(), SCALING, fs.process.edm())

    def method(self, predictor: Any, student: nn.Module) -> fs.Method:
        return fs.Method(
            times=Adjacent(steps=Fixed(INTERVALS), low=LOW, high=TOP),
            coupling=GeneratorInduced(self.share, Always(predictor), self.bound),
            target=Always(exact if self.target == "exact" else student),
            distance=self.distance,
            weight=self.weight,
            scaling=SCALING,
        )


def expected_std(share: float, own: bool) -> float:
    """Standard deviation of one-step samples by the recursion of least squares.

    Over a mixture of both couplings. own: the predictor is the generator itself, not the exact map.
    """
    gain = 1.0
    for r, t in pairwise(LEVELS.tolist()):
        a = gain if own else STD / math.hypot(STD, r)
        inner = a * a * (STD**2 + r * r)
        plain = STD**2 + r * t, STD**2 + t * t
        with_gc = inner + (r + t) * a * r + r * t, inner + 2 * t * a * r + t * t
        top, bottom = ((1 - share) * p + share * i for p, i in zip(plain, with_gc, strict=True))
        gain *= top / bottom
    return gain * TOP


def measure(case: Case, seed: int) -> dict[str, float]:
    """Trains a case: the size of its samples, the largest so far, whether and when it diverged."""
    torch.manual_seed(seed)
    student = case.network()
    average = case.network().requires_grad_(False)
    frozen = case.network().requires_grad_(False)
    average.load_state_dict(student.state_dict())
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    predictors: dict[str, Any] = {
        "ema": average,
        "student": student,
        "exact": exact,
        "frozen": average,
    }
    method = case.method(predictors[case.predictor], student)
    probe = TOP * torch.randn(4096, 1)
    sizes = [0.0]
    step = 0
    while step < ITERATIONS and sizes[-1] < STOPPED:
        if step == 300 and case.predictor == "frozen":
            frozen.load_state_dict(average.state_dict())
            method = case.method(frozen, student)
        x0 = STD * torch.randn(BATCH, 1)
        z = torch.randn(BATCH, 1)
        u = torch.rand(BATCH, 2, dtype=torch.float64)
        optimizer.zero_grad()
        method.loss(Models(student=student), x0, z, method.times(u, 0.0)).mean().backward()
        nn.utils.clip_grad_norm_(student.parameters(), case.clip)
        optimizer.step()
        schedule.step()
        torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), 1 - KEEP)
        step += 1
        if step % EVERY == 0:
            with torch.no_grad():
                sizes.append(average(probe, torch.full((4096,), TOP)).std().item())
    result = {"std": sizes[-1], "largest_std": max(sizes)}
    if case.target == "student" and case.predictor != "frozen":
        result["expected"] = expected_std(case.share, case.predictor != "exact")
    return {**result, "diverged": float(max(sizes) > DIVERGED), "updates": float(step)}


HUBER = fs.distances.huber(0.03)
GAP = fs.weights.inverse_gap
CASES = {
    "independent pairs": Case(share=0.0),
    "EMA predictor, share 1, squared error, weight 1": Case(),
    "share 0.5": Case(share=0.5),
    "predictor: the student": Case(predictor="student"),
    "predictor: the average after 300 updates, frozen": Case(predictor="frozen"),
    "predictor: exact": Case(predictor="exact"),
    "target: exact": Case(target="exact"),
    "levels that share no weight": Case(table=True),
    "pseudo-Huber": Case(distance=HUBER),
    "gradient clipped to norm 1": Case(clip=1.0),
    "bound 3": Case(bound=3.0),
    "bound 1.5": Case(bound=1.5),
    "weight 1/(t - r)": Case(weight=GAP),
    "weight 1/(t - r), share 0.5": Case(weight=GAP, share=0.5),
    "weight 1/(t - r), pseudo-Huber": Case(weight=GAP, distance=HUBER),
}

FILE = Path(__file__).parent / "results" / "feedback.json"


def mean_and_error(values: list[float]) -> str:
    """Mean ± standard error."""
    mean = sum(values) / len(values)
    square = sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
    return f"{mean:.4g} ± {math.sqrt(square / len(values)):.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, case in CASES.items():
        by_seed = results.setdefault(name, {})
        for seed in range(1, seeds + 1):
            if str(seed) not in by_seed:
                by_seed[str(seed)] = measure(case, seed)
                FILE.write_text(json.dumps(results, indent=1) + "\n")
        rows = [by_seed[str(seed)] for seed in range(1, seeds + 1)]
        texts = [f"{key} {mean_and_error([row[key] for row in rows])}" for key in rows[0]]
        print(f"{name}: {', '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
