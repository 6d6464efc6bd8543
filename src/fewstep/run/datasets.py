"""The data of a run: how they are read, where they are now, and rows that it did not learn."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fewstep import data as datasets
from fewstep import exact
from fewstep.base.data_names import OWN_DATA, is_pattern
from fewstep.base.errors import UserError, require
from fewstep.data import SPLIT_SEED, Dataset, Reading, units
from fewstep.data.variables import split_name
from fewstep.run.config import Run
from fewstep.run.facts import Facts

log = logging.getLogger("fewstep")

FAR = 3.0  # factor between deviations from which on data are taken for others
MEASURE = "units = standard measures them anew"
MOST_BYTES = 64 * 2**20  # of a file that is read for a picture alone


def reading_of(run: Run, facts: Facts | None = None, auto: str = units.STANDARD) -> Reading:
    """How the run's data are read; by the units of those facts where there are any.

    auto: what the units auto are for all but pictures of bytes.
    """
    reading = Reading(
        size=run.data_size,
        bad_files=run.bad_files,
        units=run.units,
        auto=auto,
        channel_axis=run.channel_axis,
        columns=run.columns,
        label_column=run.label_column,
        condition_columns=run.condition_columns,
        cond=run.cond,
        holdout=run.holdout,
        validation=run.validation,
        test=run.test,
        cache=run.cache,
        latents=run.latents,
    )
    if facts is None:
        return reading
    return replace(
        reading,
        origin_units=facts.units,
        origin_cond_units=facts.cond_units,
        origin_columns=facts.names.columns,
    )


def data_of(run: Run, facts: Facts, data: str | Dataset | None = None) -> Dataset:
    """The data that a run learned: in `data`, or else where they were.

    Of a run on the user's own arrays, which are stored nowhere, `data` names all rows that it
    learned, or others of that kind: see `held_out`. Raises UserError where they are others.
    """
    if run.data == OWN_DATA and not isinstance(data, Dataset):
        return _own_data(run, facts, data)
    dataset = data
    if not isinstance(dataset, Dataset):
        dataset = dataset_of(dataset or run.data, reading_of(run, facts))
    dataset = dataset if run.labels else dataset.without_labels()
    if dataset.fingerprint() != facts.data:
        raise UserError(
            f"data {dataset.name!r} is not what this run was trained on: scores would mean nothing;"
            " name the place where that is now, --data PATH"
        )
    return dataset


def is_any_held_out(facts: Facts) -> bool:
    """Whether a run left rows of its data for its scores; yes, where the facts do not say."""
    return bool(facts.description.get("splits", {}).get("test", 1))


def _own_data(run: Run, facts: Facts, path: str | None) -> Dataset:
    """What a file holds for a run that learned arrays: the rows it learned, or held-out ones."""
    if path is None:
        raise UserError(
            "this run learned arrays of your own, and they are stored nowhere: --data PATH names a"
            " file with rows that it did not learn, such as .npy"
        )
    dataset = dataset_of(path, reading_of(run, facts))
    dataset = dataset if run.labels else dataset.without_labels()
    if dataset.fingerprint() == facts.data:
        return dataset
    whole = datasets.without_split(dataset)
    return whole if whole.fingerprint() == facts.data else held_out(whole, facts)


def data_at_hand(run: Run, facts: Facts) -> Dataset:
    """The data that a run learned, where reading them once more is quick.

    Raises UserError where they are not there, or others, or take long: hf:NAME, folders, archives
    and files of more than `MOST_BYTES`.
    """
    if run.data == OWN_DATA:
        raise UserError("the run learned arrays of your own")
    named = split_name(run.data)
    path = named[0] if named else Path(run.data)
    if path.is_dir() or is_pattern(run.data) or run.data.startswith("hf:"):
        raise UserError(f"reading {run.data} takes long")
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise UserError(f"{run.data} has more than {MOST_BYTES // 2**20} MiB")
    return data_of(run, facts)


def held_out(dataset: Dataset, facts: Facts) -> Dataset:
    """Rows that a run did not learn, all in `train`: half of them its reference, half its test.

    Raises UserError where they are of another shape or have another kind of condition.
    """
    shape, kind = dataset.shape, datasets.kind_of(dataset.train.cond)
    fits = shape == facts.shape and kind == facts.cond and dataset.classes <= facts.classes
    if not fits:
        raise UserError(
            f"data {dataset.name!r} of shape {shape} and condition {kind}: expected rows of shape"
            f" {facts.shape} with condition {facts.cond} and at most {facts.classes} classes, as"
            " this run learned"
        )
    order = datasets.shuffle("held out", len(dataset.train))
    half = len(order) // 2
    if not facts.data:  # of an import, which has seen no data
        check_units(dataset, facts, "this network", "pictures are bytes, 0 .. 255")
    log.warning(
        "fewstep: data %r is taken for rows that this run did not learn: %d are the reference, and"
        " %d the floor",
        dataset.name,
        len(order) - half,
        half,
    )
    return replace(
        dataset,
        train=dataset.train.select(order[half:]),
        test=dataset.train.select(order[:half]),
        classes=facts.classes,
        held_out_of=facts.data,
    )


def check_units(
    dataset: Dataset, origin: Facts, whose: str = "init or teacher", remedy: str = MEASURE
) -> None:
    """Raises UserError where data in the units of another run are not what these units are for."""
    if dataset.shape != origin.shape:
        return  # the weights will say so
    axis = origin.units.axis
    usual = origin.sigma_data if axis is None else units.STD
    some = dataset.train.first(datasets.LOOKED_AT)
    means, deviations = units.moments(some.x0, some.cond, axis)
    for place, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        if axis is not None and np.atleast_1d(origin.units.scale)[place] == 0:
            continue
        if abs(mean) < 2 * FAR * usual and usual / FAR < deviation < FAR * usual:
            continue
        raise UserError(
            f"data {dataset.name!r}: in the units of {whose} variable {place} has mean"
            f" {mean:.3g} and deviation {deviation:.3g}, where a deviation of {usual:.3g} was"
            f" learned: is it the same data? {remedy}"
        )


def dataset_of(name: str, reading: Reading | None = None) -> Dataset:
    """The data set of that name or path, or samples of a closed form: exact:NAME.

    Of a closed form 20,000 samples are for training and 2,000 for each held-out split, always the
    same ones.
    """
    kind, _, law_name = name.partition(":")
    reading = reading or Reading()
    if kind != "exact":
        return datasets.read_dataset(name, reading)
    require(
        reading.size is None, "data_size", reading.size, "none, since a closed form has its shape"
    )
    reading.refuse(name)
    reading.refuse_splits(name)
    reading.refuse_latents(name)
    law = exact.named(law_name)
    samples = law.draw(24_000, SPLIT_SEED)  # not the draw that `sample` gives by default
    splits = torch.arange(24_000).split([20_000, 2000, 2000])
    train, validation, test = (samples.rows(index) for index in splits)
    return Dataset(name, train, validation, test, law.classes)
