"""Scores on the validation split leave the bits alone, and keep the best checkpoint."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep.analysis.doctor import subject_of
from fewstep.analysis.doctor.training_log import training_log
from fewstep.base.errors import StorageError, UserError
from fewstep.base.randomness import block_seed, generator
from fewstep.cli import main
from fewstep.run.checkpoint import RunFolder
from fewstep.run.checkpoint.best import Best, read_best
from fewstep.run.datasets import data_of
from fewstep.run.levels import LevelChoice
from fewstep.training import loop, scores
from fewstep.training.classifier import classifier
from fewstep.training.curves import beginnings, curves, smooth
from tests.support.toys import Killed, kill_at, tiny_run

SCORE = st.none() | st.sampled_from([0.0, 0.5, 1.0])  # equal ones too
VALUES = st.lists(SCORE, min_size=6, max_size=6)


def train(run, *data, **options):
    return fs.train(run, *data, progress=False, device="cpu", **options)


def scores_in(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["eval_energy"]) for row in rows if "eval_energy" in row]


def labelled(path: Path, rows: int = 120) -> str:
    """A file with two classes in the plane."""
    labels = torch.arange(rows) % 2
    x0 = torch.randn(rows, 2, generator=generator(0, "labelled")) + 4 * labels[:, None]
    np.savez(path, x0=x0.numpy(), labels=labels.numpy())
    return str(path)


def test_the_bits_are_those_of_a_run_without_and_a_kill_changes_no_choice(tmp_path, caplog):
    run = tiny_run(eval_every=1, checkpoint_every=3)
    plain = train(tiny_run(checkpoint_every=3))
    whole = train(run, out=tmp_path / "whole")
    assert whole.fingerprint == plain.fingerprint

    with pytest.raises(Killed):
        train(run, out=tmp_path / "killed", watch=kill_at(5))
    assert train(run, out=tmp_path / "killed", resume=True).fingerprint == plain.fingerprint
    assert [step for step, _ in scores_in(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    assert scores_in(tmp_path / "killed") == scores_in(tmp_path / "whole")
    best = read_best(tmp_path / "whole" / "best.json")
    assert best == read_best(tmp_path / "killed" / "best.json")
    step, value = min(scores_in(tmp_path / "whole"), key=lambda pair: pair[1])
    assert best == Best(step, "energy", value)
    assert fs.load(tmp_path / "whole" / "best").step == step
    assert caplog.text == ""  # the log is what the chain says


@settings(max_examples=12)
@given(values=VALUES, keep=st.sampled_from([0, 2, 3]), kill_after=st.integers(1, 6))
def test_the_best_checkpoint_stays_whenever_it_comes(tmp_path_factory, values, keep, kill_after):
    out = tmp_path_factory.mktemp("run")
    run = tiny_run(eval_every=1, checkpoint_every=2, keep_checkpoints=keep, iterations=6)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores.Scores, "of", lambda self, state: values[state.step - 1])
        with pytest.raises(Killed):
            train(run, out=out, watch=kill_at(kill_after))
        train(run, out=out, resume=True)
    finite = [(value, step) for step, value in enumerate(values, 1) if value is not None]
    best = read_best(out / "best.json")
    steps = {int(path.name[5:]) for path in RunFolder(out).checkpoints()}
    if not finite:
        assert best is None
        return
    value, step = min(finite)
    assert best == Best(step, "energy", value)
    assert step in steps
    assert {4, 6} & steps  # of the newest
    if keep:
        assert len(steps - {step}) <= keep
    assert fs.load(out / "best").step == step


def test_doctor_reads_the_rows_of_steps_alone_and_knows_an_extended_end(tmp_path):
    train(tiny_run(eval_every=2, extend=2), out=tmp_path)
    subject = subject_of(tmp_path, device="cpu")
    assert [row["step"] for row in subject.log] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert subject.progress == 5 / 6
    severities = {one.name: one.severity for one in training_log(subject).verdicts}
    assert severities["unfinished"] == severities["non-finite"] == "ok"


def test_each_stage_has_a_best_of_its_own(tmp_path, monkeypatch):
    """Of progressive distillation the first has more steps, and so a lower score."""
    values = [0.1, 0.2, 0.5, 0.3, 0.7, 0.6]
    monkeypatch.setattr(scores.Scores, "of", lambda self, state: values[state.step - 1])
    halving = {"method": "pd", "method_options": {"steps": 4}}
    run = tiny_run(eval_every=1, checkpoint_every=9, **halving)
    with pytest.raises(Killed):
        train(run, out=tmp_path, watch=kill_at(4))
    assert read_best(tmp_path / "best.json") == Best(4, "energy", 0.3)
    train(run, out=tmp_path, resume=True)
    assert read_best(tmp_path / "best.json") == Best(6, "energy", 0.6)


def test_a_score_is_the_distance_of_samples_of_the_average_to_validation_rows(tmp_path):
    result = train(tiny_run(eval_every=6), out=tmp_path)
    rows = fs.data.load("ring8").validation.x0
    order = scores.permutation(0, "scores", 0, len(rows))[: scores.MOST]
    seed = block_seed(result.run.seed, "scores", 0)
    x = result.sample(scores.MOST, steps=1, seed=seed)
    ((step, value),) = scores_in(tmp_path)
    assert step == 6
    assert value == pytest.approx(fs.metrics.energy(x, rows[order]), rel=1e-12)


def test_labelled_data_are_scored_through_their_classifier(tmp_path):
    run = tiny_run(eval_every=6, data=labelled(tmp_path / "two.npz"))
    result = train(run, out=tmp_path)
    best = read_best(tmp_path / "best.json")
    assert (best.step, best.metric) == (6, "feature_frechet")
    dataset = data_of(result.run, result.facts)
    own = dataset.validation
    own = own.rows(scores.permutation(0, "scores", 0, len(own)))
    x = result.sample(len(own), seed=block_seed(run.seed, "scores", 0), cond=own.cond)
    judge = classifier(dataset)
    features = [judge.features(one) for one in (dataset.units.to_model(x), own.x0)]
    assert best.value == pytest.approx(fs.metrics.frechet(*features), rel=1e-9)
    energy = replace(run, eval_metric="energy")  # another metric chooses anew
    train(replace(energy, extend=2), out=tmp_path, resume=True)
    assert read_best(tmp_path / "best.json").metric == "energy"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "two.npz", "holdout": 0}, "0 rows are held out.*--holdout 0.1, or --validation"),
        ({"eval_metric": "feature_frechet"}, "have no classes.*expected energy"),
    ],
)
def test_a_run_that_cannot_be_scored_does_not_start(tmp_path, fields, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labelled(Path("two.npz"))
    with pytest.raises(UserError, match=message):
        train(tiny_run(eval_every=2, **fields), out=tmp_path)
    assert not (tmp_path / "run.json").exists()
    with pytest.raises(UserError, match="arrays in Python are all learned"):
        train(tiny_run(eval_every=2), torch.randn(20, 2), out=tmp_path)
    with pytest.raises(UserError, match="eval_every = -1: expected 0 or more"):
        tiny_run(eval_every=-1)


def test_the_best_checkpoint_has_a_name_for_every_verb(tmp_path, monkeypatch, capsys):
    values = iter([0.5, 0.125, 0.25])
    monkeypatch.setattr(scores.Scores, "of", lambda self, state: next(values))
    out = tmp_path / "r"
    small = ["--iterations", "6", "--batch", "32", "--network.width", "8", "--eval-every", "2"]
    assert main(["train", "toy", "--out", str(out), *small]) == 0
    shown = capsys.readouterr()
    assert f"best: {out}/best, step 4 with energy 0.125" in shown.out
    assert "step 4: energy 0.125 on validation, the best so far" in shown.err
    assert main(["inspect", str(out / "best"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 4
    assert main(["sample", str(out / "best"), "--n", "4", "--out", str(tmp_path / "x.npy")]) == 0
    x = np.load(tmp_path / "x.npy")
    assert np.array_equal(x, fs.load(out / "checkpoints" / "step-4").sample(4).numpy())
    student = ["train", "toy", "--init", str(out / "best"), "--iterations", "1", "--batch", "32"]
    assert main([*student, "--network.width", "8", "--out", str(tmp_path / "s")]) == 0


def test_another_metric_begins_the_choice_anew_also_when_it_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(scores.Scores, "of", lambda self, state: 1 / state.step)
    data, steps = labelled(tmp_path / "x.npz"), {}
    for number, metric in enumerate(("energy", "feature_frechet", "energy")):
        run = tiny_run(data=data, eval_every=2, eval_metric=metric, extend=4 * number)
        if number == 2:  # the first step of the last part has a higher score than all before
            monkeypatch.setattr(scores.Scores, "of", lambda self, state: float(state.step))
        train(run, out=tmp_path / "r", resume=number > 0)
        best = read_best(tmp_path / "r" / "best.json")
        assert fs.load(tmp_path / "r" / "best").step == best.step
        steps[number] = (best.metric, best.step)
    assert steps == {0: ("energy", 6), 1: ("feature_frechet", 10), 2: ("energy", 12)}


def test_a_run_at_its_end_is_scored_when_that_is_asked_for(tmp_path):
    train(tiny_run(), out=tmp_path)
    for _ in range(2):
        train(tiny_run(eval_every=4), out=tmp_path, resume=True)
        assert [step for step, _ in scores_in(tmp_path)] == [6]
        assert fs.load(tmp_path / "best").step == 6
    with pytest.raises(UserError, match="eval_every = 4: expected 0 without out"):
        train(tiny_run(eval_every=4))


def test_an_extension_forgets_the_levels_of_the_end_before(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "choose_levels", lambda *_: (LevelChoice({}, {1: 0.5}), ""))
    assert train(tiny_run(), out=tmp_path / "a").level_choice.scores
    steps = {}

    def look(state):
        steps[state.step] = bool(state.level_choice.scores)

    train(tiny_run(extend=2), out=tmp_path / "a", resume=True, watch=look)
    assert steps == {7: False, 8: True}


def test_what_best_names_is_checked(tmp_path):
    out = tmp_path / "r"
    train(tiny_run(), out=out)
    with pytest.raises(UserError, match="no step was scored, --eval-every N"):
        fs.load(out / "best")
    for text in ("{}", '{"step": "../6", "metric": "a", "value": 1.0}', "[", "x" * 5000):
        (out / "best.json").write_text(text)
        with pytest.raises(StorageError, match=r"best\.json"):
            fs.load(out / "best")
    train(tiny_run(extend=4), out=out, resume=True)  # which one is the best is not known: all stay
    assert len(RunFolder(out).checkpoints()) == 4
    Best(3, "energy", 0.1).write(out / "best.json")
    with pytest.raises(StorageError, match="step-3"):
        fs.load(out / "best")


@pytest.mark.parametrize("count", [1, 49, 50, 333])
def test_the_smooth_line_is_of_means_over_a_25th_of_the_values(count):
    y = np.arange(count) ** 2.0
    half = count // 50
    means = [y[max(0, i - half) : i + half + 1].mean() for i in range(count)]
    assert smooth(y) == pytest.approx(np.array(means))


def test_stages_and_extensions_are_marked_where_they_begin():
    rows = [{"step": step, "loss": 1.0, "stage": 1 + (step > 30)} for step in range(10, 80, 10)]
    rows.insert(3, {"step": 30, "eval_energy": 0.1})
    run = tiny_run(iterations=60)
    assert beginnings(rows, run) == {"stage 2": 30}
    assert beginnings(rows, replace(run, extend=10)) == {"stage 2": 30, "extension": 60}


@pytest.mark.pictures
def test_a_run_ends_with_its_curves_and_a_page(tmp_path, capsys, monkeypatch, caplog):
    out = tmp_path / "r"
    train(tiny_run(eval_every=2), out=out)
    picture = (out / "curves.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    assert main(["inspect", str(out), "--html", str(tmp_path / "page.html")]) == 0
    assert main(["inspect", str(out), "--html", str(tmp_path)]) == 2
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # curves and samples
    assert fs.load(out).fingerprint in page
    # Other numbers give another picture, and no number is no failure.
    assert curves([{"step": 1, "loss": None}, {"step": 2, "eval_x": None}], tiny_run()) != picture
    # Without matplotlib it is one line.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (out / "curves.png").unlink()
    train(tiny_run(eval_every=2, extend=1), out=out, resume=True)
    lines = [record.message for record in caplog.records if "curves.png" in record.message]
    assert len(lines) == 1
    assert "pip install 'fewstep[report]'" in lines[0]
    assert not (out / "curves.png").exists()
