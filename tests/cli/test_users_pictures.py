"""What users with pictures see: every grey level, and classes of the right name and number."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep as fs
from fewstep.cli import main
from tests.support.users import SHORT, everything, refusal, samples, small_run, train

RANDOM = np.random.default_rng(0)
N = 60


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


def test_class_folders_count_in_natural_order_and_are_called_by_name(capsys):
    dataset = fs.data.load(pack([f"{i}/{k}.png" for i in range(12) for k in range(5)]))
    brightness = everything(dataset).mean((1, 2, 3)).round().astype(int)
    splits = (dataset.train, dataset.validation, dataset.test)
    label = torch.cat([one.cond for one in splits]).numpy()
    np.testing.assert_array_equal(label, brightness // 5)
    assert dataset.names.classes == tuple(map(str, range(12)))
    generator = train(pack([f"{k}/{i}.png" for k in ("dog", "cat") for i in range(20)]))
    dogs = generator.sample(3, cond=1).numpy()
    np.testing.assert_array_equal(samples("run", "--n", "3", "--label", "dog"), dogs)
    np.testing.assert_array_equal(generator.sample(3, cond="dog"), dogs)
    line = refusal(capsys, "sample", "run", "--label", "dgo")
    assert "unknown label 'dgo': did you mean 'dog'?" in line
    assert main(["inspect", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"]["classes"] == ["cat", "dog"]
    assert fs.data.load("p.zip").without_labels().names.classes == ()


def test_class_folders_zipped_with_their_parent_are_labels():
    names = [f"pets/all/{k}/{i}.png" for k in ("cat", "dog") for i in range(20)]
    dataset = fs.data.load(pack(names))
    assert dataset.classes == 2
    assert dataset.names.classes == ("cat", "dog")
    assert fs.data.load(pack([f"pets/{i}.png" for i in range(20)])).classes == 0
    table = [[f"00000/{i}.png", i % 3] for i in range(30)]
    names = [f"edm/{name}" for name, _ in table]
    dataset = fs.data.load(pack(names, **{"edm__dataset.json": json.dumps({"labels": table})}))
    assert dataset.classes == 3
    assert dataset.left_out == ()


def test_folders_that_are_splits_are_no_classes(capsys):
    pack([f"set/{k}/{i}.png" for k in ("train", "val") for i in range(20)])
    line = refusal(capsys, "train", "toy", "--data", "p.zip", *SHORT)
    assert "holds the folders train, val: expected classes, not splits" in line


def test_the_grey_of_float_pictures_is_their_value(capsys):
    """Of floats in 0..1 black is 0 and white 1; of bytes 0 and 255, whatever is drawn."""
    x = torch.rand(64, 1, 8, 8) ** 4  # mostly dark
    generator = fs.train(small_run(), x, out="run", progress=False, device="cpu")
    assert main(["sample", "run", "--n", "4", "--out", "x.png", "--device", "cpu"]) == 0
    greys = (255 * generator.sample(4).clamp(0, 1)).round().numpy()
    pixels = np.asarray(Image.open("x.png"))
    assert pixels.min() == greys.min()
    seen = np.unique(pixels)
    assert np.abs(greys.reshape(-1, 1) - seen).min(1).max() <= 1
    capsys.readouterr()
    assert main(["sample", "digits", "--n", "4", "--out", "x.png", "--device", "cpu"]) == 0
    assert "black is" not in capsys.readouterr().out


def test_of_series_it_is_said_how_many_are_shown(capsys):
    fs.train(small_run(), torch.randn(64, 3, 20), out="run", progress=False, device="cpu")
    for n, shown in ((100, "8 of 100"), (5, "all 5")):
        words = ["--n", str(n), "--out", "x.png", "--device", "cpu"]
        assert main(["sample", "run", *words]) == 0
        assert f"samples: {shown}" in capsys.readouterr().out
