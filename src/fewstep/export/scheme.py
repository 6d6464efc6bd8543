"""A sampler as numbers: at which points it asks the network, and how it combines the answers.

A step of a sampler is a program in Python, whose times are float64 on the host. What it does to
tensors is linear in almost all of them, so it is known by what it does to unit vectors: x, every
answer of the network and every noise is one of them, and the coordinates of what comes out are the
factors of the combination. A step that remembers gets earlier moves as such vectors too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.core import abilities
from fewstep.core.denoiser import diagonal
from fewstep.core.process import Process, per_row
from fewstep.core.solvers import Past, addim, ddim
from fewstep.core.solvers.past import Point
from fewstep.core.solvers.variance import PriorVariance

MOST = 16  # vectors of one step: x, answers of the network, noises, the past
_MOST_PAST = 4  # moves that a step may remember
_BOUND = 1e-9  # what two trials with other vectors may differ by, relative to the factors

X, NOISE, ANSWER, PAST = "x", "noise", "answer", "past"

# Factors of x, of the step's noise and of the network's answers so far, by their names; `past x 1`
# and `past answer 1` are where the last move started, and what was guessed there.
Combination = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Ask:
    """One evaluation of the network: D(point, t), of a flow map D(point, t, to)."""

    t: float
    point: Combination
    to: float | None = None


@dataclass(frozen=True)
class Stretch:
    """aDDIM's step, which is not linear: alpha_s D + sqrt(sigma_s^2 + extra / mean(z^2)) z.

    z = (x - alpha_t D) / sigma_t; extra: (alpha_s - alpha_t sigma_s / sigma_t)^2 times the prior's
    variance.
    """

    alpha_t: float
    sigma_t: float
    alpha_s: float
    sigma_s: float
    extra: float


@dataclass(frozen=True)
class Step:
    """A move from one time of the grid to the next: x = result, whose `answer i` is of asks[i]."""

    asks: tuple[Ask, ...]
    result: Combination
    stretch: Stretch | None = None  # then the result is DDIM's, which it lengthens
    memory: tuple[Combination, Combination] | None = None  # `past x 1`, `past answer 1` of the next

    @property
    def is_noisy(self) -> bool:
        """Whether it takes fresh noise."""
        parts = [self.result, *(ask.point for ask in self.asks)]
        return any(name == NOISE for part in parts for name, _ in part)


@dataclass(frozen=True)
class Scheme:
    """All steps of a sampler along a grid of times, from x = start * unit noise."""

    start: float
    steps: tuple[Step, ...]

    @property
    def times(self) -> list[float]:
        """Where the network is asked, in this order."""
        return [ask.t for step in self.steps for ask in step.asks]

    @property
    def ends(self) -> list[float | None]:
        """Where these answers of a flow map lead."""
        return [ask.to for step in self.steps for ask in step.asks]

    @property
    def amplification(self) -> float:
        """How much a step may enlarge an error of the network's answers; at least 1.

        Heun's method in few steps takes large multiples of answers that nearly cancel.
        """
        sums = [
            sum(abs(factor) for name, factor in step.result if ANSWER in name)
            for step in self.steps
        ]
        return max(1.0, *sums)

    @property
    def noisy(self) -> list[int]:
        """The numbers of the steps that take fresh noise."""
        return [number for number, step in enumerate(self.steps) if step.is_noisy]


def scheme(
    process: Process,
    grid: Sequence[float],
    step: Callable[..., Tensor],
    noisy: bool,
    is_map: bool = False,
) -> Scheme:
    """The scheme of a step along a grid, linear or aDDIM's. Raises UserError for any other.

    is_map: the network is a flow map, which steps that know of it tell where they lead.
    """
    if step is addim:
        steps = tuple(
            replace(_read(process, ddim, t, s, False, is_map), stretch=_stretch(process, t, s))
            for t, s in pairwise(grid)
        )
        return Scheme(float(process.sigma(grid[0])), steps)
    read = []
    past = Past(len(grid) - 1) if abilities.remembers(step) else None
    for t, s in pairwise(grid):
        read.append(_read(process, step, t, s, noisy, is_map, past))
    return Scheme(float(process.sigma(grid[0])), tuple(read))


def vectors_of_past(points: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The vectors of earlier moves, whose starts and answers these are, the newest last."""
    return {
        f"{PAST} {name} {age}": vector
        for age, point in enumerate(points[: -_MOST_PAST - 1 : -1], start=1)
        for name, vector in zip((X, ANSWER), point, strict=True)
    }


def check_linear(scheme: Scheme) -> None:
    """Raises UserError where a step is aDDIM's."""
    if any(step.stretch is not None for step in scheme.steps):
        raise UserError(
            "the sampler's step 'addim' is not linear in x and the network's answers: expected one"
            " that is, such as multistep, ddim, euler, heun or ancestral; --to diffusers takes it"
        )


