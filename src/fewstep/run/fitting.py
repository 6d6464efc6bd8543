"""What the recipe `auto` takes from the data: network, size, batch, iterations, learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fewstep.base.conditions import mask_of
from fewstep.base.options import Options
from fewstep.data import Dataset
from fewstep.data.units import QUANTILE
from fewstep.run.config import AUTO, OPEN, Run
from fewstep.statistics.layout import FIELD, PICTURE, SERIES, SET, TABLE, layout_of

Shape = tuple[int, ...]

TOKENS = 64  # most places along which a network's work grows: longer data enter in larger patches
HEAVY = 15.0  # kurtosis of a variable from which on its normal numbers are learned (a normal's: 3)
REPEATED = 0.2  # share of one value among a variable's, from which on too
FEW_VALUES = 10  # up to so many different values nothing has a tail


@dataclass(frozen=True)
class Settings:
    """What did well on data of a kind (docs/log.md, networks by kind)."""

    network: str
    network_options: Callable[[Shape], Options]
    batch: int
    iterations: int
    lr: float


def _mlp(shape: Shape) -> Options:
    return {"width": 128, "depth": 2, "features_at": "both"}


def _unet1d(shape: Shape) -> Options:
    return {"patch": patch_of(shape[-1], TOKENS // 4)}


def _dit(shape: Shape) -> Options:
    axes = len(shape) - 1
    side = max(1, round(TOKENS ** (1 / axes)))
    patch = tuple(patch_of(length, side) for length in shape[1:])
    return {"patch": patch, "width": 96, "depth": 4, "heads": 4}


def _set_transformer(shape: Shape) -> Options:
    return {}


def patch_of(length: int, most: int) -> int:
    """The smallest power of 2 of which at most so many cover the length."""
    return 2 ** max(0, math.ceil(math.log2(length / most)))


SETTINGS = {
    TABLE: Settings("mlp", _mlp, 512, 3000, 2e-3),
    SERIES: Settings("unet1d", _unet1d, 256, 1500, 1e-3),
    SET: Settings("set_transformer", _set_transformer, 128, 2500, 2e-3),
    FIELD: Settings("dit", _dit, 128, 2500, 1e-3),
    PICTURE: Settings("dit", _dit, 128, 2500, 1e-3),
}


def as_fitted(run: Run, before: Run) -> Run:
    """The run with what the data decided for it before it was stopped."""
    names = [name for name in OPEN if run.is_open(name)]
    names += ["network_options"] if "network" in names else []
    return replace(run, **{name: getattr(before, name) for name in names})


def fit_to_data(run: Run, dataset: Dataset) -> tuple[Run, str]:
    """The run with what its data decide, and a line that says what and why; "" where nothing is.

    Only fields that are open (`Run.is_open`) change, and units = auto of a table with heavy tails.
    """
    if not any(map(run.is_open, OPEN)):
        return run, ""
    kind, about = kind_of_data(dataset)
    settings = SETTINGS[kind]
    choice = {name: getattr(settings, name) for name in OPEN if run.is_open(name)}
    if "network" in choice:
        choice["network_options"] = settings.network_options(dataset.shape)
    words = [_words(name, value) for name, value in choice.items()]
    if run.units == AUTO and kind == TABLE and (tail := heavy_tail(dataset)):
        choice["units"] = QUANTILE
        words.append(f"units by quantiles ({tail})")
    return replace(run, **choice), f"auto: {about}: {', '.join(words)}"


def _words(name: str, value: object) -> str:
    if name == "network_options":
        assert isinstance(value, dict)
        return "with " + (", ".join(f"{key} {one}" for key, one in value.items()) or "its defaults")
    return f"{name} {value}"


def kind_of_data(dataset: Dataset) -> tuple[str, str]:
    """The kind whose settings fit, and what the data are in words."""
    layout = layout_of(dataset)
    kind, shape = layout.kinds[0], dataset.shape
    rows = f"{len(dataset.train.x0):,} rows to learn"
    size = " x ".join(map(str, shape))
    if kind == SET:
        return SET, f"{rows}, sets of at most {shape[0]} elements of {shape[1]} coordinates"
    if kind == TABLE:
        is_long = len(layout.kinds) > 1 and not dataset.names.columns and math.prod(shape) > 16
        hint = " (a series has shape [N, channels, length])" if is_long else ""
        return TABLE, f"{rows} of {math.prod(shape)} numbers without an order{hint}"
    if layout.axis != 1:
        hint = f"networks for {kind} want [N, channels, ...]"
        return TABLE, f"{rows}, {kind} {size} whose channels are not the first axis ({hint})"
    return kind, f"{rows}, {kind} {size}, channels first"


def heavy_tail(dataset: Dataset) -> str:
    """The first variable with a heavy tail or a value of many rows, in words; "" for none."""
    x0 = dataset.train.x0.flatten(1).double()
    if mask_of(dataset.train.x0, dataset.train.cond) is not None:
        return ""
    for place, values in enumerate(x0.unbind(1)):
        different, counts = torch.unique(values, return_counts=True)
        if len(different) <= FEW_VALUES:
            continue
        deviations = values - values.mean()
        kurtosis = float(deviations.pow(4).mean() / deviations.square().mean() ** 2)
        share = float(counts.max()) / len(values)
        if kurtosis > HEAVY:
            return f"variable {place} has kurtosis {kurtosis:.0f}"
        if share > REPEATED:
            return f"variable {place} is one value in {share:.0%} of the rows"
    return ""
