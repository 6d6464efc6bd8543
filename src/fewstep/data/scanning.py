"""What training would meet in a folder or zip of pictures, found beforehand without keeping any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.base.conditions import LABELS, check_condition, kind_of
from fewstep.base.errors import UserError
from fewstep.base.progress import Progress
from fewstep.data.archives import open_files
from fewstep.data.decoding import to_array
from fewstep.data.images import Listing, Size, listing, misfits, pictures, skippable
from fewstep.data.reading import BadFiles


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
        return len(self.bad) <= (skippable(self.pictures) if bad_files == "skip" else 0)


def scan(path: str | Path, size: int | None = None, *, progress: bool = False) -> Scan:
    """Decodes every picture of a folder or zip once, and reports all that is bad.

    size: what `data_size` will be; without it, pictures of another size than most are bad.
    Raises UserError where there are no pictures, and for labels or archives that are refused as a
    whole.
    """
    path = Path(path)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        raise UserError(
            f"scan {path}: expected a folder or zip of pictures; other files are checked as they"
            " are read"
        )
    with open_files(path) as files:
        folder = listing(path, files)
        with Progress(len(folder.names), "picture", show=progress) as bar:
            return _summarise(folder, size, bar)


def _summarise(folder: Listing, size: int | None, bar: Progress) -> Scan:
    bad: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    modes: dict[str, str] = {}
    is_grey = True
    for name, picture in pictures(folder):
        bar.update()
        try:
            if isinstance(picture, UserError):
                raise picture
            row = to_array(f"{folder.path}/{name}", picture, size)
        except UserError as error:
            bad[name] = str(error)
            continue
        sizes[name] = picture.size
        modes[name] = picture.mode
        is_grey = is_grey and row.ndim == 2
    if size is None:
        bad |= misfits(folder.path, sizes)
    fine = [name for name in folder.names if name not in bad]
    return Scan(
        path=str(folder.path),
        pictures=len(folder.names),
        bad=bad,
        sizes=_counts("{}x{}".format(*sizes[name]) for name in fine),
        modes=_counts(modes[name] for name in fine),
        channels=1 if is_grey else 3,
        labels=_labels(folder, fine),
        others=tuple(folder.others),
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())


def _labels(folder: Listing, fine: list[str]) -> dict[str, int] | None:
    """How many pictures each class has. Raises UserError for labels that training would refuse."""
    if folder.cond is None:
        return None
    cond = check_condition(folder.cond, torch.empty(len(folder.names), 1))
    if not isinstance(cond, torch.Tensor) or kind_of(cond) != LABELS:
        return None
    labels = dict(zip(folder.names, cond.tolist(), strict=True))
    counts = sorted(Counter(labels[name] for name in fine).items())
    names = folder.classes
    return {names[label] if names else str(label): count for label, count in counts}
