"""The README's Python runs as it stands, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from fewstep.cli import VERBS, main

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [
    line
    for kind, block in BLOCKS
    if kind == "console"
    for line in block.splitlines()
    if "fewstep " in line
]


def test_the_python_runs_and_finds_the_circle(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(block, scope)
    assert abs((scope["samples"] - 100).norm(dim=1).mean().item() - 5) < 0.5
    assert scope["loss"].shape == (8,)
    assert not any(tmp_path.iterdir())


def test_the_python_of_the_laboratory_page_runs_and_is_right(monkeypatch):
    page, scope = (Path(__file__).parents[2] / "docs" / "exact.md").read_text(), {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, scope)
    assert max(scope["error"].max(), scope["apart"]) < 1e-9
    assert f"{scope['trained'].w2():.3f} and {scope['distilled'].w2():.4f}" in page
    assert (scope["curve"].costs.diff() < 0).all()


def test_the_commands_run(tmp_path, monkeypatch):
    """In their order, since one uses what another wrote; training is cut short, and done by one
    process.
    """
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS:
        words = shlex.split(line)
        words = words[words.index("-m") + 1 :] if words[0] == "torchrun" else words
        assert words[0].endswith("fewstep")
        assert words[1] in VERBS
        assert main([*words[1:], *(["--iterations", "3"] if words[1] == "train" else [])]) == 0


def test_every_linked_file_exists():
    root = Path(__file__).parents[2]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (root / link).exists()] == []
