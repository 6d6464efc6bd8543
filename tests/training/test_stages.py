"""Runs of two stages: what is handed over, which clocks go on, where a run starts, and what it
refuses.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.run import sources, stages
from fewstep.run.profiles import ema_rate
from fewstep.training import hand_over, loop
from fewstep.training.optimizers import lr_factor
from fewstep.training.precision import LossScale
from fewstep.training.state import State
from tests.support.toys import tiny_run


def two_stages(**fields) -> fs.Run:
    options = {"base": {"method": "ect", "stages": 3}, **fields.pop("method_options", {})}
    return tiny_run(method="tcm", method_options=options, **fields)


def train(run, folder=None, **options) -> fs.Generator:
    return fs.train(run, out=folder, progress=False, device="cpu", **options)


def weights(generator) -> dict[str, torch.Tensor]:
    return generator.denoiser.state_dict()


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def steps(monkeypatch):
    """What every step was given, and the state before and after it."""
    rows, whole = [], loop.train_step

    def noting(stage, state: State, batch):
        before = {
            name: {k: v.clone() for k, v in m.state_dict().items()}
            for name, m in state.modules().items()
        }
        moments = len(state.optimizer.state)
        row = whole(stage, state, batch)
        rows.append(
            {
                "method": stage.method,
                "before": before,
                "moments": moments,
                "times": batch.times,
                **row,
            }
        )
        return row

    monkeypatch.setattr(loop, "train_step", noting)
    return rows


def test_the_average_becomes_student_frozen_and_average_and_the_optimizer_is_new(steps, tmp_path):
    run = two_stages(iterations=8, split=0.5)
    train(run, tmp_path)
    first, second = steps[3], steps[4]
    assert (first["method"].before, second["method"].before) == (None, first["method"])
    assert "frozen" not in first["before"]
    for name in ("student", "frozen"):
        assert same(second["before"][name], second["before"]["ema"])
    assert not same(first["before"]["student"], first["before"]["ema"])
    assert (first["moments"] > 0, second["moments"]) == (True, 0)
    last = fs.load(tmp_path)
    assert same(
        weights(fs.load(tmp_path, ema="frozen")), second["before"]["frozen"]
    )  # it never moved
    assert not same(weights(last), second["before"]["ema"])


def test_each_stage_sees_its_own_progress_and_the_clocks_go_on(steps, tmp_path):
    run = two_stages(iterations=8, split=0.25, warmup=0.0, constant=0.0, stage_lr=0.5)
    train(run)
    assert [row["times"].progress for row in steps] == [0, 0.5, *(i / 6 for i in range(6))]
    rates = [
        run.lr * lr_factor(i / 8, 0.0, 0.0, run.final) * (1 if i < 2 else 0.5) for i in range(8)
    ]
    assert [row["lr"] for row in steps] == pytest.approx(rates)
    last = steps[-1]["method"].times.times
    assert last.ratio(0.0) == last.ratio(1.0) == steps[0]["method"].times.ratio(1.0) == 1 - 2**-3


def test_the_learning_rate_can_begin_anew_with_each_stage(steps):
    run = two_stages(
        iterations=8, split=0.5, warmup=0.0, constant=0.0, stage_lr=0.5, lr_clock="stage"
    )
    train(run)
    one = [run.lr * lr_factor(i / 4, 0.0, 0.0, run.final) for i in range(4)]
    assert [row["lr"] for row in steps] == pytest.approx([*one, *(rate / 2 for rate in one)])


def test_the_average_keeps_its_age_over_the_switch(steps):
    """Its last move: average <- rate average + (1 - rate) student, with the rate of all steps so
    far.
    """
    train(two_stages(iterations=6, ema=0.9999))
    one, two = steps[4]["before"], steps[5]["before"]
    name = "network.outlet.weight"
    rate = ema_rate(4, 0.9999)
    target = rate * one["ema"][name] + (1 - rate) * two["student"][name]
    torch.testing.assert_close(two["ema"][name], target)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_resumed_is_uninterrupted_before_at_and_behind_the_switch(step, tmp_path):
    run = two_stages(iterations=6, checkpoint_every=1, optimizer="radam")
    whole, part = tmp_path / "whole", tmp_path / "parted"
    reference = train(run, whole)
    shutil.copytree(whole, part)
    for folder in (part / "checkpoints").iterdir():
        shutil.rmtree(folder)
    stop = tmp_path / "stop"
    trained_to(run, stop, step)
    shutil.copytree(stop / "checkpoints" / f"step-{step}", part / "checkpoints" / f"step-{step}")
    assert fs.load(part).step == step
    assert train(run, part, resume=True).fingerprint == reference.fingerprint


def test_the_log_names_the_stage_of_each_row_where_there_are_two(tmp_path):
    train(two_stages(iterations=4, split=0.25), tmp_path / "two")
    train(tiny_run(iterations=4), tmp_path / "one")
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [row["stage"] for row in two] == [1, 2, 2, 2]
    assert not any("stage" in row for row in one)


def trained_to(run, folder, step):
    """The run's folder as it was at that step: stopped by a request."""
    whole = loop.train_step

    def stopping(*args):
        row = whole(*args)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    loop.train_step = stopping
    try:
        with pytest.raises(fs.errors.Stopped):
            train(run, folder)
    finally:
        loop.train_step = whole


