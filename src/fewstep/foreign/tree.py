"""What a foreign file holds: plain values, tensors, and the names of what was not called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import StorageError
from fewstep.base.tensor_file import DTYPES

PERSISTENT = "persistence._reconstruct_persistent_obj"  # of NVIDIA's networks

TORCH_DTYPES = {f"{dtype}": dtype for dtype in DTYPES.values()}


@dataclass(frozen=True, eq=False, repr=False)
class Instance:
    """What a call of a class or function would have made: neither was imported or called."""

    class_name: str
    state: Any = None
    args: tuple[Any, ...] = ()
    items: dict[Any, Any] = field(default_factory=dict)  # of what is a dictionary
    elements: tuple[Any, ...] = ()  # of what is a list

    def __repr__(self) -> str:
        return f"Instance({self.class_name[:100]!r})"  # its values may be shared a million times


@dataclass(frozen=True)
class Name:
    """A class or function by its name."""

    name: str


@dataclass(frozen=True, repr=False)
class Tree:
    """The values of a file."""

    path: str
    form: str  # pickle, torch zip, torch before 1.6, safetensors
    root: Any
    names: tuple[str, ...] = ()  # of every class and function that the file asks for

    def __repr__(self) -> str:
        return f"Tree({self.path!r}, {self.form})"


def entries(value: Any) -> Mapping[Any, Any]:
    """What stands under names in a value: of a dictionary, or of a class that is or holds one."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Instance):
        return {}
    state = value.state if isinstance(value.state, dict) else {}
    return {**state, **value.items}


def build(about: Any, storages: Mapping[str, Tensor], where: str) -> Any:
    """The root of the nodes that the reader wrote. Raises StorageError for anything else.

    Each node refers to those before it, so nothing here recurses.
    """
    values: list[Any] = []

    def value(code: Any) -> Any:
        return values[code[0]] if isinstance(code, list) else code

    makers: dict[str, Callable[..., Any]] = {
        "int": lambda text: int(text, 16),
        "float": float,
        "text": str,
        "bytes": _bytes,
        "list": lambda codes: [value(code) for code in codes],
        "tuple": lambda codes: tuple(value(code) for code in codes),
        "set": lambda codes: Instance("builtins.set", args=tuple(value(code) for code in codes)),
        "dict": lambda codes: _dictionary([value(code) for code in codes]),
        "name": lambda name: TORCH_DTYPES.get(name, Name(name)),
        "tensor": lambda *view: _tensor(storages, *view),
        "instance": lambda name, state, args, items, elements: Instance(
            name,
            value(state),
            tuple(value(code) for code in args),
            _dictionary([value(code) for code in items]),
            tuple(value(code) for code in elements),
        ),
    }
    try:
        for kind, *content in about["nodes"]:
            values.append(makers[kind](*content))
        return value(about["root"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{where} is damaged: its values make no sense ({error!r})") from error


def _bytes(length: int, head: str) -> Any:
    """Bytes, or of many the first ones and how many there are."""
    content = bytes.fromhex(head)
    return content if len(content) == length else Instance("builtins.bytes", args=(length, content))


def _dictionary(values: list[Any]) -> dict[Any, Any]:
    keys = (_key(key) for key in values[::2])
    return dict(zip(keys, values[1::2], strict=True))


def _key(value: Any) -> Any:
    """A key whose hash a file cannot choose: numbers collide a few times, tuples without bounds."""
    if value is None or isinstance(value, str | bytes | bool | float | Instance | Name):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**64 else hex(value)
    return Instance(f"builtins.{type(value).__name__}", args=(value,))


def _tensor(
    storages: Mapping[str, Tensor],
    number: int,
    dtype: str,
    offset: int,
    size: list[int],
    stride: list[int],
) -> Tensor:
    """A view of a storage; torch itself refuses one that reaches beyond it."""
    storage = storages[str(number)]
    kind = DTYPES[dtype]
    if kind == torch.bool:
        storage = storage.view(torch.uint8) != 0
    elif storage.dtype != kind:
        storage = storage.view(kind)
    view = storage.as_strided(size, stride, offset)
    if view.numel() > storage.numel():
        raise ValueError("a tensor has more elements than its storage")
    return view


def tensors_in(value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that stand under texts in a mapping, in order."""
    for name, one in entries(value).items():
        if isinstance(name, str) and isinstance(one, Tensor):
            yield name, one
