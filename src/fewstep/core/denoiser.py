"""Denoisers: everything that guesses the data, `(x_t, t, cond=None) -> x0_hat`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond, apply_mask, each, pick
from fewstep.base.device import first_weight, send
from fewstep.base.errors import UserError
from fewstep.core import abilities, scalings
from fewstep.core.process import Process, Time, as_time, edm, expand, per_row
from fewstep.core.scalings import Coefficients, Scaling
from fewstep.core.tell import UNGUIDED, without_guidance


class Masks(Protocol):
    """What a network's `masks(rows, seeds)` returns: dropout masks, of which `at` selects rows."""

    def at(self, index: Tensor) -> Masks: ...


class Denoiser(Protocol):
    """`x_t [B, ...]`, `t [B]` float64 (ours also take a float), `cond` of B rows -> x0_hat.

    A denoiser with dropout also has `.masks(rows, seeds)` and takes what that returns as `masks=`,
    so that two passes can run under the same masks; without masks nothing is dropped.
    A flow map has `.ends` above 0 and takes the end of its jump as `to=`, a float or `[B]`: then
    jump(x_t, D(x_t, t, to=a), t -> a) is where the ODE leads from t to a. Its diagonal to = t is an
    ordinary denoiser; without `to` it leads to the data.
    """

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor: ...


def ask(
    denoiser: Denoiser, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None, **more: Any
) -> Tensor:
    """D(x_t, t, cond), and of a flow map with `to`: others are not told where they lead."""
    if to is not None and abilities.ends(denoiser):
        more["to"] = to
    return denoiser(x_t, t, cond, **more)


@dataclass(frozen=True)
class Diagonal:
    """A flow map that is an ordinary denoiser, D(x_t, t, to=t), where it is asked without `to`."""

    denoiser: Denoiser

    @property
    def ends(self) -> int:
        """As the flow map's."""
        return abilities.ends(self.denoiser)

    @property
    def process(self) -> Process | None:
        """Whose times it is asked in."""
        return abilities.process(self.denoiser)

    def __call__(
        self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None, **more: Any
    ) -> Tensor:
        return ask(self.denoiser, x_t, t, cond, t if to is None else to, **more)


def diagonal(denoiser: Denoiser) -> Denoiser:
    """A flow map as an ordinary denoiser; one of one time is that already."""
    is_map = abilities.ends(denoiser) > 0 and not isinstance(denoiser, Diagonal)
    return Diagonal(denoiser) if is_map else denoiser


# Cuts n rows: split(n, work) gives work(rows) of one part after the other.
Split = Callable[[int, Callable[[range], Tensor]], Iterable[Tensor]]

_COMPUTE: ContextVar[torch.dtype | None] = ContextVar("compute", default=None)
_SPLIT: ContextVar[Split | None] = ContextVar("split", default=None)


