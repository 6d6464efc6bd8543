"""The examples: short, on public names alone, and they do what they say."""

from __future__ import annotations

import ast
import itertools
import re
import runpy
import sys
import wave
from pathlib import Path
from typing import Any

import pytest
import torch

import fewstep as fs

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
LONGER = ("actions", "audio")  # with a simulator of some size, and a picture


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_public_names(path):
    source = path.read_text()
    assert len(source.splitlines()) <= (130 if path.stem in LONGER else 91)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("fewstep"), (
                "an example imports fewstep as fs and nothing else"
            )
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_how_it_is_called(path, monkeypatch, capsys):
    if path.stem == "side_by_side":
        return
    if path.stem == "distill_teacher":
        pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(FOLDER)
    for word, code in (("foo", 2), ("--help", 0)):
        monkeypatch.setattr(sys, "argv", [path.name, word])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        assert end.value.code == code
        assert ("invalid int value: 'foo'" if code else "usage:") in "".join(capsys.readouterr())


def run(name: str, iterations: int, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [name, str(iterations)])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_the_phased_model_learns_the_ring(monkeypatch, capsys):
    """A cloud of the ring's spread is at an energy distance of 0.03, its mean at 0.5."""
    output = run("phased", 100, monkeypatch, capsys)
    assert float(output.split(":")[1]) < 0.02


def test_meanflow_learns_the_ring_in_one_step(monkeypatch, capsys):
    """Untrained its energy distance is 0.5."""
    output = run("meanflow", 50, monkeypatch, capsys)
    assert float(output.split(":")[1]) < 0.25


@pytest.fixture(scope="module")
def meanflow() -> dict[str, Any]:
    """The example's names, without its training."""
    return runpy.run_path(str(FOLDER / "meanflow.py"))


def test_the_page_of_own_methods_has_the_example_in_under_40_lines():
    source = (FOLDER / "meanflow.py").read_text()
    page = (FOLDER.parent / "docs" / "own_method.md").read_text()
    parts = source[source.index("class Ways") : source.index("if __name__")].strip()
    assert parts in page
    assert len([line for line in parts.splitlines() if line.strip()]) < 40


