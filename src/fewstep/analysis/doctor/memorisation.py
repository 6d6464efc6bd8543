"""Whether samples are training rows again."""

from __future__ import annotations

from torch import Tensor

from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, judged
from fewstep.analysis.metrics.distances import to_nearest
from fewstep.analysis.metrics.protocol import estimate
from fewstep.base.errors import UserError

DRAWS = 8
MOST, HELD = 50_000, 1000  # rows that are looked through, and for


def memorisation(subject: Subject, samples: Tensor) -> Measure:
    """Mean distance to the nearest training row: of samples, over that of held-out rows."""
    train, held = subject.dataset.train.x0, subject.dataset.validation.x0
    if not len(held):
        raise UserError(
            f"data {subject.dataset.name!r} has no validation split: nothing is held out to compare"
            " with"
        )
    train, held = train[:MOST], held[:HELD]
    base = to_nearest(held, train)
    found = estimate([to_nearest(part, train) / base for part in samples.chunk(DRAWS)])
    floor = estimate([to_nearest(part, train) / base for part in held.chunk(min(DRAWS, len(held)))])
    low, high = floor.interval or (floor.value, floor.value)
    told = found.interval or (found.value, found.value)
    lost = 1 / max(found.value, 1e-9)
    verdict = judged(
        "memorisation",
        lost,
        max(1 / max(low, 1e-9), 1.25),
        2.0,
        against="held-out rows are at 1; beyond the interval of theirs, 1.25 at least",
        fine=(
            f"samples are {found.value:.3g} times as far from the nearest training row as held-out"
            " rows are"
        )
        + (": off the data, a matter of quality" if found.value > 2 else ""),
        ill=(
            f"samples are training rows again: they are {found.value:.2g} times as far from the"
            " nearest one as held-out rows are: more data or augmentation, dropout, a smaller"
            " network, fewer steps"
        ),
        also=told[1] < min(low, 1.0),
    )
    rows = [("samples", found.value, *told), ("held out", floor.value, low, high)]
    return Measure(
        "memorisation",
        "mean distance to the nearest training row over that of held-out rows, with its 95 %"
        " interval",
        ("rows", "ratio", "from", "to"),
        rows,
        (verdict,),
    )
