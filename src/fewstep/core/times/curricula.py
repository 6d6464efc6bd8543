"""How many intervals a grid has and how slowly a target follows, by progress in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fewstep.base.errors import require


def _check_order(first: int, last: int) -> None:
    expected = "at least 1 (2 levels), the last not below the first"
    require(1 <= first <= last, "intervals", f"{first} .. {last}", expected)


@dataclass(frozen=True)
class Fixed:
    """Always n intervals."""

    n: int

    def __post_init__(self) -> None:
        _check_order(self.n, self.n)

    def __call__(self, progress: float) -> int:
        return self.n


@dataclass(frozen=True)
class Progressive:
    """CT's intervals at progress p: ceil(sqrt(p ((last + 1)^2 - first^2) + first^2) - 1).

    At least 1. N(k) counts the points of the grid and is one more (CM, arXiv 2303.01469, appendix
    C).
    """

    first: int = 2
    last: int = 150

    def __post_init__(self) -> None:
        _check_order(self.first, self.last)

    def __call__(self, progress: float) -> int:
        square = progress * ((self.last + 1) ** 2 - self.first**2) + self.first**2
        return max(math.ceil(math.sqrt(square) - 1), 1)


@dataclass(frozen=True)
class Doubling:
    """iCT's intervals: min(first 2^stage, last) in log2(floor(last / first)) + 1 equal stages.

    Source: iCT, arXiv 2310.14189, section 3.4 and table 1, where N(k) counts points and is one
    more.
    """

    first: int = 10
    last: int = 1280

    def __post_init__(self) -> None:
        _check_order(self.first, self.last)

    def __call__(self, progress: float) -> int:
        stages = math.log2(self.last // self.first) + 1
        return min(self.first * 2 ** int(progress * stages), self.last)


@dataclass(frozen=True)
class Exponential:
    """MCM's steps: first (last / first)^(p / until); `last` from progress p = `until` on.

    Not rounded: `Segments` divides by the number of segments first.
    Source: MCM, arXiv 2403.06807, section 3.3: 64 to 1280 over 100k of 200k iterations.
    """

    first: int = 64
    last: int = 1280
    until: float = 0.5

    def __post_init__(self) -> None:
        _check_order(self.first, self.last)
        require(0 < self.until <= 1, "until", self.until, "a share in 0 .. 1, above 0")

    def __call__(self, progress: float) -> float:
        share = min(progress / self.until, 1.0)
        return self.first * (self.last / self.first) ** share


@dataclass(frozen=True)
class Decay:
    """From first down to last, exponentially in progress: SoFlow's gap (arXiv 2512.15657)."""

    first: float
    last: float

    def __post_init__(self) -> None:
        fits = 0 < self.last <= self.first <= 1
        require(fits, "near", (self.first, self.last), "two shares, the second not above the first")

    def __call__(self, progress: float) -> float:
        return self.first * (self.last / self.first) ** progress


@dataclass(frozen=True)
class Fall:
    """From 1 to 0 by a sigmoid of progress; below `least` it is 0, above 1 - least it is 1.

    Source: alpha-Flow, arXiv 2510.20771, section 4: steepness 25, least 0.005.
    """

    steepness: float = 25.0
    middle: float = 0.5
    least: float = 0.005

    def __post_init__(self) -> None:
        require(self.steepness > 0, "steepness", self.steepness, "above 0")
        require(0 <= self.least < 0.5, "least", self.least, "in 0 .. 1/2")

    def __call__(self, progress: float) -> float:
        share = 1 / (1 + math.exp(self.steepness * (progress - self.middle)))
        if self.least <= share <= 1 - self.least:
            return share
        return float(share > 0.5)


@dataclass(frozen=True)
class FixedRate:
    """The target always keeps this share of itself."""

    rate: float

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, "rate", self.rate, "in 0 .. 1, below 1")

    def __call__(self, progress: float) -> float:
        return self.rate


@dataclass(frozen=True)
class ProgressiveRate:
    """CT's mu(p) = mu0^(first / N(p)), N the intervals of `Progressive`.

    The paper's N(k) counts points (CM, arXiv 2303.01469, appendix C); its code divides by the
    intervals, as here, and its results come from the code.
    """

    mu0: float = 0.9
    steps: Progressive = Progressive()

    def __post_init__(self) -> None:
        require(0 < self.mu0 < 1, "mu0", self.mu0, "in 0 .. 1")

    def __call__(self, progress: float) -> float:
        return math.exp(self.steps.first * math.log(self.mu0) / self.steps(progress))


@dataclass(frozen=True)
class Ramp:
    """From first to last, linearly in progress: a mixing share such as GC's (arXiv 2406.09570)."""

    first: float
    last: float

    def __call__(self, progress: float) -> float:
        return self.first + (self.last - self.first) * progress
