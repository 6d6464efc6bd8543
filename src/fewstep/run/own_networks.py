"""A network that `adapt` took, as a generator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fewstep.adapters.adapt import convention_of, network_of
from fewstep.base.errors import require
from fewstep.core.conventions import Offset
from fewstep.core.denoiser import Preconditioned
from fewstep.core.guidance import Guided
from fewstep.core.vocabulary import Range
from fewstep.data import Units
from fewstep.foreign.recognised import Recognised
from fewstep.run.build import build_method, build_student
from fewstep.run.checkpoint import fingerprint
from fewstep.run.config import OWN
from fewstep.run.generator import Generator
from fewstep.run.imports import settings_of


def as_generator(
    network: Preconditioned | Offset, shape: Sequence[int], *, classes: int = 0
) -> Generator:
    """What `adapt` gives as a generator: sampled, scored, compared and exported as a run's are.

    A flow map jumps, any other network is sampled as a diffusion model. shape: of a sample.
    classes: of its labels. Pictures [1 or 3, H, W] about [-1, 1] are samples of bytes, all others
    are in the network's own units. It has a copy of the weights. Where it was saved the network is
    given again, `network=` of `load` and `--network`. Raises UserError.
    """
    own = convention_of(network)
    fine = own is not None and not isinstance(network, Guided)
    require(fine, "network", type(network).__name__, "what fs.adapt gives, without guidance")
    assert own is not None
    inner: Any = copy.deepcopy(network_of(network))
    knows_none = inner.null is not None or inner.labels == "one-hot"
    match = Recognised(
        kind="a network in Python",
        network=OWN,
        shape=tuple(shape),
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
    digest = fingerprint({"ema": denoiser.state_dict()})
    return Generator(run, facts, method, denoiser, 0, digest)
