"""What is kept of a step whose numbers were not finite: the state before it and all that it took,
as a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import data as datasets
from fewstep.base import disk
from fewstep.base.conditions import Cond
from fewstep.base.errors import StorageError
from fewstep.core.times import Times
from fewstep.run import checkpoint
from fewstep.run.checkpoint import Checkpoint, Groups
from fewstep.run.checkpoint.schema import Record
from fewstep.training.batches import Batch

GROUP = "batch"  # of the checkpoint, beside those of the state


def packed(batch: Batch, loss_b: Tensor) -> dict[str, Tensor]:
    """A step's batch and the losses that it gave, as tensors by name."""
    times = {name: part for name, part in batch.times._asdict().items() if isinstance(part, Tensor)}
    told = {f"cond.{name}" if name else "cond": part for name, part in datasets.leaves(batch.cond)}
    seeds = torch.tensor(batch.seeds, dtype=torch.int64)
    return {
        "rows": batch.rows,
        "x0": batch.x0,
        "z": batch.z,
        "seeds": seeds,
        "loss": loss_b,
        **times,
        **told,
    }


def unpacked(tensors: Mapping[str, Tensor], progress: float) -> tuple[Batch, Tensor]:
    """The batch and losses that `packed` was given."""
    try:
        t, r, a, w = (tensors[name] for name in ("t", "r", "a", "w"))
        times = Times(t, r, a, w, tensors.get("u"), progress)
        parts = (
            tensors["rows"],
            tensors["x0"],
            _condition(tensors),
            tensors["z"],
            times,
            tensors["seeds"].tolist(),
        )
        return Batch(*parts), tensors["loss"]
    except KeyError as error:
        raise StorageError(
            f"an incident without {error}: it is none that this version reads"
        ) from error


def _condition(tensors: Mapping[str, Tensor]) -> Cond:
    """The condition of tensors named cond, or cond.KEY.KEY of a dict of conditions."""
    if "cond" in tensors:
        return tensors["cond"]
    found: dict[str, Any] = {}
    for name, part in tensors.items():
        kind, *keys = name.split(".")
        if kind == "cond":
            inner = found
            for key in keys[:-1]:
                inner = inner.setdefault(key, {})
            inner[keys[-1]] = part
    return found or None


def write(
    path: Path, groups: Groups, record: Record, batch: Batch, loss_b: Tensor, error: str
) -> None:
    """Writes an incident: a checkpoint folder of the state before the step, with its batch. Raises
    StorageError.
    """
    told = {"error": error, "progress": batch.times.progress}
    disk.make_folder(path.parent)
    record = replace(record, incident=told)
    checkpoint.write(path, {**groups, GROUP: packed(batch, loss_b)}, record.to_json())


def read(path: Path) -> tuple[Checkpoint, Batch, Tensor]:
    """An incident's state, batch and losses. Raises StorageError."""
    saved = checkpoint.read(path)
    told = saved.record.incident or {}
    if GROUP not in saved.groups or not isinstance(told.get("progress"), float):
        raise StorageError(
            f"{path} is no incident: expected a folder below the incidents/ of a run"
        )
    return saved, *unpacked(saved.groups[GROUP], told["progress"])
