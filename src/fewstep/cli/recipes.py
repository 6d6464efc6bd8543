"""fewstep recipes: what there is to name."""

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


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def described(module: ModuleType) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "about": first_line(f),
            "options": {key: p.default for key, p in options_of(f).items()},
        }
        for name, f in names_of(module).items()
    }


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="recipes", description=DESCRIPTION)
    parts = {"methods": described(methods), "networks": described(networks)}
    if args.json:
        json.dump({"recipes": runs(recipes.RECIPES), **parts}, sys.stdout)
        return 0
    show("recipes", runs(recipes.SMALL))
    show(
        "recipes of papers (commands, costs and published numbers: docs/reproduce.md)",
        runs(recipes.PAPERS),
    )
    for kind, entries in parts.items():
        show(kind, entries)
    return 0


def runs(known: dict[str, Callable[..., Run]]) -> dict[str, dict[str, Any]]:
    return {name: {"about": first_line(f), "method": f().method} for name, f in known.items()}


def show(kind: str, entries: dict[str, dict[str, Any]]) -> None:
    """A line for each entry, and one below it where it has options."""
    width = max(map(len, entries))
    print(f"{kind}:")
    for name, facts in entries.items():
        print(f"  {name:<{width}}  {facts['about']}")
        if facts.get("options"):
            print(
                " " * (width + 4)
                + "  ".join(f"{key}={value}" for key, value in facts["options"].items())
            )
