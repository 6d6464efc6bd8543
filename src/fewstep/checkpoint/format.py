"""A checkpoint on the disk: safetensors and JSON under a manifest of sizes and SHA-256; no pickle.

A checkpoint is written to a temporary folder, made durable, and renamed; a reader sees all of it or none.

    step-N/NAME.safetensors    a group of tensors: student, ema, optimizer, ...
    step-N/state.json          format, run, facts, what `VALUES` names, fingerprint, versions
    step-N/manifest.json       {"files": {name: {"bytes", "sha256"}}}, written last

Format 2 has all of `VALUES`, and a fingerprint over them and the files of the groups; format 1 lacks the log, leaves
out what is 0, and its fingerprint is `fingerprint` of its tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fewstep import untrusted
from fewstep.checkpoint import disk, shards
from fewstep.checkpoint.shards import Shards
from fewstep.errors import StorageError
from fewstep.untrusted import Header
from fewstep.world import World, whole

FORMAT = 2
READS = (1, 2)
MANIFEST = "manifest.json"
STATE = "state.json"
SUFFIX = ".safetensors"
VALUES = ("step", "begun", "stage", "teacher_rows", "log")  # of state.json, what the next step depends on

Groups = Mapping[str, Mapping[str, Tensor]]  # {"student": {"weight": ...}, "ema": ..., "optimizer": ...}


def fingerprint(groups: Groups) -> str:
    """SHA-256 over the canonical (group, name, dtype, shape, bytes) of every tensor."""
    digest = hashlib.sha256()
    for group in sorted(groups):
        for name in sorted(groups[group]):
            tensor = groups[group][name].detach().cpu().contiguous()
            digest.update(f"{group}|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a group's file, a function of its tensors alone: tied weights and views become copies."""
    seen: set[int] = set()
    return tensors_to_bytes({name: _owned(tensor, seen) for name, tensor in sorted(tensors.items())})


def _owned(tensor: Tensor, seen: set[int]) -> Tensor:
    """The whole tensor on the CPU, a copy where it shares its memory with one seen before or is part of more."""
    there = whole(tensor.detach()).cpu().contiguous()
    alone = there.untyped_storage().nbytes() == there.numel() * there.element_size()
    kept = there if alone and there.data_ptr() not in seen else there.clone()
    seen.add(kept.data_ptr())
    return kept


def root(groups: Mapping[str, str], state: Mapping[str, Any]) -> str:
    """The fingerprint of a run's state: SHA-256 over that of each group's file and what `VALUES` names of the state."""
    values = {name: state[name] for name in VALUES if name in state}
    return hashlib.sha256(json.dumps({"groups": groups, "values": values}, sort_keys=True).encode()).hexdigest()


