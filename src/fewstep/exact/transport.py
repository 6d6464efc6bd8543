"""Transport costs of pairs of data and noise, E ||x0 - z||^2 / d, and their distance to the flow.

Pairs may be independent, assigned anew within batches (minibatch optimal transport), or those of a
generator: the noise of a row with the data that the exact flow makes of mix(x0, z, t). With t the
last cost falls from the independent one towards that of the flow's own pairs. Source: GC, arXiv
2406.09570, section 4 and figures 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.base.errors import UserError, require
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core.couplings import MinibatchOT
from fewstep.core.denoiser import Models
from fewstep.core.process import Process, Time, as_time, edm, per_row
from fewstep.core.solvers import along, heun
from fewstep.core.times import Times, karras
from fewstep.exact.gaussian import Gaussian
from fewstep.exact.line import between, line
from fewstep.exact.truth import Truth, numbers

# Rows that are solved at once, or more where all their numbers are fewer: quickest for large laws.
_ROWS, _NUMBERS = 128, 2**15
_PER_COMPONENT = 200  # pieces of the line that an integral has
_LOW = 2.5e-5  # lowest level of a grid of moves, as a share of its highest (EDM's 0.002 of 80)


class Mean(NamedTuple):
    """A mean over independent draws and its standard error."""

    value: float
    error: float


class Curve(NamedTuple):
    """Costs of a generator's pairs by level, `[L]`, beside those of other pairs of its rows."""

    levels: Tensor
    costs: Tensor
    errors: Tensor  # standard errors, over rows
    alone: Mean  # of the same rows, as drawn
    minibatch: Mean | None  # by minibatch transport; its error is over batches, nan of a single one
    independent: float  # what `alone` estimates


def cost(x0: Tensor, z: Tensor) -> Tensor:
    """||x0 - z||^2 / d of every pair, `[B]` in float64."""
    return (x0.double() - z.double()).square().flatten(1).mean(1)


def mean(values: Tensor) -> Mean:
    """Of independent values `[n]`; the error of a single one is nan."""
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Mean(values.mean().item(), error)


def independent(law: Any) -> float:
    """The cost of independent pairs, (||E x0||^2 + tr Cov x0) / d + 1, of any exact law."""
    centre = numbers("mean", law.mean).expand(law.shape)
    return centre.square().mean().item() + law.variance + 1.0


def optimal(law: Any) -> float:
    """The least cost of any pairs, W2^2 between the data and N(0, I) over d, where it is known.

    A Gaussian's is Bures', (||mean||^2 + sum_j (sqrt(l_j) - 1)^2) / d with the eigenvalues l of its
    covariance; that of a law on the line pairs quantiles:
    1 + E x0^2 - 2 int phi(Phi^-1(F(x))) dx. Raises UserError for other laws.
    """
    square = numbers("mean", law.mean).square()
    widths = _widths(law)
    if widths is not None:
        return square.mean().item() + (widths - 1).square().mean().item()
    if torch.Size(law.shape).numel() != 1:
        raise UserError(
            f"{law!r}: expected one Gaussian or a law on the line, whose optimal cost is known"
        )
    one = line(law)
    spread = law.variance + square.item()
    x, lengths = between(one.scales(_PER_COMPONENT))
    integral = (torch.exp(-one.score(x, 0.0).square() / 2) @ lengths).item()
    return 1 + spread - 2 * integral / math.sqrt(2 * math.pi)


def _widths(law: Any) -> Tensor | None:
    """Standard deviations along the axes of a law that is one Gaussian, else None."""
    if isinstance(law, Gaussian):
        return numbers("std", law.std).expand(law.shape)
    if not isinstance(law, Truth) or len(law.components.log_weights) > 1:
        return None
    return law.scale * law.components.axes.sqrt()


