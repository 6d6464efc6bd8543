"""A disk that is full, gone or slow, and two runs in a folder: one line, no bit lost."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

import fewstep as fs
from fewstep.base import disk
from fewstep.base.errors import Stopped, StorageError, UserError
from fewstep.cli import main
from fewstep.run import checkpoint
from fewstep.run.checkpoint import RunFolder
from tests.support.calls import FULL as FIELDS
from tests.support.calls import fill_before_calls, saving, train_full
from tests.support.crash import ROOT
from tests.support.toys import tiny_run
from tests.support.trials import begin, between, finish, gauge, problems, whole

SEED = random.randrange(9)  # which calls of a save meet a full disk; a failure names the call


@pytest.fixture(scope="module")
def reference(server, tmp_path_factory):
    return whole(server, tmp_path_factory.mktemp("whole") / "run", FIELDS)


@pytest.fixture
def start(server, tmp_path):
    """A run of which two steps are done and saved."""
    assert begin(server, tmp_path / "run", FIELDS, stop=2, beside=False).wait() == 137
    return tmp_path / "run"


def train(folder, fields=None, **arguments):
    run = tiny_run(**{**FIELDS, **(fields or {})})
    return fs.train(run, out=folder, resume=True, progress=False, device="cpu", **arguments)


def one_line(text: str) -> str:
    """The only line that a failed child wrote after its warnings."""
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1, text
    return lines[0]


# The disk.


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_file_that_may_not_grow_is_told_and_the_run_goes_on_later(
    server, start, reference, share
):
    """RLIMIT_FSIZE is a real refusal by the system, in the middle of a write."""
    sizes = [file.stat().st_size for file in (start / "checkpoints" / "step-2").iterdir()]
    child = begin(server, start, FIELDS, most=1 + int(share * max(sizes)), chunk=2**12)
    assert child.wait() == 4
    assert os.strerror(errno.EFBIG) in one_line(child.text)
    assert not between(start, reference)
    assert not list(start.rglob("*tmp-*"))
    finish(server, start, FIELDS)
    assert not problems(start, reference)


@pytest.mark.parametrize(("number", "every"), [(errno.ENOSPC, 9), (errno.EIO, 15)])
def test_a_disk_that_is_full_from_any_call_on_costs_no_bit(
    start, reference, tmp_path, number, every
):
    """Every ninth or fifteenth call; the seed chooses which, and the soak has all."""
    shutil.copytree(start, tmp_path / "all")
    calls = train_full(tmp_path / "all", at=10**9)
    assert calls > 30
    fill_before_calls(start, tmp_path, reference, number, range(1 + SEED, calls + 1, every))


def test_a_folder_that_vanishes_or_is_replaced_by_a_file_is_told(tmp_path):
    def is_gone(state):
        if state.step == 2:
            shutil.rmtree(tmp_path / "run")

    def file(state):
        is_gone(state)
        if state.step == 2:
            (tmp_path / "run").write_text("")

    for harm in (is_gone, file):
        with pytest.raises(StorageError, match=r"cannot write to .*run") as error:
            train(tmp_path / "run", fields={"checkpoint_every": 10}, watch=harm)
        assert "\n" not in str(error.value)
    with pytest.raises(StorageError, match="cannot write to"):
        train(tmp_path / "run")
    assert main(["train", "toy", "--out", str(tmp_path / "run" / "deeper"), "--device", "cpu"]) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="no folder is read-only to root")
def test_a_read_only_folder_is_told_before_the_first_step(tmp_path):
    tmp_path.chmod(0o555)
    steps = []
    with pytest.raises(StorageError, match="Permission denied"):
        train(tmp_path / "run", watch=steps.append)
    assert not steps
    tmp_path.chmod(0o755)


# The saver.


def failing(fails_at: str):
    """A `disk.watch` that fails where a checkpoint of that name is begun."""

    def watch(call, path):
        if path.parent.name == "checkpoints" and path.name.startswith(f"{fails_at}.tmp-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return watch


@pytest.mark.parametrize(("step", "is_reached"), [("step-2", [1, 2]), ("step-6", [1, 2, 3, 4, 5])])
def test_a_save_that_fails_beside_training_is_raised_at_the_next_step_or_at_the_end(
    tmp_path, monkeypatch, step, is_reached
):
    fields = {"iterations": 6, "checkpoint_every": 2}
    steps = []

    def look(state):
        steps.append(state.step)
        time.sleep(0.1)  # more than a save takes to fail

    with monkeypatch.context() as patch:
        patch.setattr(disk, "watch", failing(step))
        with pytest.raises(StorageError, match=f"{step}: No space left"):
            train(tmp_path / "run", fields=fields, watch=look)
    assert steps == is_reached
    again = train(tmp_path / "run", fields=fields)
    assert again.fingerprint == train(tmp_path / "whole", fields=fields).fingerprint


def test_steps_go_on_while_a_save_is_running(tmp_path, monkeypatch):
    """On a disk that takes 10 ms for every call, the step after a save does not wait for it."""

    def watch(call, path):
        if path.parent.name == "checkpoints" or path.parent.parent.name == "checkpoints":
            time.sleep(0.01)

    steps = []
    during = []

    def look(state):
        steps.append(state.step)
        if saving():
            during.append(state.step)

    monkeypatch.setattr(disk, "watch", watch)
    fields = {"iterations": 8, "checkpoint_every": 2, "averages": (), "snapshot_every": 0}
    train(tmp_path / "run", fields=fields, watch=look)
    assert steps == list(range(1, 9))
    assert {3, 5, 7} < set(during)  # while the step before each of them is saved


def test_a_stop_at_a_step_that_is_being_saved_waits_for_it(tmp_path, monkeypatch):
    """And does not save it again, which would fail: the step is there by then."""
    write = checkpoint.write

    def slow(*arguments):
        time.sleep(0.3)
        return write(*arguments)

    def stop(state) -> None:
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoint, "write", slow)
    with pytest.raises(Stopped, match="saved, continue with"):
        train(tmp_path, watch=stop)
    assert RunFolder(tmp_path).newest().record.step == 2


def test_a_run_that_fails_leaves_no_save_running_behind_it(tmp_path, monkeypatch):
    """Else a run that is started again in this process would meet it in the folder."""

    def watch(call, path):
        time.sleep(0.02 if path.parent.name.startswith("step-") else 0)

    def look(state):
        if state.step == 3:
            raise ZeroDivisionError

    monkeypatch.setattr(disk, "watch", watch)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", fields={"checkpoint_every": 2, "iterations": 4}, watch=look)
    assert not saving()
    assert RunFolder(tmp_path / "run").newest().state["step"] == 2
    assert not list(tmp_path.rglob("*tmp-*"))


# Two runs in one folder.


def test_a_second_run_in_a_folder_is_refused_at_once_and_a_killed_one_frees_it(
    server, tmp_path, reference
):
    folder = tmp_path / "run"
    child = begin(server, folder, FIELDS, slow=0.5)
    meter = gauge(folder)
    while not meter.phase:
        time.sleep(0.001)
    start = time.monotonic()
    with pytest.raises(UserError, match=f"is being trained by process {child.pid} on "):
        train(folder)
    assert time.monotonic() - start < 2
    command = [sys.executable, "-m", "fewstep", "train", "toy", "--out", str(folder), "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    # Of the processor, which other tests share.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    second = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert second.returncode == 2
    assert f"process {child.pid} on" in one_line(second.stderr)
    child.kill()
    assert child.wait() == -9
    assert (folder / "lock").exists()
    train(folder)
    assert not problems(folder, reference)
    assert not (folder / "lock").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        '{"pid": 1}',
        "\x00" * 90,
        *(json.dumps({"pid": p, "host": "x", "since": "y"}) for p in (1, 2**22)),
    ],
)
def test_a_lock_file_that_nobody_holds_blocks_nobody(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    assert train(tmp_path, fields={"iterations": 1}).step == 1
    (tmp_path / "lock").write_text(
        json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "since": "now"})
    )
    assert train(tmp_path, fields={"iterations": 1}).step == 1
    assert not (tmp_path / "lock").exists()
