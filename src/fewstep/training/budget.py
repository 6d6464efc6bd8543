"""What a run takes, before it is started: weights, passes, memory and disk by counts, and hours.

Counts are of the network on torch's meta device, so that a network of any size is counted on any
machine: multiplications of a pass, and the bytes that autograd keeps of a sample. Hours come from
steps that are timed here, or, for another kind of machine, from its peak rate and the share of it
that networks reach: an estimate.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fewstep.base.conditions import Cond, each
from fewstep.base.errors import UserError
from fewstep.base.surroundings import surroundings, threads
from fewstep.core import abilities, parts
from fewstep.core.denoiser import Models
from fewstep.core.method import Method
from fewstep.networks.attention import has_tangent
from fewstep.networks.blocks import blocks_of
from fewstep.networks.blocks import recompute as recomputed
from fewstep.networks.dropout import Masks
from fewstep.networks.ends import on_diagonal
from fewstep.networks.outline import WithoutMemory
from fewstep.run.build import build_student
from fewstep.run.machines import KINDS, REACHED
from fewstep.run.prepare import Prepared
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch, to_device
from fewstep.training.precision import PASSES
from fewstep.training.preflight import name_of, trial
from fewstep.training.state import new_state
from fewstep.training.step import train_step

MOMENTS = {"adam": 2, "adamw": 2, "radam": 2, "lion": 1, "adamw8bit": 0.5}
CONTEXT = {"cpu": 0.35e9, "cuda": 0.8e9}  # bytes of a process without a run
SLACK = 1.15  # memory of activations and what the allocator holds beside (benchmarks/plan.py)
BACKWARD = 2.0  # passes that a backward pass costs
TANGENT = 2.0  # passes that a derivative along a direction costs beside its value


class _Count(nn.Module):
    """A stand-in for a network, which counts the rows that it is asked for."""

    def __init__(self, ends: int = 0) -> None:
        super().__init__()
        self.ends = ends
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.learn = self.look = self.tangent = 0

    def forward(
        self, x_t: Tensor, t: Any, cond: Cond = None, masks: Any = None, to: Any = None
    ) -> Tensor:
        rows = len(x_t)
        if has_tangent(x_t, *(torch.as_tensor(part) for part in (t, to) if part is not None)):
            self.tangent += rows
        elif torch.is_grad_enabled():
            self.learn += rows
        else:
            self.look += rows
        return self.factor * x_t


@dataclass(frozen=True)
class Passes:
    """Evaluations of a network for each sample of an update."""

    learn: float  # with a gradient
    look: float  # without
    tangent: float  # with a derivative along a direction

    def cost(self, recompute: bool) -> float:
        """In passes without a gradient; recompute: one with a gradient is made twice."""
        learn = 1 + BACKWARD + recompute
        return self.learn * learn + self.look + self.tangent * (1 + TANGENT)


def passes_of(prepared: Prepared, method: Method) -> tuple[Passes, Passes]:
    """Of the student, its averages and frozen networks, and of the teacher."""
    name = name_of(prepared.run)
    batch = draw_batch(
        Stage(prepared.run, parts.watch(method, name, ["times"])), prepared.arrays, 0
    )
    own, teacher = _Count(abilities.ends(method)), _Count()
    shape = prepared.facts.shape
    beside: dict[str, Any] = {name: make(shape) for name, make in method.beside.items()}
    models = Models(student=own, ema=own, teacher=teacher, frozen=own, **beside)
    # Of the stand-in differences are always right: the run's own network decides.
    if result := trial(prepared.run, method, models, batch):
        method = replace(method, target=result[0])
    method = parts.watch(method, name)
    method.loss(models, batch.x0, batch.z, batch.times, batch.cond, batch.seeds)
    rows = len(batch.x0)
    ours, theirs = (
        Passes(one.learn / rows, one.look / rows, one.tangent / rows) for one in (own, teacher)
    )
    return ours, theirs


class _Masks(Masks):
    """Masks of dropout that need no memory."""

    def _all(self, layer: int, shape: Sequence[int], keep: float, device: torch.device) -> Tensor:
        return torch.empty(self.rows, *shape, dtype=torch.bool, device=device)

    @property
    def nbytes(self) -> int:
        return sum(bits.nbytes for bits in self._cache.values())


@dataclass(frozen=True)
class Size:
    """A network: its weights, and what one sample costs in a pass."""

    weights: int
    flops: float
    kept_bytes: float  # that autograd keeps for the backward pass, in fp32
    block: int  # weights of its largest block
    rest: int  # weights that are in no block


def size_of(prepared: Prepared, *, recompute: bool = False) -> Size:
    """Of the run's network. Raises UserError where it cannot be outlined without its weights.

    recompute: what is kept is then the inputs of blocks, and all of the largest block.
    """
    run, facts = prepared.run, prepared.facts
    if isinstance(prepared.network, nn.Module):
        network = copy.deepcopy(prepared.network)  # the user's own stays where it is
    else:
        with WithoutMemory():
            network = build_student(run, facts, prepared.method, prepared.network).network
    weights = sum(p.numel() for p in network.parameters())
    network = network.to("meta").train()
    blocks = list(blocks_of(network).values())
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    cond = prepared.arrays.rows(torch.arange(4) % len(prepared.arrays)).cond

    def count(rows: int, again: bool) -> tuple[float, float, float]:
        x = torch.empty(rows, *facts.shape, device="meta", requires_grad=True)
        label = torch.empty(rows, device="meta")
        own = each(lambda part: part[:rows].to("meta"), cond)
        masks = _Masks(rows, (0,))
        more = (masks,) if abilities.masks(network) else ()
        with (
            recomputed(blocks if again else ()),
            FlopCounterMode(display=False) as flops,
            _activations(blocks) as (activations, inside),
        ):
            on_diagonal(network, x, label, own, *more)
        memory = sum(activations.values()) + masks.nbytes
        return flops.get_total_flops(), memory, max(inside, default=0)

    def of_one(again: bool = False) -> Tensor:
        two, four = (torch.tensor(count(rows, again), dtype=torch.float64) for rows in (2, 4))
        return (four - two).clamp_min(0) / 2

    try:
        flops, memory, inside = of_one().tolist()
        if recompute and blocks:
            memory = of_one(again=True)[1].item() + inside
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"network {run.network!r} cannot be counted: {reason}") from error
    return Size(weights, flops, memory, max(sizes, default=0), weights - sum(sizes))


@contextmanager
def _activations(
    blocks: Sequence[nn.Module],
) -> Iterator[tuple[dict[int, int], list[int]]]:
    """The bytes that autograd keeps inside, weights too: by storage, and of each block."""
    activations: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage's address is another's

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        activations[storage._cdata] = storage.nbytes()
        alive.append(x)
        return x

    inside: list[int] = []
    hooks = []
    for block in blocks:
        enter = lambda *_: inside.append(-sum(activations.values()))  # noqa: E731
        hooks.append(block.register_forward_pre_hook(enter))
        leave = lambda *_: inside.append(inside.pop() + sum(activations.values()))  # noqa: E731
        hooks.append(block.register_forward_hook(leave))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            yield activations, inside
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Budget:
    """What a run takes. Bytes are of each process; hours are all in all."""

    weights: int
    passes: float  # of an update, for each sample, in passes of the network without gradient
    teacher_passes: float
    flops: float  # of the whole run
    memory: float
    checkpoint: float  # bytes of one
    storage: float  # bytes of all that the folder holds in the end
    samples: float  # that pass in all
    hours: float | None  # None where nothing was timed and no kind of machine was named
    basis: str  # what the hours come from


def budget_of(
    prepared: Prepared,
    *,
    gpus: int = 1,
    kind: str | None = None,
    steps: int = 0,
    shard: bool = False,
    recompute: bool = False,
) -> Budget:
    """The budget of a run on so many devices of a kind; steps: that are timed on this machine.

    In shards two blocks are whole: the one in use, and the next one, on its way.
    """
    run, size = prepared.run, size_of(prepared, recompute=recompute)
    stages = prepared.stages
    ends = [*(stage.last for stage in stages[:-1]), run.steps]
    shares = [(end - stage.first) / run.steps for stage, end in zip(stages, ends, strict=True)]
    passes = [passes_of(prepared, stage.method) for stage in stages]
    pairs = list(zip(shares, passes, strict=True))
    cost = sum(share * ours.cost(recompute) for share, (ours, _) in pairs)
    teacher = sum(share * theirs.cost(False) for share, (_, theirs) in pairs)
    samples = float(run.steps) * run.batch
    flops = size.flops * samples * (cost + teacher)
    groups = 2 + len(run.averages) + any(one.ema_rate is not None for one in prepared.method.chain)
    groups += len(stages) > 1  # the frozen network
    moments = MOMENTS[run.optimizer]
    for_weights = 4.0 * size.weights * (groups + 1 + moments)
    if shard:
        whole = size.rest + 2 * size.block
        for_weights = for_weights / gpus + 4.0 * 2 * whole  # and their gradients
    for_weights += 4.0 * size.weights * (teacher > 0)
    rows = run.batch / gpus / run.accumulate
    narrow = 0.5 if PASSES[run.precision] else 1.0
    device = "cpu" if kind is None and prepared.device.type == "cpu" else "cuda"
    memory = CONTEXT[device] + for_weights + rows * size.kept_bytes * narrow * SLACK
    checkpoint = 4.0 * size.weights * (groups + moments)
    number = -(-run.steps // run.checkpoint_every)
    number += -(-run.steps // run.eval_every) if run.eval_every else 0  # each may be the best
    few = run.keep_checkpoints + (run.eval_every > 0)  # and the best one
    keep = number if run.keep_checkpoints == 0 else min(few, number)
    hours, basis = None, "nothing"
    if kind is not None:
        rate = KINDS[kind][0][run.precision] * REACHED * gpus
        hours = flops / rate / 3600
        basis = f"estimated: {REACHED:.0%} of the peak of {gpus} x {kind}"
    elif steps:
        first = passes[0][0].cost(recompute) + passes[0][1].cost(False)  # of the stage timed
        seconds = _time_steps(prepared, steps, recompute) * (cost + teacher) / first
        hours = seconds * run.steps / 3600
        basis = f"{steps} steps timed on this machine"
    return Budget(
        weights=size.weights,
        passes=cost,
        teacher_passes=teacher,
        flops=flops,
        memory=memory,
        checkpoint=checkpoint,
        storage=checkpoint * keep,
        samples=samples,
        hours=hours,
        basis=basis,
    )


def _time_steps(prepared: Prepared, steps: int, recompute: bool) -> float:
    """Seconds of a step of the first stage: a median without the first step, which is slower."""
    state = new_state(replace(prepared, network=copy.deepcopy(prepared.network)))
    stage = prepared.stages[0]
    seconds = []
    blocks = blocks_of(state.student.network).values() if recompute else ()
    with surroundings(grad=True), threads(prepared.run.threads), recomputed(blocks):
        for step in range(steps + 1):
            start = time.perf_counter()
            batch = to_device(draw_batch(stage, prepared.arrays, step), prepared.device)
            train_step(stage, state, batch)  # it waits for the device
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
