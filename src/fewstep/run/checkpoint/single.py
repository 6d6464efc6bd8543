"""A generator as one .safetensors file: the average's weights, and its record in the header.

The header's metadata has the key `fewstep`: what state.json of a checkpoint folder says, as JSON,
with the SHA-256 of all that follows the header. The weights have the network's own names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fewstep.base import disk, json_file, tensor_file
from fewstep.base.errors import StorageError, storage
from fewstep.base.tensor_file import Header
from fewstep.run.checkpoint.format import Checkpoint, plain_tensors, root, sha256_of
from fewstep.run.checkpoint.schema import FORMAT, check_values

KEY = "fewstep"  # of the header's metadata
GROUP = "ema"
INSIDE = "network."  # how a checkpoint begins the names of a network's weights


def is_single(path: Path) -> bool:
    """Whether a file is one of these, by its header alone; not where it cannot be read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        return KEY in _header(path)[1]
    except StorageError:
        return False


def write_single(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Writes the average's weights and record in one move; returns the fingerprint.

    Raises StorageError where it cannot, or where something of that name is there.
    """
    if path.exists():
        raise StorageError(f"{path} is there already: choose another name")
    weights = plain_tensors({name.removeprefix(INSIDE): one for name, one in tensors.items()})
    plain = tensors_to_bytes(weights)
    digest = root({GROUP: sha256_of(plain)}, state)
    data = plain[8 + int.from_bytes(plain[:8], "little") :]
    about = {**state, "format": FORMAT, "fingerprint": digest}
    record = json.dumps({"state": about, "data": sha256_of(data)}, sort_keys=True)
    with storage(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, tensors_to_bytes(weights, metadata={KEY: record}))
    return digest


def read_single(path: Path) -> Checkpoint:
    """Opens such a file after comparing its data with the digest in its header.

    Raises StorageError.
    """
    entries, metadata, start = _header(path)
    record = json_file.document(metadata[KEY].encode(), path)
    if not isinstance(record, dict) or not isinstance(record.get("data"), str):
        raise StorageError(f"{path} has a header that is not of this program")
    with storage(f"{path} cannot be read"), path.open("rb") as file:
        file.seek(start)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record["data"]:
        raise StorageError(f"{path} is damaged: its SHA-256 is not that in its header")
    check_values(record.get("state"), path)
    return Checkpoint(path, record["state"], {path.name: digest}, _Weights(path, entries))


def _header(path: Path) -> tuple[Header, dict[str, str], int]:
    with storage(f"{path} cannot be read"), path.open("rb") as file:
        return tensor_file.header(file, path.stat().st_size, path)


class _Weights(Mapping[str, dict[str, Tensor]]):
    """The one group of the file, read when it is used."""

    def __init__(self, path: Path, entries: Header) -> None:
        self.path, self.entries = path, entries

    def __iter__(self) -> Iterator[str]:
        return iter([GROUP])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        if name != GROUP:
            raise KeyError(name)
        tensors = tensor_file.read_tensors(self.path)
        return {INSIDE + name: tensor for name, tensor in tensors.items()}

    def layout(self) -> dict[str, Header]:
        """What the file declares; no tensor is read."""
        return {GROUP: {INSIDE + name: entry for name, entry in self.entries.items()}}
