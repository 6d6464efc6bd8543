"""What a sample is conditioned on: labels, a tensor or a dict of these; how they are checked.

`Kind` describes a condition in JSON's own words: None, "labels" (integers `[N]` from 0), [dtype,
shape of a row] of any other tensor, or a dict of kinds. In a dict, the key "label" holds labels and
"mask" a boolean mask that broadcasts against x0 from the left, False where a padded sample has no
element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from fewstep.base.errors import UserError
from fewstep.base.mapped import file_of, writable

# Labels [B] (int64, -1 is no label), another tensor, or a dict of these; None is unconditional.
Cond = Tensor | Mapping[str, "Cond"] | None
Kind = str | list[Any] | Mapping[str, "Kind"] | None

LABELS = "labels"
# Of conditions that are no labels.
DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
# In place of a label: networks give it a zero embedding.
NO_LABEL = -1


def _path(name: str, key: str) -> str:
    """The name of an entry: only "label" and "mask" at the top have a meaning of their own."""
    return key if name == "cond" else f"{name}.{key}"


def kind_of(cond: Cond, name: str = "cond") -> Kind:
    """The kind of a training split's condition."""
    if isinstance(cond, Mapping):
        return {key: kind_of(value, _path(name, key)) for key, value in cond.items()}
    if cond is None:
        return None
    if cond.ndim == 1 and is_integral(cond) and name in ("cond", "label"):
        return LABELS
    return [str(cond.dtype).removeprefix("torch."), list(cond.shape[1:])]


def is_kind(kind: Any, depth: int = 4) -> TypeGuard[Kind]:
    """Whether a value out of a file is what `kind_of` gives."""
    if kind is None or kind == LABELS:
        return True
    if isinstance(kind, dict):
        if depth == 0 or not 0 < len(kind) <= 100:
            return False
        return all(part is not None and is_kind(part, depth - 1) for part in kind.values())
    if not isinstance(kind, list) or len(kind) != 2:
        return False
    dtype, shape = kind
    if not isinstance(dtype, str) or dtype not in DTYPES or not isinstance(shape, list):
        return False
    return len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**31 for n in shape)


def kinds(kind: Kind, name: str = "") -> Iterator[tuple[str, Kind]]:
    """The kinds of a condition's tensors with their names, as `leaves` has them."""
    if isinstance(kind, Mapping):
        for key in sorted(kind):
            yield from kinds(kind[key], f"{name}.{key}" if name else key)
    elif kind is not None:
        yield name, kind


def has_labels(kind: Kind) -> bool:
    """Whether labels are among the conditions of that kind."""
    return kind == LABELS or (isinstance(kind, Mapping) and kind.get("label") == LABELS)


def tensor(name: str, value: Any) -> Tensor:
    """The value as a tensor of real numbers on the CPU. Raises UserError for anything else."""
    if isinstance(value, np.ma.MaskedArray):
        if bool(np.ma.getmaskarray(value).any()):
            raise UserError(
                f"{name} holds masked values, the first in row"
                f" {int(np.argwhere(np.ma.getmaskarray(value))[0, 0])}: expected a value in every"
                " row: repair or remove them"
            )
        value = value.data
    if isinstance(value, Tensor) and value.dtype in UNSIGNED:
        value = value.cpu().numpy()
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        value = _as_torch_reads(name, value)
    try:
        x = torch.as_tensor(value).detach().cpu().to_dense()
        x = x.clone() if x.is_inference() else x  # else nothing could be learned from it
    except (TypeError, ValueError, RuntimeError) as error:
        reason = f" ({error})" if isinstance(value, list) else ""
        raise UserError(
            f"{name} of type {type(value).__name__}: expected a tensor or array of numbers{reason}"
        ) from error
    if x.is_complex():
        raise UserError(
            f"{name} of type {x.dtype}: expected real numbers, for instance"
            f" torch.view_as_real({name})"
        )
    return x


