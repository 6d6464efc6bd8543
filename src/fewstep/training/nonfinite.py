"""The message of a step whose loss or gradient is not finite: one line that names the place."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fewstep.base.conditions import pick
from fewstep.base.errors import NonFiniteError
from fewstep.base.world import whole
from fewstep.core.rounding import compares, ratio_without, rounding
from fewstep.run.stages import Stage
from fewstep.training.batches import Batch
from fewstep.training.precision import MOST_SKIPPED, PASSES, advice
from fewstep.training.state import State

log = logging.getLogger("fewstep")

ROWS = 64  # of a batch whose rounding is looked at


def first_bad(state: State) -> str:
    """The first weight whose gradient is not finite."""
    # Every weight is looked at, so that ranks with shards gather the same ones.
    bad = [
        name
        for name, p in state.trainable.named_parameters()
        if p.grad is not None and not torch.isfinite(whole(p.grad)).all()
    ]
    return f"first in {bad[0]}" if bad else "though each of its entries is finite"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a module's inputs or outputs, and their tangents under jvp."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield from (part for part in forward_ad.unpack_dual(value) if part is not None)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in _tensors(value))


@contextmanager
def watch_modules(networks: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Inside, a list gets every module whose output is not finite, in the order of the passes."""
    names: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if _finite(out):
                return
            fine = _finite(args) and _finite(kwargs)
            cause = "" if fine else ", which was given such numbers"
            names.append(f"{name} ({type(module).__name__}){cause}")

        return hook

    handles = []
    for kind, network in networks.items():
        for inner, module in network.named_modules():
            hook = watch(f"{kind}.{inner}" if inner else kind)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def first_module(state: State, again: Callable[[], object]) -> str | None:
    """The first module whose output is not finite when `again` repeats the step's passes."""
    networks = state.modules()
    teacher = None if state.teacher is None else state.teacher.denoiser
    if isinstance(teacher, nn.Module):
        networks["teacher"] = teacher
    # An error in this search must not hide the first one; but with networks in shards all ranks
    # have to fail alike.
    quiet = nullcontext() if state.is_sharded else suppress(Exception)
    with watch_modules(networks) as names, quiet:
        again()
    return names[0] if names else None


def bf16_ratio(stage: Stage, state: State, batch: Batch) -> float:
    """What bf16 rounds of D_t - D_r in a part of a batch; infinite where that is not known."""
    rows = ((batch.times.r > batch.times.a) & (batch.times.r < batch.times.t)).nonzero().flatten()
    rows = rows[:ROWS]
    if not compares(stage.method):
        return ratio_without(stage.method)
    if state.is_sharded or not len(rows):
        return math.inf
    here = rows.to(batch.x0.device)
    times = batch.times._replace(**{name: getattr(batch.times, name)[rows] for name in "trawu"})
    parts = rounding(
        state.student,
        stage.method.process,
        batch.x0[here],
        batch.z[here],
        times,
        pick(batch.cond, here),
        [torch.bfloat16],
    )
    return parts.ratios()[0]


def _precision(stage: Stage, state: State, batch: Batch) -> str:
    """The advice on a run's low precision as the end of a sentence; "" in fp32 and tf32."""
    precision = stage.run.precision
    if PASSES[precision] is None:
        return ""
    return f", and {advice(precision, bf16_ratio(stage, state, batch))}"


def non_finite(
    stage: Stage,
    state: State,
    batch: Batch,
    loss_b: Tensor,
    norm: float,
    again: Callable[[], object],
) -> NonFiniteError:
    """The error for a step's batch, losses `[B]` and gradient norm; `again` repeats its passes."""
    message = _message(state, batch, loss_b, norm, again)
    error = NonFiniteError(f"{message}{_precision(stage, state, batch)}")
    error.losses = loss_b
    return error


def _message(
    state: State, batch: Batch, loss_b: Tensor, norm: float, again: Callable[[], object]
) -> str:
    bad = (~torch.isfinite(loss_b)).nonzero().flatten()
    if not len(bad):
        return (
            f"step {state.step}: the loss is finite, its gradient has norm {norm},"
            f" {first_bad(state)}; nothing was updated"
        )
    # All ranks gather, since all of them stop.
    gather = state.world.gather
    t, r, rows = (gather(x.cpu())[bad] for x in (*batch.times[:2], batch.rows))
    modules = state.world.texts(first_module(state, again) or "")
    module = next(filter(None, modules), None)
    place = f", first in {module}" if module else ""
    hint = "A lower --lr is the usual remedy"
    if bool((t == r).any()):
        hint = "r = t leaves no gap: lower ratio_max"
    return (
        f"step {state.step}: the loss of {len(bad)} of {len(loss_b)} rows is not finite{place}:"
        f" t in [{t.min():.4g}, {t.max():.4g}], r in [{r.min():.4g}, {r.max():.4g}], first sample"
        f" {int(rows[0])} of the training split; nothing was updated. {hint}"
    )


def overflow(stage: Stage, state: State, batch: Batch, loss_b: Tensor) -> None:
    """Warns that a step is skipped since its gradient overflowed float16.

    Raises NonFiniteError after MOST_SKIPPED of them in a row.
    """
    scale = state.scale
    if scale.in_a_row >= MOST_SKIPPED:
        error = NonFiniteError(
            f"step {state.step}: the gradient overflowed float16 {scale.in_a_row} steps in a row,"
            f" down to a loss scale of {scale.factor:g}, {first_bad(state)}: lower --lr"
            f"{_precision(stage, state, batch)}"
        )
        error.losses = loss_b
        raise error
    log.warning(
        "fewstep: step %d is skipped: its gradient overflowed float16 at loss scale %g",
        state.step,
        scale.factor,
    )
