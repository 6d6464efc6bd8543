"""The examples: short, on public names alone, and they do what they say."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_public_names(path):
    source = path.read_text()
    assert len(source.splitlines()) < 60
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("fewstep"), (
                "an example imports fewstep as fs and nothing else"
            )
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__")


def run(name: str, iterations: int, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [name, str(iterations)])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_the_phased_model_learns_the_ring(monkeypatch, capsys):
    """A cloud of the ring's spread is at an energy distance of 0.03, its mean at 0.5."""
    output = run("phased", 150, monkeypatch, capsys)
    assert float(output.split(":")[1]) < 0.015


def test_the_own_network_trains_on_signals_and_takes_their_frequency(monkeypatch, capsys):
    output = run("own_network", 20, monkeypatch, capsys)
    periods = [float(word) for word in re.findall(r"[\d.]+", output.partition("periods")[2])]
    assert len(periods) == 4
    assert all(0 <= number <= 32 for number in periods)
