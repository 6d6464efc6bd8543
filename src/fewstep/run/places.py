"""Where a checkpoint is: in a run folder or its own, one file, a pipeline's folder, or shipped."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fewstep.base.errors import StorageError, UserError
from fewstep.foreign.diffusers_folder import is_diffusers
from fewstep.run.checkpoint import Checkpoint, RunFolder, is_single, read, read_single
from fewstep.run.checkpoint.schema import check_contents
from fewstep.run.imports import open_folder

BEST = "best"  # RUN/best is the checkpoint that scored best while RUN was trained
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")


def find(path: str | Path) -> Checkpoint:
    """The checkpoint of a run folder (its newest valid one), RUN/best, a checkpoint folder or a
    shipped name.

    Raises UserError where there is nothing of the kind, StorageError where nothing valid is left.
    """
    checkpoint = _checkpoint_at(path)
    check_contents(checkpoint.record, checkpoint.path)
    return checkpoint


def refuse_pickle(path: str | Path) -> None:
    """Raises UserError for what is a pickle by its name: with the way to a file that is read."""
    name = Path(path)
    if name.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, by its name: that can run any program, so it is never loaded;"
            f" 'fewstep import {path} {name.stem}.safetensors' reads it without running anything"
        )


def _checkpoint_at(path: str | Path) -> Checkpoint:
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"run {path!r}: expected a run folder, a checkpoint or a shipped name")
    place = Path(path)
    refuse_pickle(place)
    if place.is_file():
        if is_single(place):
            return read_single(place)
        raise UserError(
            f"{path} is a file: expected a run folder, a checkpoint folder, a shipped name, or a"
            " .safetensors file that 'fewstep import' wrote"
        )
    if place.name == BEST and not place.exists() and (place.parent / "run.json").is_file():
        return RunFolder(place.parent).best_checkpoint()
    if not place.exists():
        return _on_board(str(path))
    if (place / "manifest.json").is_file():
        return read(place)
    if is_diffusers(place):
        return open_folder(place)
    checkpoint = RunFolder(place).newest() if place.is_dir() else None
    if checkpoint is None:
        raise StorageError(
            f"{str(path)!r} holds no checkpoint: expected a run folder that 'fewstep train' wrote"
        )
    return checkpoint


def _on_board(name: str) -> Checkpoint:
    """The shipped generator of that name. Raises UserError."""
    assets = Path(str(files("fewstep"))) / "assets"
    if (assets / name / "manifest.json").is_file():
        return read(assets / name)
    names = sorted(manifest.parent.name for manifest in assets.glob("*/manifest.json"))
    raise UserError(
        f"no run folder {name}, and no shipped generator of that name (there is:"
        f" {', '.join(names) or 'none'})"
    )
