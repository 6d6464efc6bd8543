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
    columns: tuple[str, ...] = ()  # of a table, that are samples; (): see `fewstep.data.files`
    label_column: str | None = None
    condition_columns: tuple[str, ...] = ()
    cond: str | None = None  # file with the condition's rows, beside the data
    # Of a teacher or initial weights, instead of measured ones.
    origin_units: Units | None = None
    origin_cond_units: Mapping[str, Units] = field(default_factory=dict)
