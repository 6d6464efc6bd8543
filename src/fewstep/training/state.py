"""What the next training step depends on besides the run: a value that is saved and compared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep.base import tensor_file
from fewstep.base.conditions import Cond
from fewstep.base.errors import StorageError
from fewstep.base.randomness import fork_rng
from fewstep.base.world import ALONE, World, is_divided, scatter_like, whole
from fewstep.core import abilities
from fewstep.core.compiling import Mode, compile_passes, with_passes
from fewstep.core.denoiser import Denoiser, Models, Preconditioned
from fewstep.core.guidance import Guided
from fewstep.core.method import Method
from fewstep.core.process import Time
from fewstep.run import profiles, sources
from fewstep.run.averages import Pair, average_of, pair
from fewstep.run.averages import update as update_together
from fewstep.run.build import build_student
from fewstep.run.checkpoint import Checkpoint, whole_fingerprint
from fewstep.run.checkpoint.schema import Position
from fewstep.run.checkpoint.shards import load as load_shards
from fewstep.run.levels import LevelChoice
from fewstep.run.prepare import Prepared
from fewstep.run.stages import Stage
from fewstep.run.weights import check_weights, entries
from fewstep.training import optimizers
from fewstep.training.batches import Batch
from fewstep.training.log import next_chain
from fewstep.training.precision import LossScale

log = logging.getLogger("fewstep")


@dataclass
class RowCounter:
    """A denoiser that counts the rows it evaluates: guidance and Heun's method take two of each."""

    denoiser: Denoiser
    rows: int = 0

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        self.rows += len(x_t)
        return self.denoiser(x_t, t, cond)


class Loss(nn.Module):
    """(method, batch) -> losses `[B]`, every pass of a step inside one call.

    What joins the gradients of several processes wraps this module: around the student alone it
    would miss passes that go another way, such as a jvp.
    """

    def __init__(self, trainable: nn.ModuleDict, models: Callable[[], Models]) -> None:
        super().__init__()
        self.trainable = trainable
        self.models = models

    def forward(self, method: Method, batch: Batch) -> Tensor:
        return method.loss(self.models(), batch.x0, batch.z, batch.times, batch.cond, batch.seeds)


