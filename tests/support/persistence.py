"""Pickles of the form that NVIDIA's networks have: a call of torch_utils.persistence, never made.

The classes here only write; nothing of NVIDIA's code is needed, and no module of that name remains.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def rebuild(meta: dict[str, Any]) -> Any:
    raise AssertionError("a persistent object was made")


rebuild.__name__ = rebuild.__qualname__ = "_reconstruct_persistent_obj"


class Persistent:
    """An object of NVIDIA's: its class by name, the source text of its module, its state."""

    def __init__(self, name: str, state: Mapping[str, Any]) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise AssertionError('the source text of a module ran')\n" * 100,
            "class_name": name,
            "state": dict(state),
        }

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return rebuild, (self.meta,)


def module(
    name: str, weights: Mapping[str, Tensor], buffers: tuple[str, ...], **options: Any
) -> Persistent:
    """A tree of modules with these weights; the outermost is of that class and has the options."""
    own: dict[str, Any] = OrderedDict()
    inside: dict[str, dict[str, Tensor]] = OrderedDict()
    for key, tensor in weights.items():
        first, _, rest = key.partition(".")
        if rest:
            inside.setdefault(first, OrderedDict())[rest] = tensor
        else:
            own[first] = tensor
    parts = {first: module("Part", rest, buffers) for first, rest in inside.items()}
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (k, nn.Parameter(v)) for k, v in own.items() if k not in buffers
        ),
        "_buffers": OrderedDict((k, v) for k, v in own.items() if k in buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(parts),
        "_init_args": (),
        "_init_kwargs": options,
    }
    return Persistent(name, state)


@contextmanager
def their_module() -> Iterator[None]:
    """Inside, pickles name torch_utils.persistence."""
    names = ("torch_utils", "torch_utils.persistence")
    fakes = [ModuleType(name) for name in names]
    fakes[1]._reconstruct_persistent_obj = rebuild  # type: ignore[attr-defined]
    place = rebuild.__module__
    rebuild.__module__ = names[1]
    sys.modules.update(zip(names, fakes, strict=True))
    try:
        yield
    finally:
        rebuild.__module__ = place
        for name in names:
            del sys.modules[name]


def dump(value: Any, how: str = "pickle") -> bytes:
    """The bytes of a file: a bare pickle, or torch.save's formats zip and old."""
    out = io.BytesIO()
    with their_module():
        if how == "pickle":
            pickle.dump(value, out)
        else:
            torch.save(value, out, _use_new_zipfile_serialization=how == "zip")
    return out.getvalue()