@contextmanager
def passes_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, the networks of `Preconditioned`, and nothing else, run under autocast to `dtype`.

    None is no autocast.
    """
    before = _COMPUTE.set(dtype)
    try:
        yield
    finally:
        _COMPUTE.reset(before)


@contextmanager
def passes_in_parts(split: Split) -> Iterator[None]:
    """Inside, the networks of `Preconditioned` pass their rows in parts where there is no gradient.

    Such as by `Room.parts`.
    """
    before = _SPLIT.set(split)
    try:
        yield
    finally:
        _SPLIT.reset(before)


def drops_by_masks(denoiser: Denoiser) -> bool:
    """Whether the network draws masks: then it drops by these alone, whatever its mode."""
    network = denoiser.network if isinstance(denoiser, Preconditioned) else denoiser
    return abilities.masks(network) is not None


@contextmanager
def quiet(denoiser: Denoiser) -> Iterator[None]:
    """Inside, a module is in eval mode and drops nothing; its own mode comes back at the end."""
    active: list[nn.Module] = []
    if isinstance(denoiser, nn.Module) and denoiser.training and not drops_by_masks(denoiser):
        active = [module for module in denoiser.modules() if module.training]
    for module in active:
        module.training = False
    try:
        yield
    finally:
        for module in active:
            module.training = True


@contextmanager
def still(denoiser: Denoiser) -> Iterator[None]:
    """Inside, passes of a module give its inputs a gradient, and its weights none."""
    parts = denoiser.parameters() if isinstance(denoiser, nn.Module) else ()
    weights = [p for p in parts if p.requires_grad]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)


def on_rows(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    cond: Cond,
    rows: Tensor,
    into: Tensor,
    masks: Masks | None = None,
    to: Tensor | None = None,
) -> Tensor:
    """`into [B, ...]` with D(x_t, t) in the rows where `rows [B]`, on the host, is True.

    The other rows are not evaluated, and nothing waits for the device. Without masks nothing is
    dropped, since nn.Dropout would not know which rows these are. For passes without gradient: a
    gradient would count a row as often as `_pad` repeats it.
    """
    index = rows.nonzero().flatten()
    is_idle = not len(index)
    if is_idle:
        if not in_shards(denoiser):
            return into
        index = torch.zeros(1, dtype=torch.long)
    index = _pad(index, len(rows), x_t.device)
    here = send(index, x_t.device)
    options = {} if masks is None else {"masks": masks.at(index)}
    end = None if to is None else to[index]
    with quiet(denoiser) if masks is None else nullcontext():
        x0_hat = ask(denoiser, x_t[here], t[index], pick(cond, here), end, **options)
    return into if is_idle else into.index_copy(0, here, x0_hat.to(into.dtype))


def _pad(index: Tensor, rows: int, device: torch.device) -> Tensor:
    """The index, padded to one of 16 sizes by repeating a row: new sizes cost, but not on a CPU."""
    if device.type == "cpu":
        return index
    size = -(-rows // 16)
    return torch.cat([index, index[:1].expand(-len(index) % size)])[:rows]


def chain(denoiser: Any) -> Iterator[Any]:
    """A denoiser, what it asks in turn, and the network behind them."""
    while denoiser is not None:
        yield denoiser
        inner = getattr(denoiser, "denoiser", None)
        denoiser = getattr(denoiser, "network", None) if inner is None else inner


def in_shards(denoiser: Denoiser) -> bool:
    """Whether a pass needs all processes: then each makes it, even with no rows of its own."""
    return any(hasattr(part, "unshard") for part in chain(denoiser))


class Preconditioned(nn.Module):
    """A network F as a denoiser: D(x_t, t, cond) = skip x_t + out F(in x_t, noise, cond).

    `network(x, noise_label [B], cond)`, with `masks` as a fourth argument where it draws some, and
    `end=` where it has ends, runs in its own dtype. Its output is cast to x_t's before `out`
    multiplies it, so a low-precision network still leaves a full-precision x0_hat; the noise label
    stays in float32 at least.
    """

    def __init__(
        self, network: nn.Module, scaling: Scaling, process: Process | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.scaling = scaling
        self.process = edm() if process is None else process
        self.program: Callable[..., Any] | None = None  # by `compiling.compile_passes`

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, which has weights of its own."""
        return {**super().__getstate__(), "program": None}  # type: ignore[no-untyped-call]

    @property
    def ends(self) -> int:
        """How many numbers the network takes of where it leads."""
        return abilities.ends(self.network)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The network's dropout masks, a seed for each equal run of rows; None without dropout."""
        draw = abilities.masks(self.network)
        return draw(rows, seeds) if draw else None

    def end(self, t: Tensor, to: Time | None, cond: Cond = None) -> Tensor | None:
        """Where a flow map's network leads, `[B, ends]` float64: angle(t) - angle(to), guidance.

        The angle is atan(level / sigma_data): smooth from the data to pure noise, and a little
        beyond both. A scaling with a `gap` of its own says that instead. Without guidance in the
        condition it is `tell.UNGUIDED`.
        """
        if not self.ends:
            return None
        to = as_time(0.0 if to is None else to).expand(len(t))
        own = abilities.gap(self.scaling)
        if own is None:
            unit = abilities.sigma_data(self.scaling) or 1.0
            gap = scalings.angle(self.process, t, unit) - scalings.angle(self.process, to, unit)
        else:
            gap = own(self.process, t, to)
        if self.ends == 1:
            return gap[:, None]
        _, guidance = without_guidance(cond)
        if guidance is None:
            guidance = torch.tensor(UNGUIDED[: self.ends - 1]).expand(len(t), -1)
        return torch.cat([gap[:, None], guidance.to(gap)], 1)

    def output(
        self,
        c: Coefficients,
        x_t: Tensor,
        cond: Cond = None,
        masks: Masks | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        """F(in x_t, noise, cond), like x_t: the network's own output. Raises UserError."""
        weight = first_weight(self)
        dtype = x_t.dtype if weight is None else weight.dtype
        x = (expand(c.in_, x_t) * x_t).to(dtype)
        cond, _ = without_guidance(cond)
        # At least float32: bfloat16 would merge close times.
        fine = torch.promote_types(dtype, torch.float32)
        label = send(c.noise.to(fine), x_t.device)
        options = () if masks is None else (masks,)
        more = {} if end is None else {"end": send(end.to(fine), x_t.device)}
        compute = _COMPUTE.get()
        with torch.autocast(x_t.device.type, compute) if compute else nullcontext():
            raw = self._pass(x, label, cond, *options, **more)
        shape = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
        if shape != tuple(x_t.shape):
            raise UserError(
                f"the network gave {shape} for {tuple(x_t.shape)}: expected a tensor of the same"
                " shape"
            )
        return raw.to(x_t.dtype)

    def _pass(self, x: Tensor, label: Tensor, cond: Cond, *masks: Masks, **end: Tensor) -> Any:
        network = self.program or self.network
        split = _SPLIT.get()
        if split is None or torch.is_grad_enabled():
            return network(x, label, cond, *masks, **end)
        return in_parts(network, split, x, label, cond, *masks, **end)

    def forward(
        self,
        x_t: Tensor,
        t: Time,
        cond: Cond = None,
        masks: Masks | None = None,
        to: Time | None = None,
    ) -> Tensor:
        t = per_row(t, x_t)
        c = self.scaling(self.process, t)
        raw = self.output(c, x_t, cond, masks, self.end(t, to, cond))
        return apply_mask(expand(c.skip, x_t) * x_t + expand(c.out, x_t) * raw, cond)


def in_parts(
    network: Callable[..., Any],
    split: Split,
    x: Tensor,
    label: Tensor,
    cond: Cond,
    *masks: Masks,
    **end: Tensor,
) -> Any:
    """network(x, label, cond, *masks, **end), with the rows in parts by `split`."""

    def work(rows: range) -> Any:
        if len(rows) == len(x):
            return network(x, label, cond, *masks, **end)
        part = slice(rows.start, rows.stop)
        few = each(lambda one: one[part], cond)
        own = (one.at(torch.tensor(rows)) for one in masks)
        ends = {name: one[part] for name, one in end.items()}
        return network(x[part], label[part], few, *own, **ends)

    first, *rest = split(len(x), work)
    return torch.cat([first, *rest]) if rest else first


@dataclass(frozen=True)
class Models:
    """The networks that a method may use; `Method.needs` says which."""

    student: Denoiser
    ema: Denoiser | None = None
    teacher: Denoiser | None = None
    frozen: Denoiser | None = None
    balance: nn.Module | None = None  # a learned weight of noise levels
    encoder: nn.Module | None = None  # x0 -> mean and log deviation of its noise


@dataclass(frozen=True)
class Across:
    """A denoiser of one process asked in the times of another: the same noise level, x_t scaled.

    D'(x, t) = D(x c, t_own) with level(t_own) = level(t) and c^2 = (alpha^2 + sigma^2)(t_own) over
    that of t, which is alpha_own / alpha wherever the level is in the denoiser's range; levels
    above it count as its highest.
    """

    denoiser: Denoiser
    own: Process  # that the denoiser is made for
    caller: Process  # whose times it gets

    @property
    def ends(self) -> int:
        """As the denoiser's."""
        return abilities.ends(self.denoiser)

    def _own(self, t: Tensor) -> Tensor:
        return self.own.time_at(self.caller.level(t)).clamp(max=self.own.t_max)

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None) -> Tensor:
        t = per_row(t, x_t)
        t_own = self._own(t)
        to = None if to is None else self._own(per_row(to, x_t))
        power_own = self.own.alpha(t_own).square() + self.own.sigma(t_own).square()
        power = self.caller.alpha(t).square() + self.caller.sigma(t).square()
        return ask(self.denoiser, expand((power_own / power).sqrt(), x_t) * x_t, t_own, cond, to)


