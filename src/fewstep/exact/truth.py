"""Mixtures of Gaussians on any process: denoiser, densities, samples and trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.base.conditions import Cond, pick
from fewstep.base.errors import UserError, require
from fewstep.base.randomness import generator, rows
from fewstep.core.process import Process, Time, per_row, wide
from fewstep.data import Arrays
from fewstep.exact import flow
from fewstep.exact.components import Components, Evidence
from fewstep.exact.draws import check_labels, coefficients, conditional_draws
from fewstep.exact.solutions import Solution, error_between, integrate

_BLOCK = 64  # samples of one draw
_NUMBERS_AT_ONCE = 2**21  # rows go through in pieces of about this many numbers: 16 MiB of float64
_TOLERANCE = 1e-11  # of a step, in units of the marginal's standard deviation


Answer = Callable[..., Tensor]  # (components, evidence, joint [B, K], *more) -> [B, ...]


def numbers(name: str, value: Any) -> Tensor:
    """Finite numbers in float64, on the CPU, of a tensor, an array, a list or a number.

    Raises UserError for anything else.
    """
    try:
        plain = value.detach().cpu() if isinstance(value, Tensor) else value
        result = torch.as_tensor(plain, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"{name} of type {type(value).__name__}: expected a tensor or array of numbers"
        ) from None
    if not bool(torch.isfinite(result).all()):
        raise UserError(f"{name} holds NaN or infinity: expected finite numbers")
    return result


class Truth:
    """A mixture of Gaussians as a denoiser, `(x_t, t, cond=None) -> x0_hat`, in closed form.

    It computes in float64, on x_t's device, and the result has x_t's dtype. `cond` are labels `[B]`
    where the components have some (`classes` of them), -1 for none. Inside, data is flat and in
    standard units: mean 0 and mean square 1 over all elements.
    """

    ends = 1

    def __init__(
        self,
        components: Components,
        labels: Tensor | None,
        mean: Tensor,
        scale: float,
        process: Process,
    ) -> None:
        self.process = process
        self.shape = tuple(mean.shape)
        self.classes = 0 if labels is None else int(labels.max()) + 1
        self._scale = scale
        self._there = {torch.device("cpu"): (components, labels, mean.flatten())}

    @property
    def mean(self) -> Tensor:
        """E x0, `[*shape]` in float64."""
        return self._parts(torch.device("cpu"))[2].reshape(self.shape)

    @property
    def variance(self) -> float:
        """tr Cov[x0] / d."""
        x = torch.zeros(1, self.mean.numel(), dtype=torch.float64)
        a = torch.zeros(1, 1, dtype=torch.float64)
        total = self._each(_variance, x, a, torch.ones_like(a), None)
        return self._scale**2 / x.shape[1] * total.item()

    @property
    def components(self) -> Components:
        """The Gaussians, flat and in standard units: x0 = mean + scale times theirs."""
        return self._parts(torch.device("cpu"))[0]

    @property
    def scale(self) -> float:
        """Of the standard units."""
        return self._scale

    def __repr__(self) -> str:
        count = len(self.components.log_weights)
        classes = f", {self.classes} classes" if self.classes else ""
        about = f"{count} components of shape {self.shape}{classes}"
        return f"{type(self).__name__}({about}, {self.process})"

    def _parts(self, device: torch.device) -> tuple[Components, Tensor | None, Tensor]:
        if device not in self._there:
            components, labels, mean = self._there[torch.device("cpu")]
            labels = None if labels is None else labels.to(device)
            self._there[device] = components.to(device), labels, mean.to(device)
        return self._there[device]

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None) -> Tensor:
        """x0_hat = E[x0 | x_t], like x_t; with `to` the one that jumps to `solve(x_t, t, to)`.

        The second is a closed form, with derivatives, in rows that have one component (left by
        their labels). Others are solved, without gradient: use differences or `torch.func.jvp`.
        """
        u, a, s = self._standard(x_t, t)
        mask = self._mask(cond, x_t)
        components, _, centre = self._parts(u.device)
        if to is None:
            x0 = centre + self._scale * self._each(_mean, u, a, s, mask)
            return x0.to(x_t.dtype).to(x_t.device).reshape(x_t.shape)
        to = flow.end(to, t, x_t)
        weights = components.log_weights.expand(len(u), -1)
        left = weights if mask is None else weights.masked_fill(mask, -torch.inf)
        several = left.isfinite().sum(1) > 1
        x = x_t.to(u.device).double()
        x0 = torch.zeros_like(x)
        if not bool(several.all()):
            ends = (a, s, *self._coefficients(to, x_t))
            x0 = centre + self._scale * self._each(flow.lead, u, a, s, mask, *ends)
            x0 = x0.reshape(x_t.shape)
        if bool(several.any()):
            rows = several.nonzero()[:, 0]
            start, end = (times[rows.cpu()] for times in (per_row(t, x_t), to))
            few = flow.by_solution(self, x[rows], start, end, pick(cond, rows))
            x0 = x0.index_copy(0, rows, few)
        return x0.to(x_t.dtype).to(x_t.device)

    def posterior_variance(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        """tr Cov[x0 | x_t] / d, `[B]`."""
        u, a, s = self._standard(x_t, t)
        total = self._each(_variance, u, a, s, self._mask(cond, x_t)).clamp_min(0.0)
        return (self._scale**2 / u.shape[1] * total).to(x_t.dtype).to(x_t.device)

    def log_density(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        """log p_t(x_t) of the noised law, of x_t's class where `cond` names one, `[B]`."""
        u, a, s = self._standard(x_t, t)
        density = self._each(_log_density, u, a, s, self._mask(cond, x_t))
        density = density - u.shape[1] * math.log(self._scale)
        return density.to(x_t.dtype).to(x_t.device)

    @torch.no_grad()
    def posterior(self, x_t: Tensor, t: Time, n: int, seed: int = 0, cond: Cond = None) -> Tensor:
        """n exact draws of x0 given x_t, `[n, B, *shape]`.

        Draw j of row i depends on the seed, j and i alone.
        """
        require(n > 0, "n", n, "at least 1 draw")
        u, a, s = self._standard(x_t, t)
        chances, z = conditional_draws(seed, n, *u.shape)
        more = (chances.to(u.device).transpose(0, 1), z.to(u.device).transpose(0, 1))
        draws = self._each(_draw, u, a, s, self._mask(cond, x_t), *more).transpose(0, 1)
        x0 = self._parts(u.device)[2] + self._scale * draws
        return x0.to(x_t.dtype).to(x_t.device).reshape(n, *x_t.shape)

    def solution(self, x: Tensor, t: Time, s: Time, cond: Cond = None) -> Solution:
        """`solve`, and how far from the ODE's solution it is, by solving again with half the steps.

        A method of order 10 then has 1/1000 of its error: the difference of the two solutions is
        the first one's error.
        """
        first = self._solve(x, t, s, cond)
        again = self._solve(x, t, s, cond, halve=True)
        unit = self._scale * torch.hypot(*self._coefficients(s, x))[:, 0]
        error = error_between(first, again, unit)
        return Solution(first.to(x.dtype).to(x.device), error.to(x.device))

    @torch.no_grad()
    def solve(self, x: Tensor, t: Time, s: Time, cond: Cond = None) -> Tensor:
        """The probability-flow ODE's solution at s that passes x at t, up or down; no gradients.

        With (a, s) = rho (cos h, sin h) in standard units, u = x / rho has du/dh = (cos h u - D) /
        sin h on every process, regular where alpha or sigma vanish. Where sigma(t) = 0, the part of
        x that the components cannot explain is unknown noise, and taken as 0.
        """
        return self._solve(x, t, s, cond).to(x.dtype).to(x.device)

    @torch.no_grad()
    def _solve(self, x: Tensor, t: Time, s: Time, cond: Cond, halve: bool = False) -> Tensor:
        """In float64."""
        u, a_t, s_t = self._standard(x, t)
        a_s, s_s = self._coefficients(s, x)
        mask = self._mask(cond, x)

        def slope(u: Tensor, angle: Tensor, rows: Tensor) -> Tensor:
            a, s = angle.cos()[:, None], angle.sin()[:, None]
            mean = self._each(_mean, u, a, s, None if mask is None else mask[rows])
            return torch.where(s == 0, 0.0, (a * u - mean) / torch.where(s == 0, 1.0, s))

        mean = self._each(_mean, u, a_t, s_t, mask)
        u = torch.where(s_t == 0, mean, u / torch.hypot(a_t, s_t))
        start = torch.atan2(s_t, a_t)[:, 0]
        end = torch.atan2(s_s, a_s)[:, 0]
        u = integrate(slope, u, start, end, tolerance=_TOLERANCE, halve=halve)
        x_s = a_s * self._parts(u.device)[2] + self._scale * torch.hypot(a_s, s_s) * u
        still = (per_row(t, x) == per_row(s, x))[:, None].to(u.device)
        x_s = torch.where(still, x.to(u.device).double().flatten(1), x_s)
        return x_s.reshape(x.shape)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """x0 `[n, *shape]`, float32: sample i depends on the seed and on i alone."""
        return self.draw(n, seed).x0

    def draw(self, n: int, seed: int = 0) -> Arrays:
        """Samples as `sample` gives them, and their labels where there are some."""
        require(n > 0, "n", n, "at least 1 sample")
        components, labels, mean = self._parts(torch.device("cpu"))
        edges = components.log_weights.exp().cumsum(0)

        def block(number: int) -> Tensor:
            source = generator(seed, "exact", number)
            u = torch.rand(_BLOCK, generator=source, dtype=torch.float64) * edges[-1]
            z = torch.randn(_BLOCK, len(mean), generator=source, dtype=torch.float64)
            index = torch.searchsorted(edges, u, right=True).clamp_max(len(edges) - 1)
            return torch.cat([index[:, None], mean + self._scale * components.place(index, z)], 1)

        draws = rows(block, 0, n, _BLOCK)
        x0 = draws[:, 1:].float().reshape(n, *self.shape)
        return Arrays(x0, None if labels is None else labels[draws[:, 0].long()])

    def _coefficients(self, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma `[B, 1]` where data has mean square 1."""
        alpha, sigma = coefficients(self.process, t, x)
        return alpha[:, None].to(wide(x)), sigma[:, None].to(wide(x)) / self._scale

    def _standard(self, x_t: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        if tuple(x_t.shape[1:]) != self.shape:
            raise UserError(
                f"x_t of shape {tuple(x_t.shape)}: expected [B, {', '.join(map(str, self.shape))}]"
            )
        a, s = self._coefficients(t, x_t)
        mean = self._parts(a.device)[2]
        return (x_t.to(a.device).double().flatten(1) - a * mean) / self._scale, a, s

    def _mask(self, cond: Cond, x_t: Tensor) -> Tensor | None:
        """`[B, K]`: which components a row's label rules out; None without labels."""
        label = check_labels(cond, self.classes, x_t)
        labels = self._parts(wide(x_t))[1]
        if label is None or labels is None:
            return None
        label = label.to(labels.device)[:, None]
        return (label >= 0) & (labels != label)

    def _each(
        self, answer: Answer, u: Tensor, a: Tensor, s: Tensor, mask: Tensor | None, *more: Tensor
    ) -> Tensor:
        """`answer(components, evidence, joint, *more)` for all rows, piece by piece.

        joint is the evidence's, given the labels.
        """
        components = self._parts(u.device)[0]

        def some(u: Tensor, a: Tensor, s: Tensor, *rest: Tensor) -> Tensor:
            evidence = components.see(u, a, s)
            if mask is None:
                return answer(components, evidence, evidence.joint, *rest)
            out = rest[0]
            left = components.log_weights.masked_fill(out, -torch.inf).logsumexp(1, keepdim=True)
            joint = evidence.joint.masked_fill(out, -torch.inf) - left
            return answer(components, evidence, joint, *rest[1:])

        size = max(1, _NUMBERS_AT_ONCE // components.row_size)
        parts = (u, a, s, *more) if mask is None else (u, a, s, mask, *more)
        if len(u) <= size:
            return some(*parts)
        pieces = zip(*(part.split(size) for part in parts), strict=True)
        return torch.cat([some(*piece) for piece in pieces])


def _mean(components: Components, evidence: Evidence, joint: Tensor) -> Tensor:
    return components.mean(evidence, joint.softmax(1))


def _variance(components: Components, evidence: Evidence, joint: Tensor) -> Tensor:
    return components.variance(evidence, joint.softmax(1))


def _log_density(components: Components, evidence: Evidence, joint: Tensor) -> Tensor:
    return joint.logsumexp(1) + evidence.common


def _draw(
    components: Components, evidence: Evidence, joint: Tensor, u: Tensor, z: Tensor
) -> Tensor:
    """Draws of x0 given the evidence, `[B, n, d]`, of uniforms `[B, n]` and normals `[B, n, d]`."""
    edges = joint.softmax(1).cumsum(1)
    index = torch.searchsorted(edges, (u * edges[:, -1:]).contiguous(), right=True)
    return components.replace(evidence, index.clamp_max(edges.shape[1] - 1), z)
