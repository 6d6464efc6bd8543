"""What a metric is: a row of the registry, its reference, and the measure that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fewstep.analysis.metrics.detector import Detection
from fewstep.analysis.metrics.extractors import Extractor
from fewstep.base.errors import UserError
from fewstep.base.randomness import permutation
from fewstep.statistics.intervals import Estimate
from fewstep.statistics.layout import Layout
from fewstep.statistics.moments import Statistics

# Spaces beside those of extractors.
PIXEL = "pixel"  # the data's own values
JOINT = "joint"  # these and the condition, side by side
VALUES = "values"  # as users have them, NaN where a mask has no element: for statistics of a kind
CLUES = "clues"  # what the detector looks at
CLASSES = "classes"  # class probabilities: of the extractor, where it has them
OWN_SPACES = (PIXEL, JOINT, VALUES, CLUES)


@dataclass(frozen=True)
class Reference:
    """Features `[N, ...]` of the training split and of held-out data; n: samples of a draw.

    In the space "joint" they hold the condition too.
    """

    train: Tensor
    held_out: Tensor
    n: int
    layout: Layout

    def draw_of_train(self) -> Tensor:
        """n rows of the training split, for metrics of two sets of one size."""
        if len(self.train) < self.n:
            raise UserError(
                f"{len(self.train)} training samples for draws of {self.n}: choose smaller draws"
            )
        return self.train[permutation(0, "reference rows", 0, len(self.train))[: self.n]]


@dataclass(frozen=True)
class Measure:
    """A metric with its reference: `value` of a draw `[n, ...]`, and the settings it depends on.

    p_value: of samples and held-out rows, and whether they are pairs of one condition, where it has
    a test of its own. detect: of a metric that learns from some draws and is tested on others, in
    place of `value`; its floor is known.
    """

    value: Callable[[Tensor], float]
    settings: dict[str, Any] = field(default_factory=dict)
    p_value: Callable[[Tensor, Tensor, bool], float] | None = None
    detect: Callable[[Sequence[Tensor], Sequence[Tensor]], Detection] | None = None
    floor: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row: a number that compares a draw of samples with a reference.

    Floor and error are the same for all: the floor is held-out data in the model's place, the error
    comes from the spread of disjoint draws (protocol.py).
    """

    name: str  # in the protocol: `statistic`
    meaning: str  # one sentence, with what it needs beyond torch
    prepare: Callable[[Reference], Measure]  # the costly part, once for a reference
    from_moments: Callable[[Statistics], Measure] | None = None  # where moments are enough
    better: Literal["lower", "higher", "one"] = "lower"  # "one": nothing can be chosen by it
    # The spaces in which it is always scored; "joint": the data's own values with and without the
    # condition, "all": every one without it.
    default: Literal["all", "pixel", "joint", "none"] = "none"
    space: str | None = None  # the only one it is of; None: pixel, joint and those of extractors
    kinds: tuple[str, ...] = ()  # of data that it is a statistic of (layout.py); (): of any
    has_short_name: bool = False  # of the data's own values it is called `name` alone
    shows_ratio: bool = False  # value over floor means something: the floor lies well above 0

    def name_in(self, extractor: Extractor | None, space: str = PIXEL) -> str:
        """Its full name in an extractor's space; None: in that of the data's own spaces."""
        if extractor is not None and (published_name := extractor.published(self.name)):
            return published_name
        if space == self.space:
            return self.name
        if extractor is not None:
            return f"{extractor.name}_{self.name}"
        return self.name if self.has_short_name and space == PIXEL else f"{space}_{self.name}"

    def is_default(self, space: str) -> bool:
        """Whether it is scored in this space when no metrics are named."""
        spaces = {"pixel": (PIXEL,), "joint": (PIXEL, JOINT), "none": ()}
        return space != JOINT if self.default == "all" else space in spaces[self.default]

    def is_of(self, space: str, layout: Layout) -> bool:
        """Whether it has a meaning there."""
        is_there = space == self.space if self.space else space not in (VALUES, CLUES, CLASSES)
        return is_there and (not self.kinds or bool(set(self.kinds) & set(layout.kinds)))
