"""The files that hold pickles: a bare pickle, and torch.save's two formats."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

from .machine import Machine
from .members import Member, members
from .opcodes import run
from .values import Name, Pairs, Record, Refusal, Span, Storage

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save's format before 1.6
FEW = 32  # bytes in which a file that is no pickle, but reads like one, shows it
EXPECTED = "expected .pkl, .pt, .pth, .ckpt, .safetensors or a folder of diffusers"
# Bytes of an element of a storage class.
SIZES = {
    "FloatStorage": 4, "DoubleStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2,
    "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1,
    "BoolStorage": 1, "UntypedStorage": 1, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip


class Budget:
    """What all files inside the file may take together."""

    def __init__(self, most: int) -> None:
        self.most = most  # bytes that members of archives may expand to
        self.names: set[str] = set()  # of the classes and functions that they ask for

    def spend(self, size: int) -> None:
        """Raises Refusal where less is left."""
        self.most -= size
        if self.most < 0:
            raise Refusal("limit", "what it holds expands to more than its size allows")


def load(span: Span, budget: Budget) -> tuple[Any, str]:
    """(value, format) of a checkpoint's bytes. Raises Refusal."""
    first = span.content(64)
    if first[:4] == b"PK\x03\x04":
        return load_zip(span, budget), "torch zip"
    check_beginning(first)
    machine = Machine(span.data, span.start, span.stop, no_storage, budget.names)
    try:
        value = run(machine)
    except Refusal as refusal:
        # Pickles of protocols 0 and 1 begin with no mark of their own: any text may look like one.
        has_mark = first[:1] == b"\x80"
        if not has_mark and machine.position - span.start < FEW and refusal.kind != "limit":
            raise Refusal("foreign", EXPECTED) from refusal
        kind = "foreign" if refusal.kind == "damaged" and not has_mark else refusal.kind
        raise Refusal(kind, refusal.text) from refusal
    if value == MAGIC and type(value) is int:
        return load_old(span, machine.position, budget), "torch before 1.6"
    return value, "pickle"


def check_beginning(first: bytes) -> None:
    """Raises Refusal for files of other kinds that people take for checkpoints."""
    kinds = {
        b"": "it is empty",
        b"version https://git-lfs": "it is a pointer of Git LFS: fetch the file itself",
        b"<": "it is a page of the web or XML: the download did not give the file",
        b"\x93NUMPY": "it is an array of NumPy",
        b"\x1f\x8b": "it is compressed by gzip: unpack it first",
        b"\x89HDF": "it is an HDF5 file",
    }
    for beginning, text in kinds.items():
        if first.startswith(beginning) if beginning else not first:
            raise Refusal("foreign", text)


def no_storage(about: Any) -> Any:
    """Another persistent id: a class beside its source text, as old files have it, or recorded."""
    if isinstance(about, tuple) and len(about) > 1 and about[0] == "module":
        return about[1]
    return Record("a persistent id", (about,))


def declare(about: Any, locate: Callable[[str, int], Span]) -> tuple[str, Storage] | None:
    """(key, storage) of torch's persistent id; None for another."""
    if not isinstance(about, tuple) or len(about) < 5 or about[0] != "storage":
        return None
    kind, key, length = about[1], about[2], about[4]
    if not isinstance(kind, Name) or type(length) is not int or not isinstance(key, str | int):
        return None
    name = kind.name.rpartition(".")[2].replace("TypedStorage", "UntypedStorage")
    if (len(about) > 5 and about[5] is not None) or name not in SIZES or length < 0:
        return None
    size = length * SIZES[name]
    return str(key), Storage(name, length, lambda: locate(str(key), size))


# The format since torch 1.6: a zip archive with data.pkl and data/KEY.


