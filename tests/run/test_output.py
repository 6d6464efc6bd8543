"""Samples as files from Python: `Generator.write`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.cli import main


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> fs.Generator:
    """A generator of a table with whole numbers and a category, named by a Path."""
    path = tmp_path_factory.mktemp("table") / "people.csv"
    rows = "".join(f"{20 + k % 50},{0.1 * k},{'north' if k % 3 else 'south'}\n" for k in range(90))
    path.write_text(f"age,income,region\n{rows}")
    assert fs.data.read(path)["x0"].shape == (90, 4)
    assert fs.data.load(path).shape == (4,)
    return fs.train(fs.recipes.toy(iterations=2, batch=32, data=path), progress=False)


def test_a_table_has_the_columns_of_its_data(table, tmp_path):
    samples = torch.tensor([[30.4, 0.1, 0.9, 0.2], [71.0, 2.7, 0.1, 0.4]])
    file = tmp_path / "made" / "people.csv"
    assert table.write(file, samples) == ""
    lines = file.read_text().splitlines()
    assert lines == ['"age","income","region"', '30,0.1,"north"', '71,2.7,"south"']


def test_arrays_are_what_was_given(tmp_path):
    generator, samples = fs.load("digits"), torch.rand(3, 1, 8, 8)
    generator.write(tmp_path / "x.npy", samples)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), samples.numpy())
    generator.write(str(tmp_path / "x.safetensors"), samples)
    assert (fs.data.read(tmp_path / "x.safetensors")["x0"] == samples).all()


def test_a_picture_says_what_stands_beside_the_samples(tmp_path):
    """Conditions are in the user's units, so that the truth of the one condition is a line."""
    series, known = torch.randn(40, 1, 32), 100 + torch.rand(40, 2)
    run = fs.recipes.toy(iterations=2, batch=32)
    generator = fs.train(run, {"x0": series, "cond": known}, progress=False)
    samples = generator.sample(24, cond=known[0])
    truth = {"x0": series[:1], "cond": known[:1]}
    about = generator.write(tmp_path / "x.png", samples, cond=known[0], data=truth)
    assert "24 of one condition" in about
    assert "1 of that condition, the red lines" in about.replace("all ", "")
    assert (tmp_path / "x.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("name", "samples", "words"),
    [
        ("x.jpg", torch.zeros(2, 4), "path x.jpg: expected a name that ends in .png"),
        ("x.csv", torch.zeros(2, 5), r"samples of shape \(2, 5\): expected \[N, 4\]"),
        ("x.png", torch.full((2, 4), torch.nan), "samples hold NaN or infinity"),
    ],
)
def test_what_cannot_be_written_is_refused(table, tmp_path, monkeypatch, name, samples, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fs.errors.UserError, match=words):
        table.write(name, samples)
    assert not Path(name).exists()


def test_rows_beside_must_be_of_the_samples_shape(table, tmp_path):
    with pytest.raises(fs.errors.UserError, match=r"data of shape \(5, 2\): expected \[N, 4\]"):
        table.write(tmp_path / "x.png", torch.zeros(2, 4), data=torch.zeros(5, 2))


def test_the_command_writes_the_same_bytes(tmp_path):
    file = tmp_path / "x.npy"
    assert main(["sample", "digits", "--n", "3", "--out", str(file), "--quiet"]) == 0
    np.testing.assert_array_equal(np.load(file), fs.load("digits").sample(3).numpy())
