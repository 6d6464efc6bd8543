"""What class probabilities say of a set of samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.statistics.sets import of_sets

ROUNDING = 1e-3  # of a sum of probabilities: networks give them in single or half precision


@of_sets()
def classifier_score(p: Tensor) -> float:
    """exp(mean_i KL(p_i || mean_j p_j)) of class probabilities `[N, K]`: from 1 to K.

    1: all samples have the same probabilities; K: each is of one class for certain, and all classes
    come equally often. With few samples it is biased upwards, so compare only values at equal N.
    With Inception's probabilities this is the Inception Score.
    Raises UserError where rows are no probabilities.
    Source: Salimans et al. 2016 (arXiv 1606.03498), section 4.
    """
    rows = p.double()
    sums = rows.sum(1) if rows.ndim == 2 else rows.new_zeros(1)
    if bool((rows < 0).any()) or bool(((sums - 1).abs() > ROUNDING).any()):
        raise UserError(
            f"class probabilities of shape {tuple(p.shape)} from {rows.min():.3g} to"
            f" {rows.max():.3g}: expected [N, K], none below 0, with a sum of 1 in each row;"
            " give what a softmax gives, not its logits"
        )
    rows = rows / sums[:, None]
    # The mean divergence is the entropy of the mean less the mean entropy; entr(0) = 0.
    difference = torch.special.entr(rows.mean(0)).sum() - torch.special.entr(rows).sum(1).mean()
    return math.exp(max(difference.item(), 0.0))
