"""fewstep recipes: what there is to name."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fewstep import methods, networks, recipes
from fewstep.cli.parse import parse
from fewstep.config import names_of, options_of

DESCRIPTION = "List the recipes, methods and networks with their options.\n\nexample: fewstep recipes"


@dataclass(frozen=True)
class Args:
    json: bool = False
    """Print one JSON object."""


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def described(module: ModuleType) -> dict[str, dict[str, Any]]:
    return {
        name: {"about": first_line(f), "options": {key: p.default for key, p in options_of(f).items()}}
        for name, f in names_of(module).items()
    }


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="recipes", description=DESCRIPTION)
    listed = {
        "recipes": {name: {"about": first_line(f), "method": f().method} for name, f in recipes.RECIPES.items()},
        "methods": described(methods),
        "networks": described(networks),
    }
    if args.json:
        json.dump(listed, sys.stdout)
        return 0
    for kind, entries in listed.items():
        print(f"{kind}:")
        for name, facts in entries.items():
            print(f"  {name:<14} {facts['about']}")
            if facts.get("options"):
                print(" " * 17 + "  ".join(f"{key}={value}" for key, value in facts["options"].items()))
    return 0
