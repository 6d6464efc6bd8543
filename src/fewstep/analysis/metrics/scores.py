"""What is known of ensembles of samples beside the truths: all that calibration looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewstep.statistics import ensembles, rank_test


@dataclass(frozen=True)
class Scores:
    """What is known of R ensembles for truths of V numbers, in the model's units."""

    below: Tensor  # [R, V]: samples below the truth
    equal: Tensor  # likewise
    crps: Tensor
    spread: Tensor
    skill: Tensor
    mask: Tensor  # False in the padding, and for constants
    energy: Tensor  # [R]
    members: Tensor  # [R, K + 1, ...]: what each of them would score as the truth (rank_test.py)

    @staticmethod
    def of(x: Tensor, y: Tensor, mask: Tensor, seed: int) -> Scores:
        """Of ensembles `[R, K, V]` and truths `[R, V]`, float64, 0 in the padding."""
        pairs = *ensembles.places(x, y), ensembles.crps_of(x, y), *ensembles.spread_and_skill(x, y)
        of_rows = ensembles.energy_score_of(x, y), rank_test.members(x, y, mask, seed)
        return Scores(*pairs, mask, *of_rows)

    @staticmethod
    def concat(parts: Sequence[Scores]) -> Scores:
        return Scores(*map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True)))

    def numbers(self, real: Tensor) -> Scores:
        """Of these numbers alone."""
        pairs = {k: v[:, real] for k, v in vars(self).items() if k not in ("energy", "members")}
        return replace(self, **pairs)

    def by_row(self, values: Tensor) -> Tensor:
        """The mean `[R]` over each row's own numbers."""
        return (values * self.mask).sum(1) / self.mask.sum(1)

    def by_variable(self, values: Tensor) -> Tensor:
        """The mean `[V]` over the rows that have this number."""
        return (values * self.mask).sum(0) / self.mask.sum(0)
