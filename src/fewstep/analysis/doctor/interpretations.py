"""The ways to read a network's output that are tried, and the guess of the data by each.

A reading is a prediction, a process with its noise label, a range of the data, and a sign. Tried
are those that networks of the field have:

- EDM's output at ln(level) / 4, and at the consistency models' 250 ln(level); sigma_data is the
  declared one, the data's own, 0.5, 1, and some factors between, around which a search goes on;
- variance exploding (edm): noise, the score, or x0, at the level, ln(level) / 4 or ln(level / 2);
- Stable Diffusion's and DDPM's tables (discrete, ddpm): noise, v or x0, at the index t - 1 (t
  itself can hardly be distinguished from it, and is tried where it is declared);
- the cosine schedule: noise, v or x0, at t, 1000 t, or the log-SNR;
- rectified flow (linear): velocity, x0 or noise, at t or 1000 t; the velocity also in the other
  direction, from noise to data at 1 - t;
- TrigFlow (trig): v at t;
- the declared process and label with every prediction that the process has.

Each of them in data of [-1, 1], [0, 1] and standardised; in [0, 255] only EDM's output and the
declared one, since the other processes are not used with such data. The sign is a convention of
noise, v and velocities, and a common mistake with EDM's output: -1 is tried in the declared range.
On the ring of eight Gaussians a network of each reading is named by that reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.analysis.doctor.levels import Rows
from fewstep.base.conditions import Cond
from fewstep.base.errors import unknown
from fewstep.core import abilities, scalings
from fewstep.core import process as processes
from fewstep.core.process import Process, expand
from fewstep.core.scalings import Coefficients, Scaling
from fewstep.data import each

Raw = Callable[[Tensor, Tensor, Cond], Tensor]  # (x, noise label [B], cond) -> output


@dataclass(frozen=True)
class Score:
    """The output is the score: x0_hat = (x_t + sigma^2 s) / alpha (NCSN, arXiv 1907.05600)."""

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        return Coefficients(1 / alpha, sigma.square() / alpha, torch.ones_like(t), t)


PREDICTIONS: dict[str, Scaling] = {
    "eps": scalings.Eps(),
    "v": scalings.V(),
    "x0": scalings.X0(),
    "flow": scalings.Flow(),
    "score": Score(),
}

# Noise labels by time and level, instead of the scaling's own.
LABELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "t - 1": lambda t, level: t - 1,
    "1000 t": lambda t, level: 1000 * t,
    "1 - t": lambda t, level: 1 - t,
    "ln(level) / 4": lambda t, level: level.log() / 4,
    "ln(level / 2)": lambda t, level: (level / 2).log(),
    "250 ln(level)": lambda t, level: 250 * level.log(),
    "log-SNR": lambda t, level: -2 * level.log(),
}

# process -> predictions, and their labels; None is the time itself
CONVENTIONS: dict[str, tuple[tuple[str, ...], tuple[str | None, ...]]] = {
    "edm": (("eps", "x0", "score"), (None, "ln(level) / 4", "ln(level / 2)")),
    "cosine": (("eps", "v", "x0"), (None, "1000 t", "log-SNR")),
    "discrete": (("eps", "v", "x0"), ("t - 1",)),
    "ddpm": (("eps", "v", "x0"), ("t - 1",)),
    "linear": (("flow", "eps", "x0"), (None, "1000 t")),
    "trig": (("v",), (None,)),
}


@dataclass(frozen=True)
class Range:
    """The network's units of the data: u = scale x0 + shift, of x0 about [-1, 1]."""

    name: str
    scale: float = 1.0
    shift: float = 0.0


def ranges(x0: Tensor) -> dict[str, Range]:
    """The ranges by name; standardised has mean 0 and deviation 1."""
    mean, std = float(x0.double().mean()), float(x0.double().std())
    every = (
        Range("[-1, 1]"),
        Range("[0, 1]", 0.5, 0.5),
        Range("[0, 255]", 127.5, 127.5),
        Range("standardised", 1 / std, -mean / std),
    )
    return {one.name: one for one in every}


def _ddpm_betas() -> Tensor:
    return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


@cache
def process_named(name: str) -> Process:
    """A process by the name that teachers' times have. Raises UserError."""
    makers: dict[str, Callable[[], Process]] = {
        "edm": processes.edm,
        "cosine": processes.cosine,
        "discrete": lambda: processes.by_name("discrete"),
        "ddpm": lambda: processes.discrete(betas=_ddpm_betas()),
        "linear": processes.linear,
        "trig": processes.trig,
    }
    if name not in makers:
        raise unknown("process", name, makers)
    return makers[name]()


class Inputs(NamedTuple):
    """x0_hat = skip u_t + out F(factor u_t, label) by level, of u_t = u + s z; in units of u."""

    factor: Tensor
    label: Tensor
    skip: Tensor
    out: Tensor


