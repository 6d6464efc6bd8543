"""Intervals and floors cover, and numbers of different protocols are not compared."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import scipy.stats
import torch

from fewstep.analysis.metrics import (
    Result,
    compare,
    energy,
    frechet,
    kid,
    moments,
)
from fewstep.analysis.metrics.metric import Measure
from fewstep.analysis.metrics.prepared import floor_of
from fewstep.base.errors import UserError
from fewstep.statistics import distances, kernels
from fewstep.statistics.intervals import estimate, jackknife, students_t
from tests.analysis.test_metrics import normals

SIMULATIONS, DRAWS = 200, 12
ENOUGH = 180  # intervals that hold the truth


def coverage(measure, truth: float, n: int, d: int) -> int:
    """In how many simulations of 12 draws of n the nominal 95 % interval holds the truth."""
    x = normals(SIMULATIONS * DRAWS * n, d, 1, mean=0.2).reshape(SIMULATIONS, DRAWS, n, d)
    intervals = [estimate([measure(draw) for draw in one]).interval for one in x]
    return sum(low <= truth <= high for low, high in intervals)


@pytest.mark.long
def test_intervals_of_a_frechet_distance_cover_its_expectation():
    """E[FD_n], of a fixed reference, is known from 1000 other draws."""
    n, d = 30, 2
    reference = moments(normals(200, d, 0))
    truth = torch.tensor(
        [frechet(draw, reference) for draw in normals(1000 * n, d, 2, mean=0.2).split(n)]
    ).mean()
    assert coverage(lambda x: frechet(x, reference), truth.item(), n, d) >= ENOUGH


def test_intervals_of_kid_cover_its_expectation():
    """E[KID] = E k(x, x') + within - 2 E k(x, y), where x ~ N(m, 1) has known moments."""
    n, m = 20, 0.2
    y = normals(100, 1, 0)
    first, second, third = m, 1 + m**2, m**3 + 3 * m
    own = 1 + 3 * first**2 + 3 * second**2 + third**2
    between = (1 + 3 * first * y + 3 * second * y**2 + third * y**3).mean().item()
    within = kernels.within(y, kernels.cubic)
    assert coverage(lambda x: kid(x, y, within), own + within - 2 * between, n, 1) >= ENOUGH


def test_intervals_of_the_energy_distance_cover_its_expectation():
    """Given the reference, E|x - y| is a distance normal's mean for each y."""
    n, m = 20, 0.2
    y = normals(100, 1, 0)
    gap = m - y
    distance = math.sqrt(2 / math.pi) * (-(gap**2) / 2).exp() + gap * torch.erf(gap / math.sqrt(2))
    spread = distances.spread(y)
    truth = 2 * distance.mean().item() - 2 / math.sqrt(math.pi) - spread
    assert coverage(lambda x: energy(x, y, spread), truth, n, 1) >= ENOUGH


@pytest.mark.long
def test_intervals_of_a_floor_with_one_draw_cover_too():
    """The jackknife's interval of a single draw of the reference's law, the hardest case."""
    n, d = 100, 4
    reference = moments(normals(400, d, 0))
    metric = Measure(lambda x: frechet(x, reference))
    truth = (
        torch.tensor([metric.value(draw) for draw in normals(1000 * n, d, 2).split(n)])
        .mean()
        .item()
    )
    floors = [floor_of(metric, draw, n) for draw in normals(SIMULATIONS * n, d, 1).split(n)]
    assert sum(low <= truth <= high for _, _, (low, high) in floors) >= ENOUGH


def test_floors_use_all_the_draws_there_are():
    x = normals(100, 2, 0)
    metric = Measure(lambda x: x.mean().item())
    values = [part.mean().item() for part in x.split(30)[:3]]
    assert floor_of(metric, x, 30) == estimate(values)
    assert floor_of(metric, x, 101) is None
    assert floor_of(metric, x[:10], 10) == (x[:10].mean().item(), None, None)


def test_the_error_of_a_mean_is_the_textbooks():
    """Without skewness the interval is Student's; a right tail moves out the upper end alone."""
    even = torch.linspace(-1, 1, 9).double()
    score = estimate(even)
    assert score.error == pytest.approx(scipy.stats.sem(even))
    assert score.interval == pytest.approx(
        scipy.stats.t.interval(0.95, 8, 0, scipy.stats.sem(even))
    )
    assert estimate([1.5]) == (1.5, None, None)
    assert estimate([2.0, 2.0, 2.0]) == (2.0, 0.0, (2.0, 2.0))
    tail = estimate(even.exp())
    low, high = scipy.stats.t.interval(0.95, 8, even.exp().mean(), scipy.stats.sem(even.exp()))
    assert tail.interval[0] == pytest.approx(low)
    assert tail.interval[1] > high + 0.01


def test_intervals_of_skewed_draws_cover_where_students_t_does_not():
    """Squares of normals, mean 1, 8 draws: of 2000 intervals t's hold it in 88 to 92 %."""
    draws = normals(2000 * 8, 1, 3).square().reshape(2000, 8)
    ours = [estimate(one).interval for one in draws]
    theirs = draws.mean(1), students_t(7) * draws.std(1) / math.sqrt(8)
    plain = ((theirs[0] - 1).abs() <= theirs[1]).double().mean().item()
    assert plain < 0.92
    assert sum(low <= 1 <= high for low, high in ours) / 2000 > plain + 0.03


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = normals(10, 1, 0)[:, 0]
    without = [(values.sum() - v).item() / 9 for v in values]
    assert jackknife(0.0, without).error == pytest.approx(scipy.stats.sem(values))


def test_students_t_is_scipys():
    for freedom in (1, 1.5, 2, 7, 32, 1000, 99_999):
        assert students_t(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-9)


def result(values, seed: int = 0, metric: str = "energy", **protocol) -> Result:
    score = estimate(values)
    usual = {"n": 300, "reference": "abc", "extractor": None, "draws": len(values), "seed": seed}
    facts = {**usual, **protocol}
    return Result(metric, 1, *score[:2], 0.0, facts, score.interval, values=tuple(values))


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 299), ("reference", "abd"), ("extractor", "x"), ("candidates", 5), ("split", "test")],
)
def test_numbers_of_different_protocols_refuse_to_be_compared(field, value):
    with pytest.raises(
        UserError, match=rf"the protocols differ in {field} \(.*{value}\)"
    ) as refusal:
        compare(result([1.0, 2.0]), result([1.0, 2.0], **{field: value}))
    assert "\n" not in str(refusal.value)


