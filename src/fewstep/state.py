"""What the next training step depends on besides the run itself, as a value that can be saved and compared."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep import ema, optimizers, origins, schedules
from fewstep.building import Facts, Network, build_student
from fewstep.checkpoint import Checkpoint
from fewstep.config import Run
from fewstep.denoiser import Cond, Denoiser, Models, Preconditioned
from fewstep.errors import StorageError
from fewstep.generator import load_weights
from fewstep.losses import Method
from fewstep.precision import LossScale
from fewstep.process import Time
from fewstep.randomness import forked

log = logging.getLogger("fewstep")


@dataclass
class Counted:
    """A denoiser that counts the rows it evaluates: guidance is two of each, a move of Heun's method as well."""

    denoiser: Denoiser
    rows: int = 0

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        self.rows += len(x_t)
        return self.denoiser(x_t, t, cond)


@dataclass
class State:
    """Weights, their averages, the optimizer's moments and the step: no generator, no iterator, no clock."""

    trained: nn.ModuleDict  # what the optimizer moves: the student, and modules that are learned beside it
    averages: dict[str, nn.Module]  # of the student, by name
    optimizer: torch.optim.Optimizer
    step: int = 0
    scale: LossScale = field(default_factory=lambda: LossScale(factor=1.0))  # moves in fp16 alone
    frozen: nn.Module | None = None  # the first stage's average, in the second
    begun: int = 0  # the step at which the optimizer was new
    teacher: Counted | None = None  # frozen, so that no checkpoint holds it
    teacher_rows: int = 0  # that it evaluated in all steps so far

    @property
    def student(self) -> Preconditioned:
        return cast(Preconditioned, self.trained["student"])

    def models(self) -> Models:
        """The networks as the loss takes them."""
        learned: dict[str, Any] = {name: module for name, module in self.trained.items() if name != "student"}
        average = self.averages.get("target", self.averages["ema"])
        return Models(student=self.student, ema=average, teacher=self.teacher, frozen=self.frozen, **learned)

    def asked(self) -> int:
        """How many rows the teacher evaluated since this process began."""
        return self.teacher.rows if self.teacher else 0

    def modules(self) -> dict[str, nn.Module]:
        """All networks by the name of their checkpoint group."""
        frozen = {} if self.frozen is None else {"frozen": self.frozen}
        return {**dict(self.trained.items()), **self.averages, **frozen}

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """All of it as named tensors."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.trained.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        scale = {"scale": self.scale.tensors()} if self.scale != LossScale(factor=1.0) else {}
        return {**{name: module.state_dict() for name, module in self.modules().items()}, "optimizer": moments, **scale}

    def restore(self, saved: Checkpoint) -> None:
        """Takes over a checkpoint. Raises StorageError where its names or shapes are not this state's."""
        if "frozen" in saved.groups and self.frozen is None:
            self.frozen = ema.average_of(self.student)
        for name, module in self.modules().items():
            load_weights(module, saved.groups.get(name, {}), str(saved.path))
        self.step, self.begun = saved.state["step"], saved.state.get("begun", 0)
        self.teacher_rows = saved.state.get("teacher_rows", 0)
        if self.teacher and self.step and "teacher_rows" not in saved.state:
            log.warning("fewstep: %s counted no teacher evaluations: only those from here on are", saved.path)
        if "scale" in saved.groups:
            self.scale = LossScale.of(saved.groups["scale"])
        moments: dict[str, dict[str, Tensor]] = {}
        for full_name, tensor in saved.groups.get("optimizer", {}).items():
            name, _, key = full_name.rpartition(".")
            moments.setdefault(name, {})[key] = tensor
        if self.step - self.begun > self.scale.skipped and not moments:
            raise StorageError(
                f"{saved.path} holds no optimizer: it is a generator to sample from, not a run to resume"
            )
        for name, parameter in self.trained.named_parameters():
            found = moments.get(name)  # a weight that no gradient reaches has none
            if found is None:
                continue
            if any(moment.shape not in (parameter.shape, ()) for moment in found.values()):
                raise StorageError(f"{saved.path}: the optimizer's moments of {name!r} are of another shape")
            self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in found.items()}


def new_state(
    run: Run,
    facts: Facts,
    method: Method,
    network: Network | None,
    device: torch.device,
    initial: origins.Weights | None = None,
    teacher: origins.Teacher | None = None,
) -> State:
    """Step 0: networks from the run's seed or with initial weights, an empty optimizer."""
    student = build_student(run, facts, method, network)
    if initial is not None:
        origins.fit(initial, student.network)
    student = student.to(device).train()
    trained = nn.ModuleDict({"student": student})
    learned = getattr(method.balance, "module", None)
    if learned is not None:
        with forked(run.seed, "init balance"):
            trained["balance"] = learned().to(device).train()
    names = ["ema", *(schedules.profile(text).name for text in run.averages)]
    if method.ema_rate is not None:
        names.append("target")
    averages = {name: ema.average_of(student) for name in names}
    if "target" in averages:
        averages["target"].train()  # the loss runs it under the student's dropout
    state = State(trained, averages, optimizers.build(run, trained.parameters()))
    state.frozen = ema.average_of(student) if run.stage == 2 else None
    state.teacher = Counted(teacher.denoiser) if teacher else None
    state.scale = LossScale() if run.precision == "fp16" else state.scale
    return state


def update_averages(run: Run, method: Method, state: State, progress: float) -> None:
    """Moves every average towards the student, each at the rate it has at this step."""
    age = state.step + (run.age or 0)
    rates = {"ema": schedules.ema_rate(age, run.ema)}
    for one in map(schedules.profile, run.averages):
        rates[one.name] = one.rate(age, run.batch)
    if method.ema_rate is not None:
        rates["target"] = method.ema_rate(progress)
    for name, rate in rates.items():
        ema.update(state.averages[name], state.student, rate)
