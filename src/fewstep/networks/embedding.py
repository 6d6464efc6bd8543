"""What a network takes besides x: the noise label, labels of classes and of augmentations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from fewstep.base.errors import UserError


def labels_fit(classes: int, cond: Tensor | None) -> None:
    """A network with classes needs labels, one without takes none; each mistake is a UserError."""
    if classes and cond is None:
        need = f"labels, integers 0..{classes - 1} or -1 for none"
        raise UserError(f"this network needs {need}: got cond=None")
    if not classes and cond is not None:
        raise UserError("this network takes no labels: got cond=labels")


def features_fit(count: int, features: Tensor | None) -> None:
    """A network of `count` features needs as many, one of 0 takes none; else a UserError."""
    if not count and features is not None:
        raise UserError("this network takes no features: got some")
    if count and (features is None or features.shape[1] != count):
        given = "none" if features is None else features.shape[1]
        raise UserError(f"this network needs {count} features a sample: got {given}")


class Parts(NamedTuple):
    """A condition taken apart; each is None where there is none."""

    label: Tensor | None  # [B] int64, -1 is no label
    features: Tensor | None  # [B, F]
    mask: Tensor | None  # bool, False where a sample has no element


def parts_of(cond: Any) -> Parts:
    """Label, features and mask of a condition: a dict's own, or a tensor by its type.

    Raises UserError for a dict with anything else.
    """
    if isinstance(cond, Mapping):
        if excess := sorted(cond.keys() - set(Parts._fields)):
            takes = ", ".join(Parts._fields)
            raise UserError(f"a network takes {takes} of a condition: got {', '.join(excess)}")
        label, features, mask = (cond.get(key) for key in ("label", "features", "mask"))
    elif cond is not None and cond.is_floating_point():
        label, features, mask = None, cond, None
    else:
        label, features, mask = cond, None, None
    return Parts(label, None if features is None else features.reshape(features.shape[0], -1), mask)


def one_hot(cond: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Rows `[B, classes]` with a 1 at each label; rows of 0 for label -1.

    Raises IndexError for a label above the classes.
    """
    rows = torch.eye(classes, dtype=dtype, device=cond.device)[cond.clamp_min(0)]
    return rows * (cond >= 0)[:, None]


class Frequencies(nn.Module):
    """Its buffers stay in float32 at least: a rounded frequency is another function."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        buffers = dict(self._buffers)
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        for name, before in buffers.items():
            now = self._buffers[name]
            if before is not None and now is not None and now.dtype.itemsize < 4:
                self._buffers[name] = before.to(now.device)
        return self


class NoiseFeatures(Frequencies):
    """cos and sin of the noise label at geometrically spaced frequencies, `[B] -> [B, 2 n]`."""

    frequencies: Tensor

    def __init__(self, n: int = 16, lowest: float = 0.25, highest: float = 16.0) -> None:
        super().__init__()
        steps = torch.linspace(math.log(lowest), math.log(highest), n)
        self.register_buffer("frequencies", steps.exp(), persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        angle = label[:, None] * self.frequencies.to(label.dtype)
        return torch.cat([angle.cos(), angle.sin()], 1)


class Positional(nn.Module):
    """cos and sin of label / 10000^(i / last), i = 0 .. n/2 - 1: `[B] -> [B, n]`.

    last is n/2, or n/2 - 1 with `endpoint`, so that the lowest frequency is 1/10000 itself. The
    dtype is the label's.
    """

    def __init__(self, n: int, *, endpoint: bool = False) -> None:
        super().__init__()
        self.count = n // 2
        self.last = n // 2 - endpoint

    def forward(self, label: Tensor) -> Tensor:
        steps = torch.arange(self.count, dtype=label.dtype, device=label.device) / self.last
        angle = label[:, None] * (1 / 10000) ** steps
        return torch.cat([angle.cos(), angle.sin()], 1)


class Fourier(Frequencies):
    """cos and sin of 2 pi f label, f drawn once from N(0, scale^2): `[B] -> [B, n]`.

    The dtype is the label's.
    """

    freqs: Tensor

    def __init__(self, n: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", nn.init.normal_(torch.empty(n // 2), std=scale))

    def forward(self, label: Tensor) -> Tensor:
        angle = label[:, None] * (2 * math.pi * self.freqs).to(label.dtype)
        return torch.cat([angle.cos(), angle.sin()], 1)


class Rows(NamedTuple):
    """What a condition adds to an embedding; each is None where there is none."""

    label: Tensor | None  # [B, classes] one-hot; a row of zeros for label -1
    features: Tensor | None  # [B, F]
    augment: Tensor | None  # [B, A]; without augment labels nothing was augmented


def rows_of(cond: Any, classes: int, features: int, augment: int, dtype: torch.dtype) -> Rows:
    """The rows of a condition for a network of so many classes, features and augment labels.

    cond: as `parts_of`, and a dict may have "augment" too. Raises UserError where one does not fit.
    """
    augmentation: Tensor | None = None
    if isinstance(cond, Mapping) and augment:
        cond = dict(cond)
        augmentation = cond.pop("augment", None)
    label, given, _ = parts_of(cond)
    labels_fit(classes, label)
    features_fit(features, given)
    return Rows(
        None if label is None else one_hot(label, classes, dtype),
        None if given is None else given.to(dtype),
        None if augmentation is None else augmentation.to(dtype),
    )
