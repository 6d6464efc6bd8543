"""One optimizer step: gradients of the mean loss, the check before any update, the update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.base.timing import span
from fewstep.base.world import is_divided, whole
from fewstep.run.config import Run
from fewstep.run.stages import Stage
from fewstep.training import nonfinite, optimizers
from fewstep.training.batches import Batch, parts
from fewstep.training.precision import in_precision
from fewstep.training.state import Loss, State, update_averages


def cuts(run: Run, state: State, batch: Batch) -> list[Batch]:
    """The parts of a rank's batch that are passed one by one."""
    return parts(batch, run.elastic_exact // state.world.size or run.accumulate)


def passes(stage: Stage, state: State, batch: Batch) -> list[Tensor]:
    """A step's passes without gradients and without an engine around them, to be looked at."""
    loss = Loss(state.trainable, state.models)
    with in_precision(stage.run.precision):
        return [loss(stage.method, part).detach() for part in cuts(stage.run, state, batch)]


def gradients(stage: Stage, state: State, batch: Batch) -> Tensor:
    """Leaves the gradient of the whole batch's mean loss times the loss scale in the weights.

    Returns the losses `[B]` of this process's rows.
    """
    with in_precision(stage.run.precision):
        if stage.run.elastic_exact:
            return _gradients_by_tree(stage, state, batch)
        return _gradients_by_parts(stage, state, batch)


def _gradients_by_parts(stage: Stage, state: State, batch: Batch) -> Tensor:
    run = stage.run
    results = []
    for number, part in enumerate(cuts(run, state, batch), 1):
        with _gradients_joined(state.loss, number == run.accumulate):
            loss_b = state.loss(stage.method, part)
            with span("backward"):
                (loss_b.mean() * (state.scale.factor / run.accumulate)).backward()
        results.append(loss_b.detach())
    if state.is_sharded:
        _average_whole(state)
    return torch.cat(results)


def _average_whole(state: State) -> None:
    """Gives weights that a sharded run has whole on every process the mean of all gradients."""
    weights = [p for p in optimizers.weights(state.optimizer) if not is_divided(p)]
    if weights:
        has_gradient = torch.tensor([[p.grad is not None for p in weights]])
        flat = state.world.gather(_take_gradients(weights)[None]).mean(0)
        _give_gradients(weights, flat, state.world.gather(has_gradient))


def _gradients_joined(loss: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Whether backward passes inside join the gradients of all processes: once, at a step's end."""
    apart = getattr(loss, "no_sync", None)
    return nullcontext() if now or apart is None else apart()


def _gradients_by_tree(stage: Stage, state: State, batch: Batch) -> Tensor:
    """The same by `elastic_exact` parts whose gradients are added pairwise, in a fixed order.

    Addition is not associative: ((1 + 2) + (3 + 4)) is what one process adds up, and what two that
    hold half of the parts each add up, so that the bits do not depend on their number.
    """
    run = stage.run
    weights = list(state.trainable.parameters())
    results: list[Tensor] = []
    sums: list[Tensor] = []
    has_gradient = torch.zeros(1, len(weights), dtype=torch.bool)
    for number, part in enumerate(cuts(run, state, batch), 1):
        loss_b = state.loss(stage.method, part)
        with span("backward"):
            (loss_b.sum() * (state.scale.factor / run.batch)).backward()
        results.append(loss_b.detach())
        has_gradient |= torch.tensor([p.grad is not None for p in weights])
        sums.append(_take_gradients(weights))
        while number % 2 == 0:  # the last two sums are of as many parts each
            number //= 2
            last = sums.pop()
            sums[-1] += last
    # The sums of all processes.
    level = list(state.world.gather(sums[0][None]))
    while len(level) > 1:
        level = [one + other for one, other in zip(level[::2], level[1::2], strict=True)]
    _give_gradients(weights, level[0], state.world.gather(has_gradient))
    return torch.cat(results)


def _take_gradients(weights: list[nn.Parameter]) -> Tensor:
    """All gradients in one vector, 0 where there is none; removes them from the weights."""
    flat = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in weights]
    )
    for p in weights:
        p.grad = None
    return flat


def _give_gradients(weights: list[nn.Parameter], flat: Tensor, has_gradient: Tensor) -> None:
    """Into the weights by `[processes, weights]`; one that no process reaches gets none at all."""
    flats = flat.split([p.numel() for p in weights])
    for p, own, has in zip(weights, flats, has_gradient.any(0).tolist(), strict=True):
        p.grad = own.view_as(p) if has else None


