"""What a run finds out by trying its networks before the first step."""

from __future__ import annotations

import traceback
from dataclasses import replace

import torch
from torch import Tensor

from fewstep.base.conditions import pick
from fewstep.base.errors import FewstepError, UserError
from fewstep.core import abilities, parts
from fewstep.core.denoiser import Models, Preconditioned, quiet
from fewstep.core.method import Method
from fewstep.core.targets import Probe
from fewstep.run.config import OWN, Run
from fewstep.run.prepare import Prepared, fill_auto
from fewstep.run.stages import Stage, stage_at
from fewstep.training.batches import Batch, cut, draw_batch, sharing, to_device
from fewstep.training.precision import PASSES, in_precision
from fewstep.training.state import State
from fewstep.training.step import gradients

ROWS = 4  # that a trial looks at
SHORT = 5e-3  # a step of differences in float32
NEED = "expected network(x, noise_label [B] float32, cond) -> a tensor like x"


def choose_by_trial(prepared: Prepared, state: State) -> tuple[Prepared, str]:
    """The run with what the target's `probe` chose, and the reason in one line.

    A run that goes on has its choices already. "" where nothing was chosen.
    """
    method = prepared.method
    if prepared.checkpoint is not None:
        return prepared, ""
    result = trial(prepared.run, method, state.models(), _first_batch(prepared, method))
    if result is None:
        return prepared, ""
    target, choices, reason = result
    options = fill_auto(prepared.run.method_options, choices)
    run = replace(prepared.run, method_options=options)
    return replace(prepared, run=run, method=replace(method, target=target)), reason


def trial(run: Run, method: Method, models: Models, batch: Batch) -> Probe:
    """What the `probe` of the method's target says of a few rows; None without one.

    They are off the diagonal, from the batch's least noise to its most, where derivatives are
    hardest; the last is at the latest time of sampling, if later, or a step before pure noise.
    """
    probe = abilities.probe(method.target)
    if probe is None:
        return None
    t, to = batch.times.t, batch.times.to
    far = torch.ones_like(t, dtype=torch.bool) if to is None else to < t
    order = (far if bool(far.any()) else ~far).nonzero().flatten()
    order = order[t[order].argsort()]
    index = order[torch.linspace(0, len(order) - 1, ROWS).long()]
    times, here = batch.times.at(index), index.to(batch.x0.device)
    latest = max(times.t[-1].item(), method.process.t_max)
    times.t[-1] = min(latest, (1 - SHORT) * method.process.end)
    x0, z = batch.x0[here], batch.z[here]
    cond = method.tell(times, pick(batch.cond, here))
    with torch.no_grad(), quiet(models.student):
        x_t = method.process.mix(x0, z, times.t)
        v = method.process.rate(x0, z, times.t)
        return probe(method.process, models, x_t, v, times, cond, PASSES[run.precision] is None)


