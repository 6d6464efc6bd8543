"""The examples: short, on public names alone, and they do what they say."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fewstep as fs

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_public_names(path):
    source = path.read_text()
    assert len(source.splitlines()) < 80
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


def test_meanflow_learns_the_ring_in_one_step(monkeypatch, capsys):
    output = run("meanflow", 60, monkeypatch, capsys)
    assert float(output.split(":")[1]) < 0.1


@pytest.fixture(scope="module")
def meanflow() -> dict[str, Any]:
    """The example's names, without its training."""
    return runpy.run_path(str(FOLDER / "meanflow.py"))


def test_meanflows_goal_is_the_mean_velocity_where_the_student_has_it(meanflow):
    """Of one point c every velocity on the way is (x_t - c) / t: loss 0, for each second time."""
    method = meanflow["meanflow"]()
    t, a = torch.tensor([[0.9, 0.5, 0.3], [0.2, 0.5, 0.0]], dtype=torch.float64)
    times = fs.Times(t, t, a, torch.ones_like(t))
    x0 = torch.full((3, 2), 0.4, dtype=torch.float64)
    z = torch.tensor([[1.0, -2.0], [0.5, 0.1], [-1.0, 0.7]], dtype=torch.float64)
    known = fs.Models(student=lambda x, t, cond=None: torch.full_like(x, 0.4))
    assert float(method.loss(known, x0, z, times).abs().max()) < 1e-12
    wrong = fs.Models(student=lambda x, t, cond=None: 0.5 * x)
    assert float(method.loss(wrong, x0, z, times).min()) > 0.1


def test_meanflows_steps_are_the_mean_velocitys_own(meanflow):
    """With the exact map of N(0, 1) between two times, four steps end where one does."""
    process = fs.process.linear()

    def size(t):
        t = fs.process.per_row(t, x)
        return ((1 - t).square() + t.square()).sqrt()[:, None]

    def exact(x_t, t, cond=None):
        a = cond["to"]
        return process.aim(x_t, size(a) / size(t) * x_t, t, a)

    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampler = meanflow["meanflow"]().sampler
    ends = [
        fs.sampling.sample(process, exact, x, sampler.times(process, steps), sampler.step)
        for steps in (1, 4)
    ]
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[0], x)


def test_the_own_network_trains_on_signals_and_takes_their_frequency(monkeypatch, capsys):
    output = run("own_network", 20, monkeypatch, capsys)
    periods = [float(word) for word in re.findall(r"[\d.]+", output.partition("periods")[2])]
    assert len(periods) == 4
    assert all(0 <= number <= 32 for number in periods)
