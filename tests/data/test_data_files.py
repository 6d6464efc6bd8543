"""The same samples in any file give the same data set; each kind of picture has one rule."""

from __future__ import annotations

import io
import json
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

import fewstep as fs
from fewstep import data
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.data import images
from fewstep.data.dataset import shuffle
from fewstep.data.description import describe

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(50, 9, (30, 4, 3)).astype(np.float32)
Y = np.arange(30) % 3
PIXELS = RANDOM.integers(0, 256, (24, 3, 8, 6), dtype=np.uint8)
TINY = [
    *("--iterations", "4", "--network.width", "16", "--network.depth", "1", "--picture-every", "0"),
    *("--checkpoint-every", "4", "--log-every", "1", "--device", "cpu"),
]


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
    return str(path)


def rows(dataset):
    """All samples of a set in the user's units, sorted, and their labels."""
    parts = (dataset.train, dataset.validation, dataset.test)
    x = dataset.units.to_user(torch.cat([part.x0 for part in parts])).flatten(1).numpy()
    order = np.lexsort(x.T)
    y = (
        None
        if dataset.train.cond is None
        else torch.cat([part.cond for part in parts]).numpy()[order]
    )
    return x[order], y


def test_the_formats_agree_and_nothing_is_lost(tmp_path):
    np.save(tmp_path / "x.npy", X)
    plain = data.load(str(tmp_path / "x.npy"))
    np.testing.assert_allclose(rows(plain)[0], rows(data.from_tensors(X))[0], rtol=1e-6)
    assert [len(part.x0) for part in (plain.train, plain.validation, plain.test)] == [24, 3, 3]
    sets = [
        data.load(write(tmp_path / name, arrays))
        for name, arrays in {
            "a.npz": {"x0": X, "label": Y},
            "b.npz": {"images": X, "y": np.array(["ant", "bee", "cow"])[Y]},
            "c.safetensors": {"x": X, "cond": Y},
            "d.safetensors": {"whatever": X, "labels": Y.astype(np.int32)},
        }.items()
    ]
    assert len({s.fingerprint() for s in sets}) == 1
    assert sets[0].classes == 3
    x, y = rows(sets[0])
    order = np.lexsort(X.reshape(30, -1).T)
    np.testing.assert_allclose(x, X.reshape(30, -1)[order], rtol=1e-5)
    assert y.tolist() == Y[order].tolist()


