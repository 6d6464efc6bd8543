"""The files of `fewstep edit`: what was measured, the mask, and the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewstep.base.conditions import tensor
from fewstep.base.errors import StorageError, UserError, require, storage, unknown
from fewstep.core.measurements import Measurement
from fewstep.data import Units
from fewstep.data.archives import readable
from fewstep.data.decoding import DEEP, SUFFIXES, decode, to_array
from fewstep.data.pictures import Rows, draw, sketch
from fewstep.data.tables import ARRAYS, arrays, parts
from fewstep.run import output
from fewstep.run.generator import Generator

HALVES = ("left", "right", "top", "bottom", "centre")  # words for what is missing
ENDINGS = (".png", ".npy", ".safetensors")
COLUMNS = 12  # of a picture's row


def read_values(path: Path, generator: Generator) -> Tensor:
    """A file's numbers in the data's units: a picture `[C, H, W]`, or an array as it is.

    Raises UserError for what is no such file, and for pictures where the data are none.
    """
    if path.suffix.lower() in ARRAYS:
        if not path.is_file():
            raise StorageError(f"no file {path}")
        with readable(str(path)):
            return tensor(str(path), parts(str(path), arrays(path)).data["x0"])
    greys = generator.facts.look.black_and_white
    need = f"one of {', '.join(ARRAYS)}, since the generator's samples are no pictures"
    require(greys is not None, "input", str(path), need)
    low, high = greys or (0.0, 1.0)
    share = _picture(path)
    return (low + (high - low) * share).float()


def _picture(path: Path) -> Tensor:
    """A picture `[C, H, W]`, float64 from black at 0 to white at 1; of one channel if grey."""
    if path.suffix.lower() not in SUFFIXES:
        need = f"a picture or one of {', '.join(ARRAYS)}"
        raise UserError(f"file {path}: expected {need}")
    with storage(f"cannot read {path}"), path.open("rb") as file:
        picture = decode(str(path), file)
    values = to_array(str(path), picture, None)
    top = 255 if values.dtype == np.uint8 else DEEP
    x = torch.from_numpy(values.astype(np.float64)) / top
    if x.ndim == 2:
        return x[None]
    x = x.movedim(2, 0)
    return x[:1] if bool((x == x[:1]).all()) else x


def missing_of(word: str | None, x: Tensor, shape: Sequence[int]) -> Tensor:
    """What a mask's word or file says is missing, booleans that broadcast to a sample.

    word: a half or `centre`, `nan` for the NaN of x, or a file that is white, or not 0, where
    entries are missing; None is `nan` where there are any. Raises UserError.
    """
    if word in (None, "nan"):
        whole = _rows(x, shape)
        require(bool(whole), "input of shape", tuple(x.shape), f"{tuple(shape)}, a sample")
        holes = whole[0].isnan()
        if not bool(holes.any()):
            raise UserError(
                f"mask: the input has no NaN: expected NaN, or --mask {'|'.join(HALVES)}|FILE"
            )
        if not bool((holes == holes[:1]).all()):
            raise UserError("mask: rows have NaN in other places: expected one mask, or one row")
        return holes[0]
    if word in HALVES:
        return _half(str(word), shape)
    path = Path(str(word))
    if not path.exists() and not path.suffix:
        raise unknown("mask", word, (*HALVES, "nan", "FILE.png", "FILE.npy"))
    if path.suffix.lower() in ARRAYS:
        with readable(str(path)):
            mask = tensor(str(path), parts(str(path), arrays(path)).data["x0"]) != 0
    else:
        mask = (_picture(path) >= 0.5).any(0)
    fits = mask.ndim <= len(shape) and tuple(mask.shape) == tuple(shape[len(shape) - mask.ndim :])
    require(fits, "mask of shape", tuple(mask.shape), f"the shape of a sample, {tuple(shape)}")
    return mask


def _half(word: str, shape: Sequence[int]) -> Tensor:
    """left, right: halves of the last axis; top, bottom: of the one before; centre: the middle half
    of both, of arrays with channels alone of their other axes.
    """
    mask = torch.zeros(*shape, dtype=torch.bool)
    if word == "centre":
        axes = range(1 if len(shape) > 1 else 0, len(shape))
        for axis in axes:
            side = shape[axis]
            inside = torch.zeros(side, dtype=torch.bool)
            inside[side // 4 : side - side // 4] = True
            view = inside.reshape(-1, *[1] * (len(shape) - 1 - axis))
            mask = (mask | view) if axis == axes[0] else (mask & view)
        return mask
    axis = -1 if word in ("left", "right") else -2
    require(len(shape) >= -axis, "mask", word, f"a mask for samples of shape {tuple(shape)}")
    half = mask.shape[axis] // 2
    first = word in ("left", "top")
    start, length = (0, half) if first else (half, mask.shape[axis] - half)
    mask.narrow(axis, start, length).fill_(True)
    return mask


def measured_values(x: Tensor, measurement: Measurement, shape: Sequence[int]) -> Tensor:
    """The measurement's values `[N, ...]`, of what was read: a whole sample, or the values."""
    expected = tuple(measurement.forward(torch.zeros(1, *shape)).shape[1:])
    if measurement.entries is None:
        for whole in _rows(x, shape):
            return measurement.forward(whole.double())
    for values in _rows(x, expected):
        return values
    also = "" if expected == tuple(shape) else f", or {expected}, what is measured"
    raise UserError(f"input of shape {tuple(x.shape)}: expected {tuple(shape)}, a sample{also}")


