"""`fewstep sample --out x.png` and a run's own pictures, for each kind of data in a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import fewstep as fs
from fewstep.base import figures
from fewstep.cli import main

pytestmark = pytest.mark.pictures

N = 60
RANDOM = np.random.default_rng(0)
MASK = np.arange(8) < RANDOM.integers(2, 9, N)[:, None]
FEATURES = RANDOM.normal(size=(N, 2)).astype("f4")
ARRAYS = {
    "series": {"x0": 288 + RANDOM.normal(size=(N, 2, 24)), "cond": FEATURES},
    "fields": {"x0": RANDOM.normal(size=(N, 2, 8, 8))},
    "table": {"x0": RANDOM.normal(size=(N, 3)), "label": np.arange(N) % 3},
    "plane": {"x0": RANDOM.normal(size=(N, 2))},
    "line": {"x0": RANDOM.normal(size=(N, 1))},
    "sets": {"x0": RANDOM.normal(size=(N, 8, 2)) * MASK[..., None], "mask": MASK},
}
PANELS = {"series": 4, "fields": 6, "table": 6, "plane": 2, "line": 1, "sets": 20}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a file and a run of each kind, made when it is asked for first."""
    return tmp_path_factory.mktemp("kinds")


def run_of(runs: Path, kind: str) -> Path:
    folder = runs / kind
    if not folder.exists():
        path = runs / f"{kind}.npz"
        np.savez(path, **{name: np.asarray(part) for name, part in ARRAYS[kind].items()})
        run = fs.Run(recipe="own", data=str(path), iterations=1, batch=32)
        fs.train(run, out=folder, progress=False, device="cpu")
    return folder


@pytest.fixture
def drawings(monkeypatch) -> list[Figure]:
    """Everything that is drawn, but for the curves of a run."""
    result: list[Figure] = []
    monkeypatch.setattr("fewstep.training.recorder.draw_curves", lambda *_: None)
    png = figures.png
    monkeypatch.setattr(figures, "png", lambda one, *rest: (result.append(one), png(one, *rest)))
    return result


def sample(capsys, folder: Path, *argv: str) -> str:
    capsys.readouterr()
    argv = ("--out", str(folder.with_suffix(".png")), *argv)
    assert main(["sample", str(folder), "--device", "cpu", *argv]) == 0
    return capsys.readouterr().out


def ask(runs: Path, kind: str) -> list[str]:
    """The option for conditions of the first rows, where the kind needs any."""
    if kind == "series":
        np.save(runs / "ask.npy", FEATURES[:40])
    elif kind == "sets":
        np.savez(runs / "ask.npz", mask=MASK[:40])
    else:
        return ["--n", "40"]
    return ["--n", "40", "--cond", str(runs / ("ask.npy" if kind == "series" else "ask.npz"))]


@pytest.mark.parametrize("kind", ARRAYS)
def test_samples_of_each_kind_stand_beside_the_data_in_training_and_afterwards(
    kind, runs, drawings, capsys
):
    folder = run_of(runs, kind)
    said = sample(capsys, folder, *ask(runs, kind))
    assert [len(one.axes) for one in drawings] == [PANELS[kind]] * len(drawings)
    assert len(drawings) == 2  # the run's own picture too
    words = [one.get_suptitle().replace("\n", " ") for one in drawings]
    assert "training data: " in words[0]
    assert "; data: " in words[1]
    assert words[1] in said
    assert (folder / "samples" / "step-1.png").read_bytes()[:4] == b"\x89PNG"


def test_training_rows_have_the_conditions_of_the_samples_beside(runs, drawings):
    shutil.rmtree(runs / "series", ignore_errors=True)
    run_of(runs, "series")
    assert "same colour: same condition" in drawings[0].get_suptitle()


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_one_row_of_conditions_makes_bands_with_the_rows_of_the_data_that_have_it(
    shape, runs, drawings, capsys
):
    folder = run_of(runs, "series")
    drawings.clear()
    np.save(runs / "row.npy", FEATURES[5].reshape(shape))
    said = sample(capsys, folder, "--n", "50", "--cond", str(runs / "row.npy"))
    assert "50 of one condition: median, 50 % and 90 %" in said
    assert "data: all 1 of that condition" in said
    truth = np.asarray(drawings[0].axes[0].get_lines()[-1].get_ydata())
    np.testing.assert_allclose(truth, ARRAYS["series"]["x0"][5, 0], rtol=1e-5)
    np.save(runs / "row.npy", np.float32([9.0, 9.0]))
    said = sample(capsys, folder, "--n", "50", "--cond", str(runs / "row.npy"))
    assert "no data beside: none have this condition" in said


def test_data_of_another_label_are_not_beside(runs, drawings, capsys):
    folder = run_of(runs, "table")
    assert "data: all 20" in sample(capsys, folder, "--label", "2")


def test_data_that_are_gone_are_said_and_data_that_moved_can_be_named(runs, capsys):
    folder = run_of(runs, "plane")
    there, elsewhere = runs / "plane.npz", runs / "moved.npz"
    there.rename(elsewhere)
    said = sample(capsys, folder)
    assert "no data beside: no file or folder" in said
    assert "--data PATH" in said
    assert "data: all 60" in sample(capsys, folder, "--data", str(elsewhere))
    elsewhere.rename(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewstep.run.datasets.MOST_BYTES", 10)
        assert "no data beside: " in sample(capsys, folder)


def test_data_that_are_others_are_refused_where_they_are_named(runs, capsys):
    folder = run_of(runs, "plane")
    np.save(runs / "others.npy", np.ones((40, 2)) * np.arange(40)[:, None])
    argv = ["sample", str(folder), "--out", str(runs / "x.png"), "--device", "cpu"]
    assert main([*argv, "--data", str(runs / "others.npy")]) == 2
    assert "is not what this run was trained on" in capsys.readouterr().err


def test_no_row_of_the_data_is_in_a_checkpoint(runs):
    """The picture alone shows training rows."""
    folder = run_of(runs, "line")
    x0 = fs.data.load(str(runs / "line.npz")).train.x0
    row = x0[:4].numpy().tobytes()
    files = [path for path in (folder / "checkpoints").rglob("*") if path.is_file()]
    assert files
    assert not any(row in path.read_bytes() for path in files)


def test_without_matplotlib_training_and_sampling_say_how_axes_are_drawn(
    monkeypatch, tmp_path, caplog, capsys
):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    run = fs.Run(recipe="own", data="tensor", iterations=1, batch=32)
    fs.train(run, torch.randn(40, 2, 12), out=tmp_path / "run", progress=False, device="cpu")
    assert "pip install 'fewstep[report]'" in caplog.text
    assert "pip install 'fewstep[report]'" in sample(capsys, tmp_path / "run")
