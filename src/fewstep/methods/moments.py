"""IMM: inductive moment matching."""

from __future__ import annotations

from fewstep import core

__all__ = ["imm"]


def imm(
    *,
    group: int = 4,
    k: int = 12,
    low: float = 0.006,
    high: float = 0.994,
    b: float = 5.0,
    sigma_data: float = 0.5,
) -> core.Method:
    """Inductive moment matching: w MMD^2(X_{t->a}(x_t), sg X_{r->a}(x_r)) over groups of rows.

    x_t and x_r mix the same data and noise. The law at a is learned, not each trajectory's end: r
    is one step of the noise level below t, and the kernel is as wide as what the network moves.
    Source: IMM, arXiv 2503.07565, section 4 and algorithm 1. There noise has the deviation of the
    data and times end above 0; here it has 1, and a goes down to 0.

    Args:
        group: consecutive rows that share their times, and whose laws are compared; divides block
        k: r is 160 / 2^k of the noise level below t, and not below a
        low: lowest t
        high: highest t
        b: of the weight, 1/2 sigmoid(b - lambda) (-lambda') alpha / (alpha^2 + sigma^2)
        sigma_data: standard deviation of the data, for the preconditioning
    """
    on, scaling = core.process.linear(), core.scalings.Trig(sigma_data=sigma_data)
    times = core.times.LevelStep(process=on, low=low, high=high, step=160 / 2**k)
    return core.Method(
        process=on,
        times=core.times.Grouped(times=times, size=group),
        target=core.targets.Student(),
        space=core.spaces.PerOutput(scaling),
        distance=core.distances.Mmd(group),
        weight=core.weights.Sigmoid(b),
        scaling=scaling,
        sampler="jumps",
    )