@dataclass
class State:
    """Weights, averages, the optimizer's moments and the step: no generator, iterator or clock."""

    # What the optimizer moves: the student, and modules that learn beside it.
    trainable: nn.ModuleDict
    averages: dict[str, nn.Module]  # of the student, by name
    optimizer: torch.optim.Optimizer
    step: int = 0
    updating: bool = False  # weights, moments and averages are of two steps: nothing to save
    scale: LossScale = field(default_factory=lambda: LossScale(factor=1.0))  # moves in fp16 alone
    frozen: nn.Module | None = None  # the average of the stage before
    stage: int = 1  # that trained the last step
    stage_start: int = 0  # the step at which the optimizer was new
    teacher: RowCounter | None = None  # not trained, so that no checkpoint holds it
    guide: Guided | None = None  # asks it under guidance, where it was given so
    teacher_rows: int = 0  # that it evaluated in all steps so far
    world: World = ALONE  # the processes that train together
    level_choice: LevelChoice = field(default_factory=LevelChoice)  # at the end
    is_sharded: bool = False  # whether each of them holds a part of every weight
    spare: nn.Module | None = None  # what will be `frozen`, where a network cannot be copied
    compile: Mode = "off"  # the passes of the networks that the loss asks
    # SHA-256 over the chain before and the row that was logged last: a chain of all rows.
    log_chain: str = ""

    def __post_init__(self) -> None:
        # What an engine of several processes wraps.
        self.loss: nn.Module = Loss(self.trainable, self.models)

    @property
    def student(self) -> Preconditioned:
        return cast(Preconditioned, self.trainable["student"])

    @property
    def average(self) -> nn.Module:
        """The average that samples are made of, by ordinary passes: few are made of one size."""
        average = self.averages["ema"]
        return average if self.compile == "off" else with_passes(average, "off")

    @cached_property
    def normalisers(self) -> list[nn.Module]:
        """The modules that normalise their weights before a step; training adds no module."""
        return [module for module in self.trainable.modules() if abilities.normalise(module)]

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        """Each average beside the student; training makes no other tensors."""
        return {name: pair(average, self.student) for name, average in self.averages.items()}

    def models(self) -> Models:
        """The networks as the loss takes them, with compiled passes where the state says so."""
        beside: dict[str, Any] = {
            name: module for name, module in self.trainable.items() if name != "student"
        }
        average = self.averages.get("target", self.averages["ema"])
        models = Models(
            student=self.student,
            ema=average,
            teacher=self.guide or self.teacher,
            frozen=self.frozen,
            **beside,
        )
        if self.compile != "off":
            for one in filter(None, (models.student, models.ema, models.teacher, models.frozen)):
                compile_passes(one, self.compile)
        return models

    def modules(self) -> dict[str, nn.Module]:
        """All networks by the name of their checkpoint group."""
        modules = {**dict(self.trainable.items()), **self.averages}
        if self.frozen is not None:
            modules["frozen"] = self.frozen
        return modules

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """All of it as named tensors."""
        groups = {name: module.state_dict() for name, module in self.modules().items()}
        groups["optimizer"] = {
            f"{name}.{key}": value
            for name, parameter in self.trainable.named_parameters()
            for key, value in optimizers.tensors_of(self.optimizer, parameter).items()
        }
        if self.scale != LossScale(factor=1.0):
            groups["scale"] = self.scale.tensors()
        return groups

    def position(self) -> Position:
        """What is no tensor of it: with `groups`, all that the next step depends on."""
        return Position(
            step=self.step,
            stage_start=self.stage_start,
            stage=self.stage,
            teacher_rows=self.teacher_rows,
            log=self.log_chain,
        )

    def fingerprint(self) -> str:
        """That of a checkpoint of this state."""
        return whole_fingerprint(self.groups(), self.position().to_json(), self.world)

    def check_writable(self) -> None:
        """Raises UserError where a checkpoint of this state could not be read again."""
        for name, module in self.modules().items():
            tensor_file.check_writable(entries(module.state_dict()), name)
        parameters = dict(self.trainable.named_parameters())
        is_torch = isinstance(self.optimizer, torch.optim.Adam | optimizers.Lion)
        keys = optimizers.MOMENTS if is_torch else optimizers.EIGHT_BITS
        moments = {f"{name}.{key}": p for name, p in parameters.items() for key in keys}
        tensor_file.check_writable(entries(moments), "the optimizer")

    def add_to_log(self, row: Mapping[str, Any]) -> None:
        """Takes the row that this step logs, without its clock, into the chain."""
        self.log_chain = next_chain(self.log_chain, row)

    def evaluations(self) -> int:
        """How many rows the teacher evaluated since this process began."""
        return self.teacher.rows if self.teacher else 0

    def first_not_finite(self) -> str | None:
        """The first weight or average that is not finite; None where all are."""
        for group, module in self.modules().items():
            parameters = dict(module.named_parameters())
            norms = [whole(norm) for norm in torch._foreach_norm(list(parameters.values()))]
            if not norms or bool(torch.stack(norms).isfinite().all()):
                continue
            for name, p in parameters.items():
                if not torch.isfinite(whole(p.detach())).all():
                    return f"{group}.{name}"
        return None  # also where the norm of finite numbers is too large

    def check(self, checkpoint: Checkpoint) -> None:
        """Raises StorageError where a checkpoint declares other tensors; reads none of them."""
        layout = checkpoint.layout()
        where = str(checkpoint.path)
        for name, module in self.modules().items():
            check_weights(module, layout.get(name, {}), where)
        if "scale" in layout and layout["scale"] != entries(LossScale().tensors()):
            raise StorageError(f"{where}: its loss scale is none that this program writes")
        moments = layout.get("optimizer", {})
        skips = LossScale.of(checkpoint.groups["scale"]).skipped if "scale" in layout else 0
        record = checkpoint.record
        updates = record.step - (record.stage_start or 0) - skips
        if updates > 0 and not moments:
            raise StorageError(
                f"{where} holds no optimizer: it is a generator to sample from, not a run to resume"
            )
        own = dict(self.trainable.named_parameters())
        for full_name, entry in moments.items():
            name, _, key = full_name.rpartition(".")
            if name not in own or entry.shape != optimizers.shape_of(key, own[name]):
                raise StorageError(
                    f"{where}: the optimizer's {full_name!r} of shape {entry.shape} is of no weight"
                    " here"
                )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint. Raises StorageError where its tensors are not this state's."""
        if "frozen" in checkpoint.groups and self.frozen is None:
            self.frozen = self.spare or average_of(self.averages["ema"])
        self.check(checkpoint)
        if self.is_sharded and checkpoint.is_sharded:
            self._read_shards(checkpoint)
        else:
            for name, module in self.modules().items():
                load_whole(module, checkpoint.groups.get(name, {}))
            self._load_moments(checkpoint.groups.get("optimizer", {}))
        record = checkpoint.record
        self.step = record.step
        self.stage_start = record.stage_start or 0
        self.stage = record.stage or (1 if self.frozen is None else 2)
        self.teacher_rows = record.teacher_rows or 0
        self.level_choice = record.level_choice
        self.log_chain = record.log or ""
        if self.teacher and self.step and record.teacher_rows is None:
            log.warning(
                "fewstep: %s counted no teacher evaluations: only those from here on count",
                checkpoint.path,
            )
        if "scale" in checkpoint.groups:
            self.scale = LossScale.of(checkpoint.groups["scale"])

    def _load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Gives the optimizer its moments; a weight that no gradient reaches has none."""
        own = dict(self.trainable.named_parameters())
        for full_name, tensor in tensors.items():
            name, _, key = full_name.rpartition(".")
            value = scatter_like(tensor, own[name])
            # Fused kernels go along memory, whatever the strides of what they are given.
            if value.shape == own[name].shape and value.stride() != own[name].stride():
                value = torch.empty_like(own[name], dtype=value.dtype).copy_(value)
            optimizers.set_state(self.optimizer, own[name], key, value)

    def _read_shards(self, checkpoint: Checkpoint) -> None:
        """Reads this process's part of everything."""
        own = dict(self.trainable.named_parameters())
        groups: dict[str, dict[str, Tensor]] = {
            name: dict(module.state_dict()) for name, module in self.modules().items()
        }
        moments: dict[str, Tensor] = {}
        for full_name, entry in checkpoint.layout().get("optimizer", {}).items():
            weight = own[full_name.rpartition(".")[0]]
            if entry.shape:
                moments[full_name] = torch.zeros_like(
                    weight, dtype=entry.dtype, requires_grad=False
                )
            else:
                moments[full_name] = torch.zeros((), dtype=entry.dtype)
        groups["optimizer"] = moments
        load_shards(checkpoint.path, groups)
        for full_name, tensor in moments.items():
            name, _, key = full_name.rpartition(".")
            self.optimizer.state[own[name]][key] = tensor.to(own[name].device)


