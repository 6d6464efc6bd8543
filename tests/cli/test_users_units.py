"""Data in the units that people have: what is trained, sampled and scored is right in all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.cli import main
from tests.support.users import SHORT, samples, small_run

# Enough of a network and of steps for the correlation of two columns.
LEARN = [
    *("--iterations", "200", "--batch", "256", "--ema", "0.9", "--device", "cpu"),
    *("--network.width", "64", "--network.depth", "1", "--picture-every", "0"),
]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
    assert main([*command, *LEARN]) == 0
    return folder / "run"


def test_columns_of_different_units_come_back_in_theirs(run):
    """On one shift and scale for both: humidity .95 +- 4.7, correlation .25."""
    x = samples(str(run), "--n", "4000").astype(float)
    mean, deviation = x.mean(0), x.std(0)
    assert abs(mean[0] - 288) < 2
    assert abs(mean[1] - 0.6) < 0.02
    assert deviation == pytest.approx([10, 0.1], rel=0.2)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(0.8, abs=0.1)


def test_eval_sees_a_column_that_is_wrong_by_a_factor_of_three(run):
    """Humidity, a ten-thousandth of all variance, is scored like temperature."""
    generator = fs.load(run, device="cpu")
    results = []
    for name, factor in (("right", 1), ("wide", 3)):
        np.save(f"{name}.npy", (weather() - [0, 0.6]) * [1, factor] + [0, 0.6])
        dataset = fs.data.load(f"{name}.npy")
        ask = {"steps": (1,), "n": 1500, "metrics": ["pixel_frechet"]}
        results.append(fs.metrics.evaluate(generator, dataset, **ask)[0][0])
    assert results[1].interval[0] > 3 * results[0].interval[1]


def test_fields_of_unlike_units_come_back_in_theirs():
    """[N, 2, 6, 6]: pascal beside a fraction. After a few steps the samples are near the mean."""
    z = torch.randn(200, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale, shift = torch.tensor([[1e4, 1e-3], [101325.0, 0.5]]).double()
    x = shift[:, None, None] + scale[:, None, None] * z
    generator = fs.train(small_run(), x, progress=False, device="cpu")
    drawn = generator.sample(200).double()
    assert ((drawn.mean((0, 2, 3)) - shift) / scale).abs().max() < 0.2
    ratio = drawn.std((0, 2, 3)) / scale
    assert 0.5 < ratio[0] / ratio[1] < 2


def test_conditions_in_any_units_are_the_same_condition():
    source = torch.Generator().manual_seed(0)
    x, cond = torch.randn(2, 60, 2, generator=source, dtype=torch.float64)
    drawn = []
    for shift, scale in ((0.0, 1.0), (273.15, 1e-4)):
        user_cond = cond * scale + shift
        data = {"x0": x, "cond": user_cond}
        generator = fs.train(small_run(iterations=20), data, progress=False, device="cpu")
        drawn.append(generator.sample(10, cond=user_cond[:10]))
        plain = generator.conditions(60, user_cond)
        assert plain.mean(0).abs().max() < 1e-5
        torch.testing.assert_close(plain.std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(*drawn, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("high", [1, 16])
def test_bytes_that_use_a_sliver_are_sampled_in_their_own_numbers(high):
    """Masks of 0 and 1, digits of 0..16: as pictures of 0..255 they come out grey."""
    x = np.random.default_rng(0).integers(0, high + 1, (60, 6, 6), dtype=np.uint8)
    np.save("x.npy", x)
    assert main(["train", "toy", "--data", "x.npy", "--out", "run", *SHORT]) == 0
    drawn = samples("run", "--n", "100")
    assert drawn.mean() == pytest.approx(x.mean(), abs=0.1 * high)
    assert drawn.max() <= high


def test_a_teacher_of_data_in_other_units_is_noticed(caplog):
    """Data in [-1, 1], standardised beneath a teacher that knows them as they are."""
    x = 0.3 + 0.1 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))

    def teacher(x_t, t, cond=None):
        """E[x0 | x_t] of the data as they are."""
        s = t.float()[:, None]
        return (x_t * 0.1**2 + 0.3 * s**2) / (0.1**2 + s**2)

    run = small_run(method="cd", iterations=2, batch=64)
    fs.train(run, x, teacher=teacher, progress=False, device="cpu")
    assert "did it learn these data in other units?" in caplog.text
    caplog.clear()
    same = replace(run, units="as-is")
    fs.train(same, x, teacher=teacher, progress=False, device="cpu")
    assert "other units" not in caplog.text
