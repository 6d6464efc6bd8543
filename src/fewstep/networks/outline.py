"""Networks that take no memory: to see names, shapes and types of their weights."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from fewstep.base.errors import UserError

_SMALL = 4096  # elements that an outline may take memory for


class WithoutMemory(TorchFunctionMode):
    """Makes new weights of any size on torch's meta device and leaves out what would fill them.

    What is computed, such as a few frequencies, stays on the CPU: on meta torch would first import
    its compiler.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        kwargs = dict(kwargs or {})
        if name in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        makes = name in ("empty", "zeros", "ones", "full", "randn")
        if makes and args and kwargs.get("device") is None:
            size = args if isinstance(args[0], int) else args[0]
            if math.prod(size) > _SMALL:
                kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def at_most(most: int) -> Iterator[None]:
    """Inside, modules may have that many weights and buffers together; the next is a UserError."""
    count = 0
    thread = threading.get_ident()  # the hooks are the process's

    def check(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal count
        count += tensor is not None and threading.get_ident() == thread
        if count > most:
            raise UserError(f"it would have more than {most} tensors")

    hooks = (
        register_module_parameter_registration_hook(check),
        register_module_buffer_registration_hook(check),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