def test_a_consistency_run_starts_at_the_second_stage_with_its_ratio_and_age(steps, tmp_path):
    first = tmp_path / "first"
    train(tiny_run(method="ect", method_options={"stages": 2}, iterations=5), first)
    steps.clear()
    run = two_stages(iterations=4, init=str(first))
    generator = train(run, tmp_path / "second")
    settings = generator.run
    assert (settings.stage, settings.age, settings.method_options["ratio"]) == (2, 5, 0.75)
    assert steps[0]["method"].before is not None
    for name in ("student", "frozen", "ema"):
        assert same(steps[0]["before"][name], weights(fs.load(first)))
    assert steps[0]["lr"] == pytest.approx(
        run.stage_lr * run.lr * lr_factor(5 / 9, run.warmup, run.constant, run.final)
    )
    assert train(run, tmp_path / "second", resume=True).fingerprint == generator.fingerprint


def test_what_starts_where(tmp_path, capsys):
    for name, method in (("ect", "ect"), ("diffusion", "diffusion"), ("tcm", "tcm")):
        train(two_stages() if method == "tcm" else tiny_run(method=method), tmp_path / name)
    run = two_stages()
    by_object = train(run, init=fs.load(tmp_path / "ect")).run
    assert (by_object.stage, by_object.age) == (2, 6)
    assert train(run, init=tmp_path / "diffusion").run.stage == 1
    assert (
        train(run, init=fs.load(tmp_path / "ect").denoiser.network).run.stage == 1
    )  # a bare network
    assert train(two_stages(stage=1), init=tmp_path / "ect").run.age == 0
    second = train(two_stages(stage=2, age=7), init=fs.load(tmp_path / "diffusion")).run
    assert (second.stage, second.age) == (2, 7)
    fs.train(run, init=tmp_path / "ect", device="cpu")
    output = capsys.readouterr().err
    assert "stage 2 (t >= 1, r/t 0.9844) from the initial weights" in output
    assert "averages and learning rate go on as after 6 steps" in output
    fs.train(two_stages(lr_clock="stage"), init=tmp_path / "ect", device="cpu")
    assert "averages go on as after 6 steps" in capsys.readouterr().err
    with pytest.raises(UserError, match="knows nothing below t = 1"):
        train(run, init=tmp_path / "tcm")
    with pytest.raises(UserError, match="stage = 2: expected initial weights"):
        train(two_stages(stage=2))
    with pytest.raises(UserError, match="'ect' has no second"):
        train(tiny_run(stage=2))
    with pytest.raises(UserError, match=r"split = 0\.01: expected"):
        train(two_stages(split=0.01))


def test_two_steps_below_t_prime_need_the_composite(tmp_path):
    generator = train(two_stages(later_sigmas=(0.8,)), tmp_path)
    with pytest.raises(
        UserError, match=r"asks at t = 0\.8, but this student was trained from t = 1 on"
    ):
        generator.sample(2, steps=2)
    both = fs.load(tmp_path, composite=True)
    grid = [80.0, 0.8, 0.0]
    noise = lambda i: torch.zeros(4, 2)  # noqa: E731
    low, high = fs.load(tmp_path, ema="frozen"), fs.load(tmp_path)
    target = low.denoiser(high.denoiser(80 * torch.ones(4, 2), 80.0), 0.8)
    result = fs.sampling.sample(
        both.method.process, both.denoiser, 80 * torch.ones(4, 2), grid, noise=noise
    )
    assert torch.equal(result, target)
    assert both.sample(3, steps=2).shape == (3, 2)
    both.save(tmp_path / "shipped")
    again = fs.load(tmp_path / "shipped", composite=True)
    assert torch.equal(again.sample(3, steps=2), both.sample(3, steps=2))
    assert low.sample(3, steps=2).shape == (3, 2)  # the first stage alone has no such bound
    train(tiny_run(), tmp_path / "one")
    with pytest.raises(UserError, match="expected a second stage and its frozen first"):
        fs.load(tmp_path / "one", composite=True)


def test_the_middle_time_is_the_methods_own_unless_set(tmp_path):
    assert train(two_stages()).run.later_sigmas == (1.0,)
    assert train(tiny_run()).run.later_sigmas == (0.821,)
    assert train(two_stages()).sample(2, steps=2).shape == (2, 2)


def test_a_base_is_settled_with_all_its_options_and_survives_the_folder(tmp_path):
    run = tiny_run(
        method="gc", method_options={"base": {"method": "tcm", "base": "ect"}, "share": 0.25}
    )
    generator = train(run, tmp_path)
    values = json.loads((tmp_path / "run.json").read_text())["method_options"]
    assert values["base"]["base"]["stages"] == 8
    assert fs.load(tmp_path).method == generator.method
    assert isinstance(generator.method.target, fs.targets.Truncated)
    assert [stage.number for stage in stages.stages(generator.run, generator.method)] == [1, 2]
    for wrong, message in (
        ({"base": "etc"}, "did you mean 'ect'"),
        ({"base": {"q": 2}}, "expected a method's name"),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny_run(method="gc", method_options=wrong))


