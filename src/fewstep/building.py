"""What a run's parts are built from: the run, and the facts it learned from its data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
from fewstep.config import MOST_COUNT, Run, checked_options, choose
from fewstep.couplings import Cached
from fewstep.data import LABELS, Dataset, Kind, Units, has_labels, is_kind, kind_of
from fewstep.denoiser import Preconditioned
from fewstep.errors import StorageError, UserError, require, shown
from fewstep.losses import Method
from fewstep.randomness import forked

MOST_AXES = 8  # of a sample
MOST_CLASSES = 10**6
_SMALL = 4096  # elements that an outline may take memory for
OWN = "own"  # the label of a network, method or denoiser that was given as an object

Network = nn.Module | Callable[..., nn.Module]  # a network, or what makes one of (shape, classes, **options)
OwnMethod = Method | Callable[..., Method]  # a method, or what makes one of its options


@dataclass(frozen=True)
class Facts:
    """What a run learned from its data: with the `Run`, all that its networks are built from."""

    shape: tuple[int, ...]
    classes: int
    sigma_data: float
    units: Units
    data: str  # fingerprint of the training split
    cond: Kind = None  # what a sample is conditioned on (fewstep.data.conditions)
    init: str = ""  # fingerprint of the weights that the run started from
    teacher: str = ""  # fingerprint of its teacher

    def __post_init__(self) -> None:
        if self.classes and self.cond is None:
            object.__setattr__(self, "cond", LABELS)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape), "units": list(self.units)}

    @staticmethod
    def from_json(values: Any) -> Facts:
        """The facts that `to_json` gave. Raises StorageError that names the first that cannot be."""
        try:
            shape, units = values["shape"], values["units"]
            found = Facts(shape, values["classes"], values["sigma_data"], units, values["data"], values.get("cond"))
            found = replace(found, init=values.get("init", ""), teacher=values.get("teacher", ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"the checkpoint's facts are not what this version writes: {error!r}") from error
        for name, (fine, expected) in _fact_checks(found).items():
            if not fine:
                raise StorageError(
                    f"the checkpoint's facts.{name} = {shown(getattr(found, name))}: expected {expected}"
                )
        shift, scale = map(float, units[:2])  # a whole number may be longer than tensors take
        return replace(
            found, shape=tuple(shape), sigma_data=float(found.sigma_data), units=Units(shift, scale, *units[2:])
        )


def _fact_checks(facts: Any) -> dict[str, tuple[bool, str]]:
    """What stored facts must fulfil before anything is built from them: they come from a file."""
    shape, units, labels = facts.shape, facts.units, has_labels(facts.cond)
    whole = isinstance(shape, list) and 0 < len(shape) <= MOST_AXES and all(_count(n) for n in shape)
    plain = isinstance(units, list) and len(units) in (2, 3) and all(_finite(value) for value in units[:2])
    texts = {name: (isinstance(getattr(facts, name), str), "a text") for name in ("data", "init", "teacher")}
    return {
        "shape": (whole and math.prod(shape) < MOST_COUNT, f"a list of 1 to {MOST_AXES} sizes"),
        "classes": (type(facts.classes) is int and 0 <= facts.classes <= MOST_CLASSES, f"in 0 .. {MOST_CLASSES}"),
        "sigma_data": (_finite(facts.sigma_data) and facts.sigma_data > 0, "above 0"),
        "units": (plain and units[1] > 0 and all(type(clip) is bool for clip in units[2:]), "shift, scale and clip"),
        "cond": (is_kind(facts.cond) and (not labels or bool(facts.classes)), "a kind of condition"),
        **texts,
    }


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value < MOST_COUNT


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def facts_of(run: Run, dataset: Dataset) -> Facts:
    """What the run needs to know of its data. Raises UserError where it asks of the data what that has not."""
    labelled = dataset.classes > 0 or not run.label_drop
    require(labelled, "label_drop", run.label_drop, f"0, since data {dataset.name!r} has no labels")
    sigma_data = dataset.sigma_data() if run.sigma_data is None else run.sigma_data
    kind = kind_of(dataset.train.cond)
    return Facts(dataset.shape, dataset.classes, sigma_data, dataset.units, dataset.fingerprint(), kind)


def chosen(kind: str, module: ModuleType, name: str, own: Any) -> Callable[..., Any]:
    """What makes the run's method or network: `own` where it was given, else ours of that name."""
    if isinstance(own, str):
        raise UserError(f"{kind} = {own!r}: a name goes into the run, as in fs.recipes.toy({kind}={own!r})")
    if own is not None and not callable(own):
        raise UserError(f"{kind} = {own!r}: expected a {kind}, or a function or class that makes one")
    if own is None and (name == OWN or ":" in name):
        typed = "" if name == OWN else f" (on the command line: --{kind} {name})"
        raise UserError(f"this run has a {kind} of your own, {name!r}: pass it as {kind}={typed}")
    return own or choose(kind, module, name)


