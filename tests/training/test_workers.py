"""Workers change no bit, a dead one is named, and none outlives its run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from torch.utils.data import _utils, dataloader

import fewstep as fs
from fewstep.base.conditions import leaves
from fewstep.base.errors import StorageError, UserError, WorkerError
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch, to_device
from fewstep.training.workers import batches
from tests.support.toys import tiny_run

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(),
    reason="workers are forked, and this system cannot",
)
CPU = torch.device("cpu")


@pytest.fixture
def impatient(monkeypatch):
    """PyTorch checks every 0.2 s, not every 5 s, whether a silent worker or the run lives."""
    assert _utils.MP_STATUS_CHECK_INTERVAL <= 5
    monkeypatch.setattr(_utils.worker, "MP_STATUS_CHECK_INTERVAL", 0.2)
    read = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(
        dataloader._MultiProcessingDataLoaderIter, "_try_get_data", lambda self: read(self, 0.2)
    )


def drawer(cond=None, **fields):
    """What training draws, of 40 rows with this condition."""
    run = tiny_run(**fields)
    x0 = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    arrays = fs.data.from_tensors({"x0": x0, "cond": cond}).train
    method = fs.methods.ect()
    return lambda step: draw_batch(Stage(run, method), arrays, step)


def bits(steps) -> str:
    """A hash of all that the batches hold."""
    digest = hashlib.sha256()
    for batch in steps:
        parts = {**batch._asdict(), "times": batch.times._asdict()}
        for name, part in leaves({"cond": batch.cond}):
            parts[f"cond {name}"] = part
        for name in sorted(set(parts) - {"cond"}):
            inner = parts[name].items() if isinstance(parts[name], dict) else [("", parts[name])]
            for key, value in inner:
                digest.update(f"{name} {key}".encode())
                about = (type(value), value)
                if torch.is_tensor(value):
                    about = (str(value.dtype), tuple(value.shape))
                digest.update(repr(about).encode())
                digest.update(value.numpy().tobytes() if torch.is_tensor(value) else b"")
    return digest.hexdigest()


CONDS = {
    "none": None,
    "labels": torch.arange(40) % 4,
    "features": torch.linspace(0, 1, 80).reshape(40, 2),
    "dict": {"label": torch.arange(40) % 4, "mask": torch.arange(120).reshape(40, 3) % 5 > 0},
}


@pytest.mark.parametrize("cond", CONDS.values(), ids=CONDS.keys())
def test_workers_change_no_bit(cond):
    draw = drawer(cond, label_drop=0.0)
    alone = bits(batches(draw, 3, 12))
    assert bits(map(draw, range(3, 12))) == alone
    for workers in (1, 2):
        assert bits(batches(draw, 3, 12, workers)) == alone
    assert bits(batches(draw, 4, 13)) != alone


def test_steps_come_in_order_however_long_each_takes():
    def draw(step):
        time.sleep(0.05 if step % 3 == 0 else 0)
        return step

    for workers in (0, 1, 2, 5):
        assert list(batches(draw, 7, 19, workers)) == list(range(7, 19))
    assert list(batches(draw, 5, 5, 2)) == []
    with pytest.raises(UserError, match="workers = -1: expected 0 or more"):
        next(batches(draw, 0, 1, -1))


def test_workers_draw_ahead_with_one_thread_and_leave_the_callers_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    steps = batches(lambda step: (os.getpid(), torch.get_num_threads(), time.monotonic()), 0, 4, 1)
    next(steps)
    time.sleep(0.5)
    start = time.monotonic()
    pid, threads, time_of_draw = next(steps)
    steps.close()
    assert pid != os.getpid()
    assert threads == 1
    assert time_of_draw < start - 0.2
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_a_batch_moves_as_if_it_had_been_drawn_there():
    batch = drawer(CONDS["dict"])(0)
    there = to_device(batch, torch.device("meta"))
    assert {there.x0.device.type, there.z.device.type, there.cond["mask"].device.type} == {"meta"}
    assert there.times.t.device.type == there.rows.device.type == "cpu"
    assert bits([to_device(batch, CPU)]) == bits([batch])


@pytest.mark.parametrize("kind", [UserError, StorageError])
def test_a_mistake_in_a_worker_is_told_in_its_own_line(kind):
    def draw(step):
        if step == 2:
            raise kind("t = 3: expected less")
        return step

    steps = batches(draw, 0, 5, 2)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(kind) as info:
        next(steps)
    assert str(info.value) == "t = 3: expected less"
    assert not multiprocessing.active_children()


def test_another_error_in_a_worker_is_a_bug_with_its_traceback():
    def draw_nothing(step):
        return 1 // 0

    with pytest.raises(ZeroDivisionError, match="draw_nothing"):
        next(batches(draw_nothing, 0, 5, 1))
    assert not multiprocessing.active_children()


def test_a_dead_worker_is_named_within_seconds(impatient):
    def draw(step):
        if step == 5:  # the second worker's third
            time.sleep(0.5)  # what it drew before is on its way
            os.kill(os.getpid(), signal.SIGSEGV)
        return os.getpid()

    steps = batches(draw, 0, 50, 2)
    pids = [next(steps) for _ in range(4)]
    start = time.monotonic()
    with pytest.raises(WorkerError) as info:
        pids += list(steps)
    assert time.monotonic() - start < 10
    about = str(info.value)
    assert f"worker 1 (pid {pids[1]}) was killed by SIGSEGV while step 5 was awaited" in about
    assert about.endswith(": continue with --resume, or --workers 0")
    assert "\n" not in about
    assert info.value.exit_code == 1
    assert not multiprocessing.active_children()


def test_a_worker_killed_from_outside_never_interrupts_what_the_run_is_at(impatient):
    """torch's own handler would raise in the middle of anything, such as an update."""
    steps = batches(lambda step: os.getpid(), 0, 500, 2)
    victim = next(steps)
    os.kill(victim, signal.SIGKILL)
    total = sum(range(1000))
    time.sleep(0.3)  # the signal of its death arrives here
    assert total == 499500
    start = time.monotonic()
    with pytest.raises(WorkerError, match=rf"worker 0 \(pid {victim}\) was killed by SIGKILL"):
        list(steps)
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_workers_leave_the_signals_that_stop_a_run_to_it(name):
    steps = batches(lambda step: os.getpid(), 0, 40, 2)
    pids = {next(steps), next(steps)}
    for pid in pids:
        os.kill(pid, getattr(signal, name))
    assert {*steps} == pids
    assert not multiprocessing.active_children()
    with closing(
        batches(lambda step: signal.getsignal(getattr(signal, name)), 0, 2, 1)
    ) as handlers:
        assert next(handlers) == signal.SIG_IGN  # also in a program that unblocks its signals


def test_closing_ends_the_workers_also_while_they_draw():
    def draw(step):
        time.sleep(0.2)
        return step

    steps = batches(draw, 0, 1000, 2)
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    start = time.monotonic()
    steps.close()
    assert time.monotonic() - start < 3
    assert not multiprocessing.active_children()


def alive(pid) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_run_frees_its_lock_at_once_and_its_workers_go(tmp_path, impatient):
    (tmp_path / "lock").touch()
    ours, theirs = os.pipe()

    def run():
        lock = os.open(tmp_path / "lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        steps = batches(lambda step: os.getpid(), 0, 1000, 2, release=(lock, theirs))
        os.write(theirs, json.dumps([next(steps), next(steps)]).encode())
        time.sleep(60)

    parent = multiprocessing.get_context("fork").Process(target=run)
    parent.start()
    os.close(theirs)
    workers = json.loads(os.read(ours, 1000))
    os.close(ours)
    with (tmp_path / "lock").open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        parent.kill()
        parent.join()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    until = time.monotonic() + 12
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_without_fork_it_says_so(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(UserError, match="workers = 2: this system cannot fork: --workers 0"):
        next(batches(lambda step: step, 0, 3, 2))
