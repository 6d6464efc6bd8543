"""A run's folder. There is no pointer to the latest checkpoint: the newest valid one is used."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from fewstep.base import disk
from fewstep.base.errors import StorageError, UserError, storage
from fewstep.run.checkpoint.best import read_best
from fewstep.run.checkpoint.format import Checkpoint
from fewstep.run.checkpoint.io import read
from fewstep.run.checkpoint.schema import Unreadable

log = logging.getLogger("fewstep")

# Names that only this program gives.
_TEMPORARY = re.compile(r"step-[0-9]+(-[0-9]+)?\.tmp-[0-9]+(-[0-9]+)?(-old)?")
FILES = (  # of a run, each written in one move
    *("run.json", "metrics.jsonl", "metrics.csv", "best.json", "curves.png"),
    *("wandb.json", "trackio.json"),
)
KEEP = 2  # valid checkpoints that stay in a run folder


def free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """(N, path) of every finished step-N in a folder."""
    return [
        (int(path.name[5:]), path)
        for path in folder.glob("step-*")
        if re.fullmatch(r"step-[0-9]+", path.name)
    ]


def _valid(path: Path) -> Checkpoint:
    """The checkpoint in a folder of that name. Raises StorageError."""
    checkpoint = read(path)
    step = checkpoint.record.step
    if step != int(path.name[5:]):
        raise StorageError(f"{path} holds step {step}: was it renamed?")
    return checkpoint


@dataclass(frozen=True)
class RunFolder:
    """run.json, metrics.jsonl, {checkpoints,snapshots,incidents}/step-N/, samples/*.png,
    curves.png; best.json where checkpoints are scored.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        return self.path / "best.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[Path]:
        """The checkpoints, newest first."""
        return [path for _, path in sorted(_steps(self.path / "checkpoints"), reverse=True)]

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step-{step}"

    def snapshots(self) -> dict[int, Path]:
        """The snapshots of averages by their step, oldest first."""
        return dict(sorted(_steps(self.path / "snapshots")))

    def incident(self, step: int) -> Path:
        """Where the next incident of a step goes."""
        return free(self.path / "incidents" / f"step-{step}")

    def newest(self, quarantine: bool = False) -> Checkpoint | None:
        """The newest valid checkpoint, or None where there is none; warns of damaged ones.

        quarantine: damaged ones are renamed step-N.corrupt, so that a resumed run can write there
        again. Raises StorageError where there are checkpoints and none is valid, or where the
        newest cannot be judged: one of another version, or one that this user may not read, is not
        damaged.
        """
        damage: list[tuple[Path, str]] = []
        for path in self.checkpoints():
            try:
                checkpoint = _valid(path)
            except Unreadable:
                raise
            except StorageError as error:
                damage.append((path, str(error)))
                continue
            for bad, fault in damage:
                log.warning("fewstep: %s: falling back to %s", fault, path.name)
                if quarantine:
                    self.quarantine(bad)
            return checkpoint
        if damage:
            _, fault = damage[0]
            raise StorageError(
                f"no valid checkpoint in {self.path}: {fault}; to start anew, choose another folder"
            )
        return None

    def best_checkpoint(self) -> Checkpoint:
        """The checkpoint that best.json names. Raises UserError without one, StorageError."""
        best = read_best(self.best)
        if best is None:
            raise UserError(
                f"{self.path} names no best checkpoint: no step was scored, --eval-every N"
            )
        return _valid(self.checkpoint(best.step))

    def quarantine(self, bad: Path) -> None:
        """Moves a damaged checkpoint aside: it is never deleted."""
        with storage(f"cannot move {bad} aside"):
            disk.rename(bad, free(bad.with_name(f"{bad.name}.corrupt")))

    def sweep(self) -> None:
        """Removes folders and files that a killed process left half written or half removed."""
        for kind in ("checkpoints", "snapshots", "incidents"):
            for path in (self.path / kind).glob("step-*.tmp-*"):
                if _TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                    with storage(f"cannot remove {path}"):
                        disk.remove(path)
        for name in FILES:
            for path in self.path.glob(f"{name}.tmp-*"):
                with storage(f"cannot remove {path}"):
                    disk.watch("remove", path)
                    path.unlink()

    def prune(self, keep: int = KEEP) -> None:
        """Removes all but the newest `keep` valid checkpoints and the best one.

        A damaged one is moved aside. 0 keeps all.
        """
        if keep == 0:
            return
        try:
            best = read_best(self.best)
        except StorageError as error:
            log.warning("fewstep: %s: no checkpoint is removed", error)
            return
        valid = 0
        for path in self.checkpoints():
            if valid >= keep:
                if best is not None and path == self.checkpoint(best.step):
                    continue
                with storage(f"cannot remove {path}"):
                    disk.remove(path)
                continue
            try:
                _valid(path)
                valid += 1
            except Unreadable:
                # This one cannot be judged, so no older one may go yet.
                return
            except StorageError as error:
                log.warning("fewstep: %s: moved aside", error)
                self.quarantine(path)
