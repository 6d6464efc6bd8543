"""A network by any convention is the denoiser that it is made of, on every process."""

from __future__ import annotations

import json

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core.conventions import Convention, as_denoiser, convention, student_scaling
from fewstep.core.denoiser import Preconditioned, across
from fewstep.core.scalings import Edm, Trig
from fewstep.core.vocabulary import process_named, range_of
from tests.support.exact_network import TRUTH, Exact

STD = 0.497
CONVENTIONS = {
    "edm": convention("edm", sigma_data=STD),
    "openai": convention("edm", sigma_data=STD, label="250 ln(level)"),
    "vp": convention("vp"),
    "ve": convention("ve"),
    "ddpm": convention("eps", "ddpm"),
    "stable diffusion's v": convention("v", "discrete"),
    "x0 by log-SNR": convention("x0", "cosine", label="log-SNR"),
    "velocity": convention("flow", "linear", label="1000 t"),
    "noise to data": convention("flow", "linear", label="1 - t", sign=-1),
    "score": convention("score"),
    "betas": convention("eps", fs.process.discrete(betas=torch.linspace(1e-3, 0.03, 500))),
    "[-2, 2]": convention("eps", "ddpm", range=(-2, 2)),
    "trig": convention("v", "trig"),
}


@pytest.mark.parametrize("process", ["edm", "cosine", "linear", "trig", "ddpm"])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_it_is_the_exact_denoiser_at_every_level_in_its_range(name, process):
    own, caller = CONVENTIONS[name], process_named(process)
    net = Preconditioned(Exact(own), own, caller)
    truth = across(TRUTH, fs.process.edm(), caller)
    level = torch.tensor([0.05, 0.2, 1.0, 5.0], dtype=torch.float64)
    t = caller.time_at(level)
    x0 = TRUTH.sample(4, seed=0).double()
    x_t = caller.mix(x0, torch.randn(x0.shape, generator=torch.manual_seed(0)).double(), t)
    torch.testing.assert_close(net(x_t, t), truth(x_t, t), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("name", ["[0, 1]", "[0, 255]"])
def test_a_range_that_is_not_about_zero_is_an_offset(name, prediction):
    interval = range_of(name)
    own = convention(prediction, range=interval)
    net, process = Exact(own), fs.process.cosine()
    denoiser = as_denoiser(net, own, process)
    t = process.time_at(torch.tensor([0.1, 1.0], dtype=torch.float64))
    x0 = TRUTH.sample(2, seed=1).double()
    x_t = process.mix(x0, torch.zeros_like(x0), t)
    truth = across(TRUTH, fs.process.edm(), process)
    torch.testing.assert_close(denoiser(x_t, t), truth(x_t, t), rtol=2e-3, atol=2e-3)
    with pytest.raises(UserError, match="cannot be a student"):
        Preconditioned(net, own)(x_t, 1.0)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_json_holds_it(name):
    own = CONVENTIONS[name]
    again = Convention.from_json(json.loads(json.dumps(own.to_json())))
    assert again == own


@pytest.mark.parametrize(
    "values",
    [None, [], {"prediction": "edm"}, {**CONVENTIONS["edm"].to_json(), "sigma_data": "x"}],
)
def test_what_is_no_convention_is_refused(values):
    with pytest.raises(UserError, match="convention ="):
        Convention.from_json(values)


@pytest.mark.parametrize("own", [Edm(sigma_data=0.7), Edm(shift=0.01), Trig()])
@pytest.mark.parametrize("name", ["openai", "ddpm", "velocity"])
def test_a_student_begins_as_its_source_where_the_boundary_allows_it(own, name):
    """D(x, t) of the student is the teacher's, but where EDM's own boundary is moved."""
    source = CONVENTIONS[name]
    scaling = student_scaling(own, source)
    t = torch.tensor([1e-6, 0.3, 2.0], dtype=torch.float64)
    x = torch.randn(3, 2, generator=torch.manual_seed(1)).double()
    student = Preconditioned(Exact(source), scaling)(x, t)
    if scaling is source:
        teacher = Preconditioned(Exact(source), source)(x, t)
        torch.testing.assert_close(student, teacher)
        torch.testing.assert_close(student[:1], x[:1], rtol=1e-4, atol=1e-4)
    else:
        assert scaling == Edm(sigma_data=own.sigma_data, shift=own.shift, noise_scale=250.0)
