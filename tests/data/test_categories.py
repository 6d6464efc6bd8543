"""Texts among the samples of a table: one number for each, and the way back by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep import data
from fewstep.data import writing
from fewstep.data.columns import Column
from fewstep.data.description import describe

pyarrow = pytest.importorskip("pyarrow", reason="the tables extra is not installed")
from pyarrow import csv, parquet  # noqa: E402

N = 60
RANDOM = np.random.default_rng(0)
CITIES = ["Rome", "Bonn", "Oslo"]
TABLE = {
    "t": RANDOM.normal(size=N),
    "city": [CITIES[place % 3] for place in range(N)],
    "floor": [f"{place // 4}th" for place in range(N)],
    "count": RANDOM.poisson(2, N).tolist(),
}


@pytest.fixture
def name(tmp_path):
    csv.write_csv(pyarrow.table(TABLE), tmp_path / "t.csv")
    return str(tmp_path / "t.csv")


@pytest.mark.parametrize("units", ["standard", "quantile", "whole"])
def test_what_is_read_is_written_again(name, units, tmp_path):
    chosen = ("floor", "count", "city")
    dataset = data.load(name, units=units, columns=chosen)
    x = dataset.units.to_user(dataset.train.x0)
    noise = 0.4 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    writing.write_table(tmp_path / "s.parquet", x + noise, None, dataset.names)
    written = parquet.read_table(tmp_path / "s.parquet").to_pydict()
    order = dataset.order[: len(x)].tolist()
    assert written == {column: [TABLE[column][row] for row in order] for column in chosen}


def test_texts_are_samples_where_they_are_few_or_named(name):
    dataset = data.load(name)
    assert [column.name for column in dataset.names.columns] == ["t", "city", "count"]
    assert data.load(name, columns=("floor",)).shape == (15,)
    assert data.load(name, condition_columns=("city",)).shape == (2,)
    description = describe(dataset)
    assert description.marks == ()
    variables = {variable.name: variable.mean for variable in description.variables}
    assert list(variables) == ["t", "city=Bonn", "city=Oslo", "city=Rome", "count"]
    assert sum(variables[f"city={city}"] for city in CITIES) == pytest.approx(1, rel=1e-5)


def test_a_run_reads_other_tables_by_its_own_columns_and_categories(name):
    own = (Column("count", "int"), Column("city", "category", ("Bonn", "Oslo", "Paris", "Rome")))
    other = data.read_dataset(name, data.Reading(origin_units=data.Units(), origin_columns=own))
    assert other.names.columns == own
    _, *city = other.train.x0.T
    assert [float(one.sum() > 0) for one in city] == [1, 1, 0, 1]
    # A run of an older version has no texts among its samples.
    assert data.read_dataset(name, data.Reading(origin_units=data.Units())).shape == (2,)
