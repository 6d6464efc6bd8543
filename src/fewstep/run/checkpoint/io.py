"""Opens a checkpoint folder: sizes, declarations and hashes of its files are compared before any
tensor is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewstep.base import json_file
from fewstep.base.errors import StorageError
from fewstep.run.checkpoint.format import (
    FORMAT,
    MANIFEST,
    READS,
    STATE,
    SUFFIX,
    Checkpoint,
    Unreadable,
    content_of,
    hash_of,
    root,
)


def read(path: Path) -> Checkpoint:
    """Opens a checkpoint folder after checking every file against the manifest, and what each file
    declares.

    Raises StorageError that names the file and what is wrong with it.
    """
    hashes = dict(_verified(path))
    if STATE not in hashes:
        raise StorageError(f"{path} is no checkpoint of this program: it has no {STATE}")
    state = _state(path / STATE)
    found = Checkpoint(path, state, hashes)
    found.layout()
    groups = {
        name.removesuffix(SUFFIX): digest
        for name, digest in hashes.items()
        if name.endswith(SUFFIX)
    }
    if state["format"] > 1 and not found.sharded and state["fingerprint"] != root(groups, state):
        raise StorageError(
            f"{path / STATE} bears the fingerprint of another state than its files hold"
        )
    return found


def _state(path: Path) -> dict[str, Any]:
    """The state, with what its format left out. Raises StorageError."""
    state = json_file.document(content_of(path, json_file.MOST_JSON), path)
    if not isinstance(state, dict):
        raise StorageError(f"{path} holds no JSON object: it is no checkpoint of this program")
    if missing := [
        key for key in ("format", "run", "facts", "step", "fingerprint") if key not in state
    ]:
        raise StorageError(
            f"{path} lacks {', '.join(missing)}: it is no checkpoint of this program"
        )
    if type(state["format"]) is not int or state["format"] not in READS:
        raise Unreadable(
            f"{path} has format {str(state['format'])[:20]}: this version reads {READS[0]} to"
            f" {FORMAT}"
        )
    kinds = {
        "run": dict,
        "facts": dict,
        "fingerprint": str,
        "step": int,
        "begun": int,
        "teacher_rows": int,
        "log": str,
    }
    for name, kind in kinds.items():
        value = state.get(name, kind())
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**53):
            raise StorageError(
                f"{path}: {name} = {str(value)[:40]!r}: it is no checkpoint of this program"
            )
    return state


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
