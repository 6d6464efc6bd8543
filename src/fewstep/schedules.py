"""Schedules of training as pure functions: nothing counts, so nothing can be lost."""

from __future__ import annotations

import math


def lr_factor(progress: float, warmup: float, constant: float, final: float) -> float:
    """The learning rate's factor: 0 -> 1 over the share `warmup`, 1 until `constant`, then a cosine to `final`.

    All arguments are shares of the run in [0, 1]; `final` is a factor. Constant: `constant = 1`.
    """
    if progress < warmup:
        return progress / warmup
    if progress <= constant:
        return 1.0
    swing = math.cos(math.pi * (progress - constant) / (1 - constant))
    return final + (1 - final) * (1 + swing) / 2


def ema_rate(step: int, decay: float) -> float:
    """How much of the average is kept after step 0, 1, ...: `decay`, less while the run is young.

    min(decay, (1 + step) / (10 + step)), so the first averages forget the initial weights.
    """
    return min(decay, (1 + step) / (10 + step))
