"""fewstep plan: what a run will take, before it is started."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewstep.base.errors import require, unknown
from fewstep.cli import train
from fewstep.cli.parse import parse_own
from fewstep.run.machines import KINDS

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.core.method import Method
    from fewstep.run.config import Run
    from fewstep.run.prepare import Prepared
    from fewstep.training.budget import Budget

INDEX = "model_index.json"  # of a pipeline of diffusers
TIMED = 5  # steps
ROWS = 64  # of noise in place of data that are not here
DESCRIPTION = (
    "Count what a run will take: weights, passes, memory of a process, disk, hours. Nothing is"
    f" trained but a few steps that are timed. Kinds of machines: {', '.join(KINDS)}. Of a pipeline"
    " of diffusers, FOLDER in place of RECIPE with the words of `fewstep distill`: which cards have"
    " room for it.\n\n"
    "example: fewstep plan cifar10-ect --shape 3,32,32 --kind h200 --gpus 8"
)


@dataclass(frozen=True)
class Args:
    gpus: int = 1
    """Processes that share a batch."""
    kind: str | None = None
    """Another kind of machine, by its peak rate; left out, steps are timed here."""
    steps: Annotated[int, tyro.conf.arg(name="timed")] = TIMED
    """Steps that are timed here; 0: none."""
    shape: str | None = None
    """C,H,W of a sample, where the data are not here."""
    classes: int = 0
    """Number of its labels, likewise."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    own, rest = parse_own(Args, argv, verb="plan", description=DESCRIPTION)
    if rest and (Path(rest[0]) / INDEX).is_file():
        from fewstep.cli.plan_pipeline import plan

        return plan(rest, gpus=own.gpus, kind=own.kind, as_json=own.json)
    if own.shape is not None and "--data" not in rest:
        rest = [*rest, "--data", "digits"]  # noise takes their place
    args, run, code, _ = train.read(rest, "plan")
    from fewstep.training.budget import budget_of

    require(own.gpus >= 1, "gpus", own.gpus, "1 or more")
    require(own.steps >= 0, "timed", own.steps, "0 or more")
    if own.kind is not None and own.kind not in KINDS:
        raise unknown("kind of machine", own.kind, KINDS)
    prepared = prepare_run(run, code, args.device, own.shape, own.classes)
    require(not args.shard or own.gpus > 1, "shard", args.shard, "several processes: --gpus N")
    ways = {"shard": args.shard, "recompute": args.recompute}
    budget = budget_of(prepared, gpus=own.gpus, kind=own.kind, steps=own.steps, **ways)
    if own.json:
        print(json.dumps({"recipe": run.recipe, "method": run.method, **asdict(budget)}))
    else:
        print(text_of(run, budget, own.gpus, own.kind))
    return 0


def prepare_run(
    run: Run, code: dict[str, Any], device: str, shape: str | None, classes: int
) -> Prepared:
    """The run made ready; where a shape is given, with noise in place of data and teacher."""
    from fewstep.base.device import pick_device
    from fewstep.run.prepare import prepare

    place = pick_device(device)
    if shape is None:
        return prepare(run, device=place, **code)
    data = noise_of(shape, classes, is_moments=run.latents is not None)
    run = replace(run, init=None, teacher=None, holdout=0.0, validation=None, test=None)
    if any("teacher" in one.needs for one in method_of(run, data).chain):
        code = {**code, "teacher": straight}
    return prepare(run, data, device=place, **code)


def noise_of(text: str, classes: int, is_moments: bool = False) -> dict[str, Tensor]:
    """Random bytes, numbers or moments of latents of that shape, and labels. Raises UserError."""
    import torch

    try:
        shape = tuple(map(int, text.split(",")))
    except ValueError:
        shape = ()
    require(bool(shape) and min(shape) > 0, "shape", text, "numbers such as 3,32,32")
    rows = max(ROWS, classes)
    source = torch.Generator().manual_seed(0)
    shape = (2 * shape[0], *shape[1:]) if is_moments else shape
    x0 = torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, generator=source)
    is_picture = len(shape) == 3 and not is_moments
    data = {"x0": x0 if is_picture else x0.float()}
    return {**data, "cond": torch.arange(rows) % classes} if classes else data


def straight(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
    """The best linear guess of such noise, x_t = x0 + t z: a teacher that is counted alone."""
    variance = 1 / 3  # of even numbers in [-1, 1]
    t = t.reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t)
    return x_t * variance / (variance + t.square())


def method_of(run: Run, data: dict[str, Tensor]) -> Method:
    """The run's method on such data."""
    from fewstep.data import from_tensors
    from fewstep.run.build import build_method, with_defaults
    from fewstep.run.datasets import reading_of
    from fewstep.run.facts import facts_of

    dataset = from_tensors(data, reading_of(run))
    run = with_defaults(run)
    return build_method(run, facts_of(run, dataset if run.labels else dataset.without_labels()))


def text_of(run: Run, budget: Budget, gpus: int, kind: str | None) -> str:
    """The budget in lines."""
    from fewstep.training.pace import duration

    hours = (
        "not timed: --timed N, or --kind" if budget.hours is None else duration(budget.hours * 3600)
    )
    memory = f"{budget.memory / 1e9:.2f} GB in each process"
    if kind is not None:
        room = KINDS[kind][1]
        memory += f" of {room / 1e9:.0f} GB"
        if budget.memory > room:
            memory += ": too much: --accumulate cuts the batch, see also --recompute and --shard"
    teacher = f", the teacher {budget.teacher_passes:.3g}" if budget.teacher_passes else ""
    lines = [
        f"{run.recipe}, {run.method}: {run.steps:,} x {run.batch} samples",
        f"weights   {budget.weights:,}",
        f"passes    {budget.passes:.3g} of the network for each sample{teacher}",
        f"compute   {budget.flops:.3g} floating-point operations in all",
        f"memory    {memory}",
        f"disk      {budget.storage / 1e9:.2g} GB, {budget.checkpoint / 1e9:.2g} for a checkpoint",
        f"time      {hours} ({budget.basis})",
    ]
    return "\n".join(lines)
