"""Bad pictures follow the policy, with their labels; hostile files are refused in one line."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import fewstep as fs
from fewstep import data
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.data import gathering, images
from fewstep.data.decoding import damage
from fewstep.data.description import describe
from fewstep.run.config import run_from_json
from tests.support import hostile_data
from tests.support.hostile_data import SIDE, encode, fuzz_data, pack, photo

IMAGES = hostile_data.images(0)
ARCHIVES = hostile_data.archives(0)
GOOD = [name for name in IMAGES if name.startswith("good")]
BAD = [name for name in IMAGES if name.startswith("bad")]
RANDOM = np.random.default_rng(0)


def levels(names, side=4) -> dict[str, bytes]:
    """A grey picture for each name, all of whose pixels are its number."""
    return {name: encode(Image.new("L", (side, side), number)) for number, name in enumerate(names)}


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def to_zip(path: Path, files: dict[str, bytes]) -> str:
    path.write_bytes(pack(list(files.items())))
    return str(path)


def one_line(error: BaseException) -> str:
    assert str(error).isprintable()
    return str(error)


@pytest.mark.parametrize("name", BAD)
def test_every_bad_picture_is_named_by_fail_and_counted_by_skip(name, tmp_path, caplog):
    files = {
        "1.png": IMAGES["good-rgb.png"],
        "2.png": IMAGES["good-16-bit.png"],
        name: IMAGES[name],
    }
    for place in (write(tmp_path / "x", files), to_zip(tmp_path / "x.zip", files)):
        with pytest.raises(UserError, match=rf"{name}: .+") as error:
            data.load(place, SIDE)
        assert place in one_line(error.value)
        dataset = data.load(place, SIDE, "skip")
        assert [len(dataset.train.x0), len(dataset.skipped)] == [2, 1]
        assert dataset.skipped[0] == str(error.value)
        assert f"left out 1 of 3 pictures that are bad: {place}/{name}: " in caplog.text


def test_good_pictures_of_every_kind_are_read(tmp_path):
    for place in (
        write(tmp_path / "x", {name: IMAGES[name] for name in GOOD}),
        to_zip(tmp_path / "x.zip", {name: IMAGES[name] for name in GOOD}),
    ):
        pixels = data.read(place, SIDE, "skip")["x0"]
        assert pixels.shape == (len(GOOD), 3, SIDE, SIDE)
        report = data.scan(place, SIDE)
        assert (report.pictures, report.bad, report.channels) == (len(GOOD), {}, 3)
        assert sum(report.modes.values()) == len(GOOD)
        assert report.modes["I;16"] == report.modes["CMYK"] == report.modes["LA"] == 1


def test_turned_and_broken_exif_say_how_a_picture_lies():
    wide = photo(RANDOM).resize((8, 4))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        from PIL import ImageOps

        file = encode(wide, "PNG", exif=exif)
        target = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
        np.testing.assert_array_equal(np.asarray(images.decode("x", io.BytesIO(file))), target)
    picture = images.decode("x", io.BytesIO(IMAGES["good-broken-exif.jpg"]))
    assert picture.size == (SIDE, SIDE)


def test_colour_of_sixteen_bits_keeps_its_upper_bits_and_this_is_said(tmp_path):
    values = np.linspace(0, 65535, 64).round().astype(np.uint16)
    row = b"\0" + np.repeat(values[:, None], 3, 1).astype(">u2").tobytes()
    colour = b"\x89PNG\r\n\x1a\n"
    header = b"\0\0\0\x40\0\0\0\x01\x10\x02\0\0\0"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b"")):
        colour += hostile_data.chunk(kind, body)
    grey = encode(Image.new("L", (64, 1), 200))
    files = {"a.png": colour, "b.png": colour, "c.png": grey}
    read = data.read(to_zip(tmp_path / "x.zip", files))["x0"]
    assert np.abs(read[0, :, 0].astype(float) - values / 257).max() <= 1
    (said,) = data.load(str(tmp_path / "x.zip")).left_out
    assert said == "the lower eight bits of 2 pictures of 16-bit colour: give them as .npy"


def test_a_bomb_is_refused_from_its_header(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for name, message in {
        "bad-bomb.png": "10000x10000: expected at most 64000000",
        "bad-header.png": "many more",
    }.items():
        with pytest.raises(UserError, match=message):
            images.decode(name, io.BytesIO(IMAGES[name]))


def test_any_changed_bit_of_a_png_is_seen():
    png = IMAGES["good-rgb.png"]
    for bit in RANDOM.integers(0, 8 * len(png), 500):
        copy = bytearray(png)
        copy[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UserError):
            images.decode("x.png", io.BytesIO(bytes(copy)))


def test_sound_jpegs_of_every_build_are_no_damage():
    for quality in (5, 75, 100):
        for options in (
            {},
            {"progressive": True},
            {"optimize": True},
            {"restart_marker_rows": 1},
            {"subsampling": 0},
        ):
            picture = photo(RANDOM, 200)
            assert damage(encode(picture, "JPEG", quality=quality, **options)) is None
            assert damage(encode(picture.convert("L"), "JPEG", quality=quality, **options)) is None


def test_all_zips_that_lead_astray_or_are_bombs_are_refused_whole(tmp_path):
    before = {path.name for path in tmp_path.parent.iterdir()}
    for name, content in ARCHIVES.items():
        (tmp_path / name).write_bytes(content)
        for policy in ("fail", "skip"):
            with pytest.raises(UserError, match=name) as error:
                data.load(str(tmp_path / name), None, policy)
            one_line(error.value)
        assert main(["scan", str(tmp_path / name)]) == 2
    assert {path.name for path in tmp_path.iterdir()} == set(ARCHIVES)
    assert {path.name for path in tmp_path.parent.iterdir()} == before
    (tmp_path / "x.tar").write_bytes(ARCHIVES["tar.zip"])
    with pytest.raises(UserError, match=r"x\.tar: expected a folder, \.zip"):
        data.load(str(tmp_path / "x.tar"))


def test_a_zip_of_a_hundred_thousand_entries_is_no_crime(tmp_path):
    (tmp_path / "x.zip").write_bytes(hostile_data.crowd_zip(0, 100_000))
    report = data.scan(tmp_path / "x.zip")
    assert (report.pictures, len(report.bad), len(report.others)) == (1, 0, 100_000)


def test_a_wrong_checksum_in_a_zip_is_a_bad_file(tmp_path):
    """Uncompressed pixels have no checksum of their own."""
    names = [f"{i}.bmp" for i in range(4)]
    files = {name: encode(photo(RANDOM), "BMP") for name in names}
    content = bytearray(pack(list(files.items())))
    content[content.index(files["2.bmp"]) + 300] ^= 4
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"2\.bmp: Bad CRC-32"):
        data.load(str(tmp_path / "x.zip"))
    dataset = data.load(str(tmp_path / "x.zip"), None, "skip")
    assert len(dataset.train.x0) == 3


@pytest.mark.parametrize("pack", [write, to_zip])
@pytest.mark.parametrize("labels", ["folders", "listed", "features"])
def test_what_is_left_out_takes_its_label_along(tmp_path, pack, labels):
    """A picture's pixels and its label are its number, so that a shift of one row would show."""
    names = [f"{'abc'[i // 10]}/{i:02}.png" for i in range(30)]
    files = levels(names)
    files["b/14.png"] = files["b/14.png"][:-20]
    values = {"listed": [[name, i % 7] for i, name in enumerate(names)]}
    values["features"] = [[name, [i / 2, -float(i)]] for i, name in enumerate(names)]
    if labels != "folders":
        files["dataset.json"] = json.dumps({"labels": values[labels]}).encode()
    place = pack(tmp_path / "x.zip", files)
    parts = data.read(place, None, "skip")
    number = parts["x0"][:, 0, 0, 0].astype(int)
    assert number.tolist() == [i for i in range(30) if i != 14]
    target = {
        "folders": number // 10,
        "listed": number % 7,
        "features": np.stack([number / 2, -number], 1),
    }
    np.testing.assert_array_equal(parts["cond"], target[labels])
    split = data.load(place, None, "skip")
    assert sum(len(part.x0) for part in (split.train, split.validation, split.test)) == 29
    train = split.units.to_user(split.train.x0)[:, 0, 0, 0].round().long()
    target = {
        "folders": train // 10,
        "listed": train % 7,
        "features": torch.stack([train / 2, -train], 1),
    }
    cond = split.user_cond(split.train.cond)
    torch.testing.assert_close(cond, target[labels], check_dtype=False)
    assert len(split.skipped) == 1
    assert "14.png" in split.skipped[0]


