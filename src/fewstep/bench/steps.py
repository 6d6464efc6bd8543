"""A training step by part, and over its floor: the method's own passes, backward and optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fewstep.base import timing
from fewstep.base.memory import Live
from fewstep.base.progress import Progress
from fewstep.base.timing import clock_of, in_turn
from fewstep.bench.passes import Pass, record, repeat
from fewstep.core.compiling import Mode, compile_network
from fewstep.core.denoiser import Preconditioned
from fewstep.run.machines import KINDS
from fewstep.run.prepare import Prepared
from fewstep.statistics.intervals import Median, median_interval
from fewstep.training.batches import Batch, draw_batch, to_device
from fewstep.training.hand_over import enter_stage
from fewstep.training.preflight import choose_by_trial, try_out
from fewstep.training.state import State, new_state
from fewstep.training.step import gradients, train_step

LATE = 0.8  # share of a stage: schedules are then near where most of a run is
TURN = 0.05  # seconds at least of the calls that are timed together
WATCHED = 10  # steps that are taken apart


def ratio(own: list[float], other: list[float]) -> Median:
    """The median of one time over its neighbour's, of times that were taken in turn."""
    return median_interval([a / b for a, b in zip(own, other, strict=True)])


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """What a step of one run takes; times in milliseconds, memory in bytes.

    ratio: of the step over its floor. of_first: over the step of the first run of the table.
    passes: of each network, (rows, with a gradient, derived along a direction) and how often.
    memory: that of all tensors at the step's peak. mfu: operations of the floor in the step's time
    over the device's peak; None where that is not known.
    """

    name: str
    method: str
    network: str
    device: str
    dropout: bool
    batch: int
    weights: int
    step: float
    floor: float
    ratio: float
    interval: tuple[float, float]
    of_first: float
    of_first_interval: tuple[float, float]
    parts: dict[str, float]
    passes: dict[str, int]
    samples_per_second: float
    memory: int
    floor_memory: int
    flops: float
    mfu: float | None


class Trainer:
    """A run late in its last stage, that takes the same step again and again."""

    def __init__(self, name: str, prepared: Prepared) -> None:
        self.name = name
        self.state = new_state(prepared)
        prepared, _ = choose_by_trial(prepared, self.state)
        for stage in prepared.stages:
            try_out(prepared, stage.method, self.state)
        self.prepared = prepared
        last = prepared.stages[-1]
        self.at = last.first + int(LATE * (last.last - last.first))
        while (stage := enter_stage(prepared.stages, self.state)).number < last.number:
            self.state.step = stage.last
        self.stage = last
        self.state.step = self.at
        self.floor = Floor(self)
        self.state.compile = prepared.run.compile

    def batch(self) -> Batch:
        return draw_batch(self.stage, self.prepared.arrays, self.at)

    def step(self) -> None:
        """One step of a run, with its batch."""
        with timing.span("batch"):
            batch = to_device(self.batch(), self.prepared.device)
        train_step(self.stage, self.state, batch)
        self.state.step = self.at


