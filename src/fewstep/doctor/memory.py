"""Whether samples are training rows again."""

from __future__ import annotations

from torch import Tensor

from fewstep.doctor.patient import Patient
from fewstep.doctor.verdicts import Measure, judged
from fewstep.errors import UserError
from fewstep.metrics.distances import to_nearest
from fewstep.metrics.protocol import estimate

DRAWS = 8
MOST, HELD = 50_000, 1000  # rows that are looked through, and for


def memorisation(patient: Patient, samples: Tensor) -> Measure:
    """Mean distance to the nearest training row: of samples, over that of held-out rows."""
    train, held = patient.dataset.train.x0, patient.dataset.validation.x0
    if not len(held):
        raise UserError(f"data {patient.dataset.name!r} has no validation split: nothing is held out to compare with")
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
        fine=f"samples are as far from training rows as held-out ones are, or farther ({found.value:.3g} of it"
        + (": off the data, a matter of quality)" if found.value > 2 else ")"),
        ill=f"samples are training rows again: they are {found.value:.2f} as far from the nearest as held-out rows "
        "are: more data or augmentation, dropout, a smaller network, fewer steps",
        also=told[1] < min(low, 1.0),
    )
    rows = [("samples", found.value, *told), ("held out", floor.value, low, high)]
    return Measure(
        "memorisation",
        "mean distance to the nearest training row over that of held-out rows, with its 95 % interval",
        ("rows", "ratio", "from", "to"),
        rows,
        (verdict,),
    )
