"""What is said of a step whose loss or gradient is not finite: one line that names where it was
looking.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fewstep.base.errors import NonFiniteError
from fewstep.base.world import whole
from fewstep.training.batches import Batch
from fewstep.training.precision import MOST_SKIPPED
from fewstep.training.state import State

log = logging.getLogger("fewstep")


def first_bad(state: State) -> str:
    """The first weight whose gradient is not finite."""
    gradients = ((name, p.grad) for name, p in state.trained.named_parameters())
    found = [
        name
        for name, grad in gradients
        if grad is not None and not torch.isfinite(whole(grad)).all()
    ]
    return f"first in {found[0]}" if found else "though each of its entries is finite"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of numbers among a module's inputs or outputs, and their derivatives while one is
    taken by jvp.
    """
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
def noticing(networks: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Inside, a list grows by every module that makes numbers that are not finite, in the order of
    the passes.
    """
    found: list[str] = []

    def notice(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, kwargs: Any, out: Any) -> None:
            if not _finite(out):
                came = (
                    "" if _finite(given) and _finite(kwargs) else ", which was given such numbers"
                )
                found.append(f"{name} ({type(module).__name__}){came}")

        return hook

    handles = [
        module.register_forward_hook(notice(f"{kind}.{name}" if name else kind), with_kwargs=True)
        for kind, network in networks.items()
        for name, module in network.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def first_module(state: State, again: Callable[[], object]) -> str | None:
    """The first module that makes numbers that are not finite when the step's passes are made
    `again`.
    """
    networks = state.modules()
    teacher = state.teacher.denoiser if state.teacher is not None else None
    networks |= {"teacher": teacher} if isinstance(teacher, nn.Module) else {}
    # A diagnosis that fails must not hide what it is of; but of networks in shards all ranks have
    # to fail alike.
    hidden = nullcontext() if state.sharded else suppress(Exception)
    with noticing(networks) as found, hidden:
        again()
    return found[0] if found else None


def non_finite(
    state: State, batch: Batch, loss_b: Tensor, norm: float, again: Callable[[], object]
) -> NonFiniteError:
    """The error for a step's batch and losses `[B]`, and its gradient norm; `again` makes its
    passes.
    """
    error = NonFiniteError(_told(state, batch, loss_b, norm, again))
    error.losses = loss_b
    return error


def _told(
    state: State, batch: Batch, loss_b: Tensor, norm: float, again: Callable[[], object]
) -> str:
    bad = (~torch.isfinite(loss_b)).nonzero().flatten()
    if not len(bad):
        where = first_bad(state)
        return (
            f"step {state.step}: the loss is finite, its gradient has norm {norm}, {where}; nothing"
            " was updated"
        )
    gather = state.world.gather  # which all ranks do, since all of them stop
    t, r, rows = (gather(x.cpu())[bad] for x in (*batch.times[:2], batch.rows))
    module = next(filter(None, state.world.texts(first_module(state, again) or "")), None)
    told = f", first in {module}" if module else ""
    hint = (
        "r = t leaves no gap: lower ratio_max"
        if bool((t == r).any())
        else "A lower --lr is the usual remedy"
    )
    return (
        f"step {state.step}: the loss of {len(bad)} of {len(loss_b)} rows is not finite{told}: t in"
        f" [{t.min():.4g}, {t.max():.4g}], r in [{r.min():.4g}, {r.max():.4g}], first sample"
        f" {int(rows[0])} of the training split; nothing was updated. {hint}"
    )


def overflow(state: State, loss_b: Tensor) -> None:
    """Tells that a step is skipped since its gradient overflowed float16; too many in a row are a
    NonFiniteError.
    """
    scale = state.scale
    if scale.in_a_row >= MOST_SKIPPED:
        error = NonFiniteError(
            f"step {state.step}: the gradient overflowed float16 {scale.in_a_row} steps in a row,"
            f" down to a loss scale of {scale.factor:g}, {first_bad(state)}: train in --precision"
            " bf16 or fp32, or lower --lr"
        )
        error.losses = loss_b
        raise error
    log.warning(
        "fewstep: step %d is skipped: its gradient overflowed float16 at loss scale %g",
        state.step,
        scale.factor,
    )