def test_a_class_that_is_left_out_keeps_its_number(tmp_path):
    files = levels([f"{folder}/{i}.png" for folder in "ac" for i in range(5)])
    dataset = data.load(write(tmp_path / "x", {**files, "b/0.png": b""}), None, "skip")
    assert dataset.classes == 3
    assert (
        sorted(torch.cat([dataset.train.cond, dataset.validation.cond, dataset.test.cond]).tolist())
        == [0] * 5 + [2] * 5
    )
    assert "classes without a training row: b" in describe(dataset).marks


def test_skip_leaves_out_a_thousandth_and_no_more(tmp_path):
    assert [gathering.skippable(n) for n in (1, 10, 1999, 2000, 50_000)] == [1, 1, 1, 2, 50]
    files = levels([f"{i:04}.png" for i in range(2000)], side=1)
    place = to_zip(tmp_path / "x.zip", files | {"0007.png": b"", "1500.png": b""})
    assert len(data.load(place, None, "skip").skipped) == 2
    to_zip(tmp_path / "x.zip", files | {"0007.png": b"", "1500.png": b"", "1999.png": b""})
    with pytest.raises(
        UserError, match=r"more than 2 of 2000 pictures are bad.*scan.*first is .*0007\.png"
    ) as error:
        data.load(place, None, "skip")
    one_line(error.value)


