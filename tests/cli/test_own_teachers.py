"""Teachers and initial networks of the user's own, by module:function and a few words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fewstep.cli import main

CODE = """
import torch
from torch import nn
import fewstep as fs
from fewstep.core.conventions import convention
from tests.support.exact_network import Exact

class Weighted(nn.Module):
    "The exact network with a weight, so that a student can start from it."
    def __init__(self):
        super().__init__()
        self.exact = Exact(convention("eps", "ddpm"))
        self.factor = nn.Parameter(torch.ones(()))
    def forward(self, x, t):
        return self.factor * self.exact(x, t)

def network():
    return Weighted()

def teacher():
    return fs.adapt(Weighted(), "eps", "ddpm")
"""
SHORT = "--data exact:ring8 --iterations 2 --batch 32 --block 32 --picture-every 0 --device cpu"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test in this process
    Path("mine.py").write_text(CODE)
    yield
    sys.modules.pop("mine", None)


def train(line: str) -> int:
    return main(["train", "toy", *SHORT.split(), *line.split()])


def test_a_student_starts_from_it_learns_from_it_and_is_sampled(mine, capsys):
    words = "--prediction eps --process ddpm --teacher mine:network --init mine:network"
    assert train(f"--method cd {words} --out run") == 0
    captured = capsys.readouterr()
    assert "eps-prediction on the ddpm process, label t - 1" in captured.err
    assert "--network mine:network" in captured.out
    assert main(["sample", "run", "--network", "mine:network", "--out", "x.npy"]) == 0
    assert main(["inspect", "run"]) == 0
    assert "mine:network" in capsys.readouterr().out
    assert train(f"--method cd {words} --out run --resume") == 0


def test_one_that_says_itself_what_it_predicts_needs_no_words(mine, capsys):
    assert train("--method cd --teacher mine:teacher --out run --quiet") == 0
    assert train("--method cd --teacher mine:teacher --process ddpm --out r2") == 2
    assert "says itself what it predicts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        (
            "--method cd --teacher mine:network --prediction v --process ddpm",
            ("teacher mine:network", "eps-prediction", "prediction = eps, process ="),
        ),
        ("--method ect --prediction eps", ("package.module:function", "fewstep import")),
        ("--method cd --teacher mine:nothing --prediction eps", ("mine:nothing",)),
        ("--method cd --teacher mine:network --prediction epsilon", ("did you mean",)),
    ],
)
def test_a_wrong_word_is_refused_with_the_right_one(mine, line, messages, capsys):
    assert train(f"{line} --out run") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(message in error for message in messages), error
    assert not Path("run").exists()
