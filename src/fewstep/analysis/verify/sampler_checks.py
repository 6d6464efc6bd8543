"""Samplers: which levels they visit, with which noise, and where they end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.analysis.verify.check import Table, apart, column, worst
from fewstep.analysis.verify.fixtures import data
from fewstep.core import process as processes
from fewstep.core import sampling

SAMPLER = Table("core.sampling", 1e-12, "the sampling loop does not do this")


@SAMPLER("sampler: levels downwards, each its own noise", "2303.01469, alg. 1", "")
def three_steps() -> float:
    """The middle levels are visited from the highest down."""
    process = processes.edm()
    _, z, _ = data(2)
    own = sampling.sampler("multistep")
    noises = (z.flip(0), 2 * z)
    levels: list[float] = []

    def guess(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        levels.append(float(t[0]))
        return 0.5 * x_t / float(t[0])

    grid = own.times(process, 3, (5.0, 0.7))
    ours = sampling.sample(
        process, guess, process.prior(z), grid, own.step, noise=lambda i: noises[i]
    )
    x = 0.5 * z
    for level, noise in zip((5.0, 0.7), noises, strict=True):
        x = 0.5 * (x + level * noise) / level
    return worst(apart(ours, x), apart(column(*levels), column(80.0, 5.0, 0.7)))


@SAMPLER("sampler: K DDIM moves from segment to segment", "2403.06807, alg. 2", "segments", "mcm")
def segments() -> float:
    """Each with the network at the segment's end."""
    process = processes.cosine()
    _, z, _ = data(3)

    def net(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        return (x_t * (1 + float(t[0]))).tanh()

    own = sampling.segments(4)
    ours = sampling.sample(process, net, process.prior(z), own.times(process, 4), own.step)
    x = process.sigma(1.0) * z
    for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):
        guess = (x * (1 + t)).tanh()
        noise = (x - process.alpha(t) * guess) / process.sigma(t)
        x = process.alpha(s) * guess + process.sigma(s) * noise
    return apart(ours, x)


CHECKS = SAMPLER.rows
