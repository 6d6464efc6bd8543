"""Run folders and checkpoints: safetensors + JSON + a manifest of sizes and SHA-256; no pickle.

A checkpoint is written to a temporary folder, made durable, and renamed; a reader sees all of it or none.
There is no pointer to the latest: the newest one whose manifest holds wins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fewstep.errors import StorageError

log = logging.getLogger("fewstep")

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"

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


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds, read and verified."""

    path: Path
    state: dict[str, Any]  # JSON: run, facts, step, fingerprint, torch
    groups: dict[str, dict[str, Tensor]]


def write_file(path: Path, content: bytes) -> None:
    """Writes the file and waits until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, groups: Groups, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint folder at `path`, whole or not at all.

    Raises StorageError where it cannot, or where something of that name is there.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    if path.exists():
        raise StorageError(f"{path} is there already: choose another name")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = {f"{group}.safetensors": tensors_to_bytes(_owned(tensors)) for group, tensors in groups.items()}
        files[STATE] = json.dumps({"format": FORMAT, **state}, indent=1, sort_keys=True).encode()
        for name, content in files.items():
            write_file(temporary / name, content)
        listed = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()}
        write_file(temporary / MANIFEST, json.dumps({"files": listed}, indent=1, sort_keys=True).encode())
        _sync_folder(temporary)
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(f"cannot write the checkpoint {path}: {error.strerror or error}") from error


@contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from error


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not taken."""
    number, found = 1, path
    while found.exists():
        number, found = number + 1, path.with_name(f"{path.name}-{number + 1}")
    return found


def replace_file(path: Path, content: bytes) -> None:
    """Puts the content at `path` in one move, unless it is there already: a reader sees the old or the new."""
    if path.is_file() and path.read_bytes() == content:
        return
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    write_file(temporary, content)
    temporary.replace(path)
    _sync_folder(path.parent)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: tied weights and views share memory, which safetensors refuses."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint folder after checking every file against the manifest.

    Raises StorageError that names the file and what is wrong with it.
    """
    files = dict(_verified(path))
    try:
        state = json.loads(files.pop(STATE))
        groups = {name.removesuffix(".safetensors"): tensors_from_bytes(content) for name, content in files.items()}
    except (KeyError, ValueError, SafetensorError) as error:
        raise StorageError(f"{path} is no checkpoint of this program: {error}") from error
    if not isinstance(state, dict):
        raise StorageError(f"{path / STATE} holds no JSON object: it is no checkpoint of this program")
    if missing := [key for key in ("format", "run", "facts", "step", "fingerprint") if key not in state]:
        raise StorageError(f"{path / STATE} lacks {', '.join(missing)}: it is no checkpoint of this program")
    if state["format"] != FORMAT:
        raise StorageError(f"{path} has format {state['format']}: this version reads format {FORMAT}")
    return Checkpoint(path, state, groups)


def _verified(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        listed = manifest["files"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StorageError(f"{path / MANIFEST} cannot be read: {error}") from error
    for name, facts in listed:
        if Path(name).name != name:
            raise StorageError(f"{path / MANIFEST} lists {name!r}, which is not a file of its folder")
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise StorageError(f"{path / name} cannot be read: {error.strerror}") from error
        found = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if facts != found:
            raise StorageError(f"{path / name} is damaged: its size or SHA-256 is not the manifest's")
        yield name, content


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """The whole step-N in a folder, with their N."""
    return [(int(path.name[5:]), path) for path in folder.glob("step-*") if re.fullmatch(r"step-[0-9]+", path.name)]


@dataclass(frozen=True)
class RunFolder:
    """run.json, metrics.jsonl, checkpoints/step-N/, snapshots/step-N/, samples/*.png under one path."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[Path]:
        """The checkpoints, newest first."""
        return [path for _, path in sorted(_numbered(self.path / "checkpoints"), reverse=True)]

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step-{step}"

    def snapshots(self) -> dict[int, Path]:
        """The snapshots of averages by their step, oldest first."""
        return dict(sorted(_numbered(self.path / "snapshots")))

    def newest(self, quarantine: bool = False) -> Checkpoint | None:
        """The newest valid checkpoint, or None where there is none at all; damaged ones are named in a warning.

        quarantine: damaged ones are renamed step-N.corrupt, so that a resumed run can write there again.
        Raises StorageError where there are checkpoints and none is valid.
        """
        damaged: list[tuple[Path, str]] = []
        for path in self.checkpoints():
            try:
                found = read(path)
            except StorageError as error:
                damaged.append((path, str(error)))
                continue
            for bad, fault in damaged:
                log.warning("fewstep: %s: falling back to %s", fault, path.name)
                if quarantine:
                    with _telling(f"cannot move {bad} aside"):
                        bad.rename(_free(bad.with_name(f"{bad.name}.corrupt")))
            return found
        if damaged:
            raise StorageError(f"no valid checkpoint in {self.path}: {damaged[0][1]}")
        return None

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[keep:]:
            with _telling(f"cannot remove {path}"):
                shutil.rmtree(path)
