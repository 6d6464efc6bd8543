"""What a run's parts are built from: the run, and the facts it learned from its data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fewstep import methods, networks
from fewstep.base.conditions import leaves, mask_of
from fewstep.base.device import channels_last
from fewstep.base.errors import UserError, require
from fewstep.base.options import checked_options, choose, names_of
from fewstep.base.randomness import fork_rng
from fewstep.core import abilities
from fewstep.core.conventions import Convention, Offset, student_scaling
from fewstep.core.couplings import Cached
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import Method
from fewstep.core.times import AtNeighbour, Segments
from fewstep.data import LABELS, Dataset, Kind, augmentation
from fewstep.networks.outline import WithoutMemory, at_most
from fewstep.run.config import IMPORT, OWN, Run, with_values
from fewstep.run.facts import Facts

LEAST_TOP, MOST_TOP, TOP = 14.0, 30.0, 1.8  # see `top_level`

# A network, or what makes one of (shape, classes, **options).
Network = nn.Module | Callable[..., nn.Module]
# A method, or what makes one of its options.
OwnMethod = Method | Callable[..., Method]


def factory_of(kind: str, module: ModuleType, name: str, own: Any) -> Callable[..., Any]:
    """What makes the run's method or network: `own` where there is one, else ours of that name."""
    if isinstance(own, str):
        raise UserError(
            f"{kind} = {own!r}: a name goes into the run, as in fs.recipes.toy({kind}={own!r})"
        )
    if own is not None and not callable(own):
        raise UserError(
            f"{kind} = {own!r}: expected a {kind}, or a function or class that makes one"
        )
    if own is None and (name == OWN or ":" in name):
        hint = "" if name == OWN else f" (on the command line: --{kind} {name})"
        raise UserError(f"this run has a {kind} of your own, {name!r}: pass it as {kind}={hint}")
    return own or choose(kind, module, name)


def call_factory(
    kind: str, name: str, function: Callable[..., Any], usage: str, *args: Any, **options: Any
) -> Any:
    """What the function returns. Raises UserError where it fails: it may be the user's.

    usage: how it is called and what it has to return, for the message.
    """
    try:
        return function(*args, **options)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{kind} {name!r} fails: {type(error).__name__}: {reason}; expected {usage}"
        ) from error


def build_method(run: Run, facts: Facts, own: OwnMethod | None = None) -> Method:
    """The run's method with its options, and the run's sigma_data where it takes one.

    Its students have the convention that the run names. own: instead, a method as it is, or a
    function of those options that makes one.
    """
    if isinstance(own, Method):
        return _with_convention(own, run, facts)
    function = factory_of("method", methods, run.method, own)
    options = checked_options("method", function, run.method_options)
    if "sigma_data" in inspect.signature(function).parameters:
        options["sigma_data"] = facts.sigma_data
    usage = "function(**options) -> fewstep.Method"
    method = call_factory("method", run.method, function, usage, **options)
    if not isinstance(method, Method):
        raise UserError(
            f"method {run.method!r} gave {type(method).__name__}: expected a fewstep.Method"
        )
    return _with_convention(method, run, facts)


def _with_convention(method: Method, run: Run, facts: Facts) -> Method:
    """The method for a student whose network has the run's convention.

    One that predicts noise is sampled from `top_level` on. A flow map from elsewhere jumps in the
    times of its own process.
    """
    if not run.convention:
        return method
    source = Convention.from_json(run.convention)
    before = None if method.before is None else _with_convention(method.before, run, facts)
    process, times = method.process, method.times
    if run.recipe == IMPORT and source.ends:
        process = source.process
    if source.multiplies and not method.denoises:
        top = float(process.time_at(source.snap(top_level(facts.shape, facts.sigma_data))))
        expected = "v, x0 or edm: the steps of this method are cut for a start in pure noise"
        require(not isinstance(times, AtNeighbour), "prediction", source.prediction, expected)
        process = replace(process, t_max=min(process.t_max, top))
        if isinstance(times, Segments):  # they end where sampling starts
            times = replace(times, end=process.t_max)
    scaling = student_scaling(method.scaling, source)
    sigmas = tuple(source.snap(level) for level in method.later_sigmas)
    return replace(
        method,
        process=process,
        times=times,
        scaling=scaling,
        before=before,
        later_sigmas=sigmas,
    )


