"""An exact test that truths are spread as their ensembles are, whatever depends on what.

Where truth and samples have one law given the condition, the K + 1 of a row are exchangeable: each
is the truth as likely. So the statistic of the truths is one of those that other choices of a
member in each row give, for any number of rows and any dependence between the numbers of a row.
Rows are independent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.base.randomness import generator
from fewstep.statistics.ensembles import smooth_scores

GROUPS = 16  # of numbers side by side, each with a statistic of its own
MOST = 256  # numbers of a row that are looked at, evenly spaced
CHOICES = 5000  # of a member in each row


def members(x: Tensor, y: Tensor, mask: Tensor, seed: int = 0) -> Tensor:
    """What each member of a row scores as the truth, `[R, K + 1, G, J]`; the first one is it.

    x, y, mask: ensembles `[R, K, V]`, truths `[R, V]`, and which of their numbers count. The scores
    are the polynomials of the rank (`uniformity`), sums over groups of numbers. Ties are broken by
    chance of the seed.
    """
    step = -(-x.shape[2] // MOST)
    x, y, mask = (part[..., ::step] for part in (x, y, mask))
    rows, size = len(x), x.shape[1] + 1
    order = torch.rand(rows, size, generator=generator(seed, "ties")).argsort(1)[..., None]
    deck = torch.cat([y[:, None], x], 1).take_along_dim(order, 1)
    places = order.expand_as(deck).take_along_dim(deck.argsort(dim=1, stable=True), 1)
    numbers = torch.arange(size)[:, None].expand_as(places)
    ranks = torch.empty_like(places).scatter_(1, places, numbers)
    count = min(GROUPS, mask.shape[1])
    parts = zip(ranks.tensor_split(count, 2), mask.tensor_split(count, 1), strict=True)
    basis = smooth_scores(size - 1).float()
    sums = [(basis[rank] * there[:, None, :, None]).sum(2) for rank, there in parts]
    return torch.stack(sums, 2)


def p_value(scores: Tensor) -> float:
    """P(a statistic as large | exchangeable members), of what `members` gives; exact.

    The statistic is the largest of the groups': the sum of squares of the scores' sums over the
    rows, each over its own variance. Of one group it is chi-square with J degrees of freedom where
    rows are many.
    """
    rows, size, groups, count = scores.shape
    flat = scores.double().reshape(rows, size, -1)
    flat = flat / flat.square().mean(1).sum(0).clamp_min(1e-300).sqrt()
    choices = torch.randint(size, (rows, CHOICES), generator=generator(0, "choices"))
    sums = torch.zeros(1 + CHOICES, groups * count, dtype=flat.dtype)
    for row, choice in zip(flat, choices, strict=True):
        sums[0] += row[0]
        sums[1:] += row[choice]
    statistics = sums.square().unflatten(1, (groups, count)).sum(2).amax(1)
    least = statistics[0] * (1 - 1e-9)  # of ties
    return int((statistics >= least).sum()) / (1 + CHOICES)
