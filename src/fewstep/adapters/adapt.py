"""A network of somebody's as a denoiser, by a few words on how it is called and what it answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.base.conditions import NO_LABEL, Cond
from fewstep.base.errors import UserError, require, unknown
from fewstep.core.conventions import Convention, Offset, as_denoiser, convention
from fewstep.core.denoiser import Preconditioned
from fewstep.core.guidance import Guided
from fewstep.core.process import Process
from fewstep.core.vocabulary import Range
from fewstep.networks.ends import ends_fit

Labels = Literal["none", "index", "one-hot", "cond"]
LABELS = ("none", "index", "one-hot", "cond")
End = Literal["r", "t - r", "r - t"]
# What a flow map is given of where it leads, of its label at t and the label's fall from t to r.
ENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "r": lambda label, fall: (label.double() - fall.double()).to(label.dtype),
    "t - r": lambda label, fall: fall,
    "r - t": lambda label, fall: -fall,
}
# Processes on which a mean velocity gives x0_hat by t alone (on trig in place of it F).
STRAIGHT = ("linear", "edm", "trig")
# (network, x, label [B], of a flow map its end [B], condition or None) -> its answer
Call = Callable[..., Any]


def _positional(network: Callable[..., Any], x: Tensor, *times_and_cond: Any) -> Any:
    *times, cond = times_and_cond
    return network(x, *times) if cond is None else network(x, *times, cond)


class Called(nn.Module):
    """Somebody's network, called as ours are: (x, noise label [B], cond) -> output like x.

    A flow map gets `end` [B, 1] too, the fall of its label from t to where it leads.

    Of an answer that is no tensor the first part is taken, or what it calls `sample` or `mean`; of
    twice the channels the first half, since the second is a variance (DDPM's learned sigma).
    """

    def __init__(
        self,
        network: Callable[..., Any],
        *,
        labels: Labels = "none",
        classes: int = 0,
        null: int | None = None,
        call: Call = _positional,
        times: Literal["float", "whole"] = "float",
        end: End | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.labels, self.classes, self.null = labels, classes, null
        self.call, self.times = call, times
        self.end = end
        self.ends = 0 if end is None else 1

    def forward(
        self, x: Tensor, label: Tensor, cond: Cond = None, end: Tensor | None = None
    ) -> Tensor:
        ends_fit(self.ends, end)
        times = [label]
        if self.end is not None and end is not None:
            times.append(ENDS[self.end](label, end[:, 0]))
        if self.times == "whole":
            times = [time.round().long() for time in times]
        return tensor_of(self.call(self.network, x, *times, self._condition(cond)), x)

    def _condition(self, cond: Cond) -> Any:
        """The condition as the network takes it."""
        if self.labels == "none" or cond is None:
            return None
        if self.labels == "cond":
            return cond
        label = cond["label"] if not isinstance(cond, Tensor) else cond
        if not isinstance(label, Tensor):
            raise UserError(f"labels = {self.labels}: expected data with labels")
        is_none = label == NO_LABEL
        if self.labels == "one-hot":
            rows = nn.functional.one_hot(label.clamp_min(0), self.classes)
            return rows.to(torch.float32) * ~is_none[:, None]
        if self.null is None and bool(is_none.any()):
            raise UserError(
                "label -1: this network has no index for no label: say it, null = INDEX"
            )
        return torch.where(is_none, self.null or 0, label)


def tensor_of(answer: Any, x: Tensor) -> Tensor:
    """The guess in a network's answer. Raises UserError where there is none like x."""
    for name in ("sample", "mean"):
        part = getattr(answer, name, None)
        if isinstance(part, Tensor):
            answer = part
    if isinstance(answer, dict):
        answer = next(iter(answer.values()), None)
    if isinstance(answer, tuple | list) and answer:
        answer = answer[0]
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if isinstance(answer, Tensor) and shape == (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
        return answer[:, : x.shape[1]]
    if not isinstance(answer, Tensor) or shape != tuple(x.shape):
        raise UserError(
            f"the network gave {shape} for {tuple(x.shape)}: expected a tensor of the same shape"
        )
    return answer


def adapt(
    network: Callable[..., Any],
    prediction: str | Convention = "edm",
    process: str | Process = "edm",
    *,
    label: str | None = None,
    range: str | Range | tuple[float, float] = "[-1, 1]",
    sigma_data: float | None = None,
    sign: int = 1,
    labels: Labels = "none",
    classes: int = 0,
    null: int | None = None,
    call: Call | None = None,
    times: Literal["float", "whole"] = "float",
    end: End | None = None,
) -> Preconditioned | Offset:
    """Any callable as a denoiser (x_t, t, cond) -> x0_hat on edm, whose times are noise levels.

    With `end` it is a flow map (x_t, t, cond, to=r) -> x0_hat in the times of its own process.

    prediction: edm, vp, ve (EDM's preconditionings), eps, x0, v, flow or score; or a `Convention`,
    which says all up to `sign`.
    process: edm, ddpm, discrete (Stable Diffusion's), cosine, linear, trig, or one of fs.process,
    such as discrete(betas=...), linear() or own(pair).
    label: what the network gets as its time: "t", "t - 1" (the default of tables), "1000 t",
    "ln(level) / 4" and others; None is the prediction's own. times: "whole" rounds it to integers.
    range: of the data that the network learned, where the run's are about [-1, 1].
    sigma_data: of prediction edm. sign: -1 where the output is the negative.
    labels: none (network(x, t)), index or one-hot (network(x, t, y)), or cond: the condition as it
    is. classes: how many. null: the index that means no label.
    call: (network, x, t, condition) -> answer, for another order of arguments; of a flow map
    (network, x, t, end, condition).
    end: what a flow map, network(x, t, end), gets of the time r that it leads to: "r", "t - r" or
    "r - t", in units of the label, which has to be finite at the data. Of prediction flow the
    output is the mean velocity u, x_r = x_t - (t - r) u on linear and edm.
    A module stays in the result, so its weights can be trained: as `init=` a student starts from
    them. What is said here is compared with data when the result teaches: a wrong word is refused.
    Raises UserError.
    """
    if not callable(network):
        raise UserError(f"network of type {type(network).__name__}: expected a callable")
    if labels not in LABELS:
        raise unknown("labels", labels, LABELS)
    if end is not None and end not in ENDS:
        raise unknown("end", end, ENDS)
    if call is None:
        _check_inputs(network, end, 0 if labels == "none" else 1)
    is_one_hot = labels == "one-hot"
    require(not is_one_hot or classes > 0, "classes", classes, "their number, for labels = one-hot")
    own = prediction
    if isinstance(own, str):
        own = convention(own, process, label=label, range=range, sigma_data=sigma_data, sign=sign)
    own = replace(own, ends=0 if end is None else 1)
    if end is not None:
        need = "one that is finite at the data, where a flow map leads: label = 't' or another"
        require(_is_finite(own), "label", own.label or f"{own.prediction}'s own, ln(level)", need)
        fine = own.prediction != "flow" or own.process_name in STRAIGHT
        need = f"x0, eps or v on {own.process_name}: a mean velocity is for {', '.join(STRAIGHT)}"
        require(fine, "prediction", own.prediction, need)
    module = Called(
        network,
        labels=labels,
        classes=classes,
        null=null,
        call=call or _positional,
        times=times,
        end=end,
    )
    return as_denoiser(module, own, None if end is None else own.process)


def _is_finite(own: Convention) -> bool:
    """Whether the label has a value at the data: a logarithm is cut off there, far from its last.

    Others hardly move between t = 0 and 1e-9 of the whole.
    """
    t = torch.tensor([0.0, 1e-9 * own.process.t_max], dtype=torch.float64)
    label = replace(own, range=Range())(own.process, t).noise
    return abs(float(label[1] - label[0])) < 1


def _check_inputs(network: Callable[..., Any], end: str | None, more: int) -> None:
    """Raises UserError where a network plainly takes one time and two are given, or the reverse.

    more: inputs beside x and the times.
    """
    function = network.forward if isinstance(network, nn.Module) else network
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some built-in functions it is not known
        return

    def takes(times: int) -> bool:
        try:
            signature.bind(*[None] * (1 + times + more))
        except TypeError:
            return False
        return True

    if end is not None and not takes(2):
        raise UserError(
            f"end = {end!r}: this network takes {signature}: expected one of two times, called as"
            f" network(x, t, end{', y' * more}), or call = for another order; or leave end out"
        )
    if end is None and not takes(1) and takes(2):
        raise UserError(
            f"this network takes {signature}, one input more: for a flow map say what it gets of"
            f" the time r that it leads to, end = {', '.join(ENDS)}; else labels = or call ="
        )


def convention_of(source: Any) -> Convention | None:
    """What is known of a denoiser's network; None where it is one of the package's own."""
    source = source.denoiser if isinstance(source, Guided) else source
    inner = source.denoiser if isinstance(source, Offset) else source
    if not isinstance(inner, Preconditioned) or not isinstance(inner.scaling, Convention):
        return None
    if isinstance(source, Offset):
        own = inner.scaling
        shift = source.shift * own.range.scale
        return replace(own, range=Range(own.range.name, own.range.scale, shift))
    return inner.scaling


def network_of(source: Any) -> nn.Module:
    """The network inside a denoiser that `adapt` made, also under guidance."""
    source = source.denoiser if isinstance(source, Guided) else source
    inner: Any = source.denoiser if isinstance(source, Offset) else source
    network: nn.Module = inner.network
    return network
