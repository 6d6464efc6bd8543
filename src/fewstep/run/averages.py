"""Averages of the weights: how they are updated, and reconstructed later from snapshots."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewstep.base.errors import StorageError
from fewstep.run.checkpoint import RunFolder, read
from fewstep.run.config import Run
from fewstep.run.profiles import power_exponent, profile

log = logging.getLogger("fewstep")

# The relative distance between the reconstructed profile and the target that is worth a warning.
FAR = 0.1


class Pair(NamedTuple):
    """The weights and buffers of an average and of its model.

    They are kept, since a walk over all modules takes longer than to move the weights.
    """

    average: list[Tensor]
    model: list[Tensor]
    buffers: list[tuple[Tensor, Tensor]]


def pair(average: nn.Module, model: nn.Module) -> Pair:
    buffers = zip(average.buffers(), model.buffers(), strict=True)
    return Pair([*average.parameters()], [*model.parameters()], [*buffers])


def average_of(model: nn.Module) -> nn.Module:
    """A copy of the model to hold the average: no gradient, no dropout."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update(pairs: Sequence[Pair], rates: Sequence[float]) -> None:
    """average <- rate average + (1 - rate) model of each pair, in one pass; buffers are copied."""
    each = zip(pairs, rates, strict=True)
    shares = [1 - rate for one, rate in each for _ in one.average]
    old = [p for one in pairs for p in one.average]
    torch._foreach_lerp_(old, [p for one in pairs for p in one.model], shares)
    for one in pairs:
        for buffer, newer in one.buffers:
            buffer.copy_(newer)


def profile_products(
    times_a: Tensor, exponents_a: Tensor, times_b: Tensor, exponents_b: Tensor
) -> Tensor:
    """The integrals `[A, B]` of p_a p_b, where p(t) = (g + 1) t^g / T^(g + 1) on [0, T].

    (g_a + 1)(g_b + 1) (T_a / T_b)^q / ((g_a + g_b + 1) max(T_a, T_b)), q = g_b where T_a < T_b,
    else -g_a. Exponents above -1/2, so that the integral is finite.
    Source: EDM2, arXiv 2312.02696, appendix C.
    """
    t_a = times_a.double()[:, None]
    g_a = exponents_a.double()[:, None]
    t_b = times_b.double()[None, :]
    g_b = exponents_b.double()[None, :]
    power = torch.where(t_a < t_b, g_b, -g_a)
    scale = (g_a + g_b + 1) * torch.maximum(t_a, t_b)
    return (g_a + 1) * (g_b + 1) * (t_a / t_b) ** power / scale


def posthoc_coefficients(
    times: Tensor, exponents: Tensor, new_times: Tensor, new_exponents: Tensor
) -> Tensor:
    """How much of each stored average `[S]` makes each new one: `[S, N]` float64, columns sum to 1.

    The least-squares fit of the new profiles by the stored ones: A x = b of their products, then
    normalised. Source: EDM2, arXiv 2312.02696, section 3.2 and appendix C.
    """
    among = profile_products(times, exponents, times, exponents)
    to_new = profile_products(times, exponents, new_times, new_exponents)
    shares: Tensor = torch.linalg.solve(among, to_new)
    return shares / shares.sum(0)


def posthoc_error(
    times: Tensor, exponents: Tensor, time: Tensor, exponent: Tensor, coefficients: Tensor
) -> float:
    """Relative L2 distance of a profile (time, exponent `[1]`) from its fit, coefficients `[S]`."""
    among = profile_products(times, exponents, times, exponents)
    to_new = profile_products(times, exponents, time, exponent)[:, 0]
    size = profile_products(time, exponent, time, exponent)[0, 0]
    rest = size - 2 * coefficients @ to_new + coefficients @ among @ coefficients
    return float((rest / size).clamp_min(0).sqrt())


def reconstruct(
    folder: RunFolder, run: Run, std: float, until: int
) -> tuple[int, dict[str, Tensor]]:
    """(step, weights) of the power average of that deviation at the last snapshot <= until.

    A sum of all snapshots up to there with `posthoc_coefficients`, in float64; what is no
    floating-point number is the last snapshot's. Raises StorageError where there is no snapshot.
    Source: EDM2, arXiv 2312.02696, section 3.
    """
    paths = {step: path for step, path in folder.snapshots().items() if step <= until}
    if not paths:
        raise StorageError(f"{folder.path} holds no snapshot up to step {until}")
    sources = [one for one in map(profile, run.averages) if one.kind == "power"]
    # The clock of the averages: before its first step they hold what the run began with.
    age = run.age or 0
    times = torch.tensor([age + step for step in paths for _ in sources], dtype=torch.float64)
    exponents = torch.tensor([power_exponent(one.value) for one in sources], dtype=torch.float64)
    exponents = exponents.repeat(len(paths))
    new = times[-1:], torch.tensor([power_exponent(std)], dtype=torch.float64)
    shares = posthoc_coefficients(times, exponents, *new)[:, 0]
    far = posthoc_error(times, exponents, *new, shares)
    if far > FAR:
        names = ", ".join(one.name for one in sources)
        log.warning(
            "fewstep: what %d snapshots of %s make of power:%g is %.0f %% off: choose one nearer to"
            " them",
            len(paths),
            names,
            std,
            100 * far,
        )
    total: dict[str, Any] = {}
    for path, of_snapshot in zip(paths.values(), shares.split(len(sources)), strict=True):
        groups = read(path).groups
        for one, share in zip(sources, of_snapshot.tolist(), strict=True):
            for name, tensor in groups[one.name].items():
                if tensor.is_floating_point():
                    total[name] = total.get(name, 0.0) + share * tensor.double()
                else:
                    total[name] = tensor
    last = groups[sources[-1].name]
    return max(paths), {name: total[name].to(last[name].dtype) for name in last}