def _first_batch(prepared: Prepared, method: Method) -> Batch:
    """The batch of step 0 where the method trains the whole run.

    Raises UserError for times that are out of order there, half-way or at the last step.
    """
    run, name = prepared.run, name_of(prepared.run)
    stage = Stage(run, parts.watch(method, name, ["times"]))
    batch = draw_batch(stage, prepared.arrays, 0)
    parts.check_times(batch.times, run.batch, name)
    u, ordinal = batch.times.u, torch.arange(run.batch)
    assert u is not None
    for step in (stage.last // 2, stage.last - 1):
        progress = stage.progress(step)
        times = stage.method.times(u, progress, ordinal)
        parts.check_times(times._replace(progress=progress), run.batch, name)
    return to_device(batch, prepared.device)


def name_of(run: Run) -> str:
    """What its method is called in messages."""
    return "your method" if run.method == OWN else run.method


def rows_of(method: Method, batch: Batch) -> int:
    """How many a trial takes: whole groups, no size of the data, so that axes are told apart."""
    least, size = method.group, len(batch.x0)
    sizes = {1, *batch.x0.shape[1:]}
    counts = (count for count in range(least, size + 1, least) if count not in sizes)
    return next(counts, max(2, least))


def try_out(prepared: Prepared, method: Method, state: State, advice: str = NEED) -> bool:
    """One loss and gradient before anything is written; whether some weights got no gradient.

    Raises UserError where the network does not fit the data, or a part of the method its own place.
    """
    run = prepared.run
    batch = _first_batch(prepared, method)
    if method.target is None and not torch.equal(batch.times.r, batch.times.a):
        raise UserError(
            f"target = None: expected a target, since {type(method.times).__name__} gives r > a"
        )
    sharing(run, method)  # raises where blocks part groups
    rows, name = rows_of(method, batch), name_of(run)
    few = cut(batch, slice(0, rows), slice(0, 1))
    try:
        with in_precision(run.precision):
            models = replace(state.models(), frozen=state.frozen or state.averages["ema"])
            loss = parts.watch(method, name).loss(
                models, few.x0, few.z, few.times, few.cond, few.seeds
            )
            parts.check_loss(loss, len(few.x0), name)
            buffers = [buffer.clone() for buffer in state.student.buffers()]
            loss.mean().backward()
    except parts.PartError as error:
        if error.__cause__ and _is_networks(error.__cause__, run, state, batch):
            raise _misfit(run, batch, error.__cause__, advice) from error
        raise
    except (FewstepError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of any kind: it is the user's
        has_own_loss = method.has_own_loss and is_own(run.method)
        if has_own_loss and not _is_networks(error, run, state, batch):
            raise parts.failure(f"the loss of {name}", error) from error
        raise _misfit(run, batch, error, advice) from error
    if not all(map(_same, buffers, state.student.buffers())):
        raise UserError(
            f"the network {run.network!r} counts its passes in a buffer, as BatchNorm does, and"
            " --recompute makes each twice: leave it out"
        )
    has_unused = any(p.grad is None for p in state.trainable.parameters())
    state.trainable.zero_grad(set_to_none=True)
    return has_unused


def _misfit(run: Run, batch: Batch, error: BaseException, advice: str) -> UserError:
    """The error where the network does not fit the data."""
    reason = str(error).strip().partition("\n")[0]
    if not isinstance(error, TypeError | ValueError | RuntimeError):
        reason = f"{type(error).__name__}: {reason}{parts.place_of(error)}"  # "KeyError: 'scale'"
    return UserError(
        f"the network {run.network!r} fails on data of shape {tuple(batch.x0.shape[1:])}:"
        f" {reason}; {advice}"
    )


def _is_networks(error: BaseException, run: Run, state: State, batch: Batch) -> bool:
    """Whether a part failed since the network did, and not by what the part asked of it.

    Of a method of the user's that is nothing of a network of ours, nor an x of another shape than
    the data's of one of the user's.
    """
    if is_own(run.method) and not is_own(run.network):
        return False
    copies = (state.student, *state.averages.values(), state.frozen)
    networks = [getattr(model, "network", model) for model in copies if model is not None]
    ids = {id(module) for network in networks for module in network.modules()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not any(id(frame.f_locals.get("self")) in ids for frame in frames):
        return False
    shapes = [
        frame.f_locals["x_t"].shape[1:]
        for frame in frames
        if frame.f_code is Preconditioned.output.__code__
    ]
    return not is_own(run.method) or all(shape == batch.x0.shape[1:] for shape in shapes)


def is_own(name: str) -> bool:
    """Whether a run's network or method of that name is the user's."""
    return name == OWN or ":" in name


def compile_passes(prepared: Prepared, state: State) -> None:
    """Compiles the passes of the next step, of which nothing else stays. Raises UserError.

    Those of a later stage are compiled by its first step.
    """
    run = prepared.run
    state.compile = run.compile
    stage = stage_at(prepared.stages, state.step)
    if state.step == run.steps or stage.number > state.stage:
        return
    batch = draw_batch(stage, prepared.arrays, state.step, state.world)
    buffers = [(one, one.clone()) for one in state.trainable.buffers()]
    gradients(stage, state, to_device(batch, prepared.device))
    state.trainable.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors hold the same numbers, or NaN in the same places."""
    return bool(((x == y) | (x != x)).all())
