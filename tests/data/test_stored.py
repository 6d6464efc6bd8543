"""Data that stay in a file: the bits of those in memory, made once, resumable, and watched."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data import gathering, records, stored
from fewstep.data.stored import Stored
from fewstep.run.build import build_method, with_defaults
from fewstep.run.facts import facts_of
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from tests.support.toys import killed_before, tiny_run


def png(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def pictures(count, side=5, colour=True, seed=0):
    shape = (count, side, side, 3)[: 4 if colour else 3]
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_zip(path, files, labels=None):
    with zipfile.ZipFile(path, "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
        if labels is not None:
            target.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def zip_of(path, values, **more):
    files = {f"{i:04d}.png": png(one) for i, one in enumerate(values)}
    labels = [[name, i % 3] for i, name in enumerate(files)]
    return write_zip(path, {**files, **more}, labels)


def same(one, other):
    assert one.fingerprint() == other.fingerprint()
    assert (one.units, one.classes, one.names) == (other.units, other.classes, other.names)
    assert one.sigma_data() == other.sigma_data()
    for split in ("train", "validation", "test"):
        a, b = getattr(one, split), getattr(other, split)
        assert torch.equal(a.x0, b.x0)
        assert (a.cond is None) == (b.cond is None)
        assert a.cond is None or torch.equal(a.cond, b.cond)


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("colour", [True, False])
def test_kept_pictures_are_those_in_memory_bit_for_bit(tmp_path, size, colour):
    path = zip_of(tmp_path / "x.zip", pictures(60, colour=colour))
    plain, kept = data.load(path, size), data.load(path, size, cache=str(tmp_path / "cache"))
    assert isinstance(plain.train.samples, torch.Tensor)
    assert isinstance(kept.train.samples, Stored)
    same(plain, kept)
    same(plain, kept.in_memory())
    same(plain.without_labels(), kept.without_labels())


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=5)
def test_batches_do_not_depend_on_where_the_data_are(tmp_path_factory, seed, step):
    folder = tmp_path_factory.mktemp("data")
    path = zip_of(folder / "x.zip", pictures(50, seed=seed))
    drawn = []
    for dataset in (data.load(path), data.load(path, cache=str(folder))):
        run = with_defaults(replace(tiny_run(), seed=seed % 2**31))
        stage = Stage(run, build_method(run, facts_of(run, dataset)))
        drawn.append(draw_batch(stage, dataset.train, step))
    assert torch.equal(drawn[0].x0, drawn[1].x0)
    assert torch.equal(drawn[0].z, drawn[1].z)
    assert torch.equal(drawn[0].cond, drawn[1].cond)


def test_kinds_of_pictures_that_are_mixed_are_kept_as_in_memory(tmp_path):
    deep = pictures(1, colour=False)[0].astype(np.uint16) * 200
    for name, other in {"colour": pictures(1)[0], "deep": deep}.items():
        values = [*pictures(30, colour=False), other, *pictures(30, colour=False, seed=1)]
        path = zip_of(tmp_path / f"{name}.zip", values)
        same(data.load(path), data.load(path, cache=str(tmp_path / "cache")))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(gathering, "BLOCK", 4)
    monkeypatch.setattr(records, "ENOUGH", 500)


@pytest.mark.parametrize("call", range(0, 40, 3))
def test_a_pass_that_is_killed_anywhere_goes_on_from_what_is_on_the_disk(
    tmp_path, small_blocks, call
):
    path = zip_of(tmp_path / "x.zip", pictures(50))
    whole = data.load(path)
    cache = str(tmp_path / "cache")
    with killed_before(call):
        data.load(path, cache=cache)
    same(whole, data.load(path, cache=cache))


def folder_of_killed_pass(path, cache):
    """Where a pass over the pictures ended half way."""
    with killed_before(30):
        data.load(path, cache=str(cache))
    (journal,) = cache.glob("*/whole/journal")
    assert len(journal.read_text().splitlines()) > 3
    return journal.parent


def test_what_a_killed_pass_left_is_used_up_to_what_has_changed_since(
    tmp_path, monkeypatch, small_blocks
):
    values, source, cache = pictures(50), tmp_path / "pictures", tmp_path / "cache"
    source.mkdir()
    for i, one in enumerate(values):
        (source / f"{i:02d}.png").write_bytes(png(one))
    folder_of_killed_pass(source, cache)
    (source / "20.png").write_bytes(png(255 - values[20]))
    os.utime(source / "20.png", ns=(1, 1))
    names = decoded(monkeypatch)
    kept = data.load(source, cache=str(cache))
    assert len(names) == 50 - 16  # blocks of eight
    same(data.load(source), kept)


@pytest.mark.parametrize("damage", ["a byte", "a version"])
def test_what_a_killed_pass_left_is_checked(tmp_path, monkeypatch, small_blocks, damage):
    path, cache = zip_of(tmp_path / "x.zip", pictures(50)), tmp_path / "cache"
    folder = folder_of_killed_pass(path, cache)
    if damage == "a byte":
        content = bytearray((folder / "records").read_bytes())
        content[3] ^= 1
        (folder / "records").write_bytes(content)
    else:
        for module in ("records", "picture_sets"):
            monkeypatch.setattr(f"fewstep.data.{module}.VERSION", records.VERSION + 1)
    names = decoded(monkeypatch)
    kept = data.load(path, cache=str(cache))
    assert len(names) == 50
    same(data.load(path), kept)


def decoded(monkeypatch):
    """The names that are decoded from now on."""
    names = []
    own = gathering.read_picture
    monkeypatch.setattr(
        gathering, "read_picture", lambda name, file: names.append(name) or own(name, file)
    )
    return names


def test_what_was_decoded_once_is_not_decoded_again(tmp_path, monkeypatch, small_blocks):
    path = zip_of(tmp_path / "x.zip", pictures(30))
    names = decoded(monkeypatch)
    report = data.scan(path, cache=str(tmp_path / "cache"))
    assert len(names) == 30
    first = data.load(path, cache=str(tmp_path / "cache"))
    assert data.scan(path, cache=str(tmp_path / "cache")) == report == data.scan(path)
    names.clear()
    same(first, data.load(path, cache=str(tmp_path / "cache")))
    assert not names


def test_a_source_that_has_changed_is_noticed(tmp_path, monkeypatch, small_blocks):
    folder, values = tmp_path / "pictures", pictures(40)
    folder.mkdir()
    for i, one in enumerate(values):
        (folder / f"{i:02d}.png").write_bytes(png(one))
    cache = str(tmp_path / "cache")
    before = data.load(folder, cache=cache)
    values[30] = 255 - values[30]
    (folder / "30.png").write_bytes(png(values[30]))
    os.utime(folder / "30.png", ns=(1, 1))
    names = decoded(monkeypatch)
    after = data.load(folder, cache=cache)
    same(after, data.load(folder))
    assert before.fingerprint() != after.fingerprint() or before.test.x0 is not after.test.x0
    assert any(name.endswith("30.png") for name in names)


def test_records_that_somebody_changed_are_made_again(tmp_path, caplog):
    path = zip_of(tmp_path / "x.zip", pictures(30))
    cache = str(tmp_path / "cache")
    whole = data.load(path, cache=cache).in_memory()
    (file,) = Path(cache).glob("*/whole/records")
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    same(whole, data.load(path, cache=cache))
    assert "was changed by somebody" in caplog.text
    caplog.clear()
    with file.open("ab") as target:
        target.write(b"more")
    same(whole, data.load(path, cache=cache))
    assert "was changed by somebody" in caplog.text
    os.utime(file, ns=(5, 5))  # a copy with another time is as good
    caplog.clear()
    same(whole, data.load(path, cache=cache))
    assert not caplog.text


def test_bad_pictures_are_refused_or_left_out_as_in_memory(tmp_path):
    path = zip_of(tmp_path / "x.zip", pictures(20), **{"0007.png": b"no picture"})
    cache = str(tmp_path / "cache")
    with pytest.raises(UserError, match=r"0007\.png: is no picture"):
        data.load(path, cache=cache)
    same(data.load(path, bad_files="skip"), data.load(path, bad_files="skip", cache=cache))
    with pytest.raises(UserError, match=r"0007\.png: is no picture"):  # also from the records
        data.load(path, cache=cache)
    assert list(data.scan(path, cache=cache).bad) == ["0007.png"]


def test_pictures_of_another_size_than_most_are_left_out_wherever_they_stand(tmp_path):
    values = [pictures(1, side=3)[0], *pictures(12)]
    path = zip_of(tmp_path / "x.zip", values)
    cache = str(tmp_path / "cache")
    same(data.load(path, bad_files="skip"), data.load(path, bad_files="skip", cache=cache))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
def test_a_large_array_stays_in_its_file(tmp_path, monkeypatch, dtype):
    values = np.random.default_rng(0).normal(20, 5, (200, 3, 6, 6)).clip(0, 255).astype(dtype)
    values[:, :, 0, 0] = 0
    values[0, 0, 0, 1] = 255
    np.save(tmp_path / "x.npy", values)
    whole = data.load(tmp_path / "x.npy")
    monkeypatch.setattr("fewstep.data.tables.MOST_NUMBERS", 100)
    large = data.load(tmp_path / "x.npy")
    assert isinstance(large.train.samples, Stored)
    same(whole, large)
    assert (tmp_path / "x.npy.fewstep" / "facts.json").exists()
    values[3] = 0
    np.save(tmp_path / "x.npy", values)
    assert data.load(tmp_path / "x.npy").fingerprint() != whole.fingerprint()


def test_a_column_that_is_the_same_in_all_rows_counts_in_no_deviation(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(20, 5, (200, 4)).astype(np.float32)
    values[:, 1] = 7
    np.save(tmp_path / "x.npy", values)
    whole = data.load(tmp_path / "x.npy")
    monkeypatch.setattr("fewstep.data.tables.MOST_NUMBERS", 100)
    same(whole, data.load(tmp_path / "x.npy"))
    assert whole.sigma_data() == pytest.approx(0.5, rel=0.05)


def test_nan_in_a_large_array_is_one_line(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    values[31, 2] = np.nan
    np.save(tmp_path / "x.npy", values)
    monkeypatch.setattr("fewstep.data.tables.MOST_NUMBERS", 10)
    with pytest.raises(
        UserError, match="1 of 50 samples hold NaN or infinity, the first is sample 31"
    ):
        data.load(tmp_path / "x.npy")


def test_facts_are_found_out_once(tmp_path, monkeypatch):
    path = zip_of(tmp_path / "x.zip", pictures(30))
    cache = str(tmp_path / "cache")
    first = data.load(path, cache=cache)
    facts = first.sigma_data(), first.fingerprint()
    monkeypatch.setattr(Stored, "deviation", lambda self: pytest.fail("measured again"))
    monkeypatch.setattr(Stored, "blocks", lambda self: pytest.fail("read again"))
    again = data.load(path, cache=cache)
    assert (again.sigma_data(), again.fingerprint()) == facts


def test_rows_of_a_file_are_taken_as_those_of_a_tensor(tmp_path):
    path = zip_of(tmp_path / "x.zip", pictures(30))
    rows = data.load(path, cache=str(tmp_path)).train
    index = torch.tensor([3, 0, 3])
    assert torch.equal(rows.rows(index).x0, rows.x0[index])
    assert torch.equal(rows.select(index).x0, rows.x0[index])
    assert torch.equal(torch.cat(list(rows.blocks())), rows.x0)
    assert len(rows.select(index)) == 3
    assert rows.shape == tuple(rows.x0.shape[1:])


def test_the_place_of_a_cache_is_beside_the_data_or_where_the_user_says(tmp_path, monkeypatch):
    path = tmp_path / "x.zip"
    assert stored.beside(path) == tmp_path / "x.zip.fewstep"
    monkeypatch.setattr(os, "access", lambda *_: False)  # where nothing can be written
    assert stored.beside(path).parent.name == "data"
