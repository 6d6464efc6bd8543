"""Opens a checkpoint folder: sizes, declarations and hashes of its files are compared before any
tensor is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fewstep.base import json_file
from fewstep.base.errors import StorageError
from fewstep.run.checkpoint.format import (
    MANIFEST,
    STATE,
    SUFFIX,
    Checkpoint,
    content_of,
    hash_of,
    root,
)
from fewstep.run.checkpoint.schema import check_values


def read(path: Path) -> Checkpoint:
    """Opens a checkpoint folder after checking every file against the manifest, and what each file
    declares.

    Raises StorageError that names the file and what is wrong with it.
    """
    hashes = dict(_verified(path))
    if STATE not in hashes:
        raise StorageError(f"{path} is no checkpoint of this program: it has no {STATE}")
    state = json_file.document(content_of(path / STATE, json_file.MOST_JSON), path / STATE)
    check_values(state, path / STATE)
    found = Checkpoint(path, state, hashes)
    found.layout()
    groups = {
        name.removesuffix(SUFFIX): digest
        for name, digest in hashes.items()
        if name.endswith(SUFFIX)
    }
    record = found.record
    has_root = record.format != 1 and not found.sharded
    if has_root and record.fingerprint != root(groups, state):
        raise StorageError(
            f"{path / STATE} bears the fingerprint of another state than its files hold"
        )
    return found


def _verified(path: Path) -> Iterator[tuple[str, str]]:
    """The name and SHA-256 of every file that the manifest lists, each compared with it."""
    manifest = json_file.document(content_of(path / MANIFEST, json_file.MOST_JSON), path / MANIFEST)
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise StorageError(f"{path / MANIFEST} lists no files: it is no manifest of this program")
    for name, facts in listed.items():
        if Path(name).name != name or name == MANIFEST or not name.isprintable():
            raise StorageError(
                f"{path / MANIFEST} lists {name[:60]!r}, which is not a file of its folder"
            )
        digest = hash_of(path / name, facts.get("bytes") if isinstance(facts, dict) else None)
        if digest is None or digest != facts.get("sha256"):
            raise StorageError(
                f"{path / name} is damaged: its size or SHA-256 is not the manifest's"
            )
        yield name, digest
