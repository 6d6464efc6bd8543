"""What pairs of data and noise cost to move, E ||x0 - z||^2 / d, and how far their straight lines
are from the flow.

Pairs may be independent, dealt out anew within batches (minibatch optimal transport), or those of a
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

_ROWS, _NUMBERS = (
    128,
    2**15,
)  # solved at once: so many rows, more of small samples; large laws are quickest so
_PER_COMPONENT = 200  # pieces of the line that an integral has
_LOW = 2.5e-5  # lowest level of a grid of moves, as a share of its highest (EDM's 0.002 of 80)


class Mean(NamedTuple):
    """A mean over independent draws and its standard error."""

    value: float
    error: float


class Curve(NamedTuple):
    """Costs of a generator's pairs by level, `[L]` each, beside those of the same rows paired in
    other ways.
    """

    levels: Tensor
    costs: Tensor
    errors: Tensor  # standard errors, over rows
    alone: Mean  # of the very rows, as they were drawn
    dealt: Mean | None  # by minibatch transport; its error is over batches, nan of a single one
    independent: float  # what `alone` estimates


def cost(x0: Tensor, z: Tensor) -> Tensor:
    """||x0 - z||^2 / d of every pair, `[B]` in float64."""
    return (x0.double() - z.double()).square().flatten(1).mean(1)


def mean(values: Tensor) -> Mean:
    """Of independent values `[n]`; the error of a single one is nan."""
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Mean(values.mean().item(), error)


def independent(law: Any) -> float:
    """The cost of independent pairs, (||E x0||^2 + tr Cov x0) / d + 1, of any law of this room."""
    centre = numbers("mean", law.mean).expand(law.shape)
    return centre.square().mean().item() + law.variance + 1.0


def optimal(law: Any) -> float:
    """The least cost of any pairs, W2^2 between the data and N(0, I) over d, where it is known.

    A Gaussian's is Bures', (||mean||^2 + sum_j (sqrt(l_j) - 1)^2) / d with the eigenvalues l of its
    covariance; that
    of a law on the line pairs quantiles: 1 + E x0^2 - 2 int phi(Phi^-1(F(x))) dx. Raises UserError
    for other laws.
    """
    widths = _widths(law)
    if widths is not None:
        return (
            numbers("mean", law.mean).square().mean().item() + (widths - 1).square().mean().item()
        )
    if torch.Size(law.shape).numel() != 1:
        raise UserError(
            f"{law!r}: expected one Gaussian or a law on the line, whose optimal cost is known"
        )
    one = line(law)
    spread = law.variance + numbers("mean", law.mean).square().item()
    x, lengths = between(one.scales(_PER_COMPONENT))
    return (
        1
        + spread
        - 2 * (torch.exp(-one.score(x, 0.0).square() / 2) @ lengths).item() / math.sqrt(2 * math.pi)
    )


def _widths(law: Any) -> Tensor | None:
    """Standard deviations along the axes of a law that is one Gaussian, else None."""
    if isinstance(law, Gaussian):
        return numbers("std", law.std).expand(law.shape)
    if not isinstance(law, Truth) or len(law.components.log_weights) > 1:
        return None
    return law.scale * law.components.axes.sqrt()


def ends(law: Any, x0: Tensor, z: Tensor, t: Time, moves: int | None = None) -> Tensor:
    """x0_hat, the end of the probability-flow ODE from mix(x0, z, t): the ideal generator's data
    for the noise z.

    Args:
        law: whose flow it is, on its own process
        x0: `[B, ...]`
        z: like x0
        t: a number or `[B]`
        moves: None solves to 1e-8 of the rms; a number takes that many of Heun's moves, evenly in
        level^(1/7), to
            2.5e-5 of the level and Euler's to the data: quick, and on the digits mixture off by 1 %
            with 32
    """
    start, process = per_row(t, x0), law.process
    x = process.mix(x0, z, start)
    size = max(_ROWS, _NUMBERS // max(1, x[0].numel()))
    if moves is None:
        return torch.cat(
            [law.solve(*part, 0.0) for part in zip(x.split(size), start.split(size), strict=True)]
        )
    require(
        len(start.unique()) == 1,
        "t",
        f"{len(start)} times",
        "one for all rows where moves are counted",
    )
    top = process.level(start[0]).item()
    require(
        0 < top < float("inf"),
        "t",
        start[0].item(),
        "a time whose noise level is above 0 and finite",
    )
    move = along(heun, process.time_at(karras(_LOW * top, top, moves))[1:])
    return torch.cat([move(process, law, part, start[0].item(), 0.0) for part in x.split(size)])


def dealt(x0: Tensor, z: Tensor, batch: int | None = None) -> Tensor:
    """z as minibatch optimal transport deals it out among x0, within batches of that many rows
    (None: all at once).
    """
    return torch.cat(
        [
            _dealt(*part)
            for part in zip(*(whole.split(batch or len(x0)) for whole in (x0, z)), strict=True)
        ]
    )


def _dealt(x0: Tensor, z: Tensor) -> Tensor:
    """The coupling itself at time 1 of edm, less x0: exactly as training deals it out."""
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
    """Costs of the ideal generator's pairs at noise levels, against independent and
    minibatch-transport pairs.

    All from the same n rows. levels: sigma / alpha; batch: of minibatch transport, None to leave it
    out (no SciPy).
    """
    levels = numbers("levels", levels)
    wanted = levels.ndim == 1 and len(levels) > 0 and bool((levels > 0).all())
    require(wanted, "levels", levels.tolist(), "one or more, each above 0")
    x0 = law.sample(n, seed=seed).double()
    z = normal(seed, "transport", 0, n, tuple(x0.shape[1:]), SAMPLING_BLOCK).double()
    times = law.process.time_at(levels)
    costs = torch.stack(_costs(law, x0, z, times, moves))
    errors = torch.tensor([mean(row).error for row in costs], dtype=torch.float64)
    alone, again = mean(cost(x0, z)), None
    if batch is not None:
        batches = cost(x0, dealt(x0, z, batch)).split(batch)
        again = mean(
            torch.stack(
                [part.mean() for part in batches if len(part) == batch or len(batches) == 1]
            )
        )
    return Curve(levels, costs.mean(1), errors, alone, again, independent(law))


def _costs(law: Any, x0: Tensor, z: Tensor, times: Tensor, moves: int | None) -> list[Tensor]:
    """Costs `[n]` at each time; solved together, since a row has a time of its own."""
    if moves is not None:
        return [cost(ends(law, x0, z, t, moves), z) for t in times]
    many_x0, many_z = (part.repeat(len(times), *[1] * (x0.ndim - 1)) for part in (x0, z))
    made = ends(law, many_x0, many_z, times.repeat_interleave(len(x0)))
    return list(cost(made, many_z).split(len(x0)))


def gaussian(process: Process, t: Time, std: float, mean: float = 0.0) -> Tensor:
    """`ends`' cost on data N(mean, std^2): mean^2 + std^2 + 1 - 2 std sigma / sqrt(alpha^2 std^2 +
    sigma^2), like t.

    From the independent cost at the data down to the optimal one, mean^2 + (std - 1)^2.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    return mean**2 + std**2 + 1 - 2 * std * sigma / torch.hypot(alpha * std, sigma)


