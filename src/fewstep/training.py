"""The training loop: knows no method, draws nothing that is not addressed, keeps no state that is not saved."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fewstep import (
    checkpoint,
    diagnosis,
    methods,
    networks,
    optimizers,
    origins,
    pictures,
    probes,
    sampling,
    schedules,
    stages,
)
from fewstep import data as datasets
from fewstep.batches import Batch, cut, draw_batch, parts, sharing
from fewstep.building import OWN, Network, OwnMethod, build_method, check_source, chosen, facts_of
from fewstep.config import Run, changed, checked_options
from fewstep.denoiser import passes_in
from fewstep.device import pick_device
from fewstep.errors import FewstepError, NonFiniteError, Stopped, UserError, require
from fewstep.generator import Generator
from fewstep.losses import Method
from fewstep.origins import Source
from fewstep.precision import PASSES
from fewstep.recorder import Recorder, check_same, resumable, stop_requests
from fewstep.state import State, new_state, update_averages


def gradients(run: Run, method: Method, state: State, batch: Batch) -> Tensor:
    """Adds up the gradient of the batch's mean loss times the loss scale, part by part; returns the losses `[B]`."""
    losses = []
    for part in parts(batch, run.accumulate):
        with passes_in(PASSES[run.precision]):
            loss_b = method.loss(state.models(), part.x0, part.z, part.times, part.cond, part.seeds)
        (loss_b.mean() * (state.scale.factor / run.accumulate)).backward()
        losses.append(loss_b.detach())
    return torch.cat(losses)


def train_step(run: Run, method: Method, state: State, batch: Batch) -> dict[str, Any]:
    """One optimizer step; returns what is logged. Raises NonFiniteError before anything is updated.

    In fp16 a gradient that overflows skips the update, which is counted and told.
    """
    progress, age = state.step / run.iterations, run.age or 0
    clock = progress if not age else (age + state.step) / (age + run.iterations)
    clock = clock if run.lr_clock == "run" else batch.times.progress
    rate = run.lr * schedules.lr_factor(clock, run.warmup, run.constant, run.final, run.decay)
    rate = rate if state.frozen is None else rate * run.stage_lr
    state.optimizer.zero_grad(set_to_none=True)
    for module in state.trained.modules():
        getattr(module, "normalise_", lambda: None)()  # EDM2's forced one: once a step, outside of every pass
    asked = state.asked()
    loss_b = gradients(run, method, state, batch)
    asked = state.asked() - asked
    loss = loss_b.mean()
    weights = [p for p in state.trained.parameters() if p.grad is not None]
    grads = [p.grad for p in weights if p.grad is not None]
    if state.scale.factor != 1:
        torch._foreach_mul_(grads, 1 / state.scale.factor)
    norm = nn.utils.get_total_norm(grads)
    values = torch.stack([loss, norm.to(loss.dtype)]).tolist()  # the step's one wait for the device
    row: dict[str, Any] = {"step": state.step + 1, "progress": progress}
    row |= {"loss": values[0], "grad_norm": values[1], "lr": rate}
    overflowed = run.precision == "fp16" and math.isfinite(values[0]) and not math.isfinite(values[1])
    if overflowed:
        diagnosis.overflow(state)
        row["grad_norm"] = None  # JSON knows no infinity
    elif not all(math.isfinite(value) for value in values):
        raise diagnosis.non_finite(state, batch.rows, batch.times, loss_b.cpu(), values[1])
    else:
        nn.utils.clip_grads_with_norm_(weights, run.clip, norm)
        optimizers.set_rate(state.optimizer, run, rate, state.step - state.begun - state.scale.skipped)
        state.optimizer.step()
    if run.precision == "fp16":
        state.scale.update(overflowed)
        row |= {"loss_scale": state.scale.factor, "skipped": state.scale.skipped}
    update_averages(run, method, state, batch.times.progress)
    state.step += 1
    state.teacher_rows += asked
    if state.teacher is not None:
        row["teacher_evaluations"] = state.teacher_rows / run.batch
    return row


def settled(run: Run, method: OwnMethod | None = None, network: Network | None = None) -> Run:
    """The run with all options of its method and network written out, so that later defaults do not change it."""
    for kind, module, own in (("method", methods, method), ("network", networks, network)):
        name, options = getattr(run, kind), getattr(run, f"{kind}_options")
        if isinstance(own, Method | nn.Module):  # as it is: it takes no options
            run = changed(run, {kind: OWN, f"{kind}_options": {}})
            continue
        function = chosen(kind, module, name, own)
        if own is not None and ":" not in name:
            name, options = f"{function.__module__}:{getattr(function, '__qualname__', 'made')}", {}
        run = changed(run, {kind: name, f"{kind}_options": checked_options(kind, function, options)})
    return run


