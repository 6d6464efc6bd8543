"""What users with tables, masks, scans, labels and conditions in files see; the right values."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep as fs
from fewstep.cli import main
from fewstep.data import writing
from fewstep.data.description import describe
from fewstep.run.datasets import reading_of
from tests.support import hostile_data

pyarrow = pytest.importorskip("pyarrow", reason="the tables extra is not installed")
from pyarrow import csv, parquet  # noqa: E402

RANDOM = np.random.default_rng(0)
TINY = [
    *("--iterations", "4", "--network.width", "16", "--network.depth", "1", "--picture-every", "0"),
    *("--checkpoint-every", "4", "--log-every", "1", "--device", "cpu", "--quiet"),
]
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


def everything(dataset, part="x0"):
    """All samples in the user's units, or their condition, in no order that matters."""
    splits = (dataset.train, dataset.validation, dataset.test)
    if part == "x0":
        return dataset.units.to_user(torch.cat([one.x0 for one in splits])).numpy()
    return torch.cat([dataset.user_cond(one.cond) for one in splits]).numpy()


def train(data, *options, out="run"):
    assert main(["train", "toy", "--data", data, "--out", out, *options, *TINY]) == 0
    return fs.load(out)


def refusal(capsys, *words):
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert main(list(words)) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_called_x_or_data_does_not_hide_the_others(kind):
    table = columns(x=RANDOM.normal(size=N), data=RANDOM.normal(5, 1, N))
    dataset = fs.data.load(write(f"t.{kind}", table))
    assert [c.name for c in dataset.names.columns] == ["t", "count", "open", "city", "x", "data"]
    types = ["float", "int", "bool", "category", "float", "float"]
    assert [c.type for c in dataset.names.columns] == types
    np.testing.assert_allclose(everything(dataset).mean(0)[0], table["t"].mean(), rtol=1e-6)
    assert dataset.left_out == ()


def read(name):
    return (csv.read_csv if name.endswith(".csv") else parquet.read_table)(name).to_pydict()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_texts_are_learned_and_written_by_name(kind, capsys):
    """Categories go through training, sampling and writing; each row's own numbers are the row."""
    ids = [f"row {place}" for place in range(N)]
    table = columns(id=ids, kind=["b"] * (N - 1) + ["a, or c"])
    name = write(f"t.{kind}", table)
    generator = train(name, "--units", "quantile")
    names = generator.facts.names
    widths = {c.name: c.width for c in names.columns}
    assert widths == {"t": 1, "count": 1, "open": 1, "city": 3, "kind": 2}
    left = "column id: text; --columns id or --condition-columns id takes it as categories"
    assert generator.facts.description["left_out"] == [left]
    dataset = fs.data.load(name, units="quantile")
    rows = dataset.units.to_user(dataset.train.x0)
    writing.write_table(Path(f"own.{kind}"), rows, None, names)
    order, own = dataset.order[: len(rows)].tolist(), read(f"own.{kind}")
    for column in ("count", "open", "city", "kind"):
        assert own[column] == [table[column][place] for place in order]
    assert main(["sample", "run", "--n", "40", "--steps", "2", "--out", f"s.{kind}"]) == 0
    samples = read(f"s.{kind}")
    assert list(samples) == list(widths)
    assert set(samples["city"]) <= set(CITIES)
    again = fs.data.load(f"s.{kind}", columns=("city", "count"))
    assert [c.type for c in again.names.columns] == ["category", "int"]
    assert main(["eval", "run", "--n", "6", "--steps", "1", "--quiet"]) == 0
    # Other rows are read by the run's own columns and categories.
    reading = reading_of(generator.run, generator.facts)
    few = {**table, "city": ["Rome"] * N, "more": RANDOM.normal(size=N)}
    others = fs.data.read_dataset(write(f"few.{kind}", few), reading)
    assert others.names.columns == names.columns
    np.testing.assert_allclose(everything(others)[:, 3:6], [[0, 0, 1]] * N, atol=1e-6)
    write(f"few.{kind}", {**table, "city": ["Paris"] * N})
    line = refusal(capsys, "train", "toy", "--data", f"few.{kind}", "--init", "run", *TINY)
    assert "column city = 'Paris': expected one of Bonn, Oslo, Rome" in line


