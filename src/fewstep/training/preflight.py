"""What a run can only decide by trying its networks before the first step, and that a resumed one
decides no more.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fewstep import data as datasets
from fewstep.base.errors import FewstepError, UserError
from fewstep.core import abilities
from fewstep.core.denoiser import Models, passes_in, quiet
from fewstep.core.method import Method
from fewstep.run.config import Run
from fewstep.run.prepare import filled
from fewstep.training.batches import cut, draw_batch, sharing
from fewstep.training.precision import PASSES
from fewstep.training.state import State

ROWS = 4  # that a probe looks at


def decided(
    run: Run, method: Method, models: Models, arrays: datasets.Arrays, device: torch.device
) -> tuple[Run, Method, str]:
    """The run and its method with what the target's `probe` chose, and its line on why: "" where it
    chose nothing.
    """
    probe = abilities.probe(method.target)
    if probe is None:
        return run, method, ""
    batch = cut(draw_batch(run, method, arrays, 0, device), slice(0, ROWS), slice(0, 1))
    with torch.no_grad(), quiet(models.student):
        x_t, x_r = method.coupling(
            models, method.process, batch.x0, batch.z, batch.times, batch.cond
        )
        found = probe(method.process, models, x_t, x_r, batch.times, batch.cond)
    if found is None:
        return run, method, ""
    fields, why = found
    run = replace(run, method_options=filled(run.method_options, fields))
    return run, replace(method, target=replace(method.target, **fields)), why  # type: ignore[type-var]


def try_out(
    run: Run, method: Method, state: State, arrays: datasets.Arrays, device: torch.device
) -> bool:
    """One loss and gradient before anything is written, so that a network that does not fit is told
    at once.

    Returns whether some weights got no gradient.
    """
    batch = draw_batch(run, method, arrays, 0, device)
    if method.target is None and not torch.equal(batch.times.r, batch.times.a):
        raise UserError(
            f"target = None: expected a target, since {type(method.times).__name__} gives r > a"
        )
    two = cut(
        batch, slice(0, max(2, sharing(run, method))), slice(0, 1)
    )  # or what shares a trajectory
    try:
        with passes_in(PASSES[run.precision]):
            models = replace(state.models(), frozen=state.frozen or state.averages["ema"])
            loss = method.loss(models, two.x0, two.z, two.times, two.cond, two.seeds)
        loss.mean().backward()
    except FewstepError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        told = str(error).partition("\n")[0]
        raise UserError(
            f"the network {run.network!r} fails on data of shape {tuple(batch.x0.shape[1:])}:"
            f" {told}; expected network(x, noise_label [B] float32, cond) -> a tensor like x"
        ) from error
    unused = any(p.grad is None for p in state.trained.parameters())
    state.trained.zero_grad(set_to_none=True)
    return unused
