"""Every variable has units of its own: no choice of units changes what a network sees."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep import data
from fewstep.base.errors import UserError
from fewstep.data.units import variable_axis
from fewstep.run.config import run_from_json
from tests.support.toys import tiny_run

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return torch.from_numpy(RANDOM.normal(size=shape))


def padded(n, places, variables):
    lengths = torch.arange(n) % places + 1
    return draw(n, places, variables), {"mask": torch.arange(places) < lengths[:, None]}


SETS, MASK = padded(60, 5, 3)
KINDS = {  # data, condition and the axis of the variables in the array
    "table": (draw(50, 3), None, 1),
    "series": (draw(50, 3, 8), None, 1),
    "fields": (draw(50, 3, 6, 6), None, 1),
    "volumes": (draw(20, 3, 4, 4, 4), None, 1),
    "sets": (SETS, MASK, 2),
    "sets with a mask of the data's shape": (
        SETS,
        {"mask": MASK["mask"][:, :, None].expand(SETS.shape)},
        2,
    ),
    "fields with gaps": (draw(50, 3, 6, 6), {"mask": draw(50, 1, 6, 6) > -1}, 1),
    "table with gaps": (draw(50, 3), {"mask": draw(50, 3) > -1}, 1),
}


def along(values, axis, ndim):
    shape = [1] * ndim
    shape[axis] = -1
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-1e5, 1e5), min_size=3, max_size=3),
    st.lists(st.integers(-6, 6), min_size=3, max_size=3),
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", ["auto", "robust"])
def test_the_model_sees_the_same_in_whatever_units(kind, units, shift, powers):
    """x0 of a + b x is x0 of x, for every variable's own a and b; and a + b x comes back."""
    x, cond, axis = KINDS[kind]
    reading = data.Reading(units=units)
    scale = [10.0**power for power in powers]
    a, b = (along(values, axis, x.ndim) for values in (shift, scale))
    plain = data.from_tensors({"x0": x, "cond": cond}, reading)
    other = data.from_tensors({"x0": a + b * x, "cond": cond}, reading)
    rounding = 1e-13 * max(map(abs, shift)) / min(scale)  # of a + b x in doubles
    torch.testing.assert_close(other.train.x0, plain.train.x0, rtol=1e-5, atol=1e-5 + rounding)
    back = other.units.to_user(other.train.x0).double()
    real = torch.ones_like(x, dtype=torch.bool)
    if cond is not None:
        real = cond["mask"].reshape(*cond["mask"].shape, *[1] * (x.ndim - cond["mask"].ndim))
        real = real.expand_as(x)
    apart = (back - (a + b * x)).abs() / (10 * b + a.abs())  # float32 tells 1.2e-7 apart
    assert apart[real].max() < 2e-7
    assert other.units.axis == axis - 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_variable_has_mean_0_and_deviation_half(kind):
    x, cond, axis = KINDS[kind]
    dataset = data.from_tensors({"x0": x, "cond": cond})
    mask = torch.ones_like(x, dtype=torch.bool)
    if cond is not None:
        mask = cond["mask"].reshape(*cond["mask"].shape, *[1] * (x.ndim - cond["mask"].ndim))
        mask = mask.expand_as(x)
    for place in range(3):
        values = dataset.train.x0.double().select(axis, place)[mask.select(axis, place)]
        assert abs(values.mean().item()) < 1e-6
        assert values.std(correction=0).item() == pytest.approx(0.5, rel=1e-6)


def test_the_axis_can_be_said_and_square_grids_have_none():
    x = draw(30, 4, 2)
    assert data.from_tensors(x, data.Reading(channel_axis=-1)).units.axis == 1
    assert data.from_tensors(x, data.Reading(channel_axis=2)).units.axis == 1
    assert variable_axis(draw(9, 16, 16), None) is None
    for axis in (0, 3, -3):
        with pytest.raises(UserError, match=rf"channel_axis = {axis}: expected an axis"):
            data.from_tensors(x, data.Reading(channel_axis=axis))


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e30, 1e30, allow_subnormal=False).filter(lambda v: abs(v) < 9e29))
def test_constant_columns_come_back_exactly(value):
    x = torch.cat([draw(40, 1), torch.full((40, 1), value, dtype=torch.float64)], 1)
    dataset = data.from_tensors(x)
    samples = dataset.units.to_user(draw(7, 2).float())
    assert (samples[:, 1].double() == value).all()
    assert not dataset.train.x0[:, 1].any()
    assert not dataset.units.to_model(samples)[:, 1].any()
    assert dataset.sigma_data() == 0.5


