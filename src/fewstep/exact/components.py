"""Mixtures of Gaussians in closed form: weights, densities and posterior moments of their
components.

Everything is float64 and flat: x `[B, d]`, and a, s `[B, 1]` with x = a x0 + s z. A variance a^2 l
+ s^2 of 0 (no noise on a component without width) is read as its limit from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

_LEAST = 1e-100  # in place of a variance of 0: the limit's winner takes all, and nothing overflows


class Seen(NamedTuple):
    """What x says about the components; `common` is left out of `joint`, where it would drown
    differences.
    """

    joint: Tensor  # log (weight times density), less `common` [B, K]
    common: Tensor  # [B]
    gain: Tensor  # a l / (a^2 l + s^2): how far a component's posterior mean follows x
    rest: Tensor  # s^2 / (a^2 l + s^2): the share of l that the noise leaves unknown
    apart: Tensor  # what `gain` multiplies
    along: Tensor | None = None  # of `LowRank`: x - a m in each component's own axes [B, K, r]


class Components(Protocol):
    """K Gaussians; `shares` `[B, K]` are posterior probabilities of the components.

    `place` makes draws of the components picked `[B]` from unit normals `[B, d]`, `replace` draws
    of their posteriors
    given what was seen, n a row: picked `[B, n]`, z `[B, n, d]`.
    """

    @property
    def log_weights(self) -> Tensor: ...
    @property
    def means(self) -> Tensor: ...  # [K, d]
    @property
    def row_size(self) -> int: ...  # numbers that one row of x takes
    @property
    def axes(self) -> Tensor: ...  # variances along each component's own axes [K, d]
    def to(self, device: torch.device) -> Self: ...
    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Seen: ...
    def mean(self, seen: Seen, shares: Tensor) -> Tensor: ...
    def variance(self, seen: Seen, shares: Tensor) -> Tensor: ...
    def place(self, picked: Tensor, z: Tensor) -> Tensor: ...
    def replace(self, seen: Seen, picked: Tensor, z: Tensor) -> Tensor: ...


def gains(values: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(v, gain, rest) with v = a^2 l + s^2; without width nothing follows x, also at s = 0."""
    v = (a.square() * values + s.square()).clamp_min(_LEAST)
    return v, a * values / v, torch.where(values == 0, 1.0, s.square() / v)


@dataclass(frozen=True, eq=False)
class Isotropic:
    """Components N(m_k, l_k I), l_k = 0 included: matrix products of x with the means, no `[B, K,
    d]`.
    """

    log_weights: Tensor  # [K]
    means: Tensor  # [K, d]
    values: Tensor  # l [K]

    @property
    def row_size(self) -> int:
        return len(self.means)

    @property
    def axes(self) -> Tensor:
        return self.values[:, None].expand_as(self.means)

    def to(self, device: torch.device) -> Isotropic:
        return Isotropic(self.log_weights.to(device), self.means.to(device), self.values.to(device))

    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Seen:
        """-|x - a m|^2 / 2v = -|x|^2 / 2w - |x|^2 (1/v - 1/w) / 2 + (a x.m - a^2 |m|^2 / 2) / v, w
        the widest v.

        The first term is common to all components: far out it would drown the others.
        """
        v, gain, rest = gains(self.values, a, s)
        widest, size = v.amax(1, keepdim=True), x.square().sum(1, keepdim=True)
        along = x @ self.means.T
        near = (a * along - a.square() * self.means.square().sum(1) / 2) / v - size * (
            1 / v - 1 / widest
        ) / 2
        joint = self.log_weights + near - x.shape[1] / 2 * (2 * math.pi * v).log()
        return Seen(joint, (-size / (2 * widest))[:, 0], gain, rest, x)

    def mean(self, seen: Seen, shares: Tensor) -> Tensor:
        return (shares * seen.rest) @ self.means + (shares * seen.gain).sum(
            1, keepdim=True
        ) * seen.apart

    def variance(self, seen: Seen, shares: Tensor) -> Tensor:
        """sum_k p_k (d l rest + |mean_k|^2) - |mean|^2, in deviations of the gain: equal widths
        leave no |x|^2.
        """
        x, uneven = seen.apart, seen.gain - (shares * seen.gain).sum(1, keepdim=True)
        inside = x.shape[1] * self.values * seen.rest
        along = 2 * seen.rest * uneven * (x @ self.means.T)
        among = (
            seen.rest.square() * self.means.square().sum(1)
            + along
            + (uneven * x.norm(dim=1, keepdim=True)) ** 2
        )
        drawn = ((shares * seen.rest) @ self.means).square().sum(1)
        return (shares * (inside + among)).sum(1) - drawn

    def place(self, picked: Tensor, z: Tensor) -> Tensor:
        return self.means[picked] + self.values[picked, None].sqrt() * z

    def replace(self, seen: Seen, picked: Tensor, z: Tensor) -> Tensor:
        gain, rest = (part.gather(1, picked)[:, :, None] for part in (seen.gain, seen.rest))
        mean = rest * self.means[picked] + gain * seen.apart[:, None]
        return mean + (self.values[picked][:, :, None] * rest).sqrt() * z


