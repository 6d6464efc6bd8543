"""Mutated runs and checkpoints are accepted or refused in one line; planted faults are caught."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

import fewstep as fs
from fewstep.base import options
from fewstep.base.errors import StorageError, UserError
from fewstep.cli import main
from fewstep.run import config
from fewstep.run.config import Run, read_run, run_from_json
from tests.support import fuzzed_files, fuzzing
from tests.support.fuzzing import Contract, fuzz_config, mutate, scramble
from tests.support.toys import tiny_run


def test_a_thousand_mutated_runs(tmp_path):
    counts = fuzz_config(0, 1000, tmp_path)
    assert counts["accepted"] > 100
    assert counts["refused"] > 500
    assert counts["built"] > 10


def test_two_hundred_and_fifty_mutated_checkpoints(tmp_path):
    counts = fuzzed_files.fuzz_checkpoint(0, 250, tmp_path)
    assert counts["accepted"] > 20
    assert counts["refused"] > 100


VALUES = {
    "unknown field": ({"lrr": 1}, "did you mean 'lr'"),
    "swapped letters": ({"bacth": 1}, "did you mean 'batch'"),
    "no name": ({"": 1}, "unknown field of a run ''"),
    "wrong type": ({"lr": "fast"}, "lr = 'fast': expected float"),
    "a flag for a number": ({"seed": True}, "seed = True: expected int"),
    "a flag for a choice": ({"lr_clock": True}, "unknown lr_clock True"),
    "a float for a choice": ({"lr_clock": 1.0}, "unknown lr_clock 1.0"),
    "NaN": ({"lr": float("nan")}, "lr = nan: expected a finite number"),
    "infinite": ({"clip": float("inf")}, "clip = inf: expected a finite number"),
    "NaN in a list": ({"betas": [0.9, float("nan")]}, "betas = nan"),
    "huge": ({"iterations": 10**30}, "iterations = 1000"),
    "huge for a float": ({"lr": 10**400}, "lr = "),
    "more digits than print": ({"seed": 10**5000}, "seed = a int"),
    "too many": ({"threads": 10**9}, "expected in 1 .. 1024"),
    "a batch of none": ({"block": 0, "elastic_exact": 2}, "block = 0"),
    "no parts": ({"elastic_exact": -2}, "elastic_exact = -2"),
    "a list without end": ({"averages": ["decay:0.5"] * 10**5}, "at most 5000"),
    "an average's number": ({"averages": ["power:1e-200"]}, "average 'power:1e-200'"),
    "an infinite time": ({"middle_times": [float("inf"), 1.0]}, "later_sigmas = inf"),
    "line end": ({"method": "ect\n"}, "method = 'ect\\n'"),
    "escape": ({"data": "\x1b[2J"}, "none of them a control character"),
    "a long text": ({"data": "x" * 10**6}, "at most 4096 characters"),
    "no recipe": ({"recipe": None}, "recipe = None: expected str"),
    "options as a list": ({"method_options": [1]}, "method_options = [1]: expected dict"),
    "an option's NaN": ({"method_options": {"c": float("nan")}}, "method.c = nan"),
    "a nested option's NaN": (
        {"method_options": {"base": {"c": float("nan")}}},
        "method.base.c = nan",
    ),
    "options without a bottom": (
        {"method_options": {"base": fuzzing.deep(500, random.Random(0))}},
        "8 levels",
    ),
    "options without end": (
        {"network_options": {f"k{i}": i for i in range(10**5)}},
        "5000 entries",
    ),
    "an option's name": ({"network_options": {"a\nb": 1}}, "a name in network"),
    "an object": (
        {"method_options": {"base": object()}},
        "expected a number, a text, a list or a dict",
    ),
    "a number for a name": ({"method_options": {1: 2}}, "a name in method = 1"),
}


@pytest.mark.parametrize("what", VALUES)
def test_a_run_that_cannot_be_is_refused_by_its_key(what):
    values, words = VALUES[what]
    contract = Contract()
    with pytest.raises(UserError) as refusal:
        run_from_json({**tiny_run().to_json(), **values})
    assert words in str(refusal.value)
    contract.check_refusal(what, refusal.value)


BUILT = {
    "unknown option": (
        {"method_options": {"qq": 1}},
        "unknown option of method ect 'qq': did you mean 'q'",
    ),
    "an option's type": ({"method_options": {"q": "two"}}, "method.q = 'two': expected float"),
    "a million levels": (
        {"method": "ict", "method_options": {"s1": 10**9}},
        "method.s1 = 1000000000: expected at most",
    ),
    "of a base": (
        {"method": "gc", "method_options": {"base": {"method": "ict", "s2": 1}}},
        "in method.base 's2': did you",
    ),
    "of a base's type": (
        {"method": "gc", "method_options": {"base": {"method": "ict", "c": []}}},
        "method.base.c = []",
    ),
    "a base of no name": (
        {"method": "gc", "method_options": {"base": {"c": 1}}},
        "method.base = {'c': 1}",
    ),
    "an unknown method": ({"method": "etc"}, "did you mean 'ect'"),
    "a network's option": ({"network_options": {"widht": 3}}, "did you mean 'width'"),
    "a wide network": (
        {"network_options": {"width": 10**7}},
        "network.width = 10000000: expected at most",
    ),
    "a deep network": ({"network_options": {"depth": 10**6}}, "more than 2000 tensors"),
}


@pytest.mark.parametrize("what", BUILT)
def test_options_that_cannot_be_are_refused_by_their_path(what):
    values, words = BUILT[what]
    with pytest.raises(UserError) as refusal:
        fuzzing.build_parts(run_from_json({**tiny_run().to_json(), **values}))
    assert words in str(refusal.value)
    Contract().check_refusal(what, refusal.value)


TYPED = {
    "--lr nan": "lr = nan: expected a finite number",
    "--lr 1e400": "lr = inf: expected a finite number",
    f"--seed {10**30}": "a whole number below 2^63",
    "--method.c inf": "method.c = inf: expected a finite number",
    "--network.width 999999999": "network.width = 999999999: expected at most 1000000",
    "--middle-times inf": "later_sigmas = inf",
    "--threads 1000000": "in 1 .. 1024",
    "--averages decay:nan": "average 'decay:nan'",
    "--lrr 3": "did you mean --lr?",
}


@pytest.mark.parametrize("line", TYPED)
def test_an_impossible_override_is_refused_in_one_line(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toy", *line.split()]) == 2
    message = capsys.readouterr().err
    assert TYPED[line] in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


DOCUMENTS = {
    "a key that stands twice": (
        b'{"recipe": "toy", "seed": 1, "seed": 2}',
        "the key 'seed' stands twice",
    ),
    "NaN": (b'{"recipe": "toy", "lr": NaN}', "NaN is no JSON"),
    "1e400": (b'{"recipe": "toy", "lr": 1e400}', "1e400"),
    "nested": (b"[" * 10**5, "nested too deeply"),
    "long": (b" " * (config.MOST_BYTES + 1), "more than 1048576 bytes"),
    "torn": (b'{"recipe": "to', "Unterminated string"),
    "no object": (b"[]", "a run is stored as a JSON object"),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_run_json_that_cannot_be_is_refused(tmp_path, what):
    content, words = DOCUMENTS[what]
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises((StorageError, UserError)) as refusal:
        read_run(tmp_path / "run.json")
    assert words in str(refusal.value)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path):
    """Config and checkpoint that disagree: the setting is named with both values."""
    fs.train(tiny_run(iterations=2), out=tmp_path / "run", progress=False, device="cpu")
    others = {
        "network.width": {"network_options": {"width": 24, "depth": 1, "dropout": 0.1}},
        "sigma_data": {"sigma_data": 0.7},
        "averages": {"averages": ("decay:0.5",)},
        "method": {"method": "ict"},
    }
    for name, fields in others.items():
        with pytest.raises(
            UserError, match=rf"^{name}.* = .*but the run in .* was started with"
        ) as refusal:
            fs.train(
                tiny_run(iterations=2, **fields),
                out=tmp_path / "run",
                resume=True,
                progress=False,
                device="cpu",
            )
        Contract().check_refusal(name, refusal.value)


def test_a_run_json_that_is_damaged_is_told_and_the_checkpoint_goes_on(tmp_path, caplog):
    from fewstep.cli.train import stored_run

    fs.train(tiny_run(iterations=2), out=tmp_path / "run", progress=False, device="cpu")
    (tmp_path / "run" / "run.json").write_text('{"recipe": "toy", "lrr": 1}')
    assert stored_run(tmp_path / "run").iterations == 2
    assert "did you mean 'lr'" in caplog.text


def test_the_mutators_reach_every_depth_and_repeat():
    values = fuzzing.written_out(fs.recipes.toy(method="gc")).to_json()
    mutants = [mutate(values, random.Random(i)) for i in range(300)]
    again = [mutate(values, random.Random(i)) for i in range(300)]
    assert str(mutants) == str(again)  # as text, where NaN is itself
    dicts = [one for one in mutants if isinstance(one, dict)]
    options = [one.get("method_options") for one in dicts]
    base = values["method_options"]["base"]
    assert any(isinstance(one, dict) and one.get("base") != base for one in options)
    text = json.dumps(values).encode()
    assert len({scramble(text, random.Random(i)) for i in range(300)}) > 200


def test_the_contract_catches_planted_faults(monkeypatch):
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)

    def boom(error):
        raise error

    faults = {
        "another type": lambda: boom(KeyError("x")),
        "recursion": lambda: boom(RecursionError("x")),
        "memory": lambda: boom(MemoryError()),
        "no words": lambda: boom(UserError("")),
        "slow": lambda: spin(fuzzing.SECONDS + 0.1),
    }
    for what, call in faults.items():
        with pytest.raises(AssertionError, match=what):
            Contract().holds(what, call)


def spin(seconds: float) -> None:
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


@pytest.mark.parametrize(("module", "check"), [(config, "check_plain"), (options, "_check_value")])
def test_the_fuzzer_finds_a_check_that_is_taken_out(monkeypatch, tmp_path, module, check):
    """Without the limits of values the fuzzer finds a run that JSON cannot hold, or an error."""
    monkeypatch.setattr(module, check, lambda name, value: value)
    with pytest.raises((AssertionError, ValueError)):
        fuzz_config(0, 1500, tmp_path)


def test_a_message_is_one_short_line_whatever_it_names():
    for name in ("a\nb\x1b[0m\x00", "x" * 10**6, "\ud800"):
        message = str(StorageError(f"{Path(name)} cannot be read"))
        assert message.isprintable()
        assert len(message) <= fuzzing.LONGEST + 20
    assert "ü" in str(UserError("no run ü"))
    assert isinstance(Run(recipe="x"), Run)
