"""Units inside a graph: `Units.to_model` and `to_user` by operations of tensors alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.base.errors import UserError
from fewstep.data import Units

NODES = 24  # of the polynomial that stands for the normal law


class ToModel(nn.Module):
    """A condition's values in the model's units, `Units.to_model`. Raises UserError."""

    shift: Tensor
    scale: Tensor

    def __init__(self, units: Units, ndim: int) -> None:
        super().__init__()
        if units.quantiles:
            raise UserError("a condition with quantiles as units: expected shift and scale")
        shift, scale = units.broadcast(ndim)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", torch.where(scale == 0, torch.inf, scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.double() - self.shift) / self.scale).float()


class ToUser(nn.Module):
    """Samples in the data's units, `Units.to_user`.

    The quantiles of all variables stand in one table, in rows of the same length: shares beyond a
    variable's last one are infinite, so that no value moves towards them.
    """

    shift: Tensor
    scale: Tensor
    shares: Tensor  # [variables, knots]
    values: Tensor
    has_law: Tensor  # [variables] bool

    def __init__(self, units: Units, ndim: int) -> None:
        super().__init__()
        shift, scale = units.broadcast(ndim)
        self.clip = units.clip
        self.axis = units.axis
        self.is_double = units.need_double
        self.has_quantiles = any(law is not None for law in units.quantiles)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        if self.has_quantiles:
            self.series = normal_series()
            for name, table in _tables(units).items():
                self.register_buffer(name, table, persistent=False)

    def forward(self, x0: Tensor) -> Tensor:
        if self.clip:
            x0 = x0.clamp(-1, 1)
        x = self.shift + self.scale * x0.double()
        if self.has_quantiles:
            x = self.by_quantiles(x)
        return x if self.is_double else x.float()

    def by_quantiles(self, y: Tensor) -> Tensor:
        """F^-1(Phi(y)) of each variable, by straight lines between its knots."""
        place = -1 if self.axis is None else self.axis + 1
        y = y.unsqueeze(-1) if self.axis is None else y.movedim(place, -1)
        share = normal_share(y, self.series)
        after = (share.unsqueeze(-1) >= self.shares).sum(-1)
        left = (after - 1).clamp_min(0)
        right = after.clamp_max(self.shares.shape[1] - 1)
        low, high = _at(self.shares, left), _at(self.shares, right)
        gap = high - low
        way = torch.where(gap > 0, (share - low) / torch.where(gap > 0, gap, 1.0), 0.0)
        start, end = _at(self.values, left), _at(self.values, right)
        x = torch.where(self.has_law, start + way * (end - start), y)
        return x.squeeze(-1) if self.axis is None else x.movedim(-1, place)


def normal_share(y: Tensor, series: Sequence[float]) -> Tensor:
    """Phi(y) to 1e-11 by exp and a polynomial: onnxruntime has no erf in float64.

    erfc(z) = t exp(P(2t - 1) - z^2), t = 2 / (2 + z), z = |y| / sqrt 2, where P is smooth on
    [-1, 1] up to z = infinity. series: P's, as `normal_series` gives it.
    """
    z = y.abs() * 0.5**0.5
    t = 2 / (2 + z)
    u = 2 * t - 1
    after = before = torch.zeros_like(u)
    for c in reversed(series[1:]):  # Clenshaw's recurrence
        before, after = 2 * u * before - after + c, before
    below = t * torch.exp(u * before - after + series[0] - z * z) / 2
    return torch.where(y < 0, below, 1 - below)


def normal_series() -> list[float]:
    """The coefficients of P of `normal_share` in Chebyshev polynomials, by its values at nodes."""
    angles = [math.pi * (k + 0.5) / NODES for k in range(NODES)]
    t = (torch.tensor(angles, dtype=torch.float64).cos() + 1) / 2
    values = (torch.special.erfcx(2 / t - 2) / t).log().tolist()
    pairs = list(zip(angles, values, strict=True))
    sums = [sum(value * math.cos(j * a) for a, value in pairs) for j in range(NODES)]
    return [sums[0] / NODES, *(2 * total / NODES for total in sums[1:])]


def _at(table: Tensor, place: Tensor) -> Tensor:
    """table[v, place[..., v]] `[..., V]` of a table `[V, K]`."""
    variables = torch.arange(table.shape[0])
    return table.flatten()[variables * table.shape[1] + place]


def _tables(units: Units) -> dict[str, Tensor]:
    """The knots of all variables; a variable without quantiles has one that is never used."""
    laws = units.quantiles
    most = max(len(law.shares) for law in laws if law is not None)
    shares = torch.full((len(laws), most), torch.inf, dtype=torch.float64)
    values = torch.zeros(len(laws), most, dtype=torch.float64)
    for row, law in enumerate(laws):
        if law is not None:
            count = len(law.shares)
            shares[row, :count] = torch.tensor(law.shares, dtype=torch.float64)
            values[row, :count] = torch.tensor(law.values, dtype=torch.float64)
    return {
        "shares": shares,
        "values": values,
        "has_law": torch.tensor([law is not None for law in laws]),
    }
