"""fewstep recipes: the names of recipes, methods and networks."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fewstep import methods, networks
from fewstep.base.options import names_of, options_of
from fewstep.cli.parse import parse
from fewstep.run import recipes
from fewstep.run.config import Run

DESCRIPTION = (
    "List the recipes, methods and networks with their options.\n\nexample: fewstep recipes"
)


@dataclass(frozen=True)
class Args:
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="recipes", description=DESCRIPTION)
    parts = {"methods": describe_parts(methods), "networks": describe_parts(networks)}
    if args.json:
        json.dump({"recipes": describe_runs(recipes.RECIPES), **parts}, sys.stdout)
        return 0
    show("recipes", describe_runs(recipes.SMALL))
    title = "recipes of papers (commands, costs and published numbers: docs/reproduce.md)"
    show(title, describe_runs(recipes.PAPERS))
    for kind, entries in parts.items():
        show(kind, entries)
    return 0


def describe_runs(functions: dict[str, Callable[..., Run]]) -> dict[str, dict[str, Any]]:
    """A line about each recipe, and its method."""
    return {
        name: {"about": first_line(function), "method": function().method}
        for name, function in functions.items()
    }


def describe_parts(module: ModuleType) -> dict[str, dict[str, Any]]:
    """A line about each method or network, and its options with their defaults."""
    return {
        name: {
            "about": first_line(function),
            "options": {key: p.default for key, p in options_of(function).items()},
        }
        for name, function in names_of(module).items()
    }


def first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").split("\n")[0]


def show(title: str, entries: dict[str, dict[str, Any]]) -> None:
    """A line for each entry, and one below it where it has options."""
    width = max(map(len, entries))
    print(f"{title}:")
    for name, facts in entries.items():
        print(f"  {name:<{width}}  {facts['about']}")
        if facts.get("options"):
            options = "  ".join(f"{key}={value}" for key, value in facts["options"].items())
            print(" " * (width + 4) + options)
