"""Everything a run writes: its folder, log, checkpoints, incidents and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.base import disk
from fewstep.base.conditions import examples
from fewstep.base.errors import NonFiniteError, OutOfMemory, storage
from fewstep.base.memory import Room
from fewstep.data import Units, change_cond, pictures
from fewstep.run import checkpoint
from fewstep.run.checkpoint import RunFolder, Saver
from fewstep.run.checkpoint.saver import copy_groups
from fewstep.run.checkpoint.schema import Position, Record, new_record
from fewstep.run.config import DESCRIPTION, Run
from fewstep.run.generator import Generator
from fewstep.run.prepare import Prepared
from fewstep.training import incidents
from fewstep.training.batches import Batch
from fewstep.training.log import chain_of, log_until
from fewstep.training.state import State

log = logging.getLogger("fewstep")


def due(run: Run, step: int, every: int) -> bool:
    """Whether what is done every so many steps is done after this one; it is after the last."""
    return step == run.iterations or (every > 0 and step % every == 0)


class Recorder:
    """Writes what is due after a step; resumes a folder where its newest checkpoint stood."""

    def __init__(self, prepared: Prepared, state: State, out: Path) -> None:
        self.prepared = prepared
        self.state = state
        self.world = state.world
        self.folder = RunFolder(out)
        self.saver = Saver()
        self.saving: Path | None = None  # the checkpoint that is written now, or was last
        self.look = prepared.facts.look
        count = self.look.enough
        cond = examples(prepared.arrays.cond, prepared.facts.cond, count)
        self.picture_cond = change_cond(cond, prepared.facts.cond_units, Units.to_user)
        if prepared.checkpoint is not None:
            state.restore(prepared.checkpoint)
        if self.world.main:
            self._prepare_folder()

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

    def after_step(self, row: Mapping[str, Any]) -> None:
        """Logs, draws and saves what is due at this step."""
        run = self.prepared.run
        step = self.state.step
        self.saver.check()
        if due(run, step, run.log_every) and self.world.main:
            with storage(f"cannot write to {self.folder.path}"):
                disk.append(self.folder.metrics, json.dumps(row).encode() + b"\n")
        if run.snapshot_every and due(run, step, run.snapshot_every):
            # before the checkpoint, after which a resumed run would not make it again
            self.save_snapshot()
        if due(run, step, run.checkpoint_every):
            self.save()
        if due(run, step, run.picture_every):
            self.draw()
        if step == run.iterations:
            self.saver.wait()

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
        record, keep = self.record().to_json(), self.prepared.run.keep_checkpoints

        def work() -> None:
            disk.make_folder(path.parent)
            self._sync_log()
            checkpoint.write(path, groups, record)
            folder.prune(keep)

        self.saver.start(storage(f"cannot write to {folder.path}")(work))

    def _save_shards(self, path: Path) -> None:
        with storage(f"cannot write to {self.folder.path}"):
            if self.world.main:
                self._sync_log()
            record = self.record().to_json()
            checkpoint.write_shards(path, self.state.groups(), record, self.world)
            if self.world.main:
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
        """Writes a picture of samples of the average, always of the same noise, beside the data.

        A picture that cannot be made is a warning.
        """
        if not (self.world.main or self.state.is_sharded):
            return
        prepared = self.prepared
        step = self.state.step
        average = self.state.averages["ema"]
        count = self.look.enough
        method = self.state.position().trained(prepared.method)
        generator = Generator(prepared.run, prepared.facts, method, average, step)
        if self.state.is_sharded:  # all ranks pass the same rows at the same time
            generator = replace(generator, room=Room(least=count))
        try:
            x = generator.sample(count, cond=self.picture_cond)
            if self.world.main:
                self.folder.samples.mkdir(parents=True, exist_ok=True)
                path = self.folder.samples / f"step-{step}.png"
                about = pictures.draw(path, self._beside_data(generator, x), self.look)
                if pictures.HINT in about and step == prepared.run.iterations:
                    log.warning("fewstep: %s: %s", self.folder.samples, pictures.HINT)
        except (OSError, ValueError, MemoryError, torch.OutOfMemoryError, OutOfMemory) as error:
            if self.state.is_sharded:
                raise  # the others wait for this rank in the middle of a pass
            reason = str(error).partition("\n")[0] or type(error).__name__
            log.warning("fewstep: no picture of step %s: %s", step, reason)

    def _beside_data(self, generator: Generator, x: Tensor) -> list[pictures.Rows]:
        """The samples and as many training rows, whose conditions are the first samples'."""
        samples = pictures.Rows("samples", x, generator.conditions(len(x), self.picture_cond))
        splits, units = [self.prepared.arrays], self.prepared.facts.units
        data = pictures.rows_of_data(splits, units, len(x), samples, "training data")
        return [samples, data] if data else [samples]
