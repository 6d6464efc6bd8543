"""The help of a verb: a line for each option, in groups, its lists written `1,2`."""

from __future__ import annotations

import shutil
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fewstep.cli.arguments import Option

PLACEHOLDERS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
LEFT = 26  # columns of an option's name


def screen(verb: str, about: str, groups: Mapping[str, Sequence[Option]], end: str = "") -> str:
    """The whole help text. groups: title -> options."""
    words = [word_of(o) for options in groups.values() for o in options if o.is_positional]
    width = min(shutil.get_terminal_size((100, 0)).columns, 100)
    parts = [f"usage: fewstep {' '.join([verb, *words])} [OPTIONS]"]
    parts += [paragraph(text, width) for text in about.split("\n\n")]
    for title, options in groups.items():
        lines = [f"{title}:"]
        for option in options:
            lines += rows(option, width)
        parts.append("\n".join(lines))
    if end:
        parts.append(textwrap.fill(end, width))
    return "\n\n".join(parts)


def paragraph(text: str, width: int) -> str:
    """The text in lines of that width; the examples stay as they are."""
    return text if text.startswith("example") else textwrap.fill(text, width)


def rows(option: Option, width: int) -> Iterable[str]:
    """An option with its help beside it, or below it where its name is long."""
    left = f"  {signature(option)}"
    text = f"{option.help} {default_of(option)}".strip()
    right = textwrap.wrap(text, width - LEFT - 2) or [""]
    if len(left) > LEFT:
        right.insert(0, "")
    yield f"{left:<{LEFT}}  {right[0]}".rstrip()
    for line in right[1:]:
        yield " " * (LEFT + 2) + line


def signature(option: Option) -> str:
    """How an option is typed: --batch INT, --steps INT,INT,.., --json."""
    if option.is_positional:
        return word_of(option)
    if option.kind is bool:
        return f"--{option.name}, --no-{option.name}" if option.default else f"--{option.name}"
    return f"--{option.name} {placeholder(option.kind)}"


def word_of(option: Option) -> str:
    """The name of a positional word in the usage line."""
    return option.metavar or option.name.upper()


def placeholder(kind: Any) -> str:
    """What stands for a value: INT, a|b|c, NUMBER,NUMBER,.."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return "|".join(str(value) for value in arguments if value is not None)
    if typing.get_origin(kind) is tuple:
        each = placeholder(arguments[0])
        return f"{each},{each},.." if arguments[-1] is ... else ",".join([each] * len(arguments))
    return PLACEHOLDERS.get(kind, "VALUE")


def default_of(option: Option) -> str:
    """The default in brackets; nothing where the help says what happens without the option."""
    value = option.default
    if option.is_positional or value is None or value is False or value == ():
        return ""
    if value is True:
        return f"(default: {option.name})"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"(default: {value})"