def _stretch(process: Process, t: float, s: float) -> Stretch:
    now, then = (torch.tensor([time], dtype=torch.float64) for time in (t, s))
    variance = PriorVariance(process=process)(now, now)
    numbers = (
        process.alpha(now),
        process.sigma(now),
        process.alpha(then),
        process.sigma(then),
        (process.alpha(then) - process.alpha(now) * process.sigma(then) / process.sigma(now))
        .square()
        .mul(variance),
    )
    return Stretch(*(float(number) for number in numbers))


def _read(
    process: Process,
    step: Callable[..., Tensor],
    t: float,
    s: float,
    noisy: bool,
    is_map: bool,
    past: Past | None = None,
) -> Step:
    """One step, by two trials with vectors of different lengths; the past gets its point.

    Raises UserError.
    """
    places = torch.arange(1, MOST + 1, dtype=torch.float64)
    trials = []
    for lengths in (torch.ones_like(places), 1 + 0.3 * places.sin()):
        trial = _Trial(lengths, int(is_map))
        options: dict[str, Any] = {"noise": trial.noise} if noisy else {}
        x = trial.unit(X)
        if past is not None:
            options["past"] = trial.past(past)
        end = step(process, diagonal(trial), x, t, s, None, **options)
        point = options["past"].points[-1] if past is not None else None
        vectors = [end, *((point.x, point.x0_hat) if point else ()), *(x for _, _, x in trial.asks)]
        trials.append((trial, [trial.factors(vector) for vector in vectors]))
    (first, ours), (_, theirs) = trials
    pairs = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else [(ours[0], None)]
    for own, other in pairs:
        is_same = other is not None and torch.allclose(own, other, rtol=_BOUND, atol=_BOUND)
        is_complete = not bool(own[len(first.names) :].any())
        if not is_same or not is_complete:
            name = getattr(step, "__name__", type(step).__name__)
            raise UserError(
                f"the sampler's step {name!r} is not linear in x, the network's answers and the"
                " noise: expected one that is, such as multistep, ddim, euler, heun or ancestral"
            )
    result, *points = [first.combination(values) for values in ours]
    memory = None
    if past is not None:
        assert point is not None
        past.points.append(point)
        memory = (points.pop(0), points.pop(0))
    pairs_of = zip(first.asks, points, strict=True)
    asks = [Ask(time, point, to) for (time, to, _), point in pairs_of]
    return Step(tuple(asks), result, memory=memory)


class _Trial:
    """A network and a noise of which each answer is a vector along an axis of its own."""

    def __init__(self, lengths: Tensor, ends: int) -> None:
        self.lengths = lengths
        self.ends = ends
        self.names: list[str] = []
        self.asks: list[tuple[float, float | None, Tensor]] = []  # t, to and the point
        self.draw: Tensor | None = None

    def unit(self, name: str) -> Tensor:
        """The vector `[1, MOST]` of that name. Raises UserError where there are too many."""
        if len(self.names) == MOST:
            raise UserError(f"a step of this sampler has more than {MOST} parts: expected fewer")
        self.names.append(name)
        return (torch.eye(MOST, dtype=torch.float64) * self.lengths)[len(self.names) - 1][None]

    def __call__(self, x_t: Tensor, t: Any, cond: Any = None, to: Any = None) -> Tensor:
        end = None if to is None else float(per_row(to, x_t)[0])
        self.asks.append((float(per_row(t, x_t)[0]), end, x_t))
        return self.unit(f"{ANSWER} {len(self.asks) - 1}")

    def noise(self) -> Tensor:
        """The same vector each time: a step's noise has one address."""
        if self.draw is None:
            self.draw = self.unit(NOISE)
        return self.draw

    def past(self, past: Past) -> Past:
        """The same moves, whose vectors are of this trial; of older ones nothing may be used."""
        none = torch.full((1, MOST), torch.nan, dtype=torch.float64)
        points = [Point(point.t, none, none, point.order) for point in past.points]
        for place, point in list(enumerate(points))[: -_MOST_PAST - 1 : -1]:
            names = (f"{PAST} {name} {len(points) - place}" for name in (X, ANSWER))
            start, answer = (self.unit(name) for name in names)
            points[place] = point._replace(x=start, x0_hat=answer)
        return Past(past.moves, points)

    def factors(self, x: Tensor) -> Tensor:
        return x.reshape(-1) / self.lengths

    def combination(self, factors: Tensor) -> Combination:
        pairs = zip(self.names, factors.tolist(), strict=False)
        return tuple((name, factor) for name, factor in pairs if factor)