def top_level(shape: tuple[int, ...], sigma_data: float) -> float:
    """The noise level where students that predict noise begin.

    Their guess has the errors of the output times the level: from 80, one step is 80 times as far
    off. So they begin where hardly anything of the data is left, at about five deviations of its
    widest direction: TOP sqrt(d) deviations of d numbers, at least LEAST_TOP, and at most MOST_TOP,
    where Stable Diffusion's table ends. One step on digits from levels 15 / 10 / 7 / 5 / 3: energy
    .25 / .10 / .05 / .06 / .15.
    """
    return sigma_data * min(MOST_TOP, max(LEAST_TOP, TOP * math.sqrt(math.prod(shape))))


def check_data(dataset: Dataset, method: Method) -> None:
    """Raises UserError where the method wants data and gets solved trajectories, or the reverse.

    Also where the trajectories were solved on another grid than the method's.
    """
    levels = dataset.levels
    grid = method.coupling.grid if isinstance(method.coupling, Cached) else None
    if grid and not levels:
        raise UserError(
            "source = cache: expected solved trajectories (fewstep.trajectories), not data"
            f" {dataset.name!r}"
        )
    if levels and not grid:
        raise UserError(
            f"data {dataset.name!r} holds solved trajectories: only direct_cm with source = cache"
            " learns from them"
        )
    if grid and grid[:-1] != levels:
        raise UserError(
            f"n = {len(grid) - 1} from t = {grid[0]:g}: data {dataset.name!r} has {len(levels)}"
            f" levels from {levels[0]:g}; expected the n and process that the trajectories were"
            " solved with"
        )


def check_own_guidance(run: Run, facts: Facts, method: Method) -> None:
    """Raises UserError where a student guides itself, and learns no guess without the label."""
    pairs = [one.coupling for one in method.chain if abilities.everywhere(one.coupling)]
    if not any("student" in abilities.needs(one) for one in pairs):
        return
    why = f"data {run.data!r} has no labels"
    if facts.classes:
        why = "label_drop = 0 teaches no guess without the label: 0.1 is usual (--label-drop)"
    fine = facts.classes > 0 and run.label_drop > 0
    if not fine:
        raise UserError(
            f"method {run.method!r} with guidance of its own (omega, kappa, most): expected data"
            f" with labels and label_drop above 0: {why}"
        )


def check_augmentation(run: Run, dataset: Dataset) -> None:
    """Raises UserError for changes of what is no picture, or that a network is not told of."""
    if not (run.flip or run.augment):
        return
    name = "augment" if run.augment else "flip"
    shape, some = dataset.shape, dataset.train.rows(torch.arange(1))
    has_mask = mask_of(some.x0, some.cond) is not None
    maps = [
        key or "cond"
        for key, part in leaves(some.cond)
        if part.ndim > 3 or (part.ndim > 2 and part.shape[-2:] == shape[-2:])
    ]
    is_square = len(shape) == 3 and (shape[1] == shape[2] or not run.augment)
    fine = is_square and not has_mask and not dataset.levels
    need = "none: only whole pictures [C, S, S] are changed, and no solved trajectories"
    require(fine, name, getattr(run, name), need)
    need = f"none: the condition {', '.join(maps)} is a picture too, and would stay where it is"
    require(not maps, name, getattr(run, name), need)
    labels = run.network_options.get("augment")
    need = f"{augmentation.LABELS}, since augment = {run.augment:g}"
    require(not run.augment or labels == augmentation.LABELS, "network.augment", labels, need)


def condition_sizes(run: Run, facts: Facts, function: Callable[..., Any]) -> dict[str, int]:
    """How many `features` a network gets, where it has a parameter for them.

    Raises UserError for conditions that are not among those that it declares. A network of your own
    that declares none knows what it is called with; a pass is tried before the first step.
    """
    kinds: Mapping[str, Kind] = {}
    if isinstance(facts.cond, Mapping):
        kinds = facts.cond
    elif facts.cond is not None:
        kinds = {"label" if facts.cond == LABELS else "features": facts.cond}
    takes = abilities.takes(function)
    if takes is not None:
        check_taken(run.network, takes, kinds)
    features = kinds.get("features")
    if not isinstance(features, list) or "features" not in inspect.signature(function).parameters:
        return {}
    return {"features": math.prod(features[1])}


