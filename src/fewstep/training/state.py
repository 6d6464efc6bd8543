"""What the next training step depends on besides the run itself, as a value that can be saved and
compared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond
from fewstep.base.errors import StorageError
from fewstep.base.randomness import fork_rng
from fewstep.base.world import ALONE, World, scatter_like, whole
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser, Models, Preconditioned
from fewstep.core.method import Method
from fewstep.core.process import Time
from fewstep.run import profiles, sources
from fewstep.run.averages import average_of
from fewstep.run.averages import update as update_average
from fewstep.run.build import Network, build_student
from fewstep.run.checkpoint import Checkpoint, whole_fingerprint
from fewstep.run.checkpoint.shards import load as load_shards
from fewstep.run.config import Run
from fewstep.run.facts import Facts
from fewstep.run.weights import check_weights, entries
from fewstep.training import optimizers
from fewstep.training.batches import Batch
from fewstep.training.log import chained
from fewstep.training.precision import LossScale

log = logging.getLogger("fewstep")


@dataclass
class Counted:
    """A denoiser that counts the rows it evaluates: guidance is two of each, a move of Heun's
    method as well.
    """

    denoiser: Denoiser
    rows: int = 0

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        self.rows += len(x_t)
        return self.denoiser(x_t, t, cond)


class Loss(nn.Module):
    """(method, batch) -> losses `[B]`: every pass of a step is inside one call, so that gradients
    are joined after it.

    An engine that wrapped the student alone would miss those of its passes that go another way,
    such as a jvp.
    """

    def __init__(self, trained: nn.ModuleDict, models: Callable[[], Models]) -> None:
        super().__init__()
        self.trained, self.models = trained, models

    def forward(self, method: Method, batch: Batch) -> Tensor:
        return method.loss(self.models(), batch.x0, batch.z, batch.times, batch.cond, batch.seeds)


@dataclass
class State:
    """Weights, their averages, the optimizer's moments and the step: no generator, no iterator, no
    clock.
    """

    trained: (
        nn.ModuleDict
    )  # what the optimizer moves: the student, and modules that are learned beside it
    averages: dict[str, nn.Module]  # of the student, by name
    optimizer: torch.optim.Optimizer
    step: int = 0
    updating: bool = False  # weights, moments and averages are of two steps: nothing to save
    scale: LossScale = field(default_factory=lambda: LossScale(factor=1.0))  # moves in fp16 alone
    frozen: nn.Module | None = None  # the first stage's average, in the second
    begun: int = 0  # the step at which the optimizer was new
    teacher: Counted | None = None  # frozen, so that no checkpoint holds it
    teacher_rows: int = 0  # that it evaluated in all steps so far
    world: World = ALONE  # the processes that train together
    sharded: bool = False  # whether each of them holds a part of every weight
    spare: nn.Module | None = None  # what will be `frozen`, where a network cannot be copied
    log: str = (
        ""  # SHA-256 over the one before and the row that was logged last: a chain of all rows
    )

    @property
    def student(self) -> Preconditioned:
        return cast(Preconditioned, self.trained["student"])

    def models(self) -> Models:
        """The networks as the loss takes them."""
        learned: dict[str, Any] = {
            name: module for name, module in self.trained.items() if name != "student"
        }
        average = self.averages.get("target", self.averages["ema"])
        return Models(
            student=self.student, ema=average, teacher=self.teacher, frozen=self.frozen, **learned
        )

    def __post_init__(self) -> None:
        self.loss: nn.Module = Loss(
            self.trained, self.models
        )  # what an engine of several processes wraps

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
        return {
            **{name: module.state_dict() for name, module in self.modules().items()},
            "optimizer": moments,
            **scale,
        }

    def values(self) -> dict[str, Any]:
        """What is no tensor of it, as JSON: with `groups`, all that the next step depends on."""
        stage = 1 if self.frozen is None else 2
        counted = {"step": self.step, "begun": self.begun, "teacher_rows": self.teacher_rows}
        return {**counted, "stage": stage, "log": self.log}

    def fingerprint(self) -> str:
        """That of a checkpoint of this state."""
        return whole_fingerprint(self.groups(), self.values(), self.world)

    def note(self, row: Mapping[str, Any]) -> None:
        """Takes the row of the log that this step adds, which knows no clock, into the state."""
        self.log = chained(self.log, row)

    def unsound(self) -> str | None:
        """The first weight or average that is not finite; None where all are."""
        for group, module in self.modules().items():
            named = dict(module.named_parameters())
            norms = [whole(norm) for norm in torch._foreach_norm(list(named.values()))]
            if norms and not bool(torch.stack(norms).isfinite().all()):
                bad = (
                    f"{group}.{name}"
                    for name, p in named.items()
                    if not torch.isfinite(whole(p.detach())).all()
                )
                return next(bad, None)  # the norm of finite numbers can be too large
        return None

    def check(self, saved: Checkpoint) -> None:
        """Raises StorageError where what a checkpoint declares is not this state; reads none of its
        tensors.
        """
        layout, where = saved.layout(), str(saved.path)
        for name, module in self.modules().items():
            check_weights(module, layout.get(name, {}), where)
        moments, own = layout.get("optimizer", {}), dict(self.trained.named_parameters())
        if "scale" in layout and layout["scale"] != entries(LossScale().tensors()):
            raise StorageError(f"{where}: its loss scale is none that this program writes")
        skipped = LossScale.of(saved.groups["scale"]).skipped if "scale" in layout else 0
        if saved.state["step"] - saved.state.get("begun", 0) > skipped and not moments:
            raise StorageError(
                f"{where} holds no optimizer: it is a generator to sample from, not a run to resume"
            )
        for full_name, entry in moments.items():
            name, _, key = full_name.rpartition(".")
            if name not in own or entry.shape != (() if key == "step" else tuple(own[name].shape)):
                raise StorageError(
                    f"{where}: the optimizer's {full_name!r} of shape {entry.shape} is of no weight"
                    " here"
                )

    def restore(self, saved: Checkpoint) -> None:
        """Takes over a checkpoint. Raises StorageError where its names, types or shapes are not
        this state's.
        """
        if "frozen" in saved.groups and self.frozen is None:
            self.frozen = self.spare or average_of(self.student)
        self.check(saved)
        if self.sharded and saved.sharded:
            self._read_shards(saved)
        else:
            for name, module in self.modules().items():
                take(module, saved.groups.get(name, {}))
            self._take_moments(saved.groups.get("optimizer", {}))
        self.step, self.begun = saved.state["step"], saved.state.get("begun", 0)
        self.teacher_rows, self.log = saved.state.get("teacher_rows", 0), saved.state.get("log", "")
        if self.teacher and self.step and "teacher_rows" not in saved.state:
            log.warning(
                "fewstep: %s counted no teacher evaluations: only those from here on are",
                saved.path,
            )
        if "scale" in saved.groups:
            self.scale = LossScale.of(saved.groups["scale"])

    def _take_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Gives the optimizer the moments of a checkpoint; a weight that no gradient reaches has
        none.
        """
        own = dict(self.trained.named_parameters())
        for full_name, tensor in tensors.items():
            name, _, key = full_name.rpartition(".")
            self.optimizer.state[own[name]][key] = scatter_like(tensor, own[name])

    def _read_shards(self, saved: Checkpoint) -> None:
        """Reads this process's part of everything."""
        own = dict(self.trained.named_parameters())
        into: dict[str, dict[str, Tensor]] = {
            name: dict(m.state_dict()) for name, m in self.modules().items()
        }
        into["optimizer"] = {}
        for full_name, entry in saved.layout().get("optimizer", {}).items():
            like = own[full_name.rpartition(".")[0]]
            empty = (
                torch.zeros_like(like, dtype=entry.dtype, requires_grad=False)
                if entry.shape
                else None
            )
            into["optimizer"][full_name] = (
                torch.zeros((), dtype=entry.dtype) if empty is None else empty
            )
        load_shards(saved.path, into)
        for full_name, tensor in into["optimizer"].items():
            name, _, key = full_name.rpartition(".")
            self.optimizer.state[own[name]][key] = tensor.to(own[name].device)


