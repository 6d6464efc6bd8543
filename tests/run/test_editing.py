"""Edits by generators: in the data's units, of every kind of model, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.measurements import inpaint, matrix, superres
from fewstep.run.measurement_units import in_model_units
from tests.support.toys import tiny_run

QUICK = {"steps": 5, "particles": 16}
MISSING = torch.zeros(8, 8, dtype=torch.bool)
MISSING[:, 4:] = True


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test edits"), dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    return fs.load("digits", device="cpu")


@pytest.fixture(scope="module")
def three():
    """A picture of a three, in [-1, 1]."""
    dataset = fs.data.digits()
    return dataset.test.x0[dataset.test.cond == 3][0]


@pytest.fixture(scope="module")
def table():
    """A run on three variables with units of their own."""
    x0 = torch.tensor([5.0, -300.0, 0.01]) + normals(64, 3) * torch.tensor([1.0, 50.0, 0.001])
    return fs.train(tiny_run(), x0, progress=False, device="cpu")


def test_kept_entries_have_the_bits_of_the_input(digits, three):
    y = three.double() + 1e-12
    y[:, MISSING] = torch.nan
    x = fs.edit(digits, y, inpaint(MISSING), 5, **QUICK)
    assert x.dtype == torch.float64
    assert torch.equal(x[..., ~MISSING], y[None, :, ~MISSING].expand(5, -1, -1))
    assert bool(x.isfinite().all())


def test_other_measurements_hold_and_pictures_stay_in_their_range(digits, three):
    small = superres(2)
    y = small.forward(three[None])
    x = fs.edit(digits, y, small, 5, **QUICK)
    assert float((small.forward(x.double()) - y).abs().max()) < 1e-5
    assert float(x.abs().max()) < 1.01


def test_half_a_three_becomes_a_three(digits, three):
    """Classes compete: filled in, its left half is nearest to threes, which are not all alike."""
    x = fs.edit(digits, three, inpaint(MISSING), 16)
    train = fs.data.digits().train
    nearest = torch.cdist(x.flatten(1), train.x0.flatten(1)).argmin(1)
    assert int((train.cond[nearest] == 3).sum()) >= 12
    assert float((x - three).square().mean()) < 0.25
    assert float(x.std(0)[..., MISSING].mean()) > 0.02


def test_the_same_seed_gives_the_same_samples(digits, three):
    first, again, other = (
        fs.edit(digits, three, inpaint(MISSING), 4, seed=seed, batch=batch, **QUICK)
        for seed, batch in ((1, None), (1, 5), (2, None))
    )
    assert torch.allclose(first, again, atol=1e-4)
    assert not torch.allclose(first, other, atol=1e-2)


def test_each_sample_has_its_values_and_condition(digits):
    rows = fs.data.digits().test.x0[:3]
    x = fs.edit(digits, rows, inpaint(MISSING), 3, cond=torch.tensor([7, 3, 6]), **QUICK)
    assert torch.equal(x[..., ~MISSING], rows[..., ~MISSING])
    alone = fs.edit(digits, rows[0], inpaint(MISSING), 1, cond=7, **QUICK)
    assert torch.allclose(x[:1], alone, atol=1e-4)


def test_variables_of_different_units_are_measured_together(table):
    total = matrix(torch.tensor([[1.0, 0.01, 100.0], [1.0, 0.0, -200.0]]))
    inner, _ = in_model_units(total, torch.zeros(1, 2), table.facts.units, (3,))
    inner.check((3,))
    u, v = normals(2, 1, 3, seed=1)
    pair = [float((a * inner.pinverse(inner.forward(b))).sum()) for a, b in ((u, v), (v, u))]
    assert pair[0] == pytest.approx(pair[1], abs=1e-6)
    y = torch.tensor([2.5, 3.0])
    x = fs.edit(table, y, total, 6, **QUICK)
    assert torch.allclose(total.forward(x), y.expand(6, 2), atol=1e-4)
    holes = inpaint(torch.tensor([True, False, True]))
    x = fs.edit(table, torch.tensor([torch.nan, -321.25, 0.0]), holes, 6, **QUICK)
    assert torch.equal(x[:, 1], torch.full((6,), -321.25))


@pytest.mark.parametrize("method", ["diffusion", "mcm", "tcm"])
def test_models_that_do_not_jump_are_solved_or_refused(method):
    run = tiny_run(method=method)
    model = fs.train(run, progress=False, device="cpu")
    y, holes = torch.tensor([0.3, 0.0]), inpaint(torch.tensor([False, True]))
    if method != "tcm":
        x = fs.edit(model, y, holes, 4, **QUICK)
        assert torch.equal(x[:, 0], torch.full((4,), y[0].item()))
        return
    with pytest.raises(UserError, match="--composite"):
        fs.edit(model, y, holes, 4, **QUICK)


def test_the_way_between_two_seeds_begins_and_ends_at_their_samples(digits):
    way = fs.interpolate(digits, (3, 8), 7, steps=2, cond="5")
    ends = [digits.sample(1, steps=2, seed=seed, cond=5)[0] for seed in (3, 8)]
    assert torch.allclose(way[0], ends[0], atol=1e-4)
    assert torch.allclose(way[-1], ends[1], atol=1e-4)
    moves = (way[1:] - way[:-1]).flatten(1).norm(dim=1)
    assert float(moves.max()) < float((way[0] - way[-1]).norm())


REFUSED = {
    "y of shape": lambda g, y, m: fs.edit(g, y[:, :4], m),
    "mask of shape": lambda g, y, m: fs.edit(g, y, inpaint(torch.arange(5) > 2)),
    "y holds NaN": lambda g, y, m: fs.edit(g, y * torch.nan, m),
    "steps = 6": lambda g, y, m: fs.edit(g, y, m, steps=6),
    "particles = 0": lambda g, y, m: fs.edit(g, y, m, particles=0),
    "label 11": lambda g, y, m: fs.edit(g, y, m, cond=11),
    "conditions that differ": lambda g, y, m: fs.interpolate(g, (1, 2)),
    "n = 1": lambda g, y, m: fs.interpolate(g, (1, 2), 1, cond=1),
    "seeds = ": lambda g, y, m: fs.interpolate(g, (1, 2, 3), cond=1),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_takes_one_line(words, digits, three):
    with pytest.raises(UserError) as error:
        REFUSED[words](digits, three, inpaint(MISSING))
    assert words in str(error.value)


def test_quantiles_have_no_linear_measurement(table):
    law = fs.data.from_tensors(normals(64, 3).exp(), fs.data.Reading(units="quantile")).units
    facts = replace(table.facts, units=law)
    own = replace(table, facts=facts)
    with pytest.raises(UserError, match="a mask alone"):
        fs.edit(own, torch.ones(1), matrix(torch.ones(1, 3)), **QUICK)
    x = fs.edit(own, torch.ones(3), inpaint(torch.tensor([True, False, True])), 2, **QUICK)
    assert x[:, 1].tolist() == [1.0, 1.0]
