"""Averages that a run did not track, reconstructed from the snapshots of those it did."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import StorageError
from fewstep.run.averages import posthoc_coefficients, posthoc_error
from fewstep.run.checkpoint import RunFolder, read
from fewstep.run.config import Run
from fewstep.run.profiles import power_exponent, profile

log = logging.getLogger("fewstep")

# relative distance of the reconstructed profile from the one asked for that is worth a warning
FAR = 0.1


def reconstruct(
    folder: RunFolder, run: Run, std: float, until: int
) -> tuple[int, dict[str, Tensor]]:
    """(step, weights) of the power average of that relative standard deviation at the last snapshot
    up to a step.

    A sum of all snapshots up to there with `posthoc_coefficients`, in float64; what is no
    floating-point number is the last snapshot's. Source: EDM2, arXiv 2312.02696, section 3.
    """
    paths = {step: path for step, path in folder.snapshots().items() if step <= until}
    if not paths:
        raise StorageError(f"{folder.path} holds no snapshot up to step {until}")
    tracked = [one for one in map(profile, run.averages) if one.kind == "power"]
    age = (
        run.age or 0
    )  # the averages' clock: before its first step they hold what the run began with
    times = torch.tensor([age + step for step in paths for _ in tracked], dtype=torch.float64)
    exponents = torch.tensor(
        [power_exponent(one.value) for _ in paths for one in tracked], dtype=torch.float64
    )
    new = times[-1:], torch.tensor([power_exponent(std)], dtype=torch.float64)
    shares = posthoc_coefficients(times, exponents, *new)[:, 0]
    if (far := posthoc_error(times, exponents, *new, shares)) > FAR:
        log.warning(
            "fewstep: what %d snapshots of %s make of power:%g is %.0f %% off: choose one nearer to them",
            len(paths), ", ".join(one.name for one in tracked), std, 100 * far,
        )  # fmt: skip
    total: dict[str, Any] = {}
    for path, part in zip(paths.values(), shares.split(len(tracked)), strict=True):
        groups = read(path).groups
        for one, share in zip(tracked, part.tolist(), strict=True):
            for name, tensor in groups[one.name].items():
                part_of_it = share * tensor.double()
                total[name] = (
                    total.get(name, 0.0) + part_of_it if tensor.is_floating_point() else tensor
                )
    last = groups[tracked[-1].name]
    return max(paths), {name: total[name].to(last[name].dtype) for name in last}
