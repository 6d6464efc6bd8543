"""Whether samples are copies of training rows."""

from __future__ import annotations

from torch import Tensor

from fewstep.analysis.doctor.levels import split_of
from fewstep.analysis.doctor.subject import Subject
from fewstep.analysis.doctor.verdicts import Measure, judge
from fewstep.statistics.distances import to_nearest
from fewstep.statistics.intervals import Estimate, estimate

DRAWS = 8
MOST = 50_000  # training rows that are searched
HELD_OUT = 1000  # rows that are compared with the samples


def memorisation(subject: Subject, samples: Tensor) -> Measure:
    """Mean distance to the nearest training row: of samples, over that of held-out rows."""
    train = subject.dataset.train.x0[:MOST]
    held_out = split_of(subject.dataset, "validation").x0[:HELD_OUT]
    unit = to_nearest(held_out, train)

    def ratio(x: Tensor, groups: int) -> Estimate:
        return estimate([to_nearest(part, train) / unit for part in x.chunk(groups)])

    floor = ratio(held_out, min(DRAWS, len(held_out)))
    result = ratio(samples, DRAWS)
    low, high = floor.interval or (floor.value, floor.value)
    least, most = result.interval or (result.value, result.value)
    distance = (
        f"samples are {result.value:.3g} times as far from the nearest training row as held-out"
        " rows are"
    )
    far = ": they are off the data, a matter of quality" if result.value > 2 else ""
    verdict = judge(
        "memorisation",
        1 / max(result.value, 1e-9),
        max(1 / max(low, 1e-9), 1.25),
        2.0,
        against="held-out rows are at 1; beyond the interval of theirs, 1.25 at least",
        ok=f"{distance}{far}",
        fault=(
            f"samples are copies of training rows: they are {result.value:.2g} times as far from"
            " the nearest one as held-out rows are: more data or augmentation, dropout, a smaller"
            " network, fewer steps"
        ),
        condition=most < min(low, 1.0),
    )
    return Measure(
        "memorisation",
        "mean distance to the nearest training row over that of held-out rows, with its 95 %"
        " interval",
        ("rows", "ratio", "from", "to"),
        [("samples", result.value, least, most), ("held out", floor.value, low, high)],
        (verdict,),
    )
