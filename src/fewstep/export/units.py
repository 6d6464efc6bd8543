"""Units inside a graph: `Units.to_model` and `to_user` by operations of tensors alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewstep.base.errors import UserError
from fewstep.data import Units


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
    variable's last one are infinite, so that no value reaches them.
    """

    shift: Tensor
    scale: Tensor
    shares: Tensor  # [variables, knots]
    values: Tensor
    last: Tensor  # [variables]: the place of the last knot
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
        share = (1 + torch.erf(y * 0.5**0.5)) / 2
        after = (share.unsqueeze(-1) >= self.shares).sum(-1)
        left = (after - 1).clamp_min(0)
        right = torch.minimum(after, self.last)
        low, high = _at(self.shares, left), _at(self.shares, right)
        gap = high - low
        way = torch.where(gap > 0, (share - low) / torch.where(gap > 0, gap, 1.0), 0.0)
        start, end = _at(self.values, left), _at(self.values, right)
        x = torch.where(self.has_law, start + way * (end - start), y)
        return x.squeeze(-1) if self.axis is None else x.movedim(-1, place)


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
    counts = [1 if law is None else len(law.shares) for law in laws]
    return {
        "shares": shares,
        "values": values,
        "last": torch.tensor(counts) - 1,
        "has_law": torch.tensor([law is not None for law in laws]),
    }
