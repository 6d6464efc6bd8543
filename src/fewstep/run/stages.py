"""The stages of a run: which method trains from which step to which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
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
    """The stages of the run, from that which it starts at to the method's own.

    Raises UserError where a stage would have no steps.
    """
    first = min(run.stage or 1, len(method.chain))
    chain = method.chain[first - 1 :]
    ends = [round(share * run.iterations) for share in accumulate(_shares(run, len(chain)))]
    ends = [0, *ends[:-1], run.iterations]
    enough = f"at least {len(chain)}, one for each stage"
    require(run.iterations >= len(chain), "iterations", run.iterations, enough)
    name = "shares" if run.shares or len(chain) > 2 else "split"
    expected = f"a share that leaves each stage some of the {run.iterations} iterations"
    require(all(a < b for a, b in pairwise(ends)), name, getattr(run, name), expected)
    return [
        Stage(run, one, number, *steps)
        for number, (one, steps) in enumerate(zip(chain, pairwise(ends), strict=True), first)
    ]


def _shares(run: Run, count: int) -> list[float]:
    """The share of the iterations that each of so many stages gets."""
    if count == 1:
        return [1.0]
    if run.shares:
        fits = len(run.shares) == count
        require(fits, "shares", run.shares, f"{count} numbers, one for each stage")
        return [share / sum(run.shares) for share in run.shares]
    return [run.split, 1 - run.split] if count == 2 else [1 / count] * count


def stage_at(stages: list[Stage], step: int) -> Stage:
    """The stage that trains at a step."""
    return next(stage for stage in stages if step < stage.last or stage is stages[-1])


def with_stage(
    run: Run, facts: Facts, method: Method, initial: Weights | None, checkpoint: Checkpoint | None
) -> Run:
    """The run with its stage, and with the age and ratio that go on from its initial weights.

    A run that starts from a student of one of its stages starts at the next. A resumed run keeps
    what its checkpoint has. Raises UserError where the run cannot start at its stage.
    """
    if checkpoint is not None:
        before = checkpoint.record.run
        stage = before.stage if run.stage is None else run.stage
        age = before.age if run.age is None else run.age
        return _with_ratio(replace(run, stage=stage, age=age), _ratio(before.method_options))
    if method.before is None:
        fits = run.stage in (None, 1)
        require(fits, "stage", run.stage, f"1: method {run.method!r} has no second")
        return replace(run, age=run.age or 0)
    first = initial.method if initial else None  # the method of the stage before
    follows = stage_behind(method, first)
    stage = run.stage or follows or 1
    count = len(method.chain)
    require(stage <= count, "stage", stage, f"1 .. {count}, the stages of {run.method!r}")
    needs = "initial weights, those of the stage before: --init RUN"
    require(stage == 1 or initial is not None, "stage", stage, needs)
    if stage == 1 or initial is None:
        return replace(run, stage=1, age=run.age or 0)
    _check_first(run, facts, method.chain[stage - 2], initial)
    age = run.age
    if age is None:
        age = initial.step if follows else 0
    run = replace(run, stage=stage, age=age)
    if first is None or not isinstance(first.times, RatioMap):
        return run
    return _with_ratio(run, first.times.ratio(initial.progress))


def stage_behind(method: Method, first: Method | None) -> int | None:
    """The number of the stage that goes on from a student of `first`; None where none does.

    That is the one behind the last whose students are sampled like it, at the same times.
    """
    if first is None:
        return None

    def kind(one: Method) -> tuple[str | sampling.Sampler, float]:
        jumps_to_data = one.sampler == sampling.segments(1)
        return "multistep" if jumps_to_data else one.sampler, one.trained_from

    fits = [n for n, one in enumerate(method.chain[:-1], 2) if kind(one) == kind(first)]
    if not fits and first.trained_from > 0 and method.trained_from > 0:
        return 2  # `_check_first` refuses it, and says why
    return fits[-1] if fits else None


def _check_first(run: Run, facts: Facts, before: Method, initial: Weights) -> None:
    """Raises UserError where these weights are none of the stage before."""
    first = initial.method
    if first is not None and first.trained_from > before.trained_from:
        raise UserError(
            f"init = {run.init}: it is of a later stage and knows nothing below t ="
            f" {first.trained_from:g}; expected a run of the method of the stage before"
        )
    if initial.facts is not None:
        same_data(initial.facts, facts, "the stage before given as init")
    if first is not None and _without_shift(first.scaling) != _without_shift(before.scaling):
        raise UserError(
            f"init = {run.init}: its network was trained under {first.scaling}, expected"
            f" {before.scaling}"
        )


def _without_shift(scaling: Scaling) -> Scaling:
    """The preconditioning without its boundary's shift, which two stages need not share."""
    return replace(scaling, shift=0.0) if isinstance(scaling, Edm) else scaling


def describe(stages: list[Stage]) -> str | None:
    """What a run of several stages says of them at its start; None for other runs."""
    run = stages[-1].run
    if stages[-1].method.before is None:
        return None
    first = stages[0]
    if len(stages) > 1:
        texts = [f"stages: {_text(first)} to step {first.last}"]
        texts += [f"then {_text(stage)} to {stage.last}" for stage in stages[1:]]
        start = {"average": "average", "student": "raw weights", "initial": "initial weights"}
        by = "--split" if len(stages) == 2 else "--shares"
        return (
            f"{', '.join(texts)}, each from the {start[run.stage_init]} of the one before; change"
            f" this with {by}, --stage-init, --stage-lr, --init RUN --stage N"
        )
    goes_on = "averages and learning rate go on" if run.lr_clock == "run" else "averages go on"
    return (
        f"stage {_text(first)} from the initial weights: student, frozen network and average; a new"
        f" optimizer; {goes_on} as after {run.age} steps; change this with --stage 1, --age,"
        " --lr-clock, --method.ratio"
    )


def _text(stage: Stage) -> str:
    """A stage's number, and what is its own."""
    method = stage.method
    notes = [f"t >= {method.trained_from:g}"] if method.trained_from else []
    times = method.times.times if isinstance(method.times, Atom) else None
    if isinstance(times, RatioMap) and times.fixed_ratio is not None:
        notes.append(f"r/t {times.fixed_ratio:.4g}")
    by = sampling.sampler(method.sampler)
    notes += [f"{by.default} steps"] if by.only else []
    return f"{stage.number} ({', '.join(notes)})" if notes else f"{stage.number}"


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
