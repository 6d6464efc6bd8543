"""The words for networks of others: predictions, noise labels, processes and ranges by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import UserError, require, short_repr, unknown
from fewstep.core import noise, scalings
from fewstep.core import process as processes
from fewstep.core.process import Process

# What an output is: EDM's preconditioned one and those of DDPM++ and NCSN++ (EDM, table 1), the
# noise, the data, progressive distillation's v, the velocity, the score.
PREDICTIONS: dict[str, type[Any]] = {
    "edm": scalings.Edm,
    "vp": scalings.Vp,
    "ve": scalings.Ve,
    "eps": scalings.Eps,
    "x0": scalings.X0,
    "v": scalings.V,
    "flow": scalings.Flow,
    "score": scalings.Score,
    "trig": scalings.Trig,
}

# Noise labels by time and level, instead of the scaling's own. Indices of a table begin at 0.
LABELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "t": lambda t, level: t,
    "t - 1": lambda t, level: (t - 1).clamp_min(0),
    "1000 t": lambda t, level: 1000 * t,
    "999 t": lambda t, level: 999 * t,
    "1 - t": lambda t, level: 1 - t,
    "ln(level) / 4": lambda t, level: level.log() / 4,
    "ln(level / 2)": lambda t, level: (level / 2).log(),
    "250 ln(level)": lambda t, level: 250 * level.log(),
    "log-SNR": lambda t, level: -2 * level.log(),
}
EDM_LABELS = {"ln(level) / 4": 0.25, "250 ln(level)": 250.0}  # by `Edm.noise_scale`
# Labels that nobody has to say: tables count their steps from 0 in most codes.
USUAL = {"discrete": "t - 1", "ddpm": "t - 1"}
SCHEDULES = {
    one.__name__.lower(): one
    for one in (noise.Edm, noise.Linear, noise.Trig, noise.Cosine, noise.Table)
}


def _ddpm_betas() -> Tensor:
    return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


NAMED: dict[str, Callable[[], Process]] = {
    "edm": processes.edm,
    "cosine": processes.cosine,
    "discrete": lambda: processes.by_name("discrete"),
    "ddpm": lambda: processes.discrete(betas=_ddpm_betas()),
    "linear": processes.linear,
    "trig": processes.trig,
}


@cache
def process_named(name: str) -> Process:
    """A process by the name that networks' times have. Raises UserError."""
    if name not in NAMED:
        raise unknown("process", name, NAMED)
    return NAMED[name]()


@cache
def name_of(process: Process) -> str:
    """The name of one of those, also of a table that was rounded otherwise; else its schedule's."""
    names = (name for name in NAMED if _are_alike(process_named(name), process))
    return next(names, type(process.schedule).__name__.lower())


def _are_alike(a: Process, b: Process) -> bool:
    ours, theirs = a.schedule, b.schedule
    if not isinstance(ours, noise.Table) or not isinstance(theirs, noise.Table):
        return a == b
    pairs = zip(ours.power, theirs.power, strict=False)
    is_near = all(math.isclose(one, other, rel_tol=1e-3) for one, other in pairs)
    return len(ours.power) == len(theirs.power) and is_near


@dataclass(frozen=True)
class Range:
    """The network's units of the data: u = scale x0 + shift, of x0 about [-1, 1]."""

    name: str = "[-1, 1]"
    scale: float = 1.0
    shift: float = 0.0


def interval(low: float, high: float) -> Range:
    """The range of data in [low, high]. Raises UserError."""
    fine = -math.inf < low < high < math.inf
    require(fine, "range", (low, high), "two finite numbers, the lower one first")
    return Range(f"[{low:g}, {high:g}]", (high - low) / 2, (high + low) / 2)


def range_of(value: str | Range | tuple[float, float]) -> Range:
    """The range behind "[0, 1]", "0..1", (0, 1) or a `Range`. Raises UserError."""
    if isinstance(value, Range):
        return value
    if isinstance(value, str):
        words = value.strip("[]() ").replace("..", ",").split(",")
        try:
            value = tuple(float(word) for word in words)  # type: ignore[assignment]
        except ValueError:
            value = ()  # type: ignore[assignment]
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise UserError(f"range = {short_repr(value)}: expected two numbers, such as [0, 1]")
    return interval(*value)


def process_to_json(process: Process) -> str | dict[str, Any]:
    name = name_of(process)
    if name in NAMED and process_named(name) == process:
        return name
    schedule: Any = process.schedule
    kind = type(schedule).__name__.lower()
    if SCHEDULES.get(kind) is not type(schedule):
        raise UserError(
            f"a process by {type(schedule).__name__} cannot be stored: expected one of fs.process"
        )
    values = {f.name: getattr(schedule, f.name) for f in fields(schedule)}
    if "power" in values:
        values["power"] = list(values["power"])
    about = {"schedule": kind, "t_min": process.t_min, "t_max": process.t_max, "rho": process.rho}
    return {**about, "values": values}


def process_from_json(value: Any) -> Process:
    if isinstance(value, str):
        return process_named(value)
    about = {name: number(value[name]) for name in ("t_min", "t_max", "rho")}
    values: Mapping[str, Any] = value["values"]
    if value["schedule"] == "table":
        return replace(processes.discrete(alphas_cumprod=values["power"]), **about)
    schedule = SCHEDULES[value["schedule"]]
    return Process(schedule(**{name: number(one) for name, one in values.items()}), **about)


def number(value: Any) -> Any:
    """A finite number. Raises ValueError."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{short_repr(value)} is no finite number")
    return value