def check_ends(run: Run, need: int, network: nn.Module) -> None:
    """Raises UserError where a network takes fewer end numbers than the method gives it."""
    if abilities.ends(network) >= need:
        return
    ours = names_of(networks).items()
    names = [name for name, one in ours if "ends" in inspect.signature(one).parameters]
    raise UserError(
        f"method {run.method!r} needs a network that is told its end time, and {run.network!r} is"
        f" not: {', '.join(sorted(names))} are, or one of your own with ends = {need}, called with"
        f" end= [B, {need}]"
    )


def check_taken(name: str, takes: Sequence[str], kinds: Mapping[str, Kind]) -> None:
    """Raises UserError for the first part of a condition that the network does not take."""
    for key, kind in kinds.items():
        is_float = isinstance(kind, list) and kind[0] == "float32"
        if key in takes and (is_float or key != "features"):
            continue
        ours = names_of(networks).items()
        others = [other for other, one in ours if key in (abilities.takes(one) or ())]
        what = "give a network of your own"
        if key not in takes and others:
            what = f"{', '.join(sorted(others))} take it, or {what}"
        elif isinstance(kind, list) and not is_float:
            what += f"; labels are whole numbers [N], such as {key}[:, 0], or argmax(1) of one-hot"
            what += f" rows, and numbers are features, such as {key}.astype('float32')"
        raise UserError(
            f"the network {name!r} takes {', '.join(takes)}, but the data's condition has {key} ="
            f" {kind}: {what}"
        )


def build_student(
    run: Run, facts: Facts, method: Method, network: Network | None = None
) -> Preconditioned:
    """The run's network, initialised from the run's seed, under its method's preconditioning.

    network: instead, your own as it is, or a function that makes one as ours do.
    """
    ends = max(map(abilities.ends, method.chain))  # all stages have the same weights
    need = max(ends, abilities.ends(method.scaling))
    if isinstance(network, nn.Module):
        fine = not any(p.is_inference() for p in network.parameters())
        require(fine, "network", type(network).__name__, "one made outside torch.inference_mode")
        check_ends(run, need, network)
        return _denoiser_of(run, method, network)
    name = run.init if run.network == OWN and ":" in (run.init or "") else run.network
    function = factory_of("network", networks, str(name), network)
    options = checked_options("network", function, run.network_options)
    options |= condition_sizes(run, facts, function)
    if ends and "ends" in inspect.signature(function).parameters:
        options["ends"] = ends
    usage = "function(shape, classes, **options) -> torch.nn.Module"
    with fork_rng(run.seed, "init"):
        module = call_factory(
            "network", run.network, function, usage, facts.shape, facts.classes, **options
        )
    if not isinstance(module, nn.Module):
        raise UserError(
            f"network {run.network!r} gave {type(module).__name__}: expected a torch.nn.Module"
        )
    if isinstance(module, Preconditioned | Offset):
        raise UserError(
            f"network {run.network!r} gave a denoiser, as fs.adapt makes: expected a network; or"
            " let the function take no arguments"
        )
    check_ends(run, need, module)
    return _denoiser_of(run, method, module)


def _denoiser_of(run: Run, method: Method, network: nn.Module) -> Preconditioned:
    """The network as a denoiser, its weights as the run wants them in memory."""
    if run.layout == "channels-last":
        channels_last(network)
    return Preconditioned(network, method.scaling, method.process)


def with_defaults(run: Run, method: OwnMethod | None = None, network: Network | None = None) -> Run:
    """The run with all options of its method and network, so that later defaults do not change it.

    method, network: your own, as for `train`; their names go into the run.
    """
    for kind, module, own in (("method", methods, method), ("network", networks, network)):
        if isinstance(own, Method | nn.Module):  # as it is: it takes no options
            run = with_values(run, {kind: OWN, f"{kind}_options": {}})
            continue
        name = getattr(run, kind)
        options = getattr(run, f"{kind}_options")
        function = factory_of(kind, module, name, own)
        if own is not None and ":" not in name:
            name = f"{function.__module__}:{getattr(function, '__qualname__', 'made')}"
            options = {}
        options = checked_options(kind, function, options)
        run = with_values(run, {kind: name, f"{kind}_options": options})
    return run


def outline(run: Run, facts: Facts, method: Method, most: int) -> dict[str, torch.Tensor]:
    """The names, shapes and types of the weights of the run's network; takes no memory for them.

    Raises UserError where there are more than `most`: the file that describes the network may lie.
    """
    with WithoutMemory(), at_most(most):
        return build_student(run, facts, method).state_dict()
