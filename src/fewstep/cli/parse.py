"""A command's words as a dataclass value, by tyro; its boxed complaints become one line."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TypeVar

import tyro

from fewstep.base.errors import UserError
from fewstep.cli.arguments import HELP, arrange, divide, options_in
from fewstep.cli.help import screen

T = TypeVar("T")


def parse(
    kind: type[T], argv: list[str], *, verb: str, description: str, default: T | None = None
) -> T:
    """`argv` as a value of the dataclass `kind`; --help prints and exits. Raises UserError."""
    options = options_in(kind, default)
    if HELP & set(argv):
        print(screen(verb, description, {"options": options}))
        raise SystemExit(0)
    positional, rest = arrange(argv, options)
    start = tyro.MISSING_NONPROP if default is None else default
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=[*positional, *rest], prog=f"fewstep {verb}", default=start)
    except SystemExit:
        raise UserError(one_line(complaint.getvalue(), verb)) from None


def parse_own(
    kind: type[T], argv: list[str], *, verb: str, description: str
) -> tuple[T, list[str]]:
    """The verb's own options as a value of `kind`, and the words that are options of train.

    --help prints and exits. Raises UserError.
    """
    options = options_in(kind)
    if HELP & set(argv):
        end = "All options of `fewstep train` are options too: --batch, --data, --network.width"
        print(screen(f"{verb} RECIPE", description, {f"options of {verb}": options}, end))
        raise SystemExit(0)
    own, rest = divide(argv, options)
    return parse(kind, own, verb=verb, description=description), rest


def one_line(box: str, verb: str) -> str:
    """tyro's message without its frame: what is wrong, and the option that was meant."""
    lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}", " ", line).strip() for line in box.splitlines()]
    problem, _, suggestion = " ".join(filter(None, lines[1:])).partition("Perhaps you meant:")
    problem = " ".join(problem.split())
    problem = re.split(r"Argument helptext:|For full helptext", problem)[0]
    # The message of a whole dataclass names its field.
    problem = re.sub(r"^Error parsing [A-Z]\w*: ", "", problem)
    problem = re.sub(r"^Missing from fewstep \w+: (\S+).*", r"\1 is missing", problem)
    problem = re.sub(
        r"no type matching \{None\}\|(.+?) could be instantiated from \[(.*?)\]\..*",
        r"expected \1, got \2",
        problem,
    )
    problem = re.sub(r"\{?\[(\w+) \[\w+ \.\.\.\]\]\}?", r"\1,\1,..", problem)
    option = re.search(r"--[\w.-]+", suggestion)
    hint = f"did you mean {option[0]}?" if option else f"see 'fewstep {verb} --help'"
    return f"{problem.strip().rstrip('.')}: {hint}"
