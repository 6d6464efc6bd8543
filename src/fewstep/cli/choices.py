"""The words of a sweep: options of train with several values, and a run for each combination."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from fewstep.base.errors import UserError
from fewstep.cli import train
from fewstep.cli.arguments import Option, canonical, is_option, options_in
from fewstep.cli.train_options import all_options, last_value
from fewstep.run.config import Run

# Options of how runs are carried out: all runs of a sweep have them in common.
COMMON = ("out", "resume", "log", "device", "shard", "workers", "strict", "quiet")
# Options that decide which others there are.
DECIDING = re.compile(r"(network|method(\.base\.method|\.base\.base\.method)?)$")

Words = list[str]  # an option with its values


@dataclass(frozen=True)
class Choice:
    """One combination: the words of each option, and the names of those with several values."""

    recipe: str
    options: dict[str, Words]
    axes: list[str]

    @property
    def words(self) -> list[str]:
        """What follows `fewstep train`."""
        return [self.recipe, *chain(*self.options.values())]

    @property
    def command(self) -> str:
        """The training that gives these weights, without where and how it is carried out."""
        own = [words for name, words in self.options.items() if name not in COMMON]
        return shlex.join(["fewstep", "train", self.recipe, *chain(*own)])

    def settings(self, run: Run) -> dict[str, str]:
        """The values of the options with several, as the run has them."""
        return {
            name.removesuffix(".method"): text_of(run, name, self.options[name])
            for name in self.axes
        }


def choices(argv: list[str]) -> list[Choice]:
    """A choice for each combination, the last option changing fastest. Raises UserError.

    An option that is repeated has each of its values; one whose value is no list has also the
    values between commas.
    """
    recipe, *rest = train.in_order(argv, "sweep")
    uses = occurrences(rest)
    first = {name: alternatives(name, uses[name]) for name in uses if DECIDING.match(name)}
    several: dict[str, None] = {}
    combinations = []
    for values in product(*first.values()):
        start = [recipe, *chain(*values)]
        run = train.run_of(recipe, last_value(start, "--method"))
        launch, _ = train.launch_of(run, start)
        options = {option.name: option for option in options_in(type(launch), launch)}
        each = first | {
            name: alternatives(name, words, options.get(name))
            for name, words in uses.items()
            if name not in first
        }
        several |= {name: None for name, ways in each.items() if len(ways) > 1}
        each |= {name: [words] for name, words in zip(first, values, strict=True)}
        combinations += [dict(zip(each, way, strict=True)) for way in product(*each.values())]
    names = [name for name in uses if name in several]
    return [Choice(recipe, way, names) for way in combinations]


def occurrences(words: Sequence[str]) -> dict[str, list[Words]]:
    """Each option's occurrences, with the values of each. Raises UserError."""
    names = {option.name: option for option in all_options()}
    result: dict[str, list[Words]] = {}
    last: Words = []
    for word in words:
        if not is_option(word):
            last.append(word)
            continue
        prefix, has_value, value = word.partition("=")
        name = canonical(prefix, names)
        flag = names.get(name.removeprefix("no-"))
        if name not in names and flag is not None and flag.kind is bool:
            name = flag.name  # --no-labels
        last = [prefix, value] if has_value else [prefix]
        result.setdefault(name, []).append(last)
    for name in COMMON:
        if len(result.get(name, ())) > 1:
            raise UserError(f"--{name}: expected one value, which all runs of a sweep have")
    return result


def alternatives(name: str, uses: Sequence[Words], option: Option | None = None) -> list[Words]:
    """The ways of an option: its occurrences, cut at commas unless its own value is a list."""
    if name in COMMON or (option is not None and (option.is_list or option.kind is bool)):
        return [*uses]
    return [*_cut(name, uses)]


def _cut(name: str, uses: Sequence[Words]) -> Iterator[Words]:
    for word, *values in uses:
        parts = [part for value in values for part in re.split(r",(?![^\[(]*[\])])", value) if part]
        if values and not parts:
            raise UserError(f"--{name} {values[0]}: expected a value, or several with commas")
        yield from ([word, part] for part in parts)
        if not values:
            yield [word]


def text_of(run: Run, name: str, words: Words) -> str:
    """The value that a run has of an option, or else the one that was typed."""
    first, *path = name.replace("-", "_").split(".")
    value: Any = getattr(run, f"{first}_options" if path else first, None)
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return ",".join(words[1:])
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
