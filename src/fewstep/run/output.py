"""Samples as files: pictures, tables and arrays, by how the file's name ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fewstep.base.conditions import Cond, tensor
from fewstep.base.errors import StorageError, UserError
from fewstep.data import Units, change_cond, fit, writing
from fewstep.data.pictures import Rows, draw
from fewstep.data.table_files import TABLES

if TYPE_CHECKING:
    from fewstep.run.generator import Generator

ENDINGS = (".png", ".npy", ".safetensors", *TABLES)


def check(path: Path, generator: Generator, word: str = "path") -> None:
    """Raises UserError where its samples cannot be written under that name."""
    if path.suffix not in ENDINGS:
        raise UserError(f"{word} {path}: expected a name that ends in {', '.join(ENDINGS)}")
    if path.suffix in TABLES:
        writing.check_table(path, generator.facts.shape, word)


def rows_beside(data: Tensor | Mapping[str, Any], generator: Generator) -> Rows:
    """Rows of the user's own, as `train` takes them, to stand beside samples. Raises UserError."""
    facts = generator.facts
    parts = data if isinstance(data, Mapping) else {"x0": data}
    x0 = _rows("data", parts.get("x0"), generator)
    cond: Cond = None
    if parts.get("cond") is not None:
        cond = fit(parts["cond"], facts.cond, len(x0), facts.classes)
        cond = change_cond(cond, facts.cond_units, Units.to_model)
    return Rows("data", x0, cond, len(x0), is_data=True)


def _rows(name: str, value: Any, generator: Generator) -> Tensor:
    """The value as rows of the generator's shape, all finite. Raises UserError."""
    x, shape = tensor(name, value), generator.facts.shape
    if tuple(x.shape[1:]) != shape or not len(x):
        raise UserError(
            f"{name} of shape {tuple(x.shape)}: expected [N, {', '.join(map(str, shape))}]"
        )
    if not bool(x.isfinite().all()):
        raise UserError(f"{name} hold NaN or infinity: expected finite numbers")
    return x


def write(
    path: Path, x: Tensor, generator: Generator, cond: Any = None, beside: Rows | None = None
) -> str:
    """Writes samples of the generator; what a picture shows in words, "" of other files.

    cond: what the samples were drawn for. beside: rows of data that a picture shows too.
    Raises UserError, and StorageError where the disk refuses.
    """
    check(path, generator)
    x = _rows("samples", x, generator)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            samples = Rows("samples", x, generator.conditions(len(x), cond))
            return draw(path, [samples, *([beside] if beside else [])], generator.facts.look)
        if path.suffix == ".npy":
            np.save(path, x.numpy())
        elif path.suffix == ".safetensors":
            save_file({"samples": x}, path)
        else:
            conds = generator.user_conditions(len(x), cond)
            writing.write_table(path, x, conds, generator.facts.names)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write {path}: {reason}") from error
    return ""
