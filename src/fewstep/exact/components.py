"""Mixtures of Gaussians in closed form: weights, densities and posteriors of their components.

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


class Evidence(NamedTuple):
    """What x says about the components; `common` is not in `joint`: it would drown the rest."""

    joint: Tensor  # log (weight times density), less `common` [B, K]
    common: Tensor  # [B]
    gain: Tensor  # a l / (a^2 l + s^2): how far a component's posterior mean follows x
    rest: Tensor  # s^2 / (a^2 l + s^2): the share of l that the noise leaves unknown
    apart: Tensor  # what `gain` multiplies
    along: Tensor | None = None  # of `LowRank`: x - a m in each component's own axes [B, K, r]


class Components(Protocol):
    """K Gaussians; `shares` `[B, K]` are posterior probabilities of the components.

    `place` makes draws of the components index `[B]` from unit normals z `[B, d]`, `replace` draws
    of their posteriors given the evidence, n a row: index `[B, n]`, z `[B, n, d]`.
    """

    @property
    def log_weights(self) -> Tensor: ...
    @property
    def means(self) -> Tensor: ...  # [K, d]
    @property
    def row_size(self) -> int: ...  # numbers that one row of x takes
    @property
    def axes(self) -> Tensor: ...  # variances along each component's own axes [K, d]
    @property
    def variances(self) -> Tensor: ...  # those of `Evidence.gain`, [K] or [K, r]
    def to(self, device: torch.device) -> Self: ...
    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Evidence: ...
    def mean(self, evidence: Evidence, shares: Tensor) -> Tensor: ...
    def variance(self, evidence: Evidence, shares: Tensor) -> Tensor: ...
    def place(self, index: Tensor, z: Tensor) -> Tensor: ...
    def replace(self, evidence: Evidence, index: Tensor, z: Tensor) -> Tensor: ...


def gains(values: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(v, gain, rest) with v = a^2 l + s^2; without width nothing follows x, also at s = 0."""
    v = (a.square() * values + s.square()).clamp_min(_LEAST)
    return v, a * values / v, torch.where(values == 0, 1.0, s.square() / v)


@dataclass(frozen=True, eq=False)
class Isotropic:
    """Components N(m_k, l_k I), l_k = 0 included: products of x with the means, no `[B, K, d]`."""

    log_weights: Tensor  # [K]
    means: Tensor  # [K, d]
    values: Tensor  # l [K]

    @property
    def row_size(self) -> int:
        return len(self.means)

    @property
    def axes(self) -> Tensor:
        return self.values[:, None].expand_as(self.means)

    @property
    def variances(self) -> Tensor:
        return self.values

    def to(self, device: torch.device) -> Isotropic:
        return Isotropic(self.log_weights.to(device), self.means.to(device), self.values.to(device))

    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Evidence:
        """-|x - a m|^2 / 2v = -|x|^2 / 2w - |x|^2 (1/v - 1/w) / 2 + (a x.m - a^2 |m|^2 / 2) / v.

        w is the widest v. The first term is common to all components: far out it would drown the
        others.
        """
        v, gain, rest = gains(self.values, a, s)
        widest = v.amax(1, keepdim=True)
        size = x.square().sum(1, keepdim=True)
        near = (a * (x @ self.means.T) - a.square() * self.means.square().sum(1) / 2) / v
        near = near - size * (1 / v - 1 / widest) / 2
        joint = self.log_weights + near - x.shape[1] / 2 * (2 * math.pi * v).log()
        return Evidence(joint, (-size / (2 * widest))[:, 0], gain, rest, x)

    def mean(self, evidence: Evidence, shares: Tensor) -> Tensor:
        common = (shares * evidence.gain).sum(1, keepdim=True)
        return (shares * evidence.rest) @ self.means + common * evidence.apart

    def variance(self, evidence: Evidence, shares: Tensor) -> Tensor:
        """sum_k p_k (d l rest + |mean_k|^2) - |mean|^2, in deviations of the gain from its mean.

        So with equal widths |x|^2 cancels exactly.
        """
        x, rest = evidence.apart, evidence.rest
        uneven = evidence.gain - (shares * evidence.gain).sum(1, keepdim=True)
        inside = x.shape[1] * self.values * rest
        along = 2 * rest * uneven * (x @ self.means.T)
        across = (uneven * x.norm(dim=1, keepdim=True)) ** 2
        among = rest.square() * self.means.square().sum(1) + along + across
        square = ((shares * rest) @ self.means).square().sum(1)
        return (shares * (inside + among)).sum(1) - square

    def place(self, index: Tensor, z: Tensor) -> Tensor:
        return self.means[index] + self.values[index, None].sqrt() * z

    def replace(self, evidence: Evidence, index: Tensor, z: Tensor) -> Tensor:
        gain, rest = (part.gather(1, index)[:, :, None] for part in (evidence.gain, evidence.rest))
        mean = rest * self.means[index] + gain * evidence.apart[:, None]
        return mean + (self.values[index][:, :, None] * rest).sqrt() * z