def test_parquet_holds_arrays_columns_pictures_and_text_labels(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet

    def load(**columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return data.load(str(tmp_path / "t.parquet"))

    by_list = load(x=X.tolist(), label=[["ant", "bee", "cow"][y] for y in Y])
    assert (
        by_list.fingerprint()
        == data.load(write(tmp_path / "a.npz", {"x0": X, "label": Y})).fingerprint()
    )
    table = load(height=X[:, 0, 0], width=X[:, 1, 0], name=["n"] * 30, label=Y)
    np.testing.assert_allclose(rows(table)[0][:, 1], np.sort(X[:, 1, 0]), rtol=1e-6)
    pictures = [{"bytes": png(Image.fromarray(p.transpose(1, 2, 0))), "path": None} for p in PIXELS]
    np.testing.assert_array_equal(pixels_of(load(image=pictures)), sorted_pixels(PIXELS))
    with pytest.raises(UserError, match="the rows of column x differ in length"):
        load(x=[[1.0], [2.0, 3.0]])


def test_a_saved_hugging_face_set_is_read_column_by_column(tmp_path, monkeypatch):
    """The library itself is heavy: what it returns is played by tables of the same interface."""

    class Table(dict):
        column_names = property(lambda self: list(self))

    tables = {
        "a/pictures": {
            "train": Table(
                image=[Image.fromarray(p.transpose(1, 2, 0)) for p in PIXELS], label=[0, 1] * 12
            )
        }
    }
    fake = types.SimpleNamespace(DatasetDict=type("DatasetDict", (dict,), {}))
    fake.load_dataset = lambda name: fake.DatasetDict(tables[name])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    dataset = data.load("hf:a/pictures")
    assert (dataset.name, dataset.classes, dataset.shape) == ("hf:a/pictures", 2, (3, 8, 6))
    np.testing.assert_array_equal(pixels_of(dataset), sorted_pixels(PIXELS))
    with pytest.raises(UserError, match="cannot read hf:a/b: 'a/b'"):
        data.load("hf:a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[hf\]'"):
        data.load("hf:a/b")


def test_bytes_are_pictures_and_come_back_exactly(tmp_path):
    for same in (PIXELS, PIXELS.transpose(0, 2, 3, 1)):
        np.save(tmp_path / "p.npy", same)
        dataset = data.load(str(tmp_path / "p.npy"))
        assert dataset.units == data.Units(127.5, 127.5, clip=True)
        assert dataset.shape == (3, 8, 6)
        np.testing.assert_array_equal(pixels_of(dataset), sorted_pixels(PIXELS))
    np.save(tmp_path / "grey.npy", PIXELS[:, 0])
    assert data.load(str(tmp_path / "grey.npy")).shape == (1, 8, 6)
    np.save(tmp_path / "counts.npy", PIXELS[:, 0, 0])
    assert not data.load(str(tmp_path / "counts.npy")).units.clip
    np.save(tmp_path / "same.npy", np.full((4, 3, 8, 8), 7, np.uint8))
    with pytest.raises(UserError, match="every pixel is 7"):
        data.load(str(tmp_path / "same.npy"))


@pytest.mark.parametrize("high", [1, 16, 62])
def test_bytes_that_use_a_sliver_are_numbers_and_come_back_exactly(high, tmp_path):
    x = RANDOM.integers(0, high + 1, (60, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    dataset = data.load(str(tmp_path / "x.npy"))
    assert not dataset.units.clip
    assert np.mean(dataset.units.shift) == pytest.approx(high / 2, abs=0.05 * high)
    np.testing.assert_array_equal(pixels_of(dataset), sorted_pixels(x))
    assert data.load(str(tmp_path / "x.npy"), units="whole").units.clip
    assert data.from_tensors(x * np.uint8(255 // high)).units.clip


def pixels_of(dataset):
    return np.rint(rows(dataset)[0]).astype(np.int64)


def sorted_pixels(x):
    flat = x.reshape(len(x), -1)
    return flat[np.lexsort(flat.T)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=4),
    st.sampled_from(["<f2", "<f4", ">f8", "<i1", "<i8", ">i4", "<u2", "<u4", "?"]),
    st.integers(2, 40),
)
def test_arrays_of_any_shape_and_type_train_and_come_back(tmp_path_factory, shape, dtype, n):
    x = np.random.default_rng(n).integers(0, 2, (n, *shape)).astype(dtype)
    x.reshape(n, -1)[:2] = [[0], [1]]
    file = tmp_path_factory.mktemp("any") / "x.npy"
    np.save(file, x)
    dataset = data.load(str(file))
    assert dataset.shape == (tuple(shape) or (1,))
    assert len(dataset.train.x0) == n - 2 * (n // 10)
    np.testing.assert_allclose(rows(dataset)[0], sorted_pixels(x.astype(np.float64)), atol=1e-5)


def test_a_run_on_a_file_samples_in_its_units_and_is_scored_where_it_lies(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    np.save("series.npy", RANDOM.normal(400, 3, (300, 5)))
    train = ["train", "toy", "--data", "series.npy", "--out", "run"]
    assert main([*train, *TINY]) == 0  # batch 512 of 240
    assert main([*train, "--resume"]) == 0
    assert main(["sample", "run", "--out", "s.npy"]) == 0
    assert abs(np.load("s.npy").mean() - 400) < 30
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["eval", "../run", "--n", "30", "--steps", "1"]) == 0
    np.save("../series.npy", RANDOM.normal(400, 3, (300, 5)))
    assert main(["eval", "../run", "--n", "30", "--steps", "1"]) == 2
    (tmp_path / "series.npy").unlink()
    assert main(["eval", "../run", "--n", "30", "--steps", "1"]) == 2
    messages = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("fewstep:")
    ]
    assert "is not what this run was trained on" in messages[0]
    assert f"no file or folder series.npy in {tmp_path}" in messages[1]


def png(picture, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


HALF = np.array([[0, 128], [255, 64]], np.uint8)


def colour(mode):
    return Image.fromarray(np.stack([HALF, HALF[::-1], HALF.T], 2)).convert(mode)


def clear(mode, alpha=128):
    picture = Image.fromarray(HALF).convert("L" if mode == "LA" else "RGB")
    picture.putalpha(alpha)
    return picture


def palette():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    return picture


ON_WHITE = np.rint(255 - (255 - HALF.astype(float)) * 128 / 255)
MODES = {
    "1-bit": (png(Image.fromarray(HALF > 100)), 255 * (HALF > 100)),
    "L": (png(Image.fromarray(HALF)), HALF),
    "16-bit": (png(Image.fromarray(HALF.astype(np.uint16) * 257)), HALF * 257.0),
    "LA": (png(clear("LA")), ON_WHITE),
    "RGBA": (png(clear("RGBA")), np.stack([ON_WHITE] * 3)),
    "invisible": (png(clear("RGBA", 0)), np.full((3, 2, 2), 255)),
    "RGB": (png(colour("RGB")), np.stack([HALF, HALF[::-1], HALF.T])),
    "P": (png(palette()), [[[255, 0]], [[0, 0]], [[0, 255]]]),
    "P clear": (png(palette(), transparency=1), [[[255, 255]], [[0, 255]], [[0, 255]]]),
    "GIF": (
        png(palette(), "GIF", save_all=True, append_images=[colour("P")]),
        [[[255, 0]], [[0, 0]], [[0, 255]]],
    ),
    "CMYK": (
        png(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"),
        np.array([255, 0, 0]).reshape(3, 1, 1),
    ),
    "upright": (
        png(Image.fromarray(HALF), exif=(lambda e: e.__setitem__(274, 6) or e)(Image.Exif())),
        np.rot90(HALF, -1),
    ),
}


@pytest.mark.parametrize(("file", "target"), MODES.values(), ids=MODES.keys())
def test_each_kind_of_picture_has_its_rule(file, target):
    x = images.stack([("x", images.decode("x", io.BytesIO(file)))], None)[0]
    target = np.asarray(target)
    target = target[None] if target.ndim == 2 else target
    assert x.shape[0] == target.shape[0]
    np.testing.assert_allclose(x, np.broadcast_to(target, x.shape), atol=1)


def test_one_picture_in_colour_makes_a_set_of_three_channels():
    x = images.stack([("a", Image.fromarray(HALF)), ("b", colour("RGB"))], None)
    assert x.shape == (2, 3, 2, 2)
    assert (x[0] == HALF).all()


def test_size_crops_the_middle_and_averages():
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200
    x = images.stack([("a", Image.fromarray(wide)), ("b", Image.fromarray(wide.T))], 2)
    assert x.shape == (2, 1, 2, 2)
    assert (x == 200).all()


def folder(path, names):
    for number, name in enumerate(names):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(Image.fromarray(PIXELS[number].transpose(1, 2, 0))))
    return path


def to_zip(path):
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as out:
        for file in path.rglob("*"):
            out.write(file, file.relative_to(path).as_posix())
    return str(path.with_suffix(".zip"))


def test_a_folder_and_its_zip_are_one_set_with_classes_by_sub_folder(tmp_path, caplog):
    top = folder(tmp_path / "pets", [f"{k}/{i:02}.png" for i in range(12) for k in ("dog", "cat")])
    for extra in (".hidden.png", "cat/notes.txt", ".git/x.png", "__MACOSX/cat/._1.png"):
        (top / extra).parent.mkdir(parents=True, exist_ok=True)
        (top / extra).write_bytes(b"nothing")
    dataset, in_zip = data.load(str(top)), data.load(to_zip(top))
    assert "skipped 1 files that are no pictures, the first is cat/notes.txt" in caplog.text
    assert dataset.fingerprint() == in_zip.fingerprint()
    assert dataset.classes == 2
    x, y = rows(dataset)
    order = np.lexsort(PIXELS.reshape(24, -1).T)
    np.testing.assert_allclose(x, PIXELS.reshape(24, -1)[order], atol=1e-4)
    assert y.tolist() == [1 - int(k % 2) for k in order]  # cat is 0, dog is 1
    folder(top, ["stray.png"])
    with pytest.raises(UserError, match=r"stray\.png lies beside sub-folders"):
        data.load(str(top))


@pytest.mark.parametrize("labels", ["whole", "vectors", None, "lost", "broken"])
def test_edms_zip_with_its_dataset_json(tmp_path, labels):
    names = [f"0000{i % 2}/img{i:08}.png" for i in range(24)]
    top = folder(tmp_path / "edm", names)
    table = {
        "whole": [[n, i % 3] for i, n in enumerate(names)],
        "vectors": [[n, [i / 2, 1.0]] for i, n in enumerate(names)],
        "lost": [[n, 0] for n in names[:-1]],
        "broken": [1, 2],
        None: None,
    }[labels]
    (top / "dataset.json").write_text(json.dumps({"labels": table}))
    if labels in ("lost", "broken"):
        with pytest.raises(UserError, match=r"no label for 00001/img00000023|expected {"):
            data.load(to_zip(top))
        return
    dataset = data.load(to_zip(top))
    assert dataset.classes == (3 if labels == "whole" else 0)
    if labels is None:
        assert dataset.train.cond is None
        return
    order = np.lexsort(PIXELS.reshape(24, -1).T)
    target = order % 3 if labels == "whole" else np.stack([order / 2, np.ones(24)], 1)
    cond = dataset.user_cond(torch.from_numpy(rows(dataset)[1]).float())
    np.testing.assert_allclose(cond, target, rtol=1e-6, atol=1e-6)


def test_damage_and_misfits_are_named_in_one_line(tmp_path):
    whole = png(Image.fromarray(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)))
    cases = {
        "cut": (
            {"a.png": whole, "b.png": whole[: len(whole) // 2]},
            r"b\.png: .*remove or repair it",
        ),
        "text": ({"a.jpg": b"hello"}, r"a\.jpg: is no picture"),
        "sizes": (
            {"a.png": whole, "b.png": png(Image.new("L", (3, 5)))},
            r"b\.png is 3x5, .*a\.png is 64x64: --data-size",
        ),
        "float": (
            {"a.tiff": png(Image.fromarray(np.eye(3, dtype=np.float32)), "TIFF")},
            r"a\.tiff: floats",
        ),
        "none": ({"a.csv": b"1,2"}, "holds no pictures"),
        "empty": ({}, "holds no pictures"),
    }
    for name, (files, message) in cases.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            data.load(str(tmp_path / name))
        assert "\n" not in str(error.value)
    assert data.load(str(tmp_path / "sizes"), 4).shape == (1, 4, 4)
    (tmp_path / "x.zip").write_bytes(b"PK no zip")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.savez(tmp_path / "two.npz", a=X, b=X)
    np.save(tmp_path / "x.npy", X)
    for name, message in {
        "x.zip": "cannot read .*x.zip",
        "objects.npy": "Python objects, which are never loaded",
        "text.npy": "cannot read .*text.npy: an array of <U1, expected numbers",
        "two.npz": "holds a, b: expected samples under x0",
        "gone.npy": "no file or folder gone.npy in",
        "x.npy": r"data_size = 4: expected none: only pictures are resized",
    }.items():
        with pytest.raises(UserError, match=message):
            data.load(str(tmp_path / name), 4 if name == "x.npy" else None)
    (tmp_path / "x.txt").write_text("1,2")
    with pytest.raises(UserError, match=r"x\.txt: expected a folder, \.zip, \.npy"):
        fs.train(fs.recipes.toy(data=str(tmp_path / "x.txt")))


def test_arrays_under_unknown_names_and_doubled_roles_are_refused(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    cases = {
        "unknown array of .*'lables': did you mean 'labels'": {"x": x, "lables": np.arange(20) % 3},
        "label and labels, which mean the same": {
            "x": x,
            "label": np.arange(20) % 3,
            "labels": np.arange(20) % 2,
        },
        "x0 and x, which mean the same": {"x0": x, "x": x},
        "labels holds numbers that are not whole": {"x": x, "labels": np.linspace(0, 1, 20)},
    }
    for message, arrays in cases.items():
        np.savez(tmp_path / "d.npz", **arrays)
        with pytest.raises(UserError, match=message):
            data.read(str(tmp_path / "d.npz"))


def test_booleans_are_labels(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(40.0).reshape(20, 2), labels=np.arange(20) % 2 == 0)
    assert data.load(str(tmp_path / "d.npz")).classes == 2


def test_what_is_held_out_does_not_move_the_scale(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 2))
    np.save(tmp_path / "a.npy", x)
    first = data.load(str(tmp_path / "a.npy"))
    out = np.setdiff1d(np.arange(200), shuffle("own data", 200)[40:].numpy())
    x[out] += 100
    np.save(tmp_path / "a.npy", x)
    again = data.load(str(tmp_path / "a.npy"))
    assert again.fingerprint() == first.fingerprint()
    assert again.units == first.units
    assert again.test.x0.mean() > 10


def test_labels_that_never_occur_are_told(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.arange(40.0).reshape(20, 2), labels=1 + np.arange(20) % 3)
    marks = describe(data.load(str(tmp_path / "d.npz"))).marks
    assert "classes without a training row: 0" in marks


def test_a_training_file_is_a_condition_to_sample_with(tmp_path):
    features, mask = np.ones((5, 3), np.float32), np.ones((5, 2), bool)
    np.savez(tmp_path / "f.npz", x=np.zeros((5, 2)), features=features)
    assert np.array_equal(data.read_condition(tmp_path / "f.npz"), features)
    np.savez(tmp_path / "m.npz", x=np.zeros((5, 2)), y=np.arange(5), mask=mask)
    assert data.read_condition(tmp_path / "m.npz").keys() == {"label", "mask"}
