"""Everything a run writes: its folder, log, checkpoints and pictures; and the requests to stop."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep import checkpoint, incidents, pictures
from fewstep.batches import Batch
from fewstep.building import Facts
from fewstep.checkpoint import Checkpoint, RunFolder, Saver, disk
from fewstep.checkpoint.saver import copied
from fewstep.config import Run, run_from_json
from fewstep.denoiser import Cond
from fewstep.errors import NonFiniteError, StorageError, UserError
from fewstep.generator import Generator, checkpoint_state
from fewstep.losses import Method
from fewstep.state import State, chained

log = logging.getLogger("fewstep")

CLOCK = ("seconds", "samples_per_second")  # of a row of the log, what no two runs share
WRITTEN = ("checkpoint", "log", "picture", "snapshot")
# On resume, since no weight depends on them, or by its last bits; data and a teacher are known by their fingerprints.
MAY_CHANGE = {
    "accumulate",
    "bad_files",
    "checkpoint_every",
    "data",
    "log_every",
    "picture_every",
    "snapshot_every",
    "teacher",
}


def differences(run: dict[str, Any], before: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What may not change when a run is resumed, and did: (name, new value, old value), options one by one."""
    for name in sorted(run.keys() | before.keys()):
        new, old = run.get(name), before.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            yield from ((f"{name.removesuffix('_options')}.{key}", a, b) for key, a, b in differences(new, old))
        elif name not in MAY_CHANGE and new != old:
            yield name, new, old


def chain_of(text: bytes) -> str:
    """The chain of the rows in a log, whose clock it leaves out."""
    chain = ""
    for line in text.splitlines():
        chain = chained(chain, {key: value for key, value in json.loads(line).items() if key not in CLOCK})
    return chain


