"""A checkpoint on the disk: safetensors and JSON under a manifest of sizes and SHA-256; no pickle.

A checkpoint is written to a temporary folder, synced and renamed: a reader sees all of it or none.

    step-N/NAME.safetensors    a group of tensors: student, ema, optimizer, ...
    step-N/state.json          what `schema.Record` says
    step-N/manifest.json       {"files": {name: {"bytes", "sha256"}}}, written last

Format 2 has all of `POSITION`, and a fingerprint over them and the files of the groups; format 1
lacks the log, leaves out what is 0, and its fingerprint is `fingerprint` of its tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fewstep.base import tensor_file
from fewstep.base.errors import StorageError
from fewstep.base.tensor_file import Entry, Header
from fewstep.base.world import World, whole
from fewstep.run.checkpoint.schema import POSITION, Record, Unreadable, read_record
from fewstep.run.checkpoint.shards import Shards

MANIFEST = "manifest.json"
STATE = "state.json"
SUFFIX = ".safetensors"

# {"student": {"weight": ...}, "ema": ..., "optimizer": ...}
Groups = Mapping[str, Mapping[str, Tensor]]


def fingerprint(groups: Groups) -> str:
    """SHA-256 over the canonical (group, name, dtype, shape, bytes) of every tensor."""
    digest = hashlib.sha256()
    for group in sorted(groups):
        for name in sorted(groups[group]):
            tensor = groups[group][name].detach().cpu().contiguous()
            digest.update(f"{group}|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def serialise(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a group's file, a function of its tensors alone: tied weights become copies."""
    return tensors_to_bytes(plain_tensors(tensors))


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the order of their names, whole, on the CPU, each in memory of its own."""
    pointers: set[int] = set()
    return {name: _own(tensor, pointers) for name, tensor in sorted(tensors.items())}


def _own(tensor: Tensor, pointers: set[int]) -> Tensor:
    """The whole tensor on the CPU, in memory of its own; `pointers` holds those of earlier tensors.

    It is copied where it shares its memory with an earlier one or is part of a larger one.
    """
    tensor = whole(tensor.detach()).cpu().contiguous()
    alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    if not alone or tensor.data_ptr() in pointers:
        tensor = tensor.clone()
    pointers.add(tensor.data_ptr())
    return tensor


def root(groups: Mapping[str, str], state: Mapping[str, Any]) -> str:
    """The fingerprint of a run's state: SHA-256 over those of its files and its `POSITION`."""
    values = {name: state[name] for name in POSITION if name in state}
    content = json.dumps({"groups": groups, "values": values}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def state_fingerprint(groups: Groups, state: Mapping[str, Any]) -> str:
    """`root` of groups in memory: the fingerprint that a checkpoint of them would have."""
    return root({name: sha256_of(serialise(tensors)) for name, tensors in groups.items()}, state)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files agree with their hashes; a group is read when it is used."""

    path: Path
    state: dict[str, Any]  # state.json, which `record` reads
    hashes: dict[str, str]  # SHA-256 of each file but the manifest
    groups: Mapping[str, dict[str, Tensor]]

    @property
    def record(self) -> Record:
        """What state.json says."""
        return read_record(self.state)

    @property
    def is_sharded(self) -> bool:
        """Whether several processes wrote their parts of the groups."""
        return self.record.shards is not None

    def layout(self) -> dict[str, Header]:
        """What each group declares: the dtype and shape of its tensors, none of which is read."""
        own = getattr(self.groups, "layout", None)
        if own is not None:
            layout: dict[str, Header] = own()
            return layout
        return {
            group: {name: Entry(one.dtype, tuple(one.shape)) for name, one in tensors.items()}
            for group, tensors in self.groups.items()
        }

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each group has."""
        return {
            group: sum(math.prod(entry.shape) for entry in header.values())
            for group, header in self.layout().items()
        }


def groups_in(path: Path, hashes: dict[str, str], state: dict[str, Any]) -> Mapping[str, Any]:
    """The groups of a folder, whose files have these hashes."""
    if read_record(state).shards is not None:
        return Shards([path / name for name in hashes if name.endswith(SUFFIX)])
    return _Groups(path, hashes)


class _Groups(Mapping[str, dict[str, Tensor]]):
    """The groups of a folder by name; each is read when it is used, and its hash compared again."""

    def __init__(self, path: Path, hashes: dict[str, str]) -> None:
        self.path = path
        self.hashes = hashes
        self.names = [name.removesuffix(SUFFIX) for name in hashes if name.endswith(SUFFIX)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        if name not in self.names:
            raise KeyError(name)
        file = self.path / f"{name}{SUFFIX}"
        content = content_of(file)
        if sha256_of(content) != self.hashes[file.name]:
            raise StorageError(f"{file} changed meanwhile: is another process writing there?")
        return tensor_file.tensors(content, file)

    def layout(self) -> dict[str, Header]:
        """What the files declare; no tensor is read."""
        return {name: tensor_file.layout(self.path / f"{name}{SUFFIX}") for name in self.names}


def content_of(path: Path, most: int | None = None) -> bytes:
    """The bytes of a plain file. Raises StorageError, also for more than `most`."""
    with _plain(path):
        if most is not None and path.stat().st_size > most:
            raise StorageError(f"{path} has {path.stat().st_size} bytes: expected at most {most}")
        return path.read_bytes()


@contextmanager
def _plain(path: Path) -> Iterator[None]:
    """Inside, a file is read. Raises StorageError for no plain file, Unreadable if forbidden."""
    try:
        if path.is_symlink() or not path.is_file():
            raise StorageError(f"{path} cannot be read: it is missing, or no plain file")
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}") from error


def hash_of(path: Path, size: Any) -> str | None:
    """The SHA-256 of a plain file; None, and nothing is read, where it does not have that size."""
    with _plain(path), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            return None
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_fingerprint(groups: Groups, state: Mapping[str, Any], world: World) -> str:
    """The fingerprint of groups that may be in shards: all ranks call it alike.

    Only rank 0 holds a whole group at a time.
    """
    hashes = {}
    for name, tensors in groups.items():
        parts = {}
        for inner, tensor in tensors.items():
            full = whole(tensor.detach())
            if world.main:
                parts[inner] = full
        hashes[name] = sha256_of(serialise(parts)) if world.main else ""
    return world.texts(root(hashes, state))[0]
