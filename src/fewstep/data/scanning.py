"""What training would meet in a folder or zip of pictures, found beforehand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.base.conditions import LABELS, check_condition, kind_of
from fewstep.base.errors import UserError
from fewstep.base.progress import Progress
from fewstep.data import picture_sets
from fewstep.data.gathering import Census, Kind, skippable
from fewstep.data.images import Listing
from fewstep.data.reading import BadFiles, Reading


@dataclass(frozen=True)
class Scan:
    """What a folder or zip holds; sizes, modes, channels and labels count sound pictures alone."""

    path: str
    pictures: int
    bad: dict[str, str]  # what is wrong with each bad file, by its name
    sizes: dict[str, int]  # upright, before any resizing
    modes: dict[str, int]  # Pillow's
    channels: int  # of the set: 1 where all are grey, else 3
    labels: dict[str, int] | None  # pictures of each class; None without labels
    others: tuple[str, ...]  # files that are no pictures

    def fine(self, bad_files: BadFiles = "fail") -> bool:
        """Whether training under this policy would accept it."""
        most = min(skippable(self.pictures), self.pictures - 1) if bad_files == "skip" else 0
        return len(self.bad) <= most


def scan(
    path: str | Path, size: int | None = None, *, cache: str | None = None, progress: bool = False
) -> Scan:
    """Decodes every picture of a folder or zip once, and reports all that is bad.

    size: what `data_size` will be; without it, pictures of another size than most are bad. cache:
    as in training; what is decoded stays where training finds it. Raises UserError where there are
    no pictures, and for labels or archives that are refused as a whole.
    """
    path, reading = Path(path), Reading(size=size, cache=cache)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        raise UserError(
            f"scan {path}: expected a folder or zip of pictures; other files are checked as they"
            " are read"
        )
    with picture_sets.look_up(path, reading) as folder:
        if isinstance(folder, Listing) and picture_sets.is_large(folder, reading):
            folder = picture_sets.keep(folder, reading, most_bad=None, progress=progress)
        if not isinstance(folder, Listing):
            channels = folder.rows.shape[1]
            return _report(path, folder.census, channels, folder.labels, folder.about)
        kinds = [Kind()]

        def take(rows: list[np.ndarray], _: Census) -> None:
            for row in rows:
                kinds[0] = kinds[0].with_(row)

        with Progress(len(folder.names), "picture", show=progress) as bar:
            census = picture_sets.go_through(folder, reading.size, take, None, progress=bar)
        about, labels = picture_sets.about_of(folder), folder.sound(census.bad)
        return _report(path, census, kinds[0].channels, labels, about)


def _report(path: Path, census: Census, channels: int, labels: Any, about: dict[str, Any]) -> Scan:
    return Scan(
        path=str(path),
        pictures=census.count,
        bad=census.bad,
        sizes=dict(census.sizes.most_common()),
        modes=dict(census.modes.most_common()),
        channels=channels,
        labels=_labels(labels, tuple(about["classes"])),
        others=tuple(about["others"]),
    )


def _labels(cond: Any, names: tuple[str, ...]) -> dict[str, int] | None:
    """How many pictures each class has. Raises UserError for labels that training would refuse."""
    if cond is None:
        return None
    cond = check_condition(cond, torch.empty(len(cond), 1))
    if not isinstance(cond, torch.Tensor) or kind_of(cond) != LABELS:
        return None
    counts = sorted(Counter(cond.tolist()).items())
    return {names[label] if names else str(label): count for label, count in counts}
