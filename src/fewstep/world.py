"""The processes that train one run together, as far as the code of a step needs to know them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """A process among `size`; the one of rank 0 alone writes and speaks. Where there is one, nothing is exchanged."""

    rank: int = 0
    size: int = 1
    local: int = 0  # the rank among those of this machine

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """x `[n, ...]` of every rank, in the order of ranks: `[size n, ...]`, the same bits everywhere."""
        if self.size == 1:
            return x
        from torch import distributed

        found = [torch.empty_like(x) for _ in range(self.size)]
        distributed.all_gather(found, x.contiguous())
        return torch.cat(found)

    def total(self, *numbers: float, device: torch.device | None = None) -> list[float]:
        """Each number's sum over the ranks."""
        if self.size == 1:
            return list(numbers)
        mine = torch.tensor([numbers], dtype=torch.float64 if device is None or device.type != "mps" else None)
        return self.gather(mine.to(device or "cpu")).sum(0).tolist()

    def share(self, x: Tensor) -> Tensor:
        """This rank's part of the rows of x."""
        rows = len(x) // self.size
        return x[self.rank * rows : (self.rank + 1) * rows]


ALONE = World()
