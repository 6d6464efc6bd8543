"""`fewstep edit` from files to files: what is kept comes back bit by bit."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from PIL import Image

import fewstep as fs
from fewstep.cli import main

QUICK = ["--steps", "5", "--particles", "16"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A digit as picture and array in the current folder; its pixels."""
    monkeypatch.chdir(tmp_path)
    x = fs.data.digits().test.x0[0]
    pixels = ((x[0] + 1) * 127.5).round().byte().numpy()
    Image.fromarray(pixels).save("digit.png")
    array = x.double().numpy() + 1e-13
    array[:, :, 5:] = np.nan
    np.save("digit.npy", array)
    Image.fromarray(pixels[:4, :4]).save("small.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2, 3:6] = 255
    Image.fromarray(mask).save("mask.png")
    return pixels


def edit(words: str) -> int:
    return main(["edit", "digits", *shlex.split(words), *QUICK, "--device", "cpu"])


def read(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_kept_pixels_come_back_in_a_picture_of_their_own(files):
    assert edit("--input digit.png --mask right --n 3 --out filled") == 0
    pictures = [read(f"filled/{place:02}.png") for place in range(3)]
    assert all(np.array_equal(one[:, :4], files[:, :4]) for one in pictures)
    assert not np.array_equal(pictures[0], files)


def test_kept_pixels_come_back_in_a_row(files):
    """The row: what is kept beside grey, then the samples."""
    assert edit("--input digit.png --mask mask.png --n 3 --out row.png") == 0
    row = read("row.png")[..., 0]
    zoom = 640 // (4 * 9)
    tiles = [row[::zoom, ::zoom][:, 9 * k :][:8, :8] for k in range(4)]
    kept = np.ones((8, 8), bool)
    kept[2, 3:6] = False
    assert all(np.array_equal(one[kept], files[kept]) for one in tiles)
    assert tiles[0][~kept].tolist() == [128] * 3


def test_nan_marks_what_is_missing_and_float64_comes_back(files):
    assert edit("--input digit.npy --n 4 --out filled.npy") == 0
    y, x = np.load("digit.npy"), np.load("filled.npy")
    assert x.shape == (4, 1, 8, 8)
    assert np.isfinite(x).all()
    assert np.array_equal(x[:, :, :, :5], np.broadcast_to(y[:, :, :5], (4, 1, 8, 5)))


def test_a_small_picture_becomes_a_large_one(files):
    assert edit("--task superres --input small.png --n 2 --out large.npy") == 0
    x = np.load("large.npy")
    means = x.reshape(2, 4, 2, 4, 2).mean((2, 4))
    assert np.abs(means - (files[:4, :4] / 127.5 - 1)).max() < 1e-5


def test_rows_of_an_array_have_a_sample_each(files):
    rows = fs.data.digits().test.x0[:3].numpy()
    np.savez("rows.npz", x=rows)
    assert edit("--input rows.npz --mask top --out filled.npy") == 0
    x = np.load("filled.npy")
    assert np.array_equal(x[:, :, 4:], rows[:, :, 4:])
    assert edit("--input rows.npz --mask centre --out pairs.png") == 0


def test_a_way_between_two_seeds(files):
    words = "edit digits --task interpolate --seeds 1,2 --label 3 --n 5 --out way.npy"
    assert main(shlex.split(words)) == 0
    assert np.load("way.npy").shape == (5, 1, 8, 8)


MISTAKES = {
    "--mask left": "expected --input FILE",
    "--input no.npy --mask left": "no file no.npy",
    "--input digit.png": "the input has no NaN",
    "--input digit.png --mask lift": "unknown mask 'lift': did you mean 'left'?",
    "--input small.png --mask left": "input of shape (1, 4, 4): expected (1, 8, 8)",
    "--input digit.png --mask small.png": "mask of shape",
    "--input digit.png --mask right --n 0": "n = 0",
    "--input digit.png --task colourise": "3 channels",
    "--input digit.png --task superres --factor 3": "divide the axes",
    "--input digit.png --task superres --mask left": "has no mask",
    "--input digit.png --mask left --factor 2": "has no blocks",
    "--input digit.npy --mask left": "y holds NaN",
    "--input digit.png --mask left --out x.csv": "a name that ends in .png",
    "--input digit.png --task interpolate": "interpolate takes --seeds",
    "--task interpolate": "conditions that differ",
    "--task interpolate --seeds 1 --label 1": "two, such as 1,2",
    "--input digit.png --mask left --label 1 --cond c.npy": "expected one or the other",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_takes_one_line(words, files, capsys):
    assert edit(words) in (2, 4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert MISTAKES[words] in lines[0]
