"""The readings of a network's output that are tried: prediction, process and time label, range,
sign, sigma_data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.analysis.doctor.levels import Rows
from fewstep.base.conditions import Cond
from fewstep.base.errors import unknown
from fewstep.core import abilities, scalings
from fewstep.core import process as processes
from fewstep.core.process import Process, expand
from fewstep.core.scalings import Scaling
from fewstep.data import each

Raw = Callable[[Tensor, Tensor, Cond], Tensor]  # (x, noise label [B], cond) -> output
PREDICTIONS: dict[str, Scaling] = {
    "eps": scalings.Eps(),
    "v": scalings.V(),
    "x0": scalings.X0(),
    "flow": scalings.Flow(),
}


@dataclass(frozen=True)
class Range:
    """Data as the network knows it: u = scale x0 + shift, of x0 about [-1, 1]."""

    name: str
    scale: float = 1.0
    shift: float = 0.0


def ranges(x0: Tensor) -> dict[str, Range]:
    """The ranges by name; standardised has the data's own mean 0 and deviation 1."""
    mean, std = float(x0.double().mean()), float(x0.double().std())
    found = (
        Range("[-1, 1]"),
        Range("[0, 1]", 0.5, 0.5),
        Range("[0, 255]", 127.5, 127.5),
        Range("standardised", 1 / std, -mean / std),
    )
    return {one.name: one for one in found}


def process_named(name: str) -> Process:
    """A process by the name that teachers' times have. Raises UserError."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    known: dict[str, Callable[[], Process]] = {
        "linear": processes.linear,
        "trig": processes.trig,
        "ddpm": lambda: processes.discrete(betas=betas),
    }
    if name in known:
        return known[name]()
    if name not in ("edm", "cosine", "discrete"):
        raise unknown("process", name, [*known, "edm", "cosine", "discrete"])
    return processes.named(name)


class Inputs(NamedTuple):
    """By level: x0_hat = skip seen + out F(factor seen, label), of seen = u + s z; in units of u."""

    factor: Tensor
    label: Tensor
    skip: Tensor
    out: Tensor


LABELS: dict[
    str, Callable[[Tensor, Tensor], Tensor]
] = {  # of time and level, in place of the scaling's own
    "t - 1": lambda t, level: t - 1,
    "1000 t": lambda t, level: 1000 * t,
    "ln(level) / 4": lambda t, level: level.log() / 4,
    "250 ln(level)": lambda t, level: 250 * level.log(),
}


@dataclass(frozen=True)
class Reading:
    """One way to understand a network: what it is given, and what its output says."""

    prediction: str
    scaling: Scaling
    process: Process
    process_name: str
    range: Range
    sign: int = 1
    label: str | None = None  # one of LABELS; None is the scaling's own

    def __str__(self) -> str:
        sd = abilities.sigma_data(self.scaling)
        kind = f"{'-' if self.sign < 0 else ''}{self.prediction}-prediction"
        kind += (
            f" with sigma_data {sd:.3g}"
            if sd is not None
            else f" on the {self.process_name} process"
        )
        told = f", told {self.label}" if self.label else ""
        return f"{kind}{told}, of data in {self.range.name}"

    def inputs(self, levels: tuple[float, ...]) -> Inputs | None:
        """What the network is given at these levels of the data in [-1, 1]; None where it has no
        time for one.
        """
        s = torch.tensor(levels, dtype=torch.float64) * self.range.scale
        t, there = _times(self.process, tuple(s.tolist()))
        if not bool(((there / s - 1).abs() < 0.01).all()):
            return None
        c, alpha = self.scaling(self.process, t), self.process.alpha(t)
        label = c.noise if self.label is None else LABELS[self.label](t, there)
        return Inputs(c.in_ * alpha, label, c.skip * alpha, c.out)

    def guess(self, seen: Tensor, raw: Tensor, skip: Tensor, out: Tensor) -> Tensor:
        """x0_hat in [-1, 1] of the noised u + s z and the raw output."""
        return (skip * seen + self.sign * out * raw - self.range.shift) / self.range.scale


@lru_cache(maxsize=64)
def _times(process: Process, levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The times of noise levels, and the levels that they have."""
    t = process.time_at(torch.tensor(levels, dtype=torch.float64))
    return t, process.level(t)