def _as_torch_reads(name: str, value: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order and with steps forwards, as torch wants them."""
    if value.dtype.kind in "Mm":
        raise UserError(
            f"{name} is an array of {value.dtype}: expected numbers; times become days by"
            " (array - array.min()) / np.timedelta64(1, 'D')"
        )
    if value.dtype.kind in "OSUV":
        raise UserError(
            f"{name} is an array of {value.dtype}: expected numbers; texts become 0, 1, 2, ... by"
            " np.unique(array, return_inverse=True)[1]"
        )
    value = value.astype(value.dtype.newbyteorder("="), copy=False)
    if value.dtype.kind == "f" and value.dtype.itemsize > 8:
        value = value.astype(np.float64)
    if value.dtype.kind == "u" and value.dtype.itemsize > 1:  # torch cannot compare them
        if value.size and int(value.max()) >= 2**63:
            raise UserError(f"{name} holds {value.max()}: expected whole numbers below 2^63")
        value = value.astype(np.int32 if value.dtype.itemsize == 2 else np.int64)
    if all(step >= 0 for step in value.strides):
        if value.flags.writeable:
            return value
        if file_of(value) is not None:
            with suppress(OSError):  # of a file that was removed since
                return writable(cast(np.memmap, value))
    return value.copy()


def check_condition(cond: Any, x0: Tensor, name: str = "cond") -> Cond:
    """The user's condition of the training rows x0 `[N, ...]` as tensors. Raises UserError."""
    if isinstance(cond, Mapping):
        parts = {str(key): value for key, value in cond.items() if value is not None}
        checks = {key: check_condition(part, x0, _path(name, key)) for key, part in parts.items()}
        return checks or None
    value, n = tensor(name, cond), len(x0)
    if name == "mask":
        return _check_mask(value, x0)
    if value.ndim == 0 or len(value) != n or not value.numel():
        raise UserError(
            f"{name} of shape {tuple(value.shape)}: expected a row for each of the {n} samples"
        )
    if name == "label" or (name == "cond" and value.ndim == 1 and not value.is_floating_point()):
        return _check_labels(name, value, n)
    _check_finite(name, value)
    if value.dtype == torch.bool:
        return value
    return value.long() if is_integral(value) else value.float()


def _check_finite(name: str, value: Tensor) -> None:
    parts = value.split(2**16) if value.is_floating_point() and value.ndim else [value]
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise UserError(f"{name} holds NaN or infinity: remove or repair it")


def _check_labels(name: str, label: Tensor, n: int) -> Tensor:
    if label.shape == (n,) and is_integral(label) and bool((label < 0).any()):
        raise UserError(
            f"{name} has label {int(label.min())}: expected integers from 0: number the classes 0,"
            " 1, 2, ..."
        )
    if label.shape != (n,) or not is_integral(label):
        raise UserError(
            f"{name} of shape {tuple(label.shape)} and {label.dtype}: expected {n} integer labels"
            f" from 0{label_hint(name, label)}"
        )
    if int(label.max()) >= n:
        raise UserError(
            f"{name} has label {int(label.max())} with {n} samples: number the classes 0, 1, 2, ..."
        )
    return label.long()


def label_hint(name: str, label: Tensor) -> str:
    """How rows that look like labels become labels `[N]`; nothing where they do not."""
    if label.dtype == torch.bool:
        return f", such as 1 * {name}"
    if label.ndim != 2:
        return ""
    if label.shape[1] == 1:
        return f", such as {name}[:, 0]"
    is_one_hot = bool((((label == 0) | (label == 1)).all(1) & (label.sum(1) == 1)).all())
    return f", such as {name}.argmax(1) of these one-hot rows" if is_one_hot else ""


def _check_mask(mask: Tensor, x0: Tensor) -> Tensor:
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
    cond: Any,
    kind: Kind,
    n: int,
    classes: int,
    *,
    occurring: Sequence[int] = (),
    allow_no_label: bool = False,
    name: str = "cond",
) -> Cond:
    """The condition of n samples that are to be drawn, as the generator's kind asks for it.

    One row, without the axis of samples, goes for all n. Without a condition labels take turns.
    occurring: the labels that occur, where some never do.
    """
    if kind is None:
        if cond is not None:
            raise UserError("this generator knows no labels: leave the condition out")
        return None
    if isinstance(kind, str):
        return _fit_labels(cond, n, classes, occurring, allow_no_label)
    if isinstance(kind, Mapping):
        cond = _sole_part(cond, kind)
        _check_keys(cond, kind, name)
        return {
            key: fit(
                cond.get(key),
                part,
                n,
                classes,
                occurring=occurring,
                allow_no_label=allow_no_label,
                name=_path(name, key),
            )
            for key, part in kind.items()
        }
    return _fit_rows(cond, kind, n, name)


def _sole_part(cond: Any, kind: Mapping[str, Kind]) -> Any:
    """The condition as a dict: a number is the label, an array the one part beside it."""
    others = kind.keys() - {"label"}
    if isinstance(cond, int) and "label" in kind:
        return {"label": cond}
    if cond is None or isinstance(cond, Mapping) or len(others) != 1 or "mask" in others:
        return cond
    return {others.pop(): cond}


def _check_keys(cond: Any, kind: Mapping[str, Kind], name: str) -> None:
    """Refuses what has not the entries of that kind; "label" may be left out."""
    keys = cond.keys() if isinstance(cond, Mapping) else set()
    if isinstance(cond, Mapping) and keys <= kind.keys() <= keys | {"label"}:
        return
    value = sorted(cond) if isinstance(cond, Mapping) else type(cond).__name__
    raise UserError(
        f"{name} = {value}: expected a dict with {', '.join(sorted(kind))} (on the command line"
        " --cond FILE.npz with arrays of these names)"
    )


def _fit_rows(cond: Any, kind: list[Any], n: int, name: str) -> Tensor:
    """n rows of a tensor that is no label."""
    dtype, shape = DTYPES[kind[0]], tuple(kind[1])
    value = None if cond is None else tensor(name, cond)
    _check_row(name, value, shape, n)
    if (
        value is None
        or value.shape not in (shape, (1, *shape), (n, *shape))
        or (dtype == torch.bool) != (value.dtype == torch.bool)
    ):
        value_text = "None" if value is None else f"{value.dtype} {tuple(value.shape)}"
        raise UserError(
            f"{name} is {value_text}: this generator needs {kind[0]} of shape {(n, *shape)}, or"
            " one row for all (--cond FILE)"
        )
    _check_finite(name, value)
    return value.to(dtype).expand(n, *shape)


