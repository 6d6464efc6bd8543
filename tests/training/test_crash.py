"""Killed anywhere, stopped by any signal: the run goes on and ends with the bits of the run that
nobody touched.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time

import pytest

import fewstep as fs
from fewstep.run.checkpoint import KEEP, RunFolder
from tests.support import trials
from tests.support.crash_child import BEGUN, INSIDE, PHASES, PICTURE, RUNS, settings
from tests.support.trials import SLOW, begin, between, finish, gauge, problems, whole

SEED = random.randrange(2**32)  # of the instants; a failure prints it
KILLS = 20  # at uniform instants
PROVED = 5  # inside a write


def test_a_run_killed_at_any_instant_ends_with_the_same_bits(server, tmp_path):
    """Every method, at uniformly random instants; then, where chance hit too few writes, inside of
    them.
    """
    chance, kills, names = random.Random(SEED), [], list(RUNS)
    expected = {name: whole(server, tmp_path / name, settings(name), slow=SLOW) for name in names}
    while len(kills) < KILLS or {name for name, _ in kills} < set(names):
        for name in names:
            made, wrong = trials.trial(
                server, tmp_path / "killed", settings(name), expected[name], chance, most=2
            )
            assert not wrong, f"seed {SEED}: {name}: {'; '.join(map(str, made))}: {wrong}"
            kills += [(name, kill) for kill in made if kill.killed]
    assert fs.load(tmp_path / "killed", device="cpu").fingerprint == expected[names[-1]].fingerprint
    proved = sum(kill.inside for _, kill in kills)
    while proved < PROVED:
        name, folder = chance.choice(names), tmp_path / "inside"
        shutil.rmtree(folder, ignore_errors=True)
        one = trials.kill(
            server,
            folder,
            settings(name),
            chance.uniform(0, expected[name].seconds / 2),
            inside=True,
        )
        proved += one.inside
        wrong = between(folder, expected[name])
        finish(server, folder, settings(name))
        wrong += problems(folder, expected[name])
        assert not wrong, f"seed {SEED}: {name}: {one}: {wrong}"
    assert proved >= PROVED


def before_each_call(
    server, tmp_path, fields, start, known: set[int], damaged: tuple[str, ...] = ()
) -> set[str]:
    """Ends a run that begins with the folder `start` before each of its calls, and lets it go on:
    the calls' kinds.

    known: the steps whose checkpoint may then be the newest; 0 is none. damaged: what is moved
    aside.
    """
    order = {"apart": False, "chunk": 2**14}  # some files are written in pieces
    expected = whole(server, tmp_path / "whole", fields, **order)
    shutil.copytree(start, tmp_path / "all")
    finish(server, tmp_path / "all", fields, **order)
    assert all((tmp_path / "all" / "checkpoints" / name).is_dir() for name in damaged)
    calls, seen, found = gauge(tmp_path / "all").calls, set(), []
    for number in range(1, calls + 1):
        folder = tmp_path / f"before-{number}"
        shutil.copytree(start, folder)
        assert begin(server, folder, fields, exit_before=number, **order).wait() == 137
        where = PHASES[gauge(folder).phase]
        wrong, newest = between(folder, expected, damaged), RunFolder(folder).newest()
        found.append(newest.state["step"] if newest else 0)
        assert len(trials.valid(folder)) >= min(KEEP, len(trials.valid(start))), (
            f"before call {number}: too few are left"
        )
        finish(server, folder, fields, **order)
        for corrupt in (folder / "checkpoints").glob("*.corrupt"):
            assert corrupt.name in damaged
            shutil.rmtree(corrupt)
        wrong += problems(folder, expected)
        assert not wrong, f"before call {number} of {calls}, in {where}: {wrong}"
        seen.add(where)
        shutil.rmtree(folder)
    assert found == sorted(found)  # from the old one to the new one, once
    assert set(found) == known
    return seen


def test_a_process_that_ends_before_any_call_of_its_first_save_loses_nothing(server, tmp_path):
    (tmp_path / "new").mkdir()
    before_each_call(
        server, tmp_path, settings("diffusion", iterations=1), tmp_path / "new", {0, 1}
    )


def test_a_process_that_ends_before_any_call_of_a_later_save_loses_nothing(server, tmp_path):
    """Of a run in its second stage with a snapshot of its averages and an old checkpoint to remove."""
    power = {"averages": ("power:0.05",), "snapshot_every": 3}
    fields = settings("tcm", iterations=3, split=0.34, checkpoint_every=1, **power)
    assert begin(server, tmp_path / "start", fields, stop=2, apart=False).wait() == 137
    assert before_each_call(server, tmp_path, fields, tmp_path / "start", {2, 3}) == set(PHASES)


def test_a_process_that_ends_while_a_damaged_checkpoint_is_moved_aside_loses_nothing(
    server, tmp_path
):
    """The start has files of killed processes too: a half written checkpoint, a half removed one, a
    half new log.
    """
    fields = settings("diffusion", iterations=2, checkpoint_every=1)
    finish(server, tmp_path / "start", fields, apart=False)
    checkpoints = tmp_path / "start" / "checkpoints"
    shutil.copytree(checkpoints / "step-2", checkpoints / "step-2.tmp-1")
    shutil.copytree(checkpoints / "step-2", checkpoints / "step-0.tmp-1-old")
    (checkpoints / "step-0.tmp-1-old" / "manifest.json").unlink()
    (tmp_path / "start" / "metrics.jsonl.tmp-1").write_text("{")
    (checkpoints / "step-2" / "state.json").write_text("{}")
    before_each_call(server, tmp_path, fields, tmp_path / "start", {1, 2}, ("step-2.corrupt",))


@pytest.mark.parametrize("seed", range(3))
def test_a_torn_log_has_each_step_once_after_the_run_went_on(server, tmp_path, seed):
    """What is behind the checkpoint is written again; garbage and a line without its end are not
    kept.
    """
    fields = settings("diffusion", checkpoint_every=4)
    expected = whole(server, tmp_path / "whole", fields)
    chance = random.Random(seed)
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "step-6")
    log = tmp_path / "whole" / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    tail = b"".join(lines[4:])
    ends = [tail[: chance.randrange(len(tail))], tail + lines[4]]
    ends += [b'{"step": 5', b"\x00" * 40, b'{"step": "x"}\n[]\n', b"[" * 10**5 + b"\n"]
    for end in ends:
        folder = tmp_path / "torn"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "metrics.jsonl").write_bytes(b"".join(lines[:4]) + end)
        said = finish(server, folder, fields).text
        assert not problems(folder, expected)
        assert "lines are lost" not in said
    log.write_bytes(b"".join(lines[1:]))
    assert "lines are lost or changed" in finish(server, tmp_path / "whole", fields).text


# Signals


def words(name: str, folder, **fields) -> list[str]:
    """The command that trains a method's tiny run."""
    given = {
        "iterations": 12,
        "batch": 16,
        "block": 4,
        "checkpoint_every": 2,
        "picture_every": 0,
        **fields,
    }
    options = [
        word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    network = [
        "--network.width",
        "8",
        "--network.depth",
        "1",
        "--log-every",
        "1",
        "--device",
        "cpu",
    ]
    return ["train", "toy", "--method", name, *options, *network, "--out", str(folder), "--resume"]


def command(server, folder, slow=0.0, **fields):
    gauge(folder)
    return server.fork(
        "tests.support.crash_child:cli",
        folder.with_name(f"{folder.name}.said"),
        argv=words("ect", folder, **fields),
        gauge=str(folder.with_name(f"{folder.name}.gauge")),
        slow=slow,
    )


def until(child, condition) -> None:
    while not condition():
        assert child.wait(0) is None, child.text
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def untouched(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("untouched") / "run"
    assert command(server, folder).wait() == 0
    return fs.load(folder, device="cpu").fingerprint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("when", ["any time", "save", "picture"])
def test_a_signal_saves_exits_75_and_the_rest_is_the_same(
    server, tmp_path, untouched, number, when
):
    folder, chance = tmp_path / "run", random.Random(SEED)
    more = {"picture_every": 3} if when == "picture" else {}
    child, shown = command(server, folder, slow=0.004, **more), gauge(folder)
    log = folder / "metrics.jsonl"
    until(
        child, lambda: shown.shared[BEGUN] and log.exists() and log.stat().st_size
    )  # from then on it listens
    if when == "save":
        until(child, lambda: shown.phase in INSIDE)
    elif when == "picture":
        until(child, lambda: shown.shared[PICTURE])
    else:
        time.sleep(chance.uniform(0, 0.2))
    child.kill(number)
    assert child.wait() == 75, f"seed {SEED}: {child.text}"
    assert f"continue with --out {folder} --resume" in child.text
    assert RunFolder(folder).newest().state["step"] == trials.rows(folder)[-1]["step"]
    assert command(server, folder).wait() == 0
    assert fs.load(folder, device="cpu").fingerprint == untouched, f"seed {SEED}"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130), (signal.SIGHUP, -1)]
)
def test_a_second_signal_exits_at_once_in_a_slow_save_too(
    server, tmp_path, untouched, number, code
):
    folder = tmp_path / "run"
    child, shown = command(server, folder, slow=1.0), gauge(folder)
    until(child, lambda: shown.phase in INSIDE)
    child.kill(number)
    time.sleep(0.1)
    assert child.wait(0) is None  # it waits for its save
    child.kill(number)
    begun = time.monotonic()
    assert child.wait() == code
    assert time.monotonic() - begun < 5  # on a busy machine; a save takes over 20 s here
    assert command(server, folder).wait() == 0
    assert fs.load(folder, device="cpu").fingerprint == untouched
    assert json.loads((folder / "run.json").read_text())["recipe"] == "toy"
    assert not list(folder.rglob("*tmp-*"))
