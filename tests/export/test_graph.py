"""The module of a scheme gives the generator's own samples; a scheme is what a step does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.sampling import SAMPLERS, Sampler
from fewstep.data import Units
from fewstep.data.quantiles import quantiles_of
from fewstep.export.contents import Contents, example_condition, prepare
from fewstep.export.graph import KSteps
from fewstep.export.scheme import scheme
from fewstep.export.units import ToUser, normal_series, normal_share
from fewstep.export.writing import bound_of
from tests.export.generators import NETWORKS, of_name, small

LINEAR = [name for name in SAMPLERS if name != "addim"]


def gap(contents: Contents, n: int = 64) -> float:
    """The largest difference from the generator's samples, relative to the data's scale."""
    cond = example_condition(contents.generator, n)
    module = KSteps(contents.generator, contents.scheme, contents.half)
    with torch.no_grad():
        theirs = module(**contents.inputs(n, seed=3, cond=cond))
    ours = contents.samples(n, seed=3, cond=cond)
    assert theirs.dtype == ours.dtype
    assert ours.flatten(1).std(0).max() > 0.01
    return float(((theirs - ours).double().abs() / contents.scales()).max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("steps", [2, *(pytest.param(k, marks=pytest.mark.long) for k in (1, 4))])
def test_every_network_gives_the_generators_samples(name, steps):
    assert gap(prepare(of_name(name), steps=steps)) < 5e-6


@pytest.mark.parametrize("sampler", LINEAR)
def test_every_linear_sampler_gives_the_generators_samples(sampler):
    g = small(method="diffusion", std=0.1)
    contents = prepare(g, steps=11, sampler=sampler)
    assert gap(contents) < bound_of(contents)
    assert contents.sampler_name == sampler


@pytest.mark.parametrize(
    ("method", "options"), [("mcm", {"K": 4}), ("sct", {}), ("direct_cm", {}), ("ict", {})]
)
def test_methods_with_processes_and_samplers_of_their_own(method, options):
    assert gap(prepare(small(method=method, method_options=options))) < 5e-6


def test_a_second_stage_asks_the_network_of_each_time():
    """Both are in the graph where both answer, one alone where one does."""
    g = small(method="tcm", composite=True)
    both = prepare(g.with_later_sigmas((2.0, 0.5)))
    assert gap(both) < 5e-6
    assert KSteps(g, both.scheme).uses == ["high", "high", "low"]
    assert set(KSteps(g, prepare(g).scheme).networks) == {"high"}


def test_a_step_that_is_not_linear_is_refused():
    g = small(method="diffusion")
    with pytest.raises(UserError, match="step 'addim' is not linear"):
        _ = prepare(g, steps=3, sampler="addim").program


@pytest.mark.parametrize("change", [lambda x: x.clamp(-1, 1), lambda x: x + 0.1, lambda x: x * x])
def test_steps_of_the_users_own_are_read_or_refused(change):
    def step(process, denoiser, x, t, s, cond=None):
        x0_hat = denoiser(x, t, cond)
        return process.jump(x, 0.9 * x0_hat + 0.1 * denoiser(0.5 * x0_hat, t, cond), t, s)

    def curved(process, denoiser, x, t, s, cond=None):
        return change(step(process, denoiser, x, t, s, cond))

    g = small()
    own = replace(g, method=replace(g.method, sampler=Sampler(step=step, default=3)))
    assert gap(prepare(own)) < 5e-6
    assert prepare(own).sampler_name == "own"
    assert prepare(small(method="mcm", method_options={"K": 2})).sampler_name == "ddim"
    with pytest.raises(UserError, match="not linear"):
        scheme(g.method.process, [80.0, 1.0, 0.0], curved, False)


def test_a_plan_has_the_factors_of_the_formulas():
    """renoise: D + s z. Heun: x + h (v + v') / 2, written in x and the answers."""
    process = fs.process.edm()
    by = SAMPLERS["multistep"]
    first, last = scheme(process, [80.0, 0.5, 0.0], by.step, by.noisy).steps
    assert first.result == (("answer 0", 1.0), ("noise", 0.5))
    assert (last.result, last.is_noisy) == ((("answer 0", 1.0),), False)
    (step,) = scheme(process, [2.0, 1.0], SAMPLERS["heun"].step, False).steps
    assert [ask.t for ask in step.asks] == [2.0, 1.0]
    # v = (x - D) / 2, x' = x - v, v' = x' - D'; x - (v + v') / 2
    assert dict(step.asks[1].point) == pytest.approx({"x": 0.5, "answer 0": 0.5})
    expected = {"x": 0.5, "answer 0": 0.0, "answer 1": 0.5}
    assert dict(step.result) == pytest.approx({k: v for k, v in expected.items() if v})


def test_heun_in_few_steps_enlarges_what_is_rounded():
    """Then the generator's own samples depend on the batch as much."""
    few = prepare(small(method="diffusion", std=0.1), steps=3, sampler="heun")
    assert few.scheme.amplification == pytest.approx(40_000, rel=0.01)
    assert 5e-6 < gap(few) < bound_of(few)
    assert bound_of(prepare(small(), steps=4)) == 5e-6


def test_a_steps_noise_is_the_same_however_often_it_is_asked_for():
    def step(process, denoiser, x, t, s, cond=None, *, noise):
        return process.mix(denoiser(x, t, cond), (noise() + noise()) / 2, s)

    g = small()
    own = Sampler(step=step, noisy=True, default=3)
    assert gap(prepare(replace(g, method=replace(g.method, sampler=own)))) < 5e-6


def test_noise_is_masked_for_a_network_that_is_not():
    class Mean(Own):
        def forward(self, x, noise_label, cond=None):
            return x.mean(1, keepdim=True) + self.outer.bias

    mask = {"mask": ["bool", [3]]}
    assert gap(prepare(small(own=Mean, cond=mask), steps=3)) < 5e-6


def test_half_precision_is_near_and_is_half():
    g = small(options={"width": 64, "depth": 4})
    assert 1e-6 < gap(prepare(g, steps=2, half=True)) < 1e-3
    weights = list(KSteps(g, prepare(g).scheme, True).parameters())
    count = sum(w.numel() for w in weights)
    assert 2 * count < sum(w.nbytes for w in weights) < 2.1 * count + 20_000
    assert min(w.numel() for w in weights if w.dtype == torch.float16) > 1000
    max(g.denoiser.parameters(), key=torch.numel).data[0] = 1e6
    with pytest.raises(UserError, match="beyond float16's range"):
        KSteps(g, prepare(g).scheme, True)


def test_half_of_the_shipped_generator():
    g = fs.load("digits", device="cpu")
    assert max(gap(prepare(g, steps=k, half=True)) for k in (1, 2, 4)) < 1e-3


def test_the_normal_law_without_erf():
    y = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    share = normal_share(y, normal_series())
    torch.testing.assert_close(share, torch.special.ndtr(y), rtol=1e-11, atol=1e-12)


def test_units_of_every_kind():
    values = torch.randn(1000, 3, generator=generator(0, "values")).double()
    values[:, 1] = values[:, 1].round()  # jumps
    laws = tuple(quantiles_of(values[:, place].numpy()) for place in (0, 1))
    x0 = 2 * torch.randn(500, 3, generator=generator(1, "samples"))
    x0[0] = torch.tensor([-9.0, 9.0, 0.0])  # beyond the ends
    scales = (1.0, 2.0, 3.0)
    kinds = (
        Units((1.0, 2.0, 3.0), scales, axis=0, quantiles=(*laws, None)),
        Units((1e7, 0.0, 5.0), (1.0, 0.0, 1.0), axis=0),  # float64, and a constant
        Units(127.5, 127.5, clip=True),
        Units(),
    )
    for units in kinds:
        ours, theirs = units.to_user(x0), ToUser(units, 2)(x0)
        assert theirs.dtype == ours.dtype
        torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
        assert gap(prepare(small(units=units), steps=2)) < 5e-6


def test_quantiles_along_another_axis():
    values = torch.randn(1000, 2, generator=generator(0, "values")).double().numpy()
    laws = (quantiles_of(values[:, 0]), quantiles_of(values[:, 1]))
    units = Units((0.0, 1.0), (1.0, 1.0), axis=0, quantiles=laws)
    x0 = torch.randn(20, 2, 5, generator=generator(1, "samples"))
    torch.testing.assert_close(ToUser(units, 3)(x0), units.to_user(x0), rtol=1e-6, atol=1e-6)


class Own(nn.Module):
    """A network that knows its condition by names of its own, some of which Python keeps."""

    def __init__(self, shape=(3,), classes=0):
        super().__init__()
        self.inner, self.outer = nn.Linear(7, 16), nn.Linear(16, 3)

    def forward(self, x, noise_label, cond=None):
        parts = [x, noise_label.to(x)[:, None], cond["class"]["a b"], cond["x"].to(x)[:, None]]
        return self.outer(torch.tanh(self.inner(torch.cat(parts, 1))))


def own_network() -> fs.Generator:
    kind = {"class": {"a b": ["float32", [2]]}, "x": ["int64", []]}
    units = {"class.a b": Units((1.0, 2.0), (3.0, 0.0), axis=0)}
    return small(own=Own, cond=kind, cond_units=units, std=0.5)


def test_a_network_and_conditions_of_the_users_own():
    contents = prepare(own_network(), steps=2)
    assert gap(contents) < 5e-6
    assert list(contents.to_json()["inputs"]) == ["noise", "renoise", "class_a_b", "part_x"]


def test_features_alone_in_units_of_their_own():
    units = {"": Units((1.0, 2.0), (3.0, 0.5), axis=0)}
    contents = prepare(small(cond=["float32", [2]], cond_units=units), steps=2)
    assert gap(contents) < 5e-6
    assert list(contents.to_json()["inputs"]) == ["noise", "renoise", "features"]


@pytest.mark.long
def test_a_network_that_looks_at_its_numbers_is_refused():
    class Counts(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x, noise_label, cond=None):
            return self.w * x * (1 if bool(x.sum() > 0) else 2)

    with pytest.raises(UserError, match="network 'own' cannot be traced") as error:
        _ = prepare(small(own=Counts)).program
    assert "\n" not in str(error.value)


def test_what_is_no_generator_of_runs_is_refused():
    g = small()
    with pytest.raises(UserError, match="a denoiser of type Linear"):
        KSteps(replace(g, denoiser=nn.Linear(3, 3)), prepare(g).scheme)
    with pytest.raises(UserError, match="steps = 0"):
        prepare(g, steps=0)


def test_levels_in_words_of_json():
    """Where there is no signal the noise level is infinite, which JSON cannot say."""
    g = small(method="sct")
    flat = replace(g.method, process=fs.process.linear())
    about = prepare(replace(g, method=flat), steps=1).to_json()
    assert (about["times"], about["sigmas"]) == ([1.0], [None])
    about = prepare(g, steps=2).to_json()
    assert about["data"] == "rows.npy"
    assert math.isclose(about["sigmas"][1], g.method.later_sigmas[0], rel_tol=1e-6)