def _check_row(name: str, value: Tensor | None, shape: tuple[int, ...], n: int) -> None:
    """Raises UserError for rows of another size, or for as many as there are no samples."""
    if value is None or value.shape == shape or value.ndim != 1 + len(shape):
        return
    own = tuple(value.shape[1:])
    if own != shape and len(shape) == 1:
        raise UserError(f"{name} has {own[0]} numbers a row, expected {shape[0]}")
    if own != shape:
        raise UserError(f"{name} has rows of shape {own}, expected {shape}")
    if not len(value):
        raise UserError(f"{name} has no rows, expected {n}, or one for all")
    if len(value) not in (1, n):
        raise UserError(
            f"{name} has {len(value)} rows for {n} samples: expected as many (--n {len(value)}), or"
            " one row for all"
        )


def count_rows(cond: Any, kind: Kind) -> int | None:
    """How many samples a condition of that kind is for; None where it goes for any number."""
    if isinstance(kind, Mapping):
        parts = cond if isinstance(cond, Mapping) else _sole_part(cond, kind)
        if not isinstance(parts, Mapping):
            return None
        counts = {count_rows(part, kind.get(str(key))) for key, part in parts.items()} - {None}
        return counts.pop() if len(counts) == 1 else None
    axes = 0 if isinstance(kind, str) else len(kind[1]) if kind else -1
    if cond is None or axes < 0 or np.ndim(cond) != axes + 1 or len(cond) < 2:
        return None
    return len(cond)


def _fit_labels(
    cond: Any, n: int, classes: int, occurring: Sequence[int], allow_no_label: bool
) -> Tensor:
    """n labels, one for all of them, or in turn those that occur."""
    turn = torch.tensor(occurring) if occurring else torch.arange(classes)
    if cond is None:
        return turn[torch.arange(n) % len(turn)]
    labels = tensor("label", cond)
    least = NO_LABEL if allow_no_label else 0
    is_known = is_integral(labels) and bool(
        (torch.isin(labels, turn) | (allow_no_label & (labels == NO_LABEL))).all()
    )
    if not is_known or labels.shape not in ((), (1,), (n,)):
        hint = ""
        if not allow_no_label and is_integral(labels) and bool((labels == NO_LABEL).any()):
            hint = "; -1, no label, needs a run with label_drop above 0"
        names = f"{least}..{classes - 1}"
        if occurring:
            names = ", ".join(map(str, occurring[:12])) + (", ..." if len(occurring) > 12 else "")
            hint = f", the labels that occur in the data{hint}"
        raise UserError(f"label {cond}: expected one of {names}, or {n} of them{hint}")
    return labels.long().expand(n)


def examples(cond: Cond, kind: Kind, n: int) -> Cond:
    """n conditions for pictures: the first rows in turn; None where labels take turns anyway."""
    if kind is None or kind == LABELS:
        return None
    return each(lambda rows: rows[torch.arange(n) % len(rows)], cond)


def drop_labels(cond: Cond, drop: Tensor) -> Cond:
    """The condition with -1 for the labels where `drop [B]` is True; the rest is unchanged."""
    if isinstance(cond, Mapping):
        return {**cond, "label": drop_labels(cond["label"], drop)}
    assert cond is not None
    return cond.masked_fill(drop, NO_LABEL)


def each(change: Callable[[Tensor], Tensor], cond: Cond) -> Cond:
    """A condition with every tensor changed alike: None, a tensor, or a dict of conditions."""
    if isinstance(cond, Mapping):
        return {key: each(change, value) for key, value in cond.items()}
    return None if cond is None else change(cond)


def leaves(cond: Cond, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a condition with their names, in the order of the names."""
    if isinstance(cond, Mapping):
        for key in sorted(cond):
            yield from leaves(cond[key], f"{name}.{key}" if name else key)
    elif cond is not None:
        yield name, cond


def is_integral(x: Tensor) -> bool:
    """Whether x holds integers (booleans are none)."""
    kind = x.dtype
    return not (kind.is_floating_point or kind.is_complex or kind == torch.bool)


def mask_of(x: Tensor, cond: Cond) -> Tensor | None:
    """The condition's "mask" with axes like x's, False where a padded sample has no element."""
    mask = cond.get("mask") if isinstance(cond, Mapping) else None
    if not isinstance(mask, Tensor):
        return None
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


def apply_mask(x: Tensor, cond: Cond) -> Tensor:
    """x with 0 where the condition's mask has no element; x itself without a mask."""
    mask = mask_of(x, cond)
    return x if mask is None else x.masked_fill(~mask, 0)


def pick(cond: Cond, index: Tensor) -> Cond:
    """The condition's rows of that index."""
    return each(lambda rows: rows[index.to(rows.device)], cond)
