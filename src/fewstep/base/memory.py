"""Rows in parts that memory takes: what there is, what a row needs, half where memory ends."""

from __future__ import annotations

import gc
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep.base.errors import OutOfMemory
from fewstep.base.world import ALONE, World

MOST = 4096  # rows at once
FEW = 16  # rows that need no measuring
LITTLE = 2**24  # bytes that need no look at what is free, which takes longer than a small network
SHARE = 4  # a part takes a quarter of the memory there is
BOUNDS = {"cpu": 2**29}  # bytes of a part at most: more rows at once are hardly quicker
BOUND = 2**33  # likewise on an accelerator
UNKNOWN = 2**31  # bytes that count as free where the system does not tell

_PROBES = (2, 4)  # rows: what one more takes is measured between them
_SIGNS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory"),
    *("failed to allocate memory", "bad_alloc"),
)

Result = TypeVar("Result")

log = logging.getLogger("fewstep")


@dataclass
class Room:
    """What is known of the memory that one network takes; all calls of it share what is learned.

    world: the processes that share the rows, of which each makes one part in turn and gets all.
    """

    row: float | None = None  # bytes, once measured
    most: float = math.inf  # rows at once, since memory ended with more
    least: int = 1  # rows that are never cut
    world: World = ALONE

    def parts(
        self,
        n: int,
        work: Callable[[range], Result],
        batch: int | None = None,
        device: torch.device | None = None,
    ) -> Iterator[Result]:
        """work(rows) of consecutive rows 0 .. n - 1, in their order; a tensor where ranks share it.

        batch: rows at once; None: what memory takes, 4096 at most. Where memory ends there are
        half as many from then on, and one warning says so. Raises OutOfMemory where a single row
        does not fit.
        """
        size = int(min(self.rows(n, work, device) if batch is None else batch, self.most))
        size = self.world.first(max(size, self.least))  # of any other size a part has other bits
        first, before = 0, 0
        while first < n:
            turns = [
                range(at, min(at + size, n)) for at in range(first, n, size)[: self.world.size]
            ]
            rows, mine = turns[0], turns[self.world.rank : self.world.rank + 1]
            results, reason = _attempt(work, mine[0]) if mine else ([], "")
            reason = next(filter(None, self.world.texts(reason)), "")
            if reason and len(rows) <= self.least:
                raise OutOfMemory(
                    f"out of memory with {len(rows)} at once: {reason}; free some memory, or take"
                    " a smaller network or another --device"
                )
            if reason:
                before = before or len(rows)
                size = max(len(rows) // 2, self.least)
                self.most = size
                continue
            if before:
                log.warning(
                    "fewstep: out of memory with %d at once: it goes on with %d (--batch %d"
                    " begins there)",
                    *(before, size, size),
                )
                before = 0
            first = turns[-1].stop
            if self.world.size == 1:
                yield from results
            else:
                own: Any = next(iter(results), None)
                yield from self.world.each_part(own, len(turns))  # type: ignore[misc]

    def rows(self, n: int, work: Callable[[range], Any], device: torch.device | None) -> int:
        """The power of two of rows that take a share of the memory there is; all of few rows."""
        if n <= max(FEW, self.least):
            return n
        if self.row is None:
            self.row = row_bytes(work)
        if n <= MOST and n * self.row <= LITTLE:
            return n
        place = torch.device("cpu") if device is None else device
        room = min(free_bytes(place) / SHARE, BOUNDS.get(place.type, BOUND))
        count = max(room / max(self.row, 1.0), 1.0)
        return min(MOST, 2 ** int(math.log2(count)))


def _attempt(work: Callable[[range], Result], rows: range) -> tuple[list[Result], str]:
    """Its result and "", or nothing and why memory did not take it."""
    try:
        return [work(rows)], ""
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
    # Only here, without the error and the tensors of its frames, is memory free again.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return [], reason


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory has ended: the host's, a device's or an allocator's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    first_line = str(error).partition("\n")[0].lower()
    return any(sign in first_line for sign in _SIGNS)


def row_bytes(work: Callable[[range], Any]) -> float:
    """Bytes of tensors that one more row of `work` needs at the moment when most are alive.

    Infinity where even the few rows of this trial do not fit; 0 where it fails otherwise, since
    the work itself will say why.
    """
    peaks = []
    for count in _PROBES:
        live = Live()
        try:
            with live:
                work(range(count))
        except Exception as error:
            return math.inf if ran_out(error) else 0.0
        peaks.append(live.peak)
    return max(peaks[1] - peaks[0], 0) / (_PROBES[1] - _PROBES[0])


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that operations inside it make, while they are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.places: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to keep its compiler out, torch would import it, which takes longer than samples."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.layout == torch.strided:
                own = unwrap(one)
                if not own._is_zerotensor():  # the derivative of a constant takes no memory
                    self._count(own.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self.places:
            self.places.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.places.discard(place)
        self.now -= size


def unwrap(x: Tensor) -> Tensor:
    """A tensor without the wrappers of torch.func, which says only in private what they hold."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


def free_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that this process can still take on a device; a constant where nothing tells.

    On a CPU the least of what the machine, its control groups and the process's own limit leave.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return UNKNOWN
    left = [*_of_machine(root), *_of_groups(root), *_of_process(root)]
    return max(min(left, default=UNKNOWN), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _value(path: Path, name: str) -> int:
    """The number after a name in a file of such lines; 0 where it is not there."""
    for line in _lines(path):
        words = line.split()
        if len(words) > 1 and words[0].rstrip(":") == name:
            return int(words[1])
    return 0


def _of_machine(root: Path) -> Iterator[int]:
    if available := _value(root / "proc/meminfo", "MemAvailable"):
        yield 1024 * available


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group above this process leaves, of version 2 and 1."""
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if kinds else "")
        limit = "memory.limit_in_bytes" if kinds else "memory.max"
        usage = "memory.usage_in_bytes" if kinds else "memory.current"
        group = top / path.strip("/")
        for folder in (group, *(p for p in group.parents if p.is_relative_to(top))):
            most, now = ("".join(_lines(folder / name)) for name in (limit, usage))
            if most.isdecimal() and now.isdecimal():
                # Pages of files are given up when memory is short.
                yield int(most) - int(now) + _value(folder / "memory.stat", "inactive_file")


def _of_process(root: Path) -> Iterator[int]:
    name = "Max address space"
    for line in _lines(root / "proc/self/limits"):
        soft = line.removeprefix(name).split()[:1]
        if line.startswith(name) and soft[0].isdecimal():
            yield int(soft[0]) - 1024 * _value(root / "proc/self/status", "VmSize")
