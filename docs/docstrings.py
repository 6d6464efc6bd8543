"""An extension of griffe: docstrings as they are written here, in the reference.

A paragraph whose lines all say `name = ...` is set as code. Lines `name: text`, of parameters and
fields, become a list. A comment beside a field, or above it, is its docstring.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

FORMULA = re.compile(r"\S[^=.,;]{0,24}? += +\S")
NAMED = re.compile(r"(\w+(?:, \w+)*): (.*)")
NEW = re.compile(r"(Raises|Returns|Source|Sources)\b")  # begins a sentence of its own
COMMENT = re.compile(r"^[^#\"']*#\s*(.*)$")


class Docstrings(griffe.Extension):
    """Changes what the reference shows of a package, once all of it is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for each in inside(pkg):
            if isinstance(each, griffe.Attribute) and each.docstring is None:
                text = comment_of(each)
                each.docstring = griffe.Docstring(text, parent=each) if text else None
            if each.docstring is not None:
                names = {one.name for one in getattr(each, "parameters", ())}
                names |= set(each.members) if each.is_class else set()
                paragraphs = re.split(r"\n{2,}", each.docstring.value)
                each.docstring.value = "\n\n".join(shown(one, names) for one in paragraphs)


def inside(obj: griffe.Object) -> Iterator[griffe.Object]:
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from inside(member)


def shown(paragraph: str, names: set[str]) -> str:
    lines = paragraph.splitlines()
    if len(lines) > 1 and all(map(FORMULA.match, lines)):
        return "\n".join(f"    {line}" for line in lines)
    return as_list(lines, names) if names else paragraph


def as_list(lines: list[str], names: set[str]) -> str:
    """Lines of which those that begin with one of the names, and a colon, begin an item."""
    result: list[str] = []
    is_item = False
    for line in lines:
        match = NAMED.match(line)
        if match and set(match[1].split(", ")) <= names:
            result += [] if is_item else [""]
            result.append(f"- `{match[1].replace(', ', '`, `')}`: {match[2]}")
            is_item = True
        elif is_item and NEW.match(line):
            result += ["", line]
            is_item = False
        else:
            result.append(f"  {line.strip()}" if is_item else line)
    return "\n".join(result).strip("\n")


def comment_of(field: griffe.Attribute) -> str | None:
    """The comment beside a class's field, or the lines of one above it."""
    if field.lineno is None or field.parent is None or not field.parent.is_class:
        return None
    lines = field.parent.module.lines_collection[field.filepath]
    beside = COMMENT.match(lines[field.lineno - 1])
    if beside:
        return beside[1]
    above: list[str] = []
    for line in reversed(lines[: field.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip("# "))
    return "\n".join(above) or None
