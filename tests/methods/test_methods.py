"""What every method allows, on the settings of `fewstep verify`, which has their equations."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.analysis.verify.builtin import METHODS, build
from fewstep.analysis.verify.fixtures import no_encoder
from fewstep.base.randomness import generator
from tests.support.rows import VARIANTS, long_if
from tests.support.toys import Gaussian, small_student

pytestmark = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(*row, marks=long_if(title in VARIANTS), id=title)
        for title, row in METHODS.items()
    ],
)


def models(student, method: fs.Method) -> fs.Models:
    """All the networks that a method can call; the balance changes no loss."""
    truth = Gaussian(process=method.process)

    def teacher(x, t, cond=None):
        return truth(x, t)

    beside = {"balance": torch.zeros_like, "encoder": no_encoder}
    return fs.Models(student, ema=student, teacher=teacher, frozen=student, **beside)


def batch(
    method: fs.Method,
    rows: int = 8,
    shape: tuple[int, ...] = (2, 3),
    dtype=torch.float64,
    progress: float = 0.6,
):
    source = generator(0, "batch")
    x0 = torch.randn(rows, *shape, generator=source, dtype=torch.float64).to(dtype)
    z = torch.randn(rows, *shape, generator=source, dtype=torch.float64).to(dtype)
    u = torch.rand(rows, method.uniforms, generator=source, dtype=torch.float64)
    return x0, z, method.times(u, progress, torch.arange(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (2, 3, 2, 2)])
def test_any_shape_and_dtype(name, options, shape, dtype):
    method = build(name, options)
    student = small_student(shape, ends=method.ends).to(dtype)
    loss = method.loss(models(student, method), *batch(method, shape=shape, dtype=dtype))
    assert loss.dtype == dtype
    assert loss.shape == (8,)


def test_nothing_waits_for_the_device(name, options):
    """On the meta device, which has shapes and no numbers, with the times on the host as always."""
    if options.get("pairs") == "ot":
        pytest.skip("the assignment runs on the host")
    method = build(name, options)
    student = small_student((2, 3), classes=3, ends=method.ends).to("meta")
    x0, z, times = batch(method)
    cond = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1], device="meta")
    everyone = replace(models(student, method), teacher=student)
    loss = method.loss(everyone, x0.to("meta"), z.to("meta"), times, cond)
    loss.mean().backward()
    assert loss.device.type == "meta"
    assert loss.shape == (8,)


def test_the_composition_fits_in_fifteen_lines(name, options):
    source = inspect.getsource(getattr(fs.methods, name))
    body = source.split('"""', 2)[2].strip().splitlines()
    assert len(body) <= 15
    assert repr(build(name, options)).startswith("Method(times=")