def log_until(path: Path, step: int) -> bytes:
    """The whole lines of a log up to a step: what a run that resumes there has written so far."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # a line that was torn when the run was killed
            if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                kept.append(line)
    return b"".join(kept)


def resumable(out: Path, resume: bool) -> Checkpoint | None:
    """The checkpoint that a run in this folder goes on from. Raises UserError where a run is and none is resumed."""
    folder = RunFolder(out)
    if not resume and (folder.config.exists() or folder.checkpoints()):
        raise UserError(f"{out} already holds a run: continue it with --resume, or choose another --out")
    saved = folder.newest(quarantine=True)
    if saved is None and resume:
        log.warning("fewstep: %s holds no checkpoint: starting from step 0", out)
    return saved


def check_same(saved: Checkpoint, run: Run, facts: Facts, settled: Callable[[Run], Run]) -> Facts:
    """Refuses to go on from a checkpoint with other settings, data or another teacher; returns its facts.

    settled: writes out the options of a run, so that those an older version did not know have their defaults.
    """
    out = saved.path.parent.parent
    before = run_from_json(saved.state["run"])  # fills in the fields that older versions did not know
    if (before.method, before.network) == (run.method, run.network):
        before = settled(before)
    for name, value, old in differences(run.to_json(), before.to_json()):
        raise UserError(
            f"{name} = {value!r}, but the run in {out} was started with {old!r}: "
            "leave it out to continue that run, or start another with --out"
        )
    if run.accumulate != before.accumulate and not run.elastic_exact:
        told = f"accumulate = {run.accumulate}, but the run in {out} was started with {before.accumulate}"
        log.warning("fewstep: %s: the last bits may differ", told)
    if saved.state.get("torch") != torch.__version__:
        log.warning("fewstep: %s was written by torch %s: the last bits may differ", out, saved.state.get("torch"))
    known = Facts.from_json(saved.state["facts"])
    if replace(known, init=facts.init, teacher=facts.teacher) != facts:
        raise UserError(f"the data is not what the run in {out} was started with")
    if known.teacher != facts.teacher:
        raise UserError(f"the teacher is not the one that the run in {out} was started with")
    return known


def due(run: Run, step: int, every: int) -> bool:
    """Whether something that is done every so many steps is done after this one: always after the last."""
    return step == run.iterations or (every > 0 and step % every == 0)


class Recorder:
    """Writes what is due after a step; resumes a folder to exactly where its newest checkpoint stood."""

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
        self.folder, self.run, self.facts, self.method, self.state = RunFolder(out), run, facts, method, state
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
        with storage(self.folder.path):
            self.folder.samples.mkdir(parents=True, exist_ok=True)
            self.folder.sweep()
            kept = log_until(self.folder.metrics, state.step)
            if saved is not None and "log" not in saved.state:  # an older version's
                state.log = chain_of(kept)
            if saved is not None and chain_of(kept) != state.log:
                log.warning(
                    "fewstep: %s is not what the run has logged: lines are lost or changed", self.folder.metrics
                )
            self._tell_machine(saved)
            checkpoint.replace_file(self.folder.config, (json.dumps(run.to_json(), indent=1) + "\n").encode())
            checkpoint.replace_file(self.folder.metrics, kept)

    def _tell_machine(self, saved: Checkpoint | None) -> None:
        """Warns where a run goes on with other last bits than it would have had."""
        before, now = (saved.state.get("machine", {}) if saved else {}), self.about()["machine"]
        exact = {"processes"} if self.run.elastic_exact else set()
        changed = [name for name in before if before[name] != now.get(name) and name not in exact]
        for name in changed:
            told = f"{name} {before[name]} before and {now.get(name)} now"
            log.warning("fewstep: %s goes on with %s: the last bits may differ", self.folder.path, told)

    def after_step(self, row: Mapping[str, Any]) -> None:
        """Logs, draws and saves what is due at this step."""
        run, step = self.run, self.state.step
        self.saver.check()
        if due(run, step, run.log_every) and self.world.main:
            with storage(self.folder.path):
                disk.append(self.folder.metrics, json.dumps(row).encode() + b"\n")
        if run.snapshot_every and due(run, step, run.snapshot_every):
            self.snapshot()  # before the checkpoint, after which a resumed run would not make it again
        if due(run, step, run.checkpoint_every):
            self.save()
        if due(run, step, run.picture_every):
            self.draw()
        if step == run.iterations:
            self.saver.wait()

    def about(self) -> dict[str, Any]:
        """The JSON part of a checkpoint of this step."""
        place = next(self.state.student.parameters()).device
        machine = {"device": place.type, "threads": torch.get_num_threads(), "processes": self.world.size}
        return {
            **checkpoint_state(self.run, self.facts, self.state.step),
            **self.state.values(),
            "machine": machine,
            **({"skipped": list(self.skipped)} if self.skipped else {}),
        }

    def save(self) -> None:
        """Begins to write a checkpoint of this step, unless there is one; old ones go once it is whole.

        Raises NonFiniteError where a weight or average is not finite: such a state is no checkpoint.
        """
        path, folder = self.folder.checkpoint(self.state.step), self.folder
        if self.begun == path or self.there(path):
            return
        self.begun = path
        if (bad := self.state.unsound()) is not None:
            raise NonFiniteError(
                f"step {self.state.step}: {bad} is not finite: this step is not saved, the checkpoints before it are "
                "as they were"
            )
        if self.state.sharded:
            with storage(folder.path):
                if self.world.main and folder.metrics.exists():
                    disk.sync(folder.metrics)
                checkpoint.write_shards(path, self.state.groups(), self.about(), self.world)
                if self.world.main:
                    folder.prune()
            return
        if not self.world.main:
            return
        self.saver.wait()  # before there are two copies
        groups, about = copied(self.state.groups()), self.about()

        def work() -> None:
            disk.make_folder(path.parent)
            if folder.metrics.exists():
                disk.sync(folder.metrics)  # what was logged until here is as durable as what was learned
            checkpoint.write(path, groups, about)
            folder.prune()

        self.saver.start(telling(folder.path, work))

    def incident(self, error: NonFiniteError, batch: Batch) -> None:
        """Keeps the state before a step and the batch that made its numbers not finite, for `fewstep replay`."""
        losses = torch.empty(0) if error.losses is None else error.losses
        groups = copied(self.state.groups(), keep=self.world.main)
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
        """Keeps the power averages of this step, for `posthoc.reconstruct`."""
        path = self.folder.snapshot(self.state.step)
        if self.there(path):
            return
        kept = {name: net.state_dict() for name, net in self.state.averages.items() if name.startswith("power-")}
        kept = copied(kept, keep=self.world.main)
        if not self.world.main:
            return
        with storage(self.folder.path):
            disk.make_folder(path.parent)
            checkpoint.write(path, kept, checkpoint_state(self.run, self.facts, self.state.step))

    def draw(self) -> None:
        """Writes a grid of samples from the average, always of the same noise; a picture is not worth a run."""
        if not (self.world.main or self.state.sharded):
            return
        generator = Generator(self.run, self.facts, self.method, self.state.averages["ema"], self.state.step)
        try:
            x = self.facts.units.to_model(generator.sample(pictures.suitable(self.facts.shape), cond=self.shown))
            if self.world.main:
                self.folder.samples.mkdir(parents=True, exist_ok=True)
                pictures.save(self.folder.samples / f"step-{self.state.step}.png", x)
        except (OSError, ValueError, MemoryError, torch.OutOfMemoryError) as error:
            if self.state.sharded:
                raise  # the others wait for this rank in the middle of a pass
            told = str(error).partition("\n")[0] or type(error).__name__
            log.warning("fewstep: no picture of step %s: %s", self.state.step, told)


def telling(path: Path, work: Callable[[], None]) -> Callable[[], None]:
    """The work, whose failures to write are told as `storage` does."""

    def run() -> None:
        with storage(path):
            work()

    return run


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Tells a failure to write as the one line it is."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write to {path}: {error.strerror or error}") from error


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that the first SIGINT, SIGTERM or SIGHUP is put on; a second one acts as if nobody listened."""
    received: list[int] = []
    kept: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in kept.items():
            signal.signal(number, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            nohup = number not in (signal.SIGINT, signal.SIGTERM) and signal.getsignal(number) is signal.SIG_IGN
            if number not in kept and not nohup:  # a hang-up that nohup ignores stays ignored
                kept[number] = signal.signal(number, note)
    except ValueError:
        pass  # outside the main thread signals are somebody else's
    try:
        yield received
    finally:
        restore()
