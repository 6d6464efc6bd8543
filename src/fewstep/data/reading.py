"""How samples are to be read: which columns, which units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fewstep.data.units import AUTO, Units

BadFiles = Literal["fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The choices between a file, or arrays, and a data set."""

    size: int | None = None  # side that the middle square of each picture is resized to
    bad_files: BadFiles = "fail"
    units: str = AUTO  # see `fewstep.data.units`
    channel_axis: int | None = None  # of the whole array; None: by `units.variable_axis`
    origin_units: Units | None = (
        None  # instead of measured ones: those of a teacher or initial weights
    )
    origin_cond_units: Mapping[str, Units] = field(
        default_factory=dict
    )  # likewise, of the condition
