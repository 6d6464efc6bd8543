"""Tensors of a checkpoint in shards, which the processes of a run write and read side by side.

Every rank writes its part to shard-RANK-*.safetensors: tensors called GROUP/NAME, and in the
header's metadata where each begins in the whole. `torch.distributed.checkpoint` writes these and
reads them into other shards; a single process joins them here without it.
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

# Names that torch.distributed.checkpoint gives.
_INFO = "DCP_SHARDING_INFO"
_OFFSETS = "saved_offsets"


class Piece(NamedTuple):
    """A part of a tensor: in which file, and where in the whole it begins."""

    file: Path
    name: str  # in the file
    entry: Entry
    offsets: tuple[int, ...]


def _pieces(file: Path) -> Iterator[Piece]:
    """The pieces that a shard declares. Raises StorageError."""
    with storage(f"{file} cannot be read"), file.open("rb") as stream:
        entries, metadata, _ = tensor_file.header(stream, file.stat().st_size, file)
    info = json_file.document(metadata.get(_INFO, "").encode(), f"{file}: {_INFO}")
    for name, entry in entries.items():
        try:
            offsets = tuple(info[name][_OFFSETS])
            fine = len(offsets) == len(entry.shape)
            fine = fine and all(type(n) is int and 0 <= n < 2**53 for n in offsets)
        except (KeyError, TypeError) as error:
            raise StorageError(f"{file} does not say where {name!r} begins in the whole") from error
        if not fine or "/" not in name:
            raise StorageError(
                f"{file}: {name!r} begins at {str(offsets)[:60]}: it is no shard of a group"
            )
        yield Piece(file, name, entry, offsets)


class Shards(Mapping[str, dict[str, Tensor]]):
    """The groups of a folder of shards by name; each is joined when it is used."""

    def __init__(self, files: list[Path]) -> None:
        self.parts: dict[str, dict[str, list[Piece]]] = {}
        for file in sorted(files):
            for piece in _pieces(file):
                group, _, name = piece.name.partition("/")
                self.parts.setdefault(group, {}).setdefault(name, []).append(piece)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, group: str) -> dict[str, Tensor]:
        return {name: _join(pieces) for name, pieces in self.parts[group].items()}

    def layout(self) -> dict[str, Header]:
        """The dtype and shape of every whole tensor; none is read."""
        return {
            group: {name: _whole_entry(pieces) for name, pieces in parts.items()}
            for group, parts in self.parts.items()
        }


def _whole_entry(pieces: list[Piece]) -> Entry:
    """The dtype of the pieces, and the shape that reaches as far as the farthest of them."""
    ends = [[a + n for a, n in zip(p.offsets, p.entry.shape, strict=True)] for p in pieces]
    return Entry(pieces[0].entry.dtype, tuple(max(axis) for axis in zip(*ends, strict=True)))


def _join(pieces: list[Piece]) -> Tensor:
    """The whole tensor. Raises StorageError where its pieces leave a hole or overlap."""
    dtype, shape = _whole_entry(pieces)
    numbers = sum(torch.Size(piece.entry.shape).numel() for piece in pieces)
    same_type = all(piece.entry.dtype == dtype for piece in pieces)
    if numbers != torch.Size(shape).numel() or not same_type:
        raise StorageError(
            f"{pieces[0].file.parent}: the shards of {pieces[0].name!r} do not make it whole"
        )
    tensor = torch.empty(shape, dtype=dtype)
    for piece in pieces:
        part = tensor
        for axis, (first, length) in enumerate(zip(piece.offsets, piece.entry.shape, strict=True)):
            part = part.narrow(axis, first, length)
        try:
            with safe_open(piece.file, framework="pt") as stream:
                part.copy_(stream.get_tensor(piece.name))
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{piece.file} cannot be read: {error}") from error
    return tensor


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Raises a failure of any rank as a one-line StorageError on all ranks.

    PyTorch collects failures in an exception that is no ordinary one.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (first, _) = next(iter(error.failures.items()))
        reason = str(first).partition("\n")[0] or type(first).__name__
        raise StorageError(f"{what}: rank {rank}: {reason}") from error


def _flat(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """The tensors by GROUP/NAME."""
    return {f"{group}/{n}": x for group, tensors in groups.items() for n, x in tensors.items()}


def save(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Every rank writes its part of the groups into the folder, which exists, and syncs it."""
    import torch.distributed.checkpoint  # here, since it takes seconds

    dcp: Any = torch.distributed.checkpoint
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _one_line(f"cannot write the shards of {folder}"):
        dcp.save(_flat(groups), storage_writer=writer, no_dist=False)


def load(folder: Path, into: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Every rank reads its part of the groups into these tensors, however many ranks wrote them."""
    import torch.distributed.checkpoint  # here, since it takes seconds

    dcp: Any = torch.distributed.checkpoint
    with _one_line(f"cannot read the shards of {folder}"):
        reader = dcp.HuggingFaceStorageReader(str(folder))
        dcp.load(_flat(into), storage_reader=reader, no_dist=False)
