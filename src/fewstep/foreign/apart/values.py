"""What the machine leaves of a pickle: values, and records of what it asked for.

Standard library alone, like every file beside it: they run in a process of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Buffer = Any  # bytes, or a memory map of the file: both can be indexed, sliced and searched


class Refusal(Exception):
    """Why a file is not read: (kind, text). Kinds: damaged, foreign, limit."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Span:
    """Bytes of a buffer that nobody has copied."""

    __slots__ = ("data", "start", "stop")

    def __init__(self, data: Buffer, start: int, stop: int) -> None:
        self.data = data
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def content(self, most: int | None = None) -> bytes:
        """Its first bytes, or all."""
        stop = self.stop if most is None else min(self.stop, self.start + most)
        return bytes(self.data[self.start : stop])


class Text:
    """A long text, in UTF-8."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        self.span = span


class Pairs:
    """A dictionary: its keys are not hashed here, since a file can choose keys that collide."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[Any, Any]] = []

    def get(self, name: str) -> Any:
        """The last value of a text key; None without."""
        return next((value for key, value in reversed(self.items) if key == name), None)


class Group:
    """A set or a frozen set."""

    __slots__ = ("elements",)

    def __init__(self, elements: list[Any]) -> None:
        self.elements = elements


class Name:
    """A class or function that the file names: never imported, never called."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Record:
    """What a call of a class or function would have made, with what was put into it later."""

    __slots__ = ("args", "elements", "items", "name", "state")

    def __init__(self, name: str, args: Any) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: list[tuple[Any, Any]] = []
        self.elements: list[Any] = []


class Storage:
    """A tensor's memory in the file: where its bytes are is asked when they are written."""

    __slots__ = ("kind", "length", "locate")

    def __init__(self, kind: str, length: int, locate: Callable[[], Span]) -> None:
        self.kind = kind  # the class in torch, such as FloatStorage
        self.length = length  # elements
        self.locate = locate
