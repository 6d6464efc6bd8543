"""Samples depend on seed and place alone; steps are network evaluations; files come back as they
went.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import SAMPLING_BLOCK, generator, normal
from fewstep.core.sampling import SAMPLERS, sampler
from fewstep.data.pictures import sketch
from tests.support.toys import tiny_run


@pytest.fixture(scope="module")
def models():
    return {
        m: fs.train(tiny_run(method=m), progress=False, device="cpu") for m in ("ect", "diffusion")
    }


@pytest.fixture(scope="module")
def classes():
    data = {
        "x0": torch.randn(60, 1, 4, 4, generator=generator(0, "x")),
        "cond": torch.arange(60) % 3,
    }
    return fs.train(tiny_run(), data, progress=False, device="cpu")


@pytest.mark.parametrize(
    ("method", "steps"), [("ect", 1), ("ect", 2), ("ect", 5), ("diffusion", 7)]
)
def test_a_sample_depends_on_its_place_and_seed_alone(models, method, steps):
    g = models[method]
    whole = g.sample(40, steps=steps, seed=5)
    torch.testing.assert_close(
        g.sample(40, steps=steps, seed=5, batch=7), whole, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(g.sample(23, steps=steps, seed=5), whole[:23], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(g.sample(40, steps=steps, seed=6), whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_are_network_evaluations(name):
    by, process, calls = sampler(name), fs.process.edm(), []

    def denoiser(x, t, cond=None):
        calls.append(t)
        return 0.5 * x

    x = process.prior(torch.ones(2, 3))
    for steps in range(1, 12):
        if (steps - 1) % by.evaluations:
            with pytest.raises(
                UserError, match=f"steps = {steps}: .* try {steps - 1} or {steps + 1}"
            ):
                by.times(process, steps)
            continue
        grid = by.times(process, steps)
        calls.clear()
        fs.sampling.sample(
            process, denoiser, x, grid, by.step, noise=(lambda i: x) if by.noisy else None
        )
        assert len(calls) == steps
        assert grid[0] == process.t_max
        assert grid[-1] == 0
        assert all(a > b for a, b in pairwise(grid))
    with pytest.raises(UserError, match="steps = 0"):
        by.times(process, 0)


def test_later_sigmas_are_used_where_they_fit():
    process = fs.process.edm()
    assert sampler("multistep").times(process, 2, (0.5,)) == [80.0, 0.5, 0.0]
    assert len(sampler("multistep").times(process, 4, (0.5,))) == 5


def test_a_generator_uses_its_runs_later_sigmas_and_fresh_noise(models):
    """A network that says 0 at t_max and x below it gives the second step's noise back, at the
    middle time's level.
    """

    class Says(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t, cond=None):
            return torch.where((t == 80)[:, None], 0.0, x)

    g = replace(
        models["ect"], denoiser=Says(), run=replace(models["ect"].run, later_sigmas=(0.25,))
    )
    samples = g.sample(4000, steps=2)
    assert samples.std().item() == pytest.approx(0.25, rel=0.05)
    prior = normal(0, "prior", 0, 4000, (2,), SAMPLING_BLOCK)
    assert abs(torch.corrcoef(torch.stack([samples.flatten(), prior.flatten()]))[0, 1]) < 0.05
    with pytest.raises(UserError, match=r"later_sigmas = \(90\.0,\): expected below t_max = 80"):
        replace(g, run=replace(g.run, later_sigmas=(90.0,))).sample(1, steps=2)


def test_labels_are_taken_in_turn_or_as_asked(classes):
    assert classes.conditions(5, None).tolist() == [0, 1, 2, 0, 1]
    assert classes.conditions(2, 1).tolist() == [1, 1]
    twos = classes.sample(6, cond=2)
    torch.testing.assert_close(twos[2:3], classes.sample(3)[2:])
    torch.testing.assert_close(twos, classes.sample(6, cond=torch.full((6,), 2)))
    for bad in (3, -1, 1.5, True, torch.tensor([0, 1]), torch.tensor([0.0] * 6)):
        with pytest.raises(UserError, match=r"expected one of 0\.\.2"):
            classes.sample(6, cond=bad)


def test_no_labels_where_there_are_none(models):
    with pytest.raises(UserError, match="knows no labels"):
        models["ect"].sample(2, cond=1)
    with pytest.raises(UserError, match="unknown sampler 'hen': did you mean 'heun'"):
        models["ect"].sample(2, sampler="hen")


def test_a_saved_generator_is_the_same_generator(models, tmp_path):
    models["ect"].save(tmp_path / "g")
    copy = fs.load(tmp_path / "g", device="cpu")
    assert torch.equal(copy.sample(3), models["ect"].sample(3))
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == [
        "ema.safetensors",
        "manifest.json",
        "state.json",
    ]
    with pytest.raises(UserError, match="no weights 'student'"):
        fs.load(tmp_path / "g", ema="student")


def test_samples_come_in_the_units_of_the_data():
    x = 500 + 20 * torch.randn(400, 3, generator=generator(0, "x"))
    g = fs.train(tiny_run(iterations=40), x, progress=False, device="cpu")
    samples = g.sample(400)
    assert abs(samples.mean().item() - 500) < 40
    deviations = x.double().std(0, correction=0).tolist()
    assert [scale / 2 for scale in g.facts.units.scale] == pytest.approx(deviations)


def test_a_generator_goes_to_another_device_as_a_tensor_does(models):
    """Itself where it is there; else a copy, after which the first is where it was."""
    g = models["ect"]
    assert g.to("cpu") is g
    assert g.to(torch.device("cpu")) is g
    with pytest.raises(UserError, match="device 'tpu' is not here"):
        g.to("tpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewstep.run.generator.pick_device", torch.device)
        there = g.to("meta")
    assert (there.device.type, g.device.type) == ("meta", "cpu")
    assert (there.run, there.fingerprint) == (g.run, g.fingerprint)


def test_a_generator_prints_what_it_is_and_no_addresses(models, classes):
    assert repr(models["ect"]).startswith("Generator(ect on ring8, step 6 of 6, mlp of ")
    assert "3 classes" in repr(classes)
    assert not re.search("0x[0-9a-f]{6}|\n", repr(models["diffusion"]) + repr(classes))


def test_pictures_hold_the_pixels(tmp_path):
    x = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    sketch.save(tmp_path / "x.png", x, columns=2)
    sheet = pixels(tmp_path / "x.png")
    zoom = 640 // 6
    inside = [sheet[r * 3 * zoom + zoom, c * 3 * zoom + zoom] for r in (0, 1) for c in (0, 1)]
    assert inside == [0, 128, 255, 255]
    sketch.save(tmp_path / "dots.png", torch.tensor([[0.5, 0.5], [-0.5, -0.5]]))
    dots = pixels(tmp_path / "dots.png")
    rows, columns = np.nonzero(dots < 255)
    assert {(r < 320, c > 320) for r, c in zip(rows, columns, strict=True)} == {
        (True, True),
        (False, False),
    }
    sketch.save(tmp_path / "numbers.png", torch.randn(500, 1, generator=generator(0, "x")))
    assert pixels(tmp_path / "numbers.png").min() < 255
    with pytest.raises(ValueError, match="NaN"):
        sketch.save(tmp_path / "nan.png", torch.full((4, 2), torch.nan))
    sketch.save(tmp_path / "curves.png", torch.sin(torch.arange(48.0)).reshape(3, 16))
    assert pixels(tmp_path / "curves.png").shape == (160, 640)


def pixels(file) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"))
