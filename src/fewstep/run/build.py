"""What a run's parts are built from: the run, and the facts it learned from its data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from fewstep import methods, networks
from fewstep.base.errors import UserError
from fewstep.base.options import checked_options, choose
from fewstep.base.randomness import fork_rng
from fewstep.core.couplings import Cached
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import Method
from fewstep.data import LABELS, Dataset
from fewstep.run.config import Run, changed
from fewstep.run.facts import Facts

_SMALL = 4096  # elements that an outline may take memory for
OWN = "own"  # the label of a network, method or denoiser that was given as an object

Network = (
    nn.Module | Callable[..., nn.Module]
)  # a network, or what makes one of (shape, classes, **options)
OwnMethod = Method | Callable[..., Method]  # a method, or what makes one of its options


def chosen(kind: str, module: ModuleType, name: str, own: Any) -> Callable[..., Any]:
    """What makes the run's method or network: `own` where it was given, else ours of that name."""
    if isinstance(own, str):
        raise UserError(
            f"{kind} = {own!r}: a name goes into the run, as in fs.recipes.toy({kind}={own!r})"
        )
    if own is not None and not callable(own):
        raise UserError(
            f"{kind} = {own!r}: expected a {kind}, or a function or class that makes one"
        )
    if own is None and (name == OWN or ":" in name):
        typed = "" if name == OWN else f" (on the command line: --{kind} {name})"
        raise UserError(f"this run has a {kind} of your own, {name!r}: pass it as {kind}={typed}")
    return own or choose(kind, module, name)


def made(
    kind: str, name: str, function: Callable[..., Any], called: str, *args: Any, **options: Any
) -> Any:
    """What the function makes; its failures, which may be the user's, in one line."""
    try:
        return function(*args, **options)
    except UserError:
        raise
    except Exception as error:
        told = str(error).partition("\n")[0]
        raise UserError(
            f"{kind} {name!r} fails: {type(error).__name__}: {told}; expected {called}"
        ) from error


def build_method(run: Run, facts: Facts, own: OwnMethod | None = None) -> Method:
    """The run's method with its options, and the run's sigma_data where its weight uses one.

    own: instead, a method as it is, or a function that takes those options.
    """
    if isinstance(own, Method):
        return own
    function = chosen("method", methods, run.method, own)
    options = checked_options("method", function, run.method_options)
    if "sigma_data" in inspect.signature(function).parameters:
        options["sigma_data"] = facts.sigma_data
    method = made(
        "method", run.method, function, "function(**options) -> fewstep.Method", **options
    )
    if not isinstance(method, Method):
        raise UserError(
            f"method {run.method!r} gave {type(method).__name__}: expected a fewstep.Method"
        )
    return method


def check_source(dataset: Dataset, method: Method) -> None:
    """Refuses solved trajectories to a method that wants data, the other way round, and those of
    another grid.
    """
    cached, levels = isinstance(method.coupling, Cached), dataset.levels
    if cached and not levels:
        raise UserError(
            "source = cache: expected solved trajectories (fewstep.trajectories), not data"
            f" {dataset.name!r}"
        )
    if levels and not cached:
        raise UserError(
            f"data {dataset.name!r} holds solved trajectories: only direct_cm with source = cache"
            " learns from them"
        )
    if isinstance(method.coupling, Cached) and method.coupling.grid[:-1] != levels:
        grid = method.coupling.grid
        raise UserError(
            f"n = {len(grid) - 1} from t = {grid[0]:g}: data {dataset.name!r} has {len(levels)}"
            f" levels from {levels[0]:g}; expected the n and process that the trajectories were"
            " solved with"
        )


def condition_sizes(run: Run, facts: Facts, function: Callable[..., Any]) -> dict[str, int]:
    """How many `features` a network gets, where it declares them; UserError for conditions it
    cannot take.
    """
    if facts.cond is None or facts.cond == LABELS:
        return {}
    takes = "features" in inspect.signature(function).parameters
    kinds: Mapping[str, Any] = (
        facts.cond if isinstance(facts.cond, Mapping) else {"features": facts.cond}
    )
    for key, kind in kinds.items():
        fine = key in ("label", "mask") or (
            key == "features" and isinstance(kind, list) and kind[0] == "float32"
        )
        if not takes or not fine:
            told = (
                "labels, float features, and dicts of label, features and mask"
                if takes
                else "labels alone (mlp takes features and masks too)"
            )
            raise UserError(
                f"the network {run.network!r} takes {told}, but the data's condition has {key} ="
                f" {kind}: give a network of your own"
            )
    features = kinds.get("features")
    return {"features": math.prod(features[1])} if features else {}


def build_student(
    run: Run, facts: Facts, method: Method, network: Network | None = None
) -> Preconditioned:
    """The run's network under its method's preconditioning, freshly initialised from the run's
    seed.

    network: instead, your own as it is, or a function that makes one as ours do.
    """
    if not isinstance(network, nn.Module):
        function = chosen("network", networks, run.network, network)
        options = checked_options("network", function, run.network_options)
        sizes = condition_sizes(run, facts, function)
        with fork_rng(run.seed, "init"):
            called = "function(shape, classes, **options) -> torch.nn.Module"
            network = made(
                "network",
                run.network,
                function,
                called,
                facts.shape,
                facts.classes,
                **sizes,
                **options,
            )
        if not isinstance(network, nn.Module):
            raise UserError(
                f"network {run.network!r} gave {type(network).__name__}: expected a torch.nn.Module"
            )
    return Preconditioned(network, method.scaling, method.process)


def outline(run: Run, facts: Facts, method: Method, most: int) -> dict[str, torch.Tensor]:
    """The names, shapes and types of the weights of the run's own network; none of them takes
    memory.

    Raises UserError where it has more than `most`: a file that describes a network may describe a
    huge one.
    """
    with _WithoutMemory(), _at_most(most):
        return build_student(run, facts, method).state_dict()


class _WithoutMemory(TorchFunctionMode):
    """Makes new weights of any size on torch's meta device and leaves out what would fill them.

    What is computed, such as a few frequencies, stays where it is: there torch would first import
    its compiler.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        if (
            name in ("empty", "zeros", "ones", "full", "randn")
            and kwargs.get("device") is None
            and args
        ):
            size = args if isinstance(args[0], int) else args[0]
            kwargs |= {"device": "meta"} if math.prod(size) > _SMALL else {}
        return func(*args, **kwargs)


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Refuses to register more weights and buffers than that, in all modules that are built
    meanwhile.
    """
    left = most

    def count(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal left
        left -= tensor is not None
        if left < 0:
            raise UserError(f"it would have more than {most} tensors")

    hooks = (
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def settled(run: Run, method: OwnMethod | None = None, network: Network | None = None) -> Run:
    """The run with all options of its method and network written out, so that later defaults do not
    change it.
    """
    for kind, module, own in (("method", methods, method), ("network", networks, network)):
        name, options = getattr(run, kind), getattr(run, f"{kind}_options")
        if isinstance(own, Method | nn.Module):  # as it is: it takes no options
            run = changed(run, {kind: OWN, f"{kind}_options": {}})
            continue
        function = chosen(kind, module, name, own)
        if own is not None and ":" not in name:
            name, options = f"{function.__module__}:{getattr(function, '__qualname__', 'made')}", {}
        run = changed(
            run, {kind: name, f"{kind}_options": checked_options(kind, function, options)}
        )
    return run
