"""What users with tables, masks, scans, labels and conditions in files see; the right values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.cli import main
from tests.support.users import SHORT, everything, refusal, small_run, train

pyarrow = pytest.importorskip("pyarrow", reason="the tables extra is not installed")
from pyarrow import csv, parquet  # noqa: E402

RANDOM = np.random.default_rng(0)
N = 60
CITIES = ["Rome", "Bonn", "Oslo"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, columns, **metadata):
    table = pyarrow.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    csv.write_csv(table, name) if name.endswith(".csv") else parquet.write_table(table, name)
    return name


def columns(**others):
    return {
        "t": RANDOM.normal(288, 10, N),
        "count": RANDOM.integers(0, 9, N),
        "open": RANDOM.random(N) < 0.5,
        "city": [CITIES[place % 3] for place in range(N)],
        **others,
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_called_x_or_data_does_not_hide_the_others(kind):
    table = columns(x=RANDOM.normal(size=N), data=RANDOM.normal(5, 1, N))
    dataset = fs.data.load(write(f"t.{kind}", table))
    assert dataset.shape == (8,)
    assert [c.name for c in dataset.names.columns] == ["t", "count", "open", "city", "x", "data"]
    types = ["float", "int", "bool", "category", "float", "float"]
    assert [c.type for c in dataset.names.columns] == types
    np.testing.assert_allclose(everything(dataset).mean(0)[0], table["t"].mean(), rtol=1e-6)
    assert dataset.left_out == ()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_texts_are_learned_and_samples_have_them_by_name(kind, capsys):
    table = columns(id=[f"row {place}" for place in range(N)], kind=["b", "a, or c"] * (N // 2))
    generator = train(write(f"t.{kind}", table), "--units", "quantile")
    assert generator.facts.shape == (8,)
    left = "column id: text; --columns id or --condition-columns id takes it as categories"
    assert generator.facts.description["left_out"] == [left]
    assert main(["sample", "run", "--n", "40", "--steps", "2", "--out", f"s.{kind}"]) == 0
    read = csv.read_csv if kind == "csv" else parquet.read_table
    samples = read(f"s.{kind}").to_pydict()
    assert list(samples) == ["t", "count", "open", "city", "kind"]
    assert set(samples["city"]) <= set(CITIES)
    assert set(samples["count"]) <= set(range(9))
    assert {type(value) for value in samples["open"]} == {bool}
    assert main(["eval", "run", "--n", "6", "--steps", "1", "--quiet"]) == 0
    write(f"t.{kind}", {**table, "city": ["Paris"] * N})
    line = refusal(capsys, "train", "toy", "--data", f"t.{kind}", "--init", "run", *SHORT)
    assert "column city = 'Paris': expected one of Bonn, Oslo, Rome" in line


def test_an_array_called_x_is_the_samples_and_the_rest_is_said():
    spectra = RANDOM.normal(size=(N, 7))
    name = write("t.parquet", columns(x=spectra.tolist()))
    dataset = fs.data.load(name)
    assert dataset.shape == (7,)
    assert "column t: numbers beside x; --columns t takes it" in dataset.left_out
    assert len(dataset.left_out) == 4


def test_the_index_that_pandas_wrote_is_no_column_of_samples():
    row = np.arange(0, 3 * N, 3)  # of a frame that was filtered
    about = {"index_columns": ["__index_level_0__"], "columns": [], "column_indexes": []}
    plain = {"a": RANDOM.normal(size=N), "b": RANDOM.normal(size=N)}
    for name, table, metadata in (
        ("t.parquet", {**plain, "__index_level_0__": row}, {"pandas": json.dumps(about)}),
        ("t.csv", {"": row, **plain}, {}),
        ("u.csv", {"Unnamed: 0": row, **plain}, {}),
    ):
        dataset = fs.data.load(write(name, table, **metadata))
        assert dataset.shape == (2,)
        assert [c.name for c in dataset.names.columns] == ["a", "b"]
        assert "pandas' index" in dataset.left_out[0]
    dataset = fs.data.load("u.csv", columns=("Unnamed: 0", "b"))
    assert sorted(everything(dataset)[:, 0].round().tolist()) == row.tolist()


def test_whole_numbers_called_y_are_labels_only_where_they_can_be(caplog):
    x = RANDOM.normal(size=N)
    gaps = fs.data.load(write("t.parquet", {"x": x, "y": np.arange(N) % 3 * 7}))
    assert (gaps.classes, gaps.shape) == (0, (2,))
    assert "column y is taken for numbers, as are x: --label-column y" in caplog.text
    assert fs.data.load("t.parquet", label_column="y").classes == 15
    few = fs.data.load(write("t.csv", {"x": x, "y": np.arange(N) % 3}))
    assert (few.classes, few.shape) == (3, (1,))
    assert "column y is taken for labels" in caplog.text
    floats = fs.data.load(write("t.csv", {"x": x, "y": x / 2}))
    assert floats.shape == (2,)
    flags = fs.data.load(write("t.csv", {"x": x, "mask": np.arange(N) % 2}))
    assert flags.shape == (2,)
    both = fs.data.load(write("t.csv", {"x": x, "y": x / 2, "label": np.arange(N) % 2}))
    assert (both.classes, both.shape) == (2, (2,))


def test_columns_are_chosen_by_name_and_a_wrong_name_has_its_nearest(capsys):
    write("t.csv", columns(kind=["b10", "b2"] * (N // 2)))
    chosen = [
        "--columns",
        "count",
        "t",
        "--label-column",
        "kind",
        "--condition-columns",
        "city,open",
    ]
    generator = train("t.csv", *chosen)
    names = generator.facts.names
    assert [c.name for c in names.columns] == ["count", "t"]
    assert [(c.name, c.width) for c in names.features] == [("city", 3), ("open", 1)]
    assert names.classes == ("b2", "b10")
    for option, value in (("--columns", "cuont"), ("--label-column", "kid")):
        line = refusal(capsys, "train", "toy", "--data", "t.csv", option, value, *SHORT)
        assert "unknown column of t.csv" in line
        assert "did you mean" in line
    np.save("x.npy", RANDOM.normal(size=(N, 2)))
    line = refusal(capsys, "train", "toy", "--data", "x.npy", "--columns", "a", *SHORT)
    assert "expected none with data x.npy, which is no table" in line


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_empty_cell_is_named_by_column_and_row(kind, capsys):
    table = columns()
    table["t"] = [None if row == 17 else value for row, value in enumerate(table["t"])]
    write(f"t.{kind}", table)
    is_csv = kind == "csv"
    line = refusal(capsys, "train", "toy", "--data", f"t.{kind}", *SHORT)
    empty = "t.csv, column t, line 19: empty" if is_csv else "t.parquet: column t: row 17 is null"
    assert empty in line
    assert fs.data.load(f"t.{kind}", columns=("count",)).shape == (1,)
    write(f"u.{kind}", {"": table["t"], "a": table["count"]})
    assert fs.data.load(f"u.{kind}", columns=("a",)).shape == (1,)
    table["t"] = [float("inf") if row == 9 else 0.5 * row for row in range(N)]
    write(f"t.{kind}", table)
    line = refusal(capsys, "train", "toy", "--data", f"t.{kind}", *SHORT)
    assert ("t.csv, column t, line 11: inf" if is_csv else "column t: row 9 is inf") in line


def test_the_line_of_a_row_is_after_cells_of_several_lines(capsys):
    Path("t.csv").write_text('a,t\n1,"x\ny\n\nz"\n\n2,"u\n""v"""\n,"w"\n')
    line = refusal(capsys, "train", "toy", "--data", "t.csv", *SHORT)
    assert "t.csv, column a, line 9: empty" in line


