"""Data sets in memory, split once and for all; ranges and units stop here.

A `Dataset` holds what the core sees: x0 in float32, about [-1, 1]. `Units` says how to go back.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import UserError, unknown
from fewstep.randomness import generator, permutation

OWN_DATA = "tensor"  # the name of data that was given as an object
_SPLIT_SEED = 20240611  # a constant: every run and every metric sees the same splits


class Units(NamedTuple):
    """user's value = shift + scale * x0; `clip` says that x0 outside [-1, 1] does not exist (pictures)."""

    shift: float = 0.0
    scale: float = 1.0
    clip: bool = False

    def to_user(self, x0: Tensor) -> Tensor:
        """The user's values: float32, or float64 where float32 could not tell neighbours apart."""
        x = self.shift + self.scale * (x0.clamp(-1, 1) if self.clip else x0).cpu().double()
        return x if abs(self.shift) > 1e4 * self.scale else x.float()

    def to_model(self, x: Tensor) -> Tensor:
        """x0 of the user's values: the way back from `to_user`."""
        return ((x.double() - self.shift) / self.scale).float()


def each(change: Callable[[Tensor], Tensor], cond: Any) -> Any:
    """A condition with every tensor changed alike: None, a tensor, or a dict of conditions."""
    if isinstance(cond, Mapping):
        return {key: each(change, value) for key, value in cond.items()}
    return None if cond is None else change(cond)


class Arrays(NamedTuple):
    """x0 `[N, ...]` float32 and its conditions: labels `[N]` int64, or None."""

    x0: Tensor
    cond: Any = None

    def rows(self, index: Tensor) -> Arrays:
        return Arrays(self.x0[index], each(lambda part: part[index], self.cond))


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits: train on the first, choose on the second, score once on the third."""

    name: str
    train: Arrays
    validation: Arrays
    test: Arrays
    classes: int = 0
    units: Units = field(default_factory=Units)

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            check_finite(self.name, getattr(self, part).x0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.x0.shape[1:])

    def sigma_data(self) -> float:
        """Standard deviation of the training split, over all its elements, to six digits.

        Rounded, and by numpy: torch's reductions give other last bits with other numbers of threads.
        """
        return float(f"{self.train.x0.numpy().std(dtype=np.float64):.6g}")

    def fingerprint(self) -> str:
        """SHA-256 of the training split's shape, values and labels."""
        digest = hashlib.sha256(f"{tuple(self.train.x0.shape)}|{self.classes}".encode())
        for part in self.train:
            if part is not None:
                digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


def check_finite(name: str, x0: Tensor) -> None:
    """Refuses NaN and infinity, naming the first sample that holds one."""
    bad = (~torch.isfinite(x0.flatten(1))).any(1).nonzero().flatten()
    if len(bad):
        raise UserError(
            f"data {name!r}: {len(bad)} of {len(x0)} samples hold NaN or infinity, the first is sample "
            f"{int(bad[0])}: remove or repair them"
        )


def _split(name: str, everything: Arrays, sizes: tuple[int, int], classes: int, units: Units) -> Dataset:
    order = permutation(_SPLIT_SEED, f"split {name}", 0, len(everything.x0))
    held = [everything.rows(part) for part in order.split([*sizes, len(order) - sum(sizes)])]
    return Dataset(name, held[2], held[0], held[1], classes, units)


