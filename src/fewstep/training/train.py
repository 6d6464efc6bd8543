"""A run from its value to its generator: it is prepared, tried out, and the loop carries it out."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.base.errors import Stopped, require
from fewstep.base.surroundings import surroundings, threads
from fewstep.base.world import World
from fewstep.core import compiling
from fewstep.data.description import refuse, text_of, warn
from fewstep.networks.blocks import blocks_of, recompute, watch_calls
from fewstep.run import averages, checkpoint, lock, stages
from fewstep.run.build import Network, OwnMethod
from fewstep.run.checkpoint import Checkpoint
from fewstep.run.config import Run
from fewstep.run.generator import Generator
from fewstep.run.prepare import Prepared, prepare
from fewstep.run.resume import checkpoint_in
from fewstep.run.sources import Source
from fewstep.training import parallel, preflight, ranks
from fewstep.training.loggers import Opener, openers
from fewstep.training.loop import Launch, loop
from fewstep.training.recorder import Recorder
from fewstep.training.state import State, new_state


@surroundings(grad=True)
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
    shard: bool = False,
    recompute: bool = False,
    workers: int = 0,
    progress: bool = True,
    log: str | Sequence[str | Opener] = (),
    strict: bool = False,
    watch: Callable[[State], None] | None = None,
) -> Generator:
    """Trains a run and returns its generator, as `load(out)` would.

    data: your own samples instead of the run's data set: a tensor `[N, ...]` in any units, or
    {"x0": tensor, "cond": labels [N] or any condition}. network: your own, called as (x,
    noise_label [B], cond) -> like x, or a function (shape, classes, **options) that makes one.
    method: your own `fewstep.Method`, or a function of options that makes one. init, teacher: a run
    folder, shipped name, .safetensors file, `Generator` or module to start from, or to learn from
    (also any denoiser, or "exact:NAME").
    out: the run folder (run.json, metrics.jsonl, checkpoints/, samples/); None keeps all in memory.
    resume: continue what is in `out`, bit for bit, or start there if there is nothing.
    shard: of several processes each holds a part of every weight (FSDP2), and not all of them
    (DDP). Processes are started by torchrun or another launcher; all of them call this alike.
    recompute: the backward pass computes the activations of each block of the network again, so
    that they take no memory meanwhile; no bit depends on it.
    workers: processes that draw batches ahead; no bit depends on them.
    log: loggers beside metrics.jsonl: "csv", "tensorboard", "wandb", "trackio", or a function of a
    `fewstep.training.loggers.Start` that returns what has `write(row)` and `close()`.
    strict: refuse data of which something looks wrong (`fewstep.data.description`), instead of a
    warning.
    watch: called with the state after every step, to look and not to touch.
    Raises UserError, NonFiniteError, StorageError, OutOfMemory, and, having saved, Stopped after
    SIGINT (Ctrl-C), SIGTERM, SIGHUP or SIGUSR1: of a run without `out` the error's `generator` is
    what was trained so far. Where another process is lost, this one ends with exit code 5.
    """
    require(isinstance(run, Run), "run", run, "a fewstep.Run, for instance fewstep.recipes.toy()")
    folder = None if out is None else Path(out)
    need = "0 without out: the best checkpoint is kept in a run folder"
    require(folder is not None or not run.eval_every, "eval_every", run.eval_every, need)
    _check_compile(run, shard=shard, recompute=recompute)
    _check_layout(run, shard)
    # What is asked for; the rest is known once the processes are connected.
    prepare_at = partial(prepare, run, data, network, method=method, init=init, teacher=teacher)
    ways: dict[str, Any] = {"shard": shard, "recompute": recompute, "workers": workers}
    launch_at = partial(Launch, out=folder, watch=watch, log=openers(log, folder), **ways)
    with ranks.connect(device) as (world, place):
        parallel.check(run, world, shard)
        with _locks(folder, world) as locks:
            prepared = prepare_at(checkpoint=_newest(folder, resume, world), device=place)
            if shard:
                parallel.check_method(prepared.method)
            _look_at_data(prepared, strict, world.main)
            launch = launch_at(world=world, locks=locks, progress=progress and world.main)
            with threads(run.threads):
                return _train(prepared, launch)


def _check_compile(run: Run, **ways: bool) -> None:
    """Raises UserError where passes cannot be compiled, or would round by how a run is divided."""
    for name, is_on in {**ways, "elastic_exact": run.elastic_exact}.items():
        need = f"off: {name} does not work with it"
        require(not is_on or run.compile == "off", "compile", run.compile, need)
    need = "on or off with accumulate: graphs were not tried"
    require(run.accumulate == 1 or run.compile != "graphs", "compile", run.compile, need)


def _check_layout(run: Run, shard: bool) -> None:
    """Raises UserError where gradients or moments would lie unlike the weights in memory."""
    ways = {"shard": shard, "elastic_exact": run.elastic_exact}
    ways["adamw8bit"] = run.optimizer == "adamw8bit"
    for name, is_on in ways.items():
        need = f"channels-first with {name}, which takes weights as they lie by default"
        require(not is_on or run.layout == "channels-first", "layout", run.layout, need)


def _look_at_data(prepared: Prepared, strict: bool, main: bool) -> None:
    """Warns of what looks wrong in the data of a new run, or raises UserError."""
    if prepared.checkpoint is not None:
        return
    if strict:
        refuse(prepared.facts.description)
    elif main:
        warn(prepared.facts.description)


@contextmanager
def _locks(folder: Path | None, world: World) -> Iterator[tuple[int, ...]]:
    """Inside, rank 0 is the one writer of the folder: the file descriptors that hold it."""
    if folder is None or not world.main:
        yield ()
        return
    with lock.hold(folder) as handle:
        yield (handle,)


def _newest(folder: Path | None, resume: bool, world: World) -> Checkpoint | None:
    """The checkpoint that all ranks go on from: rank 0 finds it, the others must see the same."""
    if folder is None:
        return None
    newest = checkpoint_in(folder, resume) if world.main else None
    name = world.texts(newest.path.name if newest else "")[0]
    if name and not world.main:
        newest = checkpoint.read(folder / "checkpoints" / name)
    digest = (newest.record.fingerprint or "") if newest else "none"
    ranks.agree(world, f"checkpoint in {folder}", digest)
    return newest


def _train(prepared: Prepared, launch: Launch) -> Generator:
    world = launch.world
    state = new_state(prepared)
    state.check_writable()
    state.world = world
    # What only its networks can tell.
    prepared, reason = preflight.choose_by_trial(prepared, state)
    blocks = blocks_of(state.student.network)
    with watch_calls(blocks) as names:
        has_unused = [preflight.try_out(prepared, stage.method, state) for stage in prepared.stages]
    blocks = {name: block for name, block in blocks.items() if name in names}
    # All processes train the same.
    run, facts = prepared.run, prepared.facts
    settings = json.dumps([run.to_json(), facts.to_json()], sort_keys=True)
    ranks.agree(world, "settings and data", hashlib.sha256(settings.encode()).hexdigest())
    if world.size > 1:
        ranks.agree(world, "initial weights", checkpoint.fingerprint(state.groups()))
    fresh = averages.average_of(state.averages["ema"]) if launch.shard else None
    parallel.check_network(state, launch.recompute, blocks)

    def result() -> Generator:
        average = state.average
        if fresh is not None:
            average = parallel.plain(average, fresh)
        trained = state.position().trained(prepared.method)
        own = run
        if trained is not prepared.method:
            own = replace(run, later_sigmas=trained.later_sigmas)
        parts = (own, facts, trained, average, state.step, state.fingerprint())
        return Generator(*parts, level_choice=state.level_choice)

    with recompute(blocks.values() if launch.recompute else ()):
        parallel.join(
            run, prepared.method, state, launch.shard, blocks=blocks, has_unused=any(has_unused)
        )
        for stage in prepared.stages if launch.shard or launch.recompute else ():
            advice = "without --shard and --recompute it ran: leave them out"
            preflight.try_out(prepared, stage.method, state, advice)
        _compile(prepared, state, launch.progress)  # of a new run before anything is written
        recorder = None if launch.out is None else Recorder(prepared, state, launch.out, launch.log)
        if launch.progress:
            _announce(prepared, reason)
        _compile(prepared, state, launch.progress)
        try:
            loop(prepared, state, launch, recorder)
        except Stopped as error:
            if launch.out is None:
                error.generator = result()
            raise
        finally:
            if recorder:
                recorder.loggers.close()
    return result()


def _compile(prepared: Prepared, state: State, progress: bool) -> None:
    """Compiles what the next step asks, where the run says so; says before what that costs.

    Once, when the state is at the step that the run goes on from.
    """
    first = prepared.checkpoint.record.step if prepared.checkpoint else 0
    if prepared.run.compile == "off" or state.compile != "off" or state.step != first:
        return
    forecast = compiling.forecast(state.student, passes=2)
    if progress and forecast:
        print(f"compile: {forecast}", file=sys.stderr, flush=True)
    start = time.monotonic()
    preflight.compile_passes(prepared, state)
    if progress:
        print(f"compile: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def end_of(prepared: Prepared) -> str:
    """A line where a run is extended, or is at its end already; "" elsewhere."""
    run = prepared.run
    step = prepared.checkpoint.record.step if prepared.checkpoint else 0
    if step == run.steps:
        return (
            f"the run is at its end, step {step}: --resume --extend {run.extend + run.iterations}"
            f" trains {run.iterations} steps more"
        )
    if not run.extend:
        return ""
    return (
        f"extended by {run.extend} steps, to {run.steps}: after step {run.iterations} learning rate"
        " and all schedules stay at their last values; for others: --init RUN --out NEW"
    )


def _announce(prepared: Prepared, reason: str) -> None:
    """Says what was read, where weights and teacher are from, a trial's choice, and the stages."""
    lines = [
        text_of(prepared.facts.description) if prepared.facts.description else None,
        prepared.reason,
        prepared.initial and prepared.initial.about,
        prepared.teacher and f"teacher: {prepared.teacher}",
        reason,
        None if prepared.checkpoint else stages.describe(prepared.stages),
        end_of(prepared),
    ]
    for line in filter(None, lines):
        print(line, file=sys.stderr, flush=True)
