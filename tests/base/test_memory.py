"""Rows in parts that memory takes, with the memory of pretended machines."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from fewstep.base import memory
from fewstep.base.errors import OutOfMemory
from fewstep.base.memory import Room, free_bytes, ran_out, row_bytes

CPU = torch.device("cpu")
MIB = 2**20
ERRORS = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
    RuntimeError("std::bad_alloc"),
)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Among the objects of a whole suite a collection takes a second, and there are dozens here."""
    monkeypatch.setattr(memory.gc, "collect", lambda: 0)


def wide(rows: range) -> torch.Tensor:
    """Two arrays of a MiB for each row are alive at once; one number is left."""
    x = torch.zeros(len(rows), MIB // 4)
    return (x + 1)[:, :1].clone()


def narrow(most: int, error: Exception, sizes: list[int]):
    """Work that fits up to `most` rows."""

    def work(rows: range) -> range:
        sizes.append(len(rows))
        if len(rows) > most:
            raise error
        return rows

    return work


@pytest.mark.parametrize("error", ERRORS, ids=[type(e).__name__ + str(e)[:9] for e in ERRORS])
def test_where_memory_ends_there_are_half_as_many_and_one_line(error, caplog):
    sizes: list[int] = []
    room = Room()
    parts = list(room.parts(100, narrow(7, error, sizes), 50))
    assert [row for part in parts for row in part] == list(range(100))
    assert sizes == [50, 25, 12, *[6] * 16, 4]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "out of memory with 50 at once: it goes on with 6 (--batch 6" in record.getMessage()
    sizes.clear()
    list(room.parts(12, narrow(7, error, sizes), 50))
    assert sizes == [6, 6]  # it does not forget, and says it once
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", ERRORS, ids=[type(e).__name__ + str(e)[:9] for e in ERRORS])
def test_a_single_row_that_does_not_fit_is_one_line(error):
    with pytest.raises(OutOfMemory, match="out of memory with 1 at once") as info:
        list(Room().parts(8, narrow(0, error, []), 8))
    assert "\n" not in str(info.value)


def test_rows_that_must_stay_together_are_not_cut():
    sizes: list[int] = []
    with pytest.raises(OutOfMemory, match="with 20 at once"):
        list(Room(least=20).parts(20, narrow(7, MemoryError(), sizes)))
    assert sizes == [20]


def test_another_error_is_raised_as_it_is():
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(Room().parts(8, narrow(0, RuntimeError("shapes do not match"), []), 8))
    assert not ran_out(ValueError("too many rows"))


def test_what_a_row_takes_is_the_most_that_is_alive_at_once():
    assert row_bytes(wide) == pytest.approx(2 * MIB, rel=0.01)
    assert row_bytes(narrow(3, MemoryError(), [])) == math.inf
    assert row_bytes(narrow(0, ValueError("too few"), [])) == 0


@pytest.mark.parametrize(
    ("free", "rows"),
    [(8 * 65 * MIB, 64), (8 * 63 * MIB, 32), (2**50, 128), (MIB, 1)],
)
def test_the_batch_is_a_power_of_two_in_a_quarter_of_the_memory(monkeypatch, free, rows):
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    sizes = [len(part) for part in Room().parts(300, wide, None, CPU)]
    assert sizes[0] == rows
    assert sum(sizes) == 300


def test_what_is_free_is_asked_where_rows_take_much():
    """It reads a dozen files, which takes longer than a small network."""
    asked: list[torch.device] = []

    def ask(device):
        asked.append(device)
        return 2**40

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free_bytes", ask)
        room = Room(row=memory.LITTLE / 64)
        assert [len(part) for part in room.parts(64, lambda rows: rows, None, CPU)] == [64]
        assert not asked
        list(room.parts(65, lambda rows: rows, None, CPU))
        assert asked == [CPU]


def test_small_rows_come_4096_at_a_time_and_few_ones_unmeasured(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**33)
    sizes: list[int] = []
    list(Room().parts(10_000, narrow(4096, MemoryError(), sizes), None, CPU))
    assert sizes == [2, 4, 4096, 4096, 1808]
    sizes.clear()
    list(Room().parts(16, narrow(4096, MemoryError(), sizes), None, CPU))
    assert sizes == [16]


def machine(root, **files: str):
    """A root with these files; `__` stands for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_least_of_machine_groups_and_limits_is_what_there_is(tmp_path):
    assert free_bytes(CPU, tmp_path / "nothing") == memory.UNKNOWN
    root = machine(tmp_path, proc__meminfo="MemTotal: 9 kB\nMemAvailable:   4096 kB\n")
    assert free_bytes(CPU, root) == 4096 * 1024
    group = root / "sys/fs/cgroup"
    machine(root, proc__self__cgroup="0::/a/b\n")
    machine(group / "a", **{"memory.max": "3000000", "memory.current": "1000000"})
    machine(group / "a/b", **{"memory.max": "max", "memory.current": "1000000"})
    assert free_bytes(CPU, root) == 2_000_000
    machine(group / "a", **{"memory.stat": "anon 1\ninactive_file 500000\n"})
    assert free_bytes(CPU, root) == 2_500_000
    machine(root, proc__self__cgroup="5:cpu:/x\n4:memory:/docker/id\n")
    limits = {"memory.limit_in_bytes": "1500000", "memory.usage_in_bytes": "100000"}
    machine(group / "memory", **limits)
    assert free_bytes(CPU, root) == 1_400_000
    line = "Max address space         2097152              unlimited            bytes\n"
    machine(root, proc__self__limits=line, proc__self__status="VmSize:\t    1024 kB\n")
    assert free_bytes(CPU, root) == 1024 * 1024
    assert free_bytes(CPU) > 0
