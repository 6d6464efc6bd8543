"""What a distillation takes, before it is started: memory by card, hours and disk, all estimated.

Weights and their bytes are counted by configurations, passes by `passes.costs_of`, evaluations by
the method itself. Hours are operations over the share of its peak that a card reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewstep.base.conditions import Cond
from fewstep.core import abilities
from fewstep.core.conventions import as_denoiser
from fewstep.core.process import Time, expand
from fewstep.foreign.diffusers_folder import CONFIG, read_json
from fewstep.networks.outline import WithoutMemory
from fewstep.pipelines.distill import method_of
from fewstep.pipelines.folder import Folder
from fewstep.pipelines.libraries import classes, quiet
from fewstep.pipelines.passes import Costs, costs_of, prompts_of, student_of
from fewstep.pipelines.roles import DTYPES
from fewstep.pipelines.task import Task
from fewstep.run.config import Run
from fewstep.run.machines import KINDS, REACHED
from fewstep.run.prepare import Prepared, prepare
from fewstep.training.budget import CONTEXT, MOMENTS, SLACK, TANGENT, Passes, passes_of
from fewstep.training.precision import PASSES

ROWS = 256  # that the method's evaluations are a mean of
FEW = 4  # rows of a pass, below which blocks are rather computed again
BEFORE = ("text_encoder", "vae")  # parts that make the cache


@dataclass(frozen=True)
class Evaluations:
    """Of an update, for each of its rows; the teacher's with both halves of guidance."""

    own: Passes
    teacher: float


@dataclass(frozen=True)
class Room:
    """Bytes of a run, without activations, and the costs of its passes."""

    costs: Costs
    evaluations: Evaluations
    guided: bool
    weights: float  # that do not learn, in the task's precision
    learning: float  # what learns, with gradients, moments and averages
    encoders: float  # while the cache is made, beside nothing else
    prompt: float  # on the disk, for each
    picture: float

    @property
    def resident(self) -> float:
        """Bytes of a process without activations."""
        return CONTEXT["cuda"] + self.weights + self.learning

    def row(self, recompute: bool) -> float:
        """Bytes of a row's activations: of the student's pass, or of the teacher's before it."""
        learn = self.costs.again if recompute else self.costs.learn
        look = self.costs.look.memory * (2 if self.guided else 1)
        return SLACK * max(learn.memory, look)

    def flops(self, recompute: bool) -> float:
        """Of an update, for each of its rows."""
        own, look = self.evaluations.own, self.costs.look.flops
        learn = self.costs.again if recompute else self.costs.learn
        without = own.look + own.tangent * (1 + TANGENT) + self.evaluations.teacher
        return own.learn * learn.flops + without * look


@dataclass(frozen=True)
class Fit:
    """How a run goes on a kind of card; rows: of a pass, 0 where not even one has room."""

    kind: str
    card: float  # bytes
    memory: float  # bytes of a process
    rows: int
    recompute: bool
    accumulate: int
    hours: float  # of the updates


