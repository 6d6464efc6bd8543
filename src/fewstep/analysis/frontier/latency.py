"""How long a call of `sample` takes on this machine, and how often it evaluates the network."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import torch
from torch import nn

from fewstep.base.conditions import Cond
from fewstep.core.denoiser import Preconditioned, Truncated
from fewstep.run.generator import Generator

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call for `batch` samples: median and quartiles over `repeats` calls."""

    batch: int
    repeats: int
    median: float
    low: float
    high: float

    @property
    def per_second(self) -> float:
        """Samples per second."""
        return 1000 * self.batch / self.median


def clock_calls(
    calls: Mapping[Key, Callable[[], object]],
    batch: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[], None] = lambda: None,
) -> dict[Key, Timing]:
    """Each call's timing after one that is not timed; they take turns, to share busy moments."""
    for call in calls.values():
        call()
    milliseconds: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            start = clock()
            call()
            milliseconds[key].append(1000 * (clock() - start))
            tick()
    return {key: _timing(batch, values) for key, values in milliseconds.items()}


def _timing(batch: int, values: list[float]) -> Timing:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Timing(batch, len(values), median(values), low, high)


def evaluations(generator: Generator, steps: int, cond: Cond = None) -> int:
    """Network evaluations for a sample: the rows that pass through it for two samples, over two.

    cond: of the two samples, as `Generator.sample` takes it.
    """
    rows = 0

    def count(module: nn.Module, arguments: Any) -> None:
        nonlocal rows
        rows += len(arguments[0])

    hooks = [module.register_forward_pre_hook(count) for module in _networks(generator.denoiser)]
    try:
        generator.sample(2, steps=steps, cond=cond)
    finally:
        for hook in hooks:
            hook.remove()
    return rows // 2


def _networks(denoiser: nn.Module) -> Iterable[nn.Module]:
    """Both networks of a composite, else the one, without what stands around it.

    A sampler of one's own may ask the network itself.
    """
    parts = [denoiser.low, denoiser.high] if isinstance(denoiser, Truncated) else [denoiser]
    inside = [part.network if isinstance(part, Preconditioned) else part for part in parts]
    return [part for part in inside if isinstance(part, nn.Module)]


def machine(generator: Generator) -> dict[str, Any]:
    """Device, software and number format of the measurement."""
    parameter = next(generator.denoiser.parameters())
    device = parameter.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
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
