"""Splits by choice: a share, a number, none, or files of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data.files import held_out
from fewstep.data.reading import HOLDOUT
from fewstep.run.prepare import prepare
from tests.support.toys import tiny_run


def normals(count, seed=0, mean=0.0):
    values = mean + np.random.default_rng(seed).normal(size=(count, 3))
    return values.astype(np.float32)


def file_of(path, count, **more):
    np.save(path, normals(count, **more))
    return str(path)


def same_rows(found, before):
    pair = found, torch.from_numpy(before)
    torch.testing.assert_close(*(rows[rows[:, 0].argsort()] for rows in pair))


@given(st.integers(1, 10**6))
def test_a_tenth_is_held_out_by_default_and_ten_thousand_at_most(n):
    assert held_out(n, HOLDOUT, 2) == min(n // 10, 10_000)


@pytest.mark.parametrize(("holdout", "size"), [(0.0, 0), (0.25, 25), (7, 7), (0.1, 10)])
def test_the_splits_have_the_sizes_that_are_asked_for_and_share_no_row(tmp_path, holdout, size):
    path = file_of(tmp_path / "x.npy", 100)
    dataset = data.load(path, holdout=holdout)
    assert (len(dataset.validation), len(dataset.test)) == (size, size)
    parts = (dataset.train, dataset.validation, dataset.test)
    users = torch.cat([dataset.units.to_user(part.x0) for part in parts])
    same_rows(users, normals(100))


@pytest.mark.parametrize("holdout", [50, 0.5, 1000])
def test_splits_that_leave_no_row_to_learn_are_refused(tmp_path, holdout):
    with pytest.raises(UserError, match=f"holdout = {holdout}: expected a size that leaves"):
        data.load(file_of(tmp_path / "x.npy", 100), holdout=holdout)


def test_splits_of_their_own_files_have_the_units_of_training(tmp_path):
    train = file_of(tmp_path / "x.npy", 100)
    other = file_of(tmp_path / "v.npy", 30, seed=1, mean=5.0)
    dataset = data.load(train, validation=other, test=file_of(tmp_path / "t.npy", 20, seed=2))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [
        100,
        30,
        20,
    ]
    assert dataset.units == data.load(train, holdout=0).units
    assert dataset.fingerprint() == data.load(train, holdout=0).fingerprint()
    users = dataset.units.to_user(dataset.validation.x0)
    same_rows(users, normals(30, seed=1, mean=5.0))
    one = data.load(train, validation=other)
    assert [len(part) for part in (one.train, one.validation, one.test)] == [90, 30, 10]


def test_a_split_of_another_kind_is_refused(tmp_path):
    train = file_of(tmp_path / "x.npy", 100)
    with pytest.raises(UserError, match=r"test = .*: expected another place than that of training"):
        data.load(train, test=train)
    np.save(tmp_path / "v.npy", normals(30)[:, :2])
    message = r"validation: rows of shape = \(2,\): expected 3 variables"
    with pytest.raises(UserError, match=message):
        data.load(train, validation=str(tmp_path / "v.npy"))
    np.savez(tmp_path / "a.npz", x0=normals(60), label=np.array(["a", "b"])[np.arange(60) % 2])
    np.savez(tmp_path / "b.npz", x0=normals(60), label=np.array(["a", "c"])[np.arange(60) % 2])
    with pytest.raises(UserError, match=r"test: classes = .*: expected those of training: a, b"):
        data.load(tmp_path / "a.npz", test=str(tmp_path / "b.npz"))


def test_a_number_is_of_the_splits_without_a_file_of_their_own(tmp_path):
    train, other = file_of(tmp_path / "x.npy", 100), file_of(tmp_path / "v.npy", 30, seed=1)
    dataset = data.load(train, holdout=70, validation=other)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [30, 30, 70]


def test_where_rows_are_all_learned_no_splits_are_chosen(tmp_path):
    run = replace(tiny_run(), holdout=0.2)
    message = "holdout = 0.2: expected none with data of your own, which are all learned"
    with pytest.raises(UserError, match=message):
        prepare(run, normals(40))
    assert prepare(replace(run, holdout=0.0), normals(40)).dataset
    run = replace(run, holdout=0.1, test=file_of(tmp_path / "x.npy", 30))
    with pytest.raises(UserError, match=r"test = .*: expected none with data of your own"):
        prepare(run, normals(40))


def test_data_with_splits_of_their_own_take_no_others():
    with pytest.raises(UserError, match="holdout = 0: expected none with data digits"):
        data.load("digits", holdout=0.0)
    with pytest.raises(UserError, match=r"test = 'x\.npy': expected none with data ring8"):
        data.load("ring8", test="x.npy")
