"""What a teacher must be: a denoiser (x_t, t, cond) -> x0_hat, t [B] in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Check, Properties, apart, mixed_up, row_by_row
from fewstep.analysis.verify.network_checks import describe
from fewstep.base.randomness import generator
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process, expand

ROWS = 6


@dataclass(frozen=True)
class Subject:
    """A teacher, its process, the shape of a sample and its number of classes."""

    teacher: Denoiser
    process: Process
    shape: tuple[int, ...]
    classes: int = 0

    def x0(self) -> Tensor:
        """Samples of its own law if it has one, else normals of standard deviation 0.5; float32."""
        draw = abilities.sample(self.teacher)
        if draw is not None:
            samples: Tensor = draw(ROWS)
            return samples
        return 0.5 * torch.randn(ROWS, *self.shape, generator=generator(0, "verify x0"))

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t at the times t `[ROWS]`, and the teacher's guess there."""
        z = torch.randn(ROWS, *self.shape, generator=generator(0, "verify z"))
        x_t = self.process.mix(self.x0(), z, t)
        return x_t, self(x_t, t)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        if self.classes and cond is None:
            cond = torch.arange(len(x_t)) % self.classes
        with torch.no_grad():
            guess = self.teacher(x_t, t, cond)
        is_like_x = isinstance(guess, Tensor) and guess.shape == x_t.shape
        if not is_like_x or guess.dtype != x_t.dtype:
            raise ValueError(f"it gave {describe(guess)} for x_t of {describe(x_t)}")
        return guess

    def times(self, *shares: float) -> Tensor:
        """Times `[ROWS]` at these shares of the log noise level from t_min to t_max."""
        low = max(self.process.level(self.process.t_min).item(), 0.002)
        high = min(self.process.level(self.process.t_max).item(), 80.0)
        levels = [low * (high / low) ** share for share in shares]
        return self.process.time_at(torch.tensor(levels, dtype=torch.float64)).expand(ROWS)

    def even_times(self) -> Tensor:
        """Times `[ROWS]` from t_min to t_max, even in the logarithm of the noise level."""
        return self.times(*(i / (ROWS - 1) for i in range(ROWS)))


PROPERTIES: Properties[Subject] = Properties()


@PROPERTIES.holds(
    "output is like x_t, finite from t_min to t_max",
    0.0,
    "it must return x0_hat of x_t's shape and dtype",
)
def like_x(subject: Subject) -> float:
    """At both ends and between."""
    highest = torch.full((ROWS,), subject.process.t_max, dtype=torch.float64)
    for t in (subject.even_times(), highest):
        _, guess = subject.at(t)
        if not bool(torch.isfinite(guess).all()):
            return math.inf
    return 0.0


@PROPERTIES.holds(
    "D(x, t) -> x as sigma -> 0", 0.05, "it returns noise or v instead of x0, or means another time"
)
def clean(subject: Subject) -> float:
    """At the lowest noise level D(x, t) is x / alpha, up to a twentieth of it."""
    t = subject.times(0.0)
    x_t, guess = subject.at(t)
    x0 = x_t / expand(subject.process.alpha(t), x_t)
    return ((guess - x0).norm() / x0.norm()).item()


@PROPERTIES.holds(
    "D(x, t_max) is of the data's size",
    1.0,
    "at pure noise it returns the noise: another prediction or time?",
)
def size_at_noise(subject: Subject) -> float:
    """At the highest level the guess's rms over ten times the data's, or over 10."""
    _, guess = subject.at(subject.times(1.0))
    size, own = (x.double().square().mean().sqrt() for x in (guess, subject.x0()))
    return (size / (10 * own.clamp_min(1.0))).item()


@PROPERTIES.holds("a batch is its items", 1e-4, "rows see each other")
def batch_is_items(subject: Subject) -> float:
    t = subject.even_times()
    x_t, whole = subject.at(t)
    labels = torch.arange(ROWS) % subject.classes if subject.classes else None
    return apart(row_by_row(subject, x_t, t, labels), whole)


@PROPERTIES.holds("the time matters", 0.0, "t is not used")
def time_matters(subject: Subject) -> float:
    """0 if the same x has another guess at another noise level."""
    x_t, guess = subject.at(subject.times(0.5))
    return float(torch.equal(subject(x_t, subject.times(0.8)), guess))


@PROPERTIES.holds(
    "twice the same, no global generator is read", 0.0, "it draws random numbers: dropout left on?"
)
def deterministic(subject: Subject) -> float:
    before = torch.get_rng_state()
    t = subject.times(0.5)
    x_t, guess = subject.at(t)
    difference = apart(subject(x_t, t), guess)
    return difference + float(not torch.equal(before, torch.get_rng_state()))


@PROPERTIES.holds("labels reach their rows", 1e-4, "cond is mixed up, or not used")
def labels_by_row(subject: Subject) -> float:
    """Another label changes its own row alone."""
    t = subject.times(0.6)
    x_t, _ = subject.at(t)
    return mixed_up(lambda labels: subject(x_t, t, labels), ROWS, 1)


def checks_of(subject: Subject, name: str) -> list[Check]:
    """The properties of a teacher; that of labels if it has classes."""
    without = () if subject.classes > 1 else ("labels reach their rows",)
    return PROPERTIES.checks(subject, name, without=without)
