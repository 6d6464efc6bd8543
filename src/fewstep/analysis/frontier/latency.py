"""How long a call of `sample` takes on this machine, and how often it evaluates the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from torch import nn

from fewstep.base import timing
from fewstep.base.conditions import Cond
from fewstep.base.timing import Key, in_turn
from fewstep.core.denoiser import Preconditioned, Truncated
from fewstep.run.generator import Generator


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
    seconds = in_turn(calls, repeats, clock, tick)
    return {key: _timing(batch, [1000 * one for one in own]) for key, own in seconds.items()}


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
    dtype = str(parameter.dtype).removeprefix("torch.")
    return {**timing.machine(parameter.device), "dtype": dtype}
