"""Solvers that remember: DDIM's move with a weighted sum of this guess and earlier ones.

x_s = jump(x, sum_k w_k x0_hat_k), sum_k w_k = 1. The weights depend on the log-levels
lambda = ln(alpha / sigma) at which the guesses were made and at which the move ends, so one class
and a rule for the weights is DPM-Solver++ as well as UniPC, in their data prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import require
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process, Time, per_row

# (log-levels of the guesses, the newest first; log-level where the move ends) -> weights
Rule = Callable[[Sequence[float], float], list[float]]

FEW = 15  # moves, below which diffusers' DPM-Solver++ ends in lower orders


class Point(NamedTuple):
    """Where a move started, what was guessed there, and the order of the move from there."""

    t: float
    x: Tensor
    x0_hat: Tensor
    order: int


@dataclass
class Past:
    """The moves so far along a grid of so many; `sample` makes one for each solution."""

    moves: int
    points: list[Point] = field(default_factory=list)  # the newest last


@dataclass(frozen=True)
class LinearMultistep:
    """A solver of this order: the rule's weights for the last `order` guesses.

    The first moves have as many guesses as there are. The last moves are of the order that moves
    are left, in grids of fewer than `few` moves; in longer ones only a move to sigma = 0 is of the
    first order. corrector: with the guess at the end of a move, which is the next move's own, the
    move is made again; it costs no evaluation. Later moves do not use guesses where alpha = 0.
    Without a past a move is `ddim`.
    """

    order: int
    predictor: Rule
    corrector: Rule | None = None
    few: float = math.inf
    remembers = True

    def __call__(
        self,
        process: Process,
        denoiser: Denoiser,
        x: Tensor,
        t: Time,
        s: Time,
        cond: Cond = None,
        *,
        past: Past | None = None,
    ) -> Tensor:
        x0_hat = denoiser(x, per_row(t, x), cond)
        if past is None:
            return process.jump(x, x0_hat, t, s)
        t, s = float(t), float(s)
        points = past.points
        if self.corrector is not None and points:
            last = points[-1]
            guesses = [Point(t, x, x0_hat, 0), *points[: -last.order - 1 : -1]]
            x = _move(process, self.corrector, guesses, last, t)
        order = self._order(process, past, s)
        points.append(Point(t, x, x0_hat, order))
        return _move(process, self.predictor, points[: -order - 1 : -1], points[-1], s)

    def _order(self, process: Process, past: Past, s: float) -> int:
        left = past.moves - len(past.points)
        usable = 1 + sum(math.isfinite(_log_level(process, point.t)) for point in past.points)
        most = min(self.order, usable)
        if past.moves < self.few:
            return min(most, left)
        return 1 if process.sigma(s) == 0 else most


def _move(process: Process, rule: Rule, near: Sequence[Point], start: Point, s: float) -> Tensor:
    """The move from a point to s by the guesses of others."""
    weights = rule([_log_level(process, point.t) for point in near], _log_level(process, s))
    guess = near[0].x0_hat if weights[0] == 1 else weights[0] * near[0].x0_hat
    for weight, point in zip(weights[1:], near[1:], strict=True):
        guess = guess + weight * point.x0_hat
    return process.jump(start.x, guess, start.t, s)


def dpm_solver(order: int = 2) -> LinearMultistep:
    """DPM-Solver++ of order 1 (DDIM), 2 (2M) or 3 (3M): extrapolation in lambda. Raises UserError.

    Order 2: x0_hat_0 + (x0_hat_0 - x0_hat_1) / (2 r), r the last step in lambda over this one.
    Source: arXiv 2211.01095, algorithm 2. Order 3 and the lower orders at the end are those of its
    code and of diffusers, where the second difference has half of its weight in the expansion and
    in their solver of single steps: so the error of 3M falls no faster than that of 2M.
    """
    require(order in (1, 2, 3), "order", order, "1, 2 or 3")
    return LinearMultistep(order, _dpm_weights, few=FEW)


def unipc(order: int = 2, form: Literal["bh1", "bh2"] = "bh2") -> LinearMultistep:
    """UniPC of order 1, 2 or 3: the next guess corrects each move but the last. Raises UserError.

    form: B(h) = h (bh1) or e^h - 1 (bh2), which matter where an order has one coefficient, set to
    1/2: of the predictor in order 2 and of the corrector in order 1.
    Source: arXiv 2302.04867, algorithms 1 and 2.
    """
    require(order in (1, 2, 3), "order", order, "1, 2 or 3")
    require(form in ("bh1", "bh2"), "form", form, "bh1 or bh2")
    return LinearMultistep(
        order, partial(_unip_weights, form=form), partial(_unic_weights, form=form)
    )


def _dpm_weights(levels: Sequence[float], end: float) -> list[float]:
    """Of x0_hat_0 + c_1 D_1 + c_2 D_2, with the divided differences D_k in units of this step."""
    if len(levels) == 1:
        return [1.0]
    h = end - levels[0]
    r = [(a - b) / h for a, b in pairwise(levels)]
    if len(levels) == 2:
        return [1 + 0.5 / r[0], -0.5 / r[0]]
    phi = math.expm1(-h)
    first = -1 / h - 1 / phi
    second = ((phi + h) / h**2 - 0.5) / phi
    # D_1 = (1 + r_0 / sum r) (m_0 - m_1) / r_0 - r_0 / sum r (m_1 - m_2) / r_1
    newer = (first * (1 + r[0] / sum(r)) + second / sum(r)) / r[0]
    older = -(first * r[0] + second) / sum(r) / r[1]
    return [1 + newer, older - newer, -older]


def _unip_weights(levels: Sequence[float], end: float, *, form: str) -> list[float]:
    if len(levels) == 1:
        return [1.0]
    h = end - levels[0]
    r = [(level - levels[0]) / h for level in levels[1:]]
    shares = [0.5 * _scale(h, form)] if len(r) == 1 else _solve(h, r)
    weights = [share / one for share, one in zip(shares, r, strict=True)]
    return [1 - sum(weights), *weights]


def _unic_weights(levels: Sequence[float], end: float, *, form: str) -> list[float]:
    """Of the guess at the end of the move, of the guess at its start and of earlier ones."""
    _, start, *earlier = levels
    h = end - start
    if not earlier:
        # From pure noise h is infinite, and bh1 has no corrector.
        share = 0.5 * _scale(h, form) if form == "bh2" or math.isfinite(h) else 0.0
        return [share, 1 - share]
    r = [(level - start) / h for level in earlier]
    *shares, new = _solve(h, [*r, 1.0])
    weights = [share / one for share, one in zip(shares, r, strict=True)]
    return [new, 1 - new - sum(weights), *weights]


def _scale(h: float, form: str) -> float:
    """B(h) / (e^h - 1) at -h, where data is predicted."""
    return 1.0 if form == "bh2" else -h / math.expm1(-h)


def _solve(h: float, r: Sequence[float]) -> list[float]:
    """The shares that make the move exact for guesses that are polynomials of lambda.

    sum_k shares_k r_k^(i - 1) = i! phi_(i + 1)(-h) / phi_1(-h) for i = 1 .. len(r), where
    phi_1(z) = (e^z - 1) / z and phi_(i + 1)(z) = (phi_i(z) - 1 / i!) / z.
    """
    first = phi = math.expm1(-h) / -h
    goals = []
    for i in range(1, len(r) + 1):
        phi = (phi - 1 / math.factorial(i)) / -h
        goals.append(math.factorial(i) * phi / first)
    powers = torch.tensor([[one**i for one in r] for i in range(len(r))], dtype=torch.float64)
    shares: list[float] = torch.linalg.solve(powers, powers.new_tensor(goals)).tolist()
    return shares


def _log_level(process: Process, t: float) -> float:
    """lambda = ln(alpha / sigma): -inf in pure noise, inf at the data."""
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    if alpha <= 0 or sigma <= 0:
        return math.inf if alpha > 0 else -math.inf
    return math.log(alpha) - math.log(sigma)
