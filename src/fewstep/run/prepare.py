"""A run made ready: all that its training starts from, put together and compared once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewstep import data as datasets
from fewstep import methods
from fewstep.adapters.adapt import convention_of, network_of
from fewstep.base.errors import UserError
from fewstep.base.options import Options, names_of, options_of
from fewstep.core import sampling
from fewstep.core.conventions import Convention
from fewstep.core.method import Method
from fewstep.core.vocabulary import Range
from fewstep.data import Arrays, Dataset, units
from fewstep.run import datasets as run_data
from fewstep.run import sources, stages
from fewstep.run.build import (
    Network,
    OwnMethod,
    build_method,
    check_augmentation,
    check_data,
    check_own_guidance,
    top_level,
    with_defaults,
)
from fewstep.run.checkpoint import Checkpoint
from fewstep.run.checkpoint.schema import check_room
from fewstep.run.config import AUTO, OWN, Run
from fewstep.run.facts import Facts, facts_of
from fewstep.run.fitting import as_before, fit_to_data
from fewstep.run.resume import check_same
from fewstep.run.sources import Model, Source, Weights
from fewstep.run.stages import Stage
from fewstep.run.teachers import teacher_of

IDLE = {"dropout", "dropout_resolutions", "dropout_stages", "augment"}  # of a network's options
CPU = torch.device("cpu")

log = logging.getLogger("fewstep")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run with all its options, and everything that it is built from. Nothing in it changes."""

    run: Run
    facts: Facts
    method: Method
    dataset: Dataset | None = None  # None where no batch is drawn
    network: Network | None = None  # the user's own
    initial: Weights | None = None  # that it starts from
    teacher: Model | None = None
    checkpoint: Checkpoint | None = None  # that it goes on from
    device: torch.device = CPU
    reason: str = ""  # what the data decided, in a line

    @cached_property
    def stages(self) -> list[Stage]:
        """Raises UserError where a stage would have no steps."""
        return stages.stages(self.run, self.method)

    @property
    def arrays(self) -> Arrays:
        """The samples to train on."""
        assert self.dataset is not None
        return self.dataset.train


def prepare(
    run: Run,
    data: Tensor | Mapping[str, Tensor] | None = None,
    network: Network | None = None,
    *,
    method: OwnMethod | None = None,
    init: Source | None = None,
    teacher: Source | None = None,
    checkpoint: Checkpoint | None = None,
    device: torch.device = CPU,
) -> Prepared:
    """The run made ready; the arguments are those of `fewstep.train`.

    checkpoint: that the run goes on from. Raises UserError and StorageError for what does not fit.
    """
    before = None
    if checkpoint is not None:
        before = checkpoint.record.facts
        if run.units == units.AUTO:
            run = replace(run, units=checkpoint.record.run.units)
    run, network, note = with_foreign(run, network, init, checkpoint)
    origin = before or origin_of(run, init, teacher)
    auto = auto_units(run, teacher)
    run, dataset, reason = fit(run, data, network, checkpoint, origin, auto)
    reason = "; ".join(filter(None, (note, reason)))
    if before is None and origin is not None:
        run_data.check_units(dataset, origin)
    cond = None if run.cond is None else datasets.full_name(run.cond)
    run = with_defaults(replace(run, data=dataset.name, cond=cond), method, network)
    run = with_sources(run, init, teacher, checkpoint)
    run = with_choices(run, checkpoint)
    facts = facts_of(run, dataset)
    run = _with_top(run, facts)
    parts = build_method(run, facts, method)
    if run.later_sigmas is None:
        run = replace(run, later_sigmas=parts.later_sigmas)
    # Raises for levels that cannot be: now, not at the first picture.
    sampling.multistep_grid(parts.process, 2, run.later_sigmas or ())
    check_data(dataset, parts)
    check_augmentation(run, dataset)
    check_own_guidance(run, facts, parts)
    weights = None
    if checkpoint is None:
        weights = initial_weights(run, init)
        _compare_labels(parts, weights)
    options = run.method_options
    run = stages.with_stage(run, facts, parts, weights, checkpoint)
    if run.method_options != options:
        parts = build_method(run, facts, method)
    prepared = Prepared(
        run, facts, parts, dataset, network, weights, None, checkpoint, device, reason
    )
    guide = teacher_of(teacher, prepared)
    facts = replace(
        facts,
        init=weights.fingerprint if weights else "",
        teacher=guide.fingerprint if guide else "",
    )
    if checkpoint is not None:
        facts = check_same(checkpoint, run, facts, lambda old: with_defaults(old, method, network))
    check_room(run, facts)
    return replace(prepared, facts=facts, teacher=guide)


