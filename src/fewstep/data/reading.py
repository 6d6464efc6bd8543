"""How samples are to be read: which columns, which units; and what was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fewstep.base.errors import UserError, short_repr
from fewstep.data.columns import NO_NAMES, Column, Names
from fewstep.data.units import AUTO, STANDARD, Units

BadFiles = Literal["fail", "skip"]
HOLDOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The choices between a file, or arrays, and a data set."""

    size: int | None = None  # side that the middle square of each picture is resized to
    bad_files: BadFiles = "fail"
    units: str = AUTO  # see `fewstep.data.units`
    auto: str = STANDARD  # what auto is for all but pictures of bytes
    channel_axis: int | None = None  # of the whole array; None: by `units.variable_axis`
    columns: tuple[str, ...] = ()  # of a table, that are samples; (): see `fewstep.data.files`
    label_column: str | None = None
    condition_columns: tuple[str, ...] = ()
    cond: str | None = None  # file with the condition's rows, beside the data
    holdout: float = HOLDOUT  # share, or number from 1 on, of each split without a path of its own
    validation: str | None = None  # paths of these splits
    test: str | None = None
    cache: str | None = None  # folder for rows that are kept; None: beside the data, where many
    latents: str | None = None  # how samples hold the moments of latents (`fewstep.data.latents`)
    # Of a teacher or initial weights, instead of measured ones.
    origin_units: Units | None = None
    origin_cond_units: Mapping[str, Units] = field(default_factory=dict)
    origin_columns: tuple[Column, ...] = ()  # its samples': what `columns` are where nobody says
    origin_features: tuple[Column, ...] = ()  # its condition columns', with their categories

    def refuse_splits(
        self, place: str, what: str = "whose splits are fixed", fine: tuple[float, ...] = (HOLDOUT,)
    ) -> None:
        """Raises UserError for choices of splits, where the user has none.

        fine: the values of holdout that ask for nothing else than what is done.
        """
        for name in ("validation", "test"):
            value = getattr(self, name)
            if value is not None:
                raise UserError(f"{name} = {short_repr(value)}: expected none with data {place}")
        if self.holdout not in fine:
            raise UserError(f"holdout = {self.holdout:g}: expected none with data {place}, {what}")

    def refuse_latents(self, place: str) -> None:
        """Raises UserError for a law of latents, where none are drawn."""
        if self.latents is not None:
            raise UserError(f"latents = {self.latents}: expected none with data {place}")

    def refuse(self, place: str, *, but: tuple[str, ...] = ()) -> None:
        """Raises UserError for choices about tables and files of conditions, where there is none.

        but: the names of those that may be set.
        """
        for name in ("columns", "label_column", "condition_columns", "cond"):
            value = getattr(self, name)
            if value and name not in but:
                raise UserError(f"{name} = {short_repr(value)}: expected none with data {place}")


@dataclass(frozen=True)
class Content:
    """What was read: {"x0", "cond"}, parts of solved trajectories if any, and what is known of it.

    left_out: what the file holds beside, and why. skipped: what is wrong with each bad picture.
    """

    data: dict[str, Any]
    names: Names = NO_NAMES
    left_out: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
