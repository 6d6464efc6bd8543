"""A step whose numbers were not finite, made again from its incident, to find the cause."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fewstep.base.device import pick_device
from fewstep.base.surroundings import surroundings, threads
from fewstep.core import abilities
from fewstep.run.build import Network, OwnMethod, build_method
from fewstep.run.prepare import Prepared
from fewstep.run.sources import Source
from fewstep.run.stages import Stage
from fewstep.run.teachers import teacher_of
from fewstep.training import incidents, nonfinite
from fewstep.training.batches import parts, to_device
from fewstep.training.state import State, new_state
from fewstep.training.step import gradients, passes


@dataclass(frozen=True)
class Replay:
    """What a step gave when it was made again."""

    step: int
    error: str  # the message when it happened
    loss: Tensor  # [B], of the rows in their order
    same: bool  # every loss to the bit, NaN and infinities included
    bad: Tensor  # which rows have a loss that is not finite
    times: Tensor  # [B], t of each row
    rows: Tensor  # [B], which samples of the training split
    module: str | None  # the first that made numbers that are not finite in the forward passes
    weight: str | None  # the first whose gradient is not finite


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one type and are equal byte by byte."""
    bytes_a = a.contiguous().view(torch.uint8)
    bytes_b = b.contiguous().view(torch.uint8)
    return a.dtype == b.dtype and torch.equal(bytes_a, bytes_b)


@surroundings(grad=True)
def replay(
    path: str | Path,
    *,
    network: Network | None = None,
    method: OwnMethod | None = None,
    teacher: Source | None = None,
    device: str = "auto",
) -> Replay:
    """Makes the step of an incident again, with the state, batch, threads and parts that it had.

    network, method, teacher: like those of the run, where they were your own. On another machine,
    device or version of torch the last bits may differ. Raises UserError and StorageError.
    """
    checkpoint, batch, losses = incidents.read(Path(path))
    record = checkpoint.record
    run, facts = record.run, record.facts
    place = pick_device(device)
    prepared = Prepared(run, facts, build_method(run, facts, method), network=network, device=place)
    prepared = replace(prepared, teacher=teacher_of(teacher, prepared))
    batch = to_device(batch, place)
    with threads(run.threads):
        state = new_state(prepared)
        state.restore(checkpoint)
        stage = Stage(run, record.trained(prepared.method))
        shares = parts(batch, 1 if run.elastic_exact else record.processes)  # each rank cut its own
        for module in state.trainable.modules():
            normalise = abilities.normalise(module)
            if normalise is not None:
                normalise()
        loss_b = torch.cat([gradients(stage, state, share) for share in shares]).cpu()
        weight = _bad_gradient(state)
        where = nonfinite.first_module(
            state, lambda: [passes(stage, state, share) for share in shares]
        )
    return Replay(
        step=record.step,
        error=str((record.incident or {}).get("error", "")),
        loss=loss_b,
        same=same_bits(loss_b, losses),
        bad=(~torch.isfinite(loss_b)).nonzero().flatten(),
        times=batch.times.t,
        rows=batch.rows,
        module=where,
        weight=weight,
    )


def _bad_gradient(state: State) -> str | None:
    """The first weight whose gradient is not finite."""
    for name, p in state.trainable.named_parameters():
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return name
    return None
