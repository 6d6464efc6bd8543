"""Components that are wide along a few axes of many: a denoiser of 1024 numbers for the price of
their span.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.exact.components import Seen, bent, gains, of_picked


@dataclass(frozen=True, eq=False)
class LowRank:
    """Components N(m_k, U_k diag(l_k) U_k^T + e_k I): products of x with the means and all bases,
    no `[B, K, d]`.

    Along U_k a component has the variance l + e, and e across: both follow x with a gain of their
    own, E_k[x0 | x] = m + g_e (x - a m) + U (g_l - g_e) U^T (x - a m) (Woodbury's identity, in
    eigenvectors).
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
    def _variances(self) -> Tensor:
        """Along each axis of the span, and across last, `[K, r + 1]`."""
        return torch.cat([self.values[:, :-1] + self.values[:, -1:], self.values[:, -1:]], 1)

    @property
    def _bases(self) -> Tensor:
        """All spans side by side, `[d, K r]`."""
        return self.vectors.transpose(0, 1).flatten(1)

    def to(self, device: torch.device) -> LowRank:
        return LowRank(
            *(part.to(device) for part in (self.log_weights, self.means, self.values, self.vectors))
        )

    def _turn(self, x: Tensor) -> Tensor:
        """U_k^T x for every k: `[B, d]` -> `[B, K, r]`."""
        return (x @ self._bases).unflatten(1, self.values[:, :-1].shape)

    def _turned(self) -> Tensor:
        """U_k^T m_k, `[K, r]`."""
        return (self.means[:, None] @ self.vectors)[:, 0]

    def see(self, x: Tensor, a: Tensor, s: Tensor) -> Seen:
        """|y|^2 / v_e - sum_j p_j^2 (1 / v_e - 1 / v_j), y = x - a m and p = U^T y; as `Isotropic`,
        less |x|^2 / w.
        """
        v, gain, rest = gains(self._variances, a[:, None], s[:, None])
        inside, across = v[:, :, :-1], v[:, :, -1]
        p = self._turn(x) - a[:, None] * self._turned()
        widest, size = across.amax(1, keepdim=True), x.square().sum(1, keepdim=True)
        near = (a * (x @ self.means.T) - a.square() * self.means.square().sum(1) / 2) / across
        near = near - size * (1 / across - 1 / widest) / 2
        near = near + (p.square() * (1 / across[:, :, None] - 1 / inside)).sum(2) / 2
        left = x.shape[1] - inside.shape[2]
        logs = (2 * math.pi * inside).log().sum(2) + left * (2 * math.pi * across).log()
        return Seen(
            self.log_weights + near - logs / 2, (-size / (2 * widest))[:, 0], gain, rest, x, p
        )

    def mean(self, seen: Seen, shares: Tensor) -> Tensor:
        assert seen.along is not None
        across = (shares * seen.gain[:, :, -1]).sum(1, keepdim=True)
        bent = shares[:, :, None] * self._bend(seen)
        return (
            (shares * seen.rest[:, :, -1]) @ self.means
            + across * seen.apart
            + bent.flatten(1) @ self._bases.T
        )

    def _bend(self, seen: Seen) -> Tensor:
        """(g_l - g_e) U^T (x - a m), `[B, K, r]`."""
        assert seen.along is not None
        return (seen.gain[:, :, :-1] - seen.gain[:, :, -1:]) * seen.along

    def variance(self, seen: Seen, shares: Tensor) -> Tensor:
        """sum_k p_k (sum_j l_j rest_j + |mean_k|^2) - |mean|^2, in deviations of the gain across,
        as `Isotropic`.
        """
        x, bend, rest = seen.apart, self._bend(seen), seen.rest[:, :, -1]
        left = x.shape[1] - bend.shape[2]
        counts = torch.ones_like(self.values)
        counts[:, -1] = left
        inside = (self._variances * counts * seen.rest).sum(2)
        common = (shares * seen.gain[:, :, -1]).sum(1, keepdim=True)
        uneven = seen.gain[:, :, -1] - common
        square = (
            rest.square() * self.means.square().sum(1)
            + (uneven * x.norm(dim=1, keepdim=True)).square()
        )
        square = square + 2 * rest * uneven * (x @ self.means.T) + bend.square().sum(2)
        square = square + 2 * (
            bend * (rest[:, :, None] * self._turned() + uneven[:, :, None] * self._turn(x))
        ).sum(2)
        drawn = (self.mean(seen, shares) - common * x).square().sum(1)
        return (shares * (inside + square)).sum(1) - drawn

    def place(self, picked: Tensor, z: Tensor) -> Tensor:
        """One product of the whole block for each component in it: bits do not depend on who else
        is asked for.
        """
        floor = self.values[:, -1].sqrt()
        x0 = self.means[picked] + floor[picked, None] * z
        for k in picked.unique().tolist():
            longer = (self.values[k, :-1] + self.values[k, -1]).sqrt() - floor[k]
            bent = (z @ self.vectors[k] * longer) @ self.vectors[k].T
            x0 = x0 + torch.where((picked == k)[:, None], bent, 0.0)
        return x0

    def replace(self, seen: Seen, picked: Tensor, z: Tensor) -> Tensor:
        gain, rest, bend = (
            of_picked(part, picked) for part in (seen.gain, seen.rest, self._bend(seen))
        )
        width = (self._variances[picked] * rest).sqrt()
        across = (
            rest[:, :, -1:] * self.means[picked]
            + gain[:, :, -1:] * seen.apart[:, None]
            + width[:, :, -1:] * z
        )
        turned = bent(z, self.vectors.mT, picked)
        return across + bent(
            bend + (width[:, :, :-1] - width[:, :, -1:]) * turned, self.vectors, picked
        )