@dataclass(frozen=True, eq=False)
class Rotated:
    """Components N(m_k, U_k diag(l_k) U_k^T): two products with all bases side by side; U None is
    the identity.
    """

    log_weights: Tensor  # [K]
    means: Tensor  # [K, d]
    values: Tensor  # l [K, d]
    vectors: Tensor | None  # U [K, d, d], one eigenvector a column

    @property
    def row_size(self) -> int:
        return self.means.numel()

    @property
    def axes(self) -> Tensor:
        return self.values

    def to(self, device: torch.device) -> Rotated:
        vectors = None if self.vectors is None else self.vectors.to(device)
        return Rotated(
            self.log_weights.to(device), self.means.to(device), self.values.to(device), vectors
        )

    def _turn(self, x: Tensor) -> Tensor:
        """U_k^T x for every k: `[B, d]` -> `[B, K, d]`."""
        if self.vectors is None:
            return x[:, None].expand(-1, *self.means.shape)
        bases = self.vectors.transpose(0, 1).flatten(1)
        return (x @ bases).unflatten(1, self.means.shape)

    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Seen:
        turned = self.means if self.vectors is None else (self.means[:, None] @ self.vectors)[:, 0]
        v, gain, rest = gains(self.values, a[:, None], s[:, None])
        y = self._turn(x) - a[:, None] * turned
        joint = self.log_weights - (y.square() / v + (2 * math.pi * v).log()).sum(2) / 2
        return Seen(joint, torch.zeros_like(joint[:, 0]), gain, rest, y)

    def mean(self, seen: Seen, shares: Tensor) -> Tensor:
        moved = shares[:, :, None] * seen.gain * seen.apart
        if self.vectors is None:
            return shares @ self.means + moved.sum(1)
        return shares @ self.means + moved.flatten(1) @ self.vectors.transpose(1, 2).flatten(0, 1)

    def variance(self, seen: Seen, shares: Tensor) -> Tensor:
        """sum_k p_k (sum_j l rest + |mean_k - mean|^2)."""
        moved = seen.gain * seen.apart
        if self.vectors is not None:
            moved = torch.einsum("kij,bkj->bki", self.vectors, moved)
        each = self.means + moved
        among = (each - (shares[:, :, None] * each).sum(1, keepdim=True)).square()
        return (shares * (self.values * seen.rest + among).sum(2)).sum(1)

    def place(self, picked: Tensor, z: Tensor) -> Tensor:
        """One product of the whole block for each component in it: bits do not depend on who else
        is asked for.
        """
        if self.vectors is None:
            return self.means[picked] + self.values[picked].sqrt() * z
        x0 = self.means[picked]
        for k in picked.unique().tolist():
            bent = (z * self.values[k].sqrt()) @ self.vectors[k].T
            x0 = x0 + torch.where((picked == k)[:, None], bent, 0.0)
        return x0

    def replace(self, seen: Seen, picked: Tensor, z: Tensor) -> Tensor:
        gain, rest, apart = (of_picked(part, picked) for part in (seen.gain, seen.rest, seen.apart))
        moved = gain * apart + (self.values[picked] * rest).sqrt() * z
        return self.means[picked] + (
            moved if self.vectors is None else bent(moved, self.vectors, picked)
        )


def of_picked(part: Tensor, picked: Tensor) -> Tensor:
    """`[B, K, ...]` -> `[B, n, ...]`."""
    return part[torch.arange(len(part), device=part.device)[:, None], picked]


def bent(moved: Tensor, vectors: Tensor, picked: Tensor) -> Tensor:
    """`moved` `[B, n, r]` times the picked component's vectors `[K, d, r]`: `[B, n, d]`."""
    out = moved.new_zeros(*moved.shape[:2], vectors.shape[1])
    for k in picked.unique().tolist():
        out[picked == k] = moved[picked == k] @ vectors[k].T
    return out
