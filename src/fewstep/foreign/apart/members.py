"""The members of a zip archive, by its central directory alone; no name is used as a path."""

from __future__ import annotations

import struct
from typing import NamedTuple

from .values import Refusal, Span

MOST_MEMBERS = 100_000
END = b"PK\x05\x06"  # of the central directory
END_64 = b"PK\x06\x06"
LOCATOR_64 = b"PK\x06\x07"
ENTRY = b"PK\x01\x02"
LOCAL = b"PK\x03\x04"
FULL = 0xFFFFFFFF  # the number is in the extra field


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    content: Span  # as it is in the archive
    deflates: bool
    size: int  # bytes when unpacked, as declared


def members(span: Span) -> dict[str, Member]:
    """The members by name. Raises Refusal for damage and for tricks."""
    try:
        return read_members(span)
    except struct.error as error:
        raise Refusal("damaged", "its zip directory is cut") from error


def read_members(span: Span) -> dict[str, Member]:
    content, first, count = directory(span)
    if count > MOST_MEMBERS:
        raise Refusal("limit", f"it has {count} members: at most {MOST_MEMBERS} are read")
    table: dict[str, Member] = {}
    position = first
    for _ in range(count):
        member, position = entry(span, position)
        if member.name in table:
            raise Refusal("damaged", f"two members are called {member.name[:60]!r}")
        table[member.name] = member
    if position > content:
        raise Refusal("damaged", "its zip directory is longer than it says")
    check_places(table)
    return table


def directory(span: Span) -> tuple[int, int, int]:
    """(end, start, entries) of the central directory."""
    lowest = max(span.start, span.stop - 22 - 65535)
    place = span.data.rfind(END, lowest, span.stop)
    if place < 0:
        raise Refusal("damaged", "it is a zip archive without its end")
    number, start, count, all_of_them, size, offset = struct.unpack(
        "<4HII", bytes(span.data[place + 4 : place + 20])
    )
    end = place
    locator = place - 20
    if locator >= span.start and span.data[locator : locator + 4] == LOCATOR_64:
        _, where, _ = struct.unpack("<IQI", bytes(span.data[locator + 4 : place]))
        end = span.start + where
        if where > len(span) - 56 or span.data[end : end + 4] != END_64:
            raise Refusal("damaged", "its zip64 directory is not where it says")
        number, start, count, all_of_them, size, offset = struct.unpack(
            "<II4Q", bytes(span.data[end + 16 : end + 56])
        )
    if number or start or count != all_of_them:
        raise Refusal("foreign", "it is a part of a zip archive of several files")
    if offset + size > end - span.start:
        raise Refusal("damaged", "its zip directory lies outside of the file")
    return end, span.start + offset, count


def entry(span: Span, position: int) -> tuple[Member, int]:
    """The member of an entry of the directory, and where the next entry is."""
    fields = struct.unpack("<4s6H3I5HII", bytes(span.data[position : position + 46]))
    mark, _, _, flags, method, _, _, _, length, size, long, extra, comment = fields[:13]
    offset = fields[16]
    if mark != ENTRY:
        raise Refusal("damaged", "its zip directory is broken")
    start = position + 46
    name = bytes(span.data[start : start + long]).decode("utf-8", "replace")
    more = bytes(span.data[start + long : start + long + extra])
    size, length, offset = wide(more, size, length, offset)
    if flags & 0x1:
        raise Refusal("foreign", "it is encrypted")
    if method not in (0, 8):
        raise Refusal("foreign", f"a member is compressed by method {method}: deflate is read")
    content = locate(span, offset, length, name)
    if method == 0 and length != size:
        raise Refusal("damaged", f"the member {name[:60]!r} has two sizes")
    return Member(name, content, method == 8, size), start + long + extra + comment


def wide(extra: bytes, *numbers: int) -> tuple[int, ...]:
    """The numbers, those that do not fit into 32 bits from zip64's extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack("<HH", extra[position : position + 4])
        position += 4
        if kind == 1:
            field = extra[position : position + size]
            values = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            numbers = tuple(next(values, n) if n == FULL else n for n in numbers)
        position += size
    return numbers


def locate(span: Span, offset: int, size: int, name: str) -> Span:
    """Where a member's bytes are: behind its local header."""
    start = span.start + offset
    if offset > len(span) - 30 or span.data[start : start + 4] != LOCAL:
        raise Refusal("damaged", f"the member {name[:60]!r} is not where the directory says")
    long, extra = struct.unpack("<HH", bytes(span.data[start + 26 : start + 30]))
    first = start + 30 + long + extra
    if size > span.stop - first:
        raise Refusal("damaged", f"the member {name[:60]!r} is longer than the file")
    if bytes(span.data[start + 30 : start + 30 + long]).decode("utf-8", "replace") != name:
        raise Refusal("damaged", f"the member {name[:60]!r} has two names")
    return Span(span.data, first, first + size)


def check_places(table: dict[str, Member]) -> None:
    """Raises Refusal where members share bytes: so archives expand without bounds."""
    places = sorted((m.content.start, m.content.stop, m.name) for m in table.values())
    end = 0
    for start, stop, name in places:
        if start < end:
            raise Refusal("damaged", f"the member {name[:60]!r} overlaps another")
        end = max(end, stop)