def test_lines_of_a_csv_are_those_of_the_file(capsys):
    """Empty ones are no rows, and count as lines."""
    with open("t.csv", "w") as file:
        file.write("a,b\n\n" + "1,2\n" * 30 + "\n3,\n" + "4,5\n" * 30)
    line = refusal(capsys, "train", "toy", "--data", "t.csv", *SHORT)
    assert "t.csv, column b, line 34: empty: remove or repair it" in line


def test_a_csv_without_names_of_columns_is_refused(capsys):
    np.savetxt("t.csv", RANDOM.normal(size=(N, 2)), delimiter=",")
    assert "expected the names of the columns" in refusal(
        capsys, "train", "toy", "--data", "t.csv", *SHORT
    )
    with open("t.csv", "w") as file:
        file.write("a;b\n" + "1.5;2\n2.5;4\n" * 30)
    assert fs.data.load("t.csv").shape == (2,)


def test_masked_values_are_never_trained_on():
    """Fill values among the data: samples of -226 +- 1,512 for 15 +- 2."""
    x = RANDOM.normal(15, 2, (400, 6))
    mask = RANDOM.random((400, 6)) < 0.1
    x[mask] = -9999
    masked = np.ma.MaskedArray(x, mask)
    data = {"x0": masked, "cond": np.arange(400) % 2}
    generator = fs.train(small_run(), data, progress=False, device="cpu")
    shift = generator.facts.units.shift
    np.testing.assert_allclose(shift, 15, atol=0.5)
    drawn = generator.sample(200, cond={"label": 0, "mask": np.ones(6, bool)})
    assert abs(drawn - 15).max() < 10
    np.testing.assert_array_equal(fs.data.from_tensors(masked).train.cond["mask"], ~mask)
    given = np.ones((400, 6), bool)
    given[:, 0] = False
    both = fs.data.from_tensors({"x0": masked, "cond": {"mask": given}})
    np.testing.assert_array_equal(both.train.cond["mask"], ~mask & given)
    plain = fs.data.from_tensors(np.ma.MaskedArray(x[~mask.any(1)], False))
    assert plain.train.cond is None
    pixels = np.ma.MaskedArray(RANDOM.integers(0, 256, (9, 5, 4), dtype=np.uint8), False)
    pixels[0, 0, 0] = np.ma.masked
    dataset = fs.data.from_tensors(pixels)
    assert (dataset.shape, tuple(dataset.train.cond["mask"].shape)) == ((1, 5, 4), (9, 1, 5, 4))


