"""Statistics of series, sets and tables: their equations, and what they must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from fewstep.base.randomness import generator
from fewstep.data import Arrays, Column, Dataset, Names, Units
from fewstep.statistics import marginals, structure
from fewstep.statistics.clues import clues_of
from fewstep.statistics.layout import (
    condition_numbers,
    has_features,
    joint_of,
    layout_of,
    values_of,
)
from tests.analysis.test_metrics import normals


def series(n: int, seed: int) -> torch.Tensor:
    """Random walks `[n, 2, 32]`."""
    return normals(n * 64, 1, seed).reshape(n, 2, 32).cumsum(2)


def dataset(x0: torch.Tensor, cond=None, **facts) -> Dataset:
    rows = Arrays(x0.float(), cond)
    return Dataset("rows", rows, rows, rows, **facts)


def test_roughness_is_a_ratio_of_squared_differences():
    """Twice as high is four times as rough; noise of variance s^2 adds 2 s^2; levels do nothing."""
    x = series(2000, 0)
    rough = structure.roughness(x)
    assert rough(x) == pytest.approx(1)
    assert rough(2 * x + normals(2000, 1, 1)[:, :, None]) == pytest.approx(4)
    noise = normals(2000 * 64, 1, 2, std=0.7).reshape(x.shape)
    assert rough(x + noise) == pytest.approx(1 + 2 * 0.49, rel=0.02)


def test_missing_and_constant_values_do_not_count():
    x = series(50, 0)
    rough, smooth = structure.roughness(x), x.clone()
    smooth[:, :, 20:] = math.nan
    assert structure.squared_differences(smooth).tolist() == pytest.approx(
        structure.squared_differences(x[:, :, :20]).tolist()
    )
    wide = torch.cat([x, torch.full_like(x[:, :1], 0.25)], 1)
    for statistic in (structure.roughness, structure.spectrum, structure.autocorrelation):
        compare = statistic(wide)
        other = torch.cat([1.1 * x, wide[:, 2:]], 1)
        assert compare(other) == pytest.approx(statistic(x)(1.1 * x))
    assert rough(x.flip(2)) == pytest.approx(1)


def test_the_bands_of_a_spectrum_hold_the_power_and_each_wave_one_of_them():
    places = torch.arange(64) / 64
    for frequency, band in ((1, 0), (2, 1), (32, 7)):
        wave = torch.cos(2 * math.pi * frequency * places)[None, None]
        power = structure.powers(wave, 2)[0, 0]
        assert power.argmax() in (band, band - 1, len(power) - 1)
        assert (power > 1e-9).sum() == 1
    noise = normals(4000 * 64, 1, 0).reshape(4000, 1, 64)
    assert structure.powers(noise, 2).mean((0, 1)).tolist() == pytest.approx(
        [1] * structure.powers(noise, 2).shape[-1], rel=0.1
    )


def test_a_spectrum_tells_the_worst_band():
    """Twice as high is a difference of 3; a band that is all but empty counts a ten-thousandth."""
    x = series(500, 0)
    compare = structure.spectrum(x)
    assert compare(x) == 0
    assert compare(2 * x) == pytest.approx(3)
    places = torch.arange(64) / 64
    wave = normals(500, 1, 1)[:, :, None] * torch.cos(2 * math.pi * places)
    noise = normals(500 * 64, 1, 2, std=0.1).reshape(500, 1, 64)
    assert 1 < structure.spectrum(wave)(wave + noise) < 100


def test_the_autocorrelation_of_a_wave_is_its_cosine():
    phase = 2 * math.pi * torch.rand(20_000, 1, 1, generator=generator(0, "phase"))
    wave = torch.cos(2 * math.pi * torch.arange(16) / 16 + phase)
    noise = normals(20_000 * 16, 1, 0).reshape(20_000, 1, 16)
    # cos of 1, 2, 4, 8 sixteenths of a turn; noise has no correlation.
    assert structure.autocorrelation(noise)(wave) == pytest.approx(1, abs=0.03)
    assert structure.autocorrelation(wave)(3 * wave) == pytest.approx(0, abs=1e-6)


def test_it_does_not_matter_where_the_variables_stand_or_which_axis_is_first():
    x = normals(40 * 3 * 6 * 6, 1, 0).reshape(40, 3, 6, 6).cumsum(3)
    first = layout_of(dataset(x, units=Units((0.0,) * 3, (1.0,) * 3, axis=0)))
    last = layout_of(dataset(x.movedim(1, 3), units=Units((0.0,) * 3, (1.0,) * 3, axis=2)))
    assert first.kinds == last.kinds == ("field",)
    torch.testing.assert_close(first.by_variable(x), last.by_variable(x.movedim(1, 3)))
    y = 1.3 * x.flip(2)
    for statistic in (structure.roughness, structure.spectrum, structure.autocorrelation):
        turned = statistic(x.transpose(2, 3))(y.transpose(2, 3))
        assert statistic(x)(y) == pytest.approx(turned)


def test_a_layout_names_the_kind_of_data():
    def kinds(*shape, **facts):
        return layout_of(dataset(torch.zeros(5, *shape), **facts)).kinds

    mask = torch.ones(5, 4, dtype=torch.bool)
    names = Names((Column("a"), Column("b", "category", ("x", "y"))))
    assert kinds(1) == ("table",)
    assert kinds(3) == ("table", "table of several columns")
    assert kinds(3, names=names) == (*kinds(3), "table with categories")
    assert kinds(2, 7) == ("series",)
    assert kinds(2, 7, 7) == ("field",)
    assert kinds(3, 8, 8, units=Units(clip=True)) == ("picture",)
    assert kinds(4, 2, cond={"mask": mask}) == ("set",)


def point_sets(n: int, seed: int) -> tuple[Arrays, Arrays]:
    """Sets of up to 7 points in the plane, and the same sets in another order."""
    source = generator(seed, "sets")
    x = torch.randn(n, 7, 2, generator=source)
    mask = torch.arange(7) < torch.randint(1, 8, (n, 1), generator=source)
    order = torch.rand(n, 7, generator=source).argsort(1)
    x = x.masked_fill(~mask[:, :, None], 0)
    moved = x.gather(1, order[:, :, None].expand_as(x))
    return Arrays(x, {"mask": mask}), Arrays(moved, {"mask": mask.gather(1, order)})


def test_nothing_of_a_set_depends_on_the_order_of_its_elements():
    sets, moved = point_sets(60, 0)
    whole = Dataset("sets", sets, sets, sets)
    x, y = values_of(whole)(sets), values_of(whole)(moved)
    for law in (marginals.of_pairs, marginals.of_neighbours):
        assert law(x)(y) == 0
        assert law(x)(1.5 * y) > 0.1
    clues = clues_of(whole, layout_of(whole))
    torch.testing.assert_close(clues(sets), clues(moved), rtol=1e-4, atol=1e-4)


def test_distances_in_a_set_are_those_of_its_elements():
    sets, _ = point_sets(9, 1)
    values = values_of(Dataset("sets", sets, sets, sets))(sets)
    pairs, nearest = marginals.pair_distances(values), marginals.neighbour_distances(values)
    for i in range(9):
        points = sets.x0[i][sets.cond["mask"][i]].numpy()
        truth = scipy.spatial.distance.pdist(points)
        ours = pairs[i][torch.triu_indices(7, 7, 1).unbind()]
        assert sorted(ours[~ours.isnan()].tolist()) == pytest.approx(sorted(truth), abs=1e-6)
        if len(points) > 1:
            square = scipy.spatial.distance.squareform(truth) + np.diag([np.inf] * len(points))
            own = nearest[i][~nearest[i].isnan()]
            assert sorted(own.tolist()) == pytest.approx(sorted(square.min(1)), abs=1e-6)


def test_large_sets_are_compared_by_elements_of_chance():
    x = normals(20 * 200, 2, 0).reshape(20, 200, 2)
    x[:, 150:] = math.nan
    some = marginals.elements_of(x)
    assert some.shape == (20, marginals.MOST_ELEMENTS, 2)
    assert not some.isnan().any()


def test_the_worst_column_is_scipys_kolmogorov_distance():
    x, y = normals(3000, 3, 0), normals(500, 3, 1)
    y[:, 1] += 0.3
    y[::2, 2] = math.nan
    truth = [scipy.stats.ks_2samp(x[:, i], y[:, i][~y[:, i].isnan()]).statistic for i in range(3)]
    # At 200 quantiles the distance is at most half of a percent smaller.
    assert max(truth) - 0.01 <= marginals.kolmogorov(x)(y) <= max(truth)
    assert marginals.kolmogorov(x)(x) == 0


def test_the_worst_correlation_is_numpys():
    x = normals(300, 4, 0)
    y = normals(200, 4, 1)
    y[:, 2] = y[:, 0] + 0.5 * y[:, 3]
    gaps = np.abs(np.corrcoef(x.numpy().T) - np.corrcoef(y.numpy().T))
    assert marginals.correlation(x)(y) == pytest.approx(gaps.max())
    assert marginals.correlation(x[:, :, None])(y[:, :, None]) == pytest.approx(gaps.max())
    constant = torch.cat([x, torch.ones(300, 1)], 1)
    assert marginals.correlation(constant)(constant) == 0


def test_a_table_is_compared_as_users_have_it():
    """Of a category the largest number counts; whole numbers are rounded, in the user's units."""
    names = Names((Column("n", "int"), Column("c", "category", ("x", "y", "z")), Column("v")))
    units = Units((10.0, 0.0, 0.0, 0.0, 5.0), (4.0, 0.5, 0.5, 0.5, 2.0), axis=0)
    users = torch.tensor([[12.2, 0.1, 0.7, 0.4, 5.3], [8.6, 0.9, 0.2, -0.1, 4.1]])
    rows = Arrays(units.to_model(users))
    whole = Dataset("table", rows, rows, rows, units=units, names=names)
    values = units.to_user(values_of(whole)(rows))
    assert values[:, :4].tolist() == [[12, 0, 1, 0], [9, 1, 0, 0]]
    torch.testing.assert_close(values[:, 4], users[:, 4])
    (block,) = layout_of(whole).categories
    one_hot = torch.eye(3)[torch.tensor([0, 0, 1, 2])]
    table = torch.cat([torch.zeros(4, 1), one_hot, torch.zeros(4, 1)], 1)
    compare = marginals.categories(table, [block])
    assert compare(table) == 0
    assert compare(table[:2]) == pytest.approx(0.5)  # (1, 0, 0) beside (1/2, 1/4, 1/4)


def test_sample_and_condition_have_an_equal_say():
    """Each part has total variance 1; a label is one-hot, a number standardised, a mask no part."""
    n = 400
    x0 = 3 * normals(n, 5, 0).float()
    label = torch.arange(n) % 4
    features = torch.cat([100 + normals(n, 1, 1), 1e-3 * normals(n, 1, 2)], 1).float()
    cond = {"label": label, "features": features, "mask": torch.ones(n, 1, dtype=torch.bool)}
    whole = dataset(x0, cond, classes=4)
    numbers = condition_numbers(whole)(cond)
    assert numbers.shape == (n, 6)
    assert numbers[:, :2].std(0, correction=0).tolist() == pytest.approx([1, 1], rel=1e-3)
    assert torch.equal(numbers[:, 2:].argmax(1), label)
    parts = joint_of(whole, condition_numbers(whole))(whole.train).split([5, 6], 1)
    for part in parts:
        assert part.var(0, correction=0).sum().item() == pytest.approx(1, rel=1e-3)
    assert has_features(cond)
    assert not has_features({"label": label, "mask": cond["mask"]})
    assert not has_features(label)
    assert condition_numbers(dataset(x0, {"mask": cond["mask"]})) is None