def test_a_sentinel_moves_robust_units_by_nothing():
    x = draw(1000, 2)
    odd = x.clone()
    odd[7, 0] = 1e9
    a, b = (data.from_tensors(v, data.Reading(units="robust")).units for v in (x, odd))
    assert a.shift == pytest.approx(b.shift, abs=5e-3)
    assert a.scale == pytest.approx(b.scale, rel=5e-3)


def test_units_that_are_said():
    x = torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    as_is = data.from_tensors(x, data.Reading(units="as-is"))
    assert torch.equal(as_is.train.x0, x.float())
    ranged = data.from_tensors(x, data.Reading(units="0..1"))
    torch.testing.assert_close(ranged.train.x0, (2 * x - 1).float())
    assert ranged.units.to_user(torch.tensor([[3.0, -3.0, 0.0]])).tolist() == [[1.0, 0.0, 0.5]]
    whole = data.from_tensors(x * torch.tensor([1.0, 10.0, 100.0]), data.Reading(units="whole"))
    assert whole.units.axis is None
    assert whole.train.x0.double().std(correction=0).item() == pytest.approx(0.5)
    with pytest.raises(UserError, match=r"expected a range of all values"):
        data.from_tensors(x, data.Reading(units="0..0.5"))
    for wrong in ("minmax", "1..0", "..", "nan..1"):
        with pytest.raises(
            UserError,
            match=r"expected auto, standard, robust, quantile, whole, as-is, edm2-latents",
        ):
            data.from_tensors(x, data.Reading(units=wrong))
    with pytest.raises(UserError, match="the same in every row"):
        data.from_tensors(torch.tensor([[1.0, 2.0]]).expand(9, 2))


def test_units_survive_json_and_refuse_what_is_none():
    units = data.from_tensors(draw(50, 3)).units
    again = data.Units.from_json(json.loads(json.dumps(units.to_json())), (3,))
    assert again == units
    for wrong in (
        [1.0],
        [0, 0, False],
        {"axis": 1, "shift": [0.0] * 3, "scale": [1.0] * 3},
        {"axis": 0, "shift": [0.0] * 2, "scale": [1.0] * 2},
        {"axis": 0, "shift": [0.0] * 3, "scale": [1.0, 1.0, -1.0]},
        {"axis": 0, "shift": [0.0, 0.0, float("inf")], "scale": [1.0] * 3},
        {"axis": True, "shift": [0.0] * 3, "scale": [1.0] * 3},
    ):
        assert data.Units.from_json(wrong, (3,)) is None


def test_a_stored_run_of_an_older_version_has_one_shift_and_scale():
    values = tiny_run().to_json()
    del values["units"], values["channel_axis"]
    assert run_from_json(values).units == "whole"
    assert run_from_json(tiny_run().to_json()).units == "auto"


def test_a_run_keeps_the_units_of_what_it_starts_from():
    """Other rows of the same law are brought to the first run's units; another law is refused."""
    first = fs.train(tiny_run(iterations=5), 300 + 10 * draw(200, 2), progress=False, device="cpu")
    more = 300 + 10 * draw(200, 2)
    second = fs.train(tiny_run(iterations=5), more, init=first, progress=False, device="cpu")
    assert second.facts.units == first.facts.units
    with pytest.raises(UserError, match=r"variable 0 has mean .* units = standard measures"):
        fs.train(tiny_run(iterations=5), 10 * draw(200, 2), init=first, progress=False)
    own = fs.train(
        tiny_run(iterations=5, units="standard"), more, init=first, progress=False, device="cpu"
    )
    assert own.facts.units != first.facts.units
