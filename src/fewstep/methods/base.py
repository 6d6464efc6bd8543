"""The method that another is built on."""

from __future__ import annotations

from inspect import signature

from fewstep import core, methods
from fewstep.base.options import Base, checked_options, choose, named_base


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