@torch.no_grad()
def load_whole(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a module, which may be in shards, the whole tensors of its names."""
    own = module.state_dict()
    if any(map(is_divided, own.values())):
        for name, tensor in own.items():
            tensor.copy_(scatter_like(tensors[name], tensor))
    else:
        module.load_state_dict(dict(tensors))


def new_state(prepared: Prepared) -> State:
    """Step 0: networks from the run's seed or with initial weights, an empty optimizer."""
    run = prepared.run
    method = prepared.method
    device = prepared.device
    # What is trained.
    student = build_student(run, prepared.facts, method, prepared.network)
    if prepared.initial is not None:
        sources.fit(prepared.initial, student.network)
    student = student.to(device).train()
    trainable = nn.ModuleDict({"student": student})
    for name, make in method.beside.items():
        with fork_rng(run.seed, f"init {name}"):
            trainable[name] = make(prepared.facts.shape).to(device).train()
    # Averages.
    names = ["ema", *(profiles.profile(text).name for text in run.averages)]
    if any(one.ema_rate is not None for one in method.chain):
        names.append("target")
    if run.stage_init == "initial" and (run.stage or 1) < len(method.chain):
        names.append("initial")
    averages = {name: average_of(student) for name in names}
    if "target" in averages:
        averages["target"].train()  # the loss runs it under the student's dropout
    state = State(trainable, averages, optimizers.build(run, trainable.parameters()))
    if run.stage is not None and run.stage > 1:
        state.stage = run.stage
        state.frozen = average_of(student)
    if prepared.teacher is not None:
        denoiser = prepared.teacher.denoiser
        if isinstance(denoiser, Guided):
            state.teacher = RowCounter(denoiser.denoiser)
            state.guide = replace(denoiser, denoiser=state.teacher)
        else:
            state.teacher = RowCounter(denoiser)
    if run.precision == "fp16":
        state.scale = LossScale()
    return state


def update_averages(stage: Stage, state: State, progress: float) -> None:
    """Moves every average towards the student, each at the rate it has at this step."""
    run = stage.run
    age = state.step + (run.age or 0)
    rates = {"ema": profiles.ema_rate(age, run.ema)}
    for one in map(profiles.profile, run.averages):
        rates[one.name] = one.rate(age, run.batch)
    if stage.method.ema_rate is not None:
        rates["target"] = stage.method.ema_rate(progress)
    # "initial" stays what it was.
    update_together([state.pairs[name] for name in rates], [*rates.values()])
