"""What compositions share: the method that another is built on, and the parts of flow maps."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any, Literal

from fewstep import core, methods
from fewstep.base.options import Base, checked_options, choose, named_base

On = Literal["linear", "edm", "trig", "cosine", "discrete"]
Label = Literal["angle", "log"]


def method_of(base: Base, sigma_data: float) -> core.Method:
    """The method that a base stands for: itself, or one of ours by its name or name and options."""
    if isinstance(base, core.Method):
        return base
    name, options = named_base(base)
    function = choose("method", methods, name)
    options = checked_options("method", function, options)
    if "sigma_data" in signature(function).parameters:
        options["sigma_data"] = sigma_data
    return function(**options)


def flow_setting(
    name: On, sigma_data: float, label: Label
) -> tuple[core.process.Process, core.scalings.Scaling]:
    """The process of that name and the preconditioning; discrete is trig up to its table's top.

    A table's steps have no derivative, and noise levels are all that its networks know of it. The
    label log has no value in pure noise: sampling starts at the level 80, as EDM's does.
    """
    scaling = core.scalings.trigflow("time" if label == "angle" else label, sigma_data)
    if name == "discrete":
        table = core.process.by_name(name)
        return core.process.trig(level_max=float(table.level(table.t_max))), scaling
    on = core.process.by_name(name, sigma_data=sigma_data)
    if label == "log":
        on = replace(on, t_max=min(on.t_max, float(on.time_at(80.0))))
    return on, scaling


def other_law(
    on: core.process.Process, mean: float | None, std: float, law: core.times.Law
) -> core.times.Law:
    """The law of log levels of that mean and deviation; the given one without a mean."""
    return law if mean is None else core.times.at_level(mean, std, on)


def flow_map(
    on: core.process.Process,
    times: core.times.TimeSampler,
    scaling: core.scalings.Scaling,
    **parts: Any,
) -> core.Method:
    """What flow maps share: they are compared as velocities and sampled by jumps."""
    parts = {"space": core.spaces.Velocity(), "sampler": "jumps", **parts}
    return core.Method(process=on, times=times, scaling=scaling, **parts)
