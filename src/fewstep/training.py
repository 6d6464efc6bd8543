"""The training loop: knows no method, draws nothing that is not addressed, keeps no state that is not saved."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fewstep import data as datasets
from fewstep import lock, methods, networks, origins, pictures, probes, sampling, stages
from fewstep.batches import Batch, cut, draw_batch, sharing
from fewstep.building import OWN, Network, OwnMethod, build_method, check_source, chosen, facts_of
from fewstep.checkpoint import Checkpoint
from fewstep.config import Run, changed, checked_options
from fewstep.denoiser import passes_in
from fewstep.device import pick_device
from fewstep.errors import FewstepError, NonFiniteError, OutOfMemory, Stopped, UserError, require
from fewstep.generator import Generator
from fewstep.losses import Method
from fewstep.origins import Source
from fewstep.precision import PASSES
from fewstep.recorder import Recorder, check_same, due, resumable, stop_requests
from fewstep.state import State, new_state
from fewstep.step import train_step


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
    folder = None if out is None else Path(out)
    place = pick_device(device)
    with nullcontext() if folder is None else lock.held(folder):
        saved = None if folder is None else resumable(folder, resume)
        return _trained(run, data, network, method, init, teacher, folder, saved, place, progress, watch)


def _trained(
    run: Run,
    data: Tensor | Mapping[str, Tensor] | None,
    network: Network | None,
    method: OwnMethod | None,
    init: Source | None,
    teacher: Source | None,
    out: Path | None,
    saved: Checkpoint | None,
    place: torch.device,
    progress: bool,
    watch: Callable[[State], None] | None,
) -> Generator:
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
        recorder = None if out is None else Recorder(out, run, facts, made, state, saved, shown)
        plan = None if saved else stages.about(run, made, start)
        for line in filter(None, (start and start.about, guide and guide.about, why, plan) if progress else ()):
            tqdm.write(line, file=sys.stderr)
        loop(run, made, state, dataset.train, place, recorder, progress, watch)
    finally:
        torch.set_num_threads(threads)
    return Generator(run, facts, made, state.averages["ema"], state.step, state.fingerprint())


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
    """Steps until the run's end, a stop request or a step that fails; what can be saved is, before it is told."""
    begun, at, plan = time.monotonic(), state.step, stages.stages(run, method)
    with stop_requests() as stops, _bar(run, state, progress) as bar, _settled(recorder):
        while state.step < run.iterations:
            stage = stages.ready(run, plan, state)
            if progress and 0 < state.step == stage.first:
                tqdm.write(f"step {state.step}: stage {stage.number} begins", file=sys.stderr)
            drawn = draw_batch(run, stage.method, arrays, state.step, device, stage.progress(state.step))
            with _kept(recorder, state, drawn):
                row = train_step(run, stage.method, state, drawn)
            if len(plan) > 1:
                row["stage"] = stage.number
            if due(run, state.step, run.log_every):
                state.note(row)
            with suppress(OSError):  # a bar that nobody can see any more is no reason to lose a run
                bar.set_postfix(loss=f"{row['loss']:.4g}", refresh=False)
                bar.update(run.batch)
            if recorder:
                seconds = time.monotonic() - begun
                clock = {"seconds": seconds, "samples_per_second": (state.step - at) * run.batch / max(seconds, 1e-9)}
                recorder.after_step({**row, **clock})
            if watch:
                watch(state)
            if stops and state.step < run.iterations:
                _stop(run, state, recorder)


def _bar(run: Run, state: State, progress: bool) -> tqdm:
    """The progress bar, in samples."""
    total, initial = run.iterations * run.batch, state.step * run.batch
    return tqdm(total=total, initial=initial, unit="sample", unit_scale=True, disable=not progress)


def _stop(run: Run, state: State, recorder: Recorder | None) -> None:
    """Saves and raises Stopped."""
    if recorder:
        recorder.save()
        recorder.saver.wait()
    go_on = recorder and f"saved, continue with --out {recorder.folder.path} --resume"
    raise Stopped(f"stopped at step {state.step} of {run.iterations}: {go_on or 'nothing was saved'}")


@contextmanager
def _settled(recorder: Recorder | None) -> Iterator[None]:
    """Whatever ends the loop, no save goes on behind it in a folder that others may then take; a second request to
    stop waits for nothing."""
    try:
        yield
    except Exception:
        if recorder:
            with suppress(FewstepError):  # of two failures the first is told
                recorder.saver.wait()
        raise


@contextmanager
def _kept(recorder: Recorder | None, state: State, batch: Batch) -> Iterator[None]:
    """Saves the state before a step that fails: as an incident with its batch where its numbers are not finite."""
    try:
        yield
    except NonFiniteError as error:
        if recorder:
            recorder.incident(error, batch)
        raise
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).partition("\n")[0]:
            raise
        saved = recorder is not None and not state.updating
        if recorder and saved:
            recorder.save()
            recorder.saver.wait()
        told = str(error).partition("\n")[0] or type(error).__name__
        kept = f"nothing was updated{' and the step is saved' if saved else ''}"
        if state.updating:
            kept = f"the update of step {state.step} is half done and not saved"
        raise OutOfMemory(
            f"out of memory: {told}; {kept}: continue with --resume --accumulate 2 or more, which changes the last bits"
        ) from error
