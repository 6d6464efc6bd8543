"""A step whose numbers were not finite, made again from its incident: the same bits, and where they
go wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewstep.base.device import pick_device
from fewstep.core import abilities
from fewstep.run import sources
from fewstep.run.build import Network, OwnMethod, build_method
from fewstep.run.config import run_from_json
from fewstep.run.facts import Facts
from fewstep.run.sources import Source
from fewstep.training import incidents, nonfinite
from fewstep.training.batches import moved, parts
from fewstep.training.state import State, new_state
from fewstep.training.step import gradients, passes


@dataclass(frozen=True)
class Replay:
    """What a step gave when it was made again."""

    step: int
    error: str  # that was told when it happened
    loss: Tensor  # [B], of the rows in their order
    same: bool  # every loss to the bit, NaN and infinities included
    bad: Tensor  # which rows have a loss that is not finite
    times: Tensor  # [B], t of each row
    rows: Tensor  # [B], which samples of the training split
    module: str | None  # the first that made numbers that are not finite in the forward passes
    weight: str | None  # the first whose gradient is not finite


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one type are equal byte by byte."""
    one, other = (x.contiguous().view(torch.uint8) for x in (a, b))
    return a.dtype == b.dtype and torch.equal(one, other)


def replay(
    path: str | Path,
    *,
    network: Network | None = None,
    method: OwnMethod | None = None,
    teacher: Source | None = None,
    device: str = "auto",
) -> Replay:
    """Makes the step of an incident again: its state, batch, threads and parts are those that it
    had.

    network, method, teacher: like those of the run, where they were your own. On another machine,
    device or version of torch the last bits may differ. Raises UserError and StorageError.
    """
    saved, batch, before = incidents.read(Path(path))
    run, facts = run_from_json(saved.state["run"]), Facts.from_json(saved.state["facts"])
    place, made = pick_device(device), build_method(run, facts, method)
    guide = sources.teacher_of(teacher, run, facts, made, network, place)
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    try:
        state = new_state(run, facts, made, network, place, None, guide)
        state.restore(saved)
        if made.before is not None and saved.state.get("stage") == 1:
            made = made.before
        batch = moved(batch, place)
        ranks = 1 if run.elastic_exact else saved.state.get("machine", {}).get("processes", 1)
        shares = parts(batch, ranks)  # each rank cut its own
        for part in state.trained.modules():
            if normalise := abilities.normalise(part):
                normalise()
        loss_b = torch.cat([gradients(run, made, state, share) for share in shares]).cpu()
        weight = _bad_gradient(state)
        module = nonfinite.first_module(
            state, lambda: [passes(run, made, state, share) for share in shares]
        )
    finally:
        torch.set_num_threads(threads)
    bad = (~torch.isfinite(loss_b)).nonzero().flatten()
    told, same = str(saved.state["incident"].get("error", "")), same_bits(loss_b, before)
    return Replay(
        saved.state["step"], told, loss_b, same, bad, batch.times.t, batch.rows, module, weight
    )


def _bad_gradient(state: State) -> str | None:
    named = ((name, p.grad) for name, p in state.trained.named_parameters())
    return next(
        (name for name, grad in named if grad is not None and not torch.isfinite(grad).all()), None
    )
