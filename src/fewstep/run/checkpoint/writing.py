"""Writes a checkpoint folder, whole or not at all: alone, or with several ranks that each hold a
part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.base import disk
from fewstep.base.errors import StorageError
from fewstep.base.world import World
from fewstep.run.checkpoint import shards
from fewstep.run.checkpoint.format import (
    MANIFEST,
    STATE,
    SUFFIX,
    Groups,
    hash_of,
    root,
    serialised,
    sha256_of,
    whole_fingerprint,
)
from fewstep.run.checkpoint.schema import FORMAT


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
        listed = {
            f"{name}{SUFFIX}": _put(temporary / f"{name}{SUFFIX}", serialised(t))
            for name, t in groups.items()
        }
        digest = root(
            {name.removesuffix(SUFFIX): facts["sha256"] for name, facts in listed.items()}, state
        )
        _finish(temporary, path, listed, {**state, "fingerprint": digest})
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(
            f"cannot write the checkpoint {path}: {error.strerror or error}"
        ) from error
    return digest


def _finish(temporary: Path, path: Path, listed: dict[str, Any], state: Mapping[str, Any]) -> None:
    """Adds state and manifest to a folder whose groups are written, and gives it its name."""
    listed[STATE] = _put(
        temporary / STATE,
        json.dumps({**state, "format": FORMAT}, indent=1, sort_keys=True).encode(),
    )
    _put(temporary / MANIFEST, json.dumps({"files": listed}, indent=1, sort_keys=True).encode())
    disk.sync(temporary)
    disk.rename(temporary, path)


def write_shards(path: Path, groups: Groups, state: Mapping[str, Any], world: World) -> str:
    """Writes a checkpoint folder of groups in shards: every rank its part, rank 0 the rest. All
    ranks call it alike.

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
        raise StorageError(
            f"cannot write the checkpoint {path}: {error.strerror or error}"
        ) from error
    world.meet()  # nobody looks for it before it is whole
    return digest


def _listed(path: Path) -> dict[str, Any]:
    """What the manifest says of a file that is there."""
    disk.sync(path)
    size = path.stat().st_size
    return {"bytes": size, "sha256": hash_of(path, size)}


def _put(path: Path, content: bytes) -> dict[str, Any]:
    """Writes a file; what the manifest says of it."""
    disk.write(path, content)
    return {"bytes": len(content), "sha256": sha256_of(content)}