def _rows(x: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """x as `[N, *shape]` where it is one row, or N; the channel may be left out. Else nothing."""
    for ndim in (len(shape), len(shape) - 1):
        inside, lead = tuple(shape)[len(shape) - ndim :], tuple(shape)[: len(shape) - ndim]
        fits = x.ndim in (ndim, ndim + 1) and tuple(x.shape[x.ndim - ndim :]) == inside
        if fits and ndim and all(side == 1 for side in lead):
            return [x.reshape(-1, *shape)]
    return []


def factor_between(x: Tensor, shape: Sequence[int]) -> int | None:
    """How many times longer the last axis of a sample is than that of x, if it is so."""
    side = x.shape[-1] if x.ndim else 0
    return shape[-1] // side if side and side < shape[-1] and shape[-1] % side == 0 else None


def check_out(path: Path, generator: Generator) -> None:
    """Raises UserError where samples cannot be written under that name."""
    need = f"a name that ends in {', '.join(ENDINGS)}, or a folder for pictures"
    is_folder = not path.suffix and generator.facts.look.black_and_white is not None
    require(path.suffix in ENDINGS or is_folder, "out", str(path), need)


def write(path: Path, x: Tensor, generator: Generator, inputs: Tensor | None = None) -> str:
    """Writes samples; what a picture shows, in words.

    A .png of pictures is a row with `inputs`, what was measured, before them; a folder gets one PNG
    for each sample, of its own size. Raises StorageError where the disk refuses.
    """
    look = generator.facts.look
    if path.suffix in (".npy", ".safetensors"):
        return output.write(path, x, generator)
    with storage(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if look.black_and_white is None:
            return draw(path, [Rows("samples", x)], look)
        low, high = look.black_and_white
        greys = Units((low + high) / 2, (high - low) / 2)
        if path.suffix:
            rows = x if inputs is None else _beside(inputs.to(x.dtype), x)
            columns = 2 if inputs is not None and len(inputs) > 1 else min(len(rows), COLUMNS)
            sketch.save(path, greys.to_model(rows), columns)
            return ""
        path.mkdir(exist_ok=True)
        digits = max(2, math.ceil(math.log10(len(x))))
        for place, one in enumerate(sketch.pixels(greys.to_model(x))):
            image = Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one)
            image.save(path / f"{place:0{digits}}.png")
        return ""


def _beside(inputs: Tensor, x: Tensor) -> Tensor:
    """One measurement before all samples, or each before its own."""
    if len(inputs) == 1:
        return torch.cat([inputs, x])
    return torch.stack([inputs, x], 1).flatten(0, 1)


def input_pictures(measurement: Measurement, y: Tensor, generator: Generator) -> Tensor:
    """What was measured as pictures `[N, C, H, W]`: what is missing is grey."""
    shape = generator.facts.shape
    low, high = generator.facts.look.black_and_white or (0.0, 1.0)
    if measurement.entries is not None:
        middle = torch.full((len(y), *shape), (low + high) / 2, dtype=y.dtype)
        return measurement.project(middle, y)
    if len(shape) == 3 and tuple(y.shape[2:]) == tuple(shape[1:]) and y.shape[1] == 1:
        return y.expand(len(y), *shape)
    return measurement.pinverse(y).reshape(-1, *shape)
