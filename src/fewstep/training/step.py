"""One optimizer step: gradients of the batch's mean loss, the guard before anything is updated, the
update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.base.world import whole
from fewstep.core import abilities
from fewstep.core.denoiser import passes_in
from fewstep.core.method import Method
from fewstep.run.config import Run
from fewstep.training import nonfinite, optimizers
from fewstep.training.batches import Batch, parts
from fewstep.training.precision import PASSES
from fewstep.training.state import Loss, State, update_averages


def losses(run: Run, method: Method, state: State, part: Batch) -> Tensor:
    """The losses `[B]` of a part of the batch, with a graph to their gradient."""
    with passes_in(PASSES[run.precision]):
        return state.loss(method, part)


def cuts(run: Run, state: State, batch: Batch) -> list[Batch]:
    """The parts of a rank's batch that are passed one by one."""
    return parts(batch, run.elastic_exact // state.world.size or run.accumulate)


def passes(run: Run, method: Method, state: State, batch: Batch) -> list[Tensor]:
    """A step's passes without their gradients and without an engine around them, to be looked at."""
    with passes_in(PASSES[run.precision]):
        return [
            Loss(state.trained, state.models)(method, part).detach()
            for part in cuts(run, state, batch)
        ]


def gradients(run: Run, method: Method, state: State, batch: Batch) -> Tensor:
    """Leaves the gradient of the whole batch's mean loss times the loss scale in the weights.

    Returns the losses `[B]` of this process's rows.
    """
    if run.elastic_exact:
        return _by_tree(run, method, state, batch)
    kept = []
    for number, part in enumerate(cuts(run, state, batch)):
        with _joined(state.loss, number + 1 == run.accumulate):
            loss_b = losses(run, method, state, part)
            (loss_b.mean() * (state.scale.factor / run.accumulate)).backward()
        kept.append(loss_b.detach())
    return torch.cat(kept)


def _joined(loss: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Whether backward passes inside add the gradients of all processes up: once a step, at its
    last.
    """
    apart = getattr(loss, "no_sync", None)
    return nullcontext() if now or apart is None else apart()


def _by_tree(run: Run, method: Method, state: State, batch: Batch) -> Tensor:
    """The same by `elastic_exact` canonical parts whose gradients are added pairwise, in an order
    that is fixed.

    Addition is not associative: ((1 + 2) + (3 + 4)) is what one process adds up, and what two that
    hold half of the parts each add up, so that the bits do not depend on their number.
    """
    weights = list(state.trained.parameters())
    kept, sums, reached = [], [], torch.zeros(1, len(weights), dtype=torch.bool)
    for number, part in enumerate(cuts(run, state, batch), 1):
        loss_b = losses(run, method, state, part)
        (loss_b.sum() * (state.scale.factor / run.batch)).backward()
        kept.append(loss_b.detach())
        reached |= torch.tensor([p.grad is not None for p in weights])
        sums.append(_taken(weights))
        while number % 2 == 0:  # the last two sums are of as many parts each
            number //= 2
            last = sums.pop()
            sums[-1] += last
    added = list(state.world.gather(sums[0][None]))
    while len(added) > 1:
        added = [one + other for one, other in zip(added[::2], added[1::2], strict=True)]
    touched = (
        state.world.gather(reached).any(0).tolist()
    )  # by any part: the others get no gradient at all
    for p, flat, has in zip(
        weights, added[0].split([p.numel() for p in weights]), touched, strict=True
    ):
        p.grad = flat.view_as(p) if has else None
    return torch.cat(kept)


def _taken(weights: list[nn.Parameter]) -> Tensor:
    """All gradients in one vector, 0 where a part reached a weight not; nothing is left in their
    place.
    """
    flat = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in weights]
    )
    for p in weights:
        p.grad = None
    return flat


@contextmanager
def _normalised(state: State) -> Iterator[None]:
    """EDM2's forced normalisation, once a step and outside of every pass; of a step that fails it
    is taken back.

    Once more is not the same bits, so that what is saved of such a step has to be the weights
    before it.
    """
    modules = [module for module in state.trained.modules() if abilities.normalise(module)]
    before = {p: p.detach().clone() for module in modules for p in module.parameters()}
    for module in modules:
        module.normalise_()  # type: ignore[operator]
    try:
        yield
    except BaseException:
        for p, kept in before.items():
            p.data.copy_(kept)
        raise


def train_step(run: Run, method: Method, state: State, batch: Batch) -> dict[str, Any]:
    """One optimizer step; returns what is logged. Raises NonFiniteError before anything is updated.

    In fp16 a gradient that overflows skips the update, which is counted and told.
    """
    progress, age = state.step / run.iterations, run.age or 0
    clock = progress if not age else (age + state.step) / (age + run.iterations)
    clock = clock if run.lr_clock == "run" else batch.times.progress
    rate = run.lr * optimizers.lr_factor(clock, run.warmup, run.constant, run.final, run.decay)
    rate = rate if state.frozen is None else rate * run.stage_lr
    state.optimizer.zero_grad(set_to_none=True)
    with _normalised(state):
        asked = state.asked()
        loss_b = state.world.gather(gradients(run, method, state, batch))
        asked = state.world.total(state.asked() - asked) if state.teacher is not None else 0
        loss = loss_b.mean()
        weights = [p for p in state.trained.parameters() if p.grad is not None]
        grads = [p.grad for p in weights if p.grad is not None]
        if state.scale.factor != 1:
            torch._foreach_mul_(grads, 1 / state.scale.factor)
        norm = whole(nn.utils.get_total_norm(grads))
        values = torch.stack(
            [loss, norm.to(loss.dtype)]
        ).tolist()  # the step's one wait for the device
        row: dict[str, Any] = {"step": state.step + 1, "progress": progress}
        row |= {"loss": values[0], "grad_norm": values[1], "lr": rate}
        overflowed = (
            run.precision == "fp16" and math.isfinite(values[0]) and not math.isfinite(values[1])
        )
        if overflowed:
            nonfinite.overflow(state, loss_b.cpu())
            row["grad_norm"] = None  # JSON knows no infinity
        elif not all(
            math.isfinite(value) for value in values
        ):  # the same values on every rank, so all of them stop
            raise nonfinite.non_finite(
                state, batch, loss_b.cpu(), values[1], partial(passes, run, method, state, batch)
            )
    state.updating = True
    if not overflowed:
        nn.utils.clip_grads_with_norm_(weights, run.clip, norm)
        optimizers.set_rate(
            state.optimizer, run, rate, state.step - state.begun - state.scale.skipped
        )
        state.optimizer.step()
    if run.precision == "fp16":
        state.scale.update(overflowed)
        row |= {"loss_scale": state.scale.factor, "skipped": state.scale.skipped}
    update_averages(run, method, state, batch.times.progress)
    state.step += 1
    state.teacher_rows += asked
    state.updating = False
    if state.teacher is not None:
        row["teacher_evaluations"] = state.teacher_rows / run.batch
    return row
