"""Mean and covariance of features, all that a Fréchet distance needs of a set; `.npz` files."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.base.disk import write as write_file
from fewstep.base.errors import StorageError, UserError
from fewstep.statistics.sets import of_sets

CHUNK = 8192  # rows in float64 at once


@dataclass(frozen=True)
class Statistics:
    """mean `[F]` and covariance `[F, F]` over N - 1, in float64; n and extractor if known."""

    mean: Tensor
    cov: Tensor
    n: int | None = None
    extractor: str | None = None  # SHA-256 of what made the features

    @property
    def sha256(self) -> str:
        """SHA-256 of both arrays' float64 bytes, whatever file they come from."""
        digest = hashlib.sha256()
        for part in (self.mean, self.cov):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def write(self, path: str | Path) -> None:
        """Writes `mu` and `sigma`, EDM's keys, and `n` and `extractor` where known."""
        facts = {"n": self.n, "extractor": self.extractor}
        extra = {key: np.array(value) for key, value in facts.items() if value is not None}
        file = BytesIO()
        np.savez(file, mu=self.mean.numpy(), sigma=self.cov.numpy(), **extra)  # type: ignore[arg-type, unused-ignore]
        try:
            write_file(Path(path), file.getvalue())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error


@of_sets(least=1)
def moments(x: Tensor, extractor: str | None = None) -> Statistics:
    """The statistics of samples or features `[N, ...]`, N >= 2, in two passes over pieces."""
    if len(x) < 2:
        raise UserError(f"{len(x)} samples have no covariance: expected at least 2")
    parts = x.flatten(1).split(CHUNK)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(x)
    cov = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in parts:
        deviation = part.double() - mean
        cov.addmm_(deviation.T, deviation)
    return Statistics(mean, cov / (len(x) - 1), len(x), extractor)


class Moments:
    """The statistics of rows `[B, F]` that are added in pieces, in one pass.

    Sums are in float64 about the mean of the first piece, so that little is lost where the mean is
    far from 0.
    """

    def __init__(self) -> None:
        self.count, self.shift = 0, torch.zeros(0)
        self.total, self.squares = torch.zeros(0), torch.zeros(0)

    def add(self, piece: Tensor) -> None:
        rows = piece.flatten(1).double()
        if not self.count:
            self.shift = rows.mean(0)
            self.total = torch.zeros_like(self.shift)
            self.squares = self.shift.new_zeros(len(self.shift), len(self.shift))
        for part in (rows - self.shift).split(CHUNK):
            self.total += part.sum(0)
            self.squares.addmm_(part.T, part)
        self.count += len(rows)

    def statistics(self, extractor: str | None = None) -> Statistics:
        """Of all that was added. Raises UserError for fewer than two rows."""
        count, total = self.count, self.total
        if count < 2:
            raise UserError(f"{count} samples have no covariance: expected at least 2")
        cov = (self.squares - torch.outer(total, total) / count) / (count - 1)
        return Statistics(self.shift + total / count, (cov + cov.T) / 2, count, extractor)


def moments_of(pieces: Iterable[Tensor], extractor: str | None = None) -> Statistics:
    """The statistics of rows `[B, F]` that come in pieces. Raises UserError for fewer than two."""
    result = Moments()
    for piece in pieces:
        result.add(piece)
    return result.statistics(extractor)


def read_statistics(path: str | Path) -> Statistics:
    """Statistics of a `.npz` file with keys `mu` and `sigma`; nothing pickled is read.

    Raises UserError where the file is missing or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [key for key in ("mu", "sigma") if key not in file]:
                raise UserError(
                    f"{path} lacks {' and '.join(missing)}: expected EDM's keys mu and sigma"
                )
            mean = torch.from_numpy(np.asarray(file["mu"], dtype=np.float64))
            cov = torch.from_numpy(np.asarray(file["sigma"], dtype=np.float64))
            n = int(file["n"]) if "n" in file else None
            extractor = str(file["extractor"]) if "extractor" in file else None
    except UserError:
        raise
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no .npz file of reference statistics: {error}") from error
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        shapes = f"mu {tuple(mean.shape)} and sigma {tuple(cov.shape)}"
        raise UserError(f"{path} holds {shapes}: expected [F] and [F, F]")
    if not bool(torch.isfinite(mean).all() and torch.isfinite(cov).all()):
        raise UserError(f"{path} holds NaN or infinity")
    if not torch.allclose(cov, cov.T, rtol=1e-6, atol=1e-9 * cov.abs().max().item()):
        raise UserError(f"{path} holds a sigma that is not symmetric: it is no covariance")
    return Statistics(mean, cov, n, extractor)
