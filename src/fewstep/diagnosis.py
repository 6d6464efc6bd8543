"""What is said of a step whose loss or gradient is not finite: one line that names where it was looking."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from fewstep.errors import NonFiniteError
from fewstep.precision import MOST_SKIPPED
from fewstep.state import State
from fewstep.times import Times

log = logging.getLogger("fewstep")


def first_bad(state: State) -> str:
    """The first weight whose gradient is not finite."""
    gradients = ((name, p.grad) for name, p in state.trained.named_parameters())
    found = [name for name, grad in gradients if grad is not None and not torch.isfinite(grad).all()]
    return f"first in {found[0]}" if found else "though each of its entries is finite"


def non_finite(state: State, rows: Tensor, times: Times, loss_b: Tensor, norm: float) -> NonFiniteError:
    """The error for a step's rows of the training split, times and losses, all `[B]`, and its gradient norm."""
    bad = (~torch.isfinite(loss_b)).nonzero().flatten()
    if not len(bad):
        where = first_bad(state)
        return NonFiniteError(
            f"step {state.step}: the loss is finite, its gradient has norm {norm}, {where}; nothing was updated"
        )
    t, r = (x.cpu()[bad] for x in times[:2])
    hint = "r = t leaves no gap: lower ratio_max" if bool((t == r).any()) else "A lower --lr is the usual remedy"
    return NonFiniteError(
        f"step {state.step}: the loss of {len(bad)} of {len(loss_b)} rows is not finite: t in [{t.min():.4g}, "
        f"{t.max():.4g}], r in [{r.min():.4g}, {r.max():.4g}], first sample {int(rows[bad[0]])} of the "
        f"training split; nothing was updated. {hint}"
    )


def overflow(state: State) -> None:
    """Tells that a step is skipped since its gradient overflowed float16; too many in a row are a NonFiniteError."""
    scale = state.scale
    if scale.in_a_row >= MOST_SKIPPED:
        raise NonFiniteError(
            f"step {state.step}: the gradient overflowed float16 {scale.in_a_row} steps in a row, down to a loss "
            f"scale of {scale.factor:g}, {first_bad(state)}: train in --precision bf16 or fp32, or lower --lr"
        )
    log.warning(
        "fewstep: step %d is skipped: its gradient overflowed float16 at loss scale %g", state.step, scale.factor
    )