@contextmanager
def _weights_normalised(state: State) -> Iterator[None]:
    """EDM2's forced normalisation, once a step, before its passes; undone where the step fails.

    Twice is not the same bits, so that what is saved of a failed step has to be the weights before.
    """
    modules = state.normalisers
    before = {p: p.detach().clone() for module in modules for p in module.parameters()}
    for module in modules:
        module.normalise_()  # type: ignore[operator]
    try:
        yield
    except BaseException:
        for p, values in before.items():
            p.data.copy_(values)
        raise


def learning_rate(stage: Stage, state: State, progress: float) -> float:
    """The learning rate of the next step; progress: the share of its stage before it."""
    return rate_at(stage, state.step, progress, state.frozen is not None)


def rate_at(stage: Stage, step: int, progress: float, has_frozen: bool) -> float:
    """The learning rate of the step that follows so many; has_frozen: behind another stage."""
    run = stage.run
    age = run.age or 0
    clock, steps = progress, stage.last - stage.first
    if run.lr_clock == "run":
        steps = age + run.iterations
        clock = (age + run.schedule_step(step)) / steps
    # The first rate of a warm-up is 0: a single step would train nothing.
    warmup = run.warmup if steps > 1 else 0.0
    rate = run.lr * optimizers.lr_factor(clock, warmup, run.constant, run.final, run.decay)
    return rate * run.stage_lr if has_frozen else rate


def train_step(stage: Stage, state: State, batch: Batch) -> dict[str, Any]:
    """One optimizer step; returns what is logged. Raises NonFiniteError before anything is updated.

    In fp16 a gradient that overflows skips the update; the step is counted and a warning names it.
    """
    run = stage.run
    rate = learning_rate(stage, state, batch.times.progress)
    progress = run.schedule_step(state.step) / run.iterations
    row: dict[str, Any] = {"step": state.step + 1, "progress": progress}
    state.optimizer.zero_grad(set_to_none=True)
    with _weights_normalised(state):
        # Gradients.
        evaluations = state.evaluations()
        loss_b = state.world.gather(gradients(stage, state, batch))
        if state.teacher is not None:
            evaluations = state.world.total(state.evaluations() - evaluations)
        weights = [p for p in optimizers.weights(state.optimizer) if p.grad is not None]
        grads = [p.grad for p in weights if p.grad is not None]
        if state.scale.factor != 1:
            torch._foreach_mul_(grads, 1 / state.scale.factor)
        # The check: the same values on every rank, so that all of them stop.
        with span("check"):
            loss = loss_b.mean()
            norm = whole(nn.utils.get_total_norm(grads))
            # The step's one wait for the device.
            values = torch.stack([loss, norm.to(loss.dtype)]).tolist()
        row |= {"loss": values[0], "grad_norm": values[1], "lr": rate}
        is_finite = [math.isfinite(value) for value in values]
        skips = run.precision == "fp16" and is_finite == [True, False]
        if skips:
            nonfinite.overflow(stage, state, batch, loss_b.cpu())
            row["grad_norm"] = None  # JSON has no infinity
        elif not all(is_finite):
            again = partial(passes, stage, state, batch)
            loss_b = loss_b.cpu()
            raise nonfinite.non_finite(stage, state, batch, loss_b, values[1], again)
    # The update.
    state.updating = True
    if not skips:
        # It divides by norm + 1e-6, and multiplies by 1 where that is smaller.
        if values[1] + 1e-6 > run.clip:
            with span("clipping"):
                nn.utils.clip_grads_with_norm_(weights, run.clip, norm)
        updates = state.step - state.stage_start - state.scale.skipped
        optimizers.set_rate(state.optimizer, run, rate, updates)
        with span("optimizer"):
            state.optimizer.step()
    if run.precision == "fp16":
        state.scale.update(skips)
        row |= {"loss_scale": state.scale.factor, "skipped": state.scale.skipped}
    with span("averages"):
        update_averages(stage, state, batch.times.progress)
    state.step += 1
    if state.teacher is not None:
        state.teacher_rows += evaluations
        row["teacher_evaluations"] = state.teacher_rows / run.batch
    state.updating = False
    return row
