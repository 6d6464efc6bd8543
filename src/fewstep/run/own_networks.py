"""A network that `adapt` took, as a generator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fewstep.adapters.adapt import convention_of, network_of
from fewstep.base.conditions import NO_LABEL
from fewstep.base.errors import require
from fewstep.core.conventions import Offset
from fewstep.core.denoiser import Preconditioned
from fewstep.core.guidance import Guided
from fewstep.core.vocabulary import Range
from fewstep.data import Units
from fewstep.foreign.recognised import Recognised
from fewstep.run.build import build_method, build_student, call_factory
from fewstep.run.checkpoint import fingerprint
from fewstep.run.config import OWN
from fewstep.run.facts import MOST_AXES
from fewstep.run.generator import Generator
from fewstep.run.imports import settings_of


def as_generator(
    network: Preconditioned | Offset, shape: Sequence[int], *, classes: int = 0
) -> Generator:
    """What `adapt` gives as a generator: sampled, scored, compared and exported as a run's are.

    A flow map jumps, any other network is sampled as a diffusion model. shape: of a sample.
    classes: of its labels. Pictures [1 or 3, H, W] about [-1, 1] are samples of bytes, all others
    are in the network's own units. It has a copy of the weights. Where it was saved the network is
    given again, `network=` of `load` and `--network`. Raises UserError, also where the network
    fails on a row of its last label.
    """
    own = convention_of(network)
    fine = own is not None and not isinstance(network, Guided)
    require(fine, "network", type(network).__name__, "what fs.adapt gives, without guidance")
    assert own is not None
    inner: Any = copy.deepcopy(network_of(network))
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    fine = 0 < len(sizes) <= MOST_AXES and all(type(n) is int and n > 0 for n in sizes)
    require(fine, "shape", shape, f"1 to {MOST_AXES} whole numbers above 0, as (3, 32, 32)")
    _check_classes(inner, classes)
    knows_none = inner.null is not None or inner.labels == "one-hot"
    match = Recognised(
        kind="a network in Python",
        network=OWN,
        shape=sizes,
        classes=classes,
        convention=replace(own, range=Range()),
        ends=own.ends,
        label_drop=0.1 if knows_none else 0.0,
    )
    run, facts = settings_of(match, inner)
    if own.range != Range():
        facts = replace(facts, units=Units())
    method = build_method(run, facts)
    denoiser = build_student(run, facts, method, inner).requires_grad_(False).eval()
    _try(inner, denoiser, sizes, [classes - 1, NO_LABEL][: 1 + knows_none] if classes else [])
    digest = fingerprint({"ema": denoiser.state_dict()})
    return Generator(run, facts, method, denoiser, 0, digest)


def _check_classes(network: Any, classes: int) -> None:
    """Raises UserError where the number is not what the network's labels ask for."""
    fine = type(classes) is int and classes >= 0
    require(fine, "classes", classes, "how many labels there are, or 0 for none")
    labels = network.labels
    if labels == "none":
        need = "0, since this network gets no labels; adapt(..., labels='index') gives it some"
        require(classes == 0, "classes", classes, need)
        return
    require(classes > 0, "classes", classes, f"how many labels there are, since labels = {labels}")
    if labels == "one-hot":
        need = f"{network.classes}, as adapt was told of the one-hot rows"
        require(classes == network.classes, "classes", classes, need)


def _try(network: Any, denoiser: Preconditioned, shape: tuple[int, ...], labels: list[int]) -> None:
    """One pass of a row for each of the labels, or of one row. Raises UserError where it fails."""
    weights = next(denoiser.parameters(), torch.empty(0))
    x = torch.zeros(max(1, len(labels)), *shape, device=weights.device)
    cond = torch.tensor(labels, device=weights.device) if labels else None
    inside = getattr(network.network, "__name__", type(network.network).__name__)
    usage = f"an answer for x {list(x.shape)}" + (f" and labels {labels}" if labels else "")
    with torch.no_grad():
        call_factory("network", inside, denoiser, usage, x, denoiser.process.t_max, cond)
