"""Averages: their weights of time, reconstruction from snapshots, and what a run stores of them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.run.averages import (
    posthoc_coefficients,
    posthoc_error,
    profile_products,
    reconstruct,
)
from fewstep.run.checkpoint import RunFolder
from fewstep.run.profiles import halflife_rate, power_exponent, power_rate, power_std, profile
from tests.support.agree_phema import TESTED
from tests.support.cases import Case
from tests.support.toys import tiny_run


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    "sidecar", sorted((Path(__file__).parents[1] / "conformance").glob("edm2_phema*.json"))
)
def test_agrees_with_the_reference(sidecar):
    about = json.loads(sidecar.read_text())
    TESTED[about["kind"]](Case(about, load_file(sidecar.with_suffix(".safetensors"))))


@given(st.floats(0.001, 0.3))
def test_the_exponent_is_that_of_the_standard_deviation(std):
    """power_std is the profile's own standard deviation, and power_exponent its inverse."""
    g = power_exponent(std)
    assert power_std(g) == pytest.approx(std, rel=1e-9)
    # Moments of (g + 1) t^g on [0, 1].
    first = (g + 1) / (g + 2)
    second = (g + 1) / (g + 3)
    assert second - first**2 == pytest.approx(std**2, rel=1e-6)


@given(st.floats(-0.3, 20), st.floats(-0.3, 20), st.floats(0.2, 5))
def test_products_are_the_integrals_of_the_profiles(a, b, end):
    """By quadrature over u = t^(1/20), where both are smooth; one ends at 1, the other at `end`."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    width = min(1.0, end)
    t = width * u**20
    dt = width * 20 * u**19 / 20_000
    integral = ((a + 1) * t**a * (b + 1) * t**b / end ** (b + 1) * dt).sum().item()
    product = profile_products(f64(1), f64(a), f64(end), f64(b)).item()
    assert product == pytest.approx(integral, rel=1e-4)


def test_a_power_average_weighs_time_by_its_power():
    """Of weights w_k = k it is the mean of the profile, (g + 1) / (g + 2) of the time."""
    g = power_exponent(0.1)
    average = 0.0
    steps = 5000
    for step in range(steps):
        rate = power_rate(step, g)
        average = rate * average + (1 - rate) * (step + 1)
    assert average / steps == pytest.approx((g + 1) / (g + 2), rel=1e-3)
    assert power_rate(0, g) == 0


def test_half_of_what_an_average_held_is_left_after_its_half_life():
    rate = math.prod(halflife_rate(step, 10, 1000) for step in range(10_000, 10_100))
    assert rate == pytest.approx(0.5)
    assert halflife_rate(0, 10, 1000) == pytest.approx(0)


def test_a_stored_profile_is_reconstructed_by_itself_and_any_other_closely():
    times = f64(*range(100, 900, 100)).repeat_interleave(2)
    exponents = f64(power_exponent(0.05), power_exponent(0.1)).repeat(8)
    own = posthoc_coefficients(times, exponents, times, exponents)
    torch.testing.assert_close(own, torch.eye(16, dtype=torch.float64), atol=1e-7, rtol=0)
    for std in (0.06, 0.075, 0.09):
        new = f64(800), f64(power_exponent(std))
        shares = posthoc_coefficients(times, exponents, *new)[:, 0]
        assert shares.sum().item() == pytest.approx(1)
        assert posthoc_error(times, exponents, *new, shares) < 0.02
    alone = posthoc_coefficients(times[-1:], exponents[-1:], *new)[:, 0]
    apart = profile_products(times[-1:], exponents[-1:], *new).item()
    size = profile_products(times[-1:], exponents[-1:], times[-1:], exponents[-1:]).item()
    new_size = profile_products(*new, *new).item()
    error = math.sqrt((size + new_size - 2 * apart) / new_size)
    assert posthoc_error(times[-1:], exponents[-1:], *new, alone) == pytest.approx(error)


@pytest.fixture(scope="module")
def run_of_averages(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    averages = ("power:0.05", "power:0.1", "power:0.07", "halflife:400", "decay:0.5")
    run = tiny_run(
        iterations=80, lr=0.01, averages=averages, snapshot_every=10, checkpoint_every=40
    )
    return out, fs.train(run, out=out, progress=False, device="cpu")


def test_a_run_keeps_its_averages_by_name(run_of_averages):
    out, generator = run_of_averages
    kinds = ["student", "ema", "power:0.05", "power-0.1", "halflife:400", "decay:0.5"]
    weights = [
        fs.load(out, ema=name, device="cpu").denoiser.network.outlet.weight for name in kinds
    ]
    for i, one in enumerate(weights):
        assert all(not torch.equal(one, other) for other in weights[:i])
    assert torch.equal(weights[1], generator.denoiser.network.outlet.weight)
    names = {path.name for path in RunFolder(out).snapshot(80).iterdir()}
    assert names == {f"power-{s}.safetensors" for s in ("0.05", "0.1", "0.07")} | {
        "manifest.json",
        "state.json",
    }
    with pytest.raises(UserError, match=r"no weights 'decay:0\.8'"):
        fs.load(out, ema="decay:0.8")
    with pytest.raises(UserError, match=r"power:0\.05"):
        fs.load(out, ema="power:0.4")


def test_an_average_that_was_not_tracked_is_the_one_that_would_have_been(run_of_averages, tmp_path):
    """A run without power:0.07 gives it from its snapshots as the run that tracked it has it."""
    out, generator = run_of_averages
    run = replace(generator.run, averages=("power:0.05", "power:0.1"))
    fs.train(run, out=tmp_path, progress=False, device="cpu")
    truth = fs.load(out, ema="power:0.07", device="cpu").denoiser.state_dict()
    result = fs.load(tmp_path, ema="power:0.07", device="cpu")
    near = fs.load(tmp_path, ema="power:0.05", device="cpu").denoiser.state_dict()
    assert result.step == 80
    for name, tensor in result.denoiser.state_dict().items():
        assert tensor.dtype == truth[name].dtype
        assert (tensor - truth[name]).norm() <= 0.02 * (near[name] - truth[name]).norm() + 1e-6


def test_a_standard_deviation_far_from_the_stored_ones_is_told(run_of_averages, caplog):
    fs.load(run_of_averages[0], ema="power:0.002", device="cpu")
    assert "make of power:0.002 is" in caplog.text


@pytest.mark.parametrize(
    "text", ["power", "power:x", "power:0.31", "decay:1", "halflife:0", "halflife:inf", "fast:3"]
)
def test_an_average_that_cannot_be_is_told(text):
    with pytest.raises(UserError, match=r"such as power:0\.05"):
        tiny_run(averages=(text,))


def test_averages_are_named_once_and_snapshots_need_one():
    assert profile("power:5e-2").name == profile("power-0.05").name == "power-0.05"
    with pytest.raises(UserError, match="each of them once"):
        tiny_run(averages=("power:0.05", "power:0.050"))
    with pytest.raises(UserError, match="power:STD to keep"):
        tiny_run(averages=("decay:0.9",), snapshot_every=2)


def test_snapshots_after_a_checkpoint_do_not_enter_its_averages(run_of_averages, tmp_path):
    """An average of step 40 is the same with and without the snapshots of later steps."""
    out, generator = run_of_averages
    few = tmp_path / "few"
    shutil.copytree(out, few)
    for step in (50, 60, 70, 80):
        shutil.rmtree(RunFolder(few).snapshot(step))
    early, late = (
        reconstruct(RunFolder(path), generator.run, 0.08, until=40) for path in (few, out)
    )
    assert early[0] == late[0] == 40
    assert all(torch.equal(early[1][name], late[1][name]) for name in early[1])


def test_a_run_killed_after_a_checkpoint_has_the_snapshot_of_its_step(tmp_path, monkeypatch):
    """A resumed run does not repeat that snapshot: it is on the disk before the checkpoint is."""
    run = tiny_run(averages=("power:0.05",), snapshot_every=2, checkpoint_every=2)

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fewstep.training.recorder.Recorder.save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fs.train(run, out=tmp_path, progress=False, device="cpu")
    assert list(RunFolder(tmp_path).snapshots()) == [2]


def test_an_average_whose_clock_goes_on_is_reconstructed_on_that_clock(tmp_path):
    """With age = 100 the averages are older than the run, and so are the profiles of the fit."""
    two = ("power:0.05", "power:0.1")
    run = tiny_run(
        iterations=80,
        age=100,
        averages=(*two, "power:0.07"),
        snapshot_every=10,
        checkpoint_every=80,
    )
    fs.train(run, out=tmp_path / "all", progress=False, device="cpu")
    fs.train(replace(run, averages=two), out=tmp_path / "two", progress=False, device="cpu")
    truth, near = (
        fs.load(tmp_path / "all", ema=name).denoiser.state_dict()
        for name in ("power:0.07", "power:0.05")
    )
    for name, tensor in fs.load(tmp_path / "two", ema="power:0.07").denoiser.state_dict().items():
        assert (tensor - truth[name]).norm() <= 0.02 * (near[name] - truth[name]).norm() + 1e-6
