"""Splits are disjoint, fixed and complete; units go there and back; what does not fit is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep import data
from fewstep.base.data_names import DATA_NAMES
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator


# Fonts are needed for the others: test_emoji.py, test_ideographs.py.
@pytest.mark.parametrize("name", ["digits", "ring8", "grid25", "spiral"])
def test_splits_are_the_same_each_time_and_share_nothing(name):
    first, again = data.load(name), data.load(name)
    assert first.fingerprint() == again.fingerprint()
    assert torch.equal(first.test.x0, again.test.x0)
    rows = [
        set(map(bytes, np.ascontiguousarray(part.x0.numpy()).reshape(len(part.x0), -1)))
        for part in first_parts(first)
    ]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]
    assert first.train.x0.dtype == torch.float32
    assert first.train.x0.abs().max() < 1.2


def first_parts(dataset):
    return dataset.train, dataset.validation, dataset.test


def test_the_digits_are_all_of_scikit_learns():
    from sklearn.datasets import load_digits

    ours = data.load("digits")
    parts = first_parts(ours)
    assert [len(p.x0) for p in parts] == [1197, 300, 300]
    pixels = torch.cat([p.x0 for p in parts]).flatten(1).add(1).mul(8).round().long()
    ours_with_labels = torch.cat([pixels, torch.cat([p.cond for p in parts])[:, None]], 1)
    theirs = torch.from_numpy(np.c_[load_digits().data, load_digits().target]).long()
    assert sorted(map(tuple, ours_with_labels.tolist())) == sorted(map(tuple, theirs.tolist()))
    assert ours.classes == 10
    assert torch.cat([p.x0 for p in parts]).aminmax() == (-1, 1)


def test_labels_come_along():
    ours = data.from_tensors(
        {
            "x0": torch.randn(6, 2, generator=generator(0, "x")),
            "cond": torch.tensor([0, 4, 1, 2, 3, 0]),
        }
    )
    assert ours.classes == 5
    assert ours.train.cond.tolist() == [0, 4, 1, 2, 3, 0]


BAD = {
    "no samples": (torch.zeros(0, 3), "at least 2"),
    "one sample": (torch.zeros(1, 5), r"\[N, ...\]"),
    "constant": (torch.full((5, 2), 3.0), "everywhere"),
    "nan": (torch.tensor([[0.0], [1.0], [float("nan")]]), "sample 2"),
    "infinite": (torch.tensor([[0.0], [float("inf")], [1.0]]), "sample 1"),
    "unknown key": ({"x": torch.zeros(3, 2)}, "did you mean"),
    "no x0": ({"cond": torch.zeros(3)}, "x0"),
    "text": ("digits", "a path goes into the run"),
    "complex": (torch.zeros(3, 2, dtype=torch.complex64), "expected real numbers"),
    "huge": (torch.tensor([[0.0], [1e300]], dtype=torch.float64), "choose other units"),
    "labels beyond": (
        {"x0": torch.tensor([[0.0], [1.0]]), "cond": torch.tensor([0, 10**12])},
        "number the classes",
    ),
    "float labels": (
        {"x0": torch.tensor([[0.0], [1.0]]), "cond": {"label": torch.zeros(2)}},
        "integer labels",
    ),
    "too few labels": (
        {"x0": torch.tensor([[0.0], [1.0]]), "cond": torch.tensor([1])},
        "a row for each of the 2",
    ),
    "no label": (
        {"x0": torch.tensor([[0.0], [1.0]]), "cond": torch.tensor([1, -1])},
        "cond has label -1: expected integers from 0",
    ),
    "nan in a condition": (
        {"x0": torch.tensor([[0.0], [1.0]]), "cond": torch.full((2, 3), torch.nan)},
        "cond holds",
    ),
    "mask of numbers": (
        {"x0": torch.eye(3), "cond": {"mask": torch.ones(3, 3)}},
        "expected booleans",
    ),
    "mask of another shape": (
        {"x0": torch.eye(3), "cond": {"mask": torch.ones(3, 2).bool()}},
        "expected booleans",
    ),
    "mask of nothing": (
        {"x0": torch.eye(3), "cond": {"mask": torch.zeros(3, 3).bool()}},
        "False everywhere",
    ),
}


@pytest.mark.parametrize(("value", "message"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_told_in_one_line(value, message):
    with pytest.raises(UserError, match=message) as error:
        data.from_tensors(value)
    assert "\n" not in str(error.value)


def test_the_names_of_data_are_those_that_are_checked():
    assert tuple(data.DATASETS) == DATA_NAMES
    for name, make in data.DATASETS.items():
        assert make.__name__ == name


def test_nan_in_a_data_set_names_the_sample():
    x0 = torch.zeros(10, 2)
    x0[7, 1] = float("nan")
    part = data.Arrays(x0)
    with pytest.raises(UserError, match="sample 7"):
        data.Dataset("mine", part, part, part)