def test_a_set_without_a_sound_picture_is_refused_in_memory_and_in_a_file(tmp_path):
    place = to_zip(tmp_path / "x.zip", {"0.png": b""})
    for cache in (None, str(tmp_path / "cache")):
        with pytest.raises(UserError, match=r"no picture can be read: .*0\.png") as error:
            data.load(place, None, "skip", cache=cache)
        one_line(error.value)
        assert not data.scan(place, cache=cache).fine("skip")


def test_a_picture_of_another_size_is_the_bad_one_even_if_it_comes_first(tmp_path):
    files = {**levels([f"{i}.png" for i in range(5)]), "0.png": encode(Image.new("L", (3, 5)))}
    place = write(tmp_path / "x", files)
    with pytest.raises(UserError, match=r"1\.png is 4x4, .*0\.png is 3x5: --data-size N"):
        data.load(place)
    dataset = data.load(place, None, "skip")
    assert len(dataset.train.x0) == 4
    assert "0.png is 3x5, most are 4x4" in dataset.skipped[0]
    assert not data.load(place, 4, "skip").skipped
    assert list(data.scan(place).bad) == ["0.png"]
    assert data.scan(place, 4).fine()


def test_links_are_followed_and_what_is_no_file_is_bad(tmp_path):
    far = Path(write(tmp_path / "far", levels([f"{i}.png" for i in range(4)])))
    here = tmp_path / "here"
    here.mkdir()
    (here / "a").symlink_to(far)
    (here / "b").mkdir()
    (here / "b" / "one.png").symlink_to(far / "3.png")
    parts = data.read(str(here))
    assert parts["x0"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 3]
    assert parts["cond"].tolist() == [0, 0, 0, 0, 1]
    os.mkfifo(here / "b" / "pipe.png")
    with pytest.raises(UserError, match=r"b/pipe\.png: no plain file"):
        data.read(str(here))
    (here / "b" / "pipe.png").unlink()
    (here / "b" / "lost.png").symlink_to(far / "nothing.png")
    assert data.scan(here).bad == {"b/lost.png": f"{here}/b/lost.png: a link to nothing"}
    (far / "round").symlink_to(here)
    with pytest.raises(UserError, match=r"is a link to .*, which holds it"):
        data.read(str(here))


def test_names_that_no_terminal_should_see_stay_in_one_line(tmp_path):
    name = "a\n\x1b[2Jfewstep: all is well.png"
    for place in (write(tmp_path / "x", {name: b""}), to_zip(tmp_path / "x.zip", {name: b""})):
        with pytest.raises(
            UserError, match=r"a\\n\\x1b\[2Jfewstep: all is well\.png: is no picture"
        ) as error:
            data.load(place)
        one_line(error.value)


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(
    ("content", "message"),
    {
        "a terabyte": (header("(250000000000,)") + bytes(64), "1000000000000 bytes, and holds 64"),
        "overflow": (header("(4294967296, 4294967296)"), "holds 0"),
        "negative": (header("(-4, -4)") + bytes(64), "declares float32"),
        "short": (header("(4, 4)") + bytes(63), "64 bytes, and holds 63"),
        "long": (header("(4, 4)") + bytes(65), "64 bytes, and holds 65"),
        "objects": (header("(4,)", "'|O'") + bytes(64), "Python objects, which are never loaded"),
        "no shape": (header("4") + bytes(64), "shape is not valid"),
        "cut": (header("(4, 4)")[:20], "EOF"),
    }.values(),
)
def test_an_array_is_as_long_as_its_header_says_before_memory_is_taken(
    tmp_path, monkeypatch, suffix, content, message
):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content if suffix == "npy" else pack([("x.npy", content)]))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match=message) as error:
        data.load(str(path))
    one_line(error.value)


def test_an_npz_is_held_to_the_limits_of_a_zip(tmp_path):
    np.savez_compressed(
        tmp_path / "mask.npz", x=RANDOM.normal(size=(100, 4)), mask=np.ones((100, 4), bool)
    )
    assert len(data.read(str(tmp_path / "mask.npz"))["x0"]) == 100
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(2**23))
    entry = header("(4,)") + bytes(16)
    (tmp_path / "twice.npz").write_bytes(
        pack([("x.npy", entry), ("y.npy", entry)]).replace(b"y.npy", b"x.npy")
    )
    for name, message in {"bomb.npz": "more than 200 times", "twice.npz": "are one file"}.items():
        with pytest.raises(UserError, match=message):
            data.load(str(tmp_path / name))


