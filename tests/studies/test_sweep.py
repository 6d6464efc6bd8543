"""Sweeps: the table's numbers, what is done again and what is not, and kills at any instant."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from fewstep.analysis.metrics import Result
from fewstep.cli import main
from fewstep.run.checkpoint import RunFolder
from fewstep.run.config import read_run
from fewstep.studies import history, scores
from fewstep.studies.table import MIXED
from fewstep.training import train as training
from tests.support.crash import ROOT
from tests.support.toys import TINY

SCORES = ["--n", "200", "--metrics", "energy", "--steps", "1"]
GRID = ["--seed", "1,2", "--lr", "1e-3,2e-3"]
FILES = ("table.json", "table.csv", "sweep.html")


def sweep(out, *words, jobs=1):
    """The exit code of a sweep of tiny runs."""
    common = ["--out", str(out), "--jobs", str(jobs), "--quiet"]
    return main(["sweep", "toy", *TINY, *SCORES, *words, *common])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a sweep of four runs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    assert sweep(folder, *GRID) == 0
    return folder


def prints(folder):
    return {
        path.name: RunFolder(path).newest().record.fingerprint
        for path in sorted(folder.iterdir())
        if path.is_dir()
    }


def test_the_table_is_of_the_scores_of_the_runs(undisturbed, capsys):
    table = json.loads((undisturbed / "table.json").read_text())
    assert table["settings"] == ["lr"]
    assert table["columns"] == ["energy@1"]
    means = [row["scores"]["energy@1"]["mean"] for row in table["rows"]]
    assert means == sorted(means)
    for row in table["rows"]:
        one = row["scores"]["energy@1"]
        assert row["runs"] == [f"seed-{seed}_lr-{row['settings']['lr']}" for seed in (1, 2)]
        values = []
        for name in row["runs"]:
            run = undisturbed / name
            assert str(read_run(run / "run.json").lr) == row["settings"]["lr"]
            (result,) = scores.read(run, RunFolder(run).newest().record.fingerprint)
            values.append(result.value)
        assert one["values"] == values
        error = scipy.stats.sem(values)
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, sum(values) / 2, error)
        assert (one["low"], one["high"], one["n"]) == pytest.approx((low, high, 2))
    # They are those of `fewstep eval`.
    assert main(["eval", str(run), *SCORES, "--split", "validation", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)["results"]
    assert result == Result.from_json(facts)
    with open(undisturbed / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["energy@1 mean"]) for row in rows] == means
    page = (undisturbed / "sweep.html").read_text()
    assert page.count("<img") == 2
    assert "fewstep train toy" in page


def test_what_is_done_is_not_done_again(undisturbed, tmp_path, monkeypatch):
    folder = shutil.copytree(undisturbed, tmp_path / "sweep")
    before = {name: (folder / name).read_bytes() for name in FILES}
    for name in FILES:
        (folder / name).unlink()
    trained = []
    whole = training.train

    def noting(run, **options):
        trained.append((run.seed, run.lr, options["resume"]))
        return whole(run, **options)

    monkeypatch.setattr(training, "train", noting)
    assert sweep(folder, *GRID) == 0
    assert trained == []
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    # Another seed is trained alone; scores that were made otherwise are made again.
    more = ["--seed", "1,2,3", "--lr", "1e-3,2e-3"]
    assert sweep(folder, *more) == 0
    assert trained == [(3, 0.001, False), (3, 0.002, False)]
    assert sweep(folder, *more, "--steps", "2", "--metrics", "pixel_frechet") == 0
    assert json.loads((folder / "table.json").read_text())["columns"] == ["pixel_frechet@2"]
    assert trained[2:] == [(seed, lr, True) for seed in (1, 2, 3) for lr in (0.001, 0.002)]
    assert prints(undisturbed).items() <= prints(folder).items()


@pytest.mark.parametrize(
    ("grid", "lost"),
    [
        (["--seed", "1,3", *GRID[2:]], "seed-2_lr-0.001, seed-2_lr-0.002:"),
        (["--lr", "1e-3"], "seed-1_lr-0.001, seed-1_lr-0.002, seed-2_lr-0.001"),
        (GRID[:2], "seed-1_lr-0.001, seed-1_lr-0.002, seed-2_lr-0.001"),
    ],
)
def test_a_report_loses_no_run_to_another_sweep(
    undisturbed, grid, lost, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(training, "train", None)
    folder = shutil.copytree(undisturbed, tmp_path / "sweep")
    before = {name: (folder / name).read_bytes() for name in (*FILES, "sweep.json")}
    assert sweep(folder, *grid) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the report in {folder} would lose {lost}" in line
    assert line.endswith("choose another --out")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_runs_that_failed_or_are_gone_are_lost_without_a_word(undisturbed, tmp_path, capsys):
    folder = shutil.copytree(undisturbed, tmp_path / "sweep")
    shutil.rmtree(folder / "seed-2_lr-0.002")
    table = json.loads((folder / "table.json").read_text())
    table["failed"]["seed-1_lr-0.002"] = "a reason"
    (folder / "table.json").write_text(json.dumps(table))
    assert sweep(folder, *GRID[:2], "--lr", "1e-3") == 2  # the names of other axes
    assert "would lose seed-1_lr-0.001, seed-2_lr-0.001:" in capsys.readouterr().err
    (folder / "table.json").write_text("{}")
    assert sweep(folder, *GRID) == 4
    assert "is not what 'fewstep sweep' writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clip", "9"], "seed-1_lr-0.001 holds a run with clip = 10.0, not 9.0: choose another"),
        (["--data", "grid25"], "holds a run with data = 'ring8', not 'grid25': choose another"),
        (["--data", "x.npy", "--holdout", "0.1,0"], "without a validation split"),
        (["--jobs", "0"], "jobs = 0: expected 1 or more"),
        (["--metrics", "energi"], "unknown metric 'energi': did you mean 'energy'?"),
        (["--n", "1"], "n = 1: expected 2 or more"),
        (["--holdout", "0", "--data", "x.npy"], "without a validation split"),
    ],
)
def test_a_mistake_is_one_line_and_trains_nothing(
    undisturbed, words, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(training, "train", None)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(50, 2)))
    common = ["--out", str(undisturbed), "--quiet"]
    assert main(["sweep", "toy", *TINY, *GRID, *common, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_data_that_changed_are_refused(tmp_path, capsys, monkeypatch):
    """Rows of training, and those of validation alone, on which no weight depends."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 200, 2))
    np.save("x.npy", x[0])
    np.save("y.npy", x[1])
    words = ["--data", "x.npy", "--validation", "y.npy"]
    assert sweep("s", *words) == 0
    table = Path("s/table.json").read_bytes()
    assert sweep("s", "--data", str(tmp_path / "x.npy"), *words[2:]) == 0  # the same place
    for name, old in (("x.npy", x[0]), ("y.npy", x[1])):
        np.save(name, x[2])
        capsys.readouterr()
        assert sweep("s", *words) == 2
        assert "s/seed-0 holds a run on data 'x.npy' as they were before they changed" in (
            capsys.readouterr().err
        )
        np.save(name, old)
    assert sweep("s", *words) == 0
    shutil.rmtree("s/seed-0")  # what is gone is in nobody's way
    np.save("x.npy", x[2])
    assert sweep("s", *words, "--no-eval") == 0
    np.save("x.npy", x[0])
    shutil.rmtree("s/seed-0")
    assert sweep("s", *words) == 0
    assert Path("s/table.json").read_bytes() == table


