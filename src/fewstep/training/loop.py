"""The training loop: knows no method, draws nothing without an address, saves all that it keeps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fewstep.base.errors import NonFiniteError, OutOfMemory, Stopped, WorkerError
from fewstep.base.memory import ran_out
from fewstep.base.progress import Progress
from fewstep.base.signals import stop_requests
from fewstep.base.world import ALONE, World
from fewstep.run.config import Run
from fewstep.run.prepare import Prepared
from fewstep.run.stages import stage_at
from fewstep.training import hand_over, workers
from fewstep.training.batches import Batch, draw_batch, to_device
from fewstep.training.level_choice import choose_levels
from fewstep.training.loggers import Opener
from fewstep.training.pace import Pace
from fewstep.training.recorder import Recorder, due_in_log
from fewstep.training.state import State
from fewstep.training.step import train_step

log = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Launch:
    """Where and how a run is carried out: nothing that its weights depend on."""

    world: World
    out: Path | None
    shard: bool
    recompute: bool
    workers: int
    locks: tuple[int, ...]  # file descriptors that a worker must not keep
    progress: bool
    log: Mapping[str, Opener]  # loggers beside metrics.jsonl
    watch: Callable[[State], None] | None


def loop(prepared: Prepared, state: State, launch: Launch, recorder: Recorder | None) -> None:
    """Steps until the run's end, a request to stop or a step that fails.

    What can be saved is saved before the error is raised.
    """
    run = prepared.run
    stages = prepared.stages
    start = time.monotonic()
    first = state.step
    pace = Pace(run.steps - first)

    def draw(step: int, world: World = launch.world) -> Batch:
        return draw_batch(stage_at(stages, step), prepared.arrays, step, world)

    ahead = workers.batches(draw, state.step, run.steps, launch.workers, launch.locks)
    with (
        stop_requests() as stops,
        Progress(
            run.steps * run.batch,
            "sample",
            initial=state.step * run.batch,
            show=launch.progress,
        ) as progress,
        closing(ahead),
        _no_save_behind(recorder),
    ):
        while state.step < run.steps:
            stage = hand_over.enter_stage(stages, state)
            if 0 < state.step == stage.first:
                progress.note(f"step {state.step}: stage {stage.number} begins")
            with _saving_on_failure(recorder, state, partial(draw, state.step, ALONE)):
                row = train_step(stage, state, to_device(next(ahead), prepared.device))
            if len(stages) > 1:
                row["stage"] = stage.number
            if due_in_log(run, state.step):
                state.add_to_log(row)
            step = f"{state.step} of {run.steps}"
            progress.update(run.batch, step=step, loss=f"{row['loss']:.4g}")
            progress.note(pace.after_step())
            _choose_at_the_end(prepared, state, progress)
            if recorder:
                seconds = time.monotonic() - start
                speed = (state.step - first) * run.batch / max(seconds, 1e-9)
                clock = {"seconds": seconds, "samples_per_second": speed}
                progress.note(recorder.after_step({**row, **clock}))
            if launch.watch:
                launch.watch(state)
            if state.world.total(len(stops)) and state.step < run.steps:
                _stop(run, state, recorder)


def _choose_at_the_end(prepared: Prepared, state: State, progress: Progress) -> None:
    """Before the last checkpoint, which keeps the choice: the levels of later steps."""
    if state.step == prepared.run.steps:
        state.level_choice, line = choose_levels(prepared, state)
        progress.note(line)


def _stop(run: Run, state: State, recorder: Recorder | None) -> None:
    """Saves and raises Stopped."""
    _save(recorder)
    hint = "the error's attribute `generator` is what was trained so far, nothing is on the disk"
    if recorder:
        hint = f"saved, continue with --out {recorder.folder.path} --resume"
    raise Stopped(f"stopped at step {state.step} of {run.steps}: {hint}")


def _save(recorder: Recorder | None) -> None:
    """Saves this step and waits until it is on the disk."""
    if recorder:
        recorder.save()
        recorder.saver.wait()


def _try_to_save(recorder: Recorder | None, state: State) -> bool:
    """Saves this step if possible; a failure is a warning, since another error is being raised.

    With several ranks it does nothing: they are in the middle of their steps.
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


@contextmanager
def _no_save_behind(recorder: Recorder | None) -> Iterator[None]:
    """Ends with no save in the background, since the folder may then be another process's.

    A second request to stop, which is no Exception, waits for nothing.
    """
    try:
        yield
    except Exception:
        if recorder:
            with suppress(Exception):  # of two failures the first is raised
                recorder.saver.wait()
        raise


@contextmanager
def _saving_on_failure(
    recorder: Recorder | None, state: State, draw: Callable[[], Batch]
) -> Iterator[None]:
    """Saves the state before a step that fails: with its batch where its numbers are not finite.

    draw: the batch of all ranks.
    """
    try:
        yield
    except NonFiniteError as error:
        if recorder:
            recorder.save_incident(error, draw())
        raise
    except WorkerError:
        _try_to_save(recorder, state)
        raise
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        if state.updating:
            outcome = f"the update of step {state.step} is half done and not saved"
        elif _try_to_save(recorder, state):
            outcome = "nothing was updated and the step is saved"
        else:
            outcome = "nothing was updated"
        raise OutOfMemory(
            f"out of memory: {reason}; {outcome}: continue with --resume --recompute, which"
            " changes no bit, or --resume --accumulate 2 or more, which changes the last ones"
        ) from error
