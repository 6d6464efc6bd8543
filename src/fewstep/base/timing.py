"""Seconds of calls that take turns, so that busy moments of a machine fall on all."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.autograd.profiler import record_function

Key = TypeVar("Key", bound=Hashable)


def clock_of(device: torch.device) -> Callable[[], float]:
    """The seconds now, once a device has done all that it was given."""
    if device.type == "cpu":
        return time.perf_counter
    synchronize = torch.get_device_module(device).synchronize

    def clock() -> float:
        synchronize()
        return time.perf_counter()

    return clock


def in_turn(
    calls: Mapping[Key, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[], None] = lambda: None,
    least: float = 0.0,
) -> dict[Key, list[float]]:
    """Seconds of each call, `repeats` times after one that is not timed; tick: after each.

    least: seconds of a turn. A shorter call is made several times in succession, as in a loop of
    its own, where what it needs is in the processor's caches; its time is their mean.
    """
    numbers: dict[Key, int] = {}
    for key, call in calls.items():
        call()
        numbers[key] = 1
        if least:
            start = clock()
            call()
            numbers[key] = max(1, math.ceil(least / max(clock() - start, 1e-9)))
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            start = clock()
            for _ in range(numbers[key]):
                call()
            seconds[key].append((clock() - start) / numbers[key])
            tick()
    return seconds


@dataclass
class Spans:
    """Seconds of the named parts of some work."""

    clock: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=dict)


_SPANS: ContextVar[Spans | None] = ContextVar("spans", default=None)


@contextmanager
def spans(clock: Callable[[], float]) -> Iterator[Mapping[str, float]]:
    """Inside, the mapping takes the seconds of each `span` in this thread."""
    own = Spans(clock)
    before = _SPANS.set(own)
    try:
        yield own.seconds
    finally:
        _SPANS.reset(before)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Inside is a part of that name, also in torch's profilers; elsewhere it costs nothing."""
    own = _SPANS.get()
    if own is None and not torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        yield
        return
    with record_function(f"fewstep: {name}"):
        start = own.clock() if own else 0.0
        yield
        if own:
            own.seconds[name] = own.seconds.get(name, 0.0) + own.clock() - start


def machine(device: torch.device) -> dict[str, Any]:
    """The device and the software of a measurement."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