@pytest.mark.parametrize(
    ("cond", "name"),
    [
        (lambda v: v.astype(int), "cond"),
        (lambda v: {"label": v.astype(int)}, "label"),
        (lambda v: {"features": v}, "features"),
    ],
)
def test_masked_labels_and_conditions_are_refused_by_name(cond, name):
    values = np.ma.MaskedArray(np.ones(9), np.arange(9) == 4)
    with pytest.raises(fs.errors.UserError, match=rf"{name} holds masked values.* row 4"):
        fs.data.from_tensors({"x0": RANDOM.normal(size=(9, 2)), "cond": cond(values)})


def test_a_netcdf_variable_has_its_units_and_its_mask(capsys):
    netcdf = pytest.importorskip("netCDF4", reason="the netcdf extra is not installed")
    kelvin = RANDOM.normal(288, 5, (N, 4, 6))
    with netcdf.Dataset("t.nc", "w") as file:
        for axis, size in {"time": N, "lat": 4, "lon": 6}.items():
            file.createDimension(axis, size)
        t = file.createVariable("t2m", "i2", ("time", "lat", "lon"), fill_value=-32767)
        t.scale_factor, t.add_offset = 0.01, 280.0
        sea = np.zeros((N, 4, 6), bool)
        sea[:, 0] = True
        t[...] = np.ma.MaskedArray(kelvin, sea)
    dataset = fs.data.load("t.nc:t2m")
    assert dataset.name.endswith("t.nc:t2m")
    x, there = everything(dataset), dataset.train.cond["mask"]
    assert there.shape[1:] == (4, 6)
    assert not there[:, 0].any()
    assert there[:, 1:].all()
    assert abs(x[:, 1:].mean() - kelvin[:, 1:].mean()) < 0.02
    line = refusal(capsys, "train", "toy", "--data", "t.nc", *SHORT)
    assert "name a variable, t.nc:VARIABLE; it holds t2m (60, 4, 6)" in line
    line = refusal(capsys, "train", "toy", "--data", "t.nc:t3m", *SHORT)
    assert "did you mean 't2m'?" in line
    assert "no file or folder u.nc in" in refusal(
        capsys, "train", "toy", "--data", "u.nc:t2m", *SHORT
    )


