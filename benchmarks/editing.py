"""How near edits come to the true posterior, on mixtures whose posterior is a closed form.

`python benchmarks/editing.py [--particles 1024] [--repeats 8]` prints, for each law and way of
editing, the evaluations of a consistency model, and the largest errors over the coordinates that
were filled in: of the mean, in true standard deviations, and of the standard deviation, relative.
The consistency function is the law's own, by 18 moves of Heun's method. About four minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.core import editing, measurements, solvers
from fewstep.core.editing import Population

Jump = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """A mixture N(means, covs) by weights, and values y of its first coordinates."""

    weights: Tensor
    means: Tensor  # [K, d]
    covs: Tensor  # [K, d, d]
    y: Tensor  # [m]

    @property
    def law(self) -> fs.exact.Mixture:
        return fs.exact.Mixture(weights=self.weights, means=self.means, covs=self.covs)

    def posterior(self) -> Posterior:
        """The mixture of the other coordinates given y."""
        m = len(self.y)
        inner, cross = self.covs[:, :m, :m], self.covs[:, m:, :m]
        gain = torch.linalg.solve(inner, cross.mT).mT
        away = self.y - self.means[:, :m]
        square = (away * torch.linalg.solve(inner, away)).sum(1)
        log_weights = self.weights.log() - (square + torch.logdet(inner)) / 2
        means = self.means[:, m:] + (gain @ away[:, :, None])[:, :, 0]
        return Posterior(log_weights.softmax(0), means, self.covs[:, m:, m:] - gain @ cross.mT)


@dataclass(frozen=True)
class Posterior:
    """A mixture of Gaussians by weights."""

    weights: Tensor
    means: Tensor
    covs: Tensor

    def errors(self, x: Tensor, shares: Tensor) -> tuple[float, float, float]:
        """Of weighted draws x `[N, d]`: of the mean in deviations, of the deviation relative, of a
        mode's weight.
        """
        variances = torch.diagonal(self.covs, dim1=1, dim2=2)
        mean = self.weights @ self.means
        deviation = (self.weights @ (variances + self.means**2) - mean**2).sqrt()
        own_mean = shares @ x
        own_deviation = (shares @ (x - own_mean) ** 2).sqrt()
        modes = shares @ self.responsibilities(x) - self.weights
        return (
            float(((own_mean - mean) / deviation).abs().max()),
            float((own_deviation / deviation - 1).abs().max()),
            float(modes.abs().max()),
        )

    def responsibilities(self, x: Tensor) -> Tensor:
        """Of each draw the posterior probabilities of the modes `[N, K]`."""
        away = (x[:, None] - self.means).movedim(0, 2)  # [K, d, N]
        square = (away * torch.linalg.solve(self.covs, away)).sum(1)
        log = self.weights.log()[:, None] - (square + torch.logdet(self.covs)[:, None]) / 2
        return log.softmax(0).T


def cases() -> dict[str, Case]:
    source = generator(0, "editing cases")

    def turn(*widths: float) -> Tensor:
        z = torch.randn(len(widths), len(widths), generator=source, dtype=torch.float64)
        q = torch.linalg.qr(z)[0]
        return q @ torch.diag(torch.tensor(widths, dtype=torch.float64).square()) @ q.T

    def law(weights: list[float], means: Tensor, covs: list[Tensor], y: Tensor) -> Case:
        share = torch.tensor(weights, dtype=torch.float64)
        return Case(share / share.sum(), means.double(), torch.stack(covs), y.double())

    pair = torch.tensor([[-0.2, -0.5], [0.2, 0.5]])
    near = torch.tensor([[-0.1, -0.5], [0.1, 0.5]])
    slanting = 0.25 * torch.tensor([[1, 0.9], [0.9, 1]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    four = 0.4 * torch.randn(3, 4, generator=source, dtype=torch.float64)
    eight = 0.4 * torch.randn(3, 8, generator=source, dtype=torch.float64)
    wide = torch.linspace(0.1, 0.4, 8).tolist()
    return {
        "Gaussian, correlation 0.9": law([1], torch.zeros(1, 2), [slanting], torch.tensor([0.75])),
        "Gaussian in 4": law(
            [1], torch.zeros(1, 4), [turn(0.7, 0.45, 0.22, 0.12)], torch.tensor([0.6, -0.3])
        ),
        "two modes": law([1, 1], pair, [0.15**2 * eye] * 2, torch.tensor([0.05])),
        "two modes far apart": law([1, 1], near, [0.08**2 * eye] * 2, torch.tensor([0.03])),
        "three modes in 4": law(
            [5, 3, 2], four, [turn(0.1, 0.2, 0.3, 0.4) for _ in range(3)], four[:2, :2].mean(0)
        ),
        "three modes in 8": law(
            [5, 3, 2], eight, [turn(*wide) for _ in range(3)], eight[:2, :4].mean(0)
        ),
    }


def jump_of(law: fs.exact.Mixture, evaluations: int = 35) -> Jump:
    """The law's consistency function, by Heun's method along the sampling grid."""
    grid = fs.sampling.SAMPLERS["heun"].times(law.process, evaluations)[:-1]
    return editing.by_solver(law.process, law, solvers.along(solvers.heun, grid))


def by_edit(
    case: Case, steps: int, particles: int, seed: int, jump: Jump | None = None
) -> Population:
    """The population of `fs.edit` on the law itself."""
    law = case.law
    shape, m = case.means.shape[1:], len(case.y)
    missing = torch.arange(shape[0]) >= m
    y = torch.cat([case.y, torch.zeros(shape[0] - m, dtype=torch.float64)])[None]

    def noise(i: int) -> Tensor:
        source = generator(seed, f"noise {i}")
        return torch.randn(particles, *shape, generator=source, dtype=torch.float64)

    def offset(i: int) -> float:
        return float(torch.rand(1, generator=generator(seed, f"offset {i}")))

    return editing.edit(
        law.process,
        jump or jump_of(law),
        measurements.inpaint(missing),
        y,
        editing.levels_of(steps // 2, law.variance**0.5),
        noise,
        offset,
    )


def by_replacement(
    case: Case, steps: int, particles: int, seed: int, jump: Jump | None = None
) -> Population:
    """CM, arXiv 2303.01469, algorithm 4: replace, re-noise and jump along the process's grid."""
    law, m = case.law, len(case.y)
    jump = jump or jump_of(law)
    x = torch.zeros(particles, case.means.shape[1], dtype=torch.float64)
    for i, t in enumerate(fs.sampling.grid_of(law.process, steps - 1).tolist()):
        source = generator(seed, f"noise {i}")
        z = torch.randn(x.shape, generator=source, dtype=torch.float64)
        x = jump(x + t * z, t)
        x[:, :m] = case.y
    return Population(x, None, torch.zeros(particles, dtype=torch.float64))


def pool(populations: list[Population], first: int) -> tuple[Tensor, Tensor]:
    """The draws of all from that coordinate on, and their weights."""
    shares = torch.cat([one.log_weights.softmax(0) for one in populations]) / len(populations)
    return torch.cat([one.x for one in populations])[:, first:], shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=8)
    args = parser.parse_args()
    ways = [("algorithm 4", by_replacement, n) for n in (33, 129)]
    ways += [("edit", by_edit, n) for n in (17, 33, 65)]
    print(
        "| law | way | evaluations | mean | deviation | mode's weight |\n|---|---|---|---|---|---|"
    )
    for name, case in cases().items():
        truth = case.posterior()
        for way, function, steps in ways:
            runs = [function(case, steps, args.particles, seed) for seed in range(args.repeats)]
            errors = truth.errors(*pool(runs, len(case.y)))
            cells = " | ".join(f"{error:.3f}" for error in errors)
            print(f"| {name} | {way} | {steps} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