@pytest.mark.long
def test_scores_on_different_data_are_not_taken_for_comparable(tmp_path, capsys, undisturbed):
    assert sweep(tmp_path, "--data", "ring8,grid25") == 0
    assert MIXED in capsys.readouterr().out.splitlines()
    table, usual = (
        json.loads((folder / "table.json").read_text())["protocols"]["energy@1"]
        for folder in (tmp_path, undisturbed)
    )
    assert "reference" not in table
    assert usual.items() >= table.items()
    assert usual["reference"]
    for folder, is_mixed in ((tmp_path, True), (undisturbed, False)):
        page = (folder / "sweep.html").read_text().replace("&#39;", "'")
        assert (MIXED in page) == is_mixed


@pytest.mark.parametrize("recipe", [pytest.param("toy", marks=pytest.mark.long), "auto"])
def test_a_sweep_is_extended(recipe, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr("fewstep.run.fitting.FEWEST", 4)
    monkeypatch.setattr("fewstep.run.fitting.PER_ROW", 0)
    words = ["sweep", recipe, "--data", "ring8", "--network", "mlp", *TINY[2:], "--no-eval"]
    words += ["--out", str(tmp_path), "--quiet", "--jobs", "1"]
    words += ["--iterations", "4"] * (recipe == "toy") + ["--no-choose-levels"]
    for more in (0, 3, 3):
        assert main([*words, "--extend", str(more)]) == 0
        assert RunFolder(tmp_path / "seed-0").newest().record.step == 4 + more
    assert caplog.messages == []
    assert main([*words, "--extend", "3", "--eval-every", "2"]) == 0
    (line,) = caplog.messages
    assert "--eval-every scores steps to come, and there are none of seed-0" in line
    assert main([*words, "--extend", "2"]) == 2
    assert "is at step 7 of an earlier --extend: give --extend 3" in capsys.readouterr().err


def test_captions_count_evaluations(undisturbed):
    page = (undisturbed / "sweep.html").read_text()
    assert "Samples of 1 network evaluation." in page


def test_a_run_of_no_sweep_is_in_the_way(tmp_path, capsys):
    run = tmp_path / "seed-1"
    assert main(["train", "toy", *TINY, "--seed", "1", "--out", str(run), "--quiet"]) == 0
    assert sweep(tmp_path, "--seed", "1,2") == 2
    assert f"{run} holds a run that is not of this sweep" in capsys.readouterr().err


def test_a_run_that_fails_stops_no_other(tmp_path, capsys):
    assert sweep(tmp_path, "--lr", "1e-3,1e38", "--no-eval") == 1
    table = json.loads((tmp_path / "table.json").read_text())
    good, bad = table["rows"]
    assert (good["settings"], bad["settings"]) == ({"lr": "0.001"}, {"lr": "1e+38"})
    losses = history.rows_of(tmp_path / "lr-0.001")
    assert good["scores"]["loss"]["mean"] == losses[-1]["loss"]  # a tenth of six is one
    assert good["scores"]["loss"]["low"] is None  # of one run
    assert bad["scores"] == {}
    assert "lr-1e-38" not in table["failed"]
    (reason,) = table["failed"].values()
    assert "failed: lr-1e+38: " + reason in capsys.readouterr().out
    assert reason in (tmp_path / "sweep.html").read_text().replace("&#39;", "'")


def test_a_warning_of_all_runs_is_told_once_even_quietly(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(50, 2))
    np.save("x.npy", x * (1, 0))
    assert sweep(tmp_path / "out", "--seed", "1,2", "--data", "x.npy", "--no-eval") == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("constant" in line for line in lines) == 1
    assert len(lines) == len(set(lines))


def test_ctrl_c_keeps_what_is_done(tmp_path, undisturbed, monkeypatch, capsys):
    """The second run stops at its fourth step; the same command ends as if nothing had been."""
    from fewstep.training import loop

    whole, count = loop.train_step, []

    def stopping(*args):
        count.append(1)
        if len(count) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(*args)

    monkeypatch.setattr(loop, "train_step", stopping)
    assert sweep(tmp_path, *GRID) == 75
    assert "stopped: 1 of 4 runs are ready" in capsys.readouterr().err
    assert RunFolder(tmp_path / "seed-1_lr-0.002").newest().record.step == 4
    assert sweep(tmp_path, *GRID) == 0
    assert len(count) == 4 * 6
    assert_equal(tmp_path, undisturbed)


def assert_equal(folder, undisturbed):
    """The same weights, and tables of the same bytes."""
    assert prints(folder) == prints(undisturbed)
    for name in FILES:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.long
def test_a_sweep_that_was_killed_ends_as_if_nothing_had_been(server, tmp_path, undisturbed):
    """Killed twice, at instants that differ each time."""
    folder = tmp_path / "sweep"
    for _ in range(2):
        child = server.fork(
            "tests.studies.test_sweep:sweep_of_four", tmp_path / "o", out=str(folder)
        )
        time.sleep(random.uniform(0.2, 2))
        child.kill()
        child.wait()
    assert sweep(folder, *GRID) == 0
    assert_equal(folder, undisturbed)


def sweep_of_four(out: str) -> int:
    return sweep(Path(out), *GRID)


@pytest.mark.long
def test_a_sweep_by_two_processes_is_killed_with_its_group_again_and_again(tmp_path):
    """Twelve runs; SIGKILL of all processes at a random instant, until a sweep comes to its end."""
    grid = ["--seed", "1,2,3", "--lr", "1e-3,2e-3", "--clip", "1,10"]
    undisturbed, folder = tmp_path / "a", tmp_path / "b"
    assert sweep(undisturbed, *grid) == 0
    words = ["sweep", "toy", *TINY, *SCORES, *grid, "--out", str(folder), "--jobs", "2", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    kills, limit = 0, 10.0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "fewstep", *words], env=environment, start_new_session=True
        )
        try:
            assert process.wait(random.uniform(3, limit)) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills, limit = kills + 1, limit * 1.3
    assert kills > 0
    assert_equal(folder, undisturbed)