def test_an_hdf5_variable_is_found_in_its_group_and_links_are_not_followed(capsys):
    h5py = pytest.importorskip("h5py", reason="the hdf5 extra is not installed")
    x = RANDOM.normal(3, 1, (N, 5)).astype(np.float32)
    with h5py.File("t.h5", "w") as file:
        file["run/x"] = x
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
        fill = file.create_dataset("run/fill", data=np.where(x > 3, x, -99.0))
        fill.attrs["_FillValue"] = np.float64(-99.0)
        file["names"] = ["a", "b"]
        file.create_dataset("bomb", (10**6, 10**6), chunks=(1000, 1000), dtype="f8")
    with h5py.File("other.h5", "w") as file:
        file["x"] = x
    assert abs(everything(fs.data.load("t.h5:run/x")).mean() - x.mean()) < 1e-4
    filled = fs.data.load("t.h5:/run/fill")
    assert abs(np.mean(filled.units.shift) - x[x > 3].mean()) < 0.1
    for name, message in {
        "t.h5:elsewhere": "unknown variable",
        "t.h5:names": "expected numbers",
        "t.h5:bomb": "would unpack from",
    }.items():
        assert message in refusal(capsys, "train", "toy", "--data", name, *SHORT)


def test_a_condition_lies_in_a_file_beside_any_data(tmp_path, monkeypatch, capsys):
    x = RANDOM.normal(size=(N, 2))
    np.save("x.npy", x)
    city = [CITIES[place % 3] for place in range(N)]
    write("c.csv", {"city": city, "speed": np.arange(N), "label": ["b", "a"] * (N // 2)})
    generator = train("x.npy", "--cond", "c.csv", "--label-drop", "0.1")
    names = generator.facts.names
    assert [(c.name, c.type) for c in names.features] == [("city", "category"), ("speed", "int")]
    assert (names.classes, names.label) == (("a", "b"), "label")
    write("ask.csv", {"city": ["Oslo", "Rome"], "speed": [3.0, 4.0], "label": ["b", "a"]})
    assert main(["sample", "run", "--n", "2", "--cond", "ask.csv", "--out", "s.npy"]) == 0
    one_hot = np.array([[0, 1, 0], [0, 0, 1]])  # of Bonn, Oslo, Rome
    features = np.concatenate([one_hot, [[3], [4]]], 1)
    by_hand = generator.sample(2, cond={"features": features, "label": np.array([1, 0])})
    np.testing.assert_allclose(np.load("s.npy"), by_hand.numpy())
    write("ask.csv", {"city": ["Oslo"], "speed": [3.0], "label": ["b"]})  # one row is for all
    assert main(["sample", "run", "--n", "3", "--cond", "ask.csv", "--out", "s.npy"]) == 0
    one = {"features": features[0], "label": 1}
    np.testing.assert_allclose(np.load("s.npy"), generator.sample(3, cond=one).numpy())
    write("ask.csv", {"city": ["Paris", "Rome"], "speed": [3.0, 4.0]})
    line = refusal(capsys, "sample", "run", "--n", "2", "--cond", "ask.csv")
    assert "column city = 'Paris': expected one of Bonn, Oslo, Rome" in line
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["eval", "../run", "--n", "6", "--steps", "1", "--quiet"]) == 0
    monkeypatch.chdir(tmp_path)
    np.save("c.npy", np.zeros(N - 1))
    line = refusal(capsys, "train", "toy", "--data", "x.npy", "--cond", "c.npy", *SHORT)
    assert "expected as many rows as data x.npy has, 60: it has 59" in line
    np.savez("own.npz", x=x, label=np.arange(N) % 2)
    line = refusal(capsys, "train", "toy", "--data", "own.npz", "--cond", "c.csv", *SHORT)
    assert "a condition of its own" in line
    line = refusal(capsys, "train", "toy", "--cond", "c.csv", *SHORT)
    assert "expected none with data" in line


def test_the_same_condition_in_any_file_is_the_same():
    x = RANDOM.normal(size=(N, 2))
    np.save("x.npy", x)
    numbers = RANDOM.integers(0, 9, (N, 2))
    np.save("c.npy", numbers)
    np.savez("c.npz", features=numbers)
    write("c.csv", {"a": numbers[:, 0], "b": numbers[:, 1]})
    write("c.parquet", {"a": numbers[:, 0], "b": numbers[:, 1]})
    sets = [fs.data.load("x.npy", cond=f"c.{kind}") for kind in ("npy", "npz", "csv", "parquet")]
    assert len({one.fingerprint() for one in sets}) == 1
    kinds = {part.dtype for part in (one.train.cond for one in sets)}
    assert kinds == {torch.float32}
    own = {"x0": x, "cond": {"features": numbers, "code": numbers}}
    cond = fs.data.from_tensors(own).train.cond
    assert (cond["features"].dtype, cond["code"].dtype) == (torch.float32, torch.int64)
    beside = fs.train(fs.recipes.toy(iterations=1, cond="c.csv"), x, progress=False)
    assert [c.name for c in beside.facts.names.features] == ["a", "b"]


def test_labels_that_never_occur_are_neither_drawn_nor_accepted(capsys):
    np.savez("d.npz", x=RANDOM.normal(size=(N, 2)), label=np.array([0, 5, 9])[np.arange(N) % 3])
    generator = train("d.npz")
    assert generator.conditions(6, None).tolist() == [0, 5, 9, 0, 5, 9]
    line = refusal(capsys, "sample", "run", "--label", "3")
    assert "label 3: expected one of 0, 5, 9" in line
    assert main(["sample", "run", "--label", "5", "--n", "2", "--out", "s.npy"]) == 0
    own = fs.data.from_tensors({"x0": RANDOM.normal(size=(9, 2)), "cond": [0, 2, 2] * 3})
    assert own.names.occurring == (0, 2)


READERS = {"csv": csv.read_csv, "parquet": parquet.read_table}


def sample_table(run, kind, *options):
    """What `fewstep sample` writes as two rows of a table of that kind."""
    assert main(["sample", run, "--n", "2", *options, "--out", f"s.{kind}"]) == 0
    return READERS[kind](f"s.{kind}")


def test_a_column_of_years_is_labels_by_name():
    years = np.arange(1990, 1993)[np.arange(N) % 3]
    write("t.csv", {"t": RANDOM.normal(size=N), "year": years})
    generator = train("t.csv", "--label-column", "year")
    assert (generator.facts.classes, generator.facts.names.classes) == (3, ("1990", "1991", "1992"))
    write("ask.csv", {"year": [1992.0, 1990.0]})
    asked = sample_table("run", "csv", "--cond", "ask.csv")
    assert asked["year"].to_pylist() == [1992, 1990]
    assert sample_table("run", "csv", "--label", "1991")["year"].to_pylist() == [1991, 1991]


def test_samples_of_a_table_are_such_a_table(capsys):
    write("t.csv", columns(kind=["b10", "b2"] * (N // 2)))
    train("t.csv", "--label-column", "kind", "--condition-columns", "city")
    write("ask.csv", {"city": ["Oslo", "Rome"], "kind": ["b10", "b2"]})
    np.save("x.npy", RANDOM.normal(size=(N, 2)))
    train("x.npy", out="plain")
    np.save("x.npy", RANDOM.normal(size=(N, 2, 3)))
    train("x.npy", out="axes")
    for kind in READERS:
        table = sample_table("run", kind, "--cond", "ask.csv")
        assert table.column_names == ["t", "count", "open", "city", "kind"]
        types = [str(one.type) for one in table.columns]
        assert types == ["double", "int64", "bool", "string", "string"]
        assert table["city"].to_pylist() == ["Oslo", "Rome"]
        assert table["kind"].to_pylist() == ["b10", "b2"]
        assert abs(np.mean(table["t"].to_pylist()) - 288) < 30
        assert sample_table("plain", kind).column_names == ["0", "1"]
        line = refusal(capsys, "sample", "axes", "--out", f"s.{kind}")
        assert "samples of shape (2, 3) are no rows of a table" in line
