"""Everything a run writes: its folder, log, checkpoints, incidents and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewstep.base import disk
from fewstep.base.conditions import Cond
from fewstep.base.errors import NonFiniteError, storage
from fewstep.core.method import Method
from fewstep.data import pictures
from fewstep.run import checkpoint
from fewstep.run.checkpoint import Checkpoint, RunFolder, Saver
from fewstep.run.checkpoint.saver import copy_groups
from fewstep.run.checkpoint.schema import checkpoint_state
from fewstep.run.config import Run
from fewstep.run.facts import Facts
from fewstep.run.generator import Generator
from fewstep.training import incidents
from fewstep.training.batches import Batch
from fewstep.training.log import chain_of, log_until
from fewstep.training.state import State

log = logging.getLogger("fewstep")


def due(run: Run, step: int, every: int) -> bool:
    """Whether something that is done every so many steps is done after this one: always after the
    last.
    """
    return step == run.iterations or (every > 0 and step % every == 0)


class Recorder:
    """Writes what is due after a step; resumes a folder to exactly where its newest checkpoint
    stood.
    """

    def __init__(
        self,
        out: Path,
        run: Run,
        facts: Facts,
        method: Method,
        state: State,
        saved: Checkpoint | None,
        shown: Cond,
        skipped: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.run, self.facts, self.method, self.state = (
            RunFolder(out),
            run,
            facts,
            method,
            state,
        )
        self.shown = shown  # conditions of the picture grids
        self.skipped = skipped  # files of the data that could not be read
        self.saver, self.world = Saver(), state.world
        self.begun: Path | None = None  # the checkpoint that is being written, or was last
        if saved is not None:
            state.restore(saved)
        if self.world.main:
            self._prepare(saved)

    def _prepare(self, saved: Checkpoint | None) -> None:
        """Brings the folder to where the run stands."""
        run, state = self.run, self.state
        with storage(f"cannot write to {self.folder.path}"):
            self.folder.samples.mkdir(parents=True, exist_ok=True)
            self.folder.sweep()
            kept = log_until(self.folder.metrics, state.step)
            if saved is not None and "log" not in saved.state:  # an older version's
                state.log = chain_of(kept)
            if saved is not None and chain_of(kept) != state.log:
                log.warning(
                    "fewstep: %s is not what the run has logged: lines are lost or changed",
                    self.folder.metrics,
                )
            self._tell_machine(saved)
            checkpoint.replace_file(
                self.folder.config, (json.dumps(run.to_json(), indent=1) + "\n").encode()
            )
            checkpoint.replace_file(self.folder.metrics, kept)

    def _tell_machine(self, saved: Checkpoint | None) -> None:
        """Warns where a run goes on with other last bits than it would have had."""
        before, now = (saved.state.get("machine", {}) if saved else {}), self.about()["machine"]
        exact = {"processes"} if self.run.elastic_exact else set()
        changed = [name for name in before if before[name] != now.get(name) and name not in exact]
        for name in changed:
            told = f"{name} {before[name]} before and {now.get(name)} now"
            log.warning(
                "fewstep: %s goes on with %s: the last bits may differ", self.folder.path, told
            )

    def after_step(self, row: Mapping[str, Any]) -> None:
        """Logs, draws and saves what is due at this step."""
        run, step = self.run, self.state.step
        self.saver.check()
        if due(run, step, run.log_every) and self.world.main:
            with storage(f"cannot write to {self.folder.path}"):
                disk.append(self.folder.metrics, json.dumps(row).encode() + b"\n")
        if run.snapshot_every and due(run, step, run.snapshot_every):
            # before the checkpoint, after which a resumed run would not make it again
            self.snapshot()
        if due(run, step, run.checkpoint_every):
            self.save()
        if due(run, step, run.picture_every):
            self.draw()
        if step == run.iterations:
            self.saver.wait()

    def about(self) -> dict[str, Any]:
        """The JSON part of a checkpoint of this step."""
        place = next(self.state.student.parameters()).device
        machine = {
            "device": place.type,
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
        }
        return {
            **checkpoint_state(self.run, self.facts, self.state.step),
            **self.state.values(),
            "machine": machine,
            **({"skipped": list(self.skipped)} if self.skipped else {}),
        }

    def save(self) -> None:
        """Begins to write a checkpoint of this step, unless there is one; old ones go once it is
        whole.

        Raises NonFiniteError where a weight or average is not finite: such a state is no
        checkpoint.
        """
        path, folder = self.folder.checkpoint(self.state.step), self.folder
        if self.begun == path or self.there(path):
            return
        self.begun = path
        if (bad := self.state.unsound()) is not None:
            raise NonFiniteError(
                f"step {self.state.step}: {bad} is not finite: this step is not saved, the"
                " checkpoints before it are as they were"
            )
        if self.state.sharded:
            with storage(f"cannot write to {folder.path}"):
                if self.world.main and folder.metrics.exists():
                    disk.sync(folder.metrics)
                checkpoint.write_shards(path, self.state.groups(), self.about(), self.world)
                if self.world.main:
                    folder.prune()
            return
        if not self.world.main:
            return
        self.saver.wait()  # before there are two copies
        groups, about = copy_groups(self.state.groups()), self.about()

        def work() -> None:
            disk.make_folder(path.parent)
            if folder.metrics.exists():
                disk.sync(
                    folder.metrics
                )  # what was logged until here is as durable as what was learned
            checkpoint.write(path, groups, about)
            folder.prune()

        self.saver.start(storage(f"cannot write to {folder.path}")(work))

    def incident(self, error: NonFiniteError, batch: Batch) -> None:
        """Keeps the state before a step and the batch that made its numbers not finite, for
        `fewstep replay`.
        """
        losses = torch.empty(0) if error.losses is None else error.losses
        groups = copy_groups(self.state.groups(), keep=self.world.main)
        path = self.folder.incident(self.state.step)
        path = path.with_name(self.world.texts(path.name)[0])
        try:
            if self.world.main:
                incidents.write(path, groups, self.about(), batch, losses, str(error))
            if self.state.unsound() is None:
                self.save()
            self.saver.wait()
            error.args = (f"{error}; to see it again: fewstep replay {path}",)
        except (OSError, MemoryError) as other:  # which must not hide what it is about
            error.args = (f"{error}; it could not be kept: {str(other).partition(chr(10))[0]}",)

    def there(self, path: Path) -> bool:
        """Whether rank 0 sees something of that name: all ranks have to go the same way."""
        return bool(self.world.total(int(self.world.main and path.exists())))

    def snapshot(self) -> None:
        """Keeps the power averages of this step, for `averages.reconstruct`."""
        path = self.folder.snapshot(self.state.step)
        if self.there(path):
            return
        kept = {
            name: net.state_dict()
            for name, net in self.state.averages.items()
            if name.startswith("power-")
        }
        kept = copy_groups(kept, keep=self.world.main)
        if not self.world.main:
            return
        with storage(f"cannot write to {self.folder.path}"):
            disk.make_folder(path.parent)
            checkpoint.write(path, kept, checkpoint_state(self.run, self.facts, self.state.step))

    def draw(self) -> None:
        """Writes a grid of samples from the average, always of the same noise; a picture is not
        worth a run.
        """
        if not (self.world.main or self.state.sharded):
            return
        generator = Generator(
            self.run, self.facts, self.method, self.state.averages["ema"], self.state.step
        )
        try:
            x = self.facts.units.to_model(
                generator.sample(pictures.suitable(self.facts.shape), cond=self.shown)
            )
            if self.world.main:
                self.folder.samples.mkdir(parents=True, exist_ok=True)
                pictures.save(self.folder.samples / f"step-{self.state.step}.png", x)
        except (OSError, ValueError, MemoryError, torch.OutOfMemoryError) as error:
            if self.state.sharded:
                raise  # the others wait for this rank in the middle of a pass
            told = str(error).partition("\n")[0] or type(error).__name__
            log.warning("fewstep: no picture of step %s: %s", self.state.step, told)
