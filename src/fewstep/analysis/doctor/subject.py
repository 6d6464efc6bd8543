"""A run as it is examined: its method, data, networks and log, all of which are only read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import exact, methods
from fewstep.base.conditions import Cond
from fewstep.base.device import pick_device
from fewstep.base.errors import FewstepError, StorageError, UserError
from fewstep.base.memory import Room
from fewstep.core.denoiser import Denoiser, Models
from fewstep.core.method import Method
from fewstep.core.process import Process, Time
from fewstep.core.sampling import solver_grid
from fewstep.core.solvers import along, heun
from fewstep.data import Dataset
from fewstep.exact.named import NAMED
from fewstep.run import stages
from fewstep.run.build import Network, OwnMethod
from fewstep.run.checkpoint import Checkpoint, RunFolder, read
from fewstep.run.config import Run
from fewstep.run.datasets import data_of
from fewstep.run.facts import Facts
from fewstep.run.generator import Blueprint, Generator, open_checkpoint
from fewstep.run.levels import LevelChoice
from fewstep.run.prepare import Prepared
from fewstep.run.stages import Stage
from fewstep.run.teachers import teacher_of
from fewstep.run.weights import load_weights

log = logging.getLogger("fewstep")

MOVES = 40  # of the solver along a teacher's trajectory


@dataclass(frozen=True)
class Subject:
    """All that the measures take; what the folder has none of is None. Samples are from `ema`."""

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
    beside: Mapping[str, nn.Module] = field(default_factory=dict)  # by their names in `Models`
    teacher: Denoiser | None = None
    truth: Any = None  # the exact law of the data
    log: tuple[dict[str, Any], ...] | None = None
    seed: int = 0
    batch: int | None = None  # rows at once; None: what memory takes
    level_choice: LevelChoice = field(default_factory=LevelChoice)  # as `sample` takes them
    room: Room = field(default_factory=Room, compare=False)

    @property
    def denoises(self) -> bool:
        """Whether its network guesses the mean of the data, not the end of a trajectory."""
        return self.method.denoises

    @property
    def device(self) -> torch.device:
        return next(self.ema.parameters()).device

    def models(self, student: Denoiser) -> Models:
        """The networks as the loss takes them, this one as the student."""
        return Models(
            student=student,
            ema=self.ema,
            teacher=self.teacher,
            frozen=self.frozen,
            **self.beside,
        )

    def generator(self, denoiser: nn.Module) -> Generator:
        """What samples from one of its networks."""
        parts = self.run, self.facts, self.method, denoiser, self.step
        return Generator(*parts, level_choice=self.level_choice, room=self.room)

    def split(self, n: int, work: Callable[[range], Tensor]) -> Iterator[Tensor]:
        """work(rows) of n rows in parts that memory takes."""
        return self.room.parts(n, work, self.batch, self.device)

    def solution(self, x_t: Tensor, t: Time, cond: Cond) -> Tensor | None:
        """Where the true trajectory, or else the teacher's, ends at the data; None without both."""
        if self.truth is not None:
            x0: Tensor = self.truth.solve(x_t, t, 0.0, cond if self.truth.classes else None)
            return x0
        if self.teacher is None:
            return None
        process = self.method.process
        solver = along(heun, solver_grid(process, MOVES, ())[:-1])
        return solver(process, self.teacher, x_t, t, 0.0, cond)