def fit_on(room: Room, run: Run, kind: str, gpus: int = 1) -> Fit:
    """The fewest passes of a batch that have room, without `recompute` where it need not be."""
    rates, card = KINDS[kind]
    share = run.batch // gpus
    most: dict[bool, int] = {}
    for recompute in (False, True):
        free = (card - room.resident) / room.row(recompute)
        fitting = (n for n in range(share, 0, -1) if share % n == 0 and n <= free)
        most[recompute] = next(fitting, 0)
    recompute = most[False] < min(FEW, share) and most[True] > most[False]
    rows = most[recompute]
    recompute |= rows == 0  # the least that it takes
    memory = room.resident + max(rows, 1) * room.row(recompute)
    flops = room.flops(recompute) * run.batch * run.iterations
    hours = flops / (rates[run.precision] * REACHED * gpus) / 3600
    return Fit(kind, card, memory, rows, recompute, share // max(rows, 1), hours)


def weights_of(folder: Folder, name: str) -> int:
    """How many numbers the weights of a part are, by its configuration."""
    kind = classes()[folder.family.parts[name]]
    config = read_json(folder.path / name / CONFIG)
    with torch.device("meta"), WithoutMemory():
        if name == "vae":
            part = kind.from_config(config)
        else:
            part = kind(kind.config_class.from_dict(config))
    return sum(weight.numel() for weight in part.parameters())


def evaluations_of(prepared: Prepared, guided: bool) -> Evaluations:
    """Counts what the run's method asks of its networks: a mean over the run's stages."""
    own, teacher = Passes(0, 0, 0), 0.0
    last = [*(stage.first for stage in prepared.stages[1:]), prepared.run.steps]
    for stage, end in zip(prepared.stages, last, strict=True):
        share = (end - stage.first) / prepared.run.steps
        ours, theirs = passes_of(prepared, stage.method)
        parts = ("learn", "look", "tangent")
        own = Passes(*(getattr(own, part) + share * getattr(ours, part) for part in parts))
        teacher += share * theirs.look * (2 if guided else 1)
    return Evaluations(own, teacher)


def ends_of(run: Run) -> int:
    """How many numbers the run's students are told of where they lead."""
    return max(map(abilities.ends, method_of(run, None).chain))


def stand_in(run: Run, folder: Folder) -> Prepared:
    """The run with a batch of many rows, and almost nothing for network, latents and teacher."""

    class Zero(torch.nn.Module):
        def __init__(self, ends: int) -> None:
            super().__init__()
            self.ends = ends
            self.factor = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, label: Tensor, cond: Any = None, end: Any = None) -> Tensor:
            return self.factor * x

    source = torch.Generator().manual_seed(0)
    x0 = torch.randn(ROWS, folder.channels, 2, 2, generator=source)
    run = replace(run, data="own", units="as-is", holdout=0.0, latents=None, teacher=None)
    run = replace(run, batch=ROWS, block=1, accumulate=1)
    method = method_of(run, None)
    process, ends = method.process, ends_of(run)

    def teacher(x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        """The mean of such latents."""
        alpha, sigma = expand(process.alpha(t), x_t), expand(process.sigma(t), x_t)
        return (alpha / (alpha.square() + sigma.square())).to(x_t) * x_t

    network = as_denoiser(Zero(ends), folder.convention)
    data: Mapping[str, Tensor] = {"x0": x0, "cond": torch.arange(ROWS) % 2}
    is_taught = any("teacher" in one.needs for one in method.chain)
    return prepare(run, data, network=network, teacher=teacher if is_taught else None)


def room_of(folder: Folder, run: Run, task: Task) -> Room:
    """The room of a run on a folder's pipeline; reads configurations alone."""
    half = PASSES[run.precision]
    size = (task.size or folder.size) // folder.factor
    with quiet():
        student = student_of(
            folder.family,
            folder.config,
            rank=task.rank,
            layers=task.layers,
            dtype=DTYPES[task.weights],
            ends=ends_of(run),
        )
        costs = costs_of(student, (folder.channels, size, size), half)
        names = [name for name in folder.family.parts if name.startswith(BEFORE)]
        encoders = sum(weights_of(folder, name) for name in names if folder.has(name))
    width = DTYPES[task.weights].itemsize
    prepared = stand_in(run, folder)
    # What learns, its averages, and a network of the stage before.
    copies = 2 + len(run.averages) + (len(prepared.stages) > 1)
    copies += any(one.ema_rate is not None for one in prepared.method.chain)
    learning = 4.0 * costs.learning * (copies + 1 + MOMENTS[run.optimizer])
    if task.rank == 0 and half is not None:
        learning += half.itemsize * costs.learning  # what autocast makes of it
    needs_teacher = any("teacher" in one.needs for one in prepared.method.chain)
    prompts = prompts_of(folder.family, folder.config)
    numbers = sum(part.numel() for part in prompts.parts.values())
    kinds = 1 if task.images is None else 2  # latents, or their means and deviations
    return Room(
        costs=costs,
        evaluations=evaluations_of(prepared, task.guidance != 0),
        guided=task.guidance != 0,
        weights=float(width * costs.weights * (task.rank > 0 or needs_teacher)),
        learning=learning,
        encoders=float(width * encoders),
        prompt=float(width * numbers),
        picture=4.0 * kinds * folder.channels * size**2,
    )