def discrepancy(law: Any, x_t: Tensor, t: Time) -> Tensor:
    """E ||dx_t/dt - v(x_t, t)||^2 / d of independent pairs, given x_t: `[B]` in float64; over x_t
    it is the mean.

    Given x_t the line's rate alpha' x0 + sigma' z is (alpha' - sigma' alpha / sigma) x0 and what is
    known, so this is that factor's square times `posterior_variance`; on edm posterior_variance /
    t^2. t is above 0: at the data nothing is known. Source: GC, arXiv 2406.09570, section 4.2.
    """
    rate = _rate(law.process, per_row(t, x_t))
    return rate.square().to(x_t.device) * law.posterior_variance(x_t, t).double()


def gaussian_discrepancy(
    process: Process, t: Time, std: float, *, generated: bool = False
) -> Tensor:
    """E ||dx_t/dt - v||^2 / d on data N(., std^2), like t: of independent pairs, or of the ideal
    generator's.

    rate^2 sigma^2 (V - c^2) / (alpha^2 V + 2 alpha sigma c + sigma^2), rate = alpha' - sigma' alpha
    / sigma, V = std^2, c = E x0_hat z = std sigma / sqrt(alpha^2 std^2 + sigma^2) where generated,
    else 0; the generator's x0_hat stays fixed while t moves. On edm s^2 / (s^2 + t^2) and s^4 /
    [(s^2 + t^2) (s^2 + t^2 + 2 a t^2)], a = c / t.
    """
    t = as_time(t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    c = std * sigma / torch.hypot(alpha * std, sigma) if generated else torch.zeros_like(sigma)
    power = (alpha * std).square() + 2 * alpha * sigma * c + sigma.square()
    return (_rate(process, t) * sigma).square() * (std**2 - c.square()) / power


def _rate(process: Process, t: Tensor) -> Tensor:
    """alpha' - sigma' alpha / sigma: of x0 in dx_t/dt, x_t held."""
    sigma = process.sigma(t)
    require(
        bool((sigma > 0).all()),
        "t",
        t.min().item(),
        "above 0: where there is no noise, no line is known",
    )
    return (
        process.schedule.alpha_rate(t) - process.schedule.sigma_rate(t) * process.alpha(t) / sigma
    )
