"""What training would meet in a folder or zip of pictures, found before it starts and without
keeping any.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fewstep.base.conditions import LABELS, check_condition, kind_of
from fewstep.base.errors import UserError
from fewstep.data.archives import opened
from fewstep.data.decoding import prepared
from fewstep.data.images import BadFiles, Listing, Size, listed, misfits, pictures, skippable


@dataclass(frozen=True)
class Scan:
    """What lies in a folder or zip; sizes, modes, channels and labels count the pictures that are
    not bad.
    """

    path: str
    pictures: int
    bad: dict[str, str]  # what is wrong with each bad file, by its name
    sizes: dict[str, int]  # upright, as they lie there
    modes: dict[str, int]  # Pillow's
    channels: int  # of the set: 1 where all are grey, else 3
    labels: dict[str, int] | None  # pictures of each class; None without labels
    others: tuple[str, ...]  # files that are no pictures

    def fine(self, bad_files: BadFiles = "fail") -> bool:
        """Whether training under this policy would accept it."""
        return len(self.bad) <= (skippable(self.pictures) if bad_files == "skip" else 0)


def scan(path: str | Path, size: int | None = None, *, progress: bool = False) -> Scan:
    """Decodes every picture of a folder or zip once, and tells all that is bad.

    size: what `data_size` will be; without it, pictures of another size than most are bad.
    Raises UserError where there is nothing to go over, and for labels or archives that are refused
    as a whole.
    """
    path = Path(path)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        raise UserError(
            f"scan {path}: expected a folder or zip of pictures; other files are checked as they"
            " are read"
        )
    with opened(path) as files:
        found = listed(path, files)
        seen = pictures(found)
        return _scanned(
            found, size, tqdm(seen, total=len(found.names), unit="picture") if progress else seen
        )


def _scanned(found: Listing, size: int | None, seen: Any) -> Scan:
    bad: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    modes: dict[str, str] = {}
    grey = True
    for name, picture in seen:
        try:
            if isinstance(picture, UserError):
                raise picture
            row = prepared(f"{found.path}/{name}", picture, size)
        except UserError as error:
            bad[name] = str(error)
            continue
        sizes[name], modes[name], grey = picture.size, picture.mode, grey and row.ndim == 2
    bad |= misfits(found.path, sizes) if size is None else {}
    fine = [name for name in found.names if name not in bad]
    told = Counter(f"{width}x{height}" for width, height in (sizes[name] for name in fine))
    return Scan(
        path=str(found.path),
        pictures=len(found.names),
        bad=bad,
        sizes=dict(told.most_common()),
        modes=dict(Counter(modes[name] for name in fine).most_common()),
        channels=1 if grey else 3,
        labels=_labels(found, fine),
        others=tuple(found.others),
    )


def _labels(found: Listing, fine: list[str]) -> dict[str, int] | None:
    """How many pictures each class has. Raises UserError for labels or features that training would
    refuse.
    """
    if found.cond is None:
        return None
    cond = check_condition(found.cond, torch.empty(len(found.names), 1))
    if not isinstance(cond, torch.Tensor) or kind_of(cond) != LABELS:
        return None
    kept = set(fine)
    counts = Counter(
        label for name, label in zip(found.names, cond.tolist(), strict=True) if name in kept
    )
    return {
        found.classes[label] if found.classes else str(label): counts[label]
        for label in sorted(counts)
    }
