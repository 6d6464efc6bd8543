"""Arrays of the user's own that numpy maps: they stay in their file, with the bits of memory's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep import data
from fewstep.base.conditions import tensor
from fewstep.base.mapped import first_byte, writable
from fewstep.data.description import describe
from fewstep.data.stored import Stored

RANDOM = np.random.default_rng(0)
RECORD = np.dtype([("x", "<f4", (3, 2)), ("size", "<i8", (2,)), ("there", "?", (1, 2))], align=True)


def anonymous():
    """Bytes of this process's memory that no file stands behind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("Anonymous:")))


def views(path):
    """Mapped arrays by what is unusual about them."""
    rows = np.memmap(path, RECORD, "w+", 64, (50,))  # behind something else
    rows["x"] = RANDOM.normal(2, 3, (50, 3, 2))
    rows["size"] = RANDOM.integers(0, 9, (50, 2))
    rows["there"] = RANDOM.random((50, 1, 2)) < 0.8
    rows.flush()
    rows = np.memmap(path, RECORD, "r", 64, (50,))
    return {
        "a field": rows["x"],
        "some rows": rows["x"][7:33:2],
        "another axis first": rows["x"].swapaxes(1, 2),
        "a part": rows["x"][:, 1:],
        "whole numbers": rows["size"],
        "booleans": rows["there"],
    }


def test_what_is_opened_to_be_read_is_mapped_anew(tmp_path):
    for view in views(tmp_path / "x").values():
        again = writable(view)
        assert np.array_equal(again, view)
        assert again.strides == view.strides
        again[...] = 0
        assert view.any()
        value = tensor("x", view)
        assert np.array_equal(value, view)
        assert value.data_ptr() != torch.as_tensor(view.copy()).data_ptr()
        assert value.stride() == tuple(step // view.itemsize for step in view.strides)


def test_a_file_that_is_gone_is_copied(tmp_path):
    view = views(tmp_path / "x")["a field"]
    (tmp_path / "x").unlink()
    assert np.array_equal(tensor("x", view), view)


def test_the_place_in_the_file(tmp_path):
    numbers = np.arange(3000.0)
    np.save(tmp_path / "x.npy", numbers)
    rows = np.load(tmp_path / "x.npy", mmap_mode="r")
    for first in (0, 1, 2000):
        content = (tmp_path / "x.npy").read_bytes()[first_byte(rows[first:]) :]
        assert np.array_equal(np.frombuffer(content), numbers[first:])


def test_a_mapped_array_gives_the_data_set_of_one_in_memory(tmp_path):
    own = views(tmp_path / "x")
    parts = {"size": own["whole numbers"], "mask": own["booleans"], "label": np.arange(50) // 2}
    mapped = {"x0": own["a field"], "cond": parts}
    plain = {"x0": own["a field"].copy(), "cond": {k: np.array(v) for k, v in parts.items()}}
    for units in ("standard", "as-is"):
        one, other = (data.from_tensors(x, data.Reading(units=units)) for x in (mapped, plain))
        assert isinstance(one.train.samples, Stored)
        assert isinstance(one.train.cond["size"], Stored)
        assert one.fingerprint() == other.fingerprint()
        assert one.sigma_data() == other.sigma_data()
        index = torch.tensor([3, 49, 3])
        a, b = one.train.rows(index), other.train.rows(index)
        assert torch.equal(a.x0, b.x0)
        assert all(torch.equal(a.cond[key], b.cond[key]) for key in b.cond)


def test_two_parts_of_a_file_are_told_apart(tmp_path):
    """What is remembered of one is not taken for the other's."""
    rows = RANDOM.normal(0, 1, (40, 3)).astype(np.float32)
    rows[20:] *= 7
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    how = data.Reading(units="as-is")
    for part in (slice(20), slice(20, 40)):
        for values in (mapped[part], mapped[part].view(np.int32)):
            one, other = (data.from_tensors(x, how) for x in (values, np.array(values)))
            assert one.sigma_data() == other.sigma_data()
            assert one.fingerprint() == other.fingerprint()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells it")
def test_a_mapped_array_takes_no_memory(tmp_path):
    rows, size = 400, 2**16
    values = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, 4, size // 4))
    for row in range(rows):
        values[row] = row % 7
    values.flush()
    del values
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    there = np.lib.format.open_memmap(tmp_path / "m.npy", "w+", bool, (rows, 1, size // 4))
    there[...] = True
    there.flush()
    there = np.load(tmp_path / "m.npy", mmap_mode="r")

    def learn(rows):
        arrays = {"x0": mapped[:rows], "cond": {"mask": there[:rows]}}
        dataset = data.from_tensors(arrays, data.Reading(units="as-is", latents="mean-logvar"))
        dataset.fingerprint()
        dataset.train.rows(torch.arange(2))
        return dataset

    learn(40)  # what the first call takes
    before = anonymous()
    kept = learn(rows)
    assert anonymous() - before < mapped.nbytes / 2
    assert len(kept.train) == rows


def test_classes_of_rows_that_are_not_looked_at_are_no_empty_ones(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fewstep.data.description.LOOKED_AT_NUMBERS", 30)
    np.save(tmp_path / "x.npy", RANDOM.normal(0, 1, (40, 3)))
    labels = np.arange(40)
    labels[39] = 0
    arrays = {"x0": np.load(tmp_path / "x.npy", mmap_mode="r"), "cond": labels}
    values = describe(data.from_tensors(arrays))
    assert values.classes == tuple((str(label), 1 + (label == 0)) for label in range(39))
    assert not any("classes" in mark for mark in values.marks)
    labels[20] = 0
    (mark,) = (m for m in describe(data.from_tensors(arrays)).marks if "classes" in m)
    assert mark == "classes without a training row: 20"
