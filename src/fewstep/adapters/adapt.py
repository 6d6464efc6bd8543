"""A network of somebody's as a denoiser, by a few words on how it is called and what it answers."""

from __future__ import annotations

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

Labels = Literal["none", "index", "one-hot", "cond"]
LABELS = ("none", "index", "one-hot", "cond")
# (network, x, label [B], condition or None) -> its answer
Call = Callable[[Callable[..., Any], Tensor, Tensor, Any], Any]


def _positional(network: Callable[..., Any], x: Tensor, t: Tensor, cond: Any) -> Any:
    return network(x, t) if cond is None else network(x, t, cond)


class Called(nn.Module):
    """Somebody's network, called as ours are: (x, noise label [B], cond) -> output like x.

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
    ) -> None:
        super().__init__()
        self.network = network
        self.labels, self.classes, self.null = labels, classes, null
        self.call, self.times = call, times

    def forward(self, x: Tensor, label: Tensor, cond: Cond = None) -> Tensor:
        t = label.round().long() if self.times == "whole" else label
        return tensor_of(self.call(self.network, x, t, self._condition(cond)), x)

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
    if isinstance(answer, Tensor) and shape == (len(x), 2 * x.shape[1], *x.shape[2:]):
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
) -> Preconditioned | Offset:
    """Any callable as a denoiser (x_t, t, cond) -> x0_hat on edm, whose times are noise levels.

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
    call: (network, x, t, condition) -> answer, for another order of arguments.
    A module stays in the result, so its weights can be trained: as `init=` a student starts from
    them. What is said here is compared with data when the result teaches: a wrong word is refused.
    Raises UserError.
    """
    if not callable(network):
        raise UserError(f"network of type {type(network).__name__}: expected a callable")
    if labels not in LABELS:
        raise unknown("labels", labels, LABELS)
    is_one_hot = labels == "one-hot"
    require(not is_one_hot or classes > 0, "classes", classes, "their number, for labels = one-hot")
    own = prediction
    if isinstance(own, str):
        own = convention(own, process, label=label, range=range, sigma_data=sigma_data, sign=sign)
    module = Called(
        network,
        labels=labels,
        classes=classes,
        null=null,
        call=call or _positional,
        times=times,
    )
    return as_denoiser(module, own)


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
