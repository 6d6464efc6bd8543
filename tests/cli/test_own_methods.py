"""Methods of the user's own, by module:function: errors are one line that names the part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fewstep.cli import main

CODE = """
from dataclasses import replace
import fewstep as fs
import absent_package_of_{missing}

BASE = fs.methods.ect(c=0.0)

def method():
    return BASE

def weightless():
    return replace(BASE, weight=lambda process: 1)

def misspelt():
    return fs.Method(dist=3)
"""
WITHOUT = CODE.replace("import absent_package_of_{missing}\n", "")
TRAIN = ["train", "toy", "--iterations", "2", "--device", "cpu", "--out", "run", "--method"]
PLAN, BENCH = ["plan", "toy", "--method"], ["bench", "toy", "--repeats", "6", "--method"]
VERIFY = ["verify", "--target"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    for name in ("own", "needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # of another test in this process
    Path("own.py").write_text(WITHOUT)
    Path("needy.py").write_text(CODE.format(missing="needy"))
    yield
    for name in ("own", "needy"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TRAIN, "own:weightless"], "the weight of own:weightless fails: TypeError: "),
        ([*TRAIN, "own:weightless"], "; expected weight(process, times) -> [B]"),
        ([*PLAN, "own:weightless"], "the weight of own:weightless fails: TypeError: "),
        ([*BENCH, "own:weightless"], "the weight of own:weightless fails: TypeError: "),
        ([*TRAIN, "own:misspelt"], "unknown part of a method 'dist': did you mean 'distance'?"),
        ([*TRAIN, "own.py:method"], "did you mean own:method? A module has no .py\n"),
        ([*VERIFY, "own.py:method"], "did you mean own:method? A module has no .py\n"),
        ([*TRAIN, "sub/no.py:f"], "mean sub.no:f? A module has no .py; sub/no.py is looked for in"),
        ([*TRAIN, "./own.py:method"], "did you mean own:method? A module has no .py\n"),
        ([*TRAIN, "./own:method"], "did you mean own:method? A module is no path\n"),
        ([*TRAIN, ".own:method"], "did you mean own:method? A module is no path\n"),
        ([*TRAIN, "../own.py:method"], "did you mean own:method? A module has no .py\n"),
        ([*TRAIN, ":f"], "method ':f': expected package.module:function\n"),
        ([*TRAIN, "own:"], "method 'own:': expected package.module:function\n"),
        ([*TRAIN, "torch.nothere.x:f"], "x:f': No module named 'torch.nothere'\n"),
        (
            [*TRAIN, "nowhere:f"],
            "No module named 'nowhere'; nowhere.py is looked for in this folder",
        ),
        ([*TRAIN, "needy:method"], "No module named 'absent_package_of_needy'\n"),
        ([*TRAIN, "own:none"], "has no attribute 'none'"),
    ],
)
def test_a_mistake_is_one_line(words, message, folder, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("fewstep: ")
    assert not Path("run").exists()