def train(
    run: Run,
    data: Tensor | Mapping[str, Tensor] | None = None,
    network: Network | None = None,
    *,
    method: OwnMethod | None = None,
    init: Source | None = None,
    teacher: Source | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    watch: Callable[[State], None] | None = None,
) -> Generator:
    """Trains a run and returns its generator, as `load(out)` would.

    data: your own samples instead of the run's data set: a tensor `[N, ...]` in any units, or
    {"x0": tensor, "cond": labels [N] or any condition}. network: your own, called as (x, noise_label [B], cond) ->
    like x, or a function (shape, classes, **options) that makes one. method: your own `fewstep.Method`, or a
    function of options that makes one. init, teacher: a run folder, shipped name, .safetensors file, `Generator` or
    module to start from, or to learn from (also any denoiser, or "exact:NAME").
    out: the run folder (run.json, metrics.jsonl, checkpoints/, samples/); None keeps all in memory.
    resume: continue what is in `out`, bit for bit, or start there if nothing is.
    watch: called with the state after every step, to look and not to touch.
    Raises UserError, NonFiniteError, StorageError, and Stopped after SIGINT, SIGTERM or SIGHUP, having saved.
    """
    require(isinstance(run, Run), "run", run, "a fewstep.Run, for instance fewstep.recipes.toy()")
    place = pick_device(device)
    saved = None if out is None else resumable(Path(out), resume)
    dataset = origins.dataset_of(run.data, run.data_size) if data is None else datasets.from_tensors(data)
    dataset = dataset if run.labels else dataset.unlabelled()
    run = origins.labelled(settled(replace(run, data=dataset.name), method, network), init, teacher, saved)
    run = probes.remembered(run, saved)
    facts = facts_of(run, dataset)
    made = build_method(run, facts, method)
    run = run if run.middle_times is not None else replace(run, middle_times=made.middle)
    sampling.through_middle(made.process, 2, run.middle_times or ())  # refuses them now, not at the first picture
    check_source(dataset, made)
    start = None if saved else origins.initial(run, init)
    run = stages.settled(run, facts, made, start, saved)
    made = build_method(run, facts, method)  # with the ratio that goes on from a first stage
    guide = origins.teacher_of(teacher, run, facts, made, network, place)
    facts = replace(facts, init=start.fingerprint if start else "", teacher=guide.fingerprint if guide else "")
    facts = check_same(saved, run, facts, lambda old: settled(old, method, network)) if saved else facts
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    try:
        state = new_state(run, facts, made, network, place, start, guide)
        run, made, why = probes.decided(run, made, state.models(), dataset.train, place)
        for stage in stages.stages(run, made):
            try_out(run, stage.method, state, dataset.train, place)
        shown = datasets.examples(dataset.train.cond, facts.cond, pictures.suitable(facts.shape))
        recorder = None if out is None else Recorder(Path(out), run, facts, made, state, saved, shown)
        plan = None if saved else stages.about(run, made, start)
        for line in filter(None, (start and start.about, guide and guide.about, why, plan) if progress else ()):
            tqdm.write(line, file=sys.stderr)
        loop(run, made, state, dataset.train, place, recorder, progress, watch)
    finally:
        torch.set_num_threads(threads)
    return Generator(run, facts, made, state.averages["ema"], state.step, checkpoint.fingerprint(state.groups()))


def try_out(run: Run, method: Method, state: State, arrays: datasets.Arrays, device: torch.device) -> None:
    """One loss and gradient before anything is written, so that a network that does not fit is told at once."""
    batch = draw_batch(run, method, arrays, 0, device)
    if method.target is None and not torch.equal(batch.times.r, batch.times.a):
        raise UserError(f"target = None: expected a target, since {type(method.times).__name__} gives r > a")
    two = cut(batch, slice(0, max(2, sharing(run, method))), slice(0, 1))  # or what shares a trajectory
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
            f"the network {run.network!r} fails on data of shape {tuple(batch.x0.shape[1:])}: {told}; expected "
            "network(x, noise_label [B] float32, cond) -> a tensor like x"
        ) from error
    state.trained.zero_grad(set_to_none=True)


def loop(
    run: Run,
    method: Method,
    state: State,
    arrays: datasets.Arrays,
    device: torch.device,
    recorder: Recorder | None,
    progress: bool,
    watch: Callable[[State], None] | None = None,
) -> None:
    """Steps until the run's end, a stop request or a non-finite step; both of these save first."""
    begun, at, plan = time.monotonic(), state.step, stages.stages(run, method)
    with (
        stop_requests() as stops,
        tqdm(
            total=run.iterations * run.batch,
            initial=state.step * run.batch,
            unit="sample",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        while state.step < run.iterations:
            stage = stages.ready(run, plan, state)
            if progress and 0 < state.step == stage.first:
                tqdm.write(f"step {state.step}: stage {stage.number} begins", file=sys.stderr)
            drawn = draw_batch(run, stage.method, arrays, state.step, device, stage.progress(state.step))
            try:
                row = train_step(run, stage.method, state, drawn)
            except NonFiniteError:
                if recorder:
                    recorder.save()
                raise
            with suppress(OSError):  # a bar that nobody can see any more is no reason to lose a run
                bar.set_postfix(loss=f"{row['loss']:.4g}", refresh=False)
                bar.update(run.batch)
            if len(plan) > 1:
                row["stage"] = stage.number
            if recorder:
                seconds = time.monotonic() - begun
                clock = {"seconds": seconds, "samples_per_second": (state.step - at) * run.batch / seconds}
                recorder.after_step({**row, **clock})
            if watch:
                watch(state)
            if stops and state.step < run.iterations:
                if recorder:
                    recorder.save()
                go_on = recorder and f"saved, continue with --out {recorder.folder.path} --resume"
                raise Stopped(f"stopped at step {state.step} of {run.iterations}: {go_on or 'nothing was saved'}")
