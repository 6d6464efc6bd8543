"""Checkpoints whose tensors lie in the shards of several processes: PyTorch's own safetensors
writer, our manifest.

Every rank writes what it holds to shard-RANK-*.safetensors: tensors called GROUP/NAME, and in the
header's metadata where each begins in the whole. `torch.distributed.checkpoint` writes these and
reads them into other shards; a process alone puts them together here, without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewstep.base import json_file, tensor_file
from fewstep.base.errors import StorageError, storage
from fewstep.base.tensor_file import Entry, Header

_INFO, _OFFSETS = (
    "DCP_SHARDING_INFO",
    "saved_offsets",
)  # names that torch.distributed.checkpoint gives


class Piece(NamedTuple):
    """A part of a tensor: in which file, and where in the whole it begins."""

    file: Path
    name: str  # in the file
    entry: Entry
    offsets: tuple[int, ...]


def _pieces(file: Path) -> Iterator[Piece]:
    """What a shard declares. Raises StorageError."""
    with storage(f"{file} cannot be read"), file.open("rb") as opened:
        found, metadata, _ = tensor_file.header(opened, file.stat().st_size, file)
    info = json_file.document(metadata.get(_INFO, "").encode(), f"{file}: {_INFO}")
    for name, entry in found.items():
        try:
            offsets = tuple(info[name][_OFFSETS])
            fine = len(offsets) == len(entry.shape) and all(
                type(n) is int and 0 <= n < 2**53 for n in offsets
            )
        except (KeyError, TypeError) as error:
            raise StorageError(f"{file} does not say where {name!r} begins in the whole") from error
        if not fine or "/" not in name:
            raise StorageError(
                f"{file} says that {name!r} begins at {str(offsets)[:60]}: it is no shard of a"
                " group"
            )
        yield Piece(file, name, entry, offsets)


class Shards(Mapping[str, dict[str, Tensor]]):
    """The groups of a folder of shards by name, put together when they are asked for."""

    def __init__(self, files: list[Path]) -> None:
        self.parts: dict[str, dict[str, list[Piece]]] = {}
        for piece in (piece for file in sorted(files) for piece in _pieces(file)):
            group, _, name = piece.name.partition("/")
            self.parts.setdefault(group, {}).setdefault(name, []).append(piece)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, group: str) -> dict[str, Tensor]:
        return {
            name: _joined(pieces, self._entry(pieces)) for name, pieces in self.parts[group].items()
        }

    def _entry(self, pieces: list[Piece]) -> Entry:
        ends = [[a + n for a, n in zip(p.offsets, p.entry.shape, strict=True)] for p in pieces]
        return Entry(pieces[0].entry.dtype, tuple(max(axis) for axis in zip(*ends, strict=True)))

    def layout(self) -> dict[str, Header]:
        """The dtype and shape of every whole tensor; none is read."""
        return {
            g: {name: self._entry(pieces) for name, pieces in named.items()}
            for g, named in self.parts.items()
        }


def _joined(pieces: list[Piece], entry: Entry) -> Tensor:
    """The whole tensor. Raises StorageError where its pieces leave a hole or lie on each other."""
    numbers = sum(torch.Size(piece.entry.shape).numel() for piece in pieces)
    if numbers != torch.Size(entry.shape).numel() or any(
        piece.entry.dtype != entry.dtype for piece in pieces
    ):
        raise StorageError(
            f"{pieces[0].file.parent}: the shards of {pieces[0].name!r} do not make it whole"
        )
    found = torch.empty(entry.shape, dtype=entry.dtype)
    for piece in pieces:
        part = found
        for axis, (first, length) in enumerate(zip(piece.offsets, piece.entry.shape, strict=True)):
            part = part.narrow(axis, first, length)
        try:
            with safe_open(piece.file, framework="pt") as opened:
                part.copy_(opened.get_tensor(piece.name))
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{piece.file} cannot be read: {error}") from error
    return found


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """What fails on any rank, which PyTorch collects into no ordinary exception, as one line on all
    ranks.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (first, _) = next(iter(error.failures.items()))
        told = str(first).partition("\n")[0] or type(first).__name__
        raise StorageError(f"{what}: rank {rank}: {told}") from error


def save(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Every rank writes its part of the groups into the folder, which is there, durably."""
    import torch.distributed.checkpoint  # here, since it takes seconds

    dcp: Any = torch.distributed.checkpoint
    named: dict[str, Any] = {
        f"{group}/{n}": tensor for group, kept in groups.items() for n, tensor in kept.items()
    }
    with _telling(f"cannot write the shards of {folder}"):
        dcp.save(
            named,
            storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True),
            no_dist=False,
        )


def load(folder: Path, into: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Every rank reads its part of the groups into tensors that are there, however many ranks wrote
    them.
    """
    import torch.distributed.checkpoint  # here, since it takes seconds

    dcp: Any = torch.distributed.checkpoint
    named: dict[str, Any] = {
        f"{group}/{n}": tensor for group, kept in into.items() for n, tensor in kept.items()
    }
    with _telling(f"cannot read the shards of {folder}"):
        dcp.load(named, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=False)
