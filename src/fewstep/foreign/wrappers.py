"""How a foreign network is asked: by the class that wraps it, or by what the user says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import UserError, require, short_repr
from fewstep.core import process, scalings
from fewstep.core.conventions import Convention, convention
from fewstep.core.process import Process
from fewstep.foreign.recognised import Said

SONG_LABEL = "250 ln(level)"  # of openai's consistency models
DDPM_LABEL = "t - 1"
ENDS = (1, 4)  # of a flow map: the gap of the angles; with three numbers of its guidance
MOST = 8.0  # guidance weight that a flow map with an input for it was told, as in iMF's paper
ECT_BOUNDARY = 0.003  # of ECT's code when it samples, and not when it trains


@dataclass(frozen=True)
class Asked:
    """A convention, whether D jumps to the data, its boundary, and what a user should know."""

    convention: Convention
    is_student: bool | None = False  # None: the file does not tell
    shift: float = 0.0
    notes: tuple[str, ...] = ()


def ask_by_class(name: str, config: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> Asked:
    """How NVIDIA's wrapper of that class asks its network. Raises UserError.

    config: the wrapper's arguments. buffers: its own, of which iDDPM's `u` is the table of levels.
    """
    number = Numbers(config)
    edm = convention("edm", sigma_data=number("sigma_data", 0.5))
    if name in ("EDMPrecond", "Precond"):
        return Asked(edm)
    if name == "VPPrecond":
        m = number("M", 1000)
        vp = scalings.Vp(beta_d=number("beta_d", 19.9), beta_min=number("beta_min", 0.1), m=int(m))
        return Asked(Convention(scaling=vp))
    if name == "VEPrecond":
        levels = {"t_min": number("sigma_min", 0.02), "t_max": number("sigma_max", 100.0)}
        return Asked(Convention(scaling=scalings.Ve(), process=process.edm(**levels)))
    if name == "iDDPMPrecond":
        table = Convention(scaling=scalings.Eps(), process=table_of(buffers), label=DDPM_LABEL)
        note = "the original rounds noise levels to its table of 1000; here they are as asked"
        return Asked(table, notes=(note,))
    if name == "ECMPrecond":
        note = f"its boundary is at 0, as in training; ECT's sampler moves it to {ECT_BOUNDARY}"
        return Asked(edm, is_student=True, notes=(note,))
    if name == "ConsistencyPrecond":
        label = SONG_LABEL if config.get("song_rescaling") else None
        shift = number("sigma_min", 0.0)
        return Asked(replace(edm, label=label), is_student=True, shift=shift)
    raise UserError(f"its network is in a {short_repr(name)}: expected one of NVIDIA's wrappers")


def ask_flow_map(ends: int, words: Said, notes: list[str]) -> Asked:
    """How a flow map of ours is asked, unless the user says otherwise. Raises UserError."""
    require(ends in ENDS, "numbers of the end in the weights", ends, " or ".join(map(str, ENDS)))
    need = "true or nothing: these weights are of a flow map, which jumps"
    require(words.is_student is not False, "--is-student", "false", need)
    notes.append(f"a flow map, which is told where it leads by {ends} numbers (end.body)")
    if ends > 1:
        notes.append(f"guided up to weight {MOST:g}, as in iMF's paper: the weights do not say")
    if words.prediction is None:
        notes.append("asked by angle on the process linear, as flow maps here are (--prediction)")
    own = convention("trig", "linear")
    if words.sigma_data is None and words.prediction in (None, "edm", "trig"):
        notes.append(f"sigma_data {own.sigma_data:g}: the weights do not say (--sigma-data)")
    return Asked(own, is_student=True)


@dataclass(frozen=True)
class Numbers:
    """Numbers among arguments."""

    config: Mapping[str, Any]

    def __call__(self, name: str, default: float) -> float:
        """Raises UserError for an argument that is no finite number."""
        value = self.config.get(name, default)
        fine = type(value) in (int, float) and math.isfinite(value)
        require(fine, f"{name} in the file", value, "a finite number")
        return float(value)


def table_of(buffers: Mapping[str, Tensor]) -> Process:
    """iDDPM's process: its levels u_0 > u_1 > ... > u_M = 0 as a table of M steps."""
    levels = buffers.get("u")
    if levels is None or levels.ndim != 1:
        raise UserError("its table of noise levels, u, is missing")
    return process.discrete(alphas_cumprod=1 / (1 + levels.double().flip(0)[1:].square()))


def cosine_betas(steps: int = 1000) -> Tensor:
    """The betas of a cosine table: 1 - a(t + 1)/a(t), at most .999 (arXiv 2102.09672, eq. 17)."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    power = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - power[1:] / power[:-1]).clamp(max=0.999)


def override(own: Asked, words: Said) -> Asked:
    """What the user says instead. Raises UserError."""
    result = own.convention
    if words.prediction or words.process:
        place: str | Process = words.process or result.process
        if words.process == "ddpm-cosine":
            place = process.discrete(betas=cosine_betas())
        kind = words.prediction or result.prediction
        deviation = result.sigma_data if words.sigma_data is None else words.sigma_data
        result = convention(
            kind,
            place,
            label=words.label,
            sigma_data=deviation if kind in ("edm", "trig") else words.sigma_data,
        )
    else:
        if words.label is not None:
            result = replace(result, label=words.label)
        if words.sigma_data is not None:
            require(
                result.sigma_data is not None, "sigma_data", words.sigma_data, "prediction = edm"
            )
            result = result.with_sigma_data(words.sigma_data)
    is_student = own.is_student if words.is_student is None else words.is_student
    shift = own.shift if words.shift is None else words.shift
    if words.is_student is False and words.shift is None:
        shift = 0.0
    return Asked(result, is_student, shift, own.notes)