def test_texts_are_samples_where_they_are_few_or_named():
    many = [f"{place // 4}" + "th" for place in range(N)]
    name = write("t.csv", {"t": RANDOM.normal(size=N), "floor": many, "city": CITIES * (N // 3)})
    assert fs.data.load(name).shape == (4,)
    assert fs.data.load(name, columns=("floor",)).shape == (15,)
    assert fs.data.load(name, condition_columns=("city",)).shape == (1,)
    dataset = fs.data.load(name, columns=("city",))
    assert describe(dataset).marks == ()
    values = {f"city={one}" for one in CITIES}
    assert {one.name for one in describe(dataset).variables} == values
    old = fs.data.Reading(origin_units=fs.data.Units())  # a run that learned numbers alone
    assert fs.data.read_dataset(name, old).shape == (1,)


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
        assert [c.name for c in dataset.names.columns] == ["a", "b"]
        assert "pandas' index" in dataset.left_out[0]
    dataset = fs.data.load("u.csv", columns=("Unnamed: 0", "b"))
    assert sorted(everything(dataset)[:, 0].round().tolist()) == row.tolist()


def test_whole_numbers_called_y_are_labels_only_where_they_can_be(caplog):
    x = RANDOM.normal(size=N)
    few = fs.data.load(write("t.csv", {"x": x, "y": np.arange(N) % 3}))
    assert (few.classes, few.shape) == (3, (1,))
    assert "column y is taken for labels" in caplog.text
    gaps = fs.data.load(write("t.csv", {"x": x, "y": np.arange(N) % 3 * 7}))
    assert (gaps.classes, gaps.shape) == (0, (2,))
    assert "column y is taken for numbers, as are x: --label-column y" in caplog.text
    assert fs.data.load("t.csv", label_column="y").classes == 15
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
        line = refusal(capsys, "train", "toy", "--data", "t.csv", option, value, *TINY)
        assert "unknown column of t.csv" in line
        assert "did you mean" in line
    np.save("x.npy", RANDOM.normal(size=(N, 2)))
    line = refusal(capsys, "train", "toy", "--data", "x.npy", "--columns", "a", *TINY)
    assert "expected none with data x.npy, which is no table" in line


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_empty_cell_is_named_by_column_and_row(kind, capsys):
    table = columns()
    table["t"] = [None if row == 17 else value for row, value in enumerate(table["t"])]
    write(f"t.{kind}", table)
    assert "column t: row 17 is null" in refusal(
        capsys, "train", "toy", "--data", f"t.{kind}", *TINY
    )
    assert fs.data.load(f"t.{kind}", columns=("count",)).shape == (1,)
    write(f"u.{kind}", {"": table["t"], "a": table["count"]})
    assert fs.data.load(f"u.{kind}", columns=("a",)).shape == (1,)
    table["t"] = [float("inf") if row == 9 else 0.5 * row for row in range(N)]
    write(f"t.{kind}", table)
    assert "column t: row 9 is inf" in refusal(capsys, "train", "toy", "--data", f"t.{kind}", *TINY)


def test_a_csv_without_names_of_columns_is_refused(capsys):
    np.savetxt("t.csv", RANDOM.normal(size=(N, 2)), delimiter=",")
    assert "expected the names of the columns" in refusal(
        capsys, "train", "toy", "--data", "t.csv", *TINY
    )
    with open("t.csv", "w") as file:
        file.write("a;b\n" + "1.5;2\n2.5;4\n" * 30)
    assert fs.data.load("t.csv").shape == (2,)


def test_masked_values_are_never_trained_on():
    x = RANDOM.normal(15, 2, (400, 6))
    mask = RANDOM.random((400, 6)) < 0.1
    x[mask] = -9999
    masked = np.ma.MaskedArray(x, mask)
    dataset = fs.data.from_tensors(masked)
    assert abs(np.mean(dataset.units.shift) - 15) < 0.3
    np.testing.assert_array_equal(dataset.train.cond["mask"].numpy(), ~mask)
    labels = np.arange(400) % 2
    generator = fs.train(
        fs.recipes.toy(iterations=300), {"x0": masked, "cond": labels}, progress=False
    )
    whole = {"label": 0, "mask": np.ones(6, bool)}
    samples = generator.sample(200, cond=whole)
    assert abs(samples.mean() - 15) < 2
    assert samples.std() < 10
    given = np.ones((400, 6), bool)
    given[:, 0] = False
    both = fs.data.from_tensors({"x0": masked, "cond": {"mask": given}})
    np.testing.assert_array_equal(both.train.cond["mask"].numpy(), ~mask & given)
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
    line = refusal(capsys, "train", "toy", "--data", "t.nc", *TINY)
    assert "name a variable, t.nc:VARIABLE; it holds t2m (60, 4, 6)" in line
    line = refusal(capsys, "train", "toy", "--data", "t.nc:t3m", *TINY)
    assert "did you mean 't2m'?" in line
    assert "was it moved" in refusal(capsys, "train", "toy", "--data", "u.nc:t2m", *TINY)


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
        assert message in refusal(capsys, "train", "toy", "--data", name, *TINY)


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
    line = refusal(capsys, "train", "toy", "--data", "x.npy", "--cond", "c.npy", *TINY)
    assert "expected as many rows as data x.npy has, 60: it has 59" in line
    np.savez("own.npz", x=x, label=np.arange(N) % 2)
    line = refusal(capsys, "train", "toy", "--data", "own.npz", "--cond", "c.csv", *TINY)
    assert "a condition of its own" in line
    line = refusal(capsys, "train", "toy", "--cond", "c.csv", *TINY)
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


def scans(values):
    for place, one in enumerate(values):
        Image.fromarray(one).save(f"scans/{place:03}.png")


def test_scans_of_twelve_bits_keep_their_4096_levels(tmp_path):
    (tmp_path / "scans").mkdir()
    values = RANDOM.permutation(np.arange(2**16) % 4096).reshape(64, 32, 32).astype(np.uint16)
    scans(values)
    dataset = fs.data.load("scans")
    levels = np.unique(everything(dataset).round(2))
    np.testing.assert_allclose(levels, np.arange(4096))
    assert abs(dataset.sigma_data() - 0.5) < 0.01
    small = fs.data.read("scans", 16)["x0"]
    assert small.shape == (64, 1, 16, 16)
    assert len(np.unique(small)) > 4096
    assert abs(small.mean() - values.mean()) < 10
    white = np.full((32, 32), 255, np.uint8)
    Image.fromarray(white).save("scans/white.png")
    assert fs.data.read("scans")["x0"][-1].min() == 65535


def test_the_lower_bits_of_colour_are_said_to_be_lost():
    row = b"\0" + np.arange(12, dtype=">u2").tobytes()
    content = b"\x89PNG\r\n\x1a\n" + hostile_data.chunk(b"IHDR", b"\0\0\0\4\0\0\0\1\x10\2\0\0\0")
    content += hostile_data.chunk(b"IDAT", zlib.compress(row)) + hostile_data.chunk(b"IEND", b"")
    with zipfile.ZipFile("p.zip", "w") as file:
        file.writestr("a.png", content)
        file.writestr("b.png", content)
        file.writestr("c.png", png_of(np.full((1, 4), 200, np.uint8)))
    (said,) = fs.data.load("p.zip").left_out
    assert said == "the lower eight bits of 2 pictures of 16-bit colour: give them as .npy"


@pytest.mark.parametrize(("high", "mean"), [(2, 0.5), (17, 8.0), (63, 31.0)])
def test_bytes_that_use_a_sliver_come_back_in_their_own_numbers(high, mean):
    x = RANDOM.integers(0, high, (N, 6, 6), dtype=np.uint8)
    dataset = fs.data.from_tensors(x)
    assert not dataset.units.clip
    assert abs(np.mean(dataset.units.shift) - mean) < 0.05 * high
    np.testing.assert_allclose(everything(dataset)[:, 0], x, atol=1e-4)
    assert fs.data.from_tensors(x, fs.data.Reading(units="whole")).units.clip
    assert fs.data.from_tensors(x * np.uint8(255 // (high - 1))).units.clip


def png_of(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def picture(number):
    return png_of(np.full((4, 4), number, np.uint8))


def pack(names, **texts):
    with zipfile.ZipFile("p.zip", "w") as file:
        for number, name in enumerate(names):
            file.writestr(name, picture(number))
        for name, text in texts.items():
            file.writestr(name.replace("__", "/"), text)
    return "p.zip"


def test_class_folders_count_in_natural_order_and_are_called_by_name(capsys, caplog):
    generator = train(pack([f"{label}/{place}.png" for label in range(12) for place in range(5)]))
    assert generator.facts.names.classes == tuple(map(str, range(12)))
    dataset = fs.data.load("p.zip")
    brightness = everything(dataset).mean((1, 2, 3)).round().astype(int)
    splits = (dataset.train, dataset.validation, dataset.test)
    label = torch.cat([one.cond for one in splits]).numpy()
    np.testing.assert_array_equal(label, brightness // 5)
    generator = train(pack([f"{k}/{i}.png" for k in ("dog", "cat") for i in range(20)]), out="b")
    assert main(["sample", "b", "--n", "3", "--label", "dog", "--out", "s.npy"]) == 0
    np.testing.assert_array_equal(np.load("s.npy"), generator.sample(3, cond=1).numpy())
    np.testing.assert_array_equal(generator.sample(3, cond="dog"), generator.sample(3, cond=1))
    assert "unknown label 'dgo': did you mean 'dog'?" in refusal(
        capsys, "sample", "b", "--label", "dgo"
    )
    assert main(["inspect", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"]["classes"] == ["cat", "dog"]
    assert fs.data.load("p.zip").without_labels().names.classes == ()


def test_class_folders_zipped_with_their_parent_are_labels():
    names = [f"pets/all/{k}/{i}.png" for k in ("cat", "dog") for i in range(20)]
    dataset = fs.data.load(pack(names))
    assert (dataset.classes, dataset.names.classes) == (2, ("cat", "dog"))
    assert fs.data.load(pack([f"pets/{i}.png" for i in range(20)])).classes == 0
    table = [[f"00000/{i}.png", i % 3] for i in range(30)]
    names = [f"edm/{name}" for name, _ in table]
    dataset = fs.data.load(pack(names, **{"edm__dataset.json": json.dumps({"labels": table})}))
    assert (dataset.classes, dataset.left_out) == (3, ())


def test_folders_that_are_splits_are_no_classes(capsys):
    pack([f"set/{k}/{i}.png" for k in ("train", "val") for i in range(20)])
    line = refusal(capsys, "train", "toy", "--data", "p.zip", *TINY)
    assert "holds the folders train, val: expected classes, not splits" in line


def test_labels_that_never_occur_are_neither_drawn_nor_accepted(capsys):
    np.savez("d.npz", x=RANDOM.normal(size=(N, 2)), label=np.array([0, 5, 9])[np.arange(N) % 3])
    generator = train("d.npz")
    assert generator.facts.names.occurring == (0, 5, 9)
    turns = generator.conditions(6, None)
    assert turns.tolist() == [0, 5, 9, 0, 5, 9]
    line = refusal(capsys, "sample", "run", "--label", "3")
    assert "label 3: expected one of 0, 5, 9" in line
    assert main(["sample", "run", "--label", "5", "--n", "2", "--out", "s.npy"]) == 0
    own = fs.data.from_tensors({"x0": RANDOM.normal(size=(9, 2)), "cond": [0, 2, 2] * 3})
    assert own.names.occurring == (0, 2)


def test_a_column_of_years_is_labels_by_name():
    years = np.arange(1990, 1993)[np.arange(N) % 3]
    write("t.csv", {"t": RANDOM.normal(size=N), "year": years})
    generator = train("t.csv", "--label-column", "year")
    assert (generator.facts.classes, generator.facts.names.classes) == (3, ("1990", "1991", "1992"))
    write("ask.csv", {"year": [1992.0, 1990.0]})
    assert main(["sample", "run", "--n", "2", "--cond", "ask.csv", "--out", "s.csv"]) == 0
    assert csv.read_csv("s.csv")["year"].to_pylist() == [1992, 1990]
    assert main(["sample", "run", "--n", "2", "--label", "1991", "--out", "s.csv"]) == 0
    assert csv.read_csv("s.csv")["year"].to_pylist() == [1991, 1991]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_samples_of_a_table_are_such_a_table(kind, capsys):
    write("t.csv", columns(kind=["b10", "b2"] * (N // 2)))
    train("t.csv", "--label-column", "kind", "--condition-columns", "city")
    write("ask.csv", {"city": ["Oslo", "Rome"], "kind": ["b10", "b2"]})
    out = f"s.{kind}"
    assert main(["sample", "run", "--n", "2", "--cond", "ask.csv", "--out", out]) == 0
    table = csv.read_csv(out) if kind == "csv" else parquet.read_table(out)
    assert table.column_names == ["t", "count", "open", "city", "kind"]
    kinds = [str(one.type) for one in table.columns]
    assert kinds == ["double", "int64", "bool", "string", "string"]
    assert table["city"].to_pylist() == ["Oslo", "Rome"]
    assert table["kind"].to_pylist() == ["b10", "b2"]
    assert abs(np.mean(table["t"].to_pylist()) - 288) < 30
    np.save("x.npy", RANDOM.normal(size=(N, 2)))
    train("x.npy", out="plain")
    assert main(["sample", "plain", "--n", "2", "--out", out]) == 0
    table = csv.read_csv(out) if kind == "csv" else parquet.read_table(out)
    assert table.column_names == ["0", "1"]
    np.save("x.npy", RANDOM.normal(size=(N, 2, 3)))
    train("x.npy", out="axes")
    line = refusal(capsys, "sample", "axes", "--out", out)
    assert "samples of shape (2, 3) are no rows of a table" in line