def across(denoiser: Denoiser, own: Process, caller: Process) -> Denoiser:
    """The denoiser for the times of another process; itself where they are the same."""
    return denoiser if own == caller else Across(denoiser, own, caller)


class Truncated(nn.Module):
    """D(x_t, t) of `high` where t >= t_prime, of `low` below; a row is evaluated by one of them.

    Source: TCM, arXiv 2410.14895, eq. 5.
    """

    def __init__(self, low: Denoiser, high: Denoiser, t_prime: float) -> None:
        super().__init__()
        self.low, self.high, self.t_prime = low, high, t_prime

    @property
    def ends(self) -> int:
        """As the upper network's."""
        return abilities.ends(self.high)

    def masks(self, rows: int, seeds: Sequence[int]) -> Masks | None:
        """The upper network's dropout masks, which the lower one shares."""
        draw = abilities.masks(self.high)
        return draw(rows, seeds) if draw else None

    def forward(
        self,
        x_t: Tensor,
        t: Time,
        cond: Cond = None,
        masks: Masks | None = None,
        to: Time | None = None,
    ) -> Tensor:
        t = per_row(t, x_t)
        end = None if to is None else per_row(to, x_t)
        below = t < self.t_prime
        out = on_rows(self.low, x_t, t, cond, below, torch.empty_like(x_t), masks, end)
        return on_rows(self.high, x_t, t, cond, ~below, out, masks, end)


@dataclass(frozen=True)
class Awake:
    """A denoiser that is asked in some rows, `[B]` on the host; in the others it returns x_t."""

    denoiser: Denoiser
    rows: Tensor

    @property
    def ends(self) -> int:
        """As the denoiser's."""
        return abilities.ends(self.denoiser)

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None) -> Tensor:
        end = None if to is None else per_row(to, x_t)
        return on_rows(self.denoiser, x_t, per_row(t, x_t), cond, self.rows, x_t, to=end)
