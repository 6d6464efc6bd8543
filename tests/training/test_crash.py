"""Killed at any instant, stopped by any signal: a run goes on and ends with the same bits."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import time

import pytest

import fewstep as fs
from fewstep.run.checkpoint import RunFolder
from tests.support import calls, trials
from tests.support.crash_child import INSIDE, PICTURE, RUNS, STARTED, settings
from tests.support.trials import SLOW, between, finish, gauge, problems, whole

SEED = random.randrange(2**32)  # of instants, calls and signals; a failure prints it
METHODS = 4  # of all, chosen by the seed; the soak has all
KILLS = 5  # at uniform instants; the soak has thousands
PROOFS = 2  # kills that are proved to be inside a write


def test_a_run_killed_at_any_instant_ends_with_the_same_bits(server, disk_path):
    """Some methods, at uniform instants; then inside writes, until there are enough of those."""
    chance = random.Random(SEED)
    kills = []
    names = chance.sample(list(RUNS), METHODS)
    references = {
        name: whole(server, disk_path / name, settings(name), slow=SLOW) for name in names
    }
    folder = disk_path / "killed"
    for name in itertools.cycle(names):
        ours, faults = trials.trial(
            server, folder, settings(name), references[name], chance, most=2
        )
        assert not faults, f"seed {SEED}: {name}: {'; '.join(map(str, ours))}: {faults}"
        kills += [(name, kill) for kill in ours if kill.has_happened]
        if len(kills) >= KILLS and {name for name, _ in kills} == set(names):
            break
    assert fs.load(folder, device="cpu").fingerprint == references[name].fingerprint
    proofs = sum(kill.inside for _, kill in kills)
    while proofs < PROOFS:
        name = chance.choice(names)
        reference = references[name]
        folder = disk_path / "inside"
        shutil.rmtree(folder, ignore_errors=True)
        after = chance.uniform(0, reference.seconds / 2)
        kill = trials.kill(server, folder, settings(name), after, inside=True)
        proofs += kill.inside
        faults = between(folder, reference)
        finish(server, folder, settings(name))
        faults += problems(folder, reference)
        assert not faults, f"seed {SEED}: {name}: {kill}: {faults}"
    assert proofs >= PROOFS


@pytest.mark.parametrize("save", calls.SAVES)
def test_a_process_that_ends_before_any_call_of_a_save_loses_nothing(server, tmp_path, save):
    """The first call of each phase and every 18th; the seed says which, and the soak has all."""
    number = calls.end_before_calls(
        server, tmp_path, calls.SAVES[save](server, tmp_path), every=18, offset=SEED
    )
    assert number >= 3


def test_a_torn_log_has_each_step_once_after_the_run_went_on(server, tmp_path):
    """Rows behind the checkpoint are written again; garbage and a cut line are removed."""
    fields = settings("diffusion", checkpoint_every=4)
    start = tmp_path / "whole"
    reference = whole(server, start, fields)
    shutil.rmtree(start / "checkpoints" / "step-6")
    log = start / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    tail = b"".join(lines[4:])
    ends = [tail[: random.Random(SEED).randrange(len(tail))]]
    ends += [tail + lines[4], b'{"step": 5', b"\x00" * 40, b'{"step": "x"}\n[]\n']
    ends += [b"[" * 10**5 + b"\n"]
    folder = tmp_path / "torn"
    for end in ends:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)
        (folder / "metrics.jsonl").write_bytes(b"".join(lines[:4]) + end)
        text = finish(server, folder, fields).text
        assert not problems(folder, reference)
        assert "lines are lost" not in text
    log.write_bytes(b"".join(lines[1:]))
    assert "lines are lost or changed" in finish(server, start, fields).text


# Signals.


def command(server, folder, slow=0.0, **fields):
    """Starts or resumes the tiny run of a method by the command line, in a child."""
    gauge(folder)
    fields = {
        "iterations": 12,
        "batch": 16,
        "block": 4,
        "checkpoint_every": 2,
        "picture_every": 0,
        "log_every": 1,
        "network.width": 8,
        "network.depth": 1,
        **fields,
    }
    options = ["--out", str(folder), "--resume", "--device", "cpu"]
    for key, value in fields.items():
        options += [f"--{key.replace('_', '-')}", str(value)]
    return server.fork(
        "tests.support.crash_child:cli",
        folder.with_name(f"{folder.name}.output"),
        argv=["train", "toy", "--method", "ect", *options],
        gauge=str(folder.with_name(f"{folder.name}.gauge")),
        slow=slow,
        has_pictures=fields["picture_every"] > 0,
    )


def until(child, condition) -> None:
    while not condition():
        assert child.wait(0) is None, child.text
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def reference(server, tmp_path_factory):
    """The fingerprint of the run that nobody stops."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert command(server, folder).wait() == 0
    return fs.load(folder, device="cpu").fingerprint


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPS = [("any time", number) for number in SIGNALS]
STOPS += [("save", SIGNALS[SEED % 3]), ("picture", SIGNALS[(SEED + 1) % 3])]


@pytest.mark.parametrize(
    ("when", "number"), STOPS, ids=["SIGTERM", "SIGINT", "SIGHUP", "save", "picture"]
)
def test_a_signal_saves_exits_75_and_the_rest_is_the_same(
    server, tmp_path, reference, when, number
):
    folder = tmp_path / "run"
    fields = {"picture_every": 3} if when == "picture" else {}
    child = command(server, folder, slow=0.004, **fields)
    meter = gauge(folder)
    log = folder / "metrics.jsonl"
    # From its first row on the run listens.
    until(child, lambda: meter.content[STARTED] and log.exists() and log.stat().st_size)
    if when == "save":
        until(child, lambda: meter.phase in INSIDE)
    elif when == "picture":
        until(child, lambda: meter.content[PICTURE])
    else:
        time.sleep(random.Random(SEED).uniform(0, 0.2))
    child.kill(number)
    assert child.wait() == 75, f"seed {SEED}: {child.text}"
    assert f"continue with --out {folder} --resume" in child.text
    assert RunFolder(folder).newest().state["step"] == trials.rows(folder)[-1]["step"]
    assert command(server, folder).wait() == 0
    assert fs.load(folder, device="cpu").fingerprint == reference, f"seed {SEED}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_second_signal_exits_at_once_in_a_slow_save_too(
    server, tmp_path, reference, number, code
):
    folder = tmp_path / "run"
    child = command(server, folder, slow=1.0)
    meter = gauge(folder)
    until(child, lambda: meter.phase in INSIDE)
    child.kill(number)
    time.sleep(0.1)
    assert child.wait(0) is None  # it waits for its save
    child.kill(number)
    start = time.monotonic()
    assert child.wait() == code
    assert time.monotonic() - start < 5  # on a busy machine; a save takes over 20 s here
    assert command(server, folder).wait() == 0
    assert fs.load(folder, device="cpu").fingerprint == reference
    assert json.loads((folder / "run.json").read_text())["recipe"] == "toy"
    assert not list(folder.rglob("*tmp-*"))