def load_zip(span: Span, budget: Budget) -> Any:
    """The value of `*/data.pkl`, whose storages are members of the archive."""
    table = members(span)
    mains = [name for name in table if name.rpartition("/")[2] == "data.pkl"]
    if len(mains) != 1:
        raise Refusal("foreign", f"it is a zip archive with {len(mains)} members data.pkl, not 1")
    root = mains[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in table or any(n.startswith(f"{root}code/") for n in table):
        raise Refusal("foreign", "it is a program of TorchScript: save its state_dict() instead")
    order = table.get(f"{root}byteorder")
    if order is not None and unpack(order, 16, budget).content().strip() != b"little":
        raise Refusal("foreign", "its numbers have the byte order of another machine: save it anew")

    def locate(key: str, size: int) -> Span:
        member = table.get(f"{root}data/{key}")
        if member is None:
            raise Refusal("damaged", f"the storage {key[:40]!r} is missing")
        content = unpack(member, size, budget)
        if len(content) != size:
            raise Refusal("damaged", f"the storage {key[:40]!r} is not of {size} bytes")
        return content

    storages: dict[str, Storage] = {}

    def persistent(about: Any) -> Any:
        entry = declare(about, locate)
        return storages.setdefault(*entry) if entry else no_storage(about)

    content = unpack(table[mains[0]], None, budget)
    machine = Machine(content.data, content.start, content.stop, persistent, budget.names)
    return run(machine)


def unpack(member: Member, most: int | None, budget: Budget) -> Span:
    """A member's content; of one that is not compressed, where it lies. Raises Refusal."""
    if most is not None and member.size > most:
        raise Refusal("damaged", f"the member {member.name[:60]!r} is larger than its storage")
    if not member.deflates:
        return member.content
    budget.spend(member.size)
    engine = zlib.decompressobj(-15)
    try:
        content = engine.decompress(member.content.content(), member.size + 1)
    except zlib.error as error:
        raise Refusal("damaged", f"the member {member.name[:60]!r} does not unpack") from error
    if len(content) != member.size:
        text = f"the member {member.name[:60]!r} unpacks to other than its {member.size} bytes"
        raise Refusal("damaged", text)
    return Span(content, 0, len(content))


# The format before: five pickles, then the storages.


def load_old(span: Span, position: int, budget: Budget) -> Any:
    """The value of the fourth pickle, whose storages follow the fifth."""
    places: dict[str, Span] = {}
    storages: dict[str, Storage] = {}

    def locate(key: str, size: int) -> Span:
        if key not in places or len(places[key]) != size:
            raise Refusal("damaged", f"the storage {key[:40]!r} is not of {size} bytes")
        return places[key]

    def persistent(about: Any) -> Any:
        entry = declare(about, locate)
        return storages.setdefault(*entry) if entry else no_storage(about)

    values = []
    for _ in range(4):
        machine = Machine(span.data, position, span.stop, persistent, budget.names)
        values.append(run(machine))
        position = machine.position
    system, value, keys = values[1:]
    if isinstance(system, Pairs) and system.get("little_endian") is False:
        raise Refusal("foreign", "its numbers have the byte order of another machine: save it anew")
    if not isinstance(keys, list):
        raise Refusal("damaged", "it has no list of its storages")
    for key in keys:
        storage = storages.get(str(key)) if isinstance(key, str | int) else None
        if storage is None or str(key) in places:
            raise Refusal("damaged", "its list of storages is not that of its tensors")
        places[str(key)] = old_storage(span, position, storage)
        position = places[str(key)].stop
    return value


def old_storage(span: Span, position: int, storage: Storage) -> Span:
    """Where a storage's bytes are: behind its length. Raises Refusal."""
    start = position + 8
    (length,) = struct.unpack("<q", bytes(span.data[position:start]).ljust(8, b"\xff"))
    size = storage.length * SIZES[storage.kind]
    if length != storage.length or start + size > span.stop:
        raise Refusal("damaged", f"a storage of {storage.length} elements is cut or another")
    return Span(span.data, start, start + size)