def made(kind: str, name: str, function: Callable[..., Any], called: str, *args: Any, **options: Any) -> Any:
    """What the function makes; its failures, which may be the user's, in one line."""
    try:
        return function(*args, **options)
    except UserError:
        raise
    except Exception as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"{kind} {name!r} fails: {type(error).__name__}: {told}; expected {called}") from error


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
    method = made("method", run.method, function, "function(**options) -> fewstep.Method", **options)
    if not isinstance(method, Method):
        raise UserError(f"method {run.method!r} gave {type(method).__name__}: expected a fewstep.Method")
    return method


def check_source(dataset: Dataset, method: Method) -> None:
    """Refuses solved trajectories to a method that wants data, the other way round, and those of another grid."""
    cached, levels = isinstance(method.coupling, Cached), dataset.levels
    if cached and not levels:
        raise UserError(
            f"source = cache: expected solved trajectories (fewstep.trajectories), not data {dataset.name!r}"
        )
    if levels and not cached:
        raise UserError(
            f"data {dataset.name!r} holds solved trajectories: only direct_cm with source = cache learns from them"
        )
    if isinstance(method.coupling, Cached) and method.coupling.grid[:-1] != levels:
        grid = method.coupling.grid
        raise UserError(
            f"n = {len(grid) - 1} from t = {grid[0]:g}: data {dataset.name!r} has {len(levels)} levels from "
            f"{levels[0]:g}; expected the n and process that the trajectories were solved with"
        )


def condition_sizes(run: Run, facts: Facts, function: Callable[..., Any]) -> dict[str, int]:
    """How many `features` a network gets, where it declares them; UserError for conditions it cannot take."""
    if facts.cond is None or facts.cond == LABELS:
        return {}
    takes = "features" in inspect.signature(function).parameters
    kinds = facts.cond if isinstance(facts.cond, dict) else {"features": facts.cond}
    for key, kind in kinds.items():
        fine = key in ("label", "mask") or (key == "features" and isinstance(kind, list) and kind[0] == "float32")
        if not takes or not fine:
            told = (
                "labels, float features, and dicts of label, features and mask"
                if takes
                else "labels alone (mlp takes features and masks too)"
            )
            raise UserError(
                f"the network {run.network!r} takes {told}, but the data's condition has {key} = {kind}: give a "
                "network of your own"
            )
    features = kinds.get("features")
    return {"features": math.prod(features[1])} if features else {}


def build_student(run: Run, facts: Facts, method: Method, network: Network | None = None) -> Preconditioned:
    """The run's network under its method's preconditioning, freshly initialised from the run's seed.

    network: instead, your own as it is, or a function that makes one as ours do.
    """
    if not isinstance(network, nn.Module):
        function = chosen("network", networks, run.network, network)
        options = checked_options("network", function, run.network_options)
        sizes = condition_sizes(run, facts, function)
        with forked(run.seed, "init"):
            called = "function(shape, classes, **options) -> torch.nn.Module"
            network = made("network", run.network, function, called, facts.shape, facts.classes, **sizes, **options)
        if not isinstance(network, nn.Module):
            raise UserError(f"network {run.network!r} gave {type(network).__name__}: expected a torch.nn.Module")
    return Preconditioned(network, method.scaling, method.process)


def outline(run: Run, facts: Facts, method: Method, most: int) -> dict[str, torch.Tensor]:
    """The names, shapes and types of the weights of the run's own network; none of them takes memory.

    Raises UserError where it has more than `most`: a file that describes a network may describe a huge one.
    """
    with _WithoutMemory(), _at_most(most):
        return build_student(run, facts, method).state_dict()


class _WithoutMemory(TorchFunctionMode):
    """Makes new weights of any size on torch's meta device and leaves out what would fill them.

    What is computed, such as a few frequencies, stays where it is: there torch would first import its compiler.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        if name in ("empty", "zeros", "ones", "full", "randn") and kwargs.get("device") is None and args:
            size = args if isinstance(args[0], int) else args[0]
            kwargs |= {"device": "meta"} if math.prod(size) > _SMALL else {}
        return func(*args, **kwargs)


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Refuses to register more weights and buffers than that, in all modules that are built meanwhile."""
    left = most

    def count(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal left
        left -= tensor is not None
        if left < 0:
            raise UserError(f"it would have more than {most} tensors")

    hooks = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