def ends(law: Any, x0: Tensor, z: Tensor, t: Time, moves: int | None = None) -> Tensor:
    """x0_hat, the end of the probability-flow ODE from mix(x0, z, t): the ideal generator's data.

    Args:
        law: whose flow it is, on its own process
        x0: `[B, ...]`
        z: like x0
        t: a number or `[B]`
        moves: None solves to 1e-8 of the rms; a number takes that many of Heun's moves, evenly in
            level^(1/7), to 2.5e-5 of the level, and Euler's to the data: quick, and on the digits
            mixture off by 1 % with 32
    """
    process = law.process
    start = per_row(t, x0)
    x = process.mix(x0, z, start)
    size = max(_ROWS, _NUMBERS // max(1, x[0].numel()))
    if moves is None:
        pieces = zip(x.split(size), start.split(size), strict=True)
        return torch.cat([law.solve(part, times, 0.0) for part, times in pieces])
    is_one = len(start.unique()) == 1
    require(is_one, "t", f"{len(start)} times", "one for all rows where moves are counted")
    top = process.level(start[0]).item()
    need = "a time whose noise level is above 0 and finite"
    require(0 < top < float("inf"), "t", start[0].item(), need)
    move = along(heun, process.time_at(karras(_LOW * top, top, moves))[1:])
    return torch.cat([move(process, law, part, start[0].item(), 0.0) for part in x.split(size)])


def reassign(x0: Tensor, z: Tensor, batch: int | None = None) -> Tensor:
    """z as minibatch optimal transport assigns it to x0, within batches of rows (None: one)."""
    size = batch or len(x0)
    pieces = zip(x0.split(size), z.split(size), strict=True)
    return torch.cat([_reassign(*piece) for piece in pieces])


def _reassign(x0: Tensor, z: Tensor) -> Tensor:
    """The coupling itself at time 1 of edm, less x0: exactly the pairs of training."""
    t = torch.ones(len(x0), dtype=torch.float64)
    x_t, _ = MinibatchOT()(Models(student=None), edm(), x0, z, Times(t, t, t, t), None)  # type: ignore[arg-type]
    return x_t - x0


def curve(
    law: Any,
    levels: Sequence[float] | Tensor,
    *,
    n: int = 512,
    seed: int = 0,
    batch: int | None = 256,
    moves: int | None = None,
) -> Curve:
    """Costs of the ideal generator's pairs, against independent and minibatch-transport pairs.

    All from the same n rows. levels: sigma / alpha; batch: of minibatch transport, None to leave it
    out (no SciPy).
    """
    levels = numbers("levels", levels)
    fine = levels.ndim == 1 and len(levels) > 0 and bool((levels > 0).all())
    require(fine, "levels", levels.tolist(), "one or more, each above 0")
    x0 = law.sample(n, seed=seed).double()
    z = normal(seed, "transport", 0, n, tuple(x0.shape[1:]), SAMPLING_BLOCK).double()
    times = law.process.time_at(levels)
    costs = torch.stack(_costs(law, x0, z, times, moves))
    errors = torch.tensor([mean(row).error for row in costs], dtype=torch.float64)
    alone = mean(cost(x0, z))
    minibatch = None
    if batch is not None:
        batches = cost(x0, reassign(x0, z, batch)).split(batch)
        full = [part for part in batches if len(part) == batch] or batches
        minibatch = mean(torch.stack([part.mean() for part in full]))
    return Curve(levels, costs.mean(1), errors, alone, minibatch, independent(law))


def _costs(law: Any, x0: Tensor, z: Tensor, times: Tensor, moves: int | None) -> list[Tensor]:
    """Costs `[n]` at each time; solved together, since a row has a time of its own."""
    if moves is not None:
        return [cost(ends(law, x0, z, t, moves), z) for t in times]
    copies = (len(times), *[1] * (x0.ndim - 1))
    many_z = z.repeat(copies)
    x0_hat = ends(law, x0.repeat(copies), many_z, times.repeat_interleave(len(x0)))
    return list(cost(x0_hat, many_z).split(len(x0)))


def gaussian(process: Process, t: Time, std: float, mean: float = 0.0) -> Tensor:
    """The cost of `ends` on data N(mean, std^2), like t.

    mean^2 + std^2 + 1 - 2 std sigma / sqrt(alpha^2 std^2 + sigma^2): from the independent cost at
    the data down to the optimal one, mean^2 + (std - 1)^2.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    return mean**2 + std**2 + 1 - 2 * std * sigma / torch.hypot(alpha * std, sigma)


def discrepancy(law: Any, x_t: Tensor, t: Time) -> Tensor:
    """E ||dx_t/dt - v(x_t, t)||^2 / d of independent pairs, given x_t: `[B]` in float64.

    Given x_t, the line's rate alpha' x0 + sigma' z is (alpha' - sigma' alpha / sigma) x0 plus a
    constant, so this is that factor's square times `posterior_variance`; on edm posterior_variance
    / t^2. t is above 0: at the data there is no line. Source: GC, arXiv 2406.09570, section 4.2.
    """
    rate = _rate(law.process, per_row(t, x_t))
    return rate.square().to(x_t.device) * law.posterior_variance(x_t, t).double()


def gaussian_discrepancy(
    process: Process, t: Time, std: float, *, generated: bool = False
) -> Tensor:
    """E ||dx_t/dt - v||^2 / d on data N(., std^2), like t.

    Of independent pairs, or of the ideal generator's. It is
    rate^2 sigma^2 (V - c^2) / (alpha^2 V + 2 alpha sigma c + sigma^2) with
    rate = alpha' - sigma' alpha / sigma, V = std^2, and c = E x0_hat z =
    std sigma / sqrt(alpha^2 std^2 + sigma^2) where generated, else 0; the generator's x0_hat stays
    fixed while t moves. On edm s^2 / (s^2 + t^2) and
    s^4 / [(s^2 + t^2) (s^2 + t^2 + 2 a t^2)], a = c / t.
    """
    t = as_time(t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    c = std * sigma / torch.hypot(alpha * std, sigma) if generated else torch.zeros_like(sigma)
    power = (alpha * std).square() + 2 * alpha * sigma * c + sigma.square()
    return (_rate(process, t) * sigma).square() * (std**2 - c.square()) / power


def _rate(process: Process, t: Tensor) -> Tensor:
    """alpha' - sigma' alpha / sigma: the factor of x0 in dx_t/dt at fixed x_t."""
    sigma = process.sigma(t)
    need = "above 0: where there is no noise, no line is known"
    require(bool((sigma > 0).all()), "t", t.min().item(), need)
    schedule = process.schedule
    return schedule.alpha_rate(t) - schedule.sigma_rate(t) * process.alpha(t) / sigma
