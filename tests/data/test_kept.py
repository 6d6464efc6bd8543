"""What is kept of a source is what the same words would read of it now."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data import large_csv, large_tables, streams
from fewstep.data.stored import Stored
from tests.data.test_large import RANDOM, N, Y, png, same, write_parquet
from tests.support.toys import Killed


def pictures_beside_numbers(folder):
    pixels = RANDOM.integers(0, 256, (N, 8, 8), dtype=np.uint8)
    table = {"image": [*map(png, pixels)], "w": RANDOM.normal(3, 1, N)}
    return write_parquet(folder / "x.parquet", table)


def test_each_size_of_pictures_is_kept_apart(tmp_path):
    path, cache = pictures_beside_numbers(tmp_path), str(tmp_path / "cache")
    for size in (4, None, 6, 4):
        how = {"condition_columns": ("w",), "size": size}
        kept = data.load(path, cache=cache, **how)
        assert kept.shape[1:] == (size or 8, size or 8)
        same(data.load(path, **how), kept)


@pytest.mark.parametrize("twice", [False, True])
def test_numbers_are_not_resized(tmp_path, twice):
    path, cache = write_parquet(tmp_path / "x.parquet", {"a": Y, "b": Y}), str(tmp_path / "cache")
    if twice:
        data.load(path, cache=cache)
    for how in ({}, {"cache": cache}):
        with pytest.raises(UserError, match=r"data_size = 4: expected none.*x\.parquet holds"):
            data.load(path, size=4, **how)


def two_columns(digit, rows=N):
    return "a,b\n" + "".join(f"{i % 9}.{digit},{i % 7}.25\n" for i in range(rows))


def test_a_source_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    path, cache = tmp_path / "x.csv", str(tmp_path / "cache")
    path.write_text(two_columns(5))
    look = large_csv.Text.look

    def look_and_write(*args):
        text = look(*args)
        path.write_text(two_columns(6, 2 * N))
        return text

    with monkeypatch.context() as patch:
        patch.setattr(large_csv.Text, "look", look_and_write)
        with pytest.raises(UserError, match=r"x\.csv changed while they were read"):
            data.load(path, cache=cache)
    same(data.load(path), data.load(path, cache=cache))


def test_pictures_of_a_table_that_changes_are_not_kept_as_its_own(tmp_path, monkeypatch):
    path, cache = pictures_beside_numbers(tmp_path), str(tmp_path / "cache")
    own = large_tables.Pictures.__init__

    def open_and_write(*args):
        own(*args)
        pictures_beside_numbers(tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(large_tables.Pictures, "__init__", open_and_write)
        with pytest.raises(UserError, match=r"x\.parquet changed while they were read"):
            data.load(path, cache=cache)
    same(data.load(path), data.load(path, cache=cache))


def test_pictures_beside_numbers_are_kept_once(tmp_path, caplog):
    path, cache = pictures_beside_numbers(tmp_path), tmp_path / "cache"
    how = {"condition_columns": ("w",), "cache": str(cache)}
    plain = data.load(path, condition_columns=("w",))
    data.load(path, **how)
    files = [file for file in cache.rglob("*") if file.is_file()]
    (pixels,) = (file for file in files if file.stat().st_size >= N * 64)
    again = data.load(path, **how)
    assert isinstance(again.train.samples, Stored)
    assert again.train.samples.file == pixels
    same(plain, again)
    content = bytearray(pixels.read_bytes())
    content[7] ^= 1
    pixels.write_bytes(content)
    same(plain, data.load(path, **how))
    assert "was changed by somebody" in caplog.text
    shutil.rmtree(pixels.parent)
    same(plain, data.load(path, **how))


CELLS = {
    "no values": ["", "NA"],
    "bits": ["0", "1"],
    "integers": ["7", "-3"],
    "floats": ["0.5", "2"],
    "booleans": ["true", "0"],
    "dates": ["2020-01-01"],
    "times": ["10:00", "11:30:00"],
    "seconds": ["2020-01-01 10:00:00"],
    "nanoseconds": ["2020-01-01 10:00:00.123"],
    "zones": ["2020-01-01T10:00:00Z"],
    "text": ["a"],
}


@pytest.mark.parametrize("one", CELLS)
def test_types_of_two_blocks_are_those_of_one(one):
    pytest.importorskip("pyarrow")

    def column(cells):
        lines = "".join(f"{cell},1\n" for cell in cells).encode()
        return large_csv._parse(lines, ",", ["x", "y"])["x"]

    for other in CELLS:
        kinds = (large_csv._kind_of(column(CELLS[key])) for key in (one, other))
        wider = large_csv._wider(*kinds)
        is_bits = str(wider) == "int8"  # whole numbers in the end
        assert ("int64" if is_bits else wider) == column(CELLS[one] + CELLS[other]).type


def agree(path, folder, **how):
    """Whether a file has the same rows and types, or the same mistake, read at once and kept."""
    said = []
    for cache in (None, str(folder / "cache")):
        try:
            said.append(data.load(path, cache=cache, **how))
        except UserError as error:
            said.append(error)
    plain, kept = said
    if not isinstance(plain, UserError):
        same(plain, kept)
        return ""
    assert str(plain) == str(kept)
    return str(plain)


def write_rows(path, third, head="a,b,c"):
    rows = (f"{i % 9}.5,{i % 7}.25,{third(i)}" for i in range(N))
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    "third",
    [
        lambda i: i % 2 if i < 30 else ("false", "true")[i % 2],
        lambda i: ("false", "true")[i % 2] if i < 30 else i % 2,
        lambda i: i % 2 if i < 30 else i % 3,
        lambda i: i % 2,
        lambda i: "2020-01-01" if i < 30 else "2020-01-01 10:00:00",
        lambda i: f'"first ""line""\nsecond, line {i}\nthird"',
        lambda i: f'"{i}\n\n"" 2"' if i % 3 else '5" pipe',
        lambda i: '"z"' if i % 2 else '"a,\n"',
    ],
)
def test_a_large_csv_has_the_types_and_cells_of_a_small_one(tmp_path, monkeypatch, third):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(large_csv, "BYTES", 400)
    assert agree(write_rows(tmp_path / "x.csv", third), tmp_path) == ""


def test_mistakes_in_a_large_csv(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(large_csv, "BYTES", 400)
    path = write_rows(tmp_path / "x.csv", str, "a,b,a")
    assert "column = 'a': expected one column of a name" in agree(path, tmp_path)
    path = write_rows(tmp_path / "y.csv", lambda i: '"open' if i == 40 else i)
    with pytest.raises(UserError, match=r'y\.csv: the cell "open.* does not end'):
        data.load(path, cache=str(tmp_path / "cache"))


def test_no_rows_are_the_same_mistake_whether_kept_or_not(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((0, 4)), features=np.zeros((0, 2)))
    assert "some of the 0 samples" in agree(tmp_path / "x.npz", tmp_path)
    np.savez(tmp_path / "y.npz", x=np.zeros((0, 4)), features=np.zeros((3, 2)))
    assert agree(tmp_path / "y.npz", tmp_path)


def test_shards_that_differ_in_a_type_are_told_apart(tmp_path):
    write_parquet(tmp_path / "s-0.parquet", {"a": Y * 0.5, "b": Y})
    write_parquet(tmp_path / "s-1.parquet", {"a": Y * 0.5, "b": Y * 0.5})
    said = agree(str(tmp_path / "s-*.parquet"), tmp_path)
    assert "s-1.parquet: column b is double, in s-0.parquet int64: expected" in said


def test_a_pass_that_is_killed_twice_keeps_what_was_sound(tmp_path, monkeypatch):
    path, cache = str(tmp_path / "x.npz"), tmp_path / "cache"
    np.savez(path, x=RANDOM.normal(0, 1, (N, 4)))
    plain = data.load(path)
    monkeypatch.setattr(streams, "ENOUGH", 1)
    monkeypatch.setattr("fewstep.data.tables.AT_ONCE", 12)
    own, first_rows = streams._Writer._flush, []

    def load(most):
        """Until so many blocks are written, of 3 rows each."""
        first_rows.clear()

        def flush(writer, key, file, waiting, before):
            if len(first_rows) == most:
                raise Killed
            first_rows.append(3 * len(before))
            return own(writer, key, file, waiting, before)

        monkeypatch.setattr(streams._Writer, "_flush", flush)
        return data.load(path, cache=str(cache))

    with pytest.raises(Killed):
        load(6)
    (file,) = cache.glob("*/*/records")
    content = bytearray(file.read_bytes())
    content[2 * 3 * 4 * 8] ^= 1  # of the third block
    file.write_bytes(content)
    with pytest.raises(Killed):
        load(5)
    assert first_rows == [6, 9, 12, 15, 18]
    same(plain, load(N))
    assert first_rows[0] == 21


def cities(path, rows, words, labels=(0, 1, 2)):
    rows = [(RANDOM.normal(), words[i % len(words)], f"note {i % 13}", i) for i in range(rows)]
    lines = [f"{a},{city},{note},{labels[i % len(labels)]}" for a, city, note, i in rows]
    path.write_text("\n".join(["a,city,note,label", *lines]) + "\n")
    return str(path)


def test_rows_of_validation_have_the_columns_and_categories_of_training(tmp_path):
    pytest.importorskip("pyarrow")
    path = cities(tmp_path / "x.csv", 160, ("Bonn", "Ulm"))
    other = cities(tmp_path / "v.csv", 20, ("Ulm",))
    new = cities(tmp_path / "n.csv", 20, ("Ulm", "Paris"))
    for how in ({}, {"condition_columns": ("city",)}, {"columns": ("a", "city")}):
        assert agree(path, tmp_path, validation=other, **how) == ""
        split = data.load(path, validation=other, **how).validation
        assert len(split) == 20
        said = agree(path, tmp_path, validation=new, **how)
        assert said == "validation: column city = 'Paris': expected one of Bonn, Ulm"
    rows = data.load(path, validation=other, condition_columns=("city",)).validation
    assert len(rows.cond["features"].unique(dim=0)) == 1
    few = cities(tmp_path / "l.csv", 20, ("Ulm",), labels=(0, 2))
    assert agree(path, tmp_path, validation=few) == ""
    assert data.load(path, validation=few).validation.cond.unique().tolist() == [0, 2]