def test_other_metrics_refuse_and_other_models_do_not():
    with pytest.raises(UserError, match="energy and w2 are two metrics"):
        compare(result([1.0, 2.0]), result([1.0, 2.0], metric="w2"))
    assert (
        compare(result([3.0, 4.0], generator="a"), result([1.0, 2.0], seed=1, generator="b")).value
        == 2
    )


def test_differences_of_independent_draws_are_welchs():
    a, b = normals(9, 1, 0)[:, 0].tolist(), (2 + 3 * normals(14, 1, 1)[:, 0]).tolist()
    difference = compare(result(a), result(b, seed=1))
    theirs = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert difference.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert difference.value / difference.error == pytest.approx(theirs.statistic)
    assert not difference.paired


def test_differences_from_the_same_noise_are_paired():
    a = normals(9, 1, 0)[:, 0]
    b = a + 0.1 + 0.01 * normals(9, 1, 1)[:, 0]
    difference = compare(result(a.tolist()), result(b.tolist()))
    assert difference.paired
    assert difference.interval == pytest.approx(
        tuple(scipy.stats.ttest_rel(a, b).confidence_interval(0.95))
    )
    assert difference.error < 0.1 * compare(result(a.tolist()), result(b.tolist(), seed=1)).error


def test_single_draws_differ_by_no_known_error():
    assert compare(result([3.0]), result([1.0]))[1:] == (2.0, None, None, False)


def test_results_survive_json():
    several = result([1.0, 2.0, 4.0])
    assert Result.from_json(json.loads(json.dumps(asdict(several)))) == several
    single = replace(several, interval=None, error=None)
    assert Result.from_json(json.loads(json.dumps(asdict(single)))) == single
    with pytest.raises(UserError, match="a result without protocol, interval"):
        Result.from_json({"metric": "energy", "steps": 1, "value": 1.0, "error": None, "floor": 0})
