"""The stages of a run: which method trains from which step to which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fewstep.base.errors import UserError, require
from fewstep.base.options import Options
from fewstep.core import sampling
from fewstep.core.method import Method
from fewstep.core.scalings import Edm, Scaling
from fewstep.core.times import Atom, RatioMap
from fewstep.run.checkpoint import Checkpoint
from fewstep.run.config import Run
from fewstep.run.facts import Facts
from fewstep.run.sources import Weights
from fewstep.run.teachers import same_data


@dataclass(frozen=True)
class Stage:
    """Steps `first` to `last` of a run, trained by one method; without numbers, all of them."""

    run: Run
    method: Method
    number: int = 1
    first: int = 0
    last: int = 0  # 0: the run's iterations

    def __post_init__(self) -> None:
        object.__setattr__(self, "last", self.last or self.run.iterations)

    def progress(self, step: int) -> float:
        """The share of the stage before that step: what its method's schedules see."""
        return (step - self.first) / (self.last - self.first)


def stages(run: Run, method: Method) -> list[Stage]:
    """The stages of the run: two where the method has a stage before it and the run starts there.

    Raises UserError where a stage would have no steps.
    """
    if method.before is None or run.stage == 2:
        return [Stage(run, method, run.stage or 1)]
    switch = round(run.split * run.iterations)
    require(
        0 < switch < run.iterations,
        "split",
        run.split,
        f"a share that leaves each stage some of the {run.iterations} iterations",
    )
    return [Stage(run, method.before, 1, 0, switch), Stage(run, method, 2, switch)]


def stage_at(stages: list[Stage], step: int) -> Stage:
    """The stage that trains at a step."""
    return next(stage for stage in stages if step < stage.last or stage is stages[-1])


def with_stage(
    run: Run, facts: Facts, method: Method, initial: Weights | None, checkpoint: Checkpoint | None
) -> Run:
    """The run with its stage, and with the age and ratio that go on from its initial weights.

    A run of two stages that starts from a consistency model starts at the second. A resumed run
    keeps what its checkpoint has. Raises UserError where the run cannot start at its stage.
    """
    if checkpoint is not None:
        before = checkpoint.record.run
        stage = before.stage if run.stage is None else run.stage
        age = before.age if run.age is None else run.age
        return _with_ratio(replace(run, stage=stage, age=age), _ratio(before.method_options))
    if method.before is None:
        require(
            run.stage in (None, 1), "stage", run.stage, f"1: method {run.method!r} has no second"
        )
        return replace(run, age=run.age or 0)
    first = initial.method if initial else None  # the method of the stage before
    is_consistent = first is not None and (
        first.sampler == "multistep" or first.sampler == sampling.segments(1)
    )
    stage = run.stage or (2 if is_consistent else 1)
    require(
        stage == 1 or initial is not None,
        "stage",
        2,
        "initial weights, the first stage's: --init RUN",
    )
    if stage == 1 or initial is None:
        return replace(run, stage=1, age=run.age or 0)
    _check_first(run, facts, method, initial)
    age = run.age
    if age is None:
        age = initial.step if is_consistent else 0
    run = replace(run, stage=2, age=age)
    if first is None or not isinstance(first.times, RatioMap):
        return run
    return _with_ratio(run, first.times.ratio(initial.progress))


def _check_first(run: Run, facts: Facts, method: Method, initial: Weights) -> None:
    """Raises UserError where the second stage cannot start from these weights."""
    first = initial.method
    if first is not None and first.before is not None:
        raise UserError(
            f"init = {run.init}: it is of a second stage and knows nothing below t ="
            f" {first.trained_from:g}; expected a run of the first stage's method"
        )
    if initial.facts is not None:
        same_data(initial.facts, facts, "the first stage given as init")
    if first is not None and _without_shift(first.scaling) != _without_shift(method.scaling):
        raise UserError(
            f"init = {run.init}: its network was trained under {first.scaling}, expected"
            f" {method.scaling}"
        )


def _without_shift(scaling: Scaling) -> Scaling:
    """The preconditioning without its boundary's shift, which two stages need not share."""
    return replace(scaling, shift=0.0) if isinstance(scaling, Edm) else scaling


def describe(stages: list[Stage]) -> str | None:
    """What a run of two stages says of them at its start; None for other runs."""
    run = stages[-1].run
    method = stages[-1].method
    if method.before is None:
        return None
    second = f"t >= {method.trained_from:g}"
    times = method.times.times if isinstance(method.times, Atom) else None
    if isinstance(times, RatioMap) and times.fixed_ratio is not None:
        second += f", r/t {times.fixed_ratio:.4g}"
    if len(stages) == 2:
        return (
            f"stages: 1 to step {stages[0].last}, then 2 ({second}) to {run.iterations}, from 1's"
            " average; change this with --split, --stage-lr, --init RUN --stage 2"
        )
    goes_on = "averages and learning rate go on" if run.lr_clock == "run" else "averages go on"
    return (
        f"stage 2 ({second}) from the initial weights: student, frozen network and average; a new"
        f" optimizer; {goes_on} as after {run.age} steps; change this with --stage 1, --age,"
        " --lr-clock, --method.ratio"
    )


def _ratio(options: Options) -> float | None:
    """The ratio of a second stage among a method's options, or those of its base."""
    ratio: float | None = options.get("ratio")
    base = options.get("base")
    return _ratio(base) if ratio is None and isinstance(base, dict) else ratio


def _with_ratio(run: Run, ratio: float | None) -> Run:
    """The run with that ratio in its second stage, where its options leave it open."""

    def fill(options: Options) -> dict[str, Any]:
        result = dict(options)
        if "ratio" in options and options["ratio"] is None:
            result["ratio"] = ratio
        if isinstance(options.get("base"), dict):
            result["base"] = fill(options["base"])
        return result

    return run if ratio is None else replace(run, method_options=fill(run.method_options))
