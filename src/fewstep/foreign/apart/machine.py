"""A pickle machine that builds records instead of objects.

Python's own Unpickler calls what a file names, and even a subclass of it hands its opcodes real
lists, dictionaries and methods: REDUCE calls, BUILD sets attributes, keys are hashed, numbers of
any length are converted. Here each opcode is a few lines that append to lists of this file's own
classes. There is nothing to call, so nothing can be called. Time and memory are linear in the file:
no opcode is repeated, long bytes stay in the file, and a memo refers to what is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .values import Buffer, Group, Name, Pairs, Record, Refusal, Span

MOST_LINE = 1 << 20  # bytes of a line of protocol 0
MOST_NAME = 1000  # characters of a module or a class

# Modules that changed their names; the records have the new ones.
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core": "numpy.core"}


class Machine:
    """The stack, marks and memo of one pickle in a buffer, from `position` on."""

    def __init__(
        self, data: Buffer, start: int, stop: int, persistent: Callable[[Any], Any], names: set[str]
    ) -> None:
        self.data = data
        self.position = start
        self.stop = stop
        self.persistent = persistent
        self.names = names  # every class and function that is named
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    # Bytes.

    def skip(self, count: int) -> int:
        """The position of the next bytes, and past them."""
        start = self.position
        if count < 0 or count > self.stop - start:
            raise Refusal("damaged", f"it declares {count} bytes and has {self.stop - start}")
        self.position = start + count
        return start

    def number(self, size: int, is_signed: bool = False) -> int:
        start = self.skip(size)
        return int.from_bytes(self.data[start : start + size], "little", signed=is_signed)

    def span(self, size: int) -> Span:
        start = self.skip(self.number(size))
        return Span(self.data, start, self.position)

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position, min(self.stop, self.position + MOST_LINE))
        if end < 0:
            raise Refusal("damaged", f"a line at byte {self.position} has no end")
        start = self.position
        self.position = end + 1
        return bytes(self.data[start:end])

    # The stack.

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError
        return self.stack.pop()

    def top(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def pairs(self, values: list[Any]) -> list[tuple[Any, Any]]:
        if len(values) % 2:
            raise Refusal("damaged", "a dictionary has a key without a value")
        return list(zip(values[::2], values[1::2], strict=True))

    # What calls would be.

    def name(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refusal("damaged", "it names a class by something that is no text")
        if len(module) + len(name) > MOST_NAME:
            raise Refusal("damaged", f"it names a class with {len(module) + len(name)} characters")
        for old, new in RENAMED.items():
            if module == old or module.startswith(f"{old}."):
                module = new + module[len(old) :]
        full = f"{module}.{name}"
        self.names.add(full)
        return Name(full)

    def record(self, function: Any, args: Any) -> Record:
        name = function.name if isinstance(function, Name | Record) else type(function).__name__
        return Record(name if isinstance(function, Name) else f"a call of {name}", args)

    def append(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Record | Group):
            target.elements.extend(values)
        else:
            raise Refusal("damaged", "it appends to something that is no list")

    def put(self, target: Any, values: list[Any]) -> None:
        if not isinstance(target, Pairs | Record):
            raise Refusal("damaged", "it puts items into something that is no dictionary")
        target.items.extend(self.pairs(values))
