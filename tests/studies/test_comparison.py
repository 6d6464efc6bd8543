"""Runs side by side: what differs, what is alike, and where their scores are from."""

from __future__ import annotations

import json
import shutil

import pytest

from fewstep.cli import main
from fewstep.run.checkpoint import RunFolder
from fewstep.studies.comparison import flat
from tests.support.toys import TINY

FEW = ["--n", "200", "--metrics", "energy", "--steps", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of a sweep that has no scores."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    words = ["--method.c", "0.1,0.2", "--no-eval", "--out", str(folder), "--jobs", "1", "--quiet"]
    assert main(["sweep", "toy", *TINY, *words]) == 0
    return [folder / f"method.c-{c}" for c in (0.1, 0.2)]


def report(capsys, *words):
    assert main(["compare", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_settings_that_differ_are_named_and_those_alike_counted(runs, capsys):
    facts = report(capsys, *runs)
    assert facts["different"] == ["method.c"]
    assert [one["settings"] for one in facts["runs"]] == [{"method.c": 0.1}, {"method.c": 0.2}]
    settings = flat(RunFolder(runs[0]).newest().record.run.to_json())
    assert len(facts["alike"]) + 1 == len(settings)
    for run, one in zip(runs, facts["runs"], strict=True):
        checkpoint = RunFolder(run).newest()
        assert one["fingerprint"] == checkpoint.record.fingerprint
        assert one["weights"] == sum(t.numel() for t in checkpoint.groups["ema"].values())
        assert (one["step"], one["iterations"]) == (6, 6)
        assert one["seconds"] >= 0
    assert main(["compare", *map(str, runs)]) == 0
    text = capsys.readouterr().out
    assert f"{len(facts['alike'])} settings are alike" in text
    assert "no scores of" in text


def test_a_sweep_stands_for_its_runs(runs, capsys):
    facts = report(capsys, runs[0].parent, runs[0], "digits")
    assert [one["run"] for one in facts["runs"]] == [*map(str, runs), "digits"]
    assert {"data", "recipe", "method.c"} <= set(facts["different"])
    assert facts["runs"][-1]["seconds"] is None  # a shipped generator has no log


def test_runs_of_a_sweep_without_a_checkpoint_are_left_out(runs, capsys, tmp_path):
    sweep = shutil.copytree(runs[0].parent, tmp_path / "sweep")
    shutil.rmtree(sweep / runs[1].name)
    facts = report(capsys, sweep)
    assert [one["run"] for one in facts["runs"]] == [str(sweep / runs[0].name)]
    assert facts["left_out"] == [str(sweep / runs[1].name)]
    assert main(["compare", str(sweep)]) == 0
    line = f"1 without a checkpoint yet, not shown: {sweep / runs[1].name}"
    assert line in capsys.readouterr().out.splitlines()
    shutil.rmtree(sweep / runs[0].name / "checkpoints")  # begun
    assert main(["compare", str(sweep)]) == 2
    assert "no run has a checkpoint yet" in capsys.readouterr().err


def test_scores_are_made_once_and_stay(runs, capsys, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    scored = report(capsys, *runs, "--eval", *FEW, "--out", page)
    values = [one["scores"]["energy@1"]["value"] for one in scored["runs"]]
    assert report(capsys, *runs)["runs"] == scored["runs"]
    monkeypatch.setattr("fewstep.studies.scores.evaluate", None)  # it is not called again
    assert report(capsys, *runs, "--eval", *FEW)["runs"] == scored["runs"]
    text = page.read_text()
    assert text.count("<img") == 1
    assert all(f"{value:.4g}" in text for value in values)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "name a RUN"),
        (["nowhere"], 2, "no run folder nowhere"),
        (["digits", "--steps", "1"], 2, "--steps: it is of --eval"),
        (["digits", "--out", "a.png"], 2, "expected a name that ends in .html"),
        (["."], 4, "holds no checkpoint: expected a run folder"),
    ],
)
def test_a_mistake_is_one_line(words, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
