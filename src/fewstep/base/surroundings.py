"""The process's own settings: what a caller has set for torch changes nothing in here.

A default dtype or device, autocast, grad or inference mode, numpy's error state and the number of
threads are the caller's. `surroundings` replaces them and brings them back. Those that torch keeps
once for the whole process (dtype, TF32, threads) are changed by the first thread
that enters and restored by the last that leaves, so that several threads may train or sample.
`generator_lock` guards the one other thing that threads share: the global random generator.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

generator_lock = threading.RLock()  # held by `randomness.fork_rng`: one thread at a time

# The precision of float32's matrix products, and whether cuDNN takes TF32; None: what the caller
# has set by torch's newer names, beside which the older ones do not go.
Products = tuple[str, bool | None]
FULL: Products = ("highest", False)
QUICK: Products = ("high", True)

_lock = threading.Lock()
_users = 0  # threads, and calls within calls, that are inside
_before: tuple[torch.dtype, Products] = (torch.float32, ("highest", True))  # as the first found it
_threads = 0  # likewise
_thread_users = 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def surroundings(*, grad: bool = False) -> Iterator[None]:
    """Inside, torch and numpy are as they are by default, with gradients or without.

    Also as a decorator. The choice between deterministic and other kernels stays the caller's.
    """
    with (
        _process_settings(),
        _own_modes(),
        torch.set_grad_enabled(grad),  # last: leaving inference mode turns gradients on
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
    ):
        yield


def _own_modes() -> AbstractContextManager[Any]:
    """Leaves what modes of torch the caller is in; most are in none, and then it costs nothing."""
    kinds = [kind for kind in ("cpu", "cuda", "mps") if torch.is_autocast_enabled(kind)]
    is_elsewhere = torch.get_default_device().type != "cpu"
    if not kinds and not is_elsewhere and not torch.is_inference_mode_enabled():
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    if is_elsewhere:  # else nothing: it costs each operation time
        stack.enter_context(torch.device("cpu"))
    for kind in kinds:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, an operation of this thread on the CPU takes that many threads."""
    global _threads, _thread_users
    own = torch.get_num_threads()
    with _lock:
        if _thread_users == 0:
            _threads = own
        _thread_users += 1
    torch.set_num_threads(count)
    try:
        yield
    finally:
        with _lock:
            _thread_users -= 1
            # A thread that began meanwhile took over the number of another one's inside.
            torch.set_num_threads(own if _thread_users else _threads)


@contextmanager
def _process_settings() -> Iterator[None]:
    """Inside, the settings of the whole process are torch's own."""
    global _users, _before
    with _lock:
        if _users == 0:
            _before = torch.get_default_dtype(), _products()
            torch.set_default_dtype(torch.float32)
            _set_products(FULL)  # torch's own convolutions are of TF32
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                torch.set_default_dtype(_before[0])
                _set_products(_before[1])


@contextmanager
def tf32(is_on: bool) -> Iterator[None]:
    """Inside, products and convolutions of float32 take 10 bits of each factor on CUDA, or all.

    It is a setting of the whole process: threads that train in fp32 beside one in tf32 may take it
    too. On a CPU oneDNN decides.
    """
    before, now = _products(), QUICK if is_on else FULL
    if before == now:
        yield
        return
    _set_products(now)
    try:
        yield
    finally:
        _set_products(before)


def _products() -> Products:
    try:
        cudnn: bool | None = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        cudnn = None
    return torch.get_float32_matmul_precision(), cudnn


def _set_products(products: Products) -> None:
    torch.set_float32_matmul_precision(products[0])
    if products[1] is not None and _products()[1] is not None:
        torch.backends.cudnn.allow_tf32 = products[1]
