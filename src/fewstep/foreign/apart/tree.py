"""A value of the machine as a table of nodes for JSON, and the storages that its tensors share.

A JSON scalar is itself; `[i]` is node i, which always stands before. Values that are shared in the
file are shared nodes, so that the table is as long as the pickle and not as its unfolded tree.
"""

from __future__ import annotations

import math
from typing import Any

from .container import SIZES, Budget, load
from .tensors import (
    DTYPES,
    NUMPY,
    REBUILD,
    View,
    array_of,
    bytes_of,
    check_view,
    scalar_of,
    tensor_of,
)
from .values import Group, Name, Pairs, Record, Refusal, Span, Storage, Text

DEEPEST = 100  # values in values
MOST_NODES = 400_000
MOST_ELEMENTS = 100_000  # of a list; of a longer one the length is kept
MOST_TEXT = 4000  # characters that are kept
MOST_BYTES = 64

DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
DICTIONARIES |= {"builtins.dict"}
SEQUENCES = {"builtins.set": "set", "builtins.frozenset": "set", "torch.Size": "tuple"}
BYTES = {"torch.storage._load_from_bytes", "_codecs.encode", "builtins.bytearray"}
SAME_AS_FIRST = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}


class Table:
    """Collects nodes and storages."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.nodes: list[list[Any]] = []
        self.storages: list[Storage] = []
        self.numbers: dict[int, int] = {}  # of storages, by their id
        self.places: dict[int, Any] = {}  # of nodes, by the id of the value; None while inside it
        self.files: dict[tuple[int, int], Storage] = {}  # tensors' bytes in a bare pickle
        self.size = 0
        self.alive: list[Any] = []  # what was made here, so that ids stay theirs

    # Nodes.

    def node(self, *content: Any) -> list[int]:
        if len(self.nodes) >= MOST_NODES:
            raise Refusal("limit", f"it holds more than {MOST_NODES} values")
        self.nodes.append(list(content))
        return [len(self.nodes) - 1]

    def value(self, value: Any, depth: int = 0) -> Any:
        """The JSON of a value. Raises Refusal."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if abs(value) < 2**63 else self.node("int", hex(value))
        if isinstance(value, float):
            return value if math.isfinite(value) else self.node("float", repr(value))
        if isinstance(value, str) and len(value) < 100:
            return value
        place = self.places.get(id(value), self)
        if place is None:
            return self.node("instance", "a cycle", None, [], [], [])
        if place is not self:
            return place
        if depth > DEEPEST:
            raise Refusal("limit", f"its values are nested more than {DEEPEST} deep")
        self.places[id(value)] = None
        place = self.places[id(value)] = self.inside(value, depth + 1)
        return place

    def inside(self, value: Any, depth: int) -> Any:
        if isinstance(value, str | Text):
            return self.text(value)
        if isinstance(value, bytes | Span):
            head = value[:MOST_BYTES] if isinstance(value, bytes) else value.content(MOST_BYTES)
            return self.node("bytes", len(value), head.hex())
        if isinstance(value, list | tuple):
            return self.sequence(type(value).__name__, list(value), depth)
        if isinstance(value, Group):
            return self.sequence("set", value.elements, depth)
        if isinstance(value, Pairs):
            return self.node("dict", self.flat(value.items, depth))
        if isinstance(value, Name):
            return self.node("name", value.name)
        if isinstance(value, Storage):
            return self.storage(value)
        return self.record(value, depth)

    def text(self, value: str | Text) -> Any:
        if isinstance(value, Text):
            value = value.span.content(4 * MOST_TEXT).decode("utf-8", "replace")
        return self.node("text", value[:MOST_TEXT])

    def sequence(self, kind: str, values: list[Any], depth: int) -> Any:
        if len(values) > MOST_ELEMENTS:
            return self.node("instance", f"builtins.{kind}", None, [len(values)], [], [])
        return self.node(kind, [self.value(value, depth) for value in values])

    def flat(self, items: list[tuple[Any, Any]], depth: int) -> list[Any]:
        return [self.value(value, depth) for pair in items for value in pair]

    # Records.

    def record(self, record: Record, depth: int) -> Any:
        args = record.args if isinstance(record.args, tuple) else (record.args,)
        name = record.name
        if name in REBUILD or name == "torch._tensor._rebuild_from_type_v2":
            return self.tensor(record, tensor_of(name, args, self.open), depth)
        if name in SAME_AS_FIRST and args:
            return self.value(args[0], depth)
        if name in NUMPY:
            return self.numpy(record, args, depth)
        if name in DICTIONARIES:
            return self.node("dict", self.flat([*first_items(args), *record.items], depth))
        if name in BYTES:
            return self.bytes(record, depth)
        if name in SEQUENCES and args and isinstance(args[0], tuple | list):
            return self.sequence(SEQUENCES[name], list(args[0]), depth)
        if name == "copyreg._reconstructor" and args and isinstance(args[0], Name):
            return self.plain(record, depth, args[0].name, args[2:])
        return self.plain(record, depth)

    def bytes(self, record: Record, depth: int) -> Any:
        """Bytes by a call: of Python 2, or of a tensor's file."""
        if record.name == "torch.storage._load_from_bytes":
            storage = self.open(record)
            return self.plain(record, depth) if storage is None else self.storage(storage)
        content = bytes_of(record)
        return self.plain(record, depth) if content is None else self.value(self.keep(content))

    def plain(
        self, record: Record, depth: int, name: str = "", args: Any = None, why: str = ""
    ) -> Any:
        """A class or function by name with what it was given."""
        arguments = record.args if args is None else args
        if not isinstance(arguments, tuple):
            arguments = (arguments,)
        values = [self.value(argument, depth) for argument in arguments]
        values += [why] if why else []
        state = self.value(record.state, depth)
        items = self.flat(record.items, depth)
        elements = [self.value(one, depth) for one in record.elements[:MOST_ELEMENTS]]
        return self.node("instance", name or record.name, state, values, items, elements)

    def keep(self, value: Any) -> Any:
        self.alive.append(value)
        return value

    # Tensors.

    def open(self, value: Any) -> Storage | None:
        """The storage behind a persistent id, or in the bytes of a file in the pickle."""
        if isinstance(value, Storage):
            return value
        is_file = isinstance(value, Record) and value.name == "torch.storage._load_from_bytes"
        if not is_file or not isinstance(value.args, tuple) or len(value.args) != 1:
            return None
        content = bytes_of(value.args[0])
        if content is None:
            return None
        place = (id(content.data), content.start) if content.data is not None else (0, 0)
        if place not in self.files:
            inner, _ = load(content, self.budget)  # a storage, so that nothing goes deeper
            if not isinstance(inner, Storage):
                raise Refusal("damaged", "the bytes of a tensor hold no storage")
            self.files[place] = inner
            self.keep(content)
        return self.files[place]

    def tensor(self, record: Record, view: View | None, depth: int) -> Any:
        why = "it is no tensor that is read" if view is None else check_view(view)
        if view is None or why:
            return self.plain(record, depth, why=why)
        number = self.number(view.storage)
        return self.node("tensor", number, view.dtype, view.offset, view.size, view.stride)

    def storage(self, storage: Storage) -> Any:
        """A bare storage: a tensor of one axis."""
        dtype = DTYPES.get(storage.kind)
        if dtype is None:
            return self.node("instance", f"torch.{storage.kind}", None, [storage.length], [], [])
        return self.node("tensor", self.number(storage), dtype, 0, [storage.length], [1])

    def number(self, storage: Storage) -> int:
        """The number of a storage; the same for all its tensors."""
        if id(storage) not in self.numbers:
            self.size += storage.length * SIZES[storage.kind]
            if self.size > self.budget.most:
                raise Refusal("limit", f"its tensors declare {self.size} bytes or more")
            self.numbers[id(storage)] = len(self.storages)
            self.storages.append(self.keep(storage))
        return self.numbers[id(storage)]

    def numpy(self, record: Record, args: tuple[Any, ...], depth: int) -> Any:
        """An array or a number of NumPy."""
        if record.name.endswith("scalar"):
            number = scalar_of(args)
            return self.plain(record, depth) if number is None else self.value(number, depth)
        view = array_of(record, args)
        if view is None:
            return self.plain(record, depth)
        return self.tensor(record, view, depth)


def first_items(args: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """The items of a dictionary that its first argument holds: pairs, or another dictionary."""
    first = args[0] if args else None
    if isinstance(first, Pairs):
        return first.items
    if not isinstance(first, list):
        return []
    pairs = (one for one in first if isinstance(one, list | tuple))
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