def with_foreign(
    run: Run, network: Network | None, init: Source | None, checkpoint: Checkpoint | None
) -> tuple[Run, Network | None, str]:
    """The run and network where the initial weights came from elsewhere, and a line that says it.

    Such weights bring what their network predicts, and the network itself where the run has another
    kind. A run that goes on keeps what it had.
    """
    if checkpoint is not None:
        before = checkpoint.record.run
        if before.convention and not run.convention:
            names = ("convention", "network", "network_options", "sigma_data")
            run = replace(run, **{name: getattr(before, name) for name in names})
        return run, _inside(network, init), ""
    denoiser = init if network is None else network
    own = convention_of(denoiser)
    if own is not None:
        module = network_of(denoiser)
        module = copy.deepcopy(module) if network is None else module
        run = replace(run, convention=own.to_json())
        return run, module, f"network: {own}"
    source = sources.run_of_source(run.init if init is None else init)
    if source is None or not source.convention:
        return run, network, ""
    own = Convention.from_json(source.convention)
    run = replace(run, convention=source.convention)
    if run.sigma_data is None and own.sigma_data is not None:
        run = replace(run, sigma_data=own.sigma_data)
    if network is None:
        options = dict(source.network_options)
        if run.network == source.network:  # what training alone uses is the run's
            options = {name: value for name, value in options.items() if name not in IDLE}
            options |= {
                name: run.network_options[name] for name in IDLE & run.network_options.keys()
            }
        run = replace(run, network=source.network, network_options=options)
    return run, network, f"network: {source.network}, of init: {own}"


def _with_top(run: Run, facts: Facts) -> Run:
    """The run with levels up to where its students in noise are sampled from.

    Only where its method has a highest level and nobody set it.
    """
    if not run.convention:
        return run
    own = Convention.from_json(run.convention)
    function = names_of(methods).get(run.method)
    top = None if function is None else options_of(function).get("t_max")
    if top is None or not own.multiplies or run.method_options.get("t_max") != top.default:
        return run
    level = own.snap(top_level(facts.shape, facts.sigma_data))
    return replace(run, method_options={**run.method_options, "t_max": level})


def _inside(network: Network | None, init: Source | None) -> Network | None:
    """The network in a denoiser that `adapt` made, also of the initial one; any other as it is."""
    denoiser = init if network is None else network
    return network if convention_of(denoiser) is None else copy.deepcopy(network_of(denoiser))


def fit(
    run: Run,
    data: Tensor | Mapping[str, Tensor] | None,
    network: Network | None,
    checkpoint: Checkpoint | None,
    origin: Facts | None,
    auto: str,
) -> tuple[Run, Dataset, str]:
    """The run with what its data decide or decided before, the data set, and the reason."""
    if network is not None and run.is_open("network"):
        run = replace(run, network=OWN)
    if checkpoint is not None:
        run = as_before(run, checkpoint.record.run)
    dataset = dataset_of(run, data, origin, auto)
    units_before = run.units
    run, reason = fit_to_data(run, dataset)
    if run.units != units_before:
        dataset = dataset_of(run, data, origin, auto)
    return run, dataset, reason


