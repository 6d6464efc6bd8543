"""How somebody's network is asked, and what its output means: a value that JSON can hold.

A `Convention` is a `Scaling` for any process: it asks the network at the time of its own process
that has the same noise level. So a network of any kind is a teacher on the process of its student,
and a student may start from its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require, short_repr, unknown
from fewstep.core import abilities, noise, scalings
from fewstep.core import process as processes
from fewstep.core.denoiser import Preconditioned, ask
from fewstep.core.process import Process, Time, expand, per_row
from fewstep.core.scalings import Coefficients, Scaling
from fewstep.core.vocabulary import (
    EDM_LABELS,
    LABELS,
    PREDICTIONS,
    USUAL,
    Range,
    name_of,
    number,
    process_from_json,
    process_named,
    process_to_json,
    range_of,
)


class Inputs(NamedTuple):
    """x0_hat = skip u_t + out F(factor u_t, label) by level, of u_t = u + s z; in units of u."""

    factor: Tensor
    label: Tensor
    skip: Tensor
    out: Tensor


@dataclass(frozen=True, kw_only=True)
class Convention:
    """What a network predicts, on which process, by which noise label, of data in which range.

    As a scaling, on a process with alpha and sigma at t, it asks at the time t' of its own process
    whose level is s = scale sigma / alpha, with x scaled by
    k = scale sqrt((alpha'^2 + sigma'^2) / (alpha^2 + (scale sigma)^2)), which is alpha' scale /
    alpha wherever s is in its range; levels above count as its highest.
    """

    scaling: Scaling = field(default_factory=scalings.Edm)
    process: Process = field(default_factory=processes.edm)
    label: str | None = None  # one of LABELS; None is the scaling's own
    range: Range = field(default_factory=Range)
    sign: int = 1  # -1: the output is the negative of that
    ends: int = 0  # 1: it is told where it leads, by the difference of the labels

    def __post_init__(self) -> None:
        if self.label is not None and self.label not in LABELS:
            raise unknown("label", self.label, LABELS)

    def __str__(self) -> str:
        sign = "-" if self.sign < 0 else ""
        where = f"on the {self.process_name} process"
        if self.sigma_data is not None:
            where = f"with sigma_data {self.sigma_data:.3g}"
        label = f", label {self.label}" if self.label else ""
        end = ", told where it leads" if self.ends else ""
        what = f"{sign}{self.prediction}-prediction {where}{label}{end}"
        return f"{what}, of data in {self.range.name}"

    @property
    def prediction(self) -> str:
        """The name of what the output is."""
        kind = type(self.scaling)
        return next((name for name, one in PREDICTIONS.items() if one is kind), kind.__name__)

    @property
    def process_name(self) -> str:
        return name_of(self.process)

    @property
    def sigma_data(self) -> float | None:
        return abilities.sigma_data(self.scaling)

    @property
    def multiplies(self) -> bool:
        """Whether the guess has the output's errors times the noise level: of noise and score."""
        return self.prediction in ("eps", "score", "vp", "ve")

    def snap(self, level: float) -> float:
        """The nearest noise level that the network was trained at: of a table, that of a step."""
        if not isinstance(self.process.schedule, noise.Table):
            return level
        t = self.process.time_at(level * self.range.scale).round().clamp_min(1)
        return float(self.process.level(t)) / self.range.scale

    def with_sigma_data(self, sigma_data: float) -> Convention:
        scaling: Any = self.scaling
        return replace(self, scaling=replace(scaling, sigma_data=sigma_data))

    def negate(self) -> Convention:
        return replace(self, sign=-self.sign)

    @property
    def gap(self) -> Callable[[Process, Tensor, Tensor], Tensor] | None:
        """label(t) - label(to), `[B]`; None where the network is told by angle, or not at all."""
        return self._gap if self.ends else None

    def _gap(self, process: Process, t: Tensor, to: Tensor) -> Tensor:
        return self(process, t).noise - self(process, to).noise

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        if self.range.shift:
            raise UserError(
                f"a network of data in {self.range.name} cannot be a student's: give it data in its"
                " own range (units = as-is) and leave range out; as a teacher it may keep it"
            )
        own, scale = self.process, self.range.scale
        alpha, sigma = process.alpha(t), scale * process.sigma(t)
        t_own = own.time_at(sigma / alpha).clamp(max=own.t_max)
        alpha_own, sigma_own = own.alpha(t_own), own.sigma(t_own)
        power = (alpha_own.square() + sigma_own.square()) / (alpha.square() + sigma.square())
        k = scale * power.sqrt()
        c = self.scaling(own, t_own)
        label = c.noise
        if self.label is not None:
            label = LABELS[self.label](t_own, scalings.level(own, t_own))
        return Coefficients(c.skip * k / scale, self.sign * c.out / scale, c.in_ * k, label)

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

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types. Raises UserError for a scaling or schedule of your own."""
        if self.prediction not in PREDICTIONS:
            raise UserError(
                f"a network's output by {self.prediction} cannot be stored: expected one of"
                f" {', '.join(PREDICTIONS)}"
            )
        values: dict[str, Any] = {"prediction": self.prediction}
        values |= {f.name: getattr(self.scaling, f.name) for f in fields(self.scaling)}  # type: ignore[arg-type]
        values["process"] = process_to_json(self.process)
        values["label"] = self.label
        values["range"] = [self.range.name, self.range.scale, self.range.shift]
        values["sign"] = self.sign
        if self.ends:  # what was written before has none
            values["ends"] = self.ends
        return values

    @staticmethod
    def from_json(values: Any) -> Convention:
        """The convention that `to_json` gave. Raises UserError for anything else."""
        try:
            rest = dict(values)
            kind = PREDICTIONS[rest.pop("prediction")]
            return Convention(
                process=process_from_json(rest.pop("process")),
                label=rest.pop("label"),
                range=Range(*rest.pop("range")),
                sign={1: 1, -1: -1}[rest.pop("sign")],
                ends={0: 0, 1: 1}[rest.pop("ends", 0)],
                scaling=kind(**{name: number(value) for name, value in rest.items()}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"convention = {short_repr(values)}: expected prediction, process, label, range and"
                f" sign of a network, as an import wrote them ({error!r})"
            ) from error


def convention(
    prediction: str = "edm",
    process: str | Process = "edm",
    *,
    label: str | None = None,
    range: str | Range | tuple[float, float] = "[-1, 1]",
    sigma_data: float | None = None,
    sign: int = 1,
    ends: int = 0,
) -> Convention:
    """What a user says of a network. Raises UserError for an unknown name, with the nearest one.

    prediction: edm, vp, ve, eps, x0, v, flow or score. process: a name, or one of fs.process.
    label: what the network gets as its time, such as "t - 1", the default for tables, or "1000 t";
    None is the prediction's own. range: of the data that it learned, what [-1, 1] is here.
    sigma_data: of the preconditioning edm. ends: 1 where it is told where it leads.
    """
    if prediction not in PREDICTIONS:
        raise unknown("prediction", prediction, PREDICTIONS)
    has_deviation = prediction in ("edm", "trig")
    require(has_deviation or sigma_data is None, "sigma_data", sigma_data, "prediction = edm")
    options = {} if sigma_data is None else {"sigma_data": sigma_data}
    own = process_named(process) if isinstance(process, str) else process
    if label is None and prediction not in ("edm", "vp", "ve", "trig"):
        label = USUAL.get(process) if isinstance(process, str) else _usual(own)
    extent = range_of(range)
    if isinstance(own.schedule, noise.Edm):  # its levels are those of data in [-1, 1]
        own = replace(own, t_min=own.t_min * extent.scale, t_max=own.t_max * extent.scale)
    return Convention(
        scaling=PREDICTIONS[prediction](**options),
        process=own,
        label=label,
        range=extent,
        sign=sign,
        ends=ends,
    )


def _usual(process: Process) -> str | None:
    return "t - 1" if isinstance(process.schedule, noise.Table) else None


def student_scaling(own: Scaling, source: Convention) -> Scaling:
    """The scaling of a student, made for `own`, that starts from a network of that convention.

    Between two preconditionings of EDM only the noise label is the source's: its own weights of
    the two terms have the same function, and a boundary of their own. Any other source's output
    keeps its meaning; eps, v and flow have D(x, 0) = x by themselves.
    """
    theirs = source.scaling
    is_plain = source.range == Range() and source.sign > 0 and not source.ends
    if not isinstance(theirs, scalings.Edm) or not is_plain:
        return source
    noise_scale = EDM_LABELS.get(source.label, 0.0) if source.label else theirs.noise_scale
    if not isinstance(own, scalings.Edm) or not noise_scale:
        return source
    return replace(own, noise_scale=noise_scale)


class Offset(nn.Module):
    """A denoiser of data u = x0 + shift asked with data x0: D(x_t + alpha shift, t) - shift."""

    def __init__(self, denoiser: nn.Module, process: Process, shift: float) -> None:
        super().__init__()
        self.denoiser, self.process, self.shift = denoiser, process, shift

    @property
    def ends(self) -> int:
        """As the denoiser's."""
        return abilities.ends(self.denoiser)

    def forward(self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None) -> Tensor:
        alpha = expand(self.process.alpha(per_row(t, x_t)), x_t)
        return ask(self.denoiser, x_t + self.shift * alpha, t, cond, to) - self.shift


def as_denoiser(
    network: nn.Module, own: Convention, process: Process | None = None
) -> Preconditioned | Offset:
    """The network (x, noise label [B], cond) -> output as a denoiser of data about [-1, 1].

    process: whose times it gets; edm without one.
    """
    scale, shift = own.range.scale, own.range.shift
    if not shift:
        return Preconditioned(network, own, process)
    about_0 = replace(own, range=Range(own.range.name, scale))
    denoiser = Preconditioned(network, about_0, process)
    return Offset(denoiser, denoiser.process, shift / scale)


@lru_cache(maxsize=64)
def _times(process: Process, levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The times of noise levels, and the levels of these times."""
    t = process.time_at(torch.tensor(levels, dtype=torch.float64))
    return t, process.level(t)