@torch.no_grad()
def take(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a module, which may be in shards, the whole tensors of its names."""
    own = module.state_dict()
    if any(hasattr(tensor, "device_mesh") for tensor in own.values()):
        for name, tensor in own.items():
            tensor.copy_(scatter_like(tensors[name], tensor))
    else:
        module.load_state_dict(dict(tensors))


def new_state(
    run: Run,
    facts: Facts,
    method: Method,
    network: Network | None,
    device: torch.device,
    initial: sources.Weights | None = None,
    teacher: sources.Teacher | None = None,
) -> State:
    """Step 0: networks from the run's seed or with initial weights, an empty optimizer."""
    student = build_student(run, facts, method, network)
    if initial is not None:
        sources.fit(initial, student.network)
    student = student.to(device).train()
    trained = nn.ModuleDict({"student": student})
    learned = abilities.module(method.balance)
    if learned is not None:
        with fork_rng(run.seed, "init balance"):
            trained["balance"] = learned().to(device).train()
    names = ["ema", *(profiles.profile(text).name for text in run.averages)]
    if method.ema_rate is not None:
        names.append("target")
    averages = {name: average_of(student) for name in names}
    if "target" in averages:
        averages["target"].train()  # the loss runs it under the student's dropout
    state = State(trained, averages, optimizers.build(run, trained.parameters()))
    state.frozen = average_of(student) if run.stage == 2 else None
    state.teacher = Counted(teacher.denoiser) if teacher else None
    state.scale = LossScale() if run.precision == "fp16" else state.scale
    return state


def update_averages(run: Run, method: Method, state: State, progress: float) -> None:
    """Moves every average towards the student, each at the rate it has at this step."""
    age = state.step + (run.age or 0)
    rates = {"ema": profiles.ema_rate(age, run.ema)}
    for one in map(profiles.profile, run.averages):
        rates[one.name] = one.rate(age, run.batch)
    if method.ema_rate is not None:
        rates["target"] = method.ema_rate(progress)
    for name, rate in rates.items():
        update_average(state.averages[name], state.student, rate)
