"""tyro, with its boxed complaints told in the one line that every other failure takes."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TypeVar

import tyro

from fewstep.base.errors import UserError

T = TypeVar("T")
OLD_NAMES = {"--middle-times": "--later-sigmas"}  # of options, which are still accepted


def parse(
    kind: type[T], argv: list[str], *, verb: str, description: str, default: T | None = None
) -> T:
    """`argv` as a value of the dataclass `kind`; --help prints and exits, a mistake is a UserError."""
    argv = [current_name(word) for word in argv]
    told = io.StringIO()
    start = tyro.MISSING_NONPROP if default is None else default
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                kind, args=argv, prog=f"fewstep {verb}", description=description, default=start
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(one_line(told.getvalue(), verb)) from None


def current_name(word: str) -> str:
    """The word, an option's old name replaced by its present one."""
    name, equals, value = word.partition("=")
    return OLD_NAMES.get(name.replace("_", "-"), name) + equals + value


def one_line(box: str, verb: str) -> str:
    """tyro's message without its frame: what is wrong, and the option that was meant."""
    lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}", " ", line).strip() for line in box.splitlines()]
    sections = " ".join(line for line in lines[1:] if line).split("Perhaps you meant:")
    wrong = re.split(
        r"\s{2,}|Argument helptext:|For full helptext", " ".join(sections[0].split()) + "  "
    )[0]
    meant = re.search(r"--[\w.-]+", sections[1]) if len(sections) > 1 else None
    wrong = re.sub(
        r"^Error parsing [A-Z]\w*: ", "", wrong
    )  # a whole dataclass: its message names the field
    wrong = re.sub(
        r"no type matching \{None\}\|(\S+) could be instantiated from \[(.*?)\]\..*",
        r"expected \1, got \2",
        wrong,
    )
    hint = f"did you mean {meant[0]}?" if meant else f"see 'fewstep {verb} --help'"
    return f"{wrong.strip().rstrip('.')}: {hint}"