def test_the_meanflow_of_the_example_has_the_loss_of_ours(meanflow):
    """Its parts are written out anew: times, goal and balance."""
    own, ours = meanflow["meanflow"](), fs.methods.meanflow()
    u = torch.rand(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = own.times(u, 0.0, torch.arange(8))
    assert (times.to < times.t).tolist() == [True, False, False, False] * 2
    student = fs.exact.Gaussian(std=0.3, process=own.process)

    class Told:
        ends = 1

        def __call__(self, x, t, cond=None, to=0.0):
            return student(x, t) * (1 + fs.process.expand(to, x))

    told = Told()
    x0, z = torch.randn(2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = [method.loss(fs.Models(told), x0, z, times) for method in (own, ours)]
    torch.testing.assert_close(*losses)


def test_the_own_network_trains_on_signals_and_takes_their_frequency(monkeypatch, capsys):
    output = run("own_network", 20, monkeypatch, capsys)
    periods = [float(word) for word in re.findall(r"[\d.]+", output.partition("periods")[2])]
    assert len(periods) == 4
    assert all(0 <= number <= 32 for number in periods)


PAGE = (FOLDER.parent / "docs" / "science.md").read_text()


def run_short(
    name: str, tmp_path, monkeypatch, capsys, **how: int
) -> tuple[dict[str, list[float]], Any]:
    """The table's numbers behind its times, by teacher, 1, 2, 4 and data; what `main` gives.

    The page has a table of the same columns.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    result = runpy.run_path(str(FOLDER / f"{name}.py"))["main"](**how)
    lines = capsys.readouterr().out.splitlines()
    first = next(k for k, line in enumerate(lines) if line.split()[:1] == ["evaluations"])
    head, rows = lines[first], lines[first + 1 :]
    assert head in PAGE.splitlines(), f"not as docs/science.md has it: {head}"
    times = 2 if "ms alone" in head else 1
    table = {}
    for row in itertools.takewhile(str.strip, rows):
        kind, *words = row.split()
        if kind != "data":
            count, words = words[0], words[1 + times :]
        key = count if kind == "student" else kind
        number = r"[-+]?(?:nan|\d[\d.]*(?:e[-+]?\d+)?)"
        table[key] = [float(word) for word in re.findall(number, " ".join(words))]
    assert list(table)[:4] == ["teacher", "1", "2", "4"]
    return table, result


def test_the_ensemble_is_about_its_condition(tmp_path, monkeypatch, capsys):
    """Untrained, its CRPS is 0.50 and half of the truth is inside the 80 % interval."""
    how = {"rows": 300, "held_out": 20, "iterations": 30, "batch": 32}
    table, (_, truth, ensemble, _) = run_short("ensemble", tmp_path, monkeypatch, capsys, **how)
    score, inside, ratio = table["2"]
    best = table["data"][0]
    assert 60 < inside < 95
    assert 0.7 < ratio < 1.5
    assert best < score < 0.46
    others = fs.metrics.crps(ensemble.roll(1, 0), truth).mean()
    assert score < 0.96 * others
    assert (tmp_path / "ensemble.png").stat().st_size > 5000


def test_the_posteriors_are_about_their_observation(tmp_path, monkeypatch, capsys):
    """Untrained, a third of the truth is inside the 80 % interval."""
    how = {"rows": 4000, "held_out": 40, "iterations": 100, "batch": 256}
    table, (truth, samples) = run_short("posterior", tmp_path, monkeypatch, capsys, **how)
    assert all(55 < inside < 98 for inside in table["2"][3:5])
    score, others = (fs.metrics.crps(x, truth).mean(0) for x in (samples, samples.roll(1, 0)))
    assert (score < 0.8 * others).all()


def test_the_points_come_to_the_circle_under_their_mask(tmp_path, monkeypatch, capsys):
    """Untrained, they scatter 31 times as far as the data."""
    how = {"rows": 500, "draws": 100, "iterations": 40, "batch": 32}
    table, result = run_short("point_sets", tmp_path, monkeypatch, capsys, **how)
    assert table["2"][1] < 24
    assert table["data"][1] == pytest.approx(1, abs=0.1)
    samples, request = result[2:]
    assert (samples[~request] == 0).all()
    assert 3 <= request.sum(1).min() < request.sum(1).max() <= 16


def test_the_table_has_its_columns_laws_together(tmp_path, monkeypatch, capsys):
    """Untrained, a share is off by 0.29, and a correlation by 0.68."""
    how = {"rows": 2000, "draws": 4000, "iterations": 80, "batch": 256}
    table, (_, made) = run_short("table", tmp_path, monkeypatch, capsys, **how)
    number, share, together = table["2"]
    assert number < 0.19
    assert share < 0.22
    assert together < 0.45
    assert (made[:, 3:].sort(1).values.sum(1) == 2).all()  # one region and one work


def test_the_roll_out_stays_where_the_simulator_does(tmp_path, monkeypatch, capsys):
    """Untrained, the variance is off by 80 %, and a state has nothing of the one before."""
    how = {"rows": 2000, "runs": 30, "iterations": 80, "batch": 128}
    table, (truth, states) = run_short("rollout", tmp_path, monkeypatch, capsys, **how)
    first, last, _, alike = table["2"]
    truly = table["data"][3]
    assert abs(first) < 50
    assert abs(last) < 50
    assert 0.5 < alike < 0.9
    assert 0.7 < truly < 0.75
    assert truth.shape == states.shape == (21, 30, 1, 16, 16)


def test_the_actions_come_to_the_goal_by_both_sides(tmp_path, monkeypatch, capsys):
    """Untrained, no chunk comes to the goal; the expert's all do, and by both sides."""
    how = {"rows": 2000, "held_out": 20, "iterations": 60}
    table, (many, samples) = run_short("actions", tmp_path, monkeypatch, capsys, **how)
    assert table["data"][0] == 100
    assert table["data"][2] > 90
    assert table["teacher"][0] > 0
    assert samples[4].shape == (len(many), 2, 16)
    assert (tmp_path / "actions.png").stat().st_size > 5000


def test_the_strings_are_heard_as_their_notes(tmp_path, monkeypatch, capsys):
    """Only the data are strings after so few iterations; each wave is written as 16 bits."""
    how = {"rows": 512, "held_out": 64, "iterations": 10}
    table, sounds = run_short("audio", tmp_path, monkeypatch, capsys, **how)
    assert table["data"][2:] == [0, 100]
    assert table["2"][2] > 1
    for name, x in sounds.items():
        with wave.open(str(tmp_path / f"{name.replace(' ', '-')}.wav")) as file:
            assert (file.getnframes(), file.getsampwidth()) == (8 * x.shape[2], 2)
    assert (tmp_path / "audio.png").stat().st_size > 5000
