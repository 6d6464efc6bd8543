"""Packages in one order: none imports one behind it, and none imports the face."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import fewstep

SOURCE = Path(fewstep.__file__).parent

PACKAGES = (
    "base",
    "networks",
    "data",
    "statistics",
    "core",
    "methods",
    "exact",
    "adapters",
    "foreign",
    "run",
    "training",
    "analysis",
    "studies",
    "bench",
    "export",
    "pipelines",
    "page",
    "serve",
    "watch",
    "cli",
)
FACE = {"__init__.py", "__main__.py"}
FREE_OF_TORCH = (
    "base/errors.py",
    "base/json_file.py",
    "base/options.py",
    "base/signals.py",
    "base/version.py",
    "methods/__init__.py",
    "run/config.py",
    "run/profiles.py",
    "run/recipes/__init__.py",
)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full name) of each module or name of fewstep that a file imports, types alone
    included.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.partition(".")[0] == "fewstep":
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (
                (node.lineno, name) for name in names if name.partition(".")[0] == "fewstep"
            )


def crossings() -> Iterator[tuple[str, str, str]]:
    """(package, package it imports, place) of every import between two packages."""
    for path in sorted(SOURCE.rglob("*.py")):
        package, *inside = path.relative_to(SOURCE).parts
        if not inside:
            continue
        for line, name in imports(path):
            other = name.split(".")[1] if "." in name else ""
            if other != package:
                yield package, other, f"{path.relative_to(SOURCE)}:{line} imports {name}"


def test_the_packages_are_these():
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(PACKAGES)
    assert {path.name for path in SOURCE.glob("*.py")} == FACE


def test_no_package_imports_one_behind_it_or_the_face():
    place = {package: number for number, package in enumerate(PACKAGES)}
    upward = [
        where
        for package, other, where in crossings()
        if place.get(other, len(PACKAGES)) > place[package]
    ]
    assert upward == []


def test_users_see_the_face_and_the_command_line_alone():
    """What their tests import of the package; so they can be run on any version of it."""
    tests = Path(__file__).parents[1]
    files = [*tests.glob("cli/test_users_*.py"), tests / "support" / "users.py"]
    names = {name for path in files for _, name in imports(path)}
    assert names == {"fewstep", "fewstep.cli.main"}


def test_a_run_is_an_argument_in_these_packages_alone():
    """What makes no choice by a run's settings does not take them."""
    takers = set()
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg) and node.annotation is not None:
                words = {n.id for n in ast.walk(node.annotation) if isinstance(n, ast.Name)}
                if words & {"Run", "Prepared"}:
                    takers.add(path.relative_to(SOURCE).parts[0])
    assert takers <= {"cli", "run", "training", "analysis", "bench", "methods", "pipelines"}


@pytest.mark.parametrize("module", FREE_OF_TORCH)
def test_these_files_name_no_torch(module):
    """What `--help` and a recipe's settings need; that the command line stays free of it is timed
    elsewhere.
    """
    tree = ast.parse((SOURCE / module).read_text())
    inside = {
        id(child)
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for child in ast.walk(node)
    }
    nodes = [node for node in ast.walk(tree) if id(node) not in inside]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] == "torch"]


def table() -> str:
    """Who imports whom, how often: a row for each package, a column for each that it imports."""
    counts = Counter((package, other) for package, other, _ in crossings())
    lines = [" " * 10 + "".join(f"{other:>10}" for other in PACKAGES)]
    for package in PACKAGES:
        cells = (str(counts[package, other] or "") for other in PACKAGES)
        lines.append(f"{package:10}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join([*lines, f"{counts.total()} imports between packages"])


if __name__ == "__main__":
    print(table())
