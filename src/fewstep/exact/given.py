"""What the laws of this room are asked with: labels and times, checked before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError
from fewstep.core.process import Process, Time, per_row

# below 0 by no more than this, alpha and sigma are 0 at an end of the process, in float32 times too
_ROUNDED = 1e-6


def checked_labels(cond: Cond, classes: int, x_t: Tensor) -> Tensor | None:
    """Labels `[B]` or None; -1 is no label. Raises UserError on anything else."""
    if cond is None:
        return None
    if not isinstance(cond, Tensor) or cond.shape != x_t.shape[:1]:
        raise UserError(
            f"cond {getattr(cond, 'shape', cond)}: expected a label for each of the {len(x_t)} rows"
        )
    if bool((cond != cond.round()).any()) if cond.is_floating_point() else cond.dtype == torch.bool:
        raise UserError(f"cond of {cond.dtype}: expected labels, integers")
    if len(cond) and (int(cond.min()) < -1 or int(cond.max()) >= classes):
        known = (
            f"0..{classes - 1}, or -1 for none" if classes else "-1 only, this law has no classes"
        )
        raise UserError(f"cond has labels {int(cond.min())}..{int(cond.max())}: expected {known}")
    return cond


def coefficients(process: Process, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma `[B]` on the host. Raises UserError for times that are not on the process."""
    times = per_row(t, x)
    alpha, sigma = process.alpha(times), process.sigma(times)
    known = (
        (alpha > -_ROUNDED) & (sigma > -_ROUNDED) & torch.isfinite(alpha) & torch.isfinite(sigma)
    )
    if not bool(known.all()):
        wrong = float(times.detach()[~known][0])
        raise UserError(
            f"t = {wrong:g}: expected times of the process, from 0, where alpha and sigma are at"
            " least 0"
        )
    return alpha, sigma
