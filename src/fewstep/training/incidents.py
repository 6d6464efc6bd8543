"""An incident: the state before a step that was not finite, and its batch, as a checkpoint."""

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


def pack(batch: Batch, loss_b: Tensor) -> dict[str, Tensor]:
    """A step's batch and losses as tensors by name."""
    tensors = {
        "rows": batch.rows,
        "x0": batch.x0,
        "z": batch.z,
        "seeds": torch.tensor(batch.seeds, dtype=torch.int64),
        "loss": loss_b,
    }
    for name, part in batch.times._asdict().items():
        if isinstance(part, Tensor):
            tensors[name] = part
    for name, part in datasets.leaves(batch.cond):
        tensors[f"cond.{name}" if name else "cond"] = part
    return tensors


def unpack(tensors: Mapping[str, Tensor], progress: float) -> tuple[Batch, Tensor]:
    """The inverse of `pack`: batch and losses. Raises StorageError."""
    try:
        t, r, a, w = (tensors[name] for name in ("t", "r", "a", "w"))
        times = Times(t, r, a, w, tensors.get("u"), progress, tensors.get("to"))
        rows, x0, z = (tensors[name] for name in ("rows", "x0", "z"))
        seeds = tensors["seeds"].tolist()
        return Batch(rows, x0, _condition(tensors), z, times, seeds), tensors["loss"]
    except KeyError as error:
        raise StorageError(f"an incident without {error}: this version cannot read it") from error


def _condition(tensors: Mapping[str, Tensor]) -> Cond:
    """The condition of tensors named cond, or cond.KEY.KEY of a dict of conditions."""
    if "cond" in tensors:
        return tensors["cond"]
    cond: dict[str, Any] = {}
    for name, part in tensors.items():
        kind, *keys = name.split(".")
        if kind == "cond":
            inner = cond
            for key in keys[:-1]:
                inner = inner.setdefault(key, {})
            inner[keys[-1]] = part
    return cond or None


def write(
    path: Path, groups: Groups, record: Record, batch: Batch, loss_b: Tensor, error: str
) -> None:
    """Writes the state before the step, with its batch, as a checkpoint. Raises StorageError."""
    incident = {"error": error, "progress": batch.times.progress}
    disk.make_folder(path.parent)
    record = replace(record, incident=incident)
    checkpoint.write(path, {**groups, GROUP: pack(batch, loss_b)}, record.to_json())


def read(path: Path) -> tuple[Checkpoint, Batch, Tensor]:
    """An incident's state, batch and losses. Raises StorageError."""
    state = checkpoint.read(path)
    progress = (state.record.incident or {}).get("progress")
    if GROUP not in state.groups or not isinstance(progress, float):
        raise StorageError(
            f"{path} is no incident: expected a folder below the incidents/ of a run"
        )
    return state, *unpack(state.groups[GROUP], progress)
