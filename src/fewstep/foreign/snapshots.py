"""EDM2's folders of snapshots: any average of the weights is a sum of those that were stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.foreign.reading import read_foreign
from fewstep.foreign.recognised import Recognised, Said
from fewstep.foreign.recognition import recognise

NAME = re.compile(r".*-(\d+)-(\d+\.\d+)\.pkl")

# (times, deviations, new time, new deviation) -> the share of each stored average.
Shares = Callable[[Sequence[float], Sequence[float], float, float], Sequence[float]]


@dataclass(frozen=True, order=True)
class Snapshot:
    """An average of the weights at a time of training."""

    kimg: int  # thousands of images
    std: float  # of the average's profile, relative to kimg
    path: Path


def snapshots_in(folder: Path) -> list[Snapshot]:
    """The snapshots PREFIX-KIMG-STD.pkl of a folder, by time and deviation."""
    matches = ((path, NAME.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return sorted(Snapshot(int(m[1]), float(m[2]), path) for path, m in matches if m)


def reconstruct(
    folder: Path, std: float, shares: Shares, words: Said | None = None, kimg: int | None = None
) -> Recognised:
    """The average of deviation `std` at `kimg`, or at the last snapshot, from all up to there.

    shares: the coefficients of the sum, which is made in float64, a snapshot at a time; what is no
    parameter is the last snapshot's. Raises UserError.
    Source: EDM2, arXiv 2312.02696, section 3.2.
    """
    every = [one for one in snapshots_in(folder) if one.kimg > 0]
    times = sorted({one.kimg for one in every})
    if not times:
        raise UserError(f"{folder} holds no snapshots called PREFIX-KIMG-STD.pkl")
    last = times[-1] if kimg is None else kimg
    if last not in times:
        raise UserError(f"kimg = {kimg}: expected one of {', '.join(map(str, times))}")
    every = [one for one in every if one.kimg <= last]
    parts = shares([one.kimg for one in every], [one.std for one in every], last, std)
    total: dict[str, Tensor] = {}
    for snapshot, share in zip(every, parts, strict=True):
        one = recognise(read_foreign(snapshot.path), words)
        add(total, one, share, snapshot.path)
    note = f"average of deviation {std:g} at {last} kimg, from {len(every)} snapshots"
    buffers = {"emb_fourier.freqs", "emb_fourier.phases"}
    weights = {name: weight.float() for name, weight in total.items()}
    weights |= {name: one.weights[name] for name in buffers & weights.keys()}
    return replace(one, weights=weights, notes=(*one.notes, note))


def add(total: dict[str, Tensor], one: Recognised, share: float, path: Path) -> None:
    """total <- total + share weights. Raises UserError for another network than before."""
    if total and total.keys() != one.weights.keys():
        raise UserError(f"{path} holds another network than the snapshots before it")
    for name, weight in one.weights.items():
        now = total.get(name, torch.zeros((), dtype=torch.float64))
        total[name] = now + share * weight.double()