def test_scan_counts_without_keeping_and_says_what_training_would(tmp_path, capsys):
    files = {f"{'ab'[i % 2]}/{i:02}.png": encode(photo(RANDOM)) for i in range(20)}
    files |= {
        "a/grey.png": encode(photo(RANDOM).convert("L")),
        "notes.txt": b"x",
        "b/03.png": b"",
        "b/05.png": b"<p>",
    }
    place = write(tmp_path / "x", files)
    assert main(["scan", place, "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], list(report["bad"]), report["fine"]) == (
        21,
        ["b/03.png", "b/05.png"],
        False,
    )
    assert report["sizes"] == {f"{SIDE}x{SIDE}": 19}
    assert report["modes"] == {"RGB": 18, "L": 1}
    assert report["labels"] == {"a": 11, "b": 8}
    assert (report["channels"], report["others"]) == (3, ["notes.txt"])
    assert main(["scan", place, "--bad-files", "skip"]) == 2
    assert "too many: skip leaves out 1" in capsys.readouterr().out
    (tmp_path / "x" / "b" / "03.png").write_bytes(files["a/00.png"])
    assert main(["scan", place]) == 2
    assert "b/05.png: is no picture: remove or repair it" in capsys.readouterr().out
    assert main(["scan", place, "--bad-files", "skip"]) == 0
    assert "1 bad" in capsys.readouterr().out
    (tmp_path / "x" / "b" / "05.png").write_bytes(files["a/00.png"])
    assert (
        main(
            [
                "scan",
                to_zip(tmp_path / "x.zip", {n: (tmp_path / "x" / n).read_bytes() for n in files}),
            ]
        )
        == 0
    )
    assert "21 pictures, 0 bad" in capsys.readouterr().out


def test_scan_refuses_what_it_cannot_go_over(tmp_path, capsys):
    files = {
        **levels(["a.png", "b.png"]),
        "dataset.json": b'{"labels": [["a.png", 0], ["b.png", 7]]}',
    }
    for place, message in {
        str(tmp_path / "gone"): "no file or folder",
        write(tmp_path / "labels", files): "label 7 with 2 samples",
        write(
            tmp_path / "twice",
            {**files, "dataset.json": b'{"labels": [["a.png", 0], ["a.png", 1], ["b.png", 1]]}'},
        ): "names 1 files twice",
        write(tmp_path / "deep", {**files, "dataset.json": b"[" * 100_000}): 'expected {"labels"',
    }.items():
        assert main(["scan", place]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_policy_is_a_field_of_the_run():
    assert fs.recipes.toy().bad_files == "fail"
    assert run_from_json({"recipe": "toy", "bad_files": "skip"}).bad_files == "skip"
    with pytest.raises(UserError, match="unknown bad_files 'skp': did you mean 'skip'"):
        fs.recipes.toy(bad_files="skp")


def test_sound_files_are_read_and_mutated_ones_are_read_or_refused_in_one_line(tmp_path):
    sound = hostile_data.sound_files(0)
    for name, content in sound.items():
        path = hostile_data.place(tmp_path / f"sound {name}", name, content, sound["PNG.png"])
        assert (
            len(
                data.read(str(path), SIDE if path.is_dir() or path.suffix == ".zip" else None)["x0"]
            )
            > 1
        ), name
    counts = fuzz_data(0, 304, tmp_path)
    kinds = Counter(kind.split()[1] for kind in counts.elements())
    assert kinds["read"] + kinds["refused"] == 304
    # Harmless mutations and those that nothing can find: with none, only headers would be tested.
    assert kinds["read"] > 40
    assert kinds["refused"] > 100


def test_a_zip_that_lies_of_itself_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("unpacked"))
    for name in ("lying.zip", "ratio.zip", "ratio-of-all.zip"):
        (tmp_path / name).write_bytes(ARCHIVES[name])
        with pytest.raises(UserError, match="200 times"):
            data.load(str(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"a,b\n1,2\n3\n", RANDOM.bytes(5000)])
@pytest.mark.parametrize(
    ("name", "library"),
    {"x.csv": "pyarrow", "x.parquet": "pyarrow", "x.nc:v": "netCDF4", "x.h5:v": "h5py"}.items(),
)
def test_damaged_tables_and_variables_are_refused_in_one_line(tmp_path, name, library, content):
    pytest.importorskip(library, reason="its extra is not installed")
    (tmp_path / name.partition(":")[0]).write_bytes(content)
    with pytest.raises(UserError) as error:
        data.load(str(tmp_path / name))
    one_line(error.value)
