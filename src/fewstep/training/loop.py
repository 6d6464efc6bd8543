"""The training loop: knows no method, draws nothing that is not addressed, keeps no state that is
not saved.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fewstep import data as datasets
from fewstep.base.errors import NonFiniteError, OutOfMemory, Stopped, WorkerError
from fewstep.base.progress import Progress
from fewstep.base.world import ALONE, World
from fewstep.core.method import Method
from fewstep.run import stages
from fewstep.run.checkpoint import Checkpoint
from fewstep.run.config import Run
from fewstep.training import hand_over, workers
from fewstep.training.batches import Batch, draw_batch, moved
from fewstep.training.recorder import Recorder, due
from fewstep.training.signals import stop_requests
from fewstep.training.state import State
from fewstep.training.step import train_step

log = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Launch:
    """Where and how a run is carried out: nothing that its weights depend on, but for what it goes
    on from.
    """

    world: World
    out: Path | None
    saved: Checkpoint | None
    place: torch.device
    shard: bool
    workers: int
    locks: tuple[int, ...]  # file descriptors that a worker must not keep
    progress: bool
    watch: Callable[[State], None] | None


def loop(
    run: Run,
    method: Method,
    state: State,
    arrays: datasets.Arrays,
    launch: Launch,
    recorder: Recorder | None,
) -> None:
    """Steps until the run's end, a stop request or a step that fails; what can be saved is, before
    it is told.
    """
    begun, at, plan = time.monotonic(), state.step, stages.stages(run, method)

    def draw(step: int, world: World = launch.world) -> Batch:
        stage = stages.at(plan, step)
        return draw_batch(
            run, stage.method, arrays, step, torch.device("cpu"), stage.progress(step), world
        )

    ahead = workers.batches(draw, state.step, run.iterations, launch.workers, launch.locks)
    with (
        stop_requests() as stops,
        Progress(
            run.iterations * run.batch,
            "sample",
            initial=state.step * run.batch,
            show=launch.progress,
        ) as progress,
        closing(ahead),
        _settled(recorder),
    ):
        while state.step < run.iterations:
            stage = hand_over.ready(run, plan, state)
            if 0 < state.step == stage.first:
                progress.note(f"step {state.step}: stage {stage.number} begins")
            with _kept(recorder, state, partial(draw, state.step, ALONE)):
                row = train_step(run, stage.method, state, moved(next(ahead), launch.place))
            if len(plan) > 1:
                row["stage"] = stage.number
            if due(run, state.step, run.log_every):
                state.note(row)
            step = f"{state.step} of {run.iterations}"
            progress.update(run.batch, step=step, loss=f"{row['loss']:.4g}")
            if recorder:
                seconds = time.monotonic() - begun
                clock = {
                    "seconds": seconds,
                    "samples_per_second": (state.step - at) * run.batch / max(seconds, 1e-9),
                }
                recorder.after_step({**row, **clock})
            if launch.watch:
                launch.watch(state)
            if state.world.total(len(stops)) and state.step < run.iterations:
                _stop(run, state, recorder)


def _stop(run: Run, state: State, recorder: Recorder | None) -> None:
    """Saves and raises Stopped."""
    _save(recorder)
    go_on = recorder and f"saved, continue with --out {recorder.folder.path} --resume"
    raise Stopped(
        f"stopped at step {state.step} of {run.iterations}: {go_on or 'nothing was saved'}"
    )


def _out_of_memory(error: Exception) -> bool:
    first = str(error).partition("\n")[0]
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in first for words in ("out of memory", "can't allocate memory"))


def _saved(recorder: Recorder | None, state: State) -> bool:
    """Saves this step if that can be, without hiding why; not of several ranks, which are in the
    middle of theirs.
    """
    if recorder is None or state.world.size > 1:
        return False
    try:
        _save(recorder)
    except Exception as error:
        log.warning(
            "fewstep: step %d could not be saved: %s", state.step, str(error).partition("\n")[0]
        )
        return False
    return True


def _save(recorder: Recorder | None) -> None:
    """Saves this step and waits until it is on the disk."""
    if recorder:
        recorder.save()
        recorder.saver.wait()


@contextmanager
def _settled(recorder: Recorder | None) -> Iterator[None]:
    """Whatever ends the loop, no save goes on behind it in a folder that others may then take; a
    second request to stop waits for nothing."""
    try:
        yield
    except Exception:
        if recorder:
            with suppress(Exception):  # of two failures the first is told
                recorder.saver.wait()
        raise


@contextmanager
def _kept(recorder: Recorder | None, state: State, draw: Callable[[], Batch]) -> Iterator[None]:
    """Saves the state before a step that fails: as an incident with its batch where its numbers are
    not finite.
    """
    try:
        yield
    except NonFiniteError as error:
        if recorder:
            recorder.incident(error, draw())  # of all ranks
        raise
    except WorkerError:
        _saved(recorder, state)
        raise
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        saved = not state.updating and _saved(recorder, state)
        told = str(error).partition("\n")[0] or type(error).__name__
        kept = f"nothing was updated{' and the step is saved' if saved else ''}"
        if state.updating:
            kept = f"the update of step {state.step} is half done and not saved"
        raise OutOfMemory(
            f"out of memory: {told}; {kept}: continue with --resume --accumulate 2 or more, which"
            " changes the last bits"
        ) from error