def test_a_second_stage_whose_first_steps_overflowed_is_resumed(tmp_path, monkeypatch):
    """Its optimizer is new and empty, though the run has made steps: the bits are the same."""
    monkeypatch.setattr(hand_over, "LossScale", lambda: LossScale(factor=2.0**40))
    run = two_stages(precision="fp16", iterations=6, split=0.5, checkpoint_every=1)
    whole = train(run, tmp_path / "whole")
    step = loop.train_step

    def stop(stage, state, batch):
        if state.step == 5:
            has_moments = any(state.optimizer.state.values())
            assert (state.stage_start, state.scale.skipped, has_moments) == (3, 2, False)
            # An error, after which the loop waits for its save; an interrupt would leave it going.
            raise LookupError("cut here")
        return step(stage, state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop)
        with pytest.raises(LookupError):
            train(run, tmp_path / "cut")
    assert train(run, tmp_path / "cut", resume=True).fingerprint == whole.fingerprint


def test_the_targets_own_average_is_handed_over_too(steps):
    """Of a base whose target is a slower average than the run's: at the switch it is the run's,
    afterwards not.
    """
    base = replace(fs.methods.ect(), target=fs.targets.Ema(fs.curricula.FixedRate(0.9)))
    train(tiny_run(iterations=4, split=0.5, ema=0.5), method=fs.methods.tcm(base=base))
    apart = [not same(row["before"]["target"], row["before"]["ema"]) for row in steps]
    assert apart == [False, apart[1], False, True]
    assert not same(steps[2]["before"]["target"], steps[1]["before"]["target"])


def test_the_targets_rate_follows_the_stages_own_progress():
    shares = []
    rate = lambda progress: shares.append(progress) or 0.5  # noqa: E731
    base = replace(fs.methods.ect(), target=fs.targets.Ema(rate))
    train(tiny_run(iterations=4, split=0.5), method=fs.methods.tcm(base=base))
    assert shares == [0, 0.5, 0, 0.5]


@pytest.mark.parametrize("kind", ["folder", "generator"])
def test_initial_weights_are_as_old_as_all_runs_before_them(tmp_path, kind):
    model = train(tiny_run(method="ect", iterations=4, age=10), tmp_path)
    assert sources.weights_of("init", tmp_path if kind == "folder" else model).step == 14


def test_a_first_stage_is_known_as_such_until_the_switch(tmp_path):
    """Its weights are a consistency model at all times, whatever the run will be."""
    run = two_stages(iterations=8, checkpoint_every=1)
    trained_to(run, tmp_path / "early", 3)
    early = fs.load(tmp_path / "early")
    assert early.method.before is None
    assert early.sample(2, steps=3).shape == (2, 2)
    early.save(tmp_path / "kept")
    assert fs.load(tmp_path / "kept").method == early.method
    second = train(two_stages(iterations=4), init=tmp_path / "early").run
    ratio = early.method.times.ratio(3 / 8)  # where it stopped, and not where it would have ended
    assert (second.stage, second.age, second.method_options["ratio"]) == (2, 3, ratio)
    train(two_stages(), tmp_path / "whole")
    first = fs.load(tmp_path / "whole", ema="frozen")
    first.save(tmp_path / "first")
    assert fs.load(tmp_path / "first").sample(2, steps=3).shape == (2, 2)
    with pytest.raises(UserError, match="expected a second stage and its frozen first"):
        fs.load(tmp_path / "whole", ema="frozen", composite=True)


def test_only_consistency_models_of_the_same_data_are_first_stages(tmp_path):
    direct = {"method_options": {"n": 4}, "teacher": "exact:ring8", "batch": 16, "iterations": 2}
    assert train(two_stages(), init=train(tiny_run(method="direct_cm", **direct))).run.stage == 2
    segments = train(tiny_run(method="mcm", method_options={"K": 4, "steps": 16, "steps_end": 16}))
    assert train(two_stages(), init=segments).run.stage == 1
    with pytest.raises(UserError, match="the stage before given as init has sigma_data"):
        train(two_stages(sigma_data=0.3), init=train(tiny_run()))
    model = train(tiny_run(method="sct", method_options={"label": "time"}))
    with pytest.raises(UserError, match="its network was trained under Trig"):
        train(two_stages(), init=model)


def test_other_later_sigmas_than_the_runs(tmp_path):
    generator = train(two_stages(later_sigmas=(0.8,)))
    assert generator.with_later_sigmas((2.0,)).sample(2, steps=2).shape == (2, 2)
    assert generator.with_later_sigmas(None) is generator
    with pytest.raises(UserError, match="later_sigmas"):
        generator.with_later_sigmas((100.0,))
