"""Variables of netCDF and HDF5 files: FILE.nc:variable, FILE.h5:group/variable."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.base.errors import UserError, unknown
from fewstep.data.archives import FREE, RATIO, readable
from fewstep.data.tables import native

log = logging.getLogger("fewstep")

_NAME = re.compile(r"(?P<file>.*?\.(?P<kind>nc4?|h5|hdf5))(:(?P<variable>.*))?", re.IGNORECASE)
_FILL = ("_FillValue", "missing_value")


def split_name(name: str) -> tuple[Path, str] | None:
    """The file and the variable in a name; None where it names no file of these kinds."""
    match = _NAME.fullmatch(name)
    return match and (Path(match["file"]), (match["variable"] or "").strip("/"))


def read_variable(name: str) -> dict[str, Any]:
    """{"x0": the variable's values, masked where the file has none}. Raises UserError."""
    parts = split_name(name)
    assert parts is not None
    path, variable = parts
    is_netcdf = path.suffix.lower().startswith(".nc")
    with readable(name):
        values = (_netcdf if is_netcdf else _hdf5)(path, variable)
        if isinstance(values, np.ma.MaskedArray):
            x0 = native(values.data)
            return {"x0": np.ma.MaskedArray(x0, np.ma.getmaskarray(values)), "cond": None}
        return {"x0": native(values), "cond": None}


def _netcdf(path: Path, name: str) -> Any:
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
        return one[...]


def _warn_of_time(name: str, axes: list[Any]) -> None:
    """A warning where the first axis, that of the samples, is none of times, and another is."""
    times = [axis.isunlimited() or "time" in axis.name.lower() for axis in axes]
    if any(times[1:]) and not times[0]:
        first, other = axes[0], axes[times.index(True)]
        log.warning(
            "fewstep: %s: each of %d %s is a sample: if a %s should be one, move that axis first",
            *(name, len(first), first.name, other.name),
        )


def _hdf5(path: Path, name: str) -> Any:
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
        values = np.asarray(one[...])
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
