"""What a server tells of its generator and of an answer's samples."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from torch import Tensor

from fewstep.base.conditions import LABELS, kinds
from fewstep.core.sampling import SAMPLERS, sampler
from fewstep.run.generator import Generator
from fewstep.run.plan import Plan
from fewstep.serve.answers import MEDIA
from fewstep.serve.limits import Limits


def name(generator: Generator) -> str:
    """The model in a few words, without folders of this machine."""
    return f"{generator.run.method} on {PurePath(generator.run.data).name}"


def describe(generator: Generator, limits: Limits) -> dict[str, Any]:
    """What a client needs to know in order to ask for samples, as JSON's own types."""
    facts = generator.facts
    conditions = {}
    for key, kind in kinds(facts.cond):
        if kind == LABELS:
            conditions[key or "label"] = {"dtype": "int64", "shape": []}
        elif isinstance(kind, list):
            conditions[key or "cond"] = {"dtype": kind[0], "shape": kind[1]}
    only = sampler(generator.method.sampler).only
    return {
        "model": name(generator),
        "network": generator.run.network,
        "step": generator.step,
        "fingerprint": generator.fingerprint,
        "shape": list(facts.shape),
        "columns": [column.name for column in facts.names.columns],
        "units": facts.units.to_json(),
        "classes": facts.classes,
        "class_names": list(facts.names.classes),
        "any_class": generator.run.label_drop > 0,  # whether label -1 asks for any
        "conditions": conditions,
        "steps": generator.default_steps(),
        "samplers": [] if only else list(SAMPLERS),
        "formats": list(MEDIA),
        "limits": {
            "n": limits.n,
            "steps": limits.steps,
            "body": limits.body,
            "queue": limits.queue,
            "seconds": limits.seconds,
        },
    }


def about(generator: Generator, plan: Plan, *, exact: bool) -> dict[str, Any]:
    """What a JSON answer says beside the samples."""
    result: dict[str, Any] = {"seed": plan.seed, "fingerprint": generator.fingerprint}
    result["exact"] = exact
    if isinstance(plan.cond, Tensor) and generator.facts.cond == LABELS:
        result["label"] = plan.cond.tolist()
    if plan.notes:
        result["notes"] = list(plan.notes)
    return result
