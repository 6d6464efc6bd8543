"""The options that a dataclass makes, and a command's words in the order that tyro reads them."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Container, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import tyro

from fewstep.base.errors import UserError

HELP = {"-h", "--help", "--help-all"}
OLD_NAMES = {"middle-times": "later-sigmas"}  # still read


@dataclass(frozen=True)
class Option:
    """One option or positional argument of a verb."""

    name: str  # as it is typed, without dashes in front: data-size, method.c
    field: str
    kind: Any  # its type, without None
    help: str
    default: Any
    metavar: str | None
    is_positional: bool
    appends: bool = False  # one word each time that it is typed

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.kind) is tuple and not self.appends


def options_in(kind: type, default: Any = None, prefix: str = "") -> list[Option]:
    """The options of a dataclass and of the dataclasses inside it, in their order."""
    hints, docs = typing.get_type_hints(kind, include_extras=True), field_docs(kind)
    options = []
    for field in fields(kind):
        value = field.default if default is None else getattr(default, field.name)
        if tyro.conf.Suppress in getattr(hints[field.name], "__metadata__", ()):
            continue
        hint, config, is_positional = without_extras(hints[field.name])
        name = prefix + (config.get("name") or field.name).replace("_", "-")
        if is_dataclass(value):
            options += options_in(type(value), value, f"{name}.")
            continue
        options.append(
            Option(
                name=name,
                field=field.name,
                kind=without_none(hint),
                help=config.get("help") or docs.get(field.name, ""),
                default=None if value is MISSING else value,
                metavar=config.get("metavar"),
                is_positional=is_positional,
                appends=tyro.conf.UseAppendAction in getattr(hints[field.name], "__metadata__", ()),
            )
        )
    return options


def without_extras(hint: Any) -> tuple[Any, dict[str, Any], bool]:
    """The type in an `Annotated`, what its `tyro.conf.arg` says, and whether it is positional."""
    config: dict[str, Any] = {}
    extras = getattr(hint, "__metadata__", ())
    for extra in extras:
        if extra not in (tyro.conf.Positional, tyro.conf.UseAppendAction, tyro.conf.Suppress):
            config |= vars(extra)
    kind = typing.get_args(hint)[0] if extras else hint
    return kind, config, tyro.conf.Positional in extras


def without_none(hint: Any) -> Any:
    """X of `X | None`; the list of `X | list`, since its words are read alike."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return next((kind for kind in kinds if typing.get_origin(kind) is tuple), kinds[0])


def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, those of its bases included."""
    docs: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        if getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls:
            docs |= _own_docs(cls)  # one that make_dataclass made is in no file
    return docs


@lru_cache(maxsize=64)
def _own_docs(cls: type) -> dict[str, str]:
    docs = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            name = typing.cast(ast.Name, field.target).id
            docs[name] = " ".join(ast.literal_eval(text.value).split())
    return docs


def arrange(argv: Sequence[str], options: Sequence[Option]) -> tuple[list[str], list[str]]:
    """The positional words, and the options with each element of a list in a word of its own.

    `--steps 1,2`, `--steps=1,2` and `--steps 1 2` are the same. A list of texts takes all words up
    to the next option, but for the last where a positional word would be missing. Raises UserError
    for a list of numbers that has something else.
    """
    by_name = {option.name: option for option in options}
    rest, positional, texts = list(argv), [], []
    groups: list[list[str]] = []  # each option with its values
    while rest:
        word = rest.pop(0)
        if not is_option(word):
            positional.append(word)
            continue
        prefix, has_value, value = word.partition("=")
        if has_value:
            rest.insert(0, value)
        name = canonical(prefix, by_name)
        option = by_name.get(name)
        if option is None and name.removeprefix("no-") in by_name:  # --no-labels
            groups.append([prefix])
            continue
        values = take_values(rest, option, bool(has_value))
        groups.append([f"--{name}", *values])
        if option is not None and option.is_list and not is_numeric(option):
            texts.append(groups[-1])
    if not positional and texts and len(texts[-1]) > 2 and any(o.is_positional for o in options):
        positional.append(texts[-1].pop())
    return positional, [word for group in groups for word in group]


def divide(argv: Sequence[str], options: Sequence[Option]) -> tuple[list[str], list[str]]:
    """The words of these options with their values, and all other words.

    A list of texts is one word, since a recipe may follow.
    """
    by_name = {option.name: option for option in options}
    rest, own, others = list(argv), [], []
    while rest:
        word = rest.pop(0)
        prefix, has_value, _ = word.partition("=")
        name = canonical(prefix, by_name)
        option = by_name.get(name) or by_name.get(name.removeprefix("no-"))
        if option is None or not is_option(word):
            others.append(word)
            continue
        own.append(word)
        if has_value or option.kind is bool:
            continue
        is_short = not (option.is_list and is_numeric(option))
        own += [rest.pop(0)] if is_short and rest else take_values(rest, option, False)
    return own, others


def canonical(word: str, names: Container[str]) -> str:
    """The name of an option: dashes for underscores, and the new name of an old one."""
    name = word.removeprefix("--").replace("_", "-")
    new = OLD_NAMES.get(name, name)
    return new if name not in names and new in names else name


def take_values(rest: list[str], option: Option | None, has_value: bool) -> list[str]:
    """Removes an option's values from the front of the rest of the words, and returns them."""
    is_flag = option is not None and option.kind is bool
    if not has_value and (is_flag or not rest or is_option(rest[0])):
        return []
    values = [rest.pop(0)]
    if option is None or not option.is_list:
        return values
    while rest and not is_option(rest[0]) and (not is_numeric(option) or is_number(rest[0])):
        values.append(rest.pop(0))
    if is_numeric(option) and values != ["None"] and not all(map(is_number, values)):
        raise UserError(
            f"--{option.name} {values[0]}: expected numbers with commas between, such as 1,2"
        )
    return [element for word in values for element in word.split(",") if element]


def is_option(word: str) -> bool:
    return word.startswith("--") or word == "-h"


def is_numeric(option: Option) -> bool:
    return typing.get_args(option.kind)[0] in (int, float)


def is_number(word: str) -> bool:
    """Whether a word is a number, or several with commas between."""
    try:
        [float(part) for part in word.split(",") if part]
    except ValueError:
        return False
    return True
