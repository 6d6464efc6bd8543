"""The words of a sweep: which options have several values, and the runs that they make."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.base.errors import UserError
from fewstep.cli import train
from fewstep.cli.choices import choices
from fewstep.cli.parse import parse_own
from fewstep.cli.sweep import Args, entries_of


def settings_of(line):
    """The settings of each run that the words make, as they were read."""
    ways = choices(shlex.split(line))
    return [way.settings(train.read(way.words, "sweep")[1]) for way in ways]


@settings(max_examples=8)  # each reads command lines, which takes its time
@given(
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True),
    rates=st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=3, unique=True),
    is_repeated=st.booleans(),
)
def test_a_sweep_is_the_product_of_its_values(seeds, rates, is_repeated):
    texts = [*map(repr, rates)]
    words = (
        [w for text in texts for w in ("--lr", text)] if is_repeated else ["--lr", ",".join(texts)]
    )
    ways = choices(["toy", "--seed", ",".join(map(str, seeds)), *words])
    runs = [train.read(way.words, "sweep")[1] for way in ways[:: max(1, len(ways) - 1)]]
    assert len(ways) == len(seeds) * len(rates)
    assert [(run.seed, run.lr) for run in runs[:1]] == [(seeds[0], rates[0])]
    assert (runs[-1].seed, runs[-1].lr) == (seeds[-1], rates[-1])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # An option whose own value is a list is repeated.
        (
            "toy --later-sigmas 2.5,1 --later-sigmas=3",
            [{"later-sigmas": "2.5,1.0"}, {"later-sigmas": "3.0"}],
        ),
        ("toy --shares 1,1,2", [{}]),
        (
            "toy --middle_times 2 --later-sigmas 1",
            [{"later-sigmas": "2.0"}, {"later-sigmas": "1.0"}],
        ),
        # So is a flag, and what its opposite is.
        ("toy --flip --no-flip", [{"flip": "yes"}, {"flip": "no"}]),
        # The same word is a number of one method and a list of another.
        ("toy --method pd --method.steps 8,16", [{"method.steps": "8"}, {"method.steps": "16"}]),
        ("toy --method tract --method.steps 8,4,1", [{}]),
        # Methods, and methods within methods, are swept with their options.
        (
            "--method ect,ict --batch=128 toy",
            [{"method": "ect"}, {"method": "ict"}],
        ),
        (
            "toy --method gc --method.base ect,ict --method.share 0,1",
            [
                {"method.base": base, "method.share": share}
                for base in ("ect", "ict")
                for share in ("0.0", "1.0")
            ],
        ),
        ("toy --network.width 8 16", [{"network.width": "8"}, {"network.width": "16"}]),
        ("toy --units=-1..1,auto", [{"units": "-1..1"}, {"units": "auto"}]),
        ("toy --data a[1,2].npy,b.npy", [{"data": "a[1,2].npy"}, {"data": "b.npy"}]),
    ],
)
def test_what_is_swept(line, expected, monkeypatch):
    monkeypatch.setattr(train, "check_data_name", lambda name: None)
    assert settings_of(line) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lr 1e-3,2e-3", "name a recipe, for example 'fewstep sweep digits'"),
        ("toy --lr ,", "--lr ,: expected a value, or several with commas"),
        ("toy --lr 1e-3,x", "x"),
        ("toy --method ect,tcm --method.stages 6,7", "--method.stages"),  # of ect alone
        ("toy --out a --out b", "--out: expected one value, which all runs of a sweep have"),
        ("toy --method ect,etc", "unknown method 'etc'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(line, message):
    with pytest.raises(UserError) as caught:
        settings_of(line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_options_of_the_verb_stand_anywhere_among_those_of_train():
    line = "--metrics energy toy --steps 1 2 --lr=1e-3,1 --no-eval --n=5 --flip --jobs 2 --seed 1"
    own, rest = parse_own(Args, shlex.split(line), verb="sweep", description="")
    assert own == Args(metrics=("energy",), steps=(1, 2), scores=False, n=5, jobs=2)
    assert rest == ["toy", "--lr=1e-3,1", "--flip", "--seed", "1"]


def entries(line):
    ways = choices(shlex.split(line))
    return entries_of(ways, [train.read(way.words, "sweep")[1] for way in ways])


def test_folders_have_speaking_names():
    names = [one.name for one in entries("toy --seed 1,2 --lr 1e-3,0.002")]
    assert names == [f"seed-{seed}_lr-{lr}" for seed in (1, 2) for lr in ("0.001", "0.002")]
    assert entries("toy --batch 64")[0].name == "seed-0"
    a, b = (one.name for one in entries("toy --cond x/y.npy,x-y.npy"))
    assert a.startswith("cond-x-y.npy_")
    assert b.startswith("cond-x-y.npy_")
    assert a != b


@pytest.mark.parametrize(
    ("line", "name"),
    [("--lr 1e-3,0.001", "lr-0.001"), ("--seed 1,1", "seed-1"), ("--seed 1,2,1", "seed-1")],
)
def test_one_run_twice_is_refused(line, name):
    with pytest.raises(UserError, match=f"^{name} is asked for twice: give each value once"):
        entries(f"toy {line}")
