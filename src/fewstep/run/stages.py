"""The stages of a run: which method trains from which step to which, and what one hands to the
next.
"""

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
from fewstep.run.config import Run, changed
from fewstep.run.facts import Facts
from fewstep.run.sources import Weights, same_data


@dataclass(frozen=True)
class Stage:
    """Steps `first` to `last` of a run, trained by one method; its schedules see its own share
    done.
    """

    number: int
    method: Method
    first: int
    last: int

    def progress(self, step: int) -> float:
        return (step - self.first) / (self.last - self.first)


def stages(run: Run, method: Method) -> list[Stage]:
    """The run's stages: one, or where the method has a stage before it both, unless the run starts
    behind that.
    """
    if method.before is None or run.stage == 2:
        return [Stage(run.stage or 1, method, 0, run.iterations)]
    switch = round(run.split * run.iterations)
    fits = 0 < switch < run.iterations
    require(
        fits,
        "split",
        run.split,
        f"a share that leaves each stage some of the {run.iterations} iterations",
    )
    return [Stage(1, method.before, 0, switch), Stage(2, method, switch, run.iterations)]


def at(parts: list[Stage], step: int) -> Stage:
    """The stage that trains at a step."""
    return next(stage for stage in parts if step < stage.last or stage is parts[-1])


def settled(
    run: Run, facts: Facts, method: Method, start: Weights | None, saved: Checkpoint | None
) -> Run:
    """The run with its stage, and the clocks that go on from its initial weights, written out.

    A run of two stages that starts from a consistency model starts at the second. Raises UserError
    where the stage asked for is not there.
    """
    if saved is not None:
        before = saved.state["run"]
        kept = {name: before.get(name) for name in ("stage", "age") if getattr(run, name) is None}
        ratio = _ratio(before.get("method_options", {}))
        return _holding(changed(run, kept), ratio)
    if method.before is None:
        require(
            run.stage in (None, 1), "stage", run.stage, f"1: method {run.method!r} has no second"
        )
        return replace(run, age=run.age or 0)
    by = start.method if start else None
    consistent = by is not None and (
        by.sampler == "multistep" or by.sampler == sampling.segments(1)
    )
    stage = run.stage or (2 if consistent else 1)
    require(
        stage == 1 or start is not None,
        "stage",
        2,
        "initial weights, the first stage's: --init RUN",
    )
    if stage == 1 or start is None:
        return replace(run, stage=1, age=run.age or 0)
    if by is not None and by.before is not None:
        raise UserError(
            f"init = {run.init}: it is of a second stage and knows nothing below t ="
            f" {by.trained_from:g}; expected a run of the first stage's method"
        )
    if start.facts is not None:
        same_data(start.facts, facts, "the first stage given as init")
    if by is not None and _boundless(by.scaling) != _boundless(method.scaling):
        raise UserError(
            f"init = {run.init}: its network was told {by.scaling}, expected {method.scaling}"
        )
    run = replace(
        run, stage=2, age=(start.step if consistent else 0) if run.age is None else run.age
    )
    times = by.times if by is not None else None
    return _holding(run, times.ratio(start.progress) if isinstance(times, RatioMap) else None)


def _boundless(scaling: Scaling) -> Scaling:
    """A preconditioning without its boundary's shift, which changes nothing where two stages meet."""
    return replace(scaling, shift=0.0) if isinstance(scaling, Edm) else scaling


def about(run: Run, method: Method, start: Weights | None) -> str | None:
    """What a run of two stages says of them at its start."""
    if method.before is None:
        return None
    parts = stages(run, method)
    inner = method.times.times if isinstance(method.times, Atom) else None
    held = inner.held if isinstance(inner, RatioMap) else None
    second = (
        f"t >= {method.trained_from:g}, r/t {held:.4g}"
        if held is not None
        else f"t >= {method.trained_from:g}"
    )
    if len(parts) == 2:
        return (
            f"stages: 1 to step {parts[0].last}, then 2 ({second}) to {run.iterations}, from 1's"
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
    found = options.get("ratio")
    return (
        _ratio(options["base"])
        if found is None and isinstance(options.get("base"), dict)
        else found
    )


def _holding(run: Run, ratio: float | None) -> Run:
    """The run with that ratio in its second stage, where its options leave it open."""

    def held(options: Options) -> dict[str, Any]:
        known = {"ratio": ratio} if "ratio" in options and options["ratio"] is None else {}
        base = options.get("base")
        return {**options, **known, **({"base": held(base)} if isinstance(base, dict) else {})}

    return run if ratio is None else replace(run, method_options=held(run.method_options))
