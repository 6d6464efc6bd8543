"""What is kept of a source is what the same words would read of it now."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data import large_tables
from fewstep.data.stored import Stored
from tests.data.test_large import RANDOM, N, Y, png, same, write_parquet


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
    look = large_tables._Text.look

    def look_and_write(*args):
        text = look(*args)
        path.write_text(two_columns(6, 2 * N))
        return text

    with monkeypatch.context() as patch:
        patch.setattr(large_tables._Text, "look", look_and_write)
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
