"""A variable as a normal number: a monotone map by its own quantiles, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MOST_KNOTS = 1000  # of a variable
MOST_IN_ALL = 20_000  # of all variables of a data set, for a checkpoint keeps them
FEWEST = 20  # of a variable, so that there may be MOST_IN_ALL / FEWEST variables


@dataclass(frozen=True)
class Quantiles:
    """The law of a variable: straight lines through (share of the rows below, value).

    A value of many rows has two knots, where its rows begin and where they end. With F this law
    and Phi the standard normal's: value = F^-1(Phi(y)) and y = Phi^-1(F(value)), where F is the
    middle of a jump. Both ways are monotone, and values beyond the ends are the ends.
    Source: TabDDPM, arXiv 2209.15421, which takes scikit-learn's QuantileTransformer.
    """

    shares: tuple[float, ...]  # increasing, inside of (0, 1)
    values: tuple[float, ...]  # never decreasing

    def to_user(self, y: np.ndarray) -> np.ndarray:
        """The values of standard normal numbers."""
        return np.interp(_share(y), self.shares, self.values)

    def to_normal(self, x: np.ndarray) -> np.ndarray:
        """The standard normal numbers of values."""
        shares, values = np.array(self.shares), np.array(self.values)
        right = np.interp(x, values, shares)  # at a jump its upper end, and below the lower one
        left = -np.interp(-x, -values[::-1], -shares[::-1])
        return _score((left + right) / 2)

    @property
    def are_far(self) -> bool:
        """Whether float32 could not tell neighbours apart."""
        low, high = self.values[0], self.values[-1]
        return max(-low, high) > 1e4 * (high - low)

    def to_json(self) -> list[list[float]]:
        """As JSON's own types."""
        return [list(self.shares), list(self.values)]

    @staticmethod
    def from_json(value: Any) -> Quantiles | None:
        """What `to_json` gave; None for what is none."""
        if not isinstance(value, list) or len(value) != 2 or not all(map(_are_numbers, value)):
            return None
        shares, values = (np.array(numbers, dtype=np.float64) for numbers in value)
        fine = len(shares) == len(values) and shares[0] > 0 and shares[-1] < 1
        if not fine or (np.diff(shares) <= 0).any() or (np.diff(values) < 0).any():
            return None
        return Quantiles(tuple(shares.tolist()), tuple(values.tolist()))


def quantiles_of(values: np.ndarray, most: int = MOST_KNOTS) -> Quantiles | None:
    """The quantiles of a variable's values, at most so many; None for less than three values.

    Where there are more values than knots, these are evenly apart on the normal's axis, and so
    close in the tails.
    """
    values = np.sort(values, axis=None)
    n = len(values)
    edges = np.unique(values)
    if len(edges) < 3:
        return None
    if len(edges) > most // 2:
        end = _score(np.array(0.5 / n))
        ranks = np.rint(n * _share(np.linspace(end, -end, most // 3)) - 0.5).astype(np.int64)
        picks = values[ranks]
        wide = picks[1:][picks[1:] == picks[:-1]]  # values of many rows: their neighbours too
        before = np.maximum(np.searchsorted(values, wide) - 1, 0)
        behind = np.minimum(np.searchsorted(values, wide, side="right"), n - 1)
        edges = np.unique(np.concatenate([picks, values[before], values[behind]]))
    first = np.searchsorted(values, edges)
    last = np.searchsorted(values, edges, side="right") - 1
    ranks, at = np.unique(np.stack([first, last], 1), return_index=True)
    knots = np.repeat(edges, 2)[at]
    return Quantiles(tuple(((ranks + 0.5) / n).tolist()), tuple(knots.tolist()))


def _share(y: np.ndarray) -> np.ndarray:
    """Phi."""
    return torch.special.ndtr(torch.from_numpy(np.asarray(y, np.float64))).numpy()


def _score(p: np.ndarray) -> np.ndarray:
    """Phi^-1."""
    return torch.special.ndtri(torch.from_numpy(np.asarray(p, np.float64))).numpy()


def _are_numbers(value: Any) -> bool:
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_KNOTS:
        return False
    return all(type(number) in (int, float) and -1e300 < number < 1e300 for number in value)