class Floor:
    """What no trainer of the method can avoid, on a network of its own.

    The passes of its networks on the same rows, forward and back, under as much dropout, and the
    fused optimizer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.state = new_state(trainer.prepared)
        self.state.frozen = trainer.state.frozen
        batch = to_device(trainer.batch(), trainer.prepared.device)
        with record(networks_of(trainer.state)) as self.passes:
            gradients(trainer.stage, trainer.state, batch)
        trainer.state.optimizer.zero_grad(set_to_none=True)
        self.networks = programs(networks_of(self.state), trainer.prepared.run.compile)

    def __call__(self) -> None:
        self.state.optimizer.zero_grad(set_to_none=True)
        repeat(self.passes, self.networks)
        self.state.optimizer.step()


def networks_of(state: State) -> dict[str, nn.Module]:
    """The bare networks that a loss may ask, without their preconditioning."""
    modules = state.modules()
    teacher = state.teacher.denoiser if state.teacher else None
    if isinstance(teacher, nn.Module):
        modules["teacher"] = teacher
    return {
        name: module.network if isinstance(module, Preconditioned) else module
        for name, module in modules.items()
    }


def programs(networks: Mapping[str, nn.Module], mode: Mode) -> dict[str, Callable[..., Any]]:
    """The networks by their names, with compiled passes where the mode says so."""
    if mode == "off":
        return dict(networks)
    return {name: compile_network(one, mode) for name, one in networks.items()}


def describe(passes: list[Pass]) -> dict[str, int]:
    """How many rows each network passes, by whether with a gradient or derived."""
    rows: Counter[str] = Counter()
    for one in passes:
        kind = "derived" if one.tangents else "learning" if one.learns else "plain"
        rows[f"{one.name} {kind}"] += one.rows
    return dict(rows)


def measure(trainers: Sequence[Trainer], repeats: int, *, progress: bool = False) -> list[StepTime]:
    """Their steps and floors, all in turn."""
    device = trainers[0].prepared.device
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for number, trainer in enumerate(trainers):
        calls["step", number] = trainer.step
        calls["floor", number] = trainer.floor
    total = repeats * len(calls)
    with Progress(total, "call", show=progress) as bar:
        tick = partial(bar.update, 1)
        seconds = in_turn(calls, repeats, clock_of(device), tick, TURN)
    first = seconds["step", 0]
    return [
        _time(trainer, seconds["step", number], seconds["floor", number], first)
        for number, trainer in enumerate(trainers)
    ]


def _time(trainer: Trainer, step: list[float], floor: list[float], first: list[float]) -> StepTime:
    run = trainer.prepared.run
    over_floor, of_first = ratio(step, floor), ratio(step, first)
    counter = FlopCounterMode(display=False)
    with counter:
        trainer.floor()
    flops = counter.get_total_flops()
    peak = peak_rate(trainer.prepared.device, run.precision)
    usual = median(step)
    student = trainer.state.student.network
    return StepTime(
        name=trainer.name,
        method=run.method,
        network=run.network,
        device=trainer.prepared.device.type,
        dropout=any(one.arguments[0][3:] for one in trainer.floor.passes),
        batch=run.batch,
        weights=sum(p.numel() for p in student.parameters()),
        step=1e3 * usual,
        floor=1e3 * median(floor),
        ratio=over_floor.value,
        interval=over_floor[1:],
        of_first=of_first.value,
        of_first_interval=of_first[1:],
        parts=parts_of(trainer),
        passes=describe(trainer.floor.passes),
        samples_per_second=run.batch / usual,
        memory=memory_of(trainer.step, trainer.state, trainer.prepared.device),
        floor_memory=memory_of(trainer.floor, trainer.floor.state, trainer.prepared.device),
        flops=flops,
        mfu=None if peak is None else flops / usual / peak,
    )


def parts_of(trainer: Trainer) -> dict[str, float]:
    """Milliseconds of a step by part, means of a few; what none of them has is `rest`."""
    now = clock_of(trainer.prepared.device)
    start = now()
    with timing.spans(now) as seconds:
        for _ in range(WATCHED):
            trainer.step()
    whole = now() - start
    parts = {**seconds, "rest": whole - sum(seconds.values())}
    return {name: 1e3 * own / WATCHED for name, own in parts.items()}


def memory_of(work: Callable[[], object], state: State, device: torch.device) -> int:
    """Bytes of the state's tensors and of those that the work makes, when most are alive."""
    state.optimizer.zero_grad(set_to_none=True)
    storages = [x.untyped_storage() for x in tensors_of(state)]
    sizes = {one.data_ptr(): one.nbytes() for one in storages}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return sum(sizes.values()) + torch.cuda.max_memory_allocated(device) - before
    live = Live()
    live.places |= sizes.keys()
    with live:
        work()
    return sum(sizes.values()) + live.peak


def tensors_of(state: State) -> Iterator[Tensor]:
    """What a state keeps between its steps."""
    for group in state.groups().values():
        yield from group.values()
    teacher = state.teacher.denoiser if state.teacher else None
    if isinstance(teacher, nn.Module):
        yield from teacher.parameters()


def peak_rate(device: torch.device, precision: str) -> float | None:
    """Operations a second of a known card, in a precision; None of others."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "")
    return next((rates[precision] for kind, (rates, _) in KINDS.items() if kind in name), None)