@dataclass
class Tried:
    """Guesses of a network by reading; what it answers to the same input it is asked once."""

    network: Raw
    kept: dict[tuple[float, ...], Tensor] = field(default_factory=dict)

    def guess(self, reading: Reading, rows: Rows, levels: tuple[float, ...]) -> Tensor | None:
        """x0_hat `[L, n, ...]` of the rows at these levels of the data; None where the reading has
        no time for one.
        """
        given = reading.inputs(levels)
        if given is None:
            return None
        scale, shift = reading.range.scale, reading.range.shift
        count, every = len(levels), len(levels) * len(rows.x0)
        tall = torch.tensor(levels, dtype=torch.float64)

        def wide(numbers: Tensor) -> Tensor:
            return expand(numbers.repeat_interleave(every // count), rows.x0)

        x0, z = (part.repeat(count, *[1] * (part.ndim - 1)) for part in (rows.x0, rows.z))
        seen = scale * (x0 + wide(tall) * z) + shift
        key = (
            scale,
            shift,
            *(
                float(f"{part:.10g}")
                for part in torch.cat([given.factor, given.label, tall]).tolist()
            ),
        )
        if key not in self.kept:
            told = given.label.repeat_interleave(every // count).float().to(seen.device)
            cond = each(lambda part: part.repeat(count, *[1] * (part.ndim - 1)), rows.cond)
            with torch.no_grad():
                self.kept[key] = self.network(wide(given.factor) * seen, told, cond).to(seen.dtype)
        found = reading.guess(seen, self.kept[key], wide(given.skip), wide(given.out))
        return found.reshape(count, *rows.x0.shape)


def declared(prediction: str, process: str, range_: Range, sigma_data: float) -> Reading:
    """The reading that a user declares. Raises UserError for a name that is not known."""
    if prediction == "edm":
        return Reading(
            "edm", scalings.Edm(sigma_data=sigma_data), process_named(process), process, range_
        )
    if prediction not in PREDICTIONS:
        raise unknown("prediction", prediction, ["edm", *PREDICTIONS])
    return Reading(prediction, PREDICTIONS[prediction], process_named(process), process, range_)


PLAUSIBLE = {  # predictions and labels that networks of each process have
    "edm": (("eps", "x0"), ("ln(level) / 4",)),
    "cosine": (("eps", "v", "x0"), ("1000 t", "ln(level) / 4")),
    "discrete": (("eps", "v", "x0"), ("t - 1",)),
    "ddpm": (("eps", "v", "x0"), ("t - 1",)),
    "linear": (("flow", "eps", "x0"), ("1000 t",)),
    "trig": (("v", "eps", "x0"), ()),
}


def candidates(given: Reading, x0: Tensor) -> Iterator[Reading]:
    """All readings that are tried: the declared one first, plainer ones before others."""
    yield given
    std = float(x0.double().std())
    named = {name: process_named(name) for name in PLAUSIBLE}
    for sign in (1, -1):
        for range_ in (given.range, *(one for one in ranges(x0).values() if one != given.range)):
            yield replace(given, range=range_, sign=sign)
            for sd in dict.fromkeys((_declared_sd(given, std), std * range_.scale, 0.5, 1.0)):
                for told in (None, "250 ln(level)") if sign > 0 else (None,):
                    yield Reading(
                        "edm", scalings.Edm(sigma_data=sd), named["edm"], "edm", range_, sign, told
                    )
            for kind, scaling in PREDICTIONS.items():  # the declared times, another prediction
                yield replace(given, prediction=kind, scaling=scaling, range=range_, sign=sign)
            for name, (kinds, labels) in PLAUSIBLE.items():
                for kind in kinds:
                    for told in (None, *labels) if sign > 0 else (None,):
                        yield Reading(
                            kind, PREDICTIONS[kind], named[name], name, range_, sign, told
                        )
    for factor in (0.25, 0.4, 0.6, 0.75, 0.9, 1.1, 1.3, 1.6, 2.5, 4.0):
        sd = std * given.range.scale * factor
        yield Reading("edm", scalings.Edm(sigma_data=sd), named["edm"], "edm", given.range)


def _declared_sd(given: Reading, std: float) -> float:
    found = abilities.sigma_data(given.scaling)
    return std if found is None else float(found)


def at_sigma_data(reading: Reading, sigma_data: float) -> Reading:
    """The same with another sigma_data."""
    scaling: Any = reading.scaling
    return replace(reading, scaling=replace(scaling, sigma_data=sigma_data))
