"""safetensors of untrusted files: their header is checked before anything is read.

The safetensors library checks that tensors neither overlap nor leave holes. It accepts a key that
occurs twice (two readers then see two models) and takes seconds over headers of many entries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fewstep.base.errors import StorageError, require, storage
from fewstep.base.json_file import document

MOST_HEADER = 5 * 2**19  # bytes of a header: the largest published models need about 1 MB
MOST_ENTRIES = 20_000  # tensors of one file
MOST_NAME = 512  # characters of a tensor's name
MOST_AXES = 64  # of a tensor, as in torch

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Entry(NamedTuple):
    """A tensor in a header."""

    dtype: torch.dtype
    shape: tuple[int, ...]


Header = dict[str, Entry]


def header(file: IO[bytes], size: int, where: str | Path) -> tuple[Header, dict[str, str], int]:
    """(tensors, metadata, bytes before the data) of a safetensors file of that size.

    They are its header's alone. Raises StorageError beyond a limit, for a bad name, and where the
    file's data is not what the header declares.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MOST_HEADER, size - 8):
        header_size = f"a header of {length} bytes in a file of {size}"
        raise StorageError(
            f"{where} is no safetensors file: {header_size}, expected at most {MOST_HEADER}"
        )
    content = document(file.read(length), where, MOST_HEADER)
    if not isinstance(content, dict) or len(content) > MOST_ENTRIES:
        count = f"{len(content)} entries" if isinstance(content, dict) else "no JSON object"
        raise StorageError(
            f"{where}: its header holds {count}: expected at most {MOST_ENTRIES} tensors"
        )
    metadata = content.pop("__metadata__", {})
    is_map = isinstance(metadata, dict)
    if not is_map or not all(isinstance(text, str) for text in metadata.values()):
        raise StorageError(f"{where}: its metadata is no map of texts")
    entries: Header = {}
    end = 0
    for name, about in content.items():
        entries[name], last = _entry(name, about, where)
        end = max(end, last)
    if end != size - 8 - length:
        raise StorageError(f"{where} declares {end} bytes of tensors and holds {size - 8 - length}")
    return entries, metadata, 8 + length


def _entry(name: str, about: Any, where: str | Path) -> tuple[Entry, int]:
    """A tensor's entry, and the end of its data."""
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise StorageError(f"{where}: a tensor is called {name[:60]!r}: expected a printable name")
    try:
        dtype = DTYPES[about["dtype"]]
        shape = about["shape"]
        first, last = about["data_offsets"]
        fits = len(shape) <= MOST_AXES
        fits = fits and all(type(n) is int and 0 <= n < 2**63 for n in (*shape, first, last))
        fits = fits and last - first == math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{where}: the entry of tensor {name!r} is none that this program reads"
        ) from error
    if not fits:
        raise StorageError(
            f"{where}: tensor {name!r} declares {str(shape)[:60]} in bytes {first} to {last}"
        )
    return Entry(dtype, tuple(shape)), last


def check_writable(entries: Mapping[str, Entry], what: str) -> None:
    """Raises UserError for tensors whose file `header` would refuse to read.

    what: whose they are, for the message.
    """
    need = f"at most {MOST_ENTRIES} tensors"
    require(len(entries) <= MOST_ENTRIES, f"tensors of {what}", len(entries), need)
    names = {dtype: name for name, dtype in DTYPES.items()}
    for name, (dtype, shape) in entries.items():
        fine = bool(name) and len(name) <= MOST_NAME and name.isprintable()
        need = f"at most {MOST_NAME} printable characters"
        require(fine, f"the name of a tensor of {what}", name, need)
        fine = dtype in names and len(shape) <= MOST_AXES
        require(fine, f"tensor {name} of {what}", (dtype, shape), "another type")
    about = {
        name: {"dtype": names[dtype], "shape": shape, "data_offsets": [2**50, 2**50]}
        for name, (dtype, shape) in entries.items()
    }
    size = len(json.dumps(about))
    require(size <= MOST_HEADER, f"names of tensors of {what}", size, f"{MOST_HEADER} bytes in all")


def layout(path: Path) -> Header:
    """The tensors that a safetensors file declares; none is read. Raises StorageError."""
    with storage(f"{path} cannot be read"), path.open("rb") as file:
        return header(file, path.stat().st_size, path)[0]


def tensors(content: bytes, where: str | Path) -> dict[str, Tensor]:
    """The tensors of the bytes of a file that `header` accepted. Raises StorageError."""
    try:
        return load(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise StorageError(f"{where} is no safetensors file: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, after its header was checked. Raises StorageError."""
    layout(path)
    return tensors(path.read_bytes(), path)
