"""Mixtures of Gaussians, and finite data sets as mixtures of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.core.process import Process, edm
from fewstep.exact.components import Components, FullRank, Isotropic
from fewstep.exact.lowrank import LowRank
from fewstep.exact.truth import Truth, numbers

# Eigenvalues and asymmetries of a covariance up to this share of its largest are rounding.
_NEGATIVE = 1e-6


class Mixture(Truth):
    """Data sum_k weights_k N(means_k, C_k): weights `[K]` (any positive sum), means `[K, *shape]`.

    Either `covs` `[K, d, d]`, of flattened data, symmetric and positive semidefinite, or `std`: a
    number, `[K]`, or one for every element, `[K, *shape]`; 0 makes points. With `factors`
    `[K, d, r]` beside a std above 0, a number or `[K]`, C_k = factors_k factors_k^T + std_k^2 I: a
    denoiser of K d r operations, for large d. `labels` `[K]` are the components' classes.
    """

    def __init__(
        self,
        *,
        weights: Any,
        means: Any,
        covs: Any = None,
        std: Any = None,
        factors: Any = None,
        process: Process | None = None,
        labels: Any = None,
    ) -> None:
        means = _means(means)
        weights = _weights(weights, len(means))
        if (covs is None) == (std is None):
            raise UserError("a mixture takes covs= or std=: expected one of the two")
        if factors is not None and std is None:
            raise UserError("factors= and covs=: expected std= beside factors=, and no covs=")
        centre = (weights @ means.flatten(1)).reshape(means.shape[1:])
        away = (means - centre).flatten(1)
        vectors: Tensor | None = None
        if factors is not None:
            values, vectors = _span(factors, _floors(std, len(means)), *away.shape)
            inside = values[:, :-1].sum(1) / away.shape[1] + values[:, -1]
        elif covs is not None:
            values, vectors = _axes(numbers("covs", covs), *away.shape)
            inside = values.mean(1)
        else:
            values = _variances(std, means)
            inside = values.mean(1) if values.ndim == 2 else values
        square = float(weights @ (inside + away.square().mean(1)))
        scale = square**0.5 or 1.0
        parts = (weights.log(), away / scale, values / square if square else values)
        components: Components
        if factors is not None and vectors is not None:
            components = LowRank(*parts, vectors)
        elif values.ndim == 1:
            components = Isotropic(*parts)
        else:
            components = FullRank(*parts, vectors)
        super().__init__(components, _labels(labels, weights), centre, scale, process or edm())


class Empirical(Truth):
    """Data that is one of N equally likely points, `[N, *shape]`; `labels` `[N]` are their classes.

    Where x_t is equally near to several points at vanishing noise (a tie), the truth itself jumps.
    """

    def __init__(self, data: Any, process: Process | None = None, labels: Any = None) -> None:
        points = _means(data, "data")
        centre = points.mean(0)
        away = (points - centre).flatten(1)
        scale = float(away.square().mean()) ** 0.5 or 1.0
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
        components = Isotropic(weights.log(), away / scale, torch.zeros_like(weights))
        classes = _labels(labels, weights, "data")
        super().__init__(components, classes, centre, scale, process or edm())


def _means(value: Any, name: str = "means") -> Tensor:
    means = numbers(name, value)
    if means.ndim < 2 or not means.numel():
        raise UserError(
            f"{name} of shape {tuple(means.shape)}: expected [K, ...] with at least 2 axes"
        )
    return means


def _weights(value: Any, components: int) -> Tensor:
    weights = numbers("weights", value)
    if weights.shape != (components,):
        raise UserError(
            f"weights of shape {tuple(weights.shape)}: expected one for each of the {components}"
            " means"
        )
    if bool((weights < 0).any()) or not float(weights.sum()) > 0:
        raise UserError(
            f"weights from {float(weights.min()):g}, sum {float(weights.sum()):g}: expected none"
            " below 0"
        )
    return weights / weights.sum()


def _labels(value: Any, weights: Tensor, owner: str = "means") -> Tensor | None:
    if value is None:
        return None
    labels = numbers("labels", value)
    wrong = (labels != labels.round()) | (labels < 0)
    if labels.shape != weights.shape or bool(wrong.any()):
        raise UserError(
            f"labels of shape {tuple(labels.shape)}: expected integers from 0, one for each of the"
            f" {owner}"
        )
    if not bool((torch.bincount(labels.long(), weights) > 0).all()):
        raise UserError(
            f"labels up to {int(labels.max())} leave a class out: number the classes 0, 1, 2, ..."
        )
    return labels.long()


def _variances(value: Any, means: Tensor) -> Tensor:
    """std^2 as `[K]` where the components are round, else `[K, d]`."""
    std = numbers("std", value)
    if bool((std < 0).any()):
        raise UserError(f"std down to {float(std.min()):g}: expected at least 0")
    if std.shape not in ((), means.shape[:1], means.shape):
        need = f"a number, {tuple(means.shape[:1])} or {tuple(means.shape)}"
        raise UserError(f"std of shape {tuple(std.shape)}: expected {need}")
    return std.square().flatten(1) if std.ndim > 1 else std.square().expand(len(means))


def _span(value: Any, floors: Tensor, components: int, size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues above the floor, and the floor last, `[K, r + 1]`; their vectors `[K, d, r]`."""
    factors = numbers("factors", value)
    fits = factors.ndim == 3 and factors.shape[:2] == (components, size)
    if not fits or not 0 < factors.shape[2] <= size:
        raise UserError(
            f"factors of shape {tuple(factors.shape)}: expected {(components, size)} and a rank up"
            " to d"
        )
    vectors, roots, _ = torch.linalg.svd(factors, full_matrices=False)
    return torch.cat([roots.square(), floors[:, None]], 1), vectors


def _floors(value: Any, components: int) -> Tensor:
    """std^2 `[K]` of what a component has besides its factors."""
    std = numbers("std", value)
    if std.shape not in ((), (components,)) or not bool((std > 0).all()):
        raise UserError(
            f"std of shape {tuple(std.shape)} with factors: expected a number or {(components,)},"
            " above 0"
        )
    return std.square().expand(components)


def _axes(covs: Tensor, components: int, size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues `[K, d]` and vectors `[K, d, d]`; eigenvalues that are rounding become 0."""
    if covs.shape != (components, size, size):
        raise UserError(
            f"covs of shape {tuple(covs.shape)}: expected {(components, size, size)}, of flattened"
            " data"
        )
    largest = covs.abs().amax((1, 2))
    skew = (covs - covs.mT).abs().amax((1, 2))
    values, vectors = torch.linalg.eigh((covs + covs.mT) / 2)
    for k in range(components):
        if skew[k] > _NEGATIVE * largest[k]:
            raise UserError(
                f"covs[{k}] is off symmetry by {float(skew[k]):.3g}: expected a symmetric matrix"
            )
        if values[k, 0] < -_NEGATIVE * values[k, -1].abs():
            raise UserError(
                f"covs[{k}] has the eigenvalue {float(values[k, 0]):.3g}: expected none below 0"
            )
    return torch.where(values > size * 2**-52 * values[:, -1:], values, 0.0), vectors
