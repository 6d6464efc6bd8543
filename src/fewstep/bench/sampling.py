"""A call of `sample` over a bare loop: the noise, and the network's own passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from fewstep.base.progress import Progress
from fewstep.base.randomness import generator
from fewstep.base.timing import clock_of, in_turn
from fewstep.bench.passes import record, repeat
from fewstep.bench.steps import TURN, Trainer, networks_of, programs, ratio
from fewstep.run.generator import Generator


@dataclass(frozen=True, kw_only=True)
class SamplingTime:
    """What a call of `sample` takes; times in milliseconds.

    ratio: of the call over the bare loop. beyond: the median of what the call takes beyond it.
    """

    name: str
    method: str
    network: str
    device: str
    batch: int
    steps: int
    call: float
    bare: float
    ratio: float
    interval: tuple[float, float]
    beyond: float
    samples_per_second: float


Calls = dict[tuple[str, int], Callable[[], object]]


def calls_of(trainer: Trainer, sizes: Sequence[int], steps: int) -> Calls:
    """For each number of samples the call and its bare loop. Raises UserError for other steps."""
    prepared = trainer.prepared
    method, average = prepared.stages[-1].method, trainer.state.average
    plain = Generator(prepared.run, prepared.facts, method, average, 0)
    own = plain if prepared.run.compile == "off" else plain.compile(prepared.run.compile)
    calls: Calls = {}
    for size in sizes:
        calls["call", size] = call_of(own, size, steps)
        calls["bare", size] = bare_of(trainer, call_of(plain, size, steps), size)
    return calls


def measure(
    trainer: Trainer, calls: Calls, steps: int, repeats: int, *, progress: bool = False
) -> list[SamplingTime]:
    """Calls of so many samples, each beside its bare loop, all in turn."""
    prepared = trainer.prepared
    sizes = [size for kind, size in calls if kind == "call"]
    clock = clock_of(prepared.device)
    with Progress(repeats * len(calls), "call", show=progress) as bar:
        seconds = in_turn(calls, repeats, clock, partial(bar.update, 1), TURN)
    results = []
    for size in sizes:
        call, bare = seconds["call", size], seconds["bare", size]
        over = ratio(call, bare)
        results.append(
            SamplingTime(
                name=trainer.name,
                method=prepared.run.method,
                network=prepared.run.network,
                device=prepared.device.type,
                batch=size,
                steps=steps,
                call=1e3 * median(call),
                bare=1e3 * median(bare),
                ratio=over.value,
                interval=over[1:],
                beyond=1e3 * median(a - b for a, b in zip(call, bare, strict=True)),
                samples_per_second=size / median(call),
            )
        )
    return results


def call_of(own: Generator, size: int, steps: int) -> Callable[[], object]:
    return lambda: own.sample(size, steps=steps, batch=size)


def bare_of(trainer: Trainer, call: Callable[[], object], size: int) -> Callable[[], object]:
    """The same passes without anything around them, and the noise that they begin with."""
    modules = networks_of(trainer.state)
    with record(modules) as passes:
        call()
    networks = programs(modules, trainer.prepared.run.compile)
    shape, device = (size, *trainer.prepared.facts.shape), trainer.prepared.device

    source = generator(0, "bench")

    @torch.inference_mode()
    def bare() -> None:
        torch.randn(shape, generator=source).to(device)
        repeat(passes, networks)

    return bare
