"""What a sample is conditioned on: labels, a tensor, or a dict of these; how each is described and
checked.

`Kind` describes a condition in JSON's own words: None, "labels" (integers `[N]` from 0), [dtype,
shape of a row] of any other tensor, or a dict of kinds. In a dict, the key "label" holds labels and
"mask" a boolean mask that broadcasts against x0 from the left, False where a padded sample has no
element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import UserError

Kind = Any
LABELS = "labels"
DTYPES = {
    "float32": torch.float32,
    "int64": torch.int64,
    "bool": torch.bool,
}  # of conditions that are no labels
NO_LABEL = -1  # in place of a label: networks give it a zero embedding


def _path(name: str, key: str) -> str:
    """How an entry is named: only "label" and "mask" at the top have a meaning of their own."""
    return key if name == "cond" else f"{name}.{key}"


def kind_of(cond: Any, name: str = "cond") -> Kind:
    """The kind of a training split's condition."""
    if isinstance(cond, Mapping):
        return {key: kind_of(value, _path(name, key)) for key, value in cond.items()}
    if cond is None:
        return None
    if cond.ndim == 1 and is_integral(cond) and name in ("cond", "label"):
        return LABELS
    return [str(cond.dtype).removeprefix("torch."), list(cond.shape[1:])]


def is_kind(kind: Any, depth: int = 4) -> bool:
    """Whether this, out of a file, is what `kind_of` gives."""
    if isinstance(kind, dict):
        known = depth > 0 and 0 < len(kind) <= 100
        return known and all(
            part is not None and is_kind(part, depth - 1) for part in kind.values()
        )
    if kind is None or kind == LABELS:
        return True
    if not (
        isinstance(kind, list)
        and len(kind) == 2
        and isinstance(kind[0], str)
        and isinstance(kind[1], list)
    ):
        return False
    return (
        kind[0] in DTYPES
        and len(kind[1]) <= 8
        and all(type(n) is int and 0 <= n < 2**31 for n in kind[1])
    )


def has_labels(kind: Kind) -> bool:
    """Whether labels are among the conditions of that kind."""
    return kind == LABELS or (isinstance(kind, dict) and kind.get("label") == LABELS)


def tensor(name: str, value: Any) -> Tensor:
    """The value as a tensor of real numbers on the CPU. Raises UserError for anything else."""
    try:
        x = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name} of type {type(value).__name__}: expected a tensor or array of numbers"
        ) from error
    if x.is_complex():
        raise UserError(
            f"{name} of type {x.dtype}: expected real numbers, for instance"
            f" torch.view_as_real({name})"
        )
    return x


def given(cond: Any, x0: Tensor, name: str = "cond") -> Any:
    """The user's condition of the training rows x0 `[N, ...]`, checked."""
    if isinstance(cond, Mapping):
        return {
            str(k): given(v, x0, _path(name, str(k))) for k, v in cond.items() if v is not None
        } or None
    value, n = tensor(name, cond), len(x0)
    if name == "mask":
        return _mask(value, x0)
    if value.ndim == 0 or len(value) != n or not value.numel():
        raise UserError(
            f"{name} of shape {tuple(value.shape)}: expected a row for each of the {n} samples"
        )
    if name == "label" or (name == "cond" and value.ndim == 1 and not value.is_floating_point()):
        return _labels(name, value, n)
    return _plain(name, value)


def _plain(name: str, value: Tensor) -> Tensor:
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise UserError(f"{name} holds NaN or infinity: remove or repair it")
    if value.dtype == torch.bool:
        return value
    return value.long() if is_integral(value) else value.float()


def _labels(name: str, label: Tensor, n: int) -> Tensor:
    if label.shape != (n,) or not is_integral(label) or bool((label < 0).any()):
        raise UserError(
            f"{name} of shape {tuple(label.shape)} and {label.dtype}: expected {n} integer labels"
            " from 0"
        )
    if int(label.max()) >= n:
        raise UserError(
            f"{name} has label {int(label.max())} with {n} samples: number the classes 0, 1, 2, ..."
        )
    return label.long()


def _mask(mask: Tensor, x0: Tensor) -> Tensor:
    fits = 0 < mask.ndim <= x0.ndim and len(mask) == len(x0)
    fits = fits and all(m in (1, x) for m, x in zip(mask.shape, x0.shape, strict=False))
    if mask.dtype != torch.bool or not fits:
        raise UserError(
            f"mask of shape {tuple(mask.shape)} and {mask.dtype}: expected booleans whose axes are"
            f" the first of data's {tuple(x0.shape)}, each as long or 1"
        )
    if not bool(mask.any()):
        raise UserError("the mask is False everywhere: there is nothing to learn")
    return mask


