"""Arrays of the user's own as they are given: samples, condition and mask; which are pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.base.conditions import Cond, check_condition, is_integral, tensor
from fewstep.base.errors import UserError, unknown

FIRST = 100  # rows that tell of most data that they are not the same everywhere


def parts_of(data: Any) -> dict[str, Any]:
    """{"x0", "cond"} of the user's data, a numpy mask among the condition. Raises UserError."""
    if isinstance(data, str | Path):
        raise UserError(
            f"data = {str(data)!r}: a path goes into the run, as in fs.recipes.toy(data=...)"
        )
    parts = dict(data) if isinstance(data, Mapping) else {"x0": data}
    for key in parts:
        if key not in ("x0", "cond"):
            raise unknown("key of data", key, ("x0", "cond"))
    if "x0" not in parts:
        raise UserError(
            'data holds no "x0": expected a tensor, or {"x0": tensor, "cond": condition}'
        )
    return mask_apart(parts)


def mask_apart(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with a mask of numpy's as the condition's "mask": True where there is a value.

    One that was kept in a file stands under "mask" beside the data. It is combined with the mask
    that the condition has. A condition of one part goes beside it under "label" or "features".
    """
    x0, cond = data["x0"], data.get("cond")
    rest = {key: part for key, part in data.items() if key != "mask"}
    there: Any = data.get("mask")
    if there is not None:
        plain = x0
    elif isinstance(x0, np.ma.MaskedArray):
        there = torch.from_numpy(~np.ma.getmaskarray(x0))
        plain = x0.filled(0)
        if bool(there.all()):
            return {**data, "x0": plain}
    else:
        return rest
    if cond is not None and not isinstance(cond, Mapping):
        part = tensor("cond", cond)
        cond = {"label" if part.ndim == 1 and is_integral(part) else "features": part}
    there = there[:, None] if there.ndim == 1 else there
    parts = dict(cond or {})
    if parts.get("mask") is not None:
        own = tensor("mask", parts["mask"])
        if own.dtype == torch.bool and own.ndim <= there.ndim and len(own) == len(there):
            there = torch.as_tensor(there) & own.reshape(*own.shape, *[1] * (there.ndim - own.ndim))
    return {**rest, "x0": plain, "cond": {**parts, "mask": there}}


def check_arrays(data: Any) -> tuple[Tensor, Any]:
    """x0 `[N, ...]` in the user's units and type, and its condition. Raises UserError."""
    parts = parts_of(data)
    x0 = tensor("data", parts["x0"])
    x0 = x0[:, None] if x0.ndim == 1 else x0
    if x0.ndim < 2 or len(x0) < 2 or not x0.numel():
        raise UserError(
            f"data of shape {tuple(x0.shape)}: expected [N, ...] with at least 2 samples"
        )
    if x0.dtype == torch.int64 and bool((strange := x0.double().long() != x0).any()):
        raise UserError(
            f"data holds {int(x0[strange][0])}, which no float holds: expected whole numbers up to"
            " 2^53: subtract the smallest, or leave ids out"
        )
    cond = parts.get("cond")
    return x0, None if cond is None else check_condition(cond, x0)


def are_channels(x0: Tensor) -> bool:
    """Whether x0 has the axes `[N, C, H, W]` of grey or colour pictures."""
    return x0.ndim == 4 and x0.shape[1] in (1, 3)


def pixels(x0: Tensor) -> Tensor | None:
    """Bytes with 3 or 4 axes as pictures `[N, C, H, W]`; None for anything else."""
    if x0.dtype != torch.uint8 or x0.ndim not in (3, 4):
        return None
    if x0.numel() and bool(
        (x0[:FIRST] == x0[0].flatten()[0]).all() and (x0 == x0[0].flatten()[0]).all()
    ):
        raise UserError(f"every pixel is {int(x0[0].flatten()[0])}: there is nothing to learn")
    x0 = x0[:, None] if x0.ndim == 3 else x0
    if x0.shape[1] in (1, 3):
        return x0
    return x0.movedim(3, 1) if x0.shape[3] in (1, 3) else None  # of a file a view


def mask_like(pictures: Tensor, x0: Tensor, cond: Cond) -> Cond:
    """The condition whose mask has its channels where the pictures have them."""
    mask = cond.get("mask") if isinstance(cond, Mapping) else None
    if not isinstance(cond, Mapping) or not isinstance(mask, Tensor):
        return cond
    if pictures.shape == x0.shape or mask.ndim == 1:
        return cond
    mask = mask.reshape(*mask.shape, *[1] * (x0.ndim - mask.ndim))
    return {**cond, "mask": mask[:, None] if x0.ndim == 3 else mask.movedim(3, 1)}