def state_fingerprint(groups: Groups, state: Mapping[str, Any]) -> str:
    """`root` of groups in memory: what a checkpoint of them would bear."""
    return root({name: _sha256(serialised(tensors)) for name, tensors in groups.items()}, state)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Unreadable(StorageError):
    """A checkpoint of which nothing can be said: the system does not let it be read, or another version wrote it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose files were all compared with the manifest; a group is read when it is asked for."""

    path: Path
    state: dict[str, Any]  # JSON: format, run, facts, step, fingerprint, ...
    hashes: dict[str, str]  # SHA-256 of each file but the manifest
    groups: Mapping[str, dict[str, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        files = [self.path / name for name in self.hashes if name.endswith(SUFFIX)]
        groups = Shards(files) if self.sharded else _Groups(self.path, self.hashes)
        object.__setattr__(self, "groups", groups)

    @property
    def sharded(self) -> bool:
        """Whether several processes wrote their parts of the groups."""
        return "shards" in self.state

    def layout(self) -> dict[str, Header]:
        """What each group declares: the dtype and shape of its tensors, none of which is read."""
        if isinstance(self.groups, Shards):
            return self.groups.layout()
        return {group: untrusted.layout(self.path / f"{group}{SUFFIX}") for group in self.groups}


class _Groups(Mapping[str, dict[str, Tensor]]):
    """The groups of a folder by name; each is read when it is asked for, and compared with its hash again."""

    def __init__(self, path: Path, hashes: dict[str, str]) -> None:
        self.path, self.hashes = path, hashes
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
        content = _content(file)
        if _sha256(content) != self.hashes[file.name]:
            raise StorageError(f"{file} changed while it was read: is another process writing there?")
        return untrusted.tensors(content, file)


def _content(path: Path, most: int | None = None) -> bytes:
    """The bytes of a plain file. Raises StorageError, also for more than `most`."""
    try:
        _plain(path)
        if most is not None and path.stat().st_size > most:
            raise StorageError(f"{path} has {path.stat().st_size} bytes: expected at most {most}")
        return path.read_bytes()
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}") from error


def _plain(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise StorageError(f"{path} cannot be read: it is missing, or no plain file")


def write(path: Path, groups: Groups, state: Mapping[str, Any]) -> str:
    """Writes a checkpoint folder at `path`, whole or not at all; returns its fingerprint.

    Raises StorageError where it cannot, or where something of that name is there.
    """
    temporary = disk.temporary(path)
    if path.exists():
        raise StorageError(f"{path} is there already: choose another name")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        disk.make_folder(temporary)
        listed = {f"{name}{SUFFIX}": _put(temporary / f"{name}{SUFFIX}", serialised(t)) for name, t in groups.items()}
        digest = root({name.removesuffix(SUFFIX): facts["sha256"] for name, facts in listed.items()}, state)
        _finish(temporary, path, listed, {**state, "fingerprint": digest})
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(f"cannot write the checkpoint {path}: {error.strerror or error}") from error
    return digest


def _finish(temporary: Path, path: Path, listed: dict[str, Any], state: Mapping[str, Any]) -> None:
    """Adds state and manifest to a folder whose groups are written, and gives it its name."""
    listed[STATE] = _put(temporary / STATE, json.dumps({**state, "format": FORMAT}, indent=1, sort_keys=True).encode())
    _put(temporary / MANIFEST, json.dumps({"files": listed}, indent=1, sort_keys=True).encode())
    disk.sync(temporary)
    disk.rename(temporary, path)


def write_shards(path: Path, groups: Groups, state: Mapping[str, Any], world: World) -> str:
    """Writes a checkpoint folder of groups in shards: every rank its part, rank 0 the rest. All ranks call it alike.

    Returns the fingerprint, which is that of the groups put together. Raises StorageError.
    """
    temporary = path.with_name(world.texts(disk.temporary(path).name)[0])
    digest = whole_fingerprint(groups, state, world)
    try:
        if world.main:
            disk.make_folder(temporary)
        world.meet()  # the folder is there
        shards.save(temporary, groups)
        if world.main:
            listed = {file.name: _listed(file) for file in sorted(temporary.iterdir())}
            _finish(temporary, path, listed, {**state, "fingerprint": digest, "shards": world.size})
    except OSError as error:
        if world.main:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write the checkpoint {path}: {error.strerror or error}") from error
    world.meet()  # nobody looks for it before it is whole
    return digest


def whole_fingerprint(groups: Groups, state: Mapping[str, Any], world: World) -> str:
    """The fingerprint of groups that may be in shards: all ranks call it alike, rank 0 alone holds a whole group."""
    hashes = {}
    for name, tensors in groups.items():
        kept = {}
        for inner, tensor in tensors.items():
            full = whole(tensor.detach())
            if world.main:
                kept[inner] = full
        hashes[name] = _sha256(serialised(kept)) if world.main else ""
    return world.texts(root(hashes, state))[0]


def _listed(path: Path) -> dict[str, Any]:
    """What the manifest says of a file that is there."""
    disk.sync(path)
    size = path.stat().st_size
    return {"bytes": size, "sha256": _digest(path, size)}


def _put(path: Path, content: bytes) -> dict[str, Any]:
    """Writes a file; what the manifest says of it."""
    disk.write(path, content)
    return {"bytes": len(content), "sha256": _sha256(content)}


def read(path: Path) -> Checkpoint:
    """Opens a checkpoint folder after checking every file against the manifest, and what each file declares.

    Raises StorageError that names the file and what is wrong with it.
    """
    hashes = dict(_verified(path))
    if STATE not in hashes:
        raise StorageError(f"{path} is no checkpoint of this program: it has no {STATE}")
    state = _state(path / STATE)
    found = Checkpoint(path, state, hashes)
    found.layout()
    groups = {name.removesuffix(SUFFIX): digest for name, digest in hashes.items() if name.endswith(SUFFIX)}
    if state["format"] > 1 and not found.sharded and state["fingerprint"] != root(groups, state):
        raise StorageError(f"{path / STATE} bears the fingerprint of another state than its files hold")
    return found


def _state(path: Path) -> dict[str, Any]:
    """The state, with what its format left out. Raises StorageError."""
    state = untrusted.document(_content(path, untrusted.MOST_JSON), path)
    if not isinstance(state, dict):
        raise StorageError(f"{path} holds no JSON object: it is no checkpoint of this program")
    if missing := [key for key in ("format", "run", "facts", "step", "fingerprint") if key not in state]:
        raise StorageError(f"{path} lacks {', '.join(missing)}: it is no checkpoint of this program")
    if type(state["format"]) is not int or state["format"] not in READS:
        raise Unreadable(f"{path} has format {str(state['format'])[:20]}: this version reads {READS[0]} to {FORMAT}")
    kinds = {"run": dict, "facts": dict, "fingerprint": str, "step": int, "begun": int, "teacher_rows": int, "log": str}
    for name, kind in kinds.items():
        value = state.get(name, kind())
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**53):
            raise StorageError(f"{path}: {name} = {str(value)[:40]!r}: it is no checkpoint of this program")
    return state


def _verified(path: Path) -> Iterator[tuple[str, str]]:
    """The name and SHA-256 of every file that the manifest lists, each compared with it."""
    manifest = untrusted.document(_content(path / MANIFEST, untrusted.MOST_JSON), path / MANIFEST)
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise StorageError(f"{path / MANIFEST} lists no files: it is no manifest of this program")
    for name, facts in listed.items():
        if Path(name).name != name or name == MANIFEST or not name.isprintable():
            raise StorageError(f"{path / MANIFEST} lists {name[:60]!r}, which is not a file of its folder")
        digest = _digest(path / name, facts.get("bytes") if isinstance(facts, dict) else None)
        if digest is None or digest != facts.get("sha256"):
            raise StorageError(f"{path / name} is damaged: its size or SHA-256 is not the manifest's")
        yield name, digest


def _digest(path: Path, size: Any) -> str | None:
    """The SHA-256 of a plain file, a piece at a time; None, and nothing read, where it is not of that size."""
    try:
        _plain(path)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return None
            return hashlib.file_digest(file, "sha256").hexdigest()
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}") from error
