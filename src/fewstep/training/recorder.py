"""Everything a run writes: its folder, log, checkpoints, incidents and pictures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewstep.base import disk
from fewstep.base.errors import NonFiniteError, storage
from fewstep.base.progress import SECONDS
from fewstep.run import checkpoint
from fewstep.run.checkpoint import RunFolder, Saver
from fewstep.run.checkpoint.best import Best
from fewstep.run.checkpoint.saver import copy_groups
from fewstep.run.checkpoint.schema import Position, Record, new_record
from fewstep.run.config import DESCRIPTION, Run
from fewstep.run.levels import LevelChoice
from fewstep.run.prepare import Prepared
from fewstep.training import incidents
from fewstep.training.batches import Batch
from fewstep.training.drawing import draw_curves, draw_samples
from fewstep.training.log import SCORE, chain_of, is_step, log_until, rows_of
from fewstep.training.loggers import Loggers, Opener, Row, Start
from fewstep.training.scores import best_of, scores_of
from fewstep.training.state import State

log = logging.getLogger("fewstep")


def due(run: Run, step: int, every: int) -> bool:
    """Whether what is done every so many steps is done after this one; it is after the last.

    The last step is that of the schedules, and of an extension too.
    """
    return step in (run.iterations, run.steps) or (every > 0 and step % every == 0)


def due_in_log(run: Run, step: int) -> bool:
    """Whether the log has a row of this step: where an extension ends makes no difference."""
    return step == run.iterations or step % run.log_every == 0


class Recorder:
    """Writes what is due after a step; resumes a folder where its newest checkpoint stood."""

    def __init__(
        self, prepared: Prepared, state: State, out: Path, loggers: Mapping[str, Opener]
    ) -> None:
        self.prepared = prepared
        self.state = state
        self.world = state.world
        self.folder = RunFolder(out)
        self.saver = Saver()
        self.saving: Path | None = None  # the checkpoint that is written now, or was last
        self.next_curves = time.monotonic() + SECONDS  # not before
        if prepared.checkpoint is not None:
            state.restore(prepared.checkpoint)
        if state.step < prepared.run.steps:  # what the end of a shorter run chose
            state.level_choice = LevelChoice()
        self.scores = scores_of(prepared, self.world.main)
        self.score_rows: list[Row] = []  # of the log, known to rank 0
        self.loggers = Loggers({}, Start(out, {}, []))
        if self.world.main:
            with storage(f"cannot read {self.folder.metrics}"):
                rows = rows_of(self.folder.metrics, state.step)
            # Before there is a run in the folder: one may be refused.
            self.loggers = Loggers(loggers, Start(out, prepared.run.to_json(), rows))
            self._prepare_folder()
            if self.scores:
                there = self.folder.checkpoints()
                self.score_rows += [
                    row
                    for row in rows
                    if not is_step(row) and self.folder.checkpoint(row["step"]) in there
                ]
        if self.scores:
            is_new = self.world.main and state.step == prepared.run.steps and not self.score_rows
            if self.world.total(is_new):  # a run at its end that nobody has scored
                self._score()
        with storage(f"cannot write to {self.folder.path}"):
            self._name_best(self._best())

    def _prepare_folder(self) -> None:
        """Brings the folder to where the run stands."""
        state = self.state
        before = None if self.prepared.checkpoint is None else self.prepared.checkpoint.record
        with storage(f"cannot write to {self.folder.path}"):
            self.folder.samples.mkdir(parents=True, exist_ok=True)
            self.folder.sweep()
            rows = log_until(self.folder.metrics, state.step)
            if before is not None and before.log is None:  # an older version's
                state.log_chain = chain_of(rows)
            if before is not None and chain_of(rows) != state.log_chain:
                log.warning(
                    "fewstep: %s is not what the run has logged: lines are lost or changed",
                    self.folder.metrics,
                )
            self._compare_machines(before)
            values = self.prepared.run.to_json() | {DESCRIPTION: self.prepared.facts.description}
            config = json.dumps(values, indent=1) + "\n"
            checkpoint.replace_file(self.folder.config, config.encode())
            checkpoint.replace_file(self.folder.metrics, rows)

    def _compare_machines(self, before: Record | None) -> None:
        """Warns where a run goes on with other last bits than it would have had."""
        machine = (before.machine if before else None) or {}
        now = self._machine()
        for name, value in machine.items():
            if name == "processes" and self.prepared.run.elastic_exact:
                continue
            if value != now.get(name):
                log.warning(
                    "fewstep: %s goes on with %s %s before and %s now: the last bits may differ",
                    self.folder.path,
                    name,
                    value,
                    now.get(name),
                )

    def _machine(self) -> dict[str, Any]:
        """What the last bits depend on."""
        return {
            "device": next(self.state.student.parameters()).device.type,
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
        }

    def after_step(self, row: Mapping[str, Any]) -> str:
        """Logs, scores, draws and saves what is due at this step; a line of its score, or ""."""
        run = self.prepared.run
        step = self.state.step
        self.saver.check()
        if due_in_log(run, step):
            self._log(row)
        line, is_best = self._score() if due(run, step, run.eval_every) else ("", False)
        if run.snapshot_every and due(run, step, run.snapshot_every):
            # before the checkpoint, after which a resumed run would not make it again
            self.save_snapshot()
        if is_best or due(run, step, run.checkpoint_every):
            self.save()
            self.draw_curves()
        if due(run, step, run.picture_every):
            self.draw()
        if step == run.steps:
            self.saver.wait()
        return line

    def _log(self, row: Row) -> None:
        """Adds a row to the log, and to the loggers."""
        if self.world.main:
            with storage(f"cannot write to {self.folder.path}"):
                disk.append(self.folder.metrics, json.dumps(row).encode() + b"\n")
            self.loggers.write(row)

    def _score(self) -> tuple[str, bool]:
        """Scores this step: a line, and whether it is the best so far, which all ranks know."""
        if self.scores is None:
            return "", False
        step, metric = self.state.step, self.scores.metric
        value, before = self.scores.of(self.state), self._best()
        row: Row = {"step": step, SCORE + metric: value}
        if len(self.prepared.stages) > 1:
            row = {**row, "stage": self.state.stage}
        self._log(row)
        self.score_rows.append(row)
        is_best = value is not None and (before is None or value < before.value)
        text = "not finite" if value is None else f"{value:.4g}"
        line = f"step {step}: {metric} {text} on validation{', the best so far' * is_best}"
        return line, bool(self.world.total(is_best))

    def _best(self) -> Best | None:
        """The best step of this stage so far; None where nothing was scored."""
        metric = self.scores.metric if self.scores else ""
        return best_of(self.score_rows, metric, self.state.stage)

    def _name_best(self, best: Best | None) -> None:
        """Writes which checkpoint is the best, if that is known; the one before stays named."""
        if best is not None and self.world.main:
            best.write(self.folder.best)

    def record(self) -> Record:
        """What a checkpoint of this step says."""
        dataset = self.prepared.dataset
        return new_record(
            self.prepared.run,
            self.prepared.facts,
            self.state.position(),
            machine=self._machine(),
            skipped=list(dataset.skipped) or None if dataset else None,
            levels=self.state.level_choice.to_json() if self.state.level_choice.scores else None,
        )

    def save(self) -> None:
        """Begins to write a checkpoint of this step, unless there is one; then old ones go.

        Raises NonFiniteError where a weight or average is not finite, and saves nothing.
        """
        folder = self.folder
        path = folder.checkpoint(self.state.step)
        if self.saving == path or self._exists(path):
            return
        self.saving = path
        bad = self.state.first_not_finite()
        if bad is not None:
            raise NonFiniteError(
                f"step {self.state.step}: {bad} is not finite: this step is not saved, the"
                " checkpoints before it are as they were"
            )
        if self.state.is_sharded:
            self._save_shards(path)
            return
        if not self.world.main:
            return
        self.saver.wait()  # before there are two copies
        groups = copy_groups(self.state.groups())
        record = self.record().to_json()
        tidy = partial(self._tidy, self._best())

        def work() -> None:
            disk.make_folder(path.parent)
            self._sync_log()
            checkpoint.write(path, groups, record)
            tidy()

        self.saver.start(storage(f"cannot write to {folder.path}")(work))

    def _save_shards(self, path: Path) -> None:
        with storage(f"cannot write to {self.folder.path}"):
            if self.world.main:
                self._sync_log()
            record = self.record().to_json()
            checkpoint.write_shards(path, self.state.groups(), record, self.world)
            if self.world.main:
                self._tidy(self._best())

    def _tidy(self, best: Best | None) -> None:
        """Names the best checkpoint, which is there, and removes those that need not stay."""
        self._name_best(best)
        self.folder.prune(self.prepared.run.keep_checkpoints)

    def _sync_log(self) -> None:
        """What was logged until here is as durable as the checkpoint that is written next."""
        if self.folder.metrics.exists():
            disk.sync(self.folder.metrics)

    def save_incident(self, error: NonFiniteError, batch: Batch) -> None:
        """Keeps the state before a step and its batch for `fewstep replay`; the error says it."""
        losses = torch.empty(0) if error.losses is None else error.losses
        groups = copy_groups(self.state.groups(), keep=self.world.main)
        path = self.folder.incident(self.state.step)
        path = path.with_name(self.world.texts(path.name)[0])
        try:
            if self.world.main:
                incidents.write(path, groups, self.record(), batch, losses, str(error))
            if self.state.first_not_finite() is None:
                self.save()
            self.saver.wait()
            error.args = (f"{error}; to see it again: fewstep replay {path}",)
        except (OSError, MemoryError) as other:  # which must not hide the first
            reason = str(other).partition("\n")[0]
            error.args = (f"{error}; it could not be kept: {reason}",)

    def _exists(self, path: Path) -> bool:
        """Whether rank 0 sees something of that name: all ranks have to go the same way."""
        return bool(self.world.total(int(self.world.main and path.exists())))

    def save_snapshot(self) -> None:
        """Saves the power averages of this step, for `averages.reconstruct`."""
        path = self.folder.snapshot(self.state.step)
        if self._exists(path):
            return
        groups = {
            name: net.state_dict()
            for name, net in self.state.averages.items()
            if name.startswith("power-")
        }
        groups = copy_groups(groups, keep=self.world.main)
        if not self.world.main:
            return
        record = new_record(self.prepared.run, self.prepared.facts, Position(step=self.state.step))
        with storage(f"cannot write to {self.folder.path}"):
            disk.make_folder(path.parent)
            checkpoint.write(path, groups, record.to_json())

    def draw(self) -> None:
        """Draws samples of this step beside the data."""
        draw_samples(self.prepared, self.state, self.folder.samples)

    def draw_curves(self) -> None:
        """Writes curves.png at the end, and before it once in a while."""
        is_last = self.state.step == self.prepared.run.steps
        if self.world.main and (is_last or time.monotonic() >= self.next_curves):
            draw_curves(self.folder, self.prepared.run, is_last)
            self.next_curves = time.monotonic() + SECONDS