def fit(
    cond: Any, kind: Kind, n: int, classes: int, *, unlabelled: bool = False, name: str = "cond"
) -> Any:
    """The condition of n samples that are to be drawn, as the generator's kind asks for it.

    One row, without the axis of samples, goes for all n. Without a condition labels take turns.
    """
    if kind == LABELS:
        return _wanted_labels(cond, n, classes, unlabelled)
    if kind is None:
        if cond is not None:
            raise UserError("this generator knows no labels: leave the condition out")
        return None
    if isinstance(kind, Mapping):
        if (
            not isinstance(cond, Mapping)
            or not cond.keys() <= kind.keys()
            or kind.keys() - cond.keys() - {"label"}
        ):
            told = sorted(cond) if isinstance(cond, Mapping) else type(cond).__name__
            hint = "on the command line --cond FILE.npz with arrays of these names"
            raise UserError(
                f"{name} = {told}: expected a dict with {', '.join(sorted(kind))} ({hint})"
            )
        return {
            k: fit(cond.get(k), kind[k], n, classes, unlabelled=unlabelled, name=_path(name, k))
            for k in kind
        }
    dtype, shape = DTYPES[kind[0]], tuple(kind[1])
    value = None if cond is None else tensor(name, cond)
    if (
        value is None
        or value.shape not in (shape, (n, *shape))
        or (dtype == torch.bool) != (value.dtype == torch.bool)
    ):
        got = "None" if value is None else f"{value.dtype} {tuple(value.shape)}"
        raise UserError(
            f"{name} is {got}: this generator needs {kind[0]} of shape {(n, *shape)}, or one row"
            " for all (--cond FILE)"
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise UserError(f"{name} holds NaN or infinity: remove or repair it")
    return value.to(dtype).expand(n, *shape)


def _wanted_labels(cond: Any, n: int, classes: int, unlabelled: bool) -> Tensor:
    if cond is None:
        return torch.arange(n) % classes
    labels = tensor("label", cond)
    least = NO_LABEL if unlabelled else 0
    known = is_integral(labels) and bool(((labels >= least) & (labels < classes)).all())
    if not known or labels.shape not in ((), (n,)):
        hint = "" if unlabelled else "; -1, no label, needs a run with label_drop above 0"
        hint = hint if is_integral(labels) and bool((labels == NO_LABEL).any()) else ""
        raise UserError(
            f"label {cond}: expected one of {least}..{classes - 1}, or {n} of them{hint}"
        )
    return labels.long().expand(n)


def examples(cond: Any, kind: Kind, n: int) -> Any:
    """n conditions to show samples of: those of the first rows in turn; None where labels take
    turns anyway.
    """
    if kind is None or kind == LABELS:
        return None
    return each(lambda rows: rows[torch.arange(n) % len(rows)], cond)


def dropped(cond: Any, drop: Tensor) -> Any:
    """The condition with -1 for the labels of the rows where `drop [B]` is True; the rest as it
    was.
    """
    if isinstance(cond, Mapping):
        return {**cond, "label": dropped(cond["label"], drop)}
    return cond.masked_fill(drop, NO_LABEL)


def each(change: Callable[[Tensor], Tensor], cond: Any) -> Any:
    """A condition with every tensor changed alike: None, a tensor, or a dict of conditions."""
    if isinstance(cond, Mapping):
        return {key: each(change, value) for key, value in cond.items()}
    return None if cond is None else change(cond)


def leaves(cond: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a condition with their names, in an order that does not depend on how it was
    written.
    """
    if isinstance(cond, Mapping):
        for key in sorted(cond):
            yield from leaves(cond[key], f"{name}.{key}" if name else key)
    elif cond is not None:
        yield name, cond


def is_integral(x: Tensor) -> bool:
    """Whether x holds integers (booleans are none)."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


# labels [B] (int64, -1 is no label) or whatever else the network takes; None is unconditional
Cond = Any


def mask_of(x: Tensor, cond: Cond) -> Tensor | None:
    """The condition's "mask" with axes like x's, True where a padded sample has an element; None
    without one.
    """
    mask = cond.get("mask") if isinstance(cond, Mapping) else None
    return None if mask is None else mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


def masked(x: Tensor, cond: Cond) -> Tensor:
    """x with 0 for whatever stands where the condition's mask has no element; x itself without a
    mask.
    """
    mask = mask_of(x, cond)
    return x if mask is None else x.masked_fill(~mask, 0)


def pick(cond: Cond, index: Tensor) -> Cond:
    """The condition's rows of that index."""
    if isinstance(cond, Mapping):
        return {key: pick(part, index) for key, part in cond.items()}
    return None if cond is None else cond[index.to(cond.device)]
