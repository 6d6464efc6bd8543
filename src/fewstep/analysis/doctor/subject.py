"""A run as it is examined: its method, data, networks and log, read and never written."""

from __future__ import annotations

import copy
import json
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fewstep import exact, methods
from fewstep.base.conditions import Cond
from fewstep.base.device import pick_device
from fewstep.base.errors import FewstepError, StorageError, UserError
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.method import Method
from fewstep.core.process import Process, Time
from fewstep.core.sampling import down_the_noise
from fewstep.core.solvers import along, heun
from fewstep.data import Dataset
from fewstep.exact.named import NAMED
from fewstep.run import stages
from fewstep.run.build import Network, OwnMethod, build_method, build_student
from fewstep.run.checkpoint import Checkpoint, RunFolder, read
from fewstep.run.config import Run, run_from_json
from fewstep.run.facts import Facts
from fewstep.run.generator import Generator, find
from fewstep.run.sources import dataset_of, teacher_of
from fewstep.run.weights import load_weights

log = logging.getLogger("fewstep")

MOVES = 40  # of the solver along a teacher's trajectory


@dataclass(frozen=True)
class Subject:
    """All that the measures take. `ema` is what samples are drawn from; others are None where the
    folder has none.
    """

    name: str
    run: Run
    facts: Facts
    method: Method  # of the stage that trained last
    stage: int
    step: int
    progress: float  # what the schedules saw at the last step
    dataset: Dataset
    ema: nn.Module
    student: nn.Module | None = None
    earlier: nn.Module | None = None  # the student of the checkpoint before
    earlier_step: int = 0
    frozen: nn.Module | None = None
    balance: nn.Module | None = None
    teacher: Denoiser | None = None
    truth: Any = None  # the exact law of the data
    log: tuple[dict[str, Any], ...] | None = None
    seed: int = 0

    @property
    def denoises(self) -> bool:
        """Whether its network guesses the mean of the data (a diffusion model), not the end of a
        trajectory.
        """
        method = self.method
        jumps = (
            method.target is not None
            or "teacher" in method.needs
            or abilities.jumps(method.coupling)
        )
        return not jumps and bool(abilities.at_anchor(method.times))

    def models(self, student: Denoiser) -> Models:
        """The networks as the loss takes them, this one as the student."""
        return Models(
            student=student,
            ema=self.ema,
            teacher=self.teacher,
            frozen=self.frozen,
            balance=self.balance,
        )

    def generator(self, denoiser: nn.Module) -> Generator:
        """What samples from one of its networks."""
        return Generator(self.run, self.facts, self.method, denoiser, self.step)

    def solution(self, x_t: Tensor, t: Time, cond: Cond) -> Tensor | None:
        """Where the true trajectory, or else the teacher's, ends at the data; None where nobody
        knows.
        """
        if self.truth is not None:
            found: Tensor = self.truth.solve(x_t, t, 0.0, cond if self.truth.classes else None)
            return found
        if self.teacher is None:
            return None
        process = self.method.process
        return along(heun, down_the_noise(process, MOVES, ())[:-1])(
            process, self.teacher, x_t, t, 0.0, cond
        )

    @property
    def solved_by(self) -> str:
        return "the data's law" if self.truth is not None else "the teacher"


