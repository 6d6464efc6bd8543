"""A run's folder. There is no pointer to its latest checkpoint: the newest one whose manifest holds
wins.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from fewstep.base import disk
from fewstep.base.errors import StorageError, storage
from fewstep.run.checkpoint.format import Checkpoint
from fewstep.run.checkpoint.io import read
from fewstep.run.checkpoint.schema import Unreadable

log = logging.getLogger("fewstep")

_TEMPORARY = re.compile(
    r"step-[0-9]+(-[0-9]+)?\.tmp-[0-9]+(-[0-9]+)?(-old)?"
)  # names that only this program gives
KEEP = 2  # valid checkpoints that stay in a run folder


def free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not taken."""
    number, found = 1, path
    while found.exists():
        number, found = number + 1, path.with_name(f"{path.name}-{number + 1}")
    return found


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """The whole step-N in a folder, with their N."""
    return [
        (int(path.name[5:]), path)
        for path in folder.glob("step-*")
        if re.fullmatch(r"step-[0-9]+", path.name)
    ]


def _valid(path: Path) -> Checkpoint:
    """The checkpoint in a folder of that name. Raises StorageError."""
    found = read(path)
    if found.record.step != int(path.name[5:]):
        raise StorageError(f"{path} holds step {found.record.step}: was it renamed?")
    return found


@dataclass(frozen=True)
class RunFolder:
    """run.json, metrics.jsonl, checkpoints/step-N/, snapshots/step-N/, incidents/step-N/,
    samples/*.png.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[Path]:
        """The checkpoints, newest first."""
        return [path for _, path in sorted(_numbered(self.path / "checkpoints"), reverse=True)]

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step-{step}"

    def snapshots(self) -> dict[int, Path]:
        """The snapshots of averages by their step, oldest first."""
        return dict(sorted(_numbered(self.path / "snapshots")))

    def incident(self, step: int) -> Path:
        """Where the next incident of a step goes."""
        return free(self.path / "incidents" / f"step-{step}")

    def newest(self, quarantine: bool = False) -> Checkpoint | None:
        """The newest valid checkpoint, or None where there is none at all; damaged ones are named
        in a warning.

        quarantine: damaged ones are renamed step-N.corrupt, so that a resumed run can write there
        again.
        Raises StorageError where there are checkpoints and none is valid, or where the newest
        cannot be read at all:
        another version's, or one that this user may not read, is not damaged.
        """
        damaged: list[tuple[Path, str]] = []
        for path in self.checkpoints():
            try:
                found = _valid(path)
            except Unreadable:
                raise
            except StorageError as error:
                damaged.append((path, str(error)))
                continue
            for bad, fault in damaged:
                log.warning("fewstep: %s: falling back to %s", fault, path.name)
                if quarantine:
                    self.quarantine(bad)
            return found
        if damaged:
            raise StorageError(
                f"no valid checkpoint in {self.path}: {damaged[0][1]}; to start anew, choose"
                " another folder"
            )
        return None

    def quarantine(self, bad: Path) -> None:
        """Moves a damaged checkpoint aside: it is never deleted."""
        with storage(f"cannot move {bad} aside"):
            disk.rename(bad, free(bad.with_name(f"{bad.name}.corrupt")))

    def sweep(self) -> None:
        """Removes what a killed process of this program left half written or half removed."""
        for kind in ("checkpoints", "snapshots", "incidents"):
            for path in (self.path / kind).glob("step-*.tmp-*"):
                if _TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                    with storage(f"cannot remove {path}"):
                        disk.remove(path)
        for path in (
            p for name in (self.config, self.metrics) for p in self.path.glob(f"{name.name}.tmp-*")
        ):
            with storage(f"cannot remove {path}"):
                disk.watch("remove", path)
                path.unlink()

    def prune(self, keep: int = KEEP) -> None:
        """Removes old checkpoints but the newest `keep` valid ones; a damaged one is named and
        moved aside.
        """
        valid = 0
        for path in self.checkpoints():
            if valid >= keep:
                with storage(f"cannot remove {path}"):
                    disk.remove(path)
                continue
            try:
                _valid(path)
                valid += 1
            except Unreadable:
                return  # not now: nothing is known of it, so nothing older is dispensable
            except StorageError as error:
                log.warning("fewstep: %s: moved aside", error)
                self.quarantine(path)
