"""A run from its value to its generator: the parts are built and compared, and the loop carries it
out.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from fewstep import data as datasets
from fewstep.base.errors import require
from fewstep.base.world import World
from fewstep.core import sampling
from fewstep.data import pictures
from fewstep.run import averages, checkpoint, lock, prepare, sources, stages
from fewstep.run.build import Network, OwnMethod, build_method, check_source, settled
from fewstep.run.checkpoint import Checkpoint
from fewstep.run.config import Run
from fewstep.run.facts import facts_of
from fewstep.run.generator import Generator
from fewstep.run.resume import check_same, resumable
from fewstep.run.sources import Source
from fewstep.training import parallel, preflight, ranks
from fewstep.training.loop import Launch, loop
from fewstep.training.recorder import Recorder
from fewstep.training.state import State, new_state


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
    workers: int = 0,
    progress: bool = True,
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
    resume: continue what is in `out`, bit for bit, or start there if nothing is.
    shard: of several processes each holds a part of every weight (FSDP2), and not all of them
    (DDP). Processes are started by torchrun or another launcher; all of them call this alike.
    workers: processes that draw batches ahead; no bit depends on them.
    watch: called with the state after every step, to look and not to touch.
    Raises UserError, NonFiniteError, StorageError, OutOfMemory, and, having saved, Stopped after
    SIGINT, SIGTERM or SIGHUP. Where another process is lost, this one ends with exit code 5.
    """
    require(
        isinstance(run, Run), "run", run, "a fewstep.Run, for instance fewstep.run.recipes.toy()"
    )
    folder = None if out is None else Path(out)
    with ranks.joined(device) as (world, place):
        parallel.check(run, world, shard)
        with lock.held(folder) if folder is not None and world.main else nullcontext() as handle:
            saved = None if folder is None else _start(folder, resume, world)
            kept = () if handle is None else (handle,)
            launch = Launch(
                world, folder, saved, place, shard, workers, kept, progress and world.main, watch
            )
            return _trained(run, launch, data, network, method, init, teacher)


def _start(folder: Path, resume: bool, world: World) -> Checkpoint | None:
    """The checkpoint that all ranks go on from: rank 0 chooses, the others have to find the same."""
    found = resumable(folder, resume) if world.main else None
    name = world.texts(found.path.name if found else "")[0]
    if not world.main and name:
        found = checkpoint.read(folder / "checkpoints" / name)
    ranks.agree(world, f"checkpoint in {folder}", found.state["fingerprint"] if found else "none")
    return found


def _trained(
    run: Run,
    launch: Launch,
    data: Tensor | Mapping[str, Tensor] | None,
    network: Network | None,
    method: OwnMethod | None,
    init: Source | None,
    teacher: Source | None,
) -> Generator:
    saved, place, world = launch.saved, launch.place, launch.world
    dataset = (
        sources.dataset_of(run.data, run.data_size, run.bad_files)
        if data is None
        else datasets.from_tensors(data)
    )
    dataset = dataset if run.labels else dataset.without_labels()
    run = sources.labelled(
        settled(replace(run, data=dataset.name), method, network), init, teacher, saved
    )
    run = prepare.remembered(run, saved)
    facts = facts_of(run, dataset)
    made = build_method(run, facts, method)
    run = run if run.middle_times is not None else replace(run, middle_times=made.later_sigmas)
    sampling.through_middle(
        made.process, 2, run.middle_times or ()
    )  # refuses them now, not at the first picture
    check_source(dataset, made)
    start = None if saved else sources.initial(run, init)
    run = stages.settled(run, facts, made, start, saved)
    made = build_method(run, facts, method)  # with the ratio that goes on from a first stage
    guide = sources.teacher_of(teacher, run, facts, made, network, place)
    facts = replace(
        facts, init=start.fingerprint if start else "", teacher=guide.fingerprint if guide else ""
    )
    facts = (
        check_same(saved, run, facts, lambda old: settled(old, method, network)) if saved else facts
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    try:
        state = new_state(run, facts, made, network, place, start, guide)
        state.world = world
        run, made, why = preflight.decided(run, made, state.models(), dataset.train, place)
        unused = [
            preflight.try_out(run, stage.method, state, dataset.train, place)
            for stage in stages.stages(run, made)
        ]
        told = json.dumps([run.to_json(), facts.to_json()], sort_keys=True)
        ranks.agree(world, "settings and data", hashlib.sha256(told.encode()).hexdigest())
        if world.size > 1:
            ranks.agree(world, "initial weights", checkpoint.fingerprint(state.groups()))
        fresh = (
            averages.average_of(state.student) if launch.shard else None
        )  # what is in shards cannot be copied any more
        parallel.join(run, made, state, launch.shard, any(unused))
        shown = datasets.examples(dataset.train.cond, facts.cond, pictures.suitable(facts.shape))
        about = (run, facts, made, state, saved, shown, dataset.skipped)
        recorder = None if launch.out is None else Recorder(launch.out, *about)
        plan = None if saved else stages.about(run, made, start)
        for line in filter(
            None,
            (start and start.about, guide and guide.about, why, plan) if launch.progress else (),
        ):
            tqdm.write(line, file=sys.stderr)
        loop(run, made, state, dataset.train, launch, recorder)
    finally:
        torch.set_num_threads(threads)
    average = (
        state.averages["ema"] if fresh is None else parallel.plain(state.averages["ema"], fresh)
    )
    return Generator(run, facts, made, average, state.step, state.fingerprint())
