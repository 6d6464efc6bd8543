"""`fewstep bench`: what it counts is true of the runs, and its words are refused in one line."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch

from fewstep.base.timing import in_turn, span, spans
from fewstep.bench import steps
from fewstep.cli import main, train
from fewstep.cli.bench import TABLE, Args
from fewstep.cli.choices import choices
from fewstep.cli.parse import parse_own
from fewstep.cli.plan import prepare_run
from fewstep.run.prepare import prepare
from fewstep.run.recipes import RECIPES
from fewstep.statistics.intervals import median_interval
from tests.support.toys import TINY


def bench(capsys, *words):
    assert main(["bench", *words, "--repeats", "6", "--quiet", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_steps_and_samples_over_their_floors(capsys):
    """ECT passes its rows twice, and of MeanFlow's only those off the diagonal on both sides."""
    facts = bench(capsys, "toy", *TINY, "--method", "ect,meanflow", "--sizes", "1,3")
    ect, meanflow = facts["steps"]
    assert [one["method"] for one in facts["steps"]] == ["ect", "meanflow"]
    rows = ect["batch"]
    assert ect["passes"] == {"student plain": rows, "student learning": rows}
    assert meanflow["passes"]["student learning"] == rows
    assert 0 < meanflow["passes"]["student plain"] < 2 * rows
    for one in facts["steps"]:
        assert one["device"] == "cpu"
        assert one["interval"][0] <= one["ratio"] <= one["interval"][1]
        assert {"batch", "target", "student", "backward", "averages"} < one["parts"].keys()
        assert one["floor_memory"] >= 20 * one["weights"]  # two moments, an average, a gradient
        assert one["memory"] > one["floor_memory"]
    assert ect["of_first"] == 1
    assert [(one["batch"], one["steps"]) for one in facts["sampling"]] == [(1, 1), (3, 1)]
    assert facts["machine"]["torch"] == torch.__version__


def test_pictures_need_no_data(capsys):
    """A shape is enough, labels and a teacher included; and several values are several rows."""
    shape = ["--shape", "1,8,8", "--classes", "3", "--batch", "4", "--block", "4"]
    small = ["--network.width", "32", "--network.dropout", "0,0.5", "--method", "cd"]
    facts = bench(capsys, "digits-unet", *shape, *small)
    without, with_dropout = facts["steps"]
    assert [one["dropout"] for one in facts["steps"]] == [False, True]
    assert without["passes"] == with_dropout["passes"]


def test_a_method_of_stages_is_timed_in_its_last():
    """TCM's second stage asks its frozen first one too, and starts from its average."""
    prepared = prepare(RECIPES["toy"](method="tcm", iterations=10, batch=64))
    trainer = steps.Trainer("tcm", prepared)
    assert trainer.stage.number == 2
    assert trainer.state.frozen is not None
    passes = steps.describe(trainer.floor.passes)
    assert set(passes) == {"student plain", "student learning", "frozen plain"}
    # It takes the same step again, and the floor changes nothing of it.
    before = trainer.state.step
    trainer.floor()
    trainer.step()
    assert trainer.state.step == before


def test_what_cannot_be_sampled_so_is_said_and_steps_are_timed(capsys):
    """PCM's students make four steps alone; and a jvp is a floor too."""
    words = ["toy", *TINY, "--repeats", "6", "--quiet"]
    assert main(["bench", *words, "--method", "pcm"]) == 0
    assert "samples: not timed: steps = 1" in capsys.readouterr().out
    jvp = ["--method", "meanflow", "--method.derivative", "jvp"]
    (one,) = bench(capsys, "toy", *TINY, *jvp)["steps"]
    assert any(name == "student derived" for name in one["passes"])


def test_the_floor_steps_all_that_learns():
    """Of VCT the encoder too: its gradient is that of one call, however many there were."""
    trainer = steps.Trainer("vct", prepare(RECIPES["toy"](method="vct", iterations=10, batch=64)))
    encoder = trainer.floor.state.trainable["encoder"]
    norms = []
    for _ in range(2):
        trainer.floor()
        grads = [p.grad for p in encoder.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(grads))
    assert norms[1] < 1.5 * norms[0]


@pytest.mark.parametrize("words", TABLE, ids=" ".join)
def test_each_row_of_the_table_can_be_made(words):
    """No teacher, no data and no labels are missing."""
    own, rest = parse_own(Args, [*words], verb="bench", description="")
    for way in choices([*rest, "--data", "digits"]):
        args, run, code, _ = train.read(way.words, "bench")
        prepare_run(run, code, args.device, own.shape, own.classes)


def test_in_turn_times_each_call_in_each_round():
    """By a clock that moves when a call says so: one of a long call, several of a short one."""
    now = 0.0
    order = []

    def call(name, seconds):
        nonlocal now
        now += seconds
        order.append(name)

    calls = {"long": partial(call, "long", 2.0), "short": partial(call, "short", 0.25)}
    times = in_turn(calls, 3, lambda: now, least=1.0)
    assert times == {"long": [2.0] * 3, "short": [0.25] * 3}
    assert order[4:] == ["long", *["short"] * 4] * 3


def test_spans_are_heard_by_who_listens_and_by_profilers():
    now = iter(range(100))
    with spans(lambda: float(next(now))) as seconds:
        for _ in range(2):
            with span("a"):
                pass
        with span("b"):
            next(now)
    assert seconds == {"a": 2.0, "b": 2.0}
    with torch.autograd.profiler.profile(use_kineto=False) as profile, span("c"):
        torch.ones(2).sum()
    assert "fewstep: c" in {one.key for one in profile.key_averages()}


@pytest.mark.parametrize(("count", "place"), [(6, 1), (8, 1), (9, 2), (25, 8), (100, 40)])
def test_the_interval_of_a_median(count, place):
    """The table of nonparametric intervals for the median (Conover 1999, table A3)."""
    values = [float(n) for n in range(1, count + 1)]
    assert median_interval(values[::-1]) == ((count + 1) / 2, place, count + 1 - place)


def test_a_median_of_few_values_has_no_interval():
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toy", "--repeats", "5"], "repeats = 5: expected 6 or more"),
        (["toy", "--sizes", "0"], "sizes = (0,): expected numbers from 1 on"),
        (["toy", "--method", "ect,ect"], "row = 'method-ect': expected another name"),
        (["toy", "--threads", "1,2"], "threads = [1, 2]: expected one number"),
        (["toy", "--accumulate", "2"], "accumulate = 2: expected 1"),
        (["--batch", "32"], "--batch: expected a RECIPE before it"),
        (["toy", "--shape", "3,x"], "shape = '3,x': expected numbers such as 3,32,32"),
    ],
)
def test_what_it_refuses(words, message, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
