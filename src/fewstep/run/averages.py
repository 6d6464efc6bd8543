"""Averages of the weights: the networks that are sampled, and those that follow from stored ones
afterwards.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def average_of(model: nn.Module) -> nn.Module:
    """A copy of the model to hold the average: no gradient, no dropout."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, rate: float) -> None:
    """average <- rate average + (1 - rate) model, in one pass over all weights; buffers are copied."""
    kept = [p.detach() for p in average.parameters()]
    torch._foreach_lerp_(kept, [p.detach() for p in model.parameters()], 1 - rate)
    for buffer, newer in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(newer)


def profile_products(
    times_a: Tensor, exponents_a: Tensor, times_b: Tensor, exponents_b: Tensor
) -> Tensor:
    """The integrals `[A, B]` of p_a p_b, where p(t) = (g + 1) t^g / T^(g + 1) on [0, T].

    (g_a + 1)(g_b + 1) (T_a / T_b)^q / ((g_a + g_b + 1) max(T_a, T_b)), q = g_b where T_a < T_b,
    else -g_a.
    Source: EDM2, arXiv 2312.02696, appendix C; exponents above -1/2, so that the integral is
    finite.
    """
    (t_a, g_a), (t_b, g_b) = (
        (t.double()[:, None], g.double()[:, None])
        for t, g in ((times_a, exponents_a), (times_b, exponents_b))
    )
    t_b, g_b = t_b.T, g_b.T
    power = torch.where(t_a < t_b, g_b, -g_a)
    return (
        (g_a + 1) * (g_b + 1) * (t_a / t_b) ** power / ((g_a + g_b + 1) * torch.maximum(t_a, t_b))
    )


def posthoc_coefficients(
    times: Tensor, exponents: Tensor, new_times: Tensor, new_exponents: Tensor
) -> Tensor:
    """How much of each stored average `[S]` makes each new one: `[S, N]` float64, columns sum to 1.

    The least-squares fit of the new profiles by the stored ones: A x = b of their products, then
    normalised.
    Source: EDM2, arXiv 2312.02696, section 3.2 and appendix C.
    """
    among = profile_products(times, exponents, times, exponents)
    found: Tensor = torch.linalg.solve(
        among, profile_products(times, exponents, new_times, new_exponents)
    )
    return found / found.sum(0)


def posthoc_error(
    times: Tensor, exponents: Tensor, time: Tensor, exponent: Tensor, coefficients: Tensor
) -> float:
    """Relative L2 distance between a new profile (time, exponent `[1]`) and its fit by coefficients
    `[S]`.
    """
    among = profile_products(times, exponents, times, exponents)
    to_new = profile_products(times, exponents, time, exponent)[:, 0]
    size = profile_products(time, exponent, time, exponent)[0, 0]
    left = size - 2 * coefficients @ to_new + coefficients @ among @ coefficients
    return float((left / size).clamp_min(0).sqrt())
