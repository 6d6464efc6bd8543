"""What was understood of the data is told in the user's units, and what looks wrong is marked."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep import data
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.data.description import describe, is_description, text_of
from tests.support.toys import tiny_run


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def marks(x, cond=None, **how):
    return describe(data.from_tensors({"x0": x, "cond": cond}, data.Reading(**how))).marks


def test_the_numbers_are_the_users(tmp_path):
    """Means, deviations and ends are numpy's of the training rows, whatever the units."""
    x = normal(400, 3) * [10, 0.1, 1e-6] + [288, 0.6, 3e-5]
    np.save(tmp_path / "x.npy", x)
    for units in ("auto", "robust", "quantile", "whole", "as-is"):
        dataset = data.load(str(tmp_path / "x.npy"), units=units)
        description = describe(dataset)
        rows = dataset.order[: len(dataset.train.x0)].numpy()
        variables = [x[rows].ravel()] if units in ("whole", "as-is") else list(x[rows].T)
        assert len(description.variables) == len(variables)
        for variable, values in zip(description.variables, variables, strict=True):
            target = [values.mean(), values.std(), values.min(), values.max()]
            ours = [variable.mean, variable.std, variable.lowest, variable.highest]
            np.testing.assert_allclose(ours, target, rtol=1e-4, atol=1e-4 * values.std())
        assert description.splits == {"training": 320, "validation": 40, "test": 40}


def test_what_it_says_survives_json_and_refuses_what_is_none():
    cond = {"label": torch.arange(60) % 3, "features": torch.from_numpy(normal(60, 2))}
    values = describe(data.from_tensors({"x0": normal(60, 2), "cond": cond})).to_json()
    assert is_description(json.loads(json.dumps(values)))
    assert "classes: 0: 20, 1: 20, 2: 20" in text_of(values)
    assert list(values["conditions"]) == ["features"]
    for key, wrong in (
        ("rows", "60"),
        ("variables", [{"name": "x"}]),
        ("classes", [["a"]]),
        ("marks", [3]),
        ("conditions", {"features": 3}),
    ):
        assert not is_description({**values, key: wrong})
    assert not is_description({"rows": 3})


def test_sound_data_have_no_marks():
    assert marks(normal(500, 4)) == ()
    assert marks(normal(60, 3, 8, 8)) == ()
    for name in ("digits", "ring8", "grid25", "spiral"):
        assert describe(data.load(name)).marks == ()


def test_a_tail_is_no_harm_to_quantiles_and_a_sentinel_is():
    tail, sentinel = np.exp(3 * normal(500, 2)), normal(500, 2)
    sentinel[::10, 0] = -999
    assert "deviations out" in marks(tail)[0]
    assert marks(tail, units="quantile") == ()
    assert "a sentinel" in marks(sentinel, units="quantile")[0]


WRONG = {
    "constant": lambda x: np.insert(x, 1, 7.5, axis=1),
    "the same up to their units": lambda x: np.insert(x, 1, 32 + 1.8 * x[:, 0], axis=1),
    "9999 in row 123 lies": lambda x: np.where(np.arange(500)[:, None] == 123, [[9999, 0]], x),
    "-999 in row .* stands 50 times: a sentinel": lambda x: np.where(
        np.arange(500)[:, None] % 10 == 0, [[-999, 0]], x
    ),
}


@pytest.mark.parametrize("pattern", WRONG)
def test_what_looks_wrong_in_a_table_is_marked(pattern):
    found = marks(WRONG[pattern](normal(500, 2)))
    assert [mark for mark in found if re.search(pattern, mark)], found


def test_rows_of_a_file_are_named_by_their_place_there(tmp_path):
    x = normal(300, 2)
    x[217, 1] = 1e6
    np.save(tmp_path / "x.npy", x)
    (mark,) = describe(data.load(str(tmp_path / "x.npy"))).marks
    assert mark.startswith("1: 1e+06 in row 217 lies")
    mask = np.ones((300, 2), bool)
    mask[:, 0] = np.arange(300) % 2 == 0
    (mark,) = marks(x, {"mask": mask})
    assert "in row 217" in mark


def test_held_out_rows_that_were_trained_on_are_counted(tmp_path):
    x = normal(200, 3)
    np.save(tmp_path / "x.npy", np.concatenate([x, x]))
    (mark,) = describe(data.load(str(tmp_path / "x.npy"))).marks
    number = int(re.match(r"(\d+) of 80 held-out rows stand in the training split", mark)[1])
    dataset = data.load(str(tmp_path / "x.npy"))
    train = {row.tobytes() for row in dataset.train.x0.numpy()}
    held_out = [*dataset.validation.x0.numpy(), *dataset.test.x0.numpy()]
    assert number == sum(row.tobytes() in train for row in held_out) > 0


def test_rows_of_few_different_values_are_alike_by_chance(tmp_path):
    x = np.random.default_rng(0).integers(0, 4, size=(400, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    assert describe(data.load(str(tmp_path / "x.npy"))).marks == ()


def test_variables_on_another_axis_are_noticed():
    x = normal(300, 10, 2) * [1e5, 1]
    (mark,) = marks(x)
    assert "channel_axis = 2" in mark
    assert marks(x, channel_axis=2) == ()


def test_strict_refuses_and_a_run_warns(tmp_path, capsys, caplog):
    x = np.insert(normal(300, 2), 1, 7.5, axis=1)
    np.save(tmp_path / "x.npy", x)
    command = ["train", "toy", "--data", str(tmp_path / "x.npy"), "--iterations", "2"]
    assert main([*command, "--out", str(tmp_path / "a"), "--strict"]) == 2
    assert "strict: data" in capsys.readouterr().err
    assert not (tmp_path / "a" / "run.json").exists()
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    assert "constant in all rows: 1 (7.5)" in caplog.text
    assert "300 rows of shape 3 (training 240, validation 30, test 30)" in capsys.readouterr().err
    stored = json.loads((tmp_path / "b" / "run.json").read_text())["data_description"]
    assert is_description(stored)
    assert main(["inspect", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["description"] == stored
    assert main([*command, "--out", str(tmp_path / "b"), "--resume"]) == 0
    capsys.readouterr()
    assert main(["scan", str(tmp_path / "x.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == stored
    assert main(["scan", str(tmp_path / "x.npy"), "--strict"]) == 2
    with pytest.raises(UserError, match=r"strict: .*constant"):
        fs.train(tiny_run(), x, strict=True, progress=False)


def test_a_variable_without_any_value_is_no_constant():
    mask = np.ones((60, 2), bool)
    mask[:, 1] = False
    (mark,) = marks(normal(60, 2), {"mask": mask})
    assert mark.startswith("without a value in any training row: 1")