def subject_of(
    path: str | Path,
    *,
    data: str | Dataset | None = None,
    teacher: Any = None,
    network: Network | None = None,
    method: OwnMethod | None = None,
    device: str = "auto",
    seed: int = 0,
    batch: int | None = None,
) -> Subject:
    """The subject of a run folder, checkpoint folder or shipped name.

    Raises UserError or StorageError.
    """
    blueprint = open_checkpoint(path, network, method)
    checkpoint, run, facts = blueprint.checkpoint, blueprint.run, blueprint.facts
    place = pick_device(device)
    network_of = partial(_network, blueprint, place)
    ema = network_of(checkpoint, "ema")
    if ema is None:
        raise UserError(
            f"{path}: it has no average 'ema' of the weights: there is nothing to examine"
        )
    dataset = data_of(run, facts, data).in_memory()
    stage = _last_stage(blueprint)
    step = checkpoint.record.step
    before = _checkpoint_before(checkpoint)
    student = Prepared(run, facts, stage.method, network=network, device=place)
    return Subject(
        name=str(path),
        run=run,
        facts=facts,
        method=stage.method,
        stage=stage.number,
        step=step,
        progress=max(0.0, stage.progress(run.schedule_step(max(step, 1) - 1))),
        dataset=dataset,
        ema=ema,
        student=network_of(checkpoint, "student"),
        earlier=None if before is None else network_of(before, "student"),
        earlier_step=0 if before is None else before.record.step,
        frozen=network_of(checkpoint, "frozen"),
        beside=_beside(stage.method, facts.shape, checkpoint),
        teacher=_teacher(teacher, student),
        truth=truth_of(dataset, stage.method.process),
        log=_log(checkpoint),
        seed=seed,
        batch=batch,
        level_choice=_levels(blueprint),
    )


def _network(
    blueprint: Blueprint, place: torch.device, source: Checkpoint, group: str
) -> nn.Module | None:
    """A network of that checkpoint of the run; None where it holds none of that name."""
    if group not in source.groups:
        return None
    return replace(blueprint, checkpoint=source).network_with(source.groups[group]).to(place)


def _last_stage(blueprint: Blueprint) -> Stage:
    """The stage that trained the checkpoint's last step."""
    plan = stages.stages(blueprint.run, blueprint.method)
    number = blueprint.checkpoint.record.stage or plan[-1].number
    return next((stage for stage in plan if stage.number == number), plan[-1])


def _levels(blueprint: Blueprint) -> LevelChoice:
    """The levels of later steps that were chosen when training ended, for its last stage."""
    record = blueprint.checkpoint.record
    is_last = record.trained(blueprint.method) is blueprint.method
    return record.level_choice if is_last else LevelChoice()


def _checkpoint_before(checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint before, of the same stage; None where there is none."""
    if checkpoint.path.parent.name != "checkpoints":
        return None
    last = checkpoint.record
    for path in RunFolder(checkpoint.path.parent.parent).checkpoints():
        with suppress(StorageError):
            other = read(path)
            if other.record.stage == last.stage and other.record.step < last.step:
                return other
    return None


def _beside(method: Method, shape: tuple[int, ...], checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """What was trained beside the student."""
    modules = {}
    for name in method.beside.keys() & checkpoint.groups.keys():
        modules[name] = method.beside[name](shape).requires_grad_(False).eval()
        load_weights(modules[name], checkpoint.groups[name], str(checkpoint.path))
    return modules


def _teacher(source: Any, student: Prepared) -> Denoiser | None:
    """The teacher that is passed, or the run's own where it can still be found."""
    if source is None and student.run.teacher is None:
        return None
    # A method that needs one, whatever the run's own does.
    method = methods.cd(sigma_data=student.facts.sigma_data)
    student = replace(student, method=replace(method, process=student.method.process))
    try:
        model = teacher_of(source, student)
    except FewstepError as error:
        if source is not None:
            raise
        log.warning("fewstep: the run's teacher is not used: %s", error)
        return None
    return None if model is None else model.denoiser


def truth_of(dataset: Dataset, process: Process) -> Any:
    """The exact law of the data where it has one."""
    name = dataset.name.removeprefix("exact:")
    is_named = name in NAMED and (dataset.name.startswith("exact:") or not dataset.classes)
    return exact.named(name, process) if is_named and dataset.units.are_plain else None


def _log(checkpoint: Checkpoint) -> tuple[dict[str, Any], ...] | None:
    """The rows of metrics.jsonl; None where there is none."""
    path = checkpoint.path.parent.parent / "metrics.jsonl"
    if checkpoint.path.parent.name != "checkpoints" or not path.exists():
        return None
    rows = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and {"step", "loss"} <= row.keys():  # others are scores
                rows.append(row)
    return tuple(rows)
