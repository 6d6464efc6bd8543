"""What the pages say is so: Python runs, commands exist, links, paths and names lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import fewstep as fs
from fewstep.cli import VERBS, main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FIRST = ("README.md", "docs/start/five-minutes.md", "docs/start/commands.md")
BLOCKS = [
    block
    for name in FIRST
    for block in re.findall(r"```(\w+)\n(.*?)```", (ROOT / name).read_text(), re.S)
]
COMMANDS = [
    line
    for kind, block in BLOCKS
    if kind == "console"
    for line in block.splitlines()
    if "fewstep " in line
]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "benchmarks" / "README.md",
        ROOT / "tests" / "conformance" / "README.md",
    ]
)
FILES = [
    path.relative_to(ROOT).as_posix()
    for top in ("src", "tests", "docs", "examples", "benchmarks", "tools")
    for path in (ROOT / top).rglob("*.*")
]
THE_READERS_OWN = {"mine.py", "dataset_tool.py"}
# Other tests run these: analysis/test_doctor.py, analysis/test_verify.py, project/test_distill.py,
# pipelines/test_commands.py.
RUN_ELSEWHERE = {
    "fewstep doctor digits",
    "fewstep verify --quick --method ect",
    "fewstep train auto --method ect --data digits.npy --init teacher --out one",
    "fewstep export one one-pipeline --to diffusers",
    "fewstep distill my-sd --prompts prompts.txt --guidance 7 --out runs/sd",
    "fewstep sample runs/sd --prompt 'a cat in the snow' --out cat.png",
}


def test_the_python_runs_and_finds_the_circle(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(block, scope)
    said = re.search(r"print\(.*norm.*  # [a-z ]*([\d.]+)", README)[1]
    radius = (scope["samples"] - 100).norm(dim=1).mean().item()
    assert radius == pytest.approx(float(said), abs=0.1)
    assert scope["loss"].shape == (8,)
    assert not any(tmp_path.iterdir())


def test_the_python_of_the_laboratory_page_runs_and_is_right():
    page, scope = (ROOT / "docs" / "exact.md").read_text(), {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, scope)
    assert max(scope["error"].max(), scope["apart"]) < 1e-9
    assert f"{scope['trained'].w2():.3f} and {scope['distilled'].w2():.4f}" in page
    assert (scope["curve"].costs.diff() < 0).all()


def test_the_commands_run(tmp_path, monkeypatch):
    """In their order, since one uses what another wrote; training is short and by one process."""
    monkeypatch.chdir(tmp_path)
    assert set(COMMANDS) >= RUN_ELSEWHERE
    for line in COMMANDS:
        if line in RUN_ELSEWHERE:
            continue
        words = shlex.split(line)
        words = words[words.index("-m") + 1 :] if words[0] == "torchrun" else words
        assert words[0].endswith("fewstep")
        assert words[1] in VERBS
        assert main([*words[1:], *(["--iterations", "3"] if words[1] == "train" else [])]) == 0


def test_the_commands_of_make_are_targets():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    for page in PAGES:
        for target in re.findall(r"^(?:make|`make) (\w+)", page.read_text(), re.M):
            assert target in targets, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_paths_and_names_lead_somewhere(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    if page.parent.name == "moving":  # commands of other codes, with their files, and links to them
        text = re.sub(r"```(?:text|yaml)\n.*?```|^\[\w+\]: http\S+$", "", text, flags=re.S | re.M)
    # A path from the root or from any folder: docs/log.md, run/config.py, test_crash.py.
    paths = set(re.findall(r"[\w./-]*\w\.(?:py|md)\b", re.sub(r"\]\([^)]*\)", "", text)))
    paths -= {path for path in paths if path in THE_READERS_OWN or "NAME" in path}
    files = [*FILES, *(path.name for path in ROOT.glob("*.*"))]
    assert [path for path in paths if not any(f"/{f}".endswith(f"/{path}") for f in files)] == []
    folders = re.findall(r"`((?:src|tests|docs|examples|benchmarks)/[\w/-]+)`", text)
    assert [folder for folder in folders if not (ROOT / folder).exists()] == []
    modules = re.findall(r"python -m ([\w.]+)", text)
    assert [name for name in modules if not is_module(name)] == []
    names = re.findall(r"\b(?:fs|fewstep)((?:\.\w+)+)", text)
    assert [name for name in names if not is_name(name)] == []


def is_module(name: str) -> bool:
    path = name.replace(".", "/")
    tops = (ROOT, ROOT / "src")
    return any((top / f"{path}.py").exists() or (top / path).is_dir() for top in tops)


def is_name(name: str) -> bool:
    """Whether fewstep has a package, module or public name `.a.b.c`."""
    value = fs
    for part in name.strip(".").split("."):
        inner = f"{value.__name__}.{part}" if hasattr(value, "__path__") else ""
        if not hasattr(value, part) and not (inner and importlib.util.find_spec(inner)):
            return False
        value = getattr(value, part, None) or importlib.import_module(inner)
    return True
