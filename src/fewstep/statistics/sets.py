"""Sets of samples as anybody holds them: arrays of any kind, and what is wrong with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from fewstep.base.conditions import tensor
from fewstep.base.errors import UserError
from fewstep.base.surroundings import surroundings

P = ParamSpec("P")
R = TypeVar("R")


def of_sets(least: int = 2) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the arguments declared as `Tensor` are sets `[N, ...]` of at least so many rows.

    They may be numpy arrays or lists; `[N]` is taken as `[N, 1]`. Raises UserError for anything
    that holds no finite numbers, for too few rows and for sets of unlike samples.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        # As texts: the modules import annotations from the future.
        kinds = {name: str(p.annotation) for name, p in signature.parameters.items()}
        sets = [name for name, kind in kinds.items() if kind.startswith("Tensor")]

        @wraps(function)
        @surroundings(grad=True)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            values = signature.bind(*args, **kwargs)
            rows = {}
            for name in sets:
                value: Any = values.arguments.get(name)
                if value is None or type(value).__name__ in kinds[name].split(" | ")[1:]:
                    continue
                rows[name] = values.arguments[name] = rows_of(function.__name__, name, value, least)
            shapes = {tuple(x.shape[1:]) for x in rows.values()}
            if len(shapes) > 1:
                unlike = " and ".join(f"{name} {tuple(x.shape)}" for name, x in rows.items())
                raise UserError(f"{function.__name__} of {unlike}: expected samples of one shape")
            return function(*values.args, **values.kwargs)

        return call

    return decorate


def rows_of(function: str, name: str, value: Any, least: int) -> Tensor:
    """A set as a tensor on the CPU."""
    x = tensor(f"{function}: {name}", value)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim < 2 or len(x) < least or not x.numel():
        raise UserError(
            f"{function}: {name} of shape {tuple(x.shape)}: expected [N, ...] with at least {least}"
            " samples"
        )
    bad = (~torch.isfinite(x.flatten(1))).any(1).nonzero().flatten()
    if len(bad):
        raise UserError(
            f"{function}: {len(bad)} of {len(x)} samples of {name} hold NaN or infinity, the first"
            f" is sample {int(bad[0])}"
        )
    return x
