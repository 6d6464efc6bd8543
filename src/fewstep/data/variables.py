"""Variables of netCDF and HDF5 files: FILE.nc:variable, FILE.h5:group/variable."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base.errors import UserError, unknown
from fewstep.data.archives import FREE, RATIO, readable
from fewstep.data.reading import Reading
from fewstep.data.stored import AT_ONCE, rows_of
from fewstep.data.streams import Stream, is_large
from fewstep.data.tables import native

log = logging.getLogger("fewstep")

_NAME = re.compile(r"(?P<file>.*?\.(?P<kind>nc4?|h5|hdf5))(:(?P<variable>.*))?", re.IGNORECASE)
Rows = tuple[tuple[int, ...], Callable[[slice], Any]]  # shape of a variable, how to read rows
_FILL = ("_FillValue", "missing_value")


def split_name(name: str) -> tuple[Path, str] | None:
    """The file and the variable in a name; None where it names no file of these kinds."""
    match = _NAME.fullmatch(name)
    return match and (Path(match["file"]), (match["variable"] or "").strip("/"))


def read_variable(name: str, reading: Reading) -> dict[str, Any]:
    """{"x0": the variable's values, masked where the file has none}. Raises UserError.

    Of a large one streams, and the mask beside the values.
    """
    parts = split_name(name)
    assert parts is not None
    path, variable = parts
    is_netcdf = path.suffix.lower().startswith(".nc")
    open_one = _netcdf if is_netcdf else _hdf5
    with readable(name):
        with open_one(path, variable) as (shape, read):
            if not shape or not is_large(math.prod(shape), reading):
                return {"x0": _native(read(slice(None))), "cond": None}
            has_mask = isinstance(read(slice(0, 1)), np.ma.MaskedArray)
        size = rows_of(AT_ONCE, shape[1:])

        def blocks(first: int) -> Iterator[Any]:
            with readable(name), open_one(path, variable) as (_, read):
                for row in range(first, shape[0], size):
                    yield _native(read(slice(row, row + size)))

        values = Stream(shape[0], blocks)
        if not has_mask:
            return {"x0": values, "cond": None}
        there = replace(values.map(_there), is_optional=True)
        return {"x0": values.map(_plain), "cond": None, "mask": there}


def _native(values: Any) -> Any:
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.MaskedArray(native(values.data), np.ma.getmaskarray(values))
    return native(values)


def _plain(values: Any) -> np.ndarray:
    result: np.ndarray = np.ma.filled(values, 0)
    return result


def _there(values: Any) -> np.ndarray:
    """Where there are values; of an array `[N]` as `[N, 1]`."""
    there = ~np.ma.getmaskarray(values)
    return there[:, None] if there.ndim == 1 else there


@contextmanager
def _netcdf(path: Path, name: str) -> Iterator[Rows]:
    """The library applies scale_factor and add_offset, and masks fill values."""
    try:
        from netCDF4 import Dataset
    except ImportError:
        raise UserError("netCDF needs netCDF4: pip install 'fewstep[netcdf]'") from None

    def variables(group: Any, above: str) -> dict[str, Any]:
        members = {above + key: one for key, one in group.variables.items()}
        for key, inner in group.groups.items():
            members |= variables(inner, f"{above}{key}/")
        return members

    with Dataset(path) as file:
        members = variables(file, "")
        _check(path, name, {key: one.shape for key, one in members.items()})
        one = members[name]
        if not isinstance(one.dtype, np.dtype) or one.dtype.kind not in "biuf":
            raise UserError(f"{path}: {name} holds values of {one.dtype}: expected numbers")
        _check_bytes(path, name, one.size * one.dtype.itemsize)
        _warn_of_time(f"{path}:{name}", [one.get_dims()[axis] for axis in range(one.ndim)])
        yield one.shape, lambda rows: one[rows] if one.shape else one[...]


def _warn_of_time(name: str, axes: list[Any]) -> None:
    """A warning where the first axis, that of the samples, is none of times, and another is."""
    times = [axis.isunlimited() or "time" in axis.name.lower() for axis in axes]
    if any(times[1:]) and not times[0]:
        first, other = axes[0], axes[times.index(True)]
        log.warning(
            "fewstep: %s: each of %d %s is a sample: if a %s should be one, move that axis first",
            *(name, len(first), first.name, other.name),
        )


@contextmanager
def _hdf5(path: Path, name: str) -> Iterator[Rows]:
    """Fill values, scale_factor and add_offset mean what netCDF says, where a variable has them."""
    try:
        import h5py
    except ImportError:
        raise UserError("HDF5 needs h5py: pip install 'fewstep[hdf5]'") from None
    with h5py.File(path, "r") as file:
        members: dict[str, Any] = {}

        def visit(key: str, one: Any) -> None:  # no links are followed
            if isinstance(one, h5py.Dataset):
                members[key] = one

        file.visititems(visit)
        _check(path, name, {key: one.shape for key, one in members.items()})
        one = members[name]
        if one.is_virtual or one.external:
            raise UserError(f"{path}: {name} lies in other files: expected its values in this one")
        if one.dtype.kind not in "biuf":
            raise UserError(f"{path}: {name} holds values of {one.dtype}: expected numbers")
        _check_bytes(path, name, one.size * one.dtype.itemsize)
        yield one.shape, partial(_hdf5_rows, one)


def _hdf5_rows(one: Any, rows: slice) -> Any:
    values = np.asarray(one[rows] if one.shape else one[...])
    fills = [np.ravel(one.attrs[key]) for key in _FILL if key in one.attrs]
    mask = np.isin(values, np.concatenate(fills)) if fills else np.ma.nomask
    if "scale_factor" in one.attrs or "add_offset" in one.attrs:
        factor, offset = one.attrs.get("scale_factor", 1.0), one.attrs.get("add_offset", 0.0)
        values = values * np.float64(np.squeeze(factor)) + np.float64(np.squeeze(offset))
    return np.ma.MaskedArray(values, mask)


def _check(path: Path, name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises UserError for a name that is none of the file's variables."""
    if not name:
        names = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:12])
        raise UserError(
            f"{path}: name a variable, {path.name}:VARIABLE; it holds {names or 'none'}"
        )
    if name not in shapes:
        raise unknown(f"variable of {path}", name, shapes)


def _check_bytes(path: Path, name: str, need: int) -> None:
    """Refuses what would unpack to many times the file's size, before memory is taken."""
    size = path.stat().st_size
    if need > RATIO * size + FREE:
        raise UserError(
            f"{path}: {name} would unpack from {size} to {need} bytes: expected at most {RATIO}"
            " times as many"
        )
