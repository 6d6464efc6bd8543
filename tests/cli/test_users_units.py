"""Data in the units that people have: what is trained, sampled and scored is right in all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.cli import main

SHORT = ["--iterations", "600", "--batch", "256", "--network.width", "64", "--quiet"]


def weather(n=3000, seed=0):
    """Temperature 288 +- 10 K and humidity .60 +- .10, correlation .80."""
    z = np.random.default_rng(seed).normal(size=(n, 2))
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    return np.array([288, 0.6]) + z * [10, 0.1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weather")
    np.save(folder / "weather.npy", weather())
    command = ["train", "toy", "--data", str(folder / "weather.npy"), "--out", str(folder / "run")]
    assert main([*command, *SHORT]) == 0
    return folder / "run"


def test_columns_of_different_units_come_back_in_theirs(run, tmp_path):
    """On one shift and scale for both: humidity .95 +- 4.7, correlation .25."""
    assert main(["sample", str(run), "--n", "4000", "--out", str(tmp_path / "s.npy")]) == 0
    x = np.load(tmp_path / "s.npy").astype(float)
    mean, deviation = x.mean(0), x.std(0)
    assert abs(mean[0] - 288) < 2
    assert abs(mean[1] - 0.6) < 0.02
    assert deviation == pytest.approx([10, 0.1], rel=0.2)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(0.8, abs=0.08)


def test_eval_sees_a_column_that_is_wrong_by_a_factor_of_three(run):
    """Humidity, a ten-thousandth of all variance, is scored like temperature."""
    generator = fs.load(run, device="cpu")
    dataset = fs.data.load(generator.run.data)
    units = dataset.units
    wide = replace(units, scale=(units.scale[0], 3 * units.scale[1]))
    wrong = replace(generator, facts=replace(generator.facts, units=wide))
    results = [
        fs.metrics.evaluate(model, dataset, steps=(1,), n=1500, metrics=["pixel_frechet"])[0][0]
        for model in (generator, wrong)
    ]
    assert results[1].interval[0] > 3 * results[0].interval[1]


def test_a_teachers_units_are_the_students(run, tmp_path, capsys):
    """The same law in other rows keeps the first run's units; another law is refused by name."""
    np.save(tmp_path / "more.npy", weather(seed=1))
    np.save(tmp_path / "celsius.npy", weather(seed=1) - [273.15, 0])
    base = ["train", "toy", "--init", str(run), "--iterations", "2", "--quiet"]
    base += ["--network.width", "64", "--data"]
    assert main([*base, str(tmp_path / "more.npy"), "--out", str(tmp_path / "a")]) == 0
    units = [fs.load(folder, device="cpu").facts.units for folder in (run, tmp_path / "a")]
    assert units[0] == units[1]
    assert main([*base, str(tmp_path / "celsius.npy"), "--out", str(tmp_path / "b")]) == 2
    assert "variable 0 has mean" in capsys.readouterr().err


def test_fields_of_unlike_units_come_back_in_theirs():
    """[N, 2, 6, 6]: pascal beside kelvin."""
    z = torch.randn(800, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = torch.tensor([1e4, 1e-3]).reshape(1, 2, 1, 1).double()
    shift = torch.tensor([101325.0, 0.5]).reshape(1, 2, 1, 1).double()
    recipe = fs.recipes.toy(iterations=300, batch=128)
    generator = fs.train(recipe, shift + scale * z, progress=False, device="cpu")
    x = generator.sample(1000).double()
    off = (x.mean((0, 2, 3)) - shift.flatten()) / scale.flatten()
    assert off.abs().max() < 0.2
    ratio = x.std((0, 2, 3)) / scale.flatten()
    assert 0.6 < ratio.min() < ratio.max() < 1.6


def test_a_teacher_of_data_in_other_units_is_noticed(caplog):
    """Data in [-1, 1], standardised beneath a teacher that knows them as they are."""
    x = 0.3 + 0.1 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))

    def teacher(x_t, t, cond=None):
        """E[x0 | x_t] of the data as they are."""
        s = t.float()[:, None]
        return (x_t * 0.1**2 + 0.3 * s**2) / (0.1**2 + s**2)

    run = fs.recipes.toy(method="cd", iterations=2, batch=64, network_options={"width": 16})
    fs.train(run, x, teacher=teacher, progress=False, device="cpu")
    assert "did it learn these data in other units?" in caplog.text
    caplog.clear()
    same = replace(run, units="as-is")
    fs.train(same, x, teacher=teacher, progress=False, device="cpu")
    assert "other units" not in caplog.text
