"""Whether a NumPy file holds what its header declares, before memory is taken for it."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import IO

from numpy.lib import format as npy

from fewstep.base.errors import UserError
from fewstep.data.archives import check


def check_numpy(path: Path) -> None:
    """Refuses a .npy or .npz whose arrays are not as long as their headers say, and hostile
    archives.

    Raises UserError, and whatever NumPy raises on a damaged header.
    """
    if path.suffix.lower() == ".npy" and not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            _check_array(str(path), file, path.stat().st_size)
        return
    with zipfile.ZipFile(path) as source:
        check(path, source.infolist())
        for entry in source.infolist():
            with source.open(entry) as file:
                _check_array(f"{path}: {entry.filename}", file, entry.file_size)


def _check_array(name: str, file: IO[bytes], size: int) -> None:
    """Compares shape times width with the bytes that follow the header."""
    reader = (
        npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise UserError(f"cannot read {name}: it holds Python objects, which are never loaded")
    declared, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if declared != held or any(n < 0 for n in shape):
        raise UserError(
            f"{name} declares {dtype} of shape {shape}, {declared} bytes, and holds {held}: it is"
            " damaged"
        )
