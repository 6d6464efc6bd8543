"""The scores of a run's draws: every metric's values, their means, and its p-value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.metrics.drawing import Draw
from fewstep.analysis.metrics.metric import CLUES
from fewstep.analysis.metrics.prepared import PAIRED, Meter, Prepared
from fewstep.analysis.metrics.protocol import Result, result_of
from fewstep.analysis.metrics.verdict import Groups
from fewstep.data import Arrays
from fewstep.data.dataset import concat
from fewstep.statistics.clues import MOST_ROWS
from fewstep.statistics.intervals import estimate


class Tally:
    """The values of the metrics of some spaces, one draw after the other.

    It keeps the draws' first rows for the p-values, `most` at most, and their clues.
    """

    def __init__(self, prepared: Prepared, meters: list[Meter], most: int) -> None:
        self.meters = [meter for meter in meters if meter.measure.detect is None]
        self.values: dict[str, list[float]] = {meter.metric: [] for meter in self.meters}
        self.clues: list[Tensor] = []
        self._spaces = prepared.spaces
        self._has_detector = any(meter.measure.detect for meter in prepared.meters)
        self._most = most
        self._rows: list[Arrays] = []

    def add(self, draws: Iterable[Draw]) -> Tally:
        """Itself with these draws, of which one part and the features are in memory."""
        for draw in draws:
            features: dict[str, Tensor] = {}
            clues: list[Tensor] = []
            first = 0
            for part in draw.parts:
                for space, own in self._spaces.features_of(part, self.meters).items():
                    if space not in features:
                        features[space] = own.new_empty(draw.size, *own.shape[1:])
                    features[space][first : first + len(part)] = own
                if self._has_detector and first < MOST_ROWS:
                    few = _first(part, MOST_ROWS - first)
                    clues.append(self._spaces.features[CLUES](few))
                if self._most > 0:
                    self._rows.append(_first(part, self._most))
                    self._most -= len(part)
                first += len(part)
            for meter in self.meters:
                self.values[meter.metric].append(meter.measure.value(features[meter.space]))
            if clues:
                self.clues.append(torch.cat(clues))
        return self

    def rows(self) -> Arrays:
        """The first rows of all draws."""
        x0 = torch.cat([rows.x0 for rows in self._rows])
        return Arrays(x0, concat([rows.cond for rows in self._rows]))


def _first(rows: Arrays, count: int) -> Arrays:
    return rows if len(rows) <= count else rows.rows(torch.arange(count))


def score(
    prepared: Prepared,
    draws: Iterable[Draw],
    steps: int,
    protocol: dict[str, Any],
    *,
    paired: Iterable[Draw] | None = None,
    groups: Groups | None = None,
) -> list[Result]:
    """One result for each metric; each space computes the features of a draw once.

    paired: draws with the conditions of the held-out rows, for the metrics that look at these and
    for all p-values. groups: of held-out rows; without them the detector alone has a p-value.
    """
    most = groups.most_samples if groups else 0
    apart = [m for m in prepared.meters if paired is not None and m.space in PAIRED]
    plain = [meter for meter in prepared.meters if meter not in apart]
    # No draw is made where nothing asks for it.
    is_needed = bool(plain) or paired is None or any(m.measure.detect for m in apart)
    tally = Tally(prepared, plain, most if paired is None else 0).add(draws if is_needed else ())
    other = tally if paired is None else Tally(prepared, apart, most).add(paired)
    values = {name: tuple(own) for name, own in {**tally.values, **other.values}.items()}
    p_values: dict[str, float] = {}
    for meter in prepared.meters:
        if meter.measure.detect is not None:
            learn, test = _halves(tally.clues) if other is tally else (tally.clues, other.clues)
            values[meter.metric], p_values[meter.metric] = meter.measure.detect(learn, test)
    if groups is not None:
        p_values |= groups.p_values(other.rows(), pairs=paired is not None)
    results = []
    for meter in prepared.meters:
        name, own = meter.metric, values[meter.metric]
        facts = {**protocol, **meter.protocol, "draws": len(own)}
        if meter in apart:
            facts["conditions"] = "of the held-out rows"
        value, p_value = estimate(own), p_values.get(name)
        results.append(result_of(name, steps, value, meter.floor, facts, own, p_value))
    return results


def _halves(clues: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The draws that a detector learns from, and those that it is tested on."""
    if len(clues) > 1:
        return clues[1::2], clues[::2]
    half = len(clues[0]) // 2
    return [clues[0][:half]], [clues[0][half:]]
