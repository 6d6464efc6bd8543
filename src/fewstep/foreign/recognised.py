"""What a user says of a foreign file, and what is recognised in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fewstep.core.conventions import Convention


@dataclass(frozen=True, kw_only=True)
class Said:
    """What overrides or completes what the file says; None where nothing was said."""

    network: str | None = None  # a name in fewstep.networks
    network_options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    prediction: str | None = None  # edm, vp, ve, eps, x0, v, flow, score
    process: str | None = None  # edm, ddpm, ddpm-cosine, discrete, cosine, linear, trig
    label: str | None = None  # such as "250 ln(level)" or "t - 1"
    sigma_data: float | None = None
    is_student: bool | None = None  # a consistency model, whose output is the data
    shift: float | None = None  # the boundary's level of a consistency model
    attention_order: str | None = None  # of guided-diffusion: "new" (q, k, v, head) or "legacy"
    part: str | None = None  # which of several networks in the file, such as ema


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A network of ours with the weights of a foreign file, and how it is asked."""

    kind: str  # what the file is, in words
    network: str | None  # a name in fewstep.networks; None for weights that nobody knows
    network_options: dict[str, Any] = field(default_factory=dict)  # JSON's own types
    shape: tuple[int, ...] = ()
    classes: int = 0
    convention: Convention = field(default_factory=Convention)
    is_student: bool = False
    ends: int = 0  # numbers that it takes of where it leads; above 0 it is a flow map
    shift: float = 0.0
    label_drop: float = 0.0  # above 0: it was trained without labels too, and -1 asks for any
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)  # under our names
    left_out: tuple[str, ...] = ()  # of the file's tensors, those that were not taken
    notes: tuple[str, ...] = ()  # what was guessed, and what a user might miss
