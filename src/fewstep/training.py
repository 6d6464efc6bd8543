"""The training loop: knows no method, draws nothing that is not addressed, keeps no state that is not saved."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewstep import checkpoint, ema, methods, networks, pictures, sampling, schedules
from fewstep import data as datasets
from fewstep.config import Run, checked_options, choose
from fewstep.denoiser import Cond, masked
from fewstep.device import pick_device
from fewstep.errors import FewstepError, NonFiniteError, Stopped, UserError, require
from fewstep.generator import OWN_NETWORK, Facts, Generator, build_method
from fewstep.losses import Method
from fewstep.randomness import block_seed, normal, shuffled, uniform
from fewstep.recorder import Recorder, stop_requests
from fewstep.state import State, new_state
from fewstep.times import Times


class Batch(NamedTuple):
    """All that a step takes, drawn on the CPU as a function of (seed, ordinals) and moved to the device."""

    rows: Tensor  # which of the training split, on the CPU
    x0: Tensor
    cond: Cond
    z: Tensor
    times: Times
    seeds: list[int]  # of the dropout masks, one per block


def draw_batch(run: Run, method: Method, arrays: datasets.Arrays, step: int, device: torch.device) -> Batch:
    """The batch of a step: global sample ordinals [step B, (step + 1) B), in whole blocks."""
    first = step * run.batch
    index = shuffled(run.seed, "order", first, run.batch, len(arrays.x0))
    x0, cond = arrays.rows(index)
    z = masked(normal(run.seed, "noise", first, run.batch, tuple(x0.shape[1:]), run.block), cond)
    if run.label_drop:
        chance = uniform(run.seed, "label drop", first, run.batch, 1, run.block)[:, 0]
        cond = datasets.dropped(cond, chance < run.label_drop)
    u = uniform(run.seed, "time", first, run.batch, 2, run.block)
    times = method.times(u, step / run.iterations, torch.arange(first, first + run.batch))
    blocks = range(first // run.block, (first + run.batch) // run.block)
    return Batch(
        index,
        masked(x0, cond).to(device),
        datasets.each(lambda part: part.to(device), cond),
        z.to(device),
        times if device.type == "mps" else times.to(device),  # mps has no float64
        [block_seed(run.seed, "dropout", block) for block in blocks],
    )


def train_step(run: Run, method: Method, state: State, batch: Batch) -> dict[str, float]:
    """One optimizer step; returns what is logged. Raises NonFiniteError before anything is updated."""
    progress = state.step / run.iterations
    rate = run.lr * schedules.lr_factor(progress, run.warmup, run.constant, run.final)
    loss_b = method.loss(state.models(), batch.x0, batch.z, batch.times, batch.cond, batch.seeds)
    loss = loss_b.mean()
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    weights = [p for p in state.trained.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
    values = torch.stack([loss.detach(), norm.to(loss.dtype)]).tolist()  # the step's one wait for the device
    if not all(math.isfinite(value) for value in values):
        raise NonFiniteError(diagnosis(state, batch, loss_b.detach().cpu(), values[1]))
    nn.utils.clip_grads_with_norm_(weights, run.clip, norm)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    ema.update(state.averages["ema"], state.student, schedules.ema_rate(state.step, run.ema))
    state.step += 1
    return {"step": state.step, "progress": progress, "loss": values[0], "grad_norm": values[1], "lr": rate}


def diagnosis(state: State, batch: Batch, loss_b: Tensor, norm: float) -> str:
    """One line on a step whose loss or gradient is not finite: where it was looking, and at what."""
    bad = (~torch.isfinite(loss_b)).nonzero().flatten()
    if not len(bad):
        gradients = ((name, p.grad) for name, p in state.trained.named_parameters())
        found = [name for name, grad in gradients if grad is not None and not torch.isfinite(grad).all()]
        where = f"first in {found[0]}" if found else "though each of its entries is finite"
        return f"step {state.step}: the loss is finite, its gradient has norm {norm}, {where}; no weight was changed"
    t, r = (x.cpu()[bad] for x in batch.times[:2])
    return (
        f"step {state.step}: the loss of {len(bad)} of {len(loss_b)} rows is not finite: t in [{t.min():.4g}, "
        f"{t.max():.4g}], r in [{r.min():.4g}, {r.max():.4g}], first sample {int(batch.rows[bad[0]])} of the "
        "training split; no weight was changed. A lower --lr is the usual remedy"
    )


def settled(run: Run) -> Run:
    """The run with all options of its method and network written out, so that later defaults do not change it."""
    method = choose("method", methods, run.method)
    run = replace(run, method_options=checked_options("method", method, run.method_options))
    if run.network == OWN_NETWORK:
        return replace(run, network_options={})
    network = choose("network", networks, run.network)
    return replace(run, network_options=checked_options("network", network, run.network_options))


def train(
    run: Run,
    data: Tensor | Mapping[str, Tensor] | None = None,
    network: nn.Module | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Generator:
    """Trains a run and returns its generator, as `load(out)` would.

    data: your own samples instead of the run's data set: a tensor `[N, ...]` in any units, or
    {"x0": tensor, "cond": labels [N] or any condition}.
    network: your own, called as (x, noise_label [B], cond) -> like x.
    out: the run folder (run.json, metrics.jsonl, checkpoints/, samples/); None keeps all in memory.
    resume: continue what is in `out`, bit for bit, or start there if nothing is.
    Raises UserError, NonFiniteError, StorageError, and Stopped after SIGINT, SIGTERM or SIGHUP, having saved.
    """
    require(isinstance(run, Run), "run", run, "a fewstep.Run, for instance fewstep.recipes.toy()")
    place = pick_device(device)
    dataset = datasets.load(run.data, run.data_size) if data is None else datasets.from_tensors(data)
    labelled = dataset.classes or not run.label_drop
    require(bool(labelled), "label_drop", run.label_drop, f"0, since data {dataset.name!r} has no labels")
    run = settled(replace(run, data=dataset.name, network=run.network if network is None else OWN_NETWORK))
    sigma_data = dataset.sigma_data() if run.sigma_data is None else run.sigma_data
    kind = datasets.kind_of(dataset.train.cond)
    facts = Facts(dataset.shape, dataset.classes, sigma_data, dataset.units, dataset.fingerprint(), kind)
    method = build_method(run, facts)
    sampling.through_middle(method.process, 2, run.middle_times)  # refuses them now rather than at the first picture
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    try:
        state = new_state(run, facts, method, network, place)
        try_out(run, method, state, dataset.train, place)
        shown = datasets.examples(dataset.train.cond, kind, pictures.suitable(facts.shape))
        recorder = None if out is None else Recorder(Path(out), run, facts, state, resume, shown)
        loop(run, method, state, dataset.train, place, recorder, progress)
    finally:
        torch.set_num_threads(threads)
    return Generator(run, facts, method, state.averages["ema"], state.step, checkpoint.fingerprint(state.groups()))


def try_out(run: Run, method: Method, state: State, arrays: datasets.Arrays, device: torch.device) -> None:
    """One loss and gradient before anything is written, so that a network that does not fit is told at once."""
    batch = draw_batch(run, method, arrays, 0, device)
    cond = datasets.each(lambda part: part[:2], batch.cond)
    t, r, a, w = (part[:2] for part in batch.times[:4])
    times = Times(t, r, a, w, None, batch.times.progress)
    try:
        loss = method.loss(state.models(), batch.x0[:2], batch.z[:2], times, cond, batch.seeds[:1])
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
) -> None:
    """Steps until the run's end, a stop request or a non-finite step; both of these save first."""
    from tqdm import tqdm

    begun, at = time.monotonic(), state.step
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
            try:
                row = train_step(run, method, state, draw_batch(run, method, arrays, state.step, device))
            except NonFiniteError:
                if recorder:
                    recorder.save()
                raise
            with suppress(OSError):  # a bar that nobody can see any more is no reason to lose a run
                bar.set_postfix(loss=f"{row['loss']:.4g}", refresh=False)
                bar.update(run.batch)
            if recorder:
                seconds = time.monotonic() - begun
                clock = {"seconds": seconds, "samples_per_second": (state.step - at) * run.batch / seconds}
                recorder.after_step({**row, **clock})
            if stops and state.step < run.iterations:
                if recorder:
                    recorder.save()
                out = recorder and recorder.folder.path
                kept = f"saved, continue with --out {out} --resume" if recorder else "nothing was saved"
                raise Stopped(f"stopped at step {state.step} of {run.iterations}: {kept}")
