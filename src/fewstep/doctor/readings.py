"""The readings of a network's output that are tried: prediction, process and time label, range, sign, sigma_data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fewstep import process as processes
from fewstep import scalings
from fewstep.denoiser import Cond
from fewstep.doctor.levels import Rows
from fewstep.errors import unknown
from fewstep.process import Process
from fewstep.scalings import Scaling

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
    known = {"linear": processes.linear, "trig": processes.trig, "ddpm": lambda: processes.discrete(betas=betas)}
    if name in known:
        return known[name]()
    if name not in ("edm", "cosine", "discrete"):
        raise unknown("process", name, [*known, "edm", "cosine", "discrete"])
    return processes.named(name)


LABELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of time and level, in place of the scaling's own
    "t - 1": lambda t, level: t - 1,
    "1000 t": lambda t, level: 1000 * t,
    "ln(level) / 4": lambda t, level: level.log() / 4,
    "250 ln(level)": lambda t, level: 250 * level.log(),
    "level": lambda t, level: level,
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
        sd = getattr(self.scaling, "sigma_data", None)
        kind = f"{'-' if self.sign < 0 else ''}{self.prediction}-prediction"
        kind += f" with sigma_data {sd:.3g}" if sd is not None else f" on the {self.process_name} process"
        told = f", told {self.label}" if self.label else ""
        return f"{kind}{told}, of data in {self.range.name}"

    def inputs(self, level: float) -> tuple[float, float, float, float] | None:
        """(factor of u + s z, label, skip of it, out) at a level of the data in [-1, 1]; None out of the times."""
        s = torch.tensor([self.range.scale * level], dtype=torch.float64)
        t = self.process.time_at(s)
        there = self.process.level(t)
        if not bool((there / s - 1).abs() < 0.01) or float(t) > self.process.t_max:
            return None
        c, alpha = self.scaling(self.process, t), self.process.alpha(t)
        label = c.noise if self.label is None else LABELS[self.label](t, there)
        numbers = (c.in_ * alpha, label, c.skip * alpha, c.out)
        return tuple(float(part) for part in numbers)  # type: ignore[return-value]

    def guess(self, seen: Tensor, raw: Tensor, skip: float, out: float) -> Tensor:
        """x0_hat in [-1, 1] of the noised u + s z and the raw output."""
        return (skip * seen + self.sign * out * raw - self.range.shift) / self.range.scale


@dataclass
class Tried:
    """Guesses of a network by reading; what it answers to the same input it is asked once."""

    network: Raw
    kept: dict[tuple[float, ...], Tensor] = field(default_factory=dict)

    def guess(self, reading: Reading, rows: Rows, level: float) -> Tensor | None:
        """x0_hat of the rows at that level of the data; None where the reading has no time for it."""
        numbers = reading.inputs(level)
        if numbers is None:
            return None
        given, label, skip, out = numbers
        scale, shift = reading.range.scale, reading.range.shift
        seen = scale * (rows.x0 + level * rows.z) + shift
        key = tuple(float(f"{part:.10g}") for part in (given, label, level, scale, shift))
        if key not in self.kept:
            told = torch.full((len(seen),), label, dtype=torch.float32, device=seen.device)
            with torch.no_grad():
                self.kept[key] = self.network(given * seen, told, rows.cond)
        return reading.guess(seen, self.kept[key].to(seen.dtype), skip, out)


def declared(prediction: str, process: str, range_: Range, sigma_data: float) -> Reading:
    """The reading that a user declares. Raises UserError for a name that is not known."""
    if prediction == "edm":
        return Reading("edm", scalings.Edm(sigma_data=sigma_data), process_named(process), process, range_)
    if prediction not in PREDICTIONS:
        raise unknown("prediction", prediction, ["edm", *PREDICTIONS])
    return Reading(prediction, PREDICTIONS[prediction], process_named(process), process, range_)


def candidates(given: Reading, x0: Tensor) -> Iterator[Reading]:
    """All readings that are tried, the declared one first and the plainer ones before the others."""
    yield given
    std = float(x0.double().std())
    label = {name: process_named(name) for name in ("edm", "cosine", "discrete", "ddpm", "linear", "trig")}
    for range_ in ranges(x0).values():
        yield replace(given, range=range_)
        for sign in (1, -1):
            yield replace(given, range=range_, sign=sign)
            for sd in dict.fromkeys((_declared_sd(given, std), std * range_.scale, 0.5, 1.0)):
                for told in (None, "250 ln(level)", "level"):
                    yield Reading("edm", scalings.Edm(sigma_data=sd), label["edm"], "edm", range_, sign, told)
            for name, process in ((given.process_name, given.process), *label.items()):
                for kind, scaling in PREDICTIONS.items():
                    for told in (None, *_labels(name)):
                        yield Reading(kind, scaling, process, name, range_, sign, told)


def _declared_sd(given: Reading, std: float) -> float:
    found = getattr(given.scaling, "sigma_data", None)
    return std if found is None else float(found)


def _labels(process: str) -> tuple[str, ...]:
    """The labels that networks of a process are told in place of its time."""
    table = ("t - 1",) if process in ("discrete", "ddpm") else ("1000 t",)
    return (*table, "ln(level) / 4")


def at_sigma_data(reading: Reading, sigma_data: float) -> Reading:
    """The same with another sigma_data."""
    scaling: Any = reading.scaling
    return replace(reading, scaling=replace(scaling, sigma_data=sigma_data))