def digits() -> Dataset:
    """1797 handwritten digits, 1x8x8, 10 classes: 1197 for training, 300 and 300 held out.

    Grey levels 0..16 become [-1, 1], and samples stay there. Source: UCI "Optical Recognition of Handwritten
    Digits", through scikit-learn, which is imported here. Raises UserError where it is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits come with scikit-learn: pip install 'fewstep[digits]'") from None
    bunch = load_digits()
    x0 = torch.from_numpy(bunch.images).float().div(8).sub(1)[:, None]
    return _split("digits", Arrays(x0, torch.from_numpy(bunch.target).long()), (300, 300), 10, Units(clip=True))


def _toy(name: str, centres: Callable[[Tensor], Tensor], std: float, n: int = 24_000) -> Dataset:
    source = generator(_SPLIT_SEED, f"toy {name}")
    clean = centres(torch.rand(n, generator=source, dtype=torch.float64))
    noisy = clean + std * torch.randn(n, 2, generator=source, dtype=torch.float64)
    return _split(name, Arrays(noisy.float()), (2000, 2000), 0, Units())


def ring8() -> Dataset:
    """Eight Gaussians (std 0.04) on a circle of radius 0.7 in the plane."""

    def centres(u: Tensor) -> Tensor:
        angle = (8 * u).floor() * (math.pi / 4)
        return 0.7 * torch.stack([angle.cos(), angle.sin()], 1)

    return _toy("ring8", centres, 0.04)


def grid25() -> Dataset:
    """Twenty-five Gaussians (std 0.03) on a 5x5 grid in [-0.8, 0.8]^2."""

    def centres(u: Tensor) -> Tensor:
        cell = (25 * u).floor()
        return 0.4 * torch.stack([cell % 5, (cell / 5).floor()], 1) - 0.8

    return _toy("grid25", centres, 0.03)


def spiral() -> Dataset:
    """A spiral of one and a half turns in the plane, blurred by 0.02."""

    def centres(u: Tensor) -> Tensor:
        angle = 3 * math.pi * u.sqrt()
        return 0.9 * u.sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    return _toy("spiral", centres, 0.02)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "ring8": ring8,
    "grid25": grid25,
    "spiral": spiral,
}


def load(name: str) -> Dataset:
    """The data set of that name."""
    if name == OWN_DATA:
        raise UserError("this run has data of your own: only fs.train(run, data, ...) in Python can go on with it")
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]()


def from_tensors(data: Any) -> Dataset:
    """Your own samples, all for training: an array `[N, ...]`, or {"x0": array, "cond": labels [N]}.

    Arrays are tensors, numpy arrays or nested lists of numbers.

    They are shifted and scaled as a whole to mean 0 and standard deviation 0.5, and samples come back in
    your units. Labels are integers from 0. Raises UserError on anything that does not fit.
    """
    given = dict(data) if isinstance(data, Mapping) else {"x0": data}
    for key in given:
        if key not in ("x0", "cond"):
            raise unknown("key of data", key, ("x0", "cond"))
    if "x0" not in given:
        raise UserError('data holds no "x0": expected a tensor, or {"x0": tensor, "cond": labels}')
    x0 = _tensor("x0", given["x0"])
    cond = None if given.get("cond") is None else _tensor("cond", given["cond"])
    if x0.ndim < 2 or len(x0) < 2 or not x0.numel():
        raise UserError(f"data of shape {tuple(x0.shape)}: expected [N, ...] with at least 2 samples and 2 axes")
    if x0.is_complex():
        raise UserError(f"data of type {x0.dtype}: expected real numbers, for instance torch.view_as_real(data)")
    check_finite("tensor", x0)
    values = x0.detach().cpu().double().numpy()
    with np.errstate(over="ignore"):
        shift, scale = float(values.mean()), 2 * float(values.std())
    if not 0 < scale + abs(shift) < 1e30:
        raise UserError(f"data of mean {shift:.3g} and scale {scale:.3g}: expected at most 1e30, choose other units")
    if scale == 0:
        raise UserError(f"data is {shift} everywhere: there is nothing to learn")
    labels = None if cond is None else _labels(cond, len(x0))
    train = Arrays(torch.from_numpy((values - shift) / scale).float(), labels)
    none = train.rows(torch.arange(0))
    classes = 0 if labels is None else int(labels.max()) + 1
    return Dataset(OWN_DATA, train, none, none, classes, Units(shift, scale))


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} of type {type(value).__name__}: expected a tensor or array of numbers") from error


def is_integral(x: Tensor) -> bool:
    """Whether x holds integers (booleans are none)."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _labels(cond: Tensor, n: int) -> Tensor:
    if cond.shape != (n,) or not is_integral(cond) or bool((cond < 0).any()):
        raise UserError(f"cond of shape {tuple(cond.shape)} and {cond.dtype}: expected {n} integer labels from 0")
    if int(cond.max()) >= n:
        raise UserError(f"cond has label {int(cond.max())} with {n} samples: number the classes 0, 1, 2, ...")
    return cond.long().cpu()
