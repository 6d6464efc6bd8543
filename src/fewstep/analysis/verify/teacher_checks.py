"""What a teacher must be: a denoiser (x_t, t, cond) -> x0_hat, t [B] in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Check, apart, worst
from fewstep.base.randomness import generator
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process, expand

ROWS = 6


@dataclass(frozen=True)
class Subject:
    """A teacher, the process whose times it is asked in, the shape of a sample and its number of
    classes.
    """

    teacher: Denoiser
    process: Process
    shape: tuple[int, ...]
    classes: int = 0

    def x0(self) -> Tensor:
        """Samples of its own law where it has one, else normals of standard deviation 0.5; float32."""
        draw = abilities.sample(self.teacher)
        if draw is not None:
            found: Tensor = draw(ROWS)
            return found
        return 0.5 * torch.randn(ROWS, *self.shape, generator=generator(0, "verify x0"))

    def asked(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t at the times t `[ROWS]`, and what it says there."""
        z = torch.randn(ROWS, *self.shape, generator=generator(0, "verify z"))
        x_t = self.process.mix(self.x0(), z, t)
        return x_t, self(x_t, t)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        labels = torch.arange(len(x_t)) % self.classes if self.classes and cond is None else cond
        with torch.no_grad():
            found = self.teacher(x_t, t, labels)
        if not isinstance(found, Tensor) or found.shape != x_t.shape or found.dtype != x_t.dtype:
            got = (
                f"{found.dtype} {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else type(found).__name__
            )
            raise ValueError(f"it gave {got} for x_t of {x_t.dtype} {tuple(x_t.shape)}")
        return found

    def times(self, *shares: float) -> Tensor:
        """Times `[ROWS]` between t_min and t_max, even in the logarithm of the noise level where
        there are several.
        """
        low = max(self.process.level(self.process.t_min).item(), 0.002)
        high = min(self.process.level(self.process.t_max).item(), 80.0)
        levels = [low * (high / low) ** share for share in shares]
        return self.process.time_at(torch.tensor(levels, dtype=torch.float64)).expand(ROWS)


def like_x(subject: Subject) -> float:
    """Like x_t, and finite at both ends and between."""
    spread = subject.times(*(i / (ROWS - 1) for i in range(ROWS)))
    top = torch.full((ROWS,), subject.process.t_max, dtype=torch.float64)
    return (
        0.0
        if all(bool(torch.isfinite(subject.asked(t)[1]).all()) for t in (spread, top))
        else math.inf
    )


def clean(subject: Subject) -> float:
    """At the lowest noise level D(x, t) is x / alpha, up to a twentieth of it."""
    t = subject.times(0.0)
    x_t, guess = subject.asked(t)
    x0 = x_t / expand(subject.process.alpha(t), x_t)
    return ((guess - x0).norm() / x0.norm()).item()


def alone(subject: Subject) -> float:
    """Each row by itself against the batch."""
    t = subject.times(*(i / (ROWS - 1) for i in range(ROWS)))
    x_t, whole = subject.asked(t)
    labels = torch.arange(ROWS) % subject.classes if subject.classes else None
    rows = [
        subject(x_t[i : i + 1], t[i : i + 1], None if labels is None else labels[i : i + 1])
        for i in range(ROWS)
    ]
    return apart(torch.cat(rows), whole)


def time_matters(subject: Subject) -> float:
    """0 where the same x is denoised otherwise at another noise level."""
    x_t, guess = subject.asked(subject.times(0.5))
    return float(torch.equal(subject(x_t, subject.times(0.8)), guess))


def fixed(subject: Subject) -> float:
    """Twice the same, and torch's own generator untouched."""
    before, t = torch.get_rng_state(), subject.times(0.5)
    x_t, guess = subject.asked(t)
    return apart(subject(x_t, t), guess) + float(not torch.equal(before, torch.get_rng_state()))


def bounded(subject: Subject) -> float:
    """At the highest level the guess is of the data's size: its rms over ten times the data's, or
    over 10.
    """
    _, guess = subject.asked(subject.times(1.0))
    sizes = [part.double().square().mean().sqrt() for part in (guess, subject.x0())]
    return (sizes[0] / (10 * sizes[1].clamp_min(1.0))).item()


def labelled(subject: Subject) -> float:
    """Another label changes its own row alone."""
    t = subject.times(0.6)
    x_t, _ = subject.asked(t)
    zeros = torch.zeros(ROWS, dtype=torch.int64)
    first, other = (
        subject(x_t, t, zeros.index_fill(0, torch.tensor([ROWS - 1]), to)) for to in (0, 1)
    )
    return worst(apart(other[:-1], first[:-1])) + float(torch.equal(other[-1], first[-1]))


def checks_of(subject: Subject, name: str) -> list[Check]:
    """The properties of a teacher; that of labels where it has classes."""
    rows: list[tuple[str, Callable[[Subject], float], float, str]] = [
        (
            "output is like x_t, finite from t_min to t_max",
            like_x,
            0.0,
            "it must return x0_hat of x_t's shape and dtype",
        ),
        (
            "D(x, t) -> x as sigma -> 0",
            clean,
            0.05,
            "it returns noise or v instead of x0, or means another time",
        ),
        (
            "D(x, t_max) is of the data's size",
            bounded,
            1.0,
            "at pure noise it returns the noise: another prediction or time?",
        ),
        ("a batch is its items", alone, 1e-4, "rows see each other"),
        ("the time matters", time_matters, 0.0, "t is not used"),
        (
            "twice the same, no global generator is read",
            fixed,
            0.0,
            "it draws random numbers: dropout left on?",
        ),
    ]
    if subject.classes > 1:
        rows.append(("labels reach their rows", labelled, 1e-4, "cond is mixed up, or not used"))
    return [
        Check(
            f"{name}: {text}",
            "definition",
            partial(measure, subject),
            tolerance,
            f"{look}; see {name}",
            (name,),
        )
        for text, measure, tolerance, look in rows
    ]
