"""Latents of an autoencoder, drawn from their moments: x = mean + std noise.

A sample `[2 C, ...]` holds the C means before the C deviations:

| law | the second half |
|---|---|
| `mean-std` | std, as the zips of EDM2's `dataset_tool.py encode` |
| `mean-logvar` | log std^2, cut to [-30, 20], as diffusers' `DiagonalGaussianDistribution` |

A training step takes noise of its own, by the sample's number in the run; where the data are looked
at as a whole, and held out, the noise is the row's own, so that a row is always the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from fewstep.base.errors import UserError, require
from fewstep.base.randomness import normal

log = logging.getLogger("fewstep")

Law = Literal["", "mean-std", "mean-logvar"]
LAWS = get_args(Law)[1:]
LOWEST, HIGHEST = -30.0, 20.0  # of log std^2
SEED = 20240611  # of the rows' own noise, which is the same in every run


def latent_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a latent whose moments have that shape."""
    return (shape[0] // 2, *shape[1:])


def draw(moments: Tensor, law: Law, noise: Tensor) -> Tensor:
    """Latents `[B, C, ...]` of moments `[B, 2 C, ...]`, float32."""
    mean, second = moments.float().chunk(2, 1)
    std = second if law == "mean-std" else torch.exp(0.5 * second.clamp(LOWEST, HIGHEST))
    return mean + std * noise


def row_noise(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Unit noise `[B, *shape]` that each row of a data set has for itself."""
    parts = [normal(SEED, "latents", row, 1, shape, 1) for row in rows.tolist()]
    return torch.cat(parts) if parts else torch.empty((0, *shape))


def check_moments(name: str, law: str, x: Tensor, mask: Tensor | None) -> None:
    """Raises UserError where arrays `[N, ...]` cannot hold moments of latents.

    mask: with axes like x's, whose channels are there or not together.
    """
    require(law in LAWS, "latents", law, " or ".join(LAWS))
    need = f"none, since {name} has a mask for each channel: expected one for all, [N, 1, ...]"
    require(mask is None or mask.shape[1] == 1, "latents", law, need)
    fine = x.ndim > 2 and x.shape[1] % 2 == 0 and x.is_floating_point()
    if not fine:
        kind = str(x.dtype).removeprefix("torch.")
        raise UserError(
            f"latents = {law}: data {name} hold {kind} of shape {tuple(x.shape)}: expected floats"
            " [N, 2 C, ...], C means before C deviations or log-variances"
        )


def check_deviations(name: str, law: str, blocks: Iterator[Tensor]) -> bool:
    """True; raises UserError for the first sample with a deviation below 0.

    Log-variances of which none is below 0 are a warning: they look like deviations.
    """
    rows, lowest = 0, math.inf
    for block in blocks:
        low = block[:, block.shape[1] // 2 :].flatten(1).min(1)[0]
        lowest = min(lowest, float(low.min()))
        wrong = (low < 0).nonzero().flatten()
        if len(wrong) and law == "mean-std":
            raise UserError(
                f"data {name!r}: sample {rows + int(wrong[0])} has a deviation of"
                f" {float(low[wrong[0]]):.3g}, below 0: are these log-variances?"
                " --latents mean-logvar"
            )
        rows += len(block)
    if law == "mean-logvar" and lowest >= 0:
        message = "fewstep: data %s: no log-variance is below 0: are they deviations, mean-std?"
        log.warning(message, name)
    return True
