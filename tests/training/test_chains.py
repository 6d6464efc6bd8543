"""Runs of more than two stages: who teaches whom, where a run starts, and that it resumes."""

from __future__ import annotations

import json
import shutil

import pytest

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.run import checkpoint
from fewstep.run.config import run_from_json
from fewstep.run.stages import stages
from fewstep.training.optimizers import lr_factor
from tests.support.toys import tiny_run
from tests.training.test_stages import same, steps, train, trained_to, weights

__all__ = ["steps"]  # a fixture

HALVINGS = {"steps": 4}
TEACHER = {"teacher": "exact:ring8"}


def halvings(**fields) -> fs.Run:
    options = {**HALVINGS, **fields.pop("method_options", {})}
    return tiny_run(method="pd", method_options=options, **{**TEACHER, **fields})


def test_each_halving_starts_from_and_learns_from_the_student_before(steps, tmp_path):
    generator = train(halvings(iterations=9, stage_init="student"), tmp_path)
    assert ["frozen" in row["before"] for row in steps] == [False] * 3 + [True] * 6
    assert [row["method"].sampler.default for row in steps[::3]] == [4, 2, 1]
    for row in (steps[3], steps[6]):
        assert row["moments"] == 0
        assert same(row["before"]["student"], row["before"]["frozen"])
        assert same(row["before"]["student"], row["before"]["ema"])
    assert not same(steps[3]["before"]["frozen"], steps[6]["before"]["frozen"])
    assert generator.sample(3).shape == (3, 2)
    assert generator.method.sampler.default == 1
    assert fs.load(tmp_path, ema="frozen").method.sampler.default == 2
    with pytest.raises(UserError, match="expected a second stage and its frozen first"):
        fs.load(tmp_path, composite=True)


@pytest.mark.long
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_resumed_between_and_within_halvings_is_uninterrupted(step, tmp_path):
    run = halvings(iterations=6, checkpoint_every=1, lr_clock="stage", decay="linear")
    whole = train(run, tmp_path / "whole")
    trained_to(run, tmp_path / "cut", step)
    record = checkpoint.read(tmp_path / "cut" / "checkpoints" / f"step-{step}").record
    number = (step + 1) // 2
    assert record.stage == number
    early = fs.load(tmp_path / "cut")
    assert early.sample(2).shape == (2, 2)
    assert early.method.sampler.default == 8 >> number
    assert train(run, tmp_path / "cut", resume=True).fingerprint == whole.fingerprint


def test_the_self_teacher_follows_each_phase(steps, tmp_path):
    run = tiny_run(method="tract", method_options={"steps": (16, 4, 1)}, iterations=4, **TEACHER)
    generator = train(run, tmp_path)
    assert [row["method"].sampler.default for row in steps] == [4, 4, 1, 1]
    assert same(steps[2]["before"]["target"], steps[2]["before"]["frozen"])
    assert not same(steps[3]["before"]["target"], steps[3]["before"]["frozen"])
    assert train(run, tmp_path, resume=True).fingerprint == generator.fingerprint


def test_shares_and_the_stages_own_clock():
    run = halvings(iterations=8, shares=(1, 1, 2), lr_clock="stage", warmup=0, constant=0)
    method = fs.methods.pd(**HALVINGS)
    assert [(s.number, s.first, s.last) for s in stages(run, method)] == [
        (1, 0, 2),
        (2, 2, 4),
        (3, 4, 8),
    ]
    assert [lr_factor(p, 0.0, 0.0, 0.0, "linear") for p in (0.0, 0.25, 1.0)] == [1, 0.75, 0]
    for wrong, message in (
        ({"shares": (1, 1)}, "3 numbers, one for each stage"),
        ({"iterations": 2}, "iterations = 2: expected at least 3, one for each stage"),
    ):
        with pytest.raises(UserError, match=message):
            train(halvings(**wrong))


def test_a_student_of_one_stage_is_where_the_next_begins(tmp_path):
    first = train(halvings(method_options={"last": 2}), tmp_path / "first")
    run = train(halvings(iterations=2, teacher=None), init=first).run
    assert (run.stage, run.age) == (3, 6)
    assert train(halvings(iterations=3), init=train(tiny_run(method="diffusion"))).run.stage == 1
    with pytest.raises(UserError, match="learns from a teacher"):
        train(halvings(teacher=None))
    with pytest.raises(UserError, match=r"stage = 4: expected 1 \.\. 3"):
        train(halvings(stage=4), init=first)


@pytest.mark.parametrize("start", ["average", "student", "initial"])
def test_a_second_stage_starts_from_what_it_is_told(start, steps, tmp_path):
    first = train(tiny_run(method="diffusion"))
    steps.clear()
    run = tiny_run(
        method="tcm", iterations=3, split=0.6, stage_init=start, checkpoint_every=1, ema=0.9
    )
    whole = train(run, tmp_path / "whole", init=first)
    ended = checkpoint.read(tmp_path / "whole" / "checkpoints" / "step-2").groups
    now = steps[2]["before"]
    source = {"average": ended["ema"], "student": ended["student"], "initial": weights(first)}
    assert same(now["student"], source[start])
    assert same(now["ema"], source[start])
    assert same(now["frozen"], ended["student" if start == "student" else "ema"])
    assert ("initial" in now) == (start == "initial")
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    shutil.rmtree(cut / "checkpoints" / "step-3")
    assert train(run, cut, resume=True, init=first).fingerprint == whole.fingerprint


def test_a_third_truncated_stage_keeps_the_second_below(steps, tmp_path):
    options = {"base": {"method": "tcm", "base": "ect"}, "t_prime": 2.0}
    run = tiny_run(method="tcm", method_options=options, iterations=6)
    generator = train(run, tmp_path)
    assert [row["method"].trained_from for row in steps] == [0, 0, 1, 1, 2, 2]
    assert steps[5]["times"].t.min() == 2
    assert same(weights(fs.load(tmp_path, ema="frozen")), steps[4]["before"]["ema"])
    assert fs.load(tmp_path, ema="frozen").method.trained_from == 1
    both = fs.load(tmp_path, composite=True).with_later_sigmas((1.5,))
    assert both.sample(2, steps=2).shape == (2, 2)
    with pytest.raises(UserError, match="trained from t = 1 on"):
        both.with_later_sigmas((0.5,)).sample(2, steps=2)
    second = train(tiny_run(method="tcm"))
    assert train(run, init=second).run.stage == 3
    assert train(run, init=train(tiny_run(method="ect"))).run.stage == 2
    assert generator.method == fs.methods.tcm(
        base=fs.methods.tcm(sigma_data=generator.facts.sigma_data),
        t_prime=2.0,
        sigma_data=generator.facts.sigma_data,
    )
    for wrong, message in (({"t_prime": 0.5}, "in 1 .. 80"), ({"ratio": 0.1}, "ratio = 0.1")):
        with pytest.raises(UserError, match=message):
            fs.methods.tcm(base=fs.methods.tcm(), **{"t_prime": 2.0, **wrong})


def test_runs_of_older_versions_have_no_shares():
    values = json.loads(json.dumps(tiny_run(method="tcm", stage=2).to_json()))
    del values["shares"], values["stage_init"]
    assert run_from_json(values) == tiny_run(method="tcm", stage=2)
