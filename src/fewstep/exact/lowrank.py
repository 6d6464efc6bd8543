"""Components that are wide along a few axes of many: large data at the price of their span."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.exact.components import Evidence, combine, gains, take


@dataclass(frozen=True, eq=False)
class LowRank:
    """Components N(m_k, U_k diag(l_k) U_k^T + e_k I): products of x with means and bases alone.

    Along U_k a component has the variance l + e, and e across: both follow x with a gain of their
    own, E_k[x0 | x] = m + g_e (x - a m) + U (g_l - g_e) U^T (x - a m) (Woodbury's identity, in
    eigenvectors). Nothing is `[B, K, d]`.
    """

    log_weights: Tensor  # [K]
    means: Tensor  # [K, d]
    values: Tensor  # l, and e last [K, r + 1]
    vectors: Tensor  # U [K, d, r], orthonormal columns

    @property
    def row_size(self) -> int:
        return self.means.shape[1] + self.values.numel()

    @property
    def axes(self) -> Tensor:
        across = self.values[:, -1:].expand(-1, self.means.shape[1] - self.vectors.shape[2])
        return torch.cat([self.values[:, :-1] + self.values[:, -1:], across], 1)

    @property
    def variances(self) -> Tensor:
        """Along each axis of the span, and across last, `[K, r + 1]`."""
        return torch.cat([self.values[:, :-1] + self.values[:, -1:], self.values[:, -1:]], 1)

    @property
    def _bases(self) -> Tensor:
        """All spans side by side, `[d, K r]`."""
        return self.vectors.transpose(0, 1).flatten(1)

    def to(self, device: torch.device) -> LowRank:
        parts = (self.log_weights, self.means, self.values, self.vectors)
        return LowRank(*(part.to(device) for part in parts))

    def _turn(self, x: Tensor) -> Tensor:
        """U_k^T x for every k: `[B, d]` -> `[B, K, r]`."""
        return (x @ self._bases).unflatten(1, self.values[:, :-1].shape)

    def _turn_means(self) -> Tensor:
        """U_k^T m_k, `[K, r]`."""
        return (self.means[:, None] @ self.vectors)[:, 0]

    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Evidence:
        """|y|^2 / v_e - sum_j p_j^2 (1 / v_e - 1 / v_j), y = x - a m and p = U^T y.

        As in `Isotropic`, less |x|^2 / w.
        """
        v, gain, rest = gains(self.variances, a[:, None], s[:, None])
        inside, across = v[:, :, :-1], v[:, :, -1]
        p = self._turn(x) - a[:, None] * self._turn_means()
        widest = across.amax(1, keepdim=True)
        size = x.square().sum(1, keepdim=True)
        near = (a * (x @ self.means.T) - a.square() * self.means.square().sum(1) / 2) / across
        near = near - size * (1 / across - 1 / widest) / 2
        near = near + (p.square() * (1 / across[:, :, None] - 1 / inside)).sum(2) / 2
        left = x.shape[1] - inside.shape[2]
        logs = (2 * math.pi * inside).log().sum(2) + left * (2 * math.pi * across).log()
        joint = self.log_weights + near - logs / 2
        return Evidence(joint, (-size / (2 * widest))[:, 0], gain, rest, x, p)

    def mean(self, evidence: Evidence, shares: Tensor) -> Tensor:
        across = (shares * evidence.gain[:, :, -1]).sum(1, keepdim=True)
        bend = shares[:, :, None] * self._bend(evidence)
        mean = (shares * evidence.rest[:, :, -1]) @ self.means + across * evidence.apart
        return mean + bend.flatten(1) @ self._bases.T

    def _bend(self, evidence: Evidence) -> Tensor:
        """(g_l - g_e) U^T (x - a m), `[B, K, r]`."""
        assert evidence.along is not None
        return (evidence.gain[:, :, :-1] - evidence.gain[:, :, -1:]) * evidence.along

    def variance(self, evidence: Evidence, shares: Tensor) -> Tensor:
        """sum_k p_k (sum_j l_j rest_j + |mean_k|^2) - |mean|^2, as `Isotropic`.

        In deviations of the gain across from its mean.
        """
        x = evidence.apart
        bend = self._bend(evidence)
        rest = evidence.rest[:, :, -1]
        left = x.shape[1] - bend.shape[2]
        counts = torch.ones_like(self.values)
        counts[:, -1] = left
        inside = (self.variances * counts * evidence.rest).sum(2)
        common = (shares * evidence.gain[:, :, -1]).sum(1, keepdim=True)
        uneven = evidence.gain[:, :, -1] - common
        across = (uneven * x.norm(dim=1, keepdim=True)).square()
        among = rest.square() * self.means.square().sum(1) + across
        among = among + 2 * rest * uneven * (x @ self.means.T) + bend.square().sum(2)
        turn = rest[:, :, None] * self._turn_means() + uneven[:, :, None] * self._turn(x)
        among = among + 2 * (bend * turn).sum(2)
        square = (self.mean(evidence, shares) - common * x).square().sum(1)
        return (shares * (inside + among)).sum(1) - square

    def place(self, index: Tensor, z: Tensor) -> Tensor:
        """One product of the block for each component: a row's bits depend on no other row."""
        floor = self.values[:, -1].sqrt()
        x0 = self.means[index] + floor[index, None] * z
        for k in index.unique().tolist():
            longer = (self.values[k, :-1] + self.values[k, -1]).sqrt() - floor[k]
            shift = (z @ self.vectors[k] * longer) @ self.vectors[k].T
            x0 = x0 + torch.where((index == k)[:, None], shift, 0.0)
        return x0

    def replace(self, evidence: Evidence, index: Tensor, z: Tensor) -> Tensor:
        gain = take(evidence.gain, index)
        rest = take(evidence.rest, index)
        bend = take(self._bend(evidence), index)
        width = (self.variances[index] * rest).sqrt()
        mean = rest[:, :, -1:] * self.means[index] + gain[:, :, -1:] * evidence.apart[:, None]
        across = mean + width[:, :, -1:] * z
        longer = width[:, :, :-1] - width[:, :, -1:]
        along = bend + longer * combine(z, self.vectors.mT, index)
        return across + combine(along, self.vectors, index)