def subject_of(
    path: str | Path,
    *,
    data: str | Dataset | None = None,
    teacher: Any = None,
    network: Network | None = None,
    method: OwnMethod | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Subject:
    """The subject in a run folder, a checkpoint folder or of a shipped name. Raises UserError or
    StorageError.
    """
    checkpoint = find(path)
    run, facts = run_from_json(checkpoint.state["run"]), Facts.from_json(checkpoint.state["facts"])
    made = build_method(run, facts, method)
    place = pick_device(device)

    def network_of(saved: Checkpoint, group: str) -> nn.Module | None:
        if group not in saved.groups:
            return None
        student = build_student(run, facts, made, copy.deepcopy(network))
        load_weights(student, saved.groups[group], str(saved.path))
        return student.requires_grad_(False).eval().to(place)

    ema = network_of(checkpoint, "ema")
    if ema is None:
        raise UserError(
            f"{path}: it has no average 'ema' of the weights: there is nothing to examine"
        )
    dataset = data_of(run, facts, data)
    step, part = checkpoint.state["step"], _stage(run, made, checkpoint)
    before = _earlier(checkpoint)
    return Subject(
        name=str(path),
        run=run,
        facts=facts,
        method=part.method,
        stage=part.number,
        step=step,
        progress=max(0.0, part.progress(max(step, 1) - 1)),
        dataset=dataset,
        ema=ema,
        student=network_of(checkpoint, "student"),
        earlier=None if before is None else network_of(before, "student"),
        earlier_step=before.state["step"] if before else 0,
        frozen=network_of(checkpoint, "frozen"),
        balance=_balance(part.method, checkpoint),
        teacher=_teacher(run, facts, part.method, teacher, network, place),
        truth=truth_of(dataset, part.method.process),
        log=_log(checkpoint),
        seed=seed,
    )


def data_of(run: Run, facts: Facts, data: str | Dataset | None) -> Dataset:
    """The run's data, from where it is now. Raises UserError where it is not what the run was
    trained on.
    """
    found = (
        data
        if isinstance(data, Dataset)
        else dataset_of(data or run.data, run.data_size, run.bad_files)
    )
    found = found if run.labels else found.without_labels()
    if found.fingerprint() != facts.data:
        raise UserError(
            f"data {found.name!r} is not what this run was trained on: name the place where that is"
            " now, --data PATH"
        )
    return found


def _stage(run: Run, made: Method, checkpoint: Checkpoint) -> stages.Stage:
    """The stage that trained the checkpoint's last step."""
    parts = stages.stages(run, made)
    first = made.before is not None and checkpoint.state.get("stage") == 1
    return parts[0] if first else stages.at(parts, max(checkpoint.state["step"] - 1, 0))


def _earlier(checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint before, of the same stage; None where there is none."""
    folder = checkpoint.path.parent.parent
    if checkpoint.path.parent.name != "checkpoints":
        return None
    for path in RunFolder(folder).checkpoints():
        with suppress(StorageError):
            found = read(path)
            same = found.state.get("stage") == checkpoint.state.get("stage")
            if same and found.state["step"] < checkpoint.state["step"]:
                return found
    return None


def _balance(method: Method, checkpoint: Checkpoint) -> nn.Module | None:
    learned = abilities.module(method.balance)
    if learned is None or "balance" not in checkpoint.groups:
        return None
    module: nn.Module = learned()
    load_weights(module, checkpoint.groups["balance"], str(checkpoint.path))
    return module.requires_grad_(False).eval()


def _teacher(
    run: Run, facts: Facts, method: Method, given: Any, network: Any, place: Any
) -> Denoiser | None:
    """The teacher that is given, or the run's own where it can still be found."""
    if given is None and run.teacher is None:
        return None
    asks = replace(methods.cd(sigma_data=facts.sigma_data), process=method.process)
    try:
        found = teacher_of(given, run, facts, asks, network, place)
    except FewstepError as error:
        if given is not None:
            raise
        log.warning("fewstep: the run's teacher is not asked: %s", error)
        return None
    return None if found is None else found.denoiser


def truth_of(dataset: Dataset, process: Process) -> Any:
    """The exact law of the data where it has one."""
    name = dataset.name.removeprefix("exact:")
    known = name in NAMED and (dataset.name.startswith("exact:") or not dataset.classes)
    plain = dataset.units.shift == 0 and dataset.units.scale == 1
    return exact.named(name, process) if known and plain else None


def _log(checkpoint: Checkpoint) -> tuple[dict[str, Any], ...] | None:
    """The rows of metrics.jsonl; None where there is none."""
    path = checkpoint.path.parent.parent / "metrics.jsonl"
    if checkpoint.path.parent.name != "checkpoints" or not path.exists():
        return None
    rows = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) and "step" in row else []
    return tuple(rows)
