"""The processes that train one run together, and the sums and copies that a step needs of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)

_TEXT = 512  # bytes of a text that ranks exchange


@dataclass(frozen=True)
class World:
    """A process among `size`; rank 0 alone writes and reports. One process exchanges nothing."""

    rank: int = 0
    size: int = 1
    local: int = 0  # the rank among the processes of this machine

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """x `[n, ...]` of every rank, in their order: `[size n, ...]`, the same bits everywhere."""
        if self.size == 1:
            return x
        from torch import distributed

        result = torch.empty((self.size, *x.shape), dtype=x.dtype, device=x.device)
        distributed.all_gather(list(result.unbind(0)), x.contiguous())
        return result.flatten(0, 1)

    def total(self, number: int) -> int:
        """The sum of every rank's number."""
        return number if self.size == 1 else int(self.gather(torch.tensor([number])).sum())

    def first(self, number: int) -> int:
        """Rank 0's number."""
        return int(self.texts(str(number))[0])

    def each_part(self, own: Tensor | None, parts: int) -> Iterator[Tensor]:
        """The tensors of the first ranks on every rank, one after the other, on the CPU.

        own: this rank's, if it is one of these; their shapes and types may differ.
        """
        from torch import distributed

        facts = "" if own is None else json.dumps([TYPES.index(own.dtype), *own.shape])
        for rank, text in enumerate(self.texts(facts)[:parts]):
            number, *shape = json.loads(text)
            part = torch.empty(shape, dtype=TYPES[number])
            if rank == self.rank and own is not None:
                part = own.contiguous()
            distributed.broadcast(part, rank)
            yield part

    def meet(self) -> None:
        """Waits until all ranks are here."""
        self.total(0)

    def texts(self, text: str) -> list[str]:
        """Every rank's text, cut to 512 bytes."""
        if self.size == 1:
            return [text]
        content = text.encode()[:_TEXT].ljust(_TEXT, b"\0")
        rows = self.gather(torch.tensor([list(content)], dtype=torch.uint8))
        return [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in rows]


ALONE = World()


def is_divided(tensor: Tensor) -> bool:
    """Whether every rank has a part of it alone."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """The tensor; of one in shards, all of them put together on every rank."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def scatter_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has whole, on the device of another, and in its shards."""
    mesh = getattr(like, "device_mesh", None)
    if mesh is None or tensor.ndim == 0:
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]
