"""The picture of samples on a page: all from the same noise, beside rows of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.analysis.report.page import Figure, pictures
from fewstep.base.errors import UserError
from fewstep.base.figures import png
from fewstep.data import Arrays, Dataset
from fewstep.data.pictures import DPI, Rows, figure
from fewstep.run.generator import Generator


@dataclass(frozen=True)
class Origin:
    """What draws one group of samples, and its name in the picture."""

    name: str
    generator: Generator
    steps: int


def samples(
    path: Path,
    origins: Sequence[Origin],
    dataset: Dataset,
    *,
    seed: int,
    caption: str,
    batch: int | None = None,
) -> Figure:
    """Samples of each origin with the conditions of held-out rows, and these; as a PNG too.

    Without held-out rows they are of the training split. The caption goes on with what is shown,
    and why samples are not that cannot be drawn. Raises UserError without matplotlib.
    """
    look = origins[0].generator.facts.look
    name, split = _rows_beside(dataset)
    real = split.rows(torch.arange(min(look.enough, len(split))))
    groups, missing = [], []
    for origin in origins:
        try:
            groups.append(_rows_of(origin, dataset, real, seed, batch))
        except (UserError, ArithmeticError) as error:
            missing.append(f"; {origin.name}: not drawn, {error}")
    x = dataset.units.to_user(real.x0)
    groups.append(Rows(name, x, real.cond, len(split), is_data=True))
    drawing, about = figure(groups, look)
    path.parent.mkdir(parents=True, exist_ok=True)
    png(drawing, path, DPI)
    names = ", ".join(rows.name for rows in groups)
    return pictures(path, f"samples: {names}", f"{caption} {about}{''.join(missing)}.")


def _rows_beside(dataset: Dataset) -> tuple[str, Arrays]:
    """The rows that samples stand beside, and their name."""
    held_out = [rows for rows in (dataset.validation, dataset.test) if len(rows)]
    if held_out:
        return "held-out data", held_out[0]
    return "training data (none are held out)", dataset.train


def _rows_of(origin: Origin, dataset: Dataset, real: Arrays, seed: int, batch: int | None) -> Rows:
    """Samples with the conditions of these rows. Raises ArithmeticError where not finite."""
    options = {"seed": seed, "cond": dataset.user_cond(real.cond), "batch": batch}
    x = origin.generator.sample(len(real), steps=origin.steps, **options)  # type: ignore[arg-type]
    if not bool(x.isfinite().all()):
        raise ArithmeticError("samples hold NaN or infinity")
    return Rows(origin.name, x, real.cond)