@dataclass(frozen=True, eq=False)
class FullRank:
    """Components N(m_k, U_k diag(l_k) U_k^T); U None is the identity.

    It takes two products with all bases side by side.
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

    @property
    def variances(self) -> Tensor:
        return self.values

    def to(self, device: torch.device) -> FullRank:
        log_weights, means = self.log_weights.to(device), self.means.to(device)
        vectors = None if self.vectors is None else self.vectors.to(device)
        return FullRank(log_weights, means, self.values.to(device), vectors)

    def _turn(self, x: Tensor) -> Tensor:
        """U_k^T x for every k: `[B, d]` -> `[B, K, d]`."""
        if self.vectors is None:
            return x[:, None].expand(-1, *self.means.shape)
        bases = self.vectors.transpose(0, 1).flatten(1)
        return (x @ bases).unflatten(1, self.means.shape)

    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Evidence:
        means = self.means
        if self.vectors is not None:
            means = (means[:, None] @ self.vectors)[:, 0]
        v, gain, rest = gains(self.values, a[:, None], s[:, None])
        y = self._turn(x) - a[:, None] * means
        joint = self.log_weights - (y.square() / v + (2 * math.pi * v).log()).sum(2) / 2
        return Evidence(joint, torch.zeros_like(joint[:, 0]), gain, rest, y)

    def mean(self, evidence: Evidence, shares: Tensor) -> Tensor:
        shift = shares[:, :, None] * evidence.gain * evidence.apart
        if self.vectors is None:
            return shares @ self.means + shift.sum(1)
        return shares @ self.means + shift.flatten(1) @ self.vectors.transpose(1, 2).flatten(0, 1)

    def variance(self, evidence: Evidence, shares: Tensor) -> Tensor:
        """sum_k p_k (sum_j l rest + |mean_k - mean|^2)."""
        shift = evidence.gain * evidence.apart
        if self.vectors is not None:
            shift = torch.einsum("kij,bkj->bki", self.vectors, shift)
        each = self.means + shift
        among = (each - (shares[:, :, None] * each).sum(1, keepdim=True)).square()
        return (shares * (self.values * evidence.rest + among).sum(2)).sum(1)

    def place(self, index: Tensor, z: Tensor) -> Tensor:
        """One product of the block for each component: a row's bits depend on no other row."""
        if self.vectors is None:
            return self.means[index] + self.values[index].sqrt() * z
        x0 = self.means[index]
        for k in index.unique().tolist():
            shift = (z * self.values[k].sqrt()) @ self.vectors[k].T
            x0 = x0 + torch.where((index == k)[:, None], shift, 0.0)
        return x0

    def replace(self, evidence: Evidence, index: Tensor, z: Tensor) -> Tensor:
        gain, rest = take(evidence.gain, index), take(evidence.rest, index)
        shift = gain * take(evidence.apart, index) + (self.values[index] * rest).sqrt() * z
        if self.vectors is not None:
            shift = combine(shift, self.vectors, index)
        return self.means[index] + shift


def take(part: Tensor, index: Tensor) -> Tensor:
    """`[B, K, ...]` -> `[B, n, ...]`."""
    return part[torch.arange(len(part), device=part.device)[:, None], index]


def combine(x: Tensor, vectors: Tensor, index: Tensor) -> Tensor:
    """x `[B, n, r]` times the vectors `[K, d, r]` of the components index `[B, n]`: `[B, n, d]`."""
    out = x.new_zeros(*x.shape[:2], vectors.shape[1])
    for k in index.unique().tolist():
        out[index == k] = x[index == k] @ vectors[k].T
    return out
