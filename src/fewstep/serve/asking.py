"""What a client asks for: the JSON of a request, checked by type, and the format of its answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewstep.base.errors import StorageError, UserError, require, short_repr, unknown
from fewstep.base.json_file import document
from fewstep.data.columns import Names
from fewstep.serve.answers import MEDIA, Refusal
from fewstep.serve.limits import Limits

KEYS = ("n", "steps", "seed", "label", "cond", "sampler", "format", "exact")
MOST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A request for samples; what the generator makes of it is not yet checked."""

    n: int = 1
    steps: int | None = None
    seed: int
    cond: Any = None  # as `Generator.sample` takes it
    sampler: str | None = None
    format: str = "json"
    exact: bool = False  # alone in its batch


def read(body: bytes, accept: str, limits: Limits, names: Names) -> Asking:
    """The request in a body. Raises UserError, and Refusal for a format that is not on offer."""
    try:
        values = document(body, "the body", limits.body)
    except StorageError as error:
        raise UserError(str(error)) from error
    if not isinstance(values, dict):
        raise UserError(f'the body = {short_repr(values)}: expected an object such as {{"n": 4}}')
    for key in values:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    label, cond = values.get("label"), values.get("cond")
    both = label is not None and cond is not None
    require(not both, "label and cond", (label, cond), "one or the other")
    seed = _whole(values, "seed", None, 0, MOST_SEED)
    sampler, exact = values.get("sampler"), values.get("exact", False)
    is_name = sampler is None or isinstance(sampler, str)
    require(is_name, "sampler", sampler, "a name")
    require(type(exact) is bool, "exact", exact, "true or false")
    n = _whole(values, "n", 1, 1, limits.n)
    assert n is not None
    return Asking(
        n=n,
        steps=_whole(values, "steps", None, 1, limits.steps),
        seed=int.from_bytes(os.urandom(6), "big") if seed is None else seed,
        cond=_condition(label, cond, names),
        sampler=sampler,
        format=_format(values.get("format"), accept),
        exact=exact,
    )


def _whole(
    values: Mapping[str, Any], name: str, default: int | None, low: int, high: int
) -> int | None:
    """The whole number of that name, in low .. high. Raises UserError."""
    value = values.get(name)
    if value is None:
        return default
    fine = type(value) is int and low <= value <= high
    require(fine, name, value, f"a whole number in {low} .. {high}")
    return int(value)


def _condition(label: Any, cond: Any, names: Names) -> Any:
    """The condition, with the numbers of classes for their names. Raises UserError."""
    if label is not None:
        return _labels(label, names)
    if isinstance(cond, dict) and "label" in cond:
        return {**cond, "label": _labels(cond["label"], names)}
    return cond


def _labels(label: Any, names: Names) -> Any:
    if isinstance(label, str):
        return names.label_number(label)
    if isinstance(label, list):
        return [names.label_number(one) if isinstance(one, str) else one for one in label]
    require(type(label) is int, "label", label, "a class by name or number, or a list of them")
    return label


def _format(name: Any, accept: str) -> str:
    """The format of that name, or else the one that an Accept header likes best."""
    if name is not None:
        if not isinstance(name, str) or name not in MEDIA:
            raise unknown("format", name, MEDIA)
        return name
    best = max(MEDIA, key=lambda one: _liking(MEDIA[one], accept))
    if _liking(MEDIA[best], accept) <= 0:
        raise Refusal(406, f"Accept: {accept}: expected one of {', '.join(MEDIA.values())}")
    return best


def _liking(media: str, accept: str) -> float:
    """The weight of a media type in an Accept header (RFC 9110, 12.5.1): the closest range's."""
    result: tuple[int, float] = (-1, 0.0)
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        words = [word.strip().lower() for word in part.split(";")]
        closeness = {media: 2, f"{media.split('/')[0]}/*": 1, "*/*": 0}.get(words[0], -1)
        if closeness > result[0]:
            result = closeness, _weight(words[1:])
    return result[1]


def _weight(parameters: list[str]) -> float:
    for word in parameters:
        name, _, value = word.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
