"""Writes a checkpoint folder, whole or not at all, and opens one after checking all of its files.

A folder is written by one process, or by several ranks that each hold a part. A reader compares
sizes, declarations and hashes of the files before it reads any tensor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewstep.base import disk, json_file
from fewstep.base.errors import StorageError
from fewstep.base.world import World
from fewstep.run.checkpoint import shards
from fewstep.run.checkpoint.format import (
    MANIFEST,
    STATE,
    SUFFIX,
    Checkpoint,
    Groups,
    content_of,
    groups_in,
    hash_of,
    root,
    serialise,
    sha256_of,
    whole_fingerprint,
)
from fewstep.run.checkpoint.schema import FORMAT, check_values

# Writing.


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
        entries = {}
        hashes = {}
        for name, tensors in groups.items():
            entry = _put(temporary / f"{name}{SUFFIX}", serialise(tensors))
            entries[f"{name}{SUFFIX}"] = entry
            hashes[name] = entry["sha256"]
        digest = root(hashes, state)
        _finish(temporary, path, entries, {**state, "fingerprint": digest})
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or error
        raise StorageError(f"cannot write the checkpoint {path}: {reason}") from error
    return digest


def write_shards(path: Path, groups: Groups, state: Mapping[str, Any], world: World) -> str:
    """Writes a checkpoint folder of groups in shards; all ranks call it alike.

    Every rank writes its part, rank 0 the rest. Returns the fingerprint, which is that of the whole
    groups. Raises StorageError.
    """
    temporary = path.with_name(world.texts(disk.temporary(path).name)[0])
    digest = whole_fingerprint(groups, state, world)
    try:
        if world.main:
            disk.make_folder(temporary)
        world.meet()  # the folder is there
        shards.save(temporary, groups)
        if world.main:
            entries = {file.name: _entry(file) for file in sorted(temporary.iterdir())}
            about = {**state, "fingerprint": digest, "shards": world.size}
            _finish(temporary, path, entries, about)
    except OSError as error:
        if world.main:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, StorageError):
            raise
        reason = error.strerror or error
        raise StorageError(f"cannot write the checkpoint {path}: {reason}") from error
    world.meet()  # nobody looks for it before it is whole
    return digest


def _finish(temporary: Path, path: Path, entries: dict[str, Any], state: Mapping[str, Any]) -> None:
    """Adds state and manifest to a folder whose groups are written, and renames it to `path`."""
    content = _json({**state, "format": FORMAT})
    entries[STATE] = _put(temporary / STATE, content)
    _put(temporary / MANIFEST, _json({"files": entries}))
    disk.sync(temporary)
    disk.rename(temporary, path)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _put(path: Path, content: bytes) -> dict[str, Any]:
    """Writes a file; returns its entry in the manifest."""
    disk.write(path, content)
    return {"bytes": len(content), "sha256": sha256_of(content)}


def _entry(path: Path) -> dict[str, Any]:
    """The manifest's entry of a file that is there already, which is synced first."""
    disk.sync(path)
    size = path.stat().st_size
    return {"bytes": size, "sha256": hash_of(path, size)}


# Reading.


def read(path: Path) -> Checkpoint:
    """Opens a checkpoint folder after checking each file against the manifest and its own header.

    Raises StorageError that names the file and what is wrong with it.
    """
    hashes = dict(_check_files(path))
    if STATE not in hashes:
        raise StorageError(f"{path} is no checkpoint of this program: it has no {STATE}")
    source = path / STATE
    state = json_file.document(content_of(source, json_file.MOST_JSON), source)
    check_values(state, source)
    checkpoint = Checkpoint(path, state, hashes, groups_in(path, hashes, state))
    checkpoint.layout()
    groups = {
        name.removesuffix(SUFFIX): digest
        for name, digest in hashes.items()
        if name.endswith(SUFFIX)
    }
    record = checkpoint.record
    has_root = record.format != 1 and not checkpoint.is_sharded
    if has_root and record.fingerprint != root(groups, state):
        raise StorageError(f"{source} has a fingerprint that is not that of its files")
    return checkpoint


def peek(path: Path) -> Checkpoint:
    """A checkpoint folder whose files are not compared with their hashes: for who shows it alone.

    Takes no time however large it is. Raises StorageError.
    """
    hashes = {name: str(entry.get("sha256")) for name, entry in _entries(path).items()}
    source = path / STATE
    state = json_file.document(content_of(source, json_file.MOST_JSON), source)
    check_values(state, source)
    return Checkpoint(path, state, hashes, groups_in(path, hashes, state))


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each file. Raises StorageError."""
    source = path / MANIFEST
    manifest = json_file.document(content_of(source, json_file.MOST_JSON), source)
    entries = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise StorageError(f"{source} lists no files: it is no manifest of this program")
    for name, entry in entries.items():
        if Path(name).name != name or name == MANIFEST or not name.isprintable():
            raise StorageError(f"{source} lists {name[:60]!r}, which is not a file of its folder")
        if not isinstance(entry, dict):
            raise StorageError(
                f"{path / name} is damaged: its size or SHA-256 is not that in the manifest"
            )
    return entries


def _check_files(path: Path) -> Iterator[tuple[str, str]]:
    """The name and SHA-256 of every file in the manifest, each compared with the file itself."""
    for name, entry in _entries(path).items():
        digest = hash_of(path / name, entry.get("bytes"))
        if digest is None or digest != entry.get("sha256"):
            raise StorageError(
                f"{path / name} is damaged: its size or SHA-256 is not that in the manifest"
            )
        yield name, digest