def test_scores_of_other_weights_or_damaged_ones_count_as_none(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed / "seed-1_lr-0.001", tmp_path / "run")
    fingerprint = RunFolder(folder).newest().record.fingerprint
    asked = scores.Scoring((1,), ("energy",), 200)
    assert len(scores.read(folder, fingerprint, asked)) == 1
    assert scores.read(folder, "other", asked) == []
    assert scores.read(folder, fingerprint, scores.Scoring((1,), None, 200)) == []
    file = folder / scores.NAME
    for text in ("", "[]", "{", file.read_text().replace("value", "valu")):
        file.write_text(text)
        assert scores.read(folder, fingerprint) == []


@pytest.mark.parametrize(
    ("statistic", "better", "worse"),
    [
        ("frechet", 1.0, 2.0),
        ("classifier_score", 9.0, 8.0),
        ("nearest_ratio", 1.05, 0.8),
        ("coverage_80", 0.81, 0.7),
        ("crps", 0.1, 0.2),
        ("ranks", 0.4, 0.01),
    ],
)
def test_the_best_is_first_whatever_is_better(statistic, better, worse):
    protocol = {"statistic": statistic}
    assert scores.badness(protocol, better) < scores.badness(protocol, worse)


def test_seconds_add_up_over_starts():
    starts = {0: [1.0, 1.9], 10: [2.4, 3.3, 3.5], 30: [0.7], 35: [2.1]}  # first step -> clock
    rows = [
        {"step": first + i, "seconds": s, "samples_per_second": i * 32 / s}
        for first, clock in starts.items()
        for i, s in enumerate(clock, 1)
    ]
    assert history.seconds_of(rows, 32) == 8.2  # 1.9 + 3.5 + 0.7 + 2.1
    assert history.seconds_of([], 32) is None
    assert history.late_loss([]) is None


def test_a_curve_is_the_mean_of_equal_parts():
    rows = [{"step": i + 1, "loss": float(i)} for i in range(100)]
    steps, losses = history.curve(rows)
    assert len(steps) == math.ceil(100 / 3)
    assert (steps[0], losses[0], losses[-1]) == (2.0, 1.0, 99.0)


def test_runs_are_scored_in_the_numbers_of_steps_that_they_make(tmp_path, capsys):
    """A model of four segments beside one that makes any number."""
    assert sweep(tmp_path / "both", "--method", "ect,pcm", "--steps", "1,4") == 0
    assert "pcm makes no samples in 1 steps" in capsys.readouterr().err
    table = json.loads((tmp_path / "both/table.json").read_text())
    columns = {row["settings"]["method"]: [*row["scores"]] for row in table["rows"]}
    assert columns == {"ect": ["energy@1", "energy@4"], "pcm": ["energy@4"]}
    # Where it makes none of them the run is kept, and scored when it is asked rightly.
    assert sweep(tmp_path / "one", "--method", "pcm", "--steps", "1,2") == 1
    capsys.readouterr()
    assert sweep(tmp_path / "one", "--method", "pcm", "--steps", "4") == 0