@dataclass(frozen=True)
class Reading:
    """One way to read a network: its inputs, and the meaning of its output."""

    prediction: str
    scaling: Scaling
    process: Process
    process_name: str
    range: Range
    sign: int = 1
    label: str | None = None  # one of LABELS; None is the scaling's own

    def __str__(self) -> str:
        sign = "-" if self.sign < 0 else ""
        where = f"on the {self.process_name} process"
        if self.sigma_data is not None:
            where = f"with sigma_data {self.sigma_data:.3g}"
        label = f", label {self.label}" if self.label else ""
        return f"{sign}{self.prediction}-prediction {where}{label}, of data in {self.range.name}"

    @property
    def sigma_data(self) -> float | None:
        return abilities.sigma_data(self.scaling)

    def with_sigma_data(self, sigma_data: float) -> Reading:
        scaling: Any = self.scaling
        return replace(self, scaling=replace(scaling, sigma_data=sigma_data))

    def negate(self) -> Reading:
        return replace(self, sign=-self.sign)

    def inputs(self, levels: tuple[float, ...]) -> Inputs | None:
        """The network's inputs at these levels of the data in [-1, 1].

        None if the process has no times for them.
        """
        s = torch.tensor(levels, dtype=torch.float64) * self.range.scale
        t, s_of_t = _times(self.process, tuple(s.tolist()))
        if not bool(((s_of_t / s - 1).abs() < 0.01).all()):
            return None
        c, alpha = self.scaling(self.process, t), self.process.alpha(t)
        label = c.noise if self.label is None else LABELS[self.label](t, s_of_t)
        return Inputs(c.in_ * alpha, label, c.skip * alpha, c.out)

    def guess(self, u_t: Tensor, raw: Tensor, skip: Tensor, out: Tensor) -> Tensor:
        """x0_hat in [-1, 1] of the noised u + s z and the raw output."""
        return (skip * u_t + self.sign * out * raw - self.range.shift) / self.range.scale


@lru_cache(maxsize=64)
def _times(process: Process, levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The times of noise levels, and the levels of these times."""
    t = process.time_at(torch.tensor(levels, dtype=torch.float64))
    return t, process.level(t)


@dataclass
class Guesser:
    """Guesses of a network by reading; equal inputs are evaluated once."""

    network: Raw
    outputs: dict[tuple[float, ...], Tensor] = field(default_factory=dict)

    def guess(self, reading: Reading, rows: Rows, levels: tuple[float, ...]) -> Tensor | None:
        """x0_hat `[L, n, ...]` of the rows at these levels of the data.

        None if the reading has no times for them.
        """
        inputs = reading.inputs(levels)
        if inputs is None:
            return None
        count, size = len(levels), len(rows.x0)

        def tile(part: Tensor) -> Tensor:
            return part.repeat(count, *[1] * (part.ndim - 1))

        def by_level(numbers: Tensor) -> Tensor:
            return expand(numbers.repeat_interleave(size), rows.x0)

        scale, shift = reading.range.scale, reading.range.shift
        s = torch.tensor(levels, dtype=torch.float64)
        u_t = scale * (tile(rows.x0) + by_level(s) * tile(rows.z)) + shift
        numbers = torch.cat([inputs.factor, inputs.label, s]).tolist()
        key = (scale, shift, *(float(f"{number:.10g}") for number in numbers))
        if key not in self.outputs:
            label = inputs.label.repeat_interleave(size).float().to(u_t.device)
            x = by_level(inputs.factor) * u_t
            with torch.no_grad():
                self.outputs[key] = self.network(x, label, each(tile, rows.cond)).to(u_t.dtype)
        guess = reading.guess(u_t, self.outputs[key], by_level(inputs.skip), by_level(inputs.out))
        return guess.reshape(count, *rows.x0.shape)


def make_reading(prediction: str, process: str, range_: Range, sigma_data: float) -> Reading:
    """The reading that a user declares. Raises UserError for an unknown name."""
    if prediction == "edm":
        scaling: Scaling = scalings.Edm(sigma_data=sigma_data)
    elif prediction in PREDICTIONS:
        scaling = PREDICTIONS[prediction]
    else:
        raise unknown("prediction", prediction, ["edm", *PREDICTIONS])
    return Reading(prediction, scaling, process_named(process), process, range_)


def candidates(own: Reading, x0: Tensor) -> Iterator[Reading]:
    """All readings that are tried: the declared one first, plainer ones before others."""
    std = float(x0.double().std())
    others = [one for one in ranges(x0).values() if one != own.range]
    yield own
    for range_ in (own.range, *others):
        yield replace(own, range=range_)
        yield from _edm_readings(own, range_, std)
        for prediction in CONVENTIONS.get(own.process_name, (PREDICTIONS, ()))[0]:
            scaling = PREDICTIONS[prediction]
            yield replace(own, prediction=prediction, scaling=scaling, range=range_)
        if range_.name != "[0, 255]" or range_ == own.range:
            yield from _conventional_readings(range_)
    yield own.negate()
    yield make_reading("edm", "edm", own.range, own.sigma_data or std * own.range.scale).negate()
    for reading in _conventional_readings(own.range):
        usual_label = CONVENTIONS[reading.process_name][1][0]
        if reading.label == usual_label and reading.prediction in ("eps", "v", "flow"):
            yield reading.negate()
    for factor in (0.25, 0.4, 0.6, 0.75, 0.9, 1.1, 1.3, 1.6, 2.5, 4.0):
        yield make_reading("edm", "edm", own.range, std * own.range.scale * factor)


def _edm_readings(own: Reading, range_: Range, std: float) -> Iterator[Reading]:
    """EDM's output in a range, at its labels; in the declared range by more sigma_data."""
    values = [std * range_.scale, 0.5]
    if range_ == own.range:
        values = [own.sigma_data or std, *values, 1.0]
    for sigma_data in dict.fromkeys(values):
        reading = make_reading("edm", "edm", range_, sigma_data)
        yield reading
        if range_.name != "[0, 255]":
            yield replace(reading, label="250 ln(level)")


def _conventional_readings(range_: Range) -> Iterator[Reading]:
    """The table of conventions in a range."""
    for process, (predictions, labels) in CONVENTIONS.items():
        for prediction in predictions:
            for label in labels:
                yield replace(make_reading(prediction, process, range_, 1.0), label=label)
    from_noise_to_data = make_reading("flow", "linear", range_, 1.0)
    yield replace(from_noise_to_data, sign=-1, label="1 - t")
