"""Sources that are kept in files: the bits of those in memory, made once, resumable, watched."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from fewstep import data
from fewstep.base.conditions import leaves
from fewstep.base.errors import UserError
from fewstep.base.randomness import normal
from fewstep.base.world import World
from fewstep.data import large_csv, large_tables, streams
from fewstep.data.stored import Stored
from fewstep.run.build import build_method, with_defaults
from fewstep.run.facts import facts_of
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch
from tests.support.toys import killed_before, tiny_run

RANDOM = np.random.default_rng(0)
N = 60
X = RANDOM.normal(20, 5, (N, 3, 4)).astype(np.float32)
Y = np.arange(N) % 3
CITIES = np.array(["Bonn", "Ulm", "Köln"])[RANDOM.integers(0, 3, N)]


def same(one, other):
    """Whether two data sets agree in every bit, but for where their rows are."""
    assert one.fingerprint() == other.fingerprint()
    assert (one.units, one.classes, one.names) == (other.units, other.classes, other.names)
    assert (one.cond_units, one.left_out) == (other.cond_units, other.left_out)
    assert one.sigma_data() == other.sigma_data()
    for split in ("train", "validation", "test"):
        a, b = getattr(one, split), getattr(other, split)
        index = torch.tensor([1, 0, 1] if len(a) else [], dtype=torch.int64)
        assert torch.equal(a.x0, b.x0)
        assert torch.equal(a.rows(index).x0, b.rows(index).x0)
        left, right = leaves(a.rows(index).cond), leaves(b.rows(index).cond)
        for (name, part), (also, twin) in zip(left, right, strict=True):
            assert name == also
            assert part.dtype == twin.dtype
            assert torch.equal(part, twin)


def numbers_table():
    return {
        "a": RANDOM.normal(5, 2, N),
        "b": np.arange(N) * 3 % 17,
        "city": CITIES,
        "label": np.array(["x", "y"])[np.arange(N) % 2],
        "note": [f"text {i}" for i in range(N)],
        "c": RANDOM.normal(0, 1, N).astype(np.float32),
    }


def write_parquet(path, table, rows_of_a_group=25):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(table), path, row_group_size=rows_of_a_group)
    return str(path)


def write_csv(path, table, mark=",", point="."):
    names = list(table)
    rows = zip(*table.values(), strict=True)
    lines = [mark.join(names), *(mark.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines).replace(".", point) + "\n")
    return str(path)


def lists(x):
    return x.tolist()


def _npz(folder):
    mask = np.arange(4) < 1 + np.arange(N)[:, None] % 4
    points = np.moveaxis(X, 1, 2)
    np.savez_compressed(folder / "x.npz", x0=points, mask=mask, label=Y, features=X[:, 0])
    return str(folder / "x.npz"), {}


def _safetensors(folder):
    save_file({"x0": X, "label": Y, "features": X[:, 1] ** 2}, folder / "x.safetensors")
    return str(folder / "x.safetensors"), {}


def _netcdf(folder):
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(folder / "x.nc", "w") as file:
        for name, size in (("time", N), ("y", 3), ("x", 4)):
            file.createDimension(name, size)
        one = file.createVariable("v", "i2", ("time", "y", "x"), fill_value=-9)
        one.scale_factor = 0.01
        one[:] = np.ma.MaskedArray(X, RANDOM.random(X.shape) < 0.1)
    return f"{folder / 'x.nc'}:v", {}


def _hdf5(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.h5", "w") as file:
        file["v"] = X
    return f"{folder / 'x.h5'}:v", {}


def _parquet(folder):
    path = write_parquet(folder / "x.parquet", numbers_table())
    return path, {"condition_columns": ("c", "city")}


def _shards(folder):
    table = numbers_table()
    for part in range(3):
        rows = slice(20 * part, 20 * part + 20)
        shard = {name: values[rows] for name, values in table.items()}
        write_parquet(folder / f"train-{part}-of-3.parquet", shard, 7)
    return str(folder / "train-*.parquet"), {}


def _arrays_in_parquet(folder):
    table = {"x": lists(X), "label": Y, "features": lists(X[:, 0])}
    return write_parquet(folder / "x.parquet", table), {}


def _bytes_in_parquet(folder):
    whole = RANDOM.integers(0, 256, (N, 4), dtype=np.uint8)
    return write_parquet(folder / "x.parquet", {"x": list(whole)}), {}


def _csv(folder):
    return write_csv(folder / "x.csv", numbers_table()), {"label_column": "city"}


def _german_csv(folder):
    table = numbers_table()
    del table["note"]
    return write_csv(folder / "x.csv", table, ";", ","), {}


def png(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def _pictures(folder):
    pixels = RANDOM.integers(0, 256, (N, 5, 6, 3), dtype=np.uint8)
    grey = pixels[:30, :, :, 0]
    table = {"image": [*map(png, grey), *map(png, pixels[30:])], "label": Y}
    return write_parquet(folder / "x.parquet", table, 13), {"size": 4}


def _hugging_face(folder):
    datasets = pytest.importorskip("datasets")
    table = {"x": lists(X), "label": Y.tolist(), "features": lists(X[:, 1])}
    kinds = {
        "x": datasets.Array2D((3, 4), "float32"),
        "label": datasets.ClassLabel(names=["u", "v", "w"]),
        "features": datasets.Sequence(datasets.Value("float32"), 4),
    }
    whole = datasets.Dataset.from_dict(table, datasets.Features(kinds))
    whole.select(range(N - 1, -1, -1)).save_to_disk(folder / "hf")
    return f"hf:{folder / 'hf'}", {}


KINDS = [
    *(_npz, _safetensors, _netcdf, _hdf5, _parquet, _shards, _arrays_in_parquet),
    *(_bytes_in_parquet, _csv, _german_csv, _pictures, _hugging_face),
]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(streams, "ENOUGH", 100)
    monkeypatch.setattr(large_tables, "PIECE", 8)
    monkeypatch.setattr(large_tables, "BYTES", 400)
    monkeypatch.setattr(large_csv, "BYTES", 400)
    for module in ("tables", "variables", "array_sets"):
        monkeypatch.setattr(f"fewstep.data.{module}.AT_ONCE", 30)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__[1:])
def test_what_is_kept_has_the_bits_of_what_is_in_memory(tmp_path, kind, small_blocks, monkeypatch):
    path, how = kind(tmp_path)
    plain = data.load(path, **how)
    kept = data.load(path, cache=str(tmp_path / "cache"), **how)
    assert isinstance(plain.train.samples, torch.Tensor)
    assert isinstance(kept.train.samples, Stored)
    same(plain, kept)
    same(plain, kept.in_memory())
    assert data.shuffle("own data", N).tolist()[-1] == kept.order.tolist()[N - 13]
    # Once it is kept, the source is not read again.
    monkeypatch.setattr(streams.Stream, "map", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(large_tables.Pictures, "_from", lambda *_: iter(()))
    same(kept, data.load(path, cache=str(tmp_path / "cache"), **how))


def test_rows_by_their_own_limit_are_kept_beside_the_data(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x=X)
    np.savez(tmp_path / "y.npz", x=X[:, 0, 0], label=Y)
    table = numbers_table()
    write_parquet(tmp_path / "part-1.parquet", {"a": table["a"], "b": table["b"]})
    names = ["x.npz", "y.npz", "part-*.parquet"]
    plain = [data.load(tmp_path / name) for name in names]
    monkeypatch.setattr(streams, "MOST_NUMBERS", 50)
    for name, one in zip(names, plain, strict=True):
        same(one, data.load(tmp_path / name))
        place = tmp_path / f"{name.replace('*', '_')}.fewstep"
        assert len([*place.glob("rows-*/records")]) == 1


@pytest.mark.parametrize("units", ["robust", "quantile", "whole", "0..99", "as-is"])
def test_all_units_of_a_kept_table_are_those_in_memory(tmp_path, units):
    path = write_parquet(tmp_path / "x.parquet", {"a": RANDOM.gamma(2, 5, N), "b": Y, "label": Y})
    how = {"units": units, "label_column": "label"}
    same(data.load(path, **how), data.load(path, cache=str(tmp_path / "c"), **how))


def test_splits_and_conditions_of_their_own_files_go_with_kept_rows(tmp_path):
    rows = {name: tmp_path / f"{name}.npz" for name in ("a", "b", "c")}
    for shift, path in enumerate(rows.values()):
        np.savez(path, x=X + shift)
    np.save(tmp_path / "cond.npy", X[:, 0] ** 2)
    mask = np.arange(4) < 1 + np.arange(N)[:, None] % 4
    np.savez(tmp_path / "mask.npz", mask=mask[:, None])
    cache = str(tmp_path / "cache")
    for how in (
        {"validation": str(rows["b"]), "test": str(rows["c"])},
        {"validation": str(rows["b"]), "holdout": 7.0},
        {"cond": str(tmp_path / "cond.npy"), "holdout": 0.2},
        {"cond": str(tmp_path / "mask.npz"), "channel_axis": 1},
        {"holdout": 0.0},
    ):
        plain, kept = data.load(rows["a"], **how), data.load(rows["a"], cache=cache, **how)
        same(plain, kept)
        if "validation" not in how:
            same(data.without_split(plain), data.without_split(kept))


@pytest.mark.parametrize("kind", [_npz, _parquet, _csv, _netcdf], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("call", [7, 15, 24, 40])
def test_a_pass_that_is_killed_goes_on(tmp_path, monkeypatch, small_blocks, kind, call):
    path, how = kind(tmp_path)
    whole = data.load(path, **how)
    how_kept = {"cache": str(tmp_path / "cache"), **how}
    with killed_before(call):
        data.load(path, **how_kept)
    journals = [*(tmp_path / "cache").glob("*/*/journal")]
    lines = journals[0].read_text().splitlines() if journals else ["{}"]
    before = [*map(json.loads, lines)][1:]
    written = []
    own = streams._Writer._flush
    monkeypatch.setattr(streams._Writer, "_flush", lambda *a: written.append(a) or own(*a))
    same(whole, data.load(path, **how_kept))
    rows = sum(block["rows"] for block in before) + sum(len(b) for a in written for b in a[3])
    parts = {a[1] for a in written} | {block["part"] for block in before}
    assert rows == N * len(parts)  # none was read twice


def test_a_source_that_has_changed_is_read_again_and_so_are_records_that_somebody_changed(
    tmp_path, caplog
):
    path, cache = tmp_path / "x.npz", str(tmp_path / "cache")
    np.savez(path, x=X)
    before = data.load(path, cache=cache)
    (file,) = Path(cache).glob("*/*/records")
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    again = data.load(path, cache=cache)
    assert "was changed by somebody" in caplog.text
    same(data.load(path), again)
    np.savez(path, x=X + 1)
    after = data.load(path, cache=cache)
    same(after, data.load(path))
    assert after.fingerprint() != before.in_memory()._fingerprint()


def test_mistakes_in_large_tables_are_one_line(tmp_path, small_blocks):
    def load(table, **how):
        path = write_parquet(tmp_path / "bad.parquet", table)
        data.load(path, cache=str(tmp_path / "cache"), **how)

    ragged = [[1.0, 2.0]] * 40 + [[1.0]] + [[1.0, 2.0]] * 19
    with pytest.raises(UserError, match=r"column x differ in length|of one shape"):
        load({"x": ragged})
    with pytest.raises(UserError, match="column a: row 41 is nan"):
        load({"a": np.where(np.arange(N) == 41, np.nan, 1.0), "b": Y})
    with pytest.raises(UserError, match="column a: row 41 is null"):
        load({"a": [None if i == 41 else 1.0 + i for i in range(N)], "b": Y})
    good = png(np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="image of row 3: it holds no bytes"):
        load({"image": [good, good, good, {"bytes": None, "path": "x"}] * 15})
    write_parquet(tmp_path / "train-0.parquet", {"a": X[:, 0, 0]})
    write_parquet(tmp_path / "test-0.parquet", {"a": X[:, 0, 0]})
    (tmp_path / "bad.parquet").unlink()
    with pytest.raises(UserError, match=r"holds the splits test, train.*train\*\.parquet"):
        data.load(str(tmp_path))
    write_parquet(tmp_path / "train-1.parquet", {"b": X[:, 0, 0]})
    with pytest.raises(UserError, match="has the columns b"):
        data.load(str(tmp_path / "train-*.parquet"))
    with pytest.raises(UserError, match="no file"):
        data.load(str(tmp_path / "none-*.parquet"))


def test_a_run_finds_the_rows_of_its_own_columns(tmp_path):
    path, how = _parquet(tmp_path)
    how["cache"] = str(tmp_path / "cache")
    first = data.load(path, **how)
    again = data.load(
        path,
        **how,
        origin_units=first.units,
        origin_cond_units=first.cond_units,
        origin_columns=first.names.columns,
    )
    same(first, again)
    assert len([*Path(how["cache"]).glob("*/*/records")]) == 1


def write_latents(path, moments, labels=None):
    with zipfile.ZipFile(path, "w") as target:
        names = [f"{i // 20:05d}/img-mean-std-{i:08d}.npy" for i in range(len(moments))]
        for name, row in zip(names, moments, strict=True):
            file = io.BytesIO()
            np.save(file, row)
            target.writestr(name, file.getvalue())
        if labels is not None:
            pairs = [[name, int(label)] for name, label in zip(names, labels, strict=True)]
            target.writestr("dataset.json", json.dumps({"labels": pairs}))
    return str(path)


MEANS = RANDOM.normal((5.81, 3.25, 0.12, -2.15), (4, 4, 3, 3), (N, 2, 3, 4)).astype(np.float32)
MEANS = np.ascontiguousarray(np.moveaxis(MEANS, 3, 1))
STDS = RANDOM.uniform(0.1, 0.5, MEANS.shape).astype(np.float32)


def latents(folder, second=STDS):
    return write_latents(folder / "latents.zip", np.concatenate([MEANS, second], 1), Y)


def drawn(dataset, step, seed=0):
    run = with_defaults(replace(tiny_run(), seed=seed))
    stage = Stage(run, build_method(run, facts_of(run, dataset)))
    return draw_batch(stage, dataset.train, step)


def test_latents_are_mean_plus_std_times_noise_of_the_step(tmp_path):
    path = latents(tmp_path)
    whole = data.load(path, latents="mean-std", units="edm2-latents", holdout=0)
    batch = drawn(whole, 0)
    run = tiny_run()
    shape = (run.batch, *whole.shape)
    noise = normal(run.seed, "latents", 0, run.batch, shape[1:], run.block)
    rows = whole.order[batch.rows].numpy()
    raw = torch.from_numpy(MEANS[rows]) + torch.from_numpy(STDS[rows]) * noise
    scale = 0.5 / torch.tensor([4.17, 4.62, 3.71, 3.28])[:, None, None]
    bias = -torch.tensor([5.81, 3.25, 0.12, -2.15])[:, None, None] * scale
    torch.testing.assert_close(batch.x0, raw * scale + bias, atol=1e-6, rtol=1e-6)
    assert torch.equal(batch.cond, torch.from_numpy(Y[rows]))
    torch.testing.assert_close(whole.units.to_user(batch.x0), raw, atol=1e-5, rtol=1e-5)
    # Every step draws anew, and the same step the same.
    again = drawn(whole, N // run.batch + 7)
    twice = set(batch.rows.tolist()) & set(again.rows.tolist())
    one = next(iter(twice))
    a, b = (part.x0[part.rows.tolist().index(one)] for part in (batch, again))
    assert not torch.equal(a, b)
    assert torch.equal(batch.x0, drawn(whole, 0).x0)


def test_log_variances_and_deviations_are_the_same_law(tmp_path, caplog):
    one = data.load(latents(tmp_path), latents="mean-std")
    np.save(tmp_path / "x.npy", np.concatenate([MEANS, 2 * np.log(STDS)], 1))
    other = data.load(tmp_path / "x.npy", latents="mean-logvar")
    assert one.shape == other.shape == (4, 2, 3)
    torch.testing.assert_close(one.test.x0, other.test.x0, atol=1e-5, rtol=1e-5)
    assert not caplog.text
    far = np.full_like(MEANS, 90.0)
    np.save(tmp_path / "far.npy", np.concatenate([MEANS, far], 1))
    assert data.load(tmp_path / "far.npy", latents="mean-logvar").units.scale[0] < 1e5
    assert "no log-variance is below 0" in caplog.text


def test_latents_do_not_depend_on_where_they_are(tmp_path, small_blocks):
    path, cache = latents(tmp_path), str(tmp_path / "cache")
    for units in ("standard", "edm2-latents", "sd-latents"):
        plain = data.load(path, latents="mean-std", units=units)
        kept = data.load(path, latents="mean-std", units=units, cache=cache)
        same(plain, kept)
        for step in (0, 5):
            assert torch.equal(drawn(plain, step).x0, drawn(kept, step).x0)
    # Validation and test have their own noise, which is the same each time.
    assert torch.equal(plain.test.x0, data.load(path, latents="mean-std", units=units).test.x0)
    assert plain.in_memory().fingerprint() == plain.fingerprint()


@given(st.integers(1, 7), st.integers(1, 5))
@settings(max_examples=5, deadline=None)
def test_ranks_draw_the_latents_of_one_process(first, step):
    moments = torch.from_numpy(np.concatenate([MEANS, STDS], 1))
    whole = data.from_tensors(moments, data.Reading(latents="mean-std"))
    run = with_defaults(replace(tiny_run(), seed=first, batch=8, block=2))
    stage = Stage(run, build_method(run, facts_of(run, whole)))
    alone = draw_batch(stage, whole.train, step)
    parts = [draw_batch(stage, whole.train, step, World(rank, 2)) for rank in range(2)]
    assert torch.equal(alone.x0, torch.cat([part.x0 for part in parts]))


@pytest.mark.parametrize(
    ("change", "law", "message"),
    [
        (lambda x: x[:, :7], "mean-std", "C means before C deviations"),
        (lambda x: x[:, :, 0, 0], "mean-std", r"shape \(60, 8\)"),
        (lambda x: x.astype(np.int16), "mean-std", "int16"),
        (lambda x: x - 1, "mean-std", "sample 0 has a deviation of -.*mean-logvar"),
        (lambda x: x * np.nan, "mean-std", "60 of 60 samples hold NaN"),
        (lambda x: x, "moments", "expected mean-std or mean-logvar"),
    ],
)
def test_wrong_moments_are_one_line(tmp_path, change, law, message):
    np.save(tmp_path / "x.npy", change(np.concatenate([MEANS, STDS], 1)))
    with pytest.raises(UserError, match=message):
        data.load(tmp_path / "x.npy", latents=law)


def test_latents_have_one_mask_for_all_channels():
    moments = torch.from_numpy(np.concatenate([MEANS, STDS], 1))
    mask = torch.ones_like(moments, dtype=torch.bool)
    need = "latents = 'mean-std': expected none, since tensor has a mask for each channel"
    how = data.Reading(latents="mean-std", units="standard")
    with pytest.raises(UserError, match=need):
        data.from_tensors({"x0": moments, "cond": {"mask": mask}}, how)
    mask = mask[:, :1].clone()
    mask[::2, :, 0] = False
    drawn = data.from_tensors({"x0": moments, "cond": {"mask": mask}}, how)
    whole = data.from_tensors({"x0": moments}, data.Reading(latents="mean-std", units="as-is"))
    is_there = mask.expand_as(drawn.train.x0)
    assert not drawn.train.x0[~is_there].any()
    assert drawn.train.x0[is_there].std() == pytest.approx(0.5, rel=1e-3)
    own = drawn.units.to_user(drawn.train.x0)[is_there]
    assert torch.allclose(own, whole.train.x0[is_there], atol=1e-5)


def test_latents_of_unlike_shapes_and_of_no_arrays_are_refused(tmp_path):
    rows = [*np.concatenate([MEANS, STDS], 1)[:4], np.zeros((8, 1, 1), np.float32)]
    with pytest.raises(UserError, match=r"00000004\.npy holds float32 .*others"):
        data.load(write_latents(tmp_path / "x.zip", rows), latents="mean-std")
    with pytest.raises(UserError, match="holds no arrays"):
        data.load(write_latents(tmp_path / "y.zip", []), latents="mean-std")
    with pytest.raises(UserError, match=r"--latents reads \.npy files"):
        data.load(latents(tmp_path))
    with pytest.raises(UserError, match="latents = mean-std: expected none with data digits"):
        data.load("digits", latents="mean-std")
    np.save(tmp_path / "three.npy", abs(MEANS[:, [0, 1, 2, 0, 1, 2]]))
    with pytest.raises(UserError, match="4 channels"):
        data.load(tmp_path / "three.npy", latents="mean-std", units="edm2-latents")
