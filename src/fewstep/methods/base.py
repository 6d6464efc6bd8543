"""Methods that change where the pairs, the targets or the ends are: GC, TCM, MCM, Direct CM."""

from __future__ import annotations

from inspect import signature
from typing import Any

from fewstep import core, methods
from fewstep.base.options import Base, checked_options, choose, named_base


def method_of(base: Base, sigma_data: float) -> core.Method:
    """The method that a base stands for: itself, or one of ours by name, with options where it is a
    dict.
    """
    if isinstance(base, core.Method):
        return base
    name, options = named_base(base)
    function = choose("method", methods, name)
    options = checked_options("method", function, options)
    shared: dict[str, Any] = (
        {"sigma_data": sigma_data} if "sigma_data" in signature(function).parameters else {}
    )
    return function(**shared, **options)
