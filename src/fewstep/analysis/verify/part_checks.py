"""Distances, spaces and averages: limits, and identities between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Table, apart, column, worst
from fewstep.analysis.verify.fixtures import data, small_network
from fewstep.analysis.verify.paper_losses import cosine
from fewstep.core import distances, spaces
from fewstep.core import process as processes
from fewstep.core.times import Times
from fewstep.run import averages, profiles

DISTANCE = Table("core.distances", 1e-12)
SPACE = Table("core.spaces", 1e-12)
AVERAGE = Table("run", 1e-12)


# Distances, by identities between them.


def by_element(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The mean over the elements of a distance of each element alone, `[B]`."""
    alone = distance(x.reshape(-1, 1), y.reshape(-1, 1))
    return alone.reshape(len(x), -1).mean(1)


@DISTANCE("huber of every element, their mean", "2411.08954, code", "ElementHuber", "direct_cm")
def element_huber() -> float:
    x, y, _ = data(3, (2, 4, 4))
    return apart(distances.ElementHuber(0.05)(x, y), by_element(distances.Huber(0.05), x, y))


@DISTANCE("mean of absolute errors", "2303.01469, sec. 6", "l1", "ct cd")
def l1() -> float:
    """The mean over the elements of each one's norm."""
    x, y, _ = data(3, (2, 4, 4))
    return apart(distances.l1(x, y), by_element(distances.l2_norm, x, y))


@SPACE("space of the anchor: DDIM's step t -> a", "2405.18407, eq. 4", "end", "mcm")
def anchor_space() -> float:
    """alpha_a x0_hat + sigma_a / sigma_t (x_t - alpha_t x0_hat)."""
    x0, x_t, _ = data(3)
    t = (0.9, 0.5, 0.4)
    a = (0.6, 0.2, 0.1)
    rows = []
    for i in range(3):
        alpha_t, sigma_t = cosine(t[i])
        alpha_a, sigma_a = cosine(a[i])
        rows.append(alpha_a * x0[i] + sigma_a / sigma_t * (x_t[i] - alpha_t * x0[i]))
    times = Times(column(*t), column(*t), column(*a), column(1, 1, 1))
    return apart(spaces.end(processes.cosine(), x_t, x0, times), torch.stack(rows))


# Averages.


@AVERAGE("EMA: n moves leave beta^n of the difference", "closed form", "averages.update")
def moving_average() -> float:
    """Towards weights that stand still."""
    model = small_network(seed=1)
    average = averages.average_of(small_network(seed=0))
    start = [p.clone() for p in average.parameters()]
    rate = 0.9
    for _ in range(7):
        averages.update([averages.pair(average, model)], [rate])
    errors = []
    for p, first, end in zip(average.parameters(), start, model.parameters(), strict=True):
        errors.append(apart(p, end.detach() + rate**7 * (first - end.detach())))
    return worst(*errors)


@AVERAGE("power EMA: step k weighs like t^g", "2312.02696, sec. 3.1", "profiles.power_rate")
def power_average() -> float:
    """Rates (1 - 1/k)^(g+1) give step k the weight (k/n)^(g+1) - ((k-1)/n)^(g+1)."""
    exponent = 6.94
    n = 50
    average = 0.0
    for k in range(n):
        rate = profiles.power_rate(k, exponent)
        average = rate * average + (1 - rate) * k
    power = exponent + 1
    truth = sum(k * (((k + 1) / n) ** power - (k / n) ** power) for k in range(n))
    return abs(average - truth)


@AVERAGE(
    "post-hoc EMA: integrals of power profiles",
    "2312.02696, app. C",
    "averages.profile_products",
    tolerance=1e-7,
)
def profile_products() -> float:
    """The integral of two power profiles' product, by the rule of many small steps."""
    (t_a, g_a), (t_b, g_b) = (3.0, 5.0), (4.0, 2.0)
    step = t_a / 200_000
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) * step
    profile_a = (g_a + 1) * t**g_a / t_a ** (g_a + 1)
    profile_b = (g_b + 1) * t**g_b / t_b ** (g_b + 1)
    truth = (profile_a * profile_b).sum().item() * step
    ours = averages.profile_products(*(column(v) for v in (t_a, g_a, t_b, g_b)))
    mirror = averages.profile_products(*(column(v) for v in (t_b, g_b, t_a, g_a)))
    return worst(abs(ours.item() - truth), abs(mirror.item() - truth))


CHECKS = [*DISTANCE.rows, *SPACE.rows, *AVERAGE.rows]
