"""What the recipe `auto` takes from the data: network, size, batch, iterations, learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from fewstep.base.conditions import mask_of
from fewstep.base.options import Options
from fewstep.data import Dataset
from fewstep.data.units import QUANTILE
from fewstep.run.config import AUTO, OPEN, Run
from fewstep.statistics.layout import CATEGORIES, FIELD, PICTURE, SERIES, SET, TABLE, layout_of

Shape = tuple[int, ...]

MOST_AXES = 3  # of a field or volume that `unet` takes
SERIES_PLACES, FIELD_PLACES = 32, 64  # that patches leave at most
FEWEST, PER_ROW = 1000, 5  # iterations: of few rows more would be learned by heart
HEAVY = 15.0  # kurtosis of a variable from which on its normal numbers are learned (a normal's: 3)
REPEATED = 0.2  # share of one value among a variable's, from which on too
FEW_VALUES = 10  # of a variable, which is as good as a category then
MOST_ROWS = 10_000  # that different values are looked for in


@dataclass(frozen=True)
class Settings:
    """What did well on data of a kind (docs/log.md, networks by kind)."""

    network: str
    network_options: Callable[[Shape], Options]
    batch: int
    iterations: int
    lr: float
    ect: Options  # of the method ect


def _mlp(shape: Shape) -> Options:
    return {"width": 128, "depth": 2, "features_at": "both"}


def _mlp_with_dropout(shape: Shape) -> Options:
    """For posteriors, whose mean given the condition is learned by heart in long runs."""
    return {**_mlp(shape), "dropout": 0.05}


def _unet(shape: Shape) -> Options:
    """Patches that leave so many places that a step takes about as long for any lengths."""
    axes = shape[1:]
    side = SERIES_PLACES if len(axes) == 1 else round(FIELD_PLACES ** (1 / len(axes)))
    patch = tuple(patch_of(length, side) for length in axes)
    return {"patch": patch[0] if len(set(patch)) == 1 else patch}


def _set_transformer(shape: Shape) -> Options:
    return {}


def patch_of(length: int, most: int) -> int:
    """The smallest power of 2 of which at most so many cover the length."""
    return 2 ** max(0, math.ceil(math.log2(length / most)))


# The plain norm, c = 0, has the median for its best guess, by which the frequent category of a
# table wins; one of about the data's size has the mean.
SETTINGS = {
    TABLE: Settings("mlp", _mlp_with_dropout, 512, 16_000, 2e-3, {"stages": 5}),
    CATEGORIES: Settings("mlp", _mlp, 512, 3000, 2e-3, {"stages": 8, "c": 0.3}),
    SERIES: Settings("unet", _unet, 128, 2500, 1e-3, {"stages": 4}),
    SET: Settings("set_transformer", _set_transformer, 128, 2500, 2e-3, {"stages": 6}),
    FIELD: Settings("unet", _unet, 64, 2000, 2e-3, {"stages": 5}),
    PICTURE: Settings("unet", _unet, 64, 2000, 2e-3, {"stages": 5}),
}


def as_before(run: Run, before: Run) -> Run:
    """The run with what its data decided before it was stopped."""
    if run.recipe != AUTO:
        return run
    names = [name for name in OPEN if run.is_open(name)]
    choice = {name: getattr(before, name) for name in names}
    for kind in ("method", "network"):
        if kind in names or getattr(run, kind) == getattr(before, kind):
            options = f"{kind}_options"
            choice[options] = {**getattr(before, options), **getattr(run, options)}
    return replace(run, **choice)


def fit_to_data(run: Run, dataset: Dataset) -> tuple[Run, str]:
    """The run with what its data decide, and a line that says what and why; "" where nothing is.

    These are fields that are open (`Run.is_open`), options of the method ect that the run does not
    set, and units = auto of a table with heavy tails.
    """
    if run.recipe != AUTO:
        return run, ""
    rows, dataset = len(dataset.train), dataset.in_memory()
    kind, about = kind_of_data(dataset, rows)
    settings = SETTINGS[kind]
    choice = {name: getattr(settings, name) for name in OPEN if run.is_open(name)}
    if "iterations" in choice:
        choice["iterations"] = min(settings.iterations, max(FEWEST, PER_ROW * rows))
    words = [f"{name} {value}" for name, value in choice.items()]
    if "network" in choice:
        options = settings.network_options(dataset.shape)
        choice["network_options"] = options
        words[0] = f"network {settings.network} ({_words(options)})"
    if run.method == "ect" and (more := settings.ect.keys() - run.method_options.keys()):
        choice["method_options"] = {**settings.ect, **run.method_options}
        words.append(f"ect ({_words({name: settings.ect[name] for name in sorted(more)})})")
    if run.units == AUTO and kind in (TABLE, CATEGORIES) and (tail := heavy_tail(dataset)):
        choice["units"] = QUANTILE
        words.append(f"units by quantiles, since {tail}")
    reason = f"auto: {about}: {', '.join(words)}" if words else ""
    return replace(run, **choice), reason


def _words(options: Options) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "its defaults"


def kind_of_data(dataset: Dataset, count: int) -> tuple[str, str]:
    """The kind whose settings fit, and what the data are in words; count: of all training rows."""
    layout = layout_of(dataset)
    kind, shape = layout.kinds[0], dataset.shape
    rows = f"{count:,} rows to learn"
    size = " x ".join(map(str, shape))
    if kind == SET:
        return SET, f"{rows}, sets of at most {shape[0]} elements of {shape[1]} coordinates"
    if kind == TABLE:
        is_long = len(layout.kinds) > 1 and not dataset.names.columns and math.prod(shape) > 16
        hint = " (a series has shape [N, channels, length])" if is_long else ""
        few = CATEGORIES in layout.kinds or any(map(has_few_values, dataset.train.x0.flatten(1).T))
        what = "numbers and categories" if few else "numbers without an order"
        return CATEGORIES if few else TABLE, f"{rows} of {math.prod(shape)} {what}{hint}"
    if layout.axis != 1:
        hint = f"networks for {kind} want [N, channels, ...]"
        return TABLE, f"{rows}, {kind} {size} whose channels are not the first axis ({hint})"
    if len(shape) > MOST_AXES + 1:
        return TABLE, f"{rows}, {kind} {size} of more axes than networks for {kind} take"
    hint = " (are they last? x.moveaxis(-1, 1) brings them there)" * (shape[-1] <= 4 < shape[0])
    return kind, f"{rows}, {kind} {size}, channels first{hint}"


def has_few_values(values: Tensor) -> bool:
    """Whether a variable is as good as a category; a constant is none."""
    return 2 <= len(values[:MOST_ROWS].unique()) <= FEW_VALUES


def heavy_tail(dataset: Dataset) -> str:
    """The first variable with a heavy tail or a value of many rows, in words; "" for none."""
    if mask_of(dataset.train.x0, dataset.train.cond) is not None:
        return ""
    for place, values in enumerate(dataset.train.x0.flatten(1).double().T):
        if len(values[:MOST_ROWS].unique()) <= FEW_VALUES:
            continue
        distances = values - values.mean()
        kurtosis = float(distances.pow(4).mean() / distances.square().mean() ** 2)
        share = float(values.unique(return_counts=True)[1].max()) / len(values)
        if kurtosis > HEAVY:
            return f"variable {place} has kurtosis {kurtosis:.0f}"
        if share > REPEATED:
            return f"variable {place} is one value in {share:.0%} of the rows"
    return ""