def auto_units(run: Run, teacher: Source | None) -> str:
    """What the units auto are for all but pictures of bytes: of a foreign network, its range."""
    source = run.teacher if teacher is None else teacher
    own = convention_of(source)
    if own is None and run.convention:
        own = Convention.from_json(run.convention)
    if own is None or own.range == Range():
        return units.AS_IS if own is not None or is_foreign(source) else units.STANDARD
    low, high = own.range.shift - own.range.scale, own.range.shift + own.range.scale
    return f"{low:.9g}..{high:.9g}"


def is_foreign(source: Source | None) -> bool:
    """Whether a source's network came from elsewhere: its data have no units but its range."""
    if convention_of(source) is not None:
        return True
    run = sources.run_of_source(source)
    return run is not None and bool(run.convention)


def dataset_of(
    run: Run,
    data: Tensor | Mapping[str, Tensor] | None = None,
    origin: Facts | None = None,
    auto: str = units.STANDARD,
) -> Dataset:
    """The run's data set, or the samples passed instead; without labels where it wants none.

    origin: facts whose units the data are brought to, instead of their own. auto: what the units
    auto are for all but pictures of bytes.
    """
    reading = run_data.reading_of(run, origin, auto)
    if data is None:
        dataset = run_data.dataset_of(run.data, reading)
    else:
        dataset = datasets.from_tensors(data, reading)
    return dataset if run.labels else dataset.without_labels()


def origin_of(run: Run, init: Source | None, teacher: Source | None) -> Facts | None:
    """The facts of the run that this one learns from: its units are the student's.

    None where there is none, or the run says its own units. Raises UserError where initial weights
    and teacher have different ones.
    """
    if run.units != units.AUTO:
        return None
    sides = (run.init if init is None else init, run.teacher if teacher is None else teacher)
    ours = [sources.facts_of_source(side) for side in sides if not is_foreign(side)]
    origins = [facts for facts in ours if facts is not None]
    if len(origins) == 2 and origins[0].units != origins[1].units:
        raise UserError(
            "init and teacher learned data in different units: expected two that learned the same"
            " data, or units = standard or another choice for the run's own"
        )
    return origins[-1] if origins else None


def with_sources(
    run: Run, init: Source | None, teacher: Source | None, checkpoint: Checkpoint | None
) -> Run:
    """The run with the names of its init and teacher: as passed, as set, or as it had before."""
    before = run if checkpoint is None else checkpoint.record.run
    init = run.init or before.init if init is None else init
    teacher = run.teacher or before.teacher if teacher is None else teacher
    return replace(
        run,
        init=sources.name_in(run.init, init),
        teacher=sources.name_in(run.teacher, teacher),
    )


def with_choices(run: Run, checkpoint: Checkpoint | None) -> Run:
    """The run with what trials chose for it before it was stopped."""
    if checkpoint is None:
        return run
    before = checkpoint.record.run
    if before.method != run.method:
        return run
    return replace(run, method_options=fill_auto(run.method_options, before.method_options))


def fill_auto(options: Options, choices: Options) -> Options:
    """The options with the trial's choice for each that is "auto", those of a base included."""

    def fill(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            inner = choices.get(name, choices)
            return fill_auto(value, inner if isinstance(inner, dict) else {})
        return choices.get(name, value) if value == AUTO else value

    return {name: fill(name, value) for name, value in options.items()}


def _compare_labels(method: Method, weights: Weights | None) -> None:
    """Warns where initial weights are told noise levels by other numbers than they know."""
    if weights is None or weights.method is None:
        return
    levels = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    own, other = (
        one.scaling(one.process, one.process.time_at(levels)).noise
        for one in (method, weights.method)
    )
    if not torch.allclose(own, other, rtol=1e-6, atol=1e-6):
        log.warning(
            "fewstep: init: at noise level 1 its network was told %.4g and is told %.4g now, so"
            " that it begins as another function; flow maps, sct and scd have --method.label log"
            " for ln(level) / 4",
            other[1],
            own[1],
        )


def initial_weights(run: Run, init: Source | None) -> Weights | None:
    """The weights that the run starts from, where it names any or they are passed."""
    source = run.init if init is None else init
    return None if source is None else sources.weights_of("init", source)
