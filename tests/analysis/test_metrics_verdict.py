"""Verdicts: a perfect model passes as often as they say, and noise and wrong conditions do not."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from functools import lru_cache

import pytest
import scipy.stats
import torch

import fewstep as fs
from fewstep.analysis.metrics import (
    METRICS,
    Meter,
    Prepared,
    Result,
    gains,
    measures,
    meters_of,
    verdicts,
)
from fewstep.analysis.metrics.detector import detect, fit
from fewstep.analysis.metrics.drawing import Draw
from fewstep.analysis.metrics.metric import Reference
from fewstep.analysis.metrics.prepared import spaces_of
from fewstep.analysis.metrics.scoring import score
from fewstep.analysis.metrics.verdict import LEVEL, groups_of, p_value
from fewstep.base.randomness import generator
from fewstep.data import Arrays, Dataset
from fewstep.statistics.distances import to_nearest
from fewstep.statistics.intervals import estimate
from fewstep.statistics.moments import moments
from fewstep.statistics.twosample import energy_p_value, shuffled_weights
from tests.analysis.test_metrics import normals
from tests.support.toys import tiny_run


def series(n: int, seed: int, noise: float = 0.0) -> Arrays:
    """Sums of three waves `[n, 1, 24]`, and white noise."""
    source = generator(seed, "series")
    waves = torch.arange(1, 4)[:, None]
    phase = 2 * math.pi * torch.rand(n, 3, 1, generator=source)
    height = torch.randn(n, 3, 1, generator=source) / waves
    x = (height * torch.sin(2 * math.pi * waves * torch.arange(24) / 24 + phase)).sum(1)
    return Arrays(0.4 * (x[:, None] + noise * torch.randn(n, 1, 24, generator=source)))


def rings(n: int, seed: int, scatter: float = 0.02) -> Arrays:
    """Sets of 3 to 8 points on circles of radius 1 about a random centre."""
    source = generator(seed, "rings")
    angle = 2 * math.pi * torch.rand(n, 8, generator=source)
    radius = 1 + scatter * torch.randn(n, 8, generator=source)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 2)
    x = x + torch.randn(n, 1, 2, generator=source)
    mask = torch.arange(8) < torch.randint(3, 9, (n, 1), generator=source)
    return Arrays(0.5 * x.masked_fill(~mask[:, :, None], 0), {"mask": mask})


def posterior(n: int, seed: int, shuffle: bool = False, features=None) -> Arrays:
    """x = (c_1, |c_2|) and noise, of conditions c that belong to it or are shuffled."""
    source = generator(seed, "posterior")
    c = torch.randn(n, 2, generator=source) if features is None else features
    mean = c[torch.randperm(n, generator=source)] if shuffle else c
    x = torch.stack([mean[:, 0], mean[:, 1].abs()], 1) + 0.4 * torch.randn(n, 2, generator=source)
    return Arrays(0.5 * x, {"features": c})


def prepare(train: Arrays, held_out: Arrays, **options) -> Prepared:
    whole = Dataset("simulated", train, held_out, held_out)
    size = len(held_out.x0)
    return Prepared(*meters_of(whole, held_out, size, **options), "test", size)


def in_parts(draws):
    """Draws as they come from a generator, each in two parts."""

    def draw_of(rows):
        parts = torch.arange(len(rows)).split(len(rows) // 2 + 1)
        return Draw(len(rows), iter([rows.rows(part) for part in parts]))

    return [draw_of(rows) for rows in draws]


def judge(prepared, held_out, draws, paired=None):
    draws, paired = in_parts(draws), None if paired is None else in_parts(paired)
    results = score(
        prepared, draws, 1, {"seed": 0}, paired=paired, groups=groups_of(prepared, held_out)
    )
    return verdicts(results)[0], {r.metric: r for r in results}


def test_noise_on_series_is_seen():
    """White noise that makes differences three times as large in mean square; x alone hides it."""
    train, held_out = series(400, 0), series(60, 1)
    usual = train.x0.diff(dim=2).square().mean().item()
    noise = math.sqrt(usual) / 0.4  # 2 s^2 is twice what there is
    prepared = prepare(train, held_out)
    verdict, results = judge(prepared, held_out, [series(60, 2, noise), series(60, 3, noise)])
    assert results["roughness"].value == pytest.approx(3, rel=0.15)
    assert {"roughness", "spectrum", "detection"} <= {
        name for name, p in verdict.p_values.items() if p <= verdict.level
    }
    assert results["energy"].p_value > 0.01
    good, results = judge(prepared, held_out, [series(60, 4), series(60, 5)])
    assert not good.different
    assert results["roughness"].value == pytest.approx(1, rel=0.15)


def test_scatter_in_sets_is_seen():
    train, held_out = rings(400, 0), rings(200, 1)
    prepared = prepare(train, held_out)
    verdict, _ = judge(prepared, held_out, [rings(200, 2, 0.2), rings(200, 3, 0.2)])
    seen = {name for name, p in verdict.p_values.items() if p <= verdict.level}
    assert {"pair_distance", "neighbour_distance", "detection"} <= seen
    assert "energy" not in seen
    assert not judge(prepared, held_out, [rings(200, 4), rings(200, 5)])[0].different


def test_conditions_of_other_samples_are_seen():
    """Their samples have the right law: without the condition nothing is wrong."""
    train, held_out = posterior(400, 0), posterior(80, 1)
    prepared = prepare(train, held_out)
    own = held_out.cond["features"]

    def draws(shuffle: bool) -> tuple[list[Arrays], list[Arrays]]:
        paired = [posterior(80, 10 + i, shuffle, own) for i in range(2)]
        return [posterior(80, 20 + i, shuffle) for i in range(2)], paired

    wrong, results = judge(prepared, held_out, *draws(True))
    assert wrong.different
    assert wrong.p_values["detection"] < 1e-6
    assert results["detection"].value > 0.7
    assert results["joint_energy"].value > 0.02 > 2 * abs(results["energy"].value)
    assert min(wrong.p_values[name] for name in ("energy", "marginal", "nearest_ratio")) > 0.01
    assert results["joint_energy"].protocol["conditions"] == "of the held-out rows"
    assert "conditions" not in results["energy"].protocol
    assert not judge(prepared, held_out, *draws(False))[0].different


@lru_cache(maxsize=1)
def verdicts_of_a_perfect_model(trials: int = 50, n: int = 40) -> list[bool]:
    """Of fresh samples and fresh held-out rows, beside one training split."""
    train = Arrays(normals(200, 2, 0).float())
    spaces = spaces_of(Dataset("simulated", train, train, train), None)
    names = ("energy", "pixel_frechet", "marginal", "correlation", "detection")
    rows = {name: spaces.metrics()[name] for name in names}
    measures: dict = {}
    answers = []
    for trial in range(trials):
        held_out, *draws = (Arrays(x.float()) for x in normals(4 * n, 2, 1 + trial).split(n))
        meters = []
        for name, (space, row) in rows.items():
            if name not in measures or name == "detection":
                features = spaces.features[space]
                measures[name] = row.prepare(
                    Reference(features(train), features(held_out), n, spaces.layout)
                )
            meters.append(Meter(name, row, space, measures[name], None, {}))
        prepared = Prepared(meters, spaces, "test", n)
        answers.append(judge(prepared, held_out, draws)[0].different)
    return answers


def test_a_perfect_model_is_called_different_in_at_most_three_of_fifty_trials():
    """At the level .01; more are one case of 600."""
    assert sum(verdicts_of_a_perfect_model()) <= 3


@pytest.mark.long
def test_a_perfect_model_is_called_different_in_at_most_four_of_a_hundred_trials():
    assert sum(verdicts_of_a_perfect_model(100)) <= 4


def test_a_place_among_rivals_is_uniform_whatever_the_detector_has_learned():
    """Of a detector that learned from noise, beside k = 1, 2, 5 rivals: p is small as often as it
    says, but for the steps of a discrete law."""
    learn, data = normals(40, 3, 0).float(), normals(40, 3, 1).float()
    for rivals in (1, 2, 5):
        p = []
        for trial in range(200):
            block, *draws = normals(30 * (rivals + 1), 3, 2 + trial).float().split(30)
            p.append(detect([learn], data, draws, [block]).p_value)
        assert 2 <= sum(value <= 0.05 for value in p) <= 20
        assert 70 <= sum(value <= 0.5 for value in p) <= 125


def test_a_detector_finds_a_shift_and_a_width_and_says_how_sure_it_is():
    x, held_out = normals(600, 3, 0).float(), normals(100, 3, 1).float()
    shift = detect([x + 2], normals(600, 3, 2).float(), [x[:100] + 2], [held_out])
    assert shift.accuracy[0] > 0.95
    exact = scipy.stats.binom.sf(round(100 * shift.accuracy[0]) - 1, 100, 0.5)
    assert shift.p_value < 1e-12
    assert exact < 1e-12
    detector = fit(2 * x, normals(600, 3, 2).float())
    assert (detector(2 * normals(500, 3, 3).float()).mean() - detector(held_out).mean()) > 0.1


def test_the_p_value_of_groups_is_that_of_all_their_shuffles():
    a, b = [5.0, 6.0, 7.0, 9.0], [1.0, 2.0, 3.0, 8.0]
    exact = scipy.stats.permutation_test(
        (a, b), lambda x, y: abs(x.mean() - y.mean()), vectorized=False, n_resamples=10**6,
        alternative="greater",
    ).pvalue  # fmt: skip
    assert p_value(a, b) == pytest.approx(exact, abs=0.01)
    # Of pairs, 2 of 16 changes of sides are as far apart.
    assert p_value([5.0, 6.0, 7.0, 9.0], [1.0, 2.0, 3.0, 4.0], pairs=True) == pytest.approx(
        2 / 16, abs=0.01
    )
    assert p_value([1.0, 1.0], [1.0, 1.0]) == 1
    assert p_value([1.0, math.nan], [1.0, 2.0]) == 1


def test_shuffled_weights_stay_the_same_numbers():
    weights = torch.tensor([1.0, 2.0, 3.0, -4.0, -5.0, -6.0])
    whole = shuffled_weights(weights, 50, pairs=False)
    assert torch.equal(whole[0], weights)
    assert torch.equal(whole.sort(1).values, weights.sort().values.expand(50, 6))
    pairs = shuffled_weights(torch.tensor([1.0, 1.0, -1.0, -1.0]), 50, pairs=True)
    assert torch.equal(pairs[:, :2], -pairs[:, 2:])
    assert len(pairs.unique(dim=0)) == 4


def test_the_energy_test_is_uniform_under_one_law_and_sees_a_shift():
    p = [energy_p_value(*normals(40, 2, i).split(20), shuffles=200) for i in range(150)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3
    x = normals(60, 2, 0)
    assert energy_p_value(x, normals(60, 2, 1, mean=1.0)) == 1 / 2000
    # Pairs with a common part that hides the shift from shuffles of all rows.
    common = normals(60, 1, 2, std=20.0)
    a, b = common + normals(60, 1, 3, std=0.1), common + normals(60, 1, 4, mean=1.0, std=0.1)
    assert energy_p_value(a, b) > 0.1
    assert energy_p_value(a, b, pairs=True) < 0.01


def result(metric: str, steps: int, values, p: float | None = None) -> Result:
    value, error, interval = estimate(values)
    row = {"energy": "energy", "roughness": "roughness"}.get(metric, "frechet")
    protocol = {"statistic": row, "seed": 0}
    return Result(
        metric, steps, value, error, None, protocol, interval, values=tuple(values), p_value=p
    )


def test_a_verdict_is_one_sentence_that_names_what_differs():
    results = [
        *(result("energy", 1, [1.0], 0.6), result("roughness", 1, [1.0], 1e-4)),
        *(result("energy", 2, [1.0], 0.02), result("roughness", 2, [1.0], 0.006)),
        result("pixel_frechet", 1, [1.0]),
    ]
    one, two = verdicts(results)
    assert one.different
    assert not two.different  # 2 * 0.006 is above 0.01
    assert "1 step: different from held-out data in roughness (" in one.sentence()
    both = replace(one, p_values={"spectrum": 2e-4, "detection": 1e-90, "energy": 2e-4})
    assert "in spectrum, detection, energy (" in both.sentence()  # the table's order
    assert two.sentence().startswith("2 steps: not distinguishable from held-out data")
    assert one.p_values == pytest.approx({"energy": 0.6, "roughness": 2e-4})
    assert verdicts([result("energy", 1, [1.0])]) == []


def test_steps_that_do_not_pay_are_told():
    draws = normals(12, 1, 0)[:, 0]
    jitter = 0.01 * normals(12, 1, 1)[:, 0]
    rough = [2 + 0.01 * i for i in range(12)]
    results = []
    for steps, shift in ((1, 0.0), (2, -0.5), (4, -0.5), (8, 0.3)):
        values = (draws + shift + (steps > 1) * steps * jitter).tolist()
        results.append(result("energy", steps, values))
        results.append(result("roughness", steps, [r + steps for r in rough]))
    two, four, eight = gains(results)
    assert (two.steps, two.fewer, two.change, two.worse_in) == (2, 1, "better", ("roughness",))
    assert not two.pays
    assert (four.fewer, four.change, four.better_in) == (2, "no better", ())
    assert (eight.fewer, eight.change) == (2, "worse")
    assert eight.sentence().startswith("8 steps are worse than 2 beyond chance, in energy")
    assert gains([r for r in results if r.steps == 1]) == []
    assert gains([result("energy", 1, [1.0]), result("energy", 2, [2.0])]) == []


def test_scores_of_a_posterior_ask_for_the_conditions_of_held_out_rows(monkeypatch):
    rows = posterior(700, 0)
    data = {"x0": rows.x0, "cond": rows.cond}
    g = fs.train(
        tiny_run(network_options={"width": 8, "depth": 1}), data, progress=False, device="cpu"
    )
    held_out = posterior(160, 1)
    calls = []

    def sample_parts(self, n, *, seed, cond, **_):
        calls.append((n, seed, cond["features"]))
        yield posterior(n, seed, False, cond["features"]).x0

    monkeypatch.setattr(type(g), "sample_parts", sample_parts)
    results, _ = fs.metrics.evaluate(
        g, {"x0": held_out.x0, "cond": held_out.cond}, steps=(1,), n=240
    )
    (_, first, _), (count, main, own), (more, other, paired), *_ = calls
    assert (count, more) == (240, 240)
    assert first == main != other
    # Three draws, each with all the conditions of the 80 rows that are the floor.
    assert torch.equal(paired[:80], paired[80:160])
    rows = held_out.cond["features"]
    assert to_nearest(paired[:80], rows) < 1e-5
    assert to_nearest(own, rows) < 1e-5
    assert to_nearest(own, paired[:80]) > 0.01
    assert not verdicts(results)[0].different
    assert {r.metric for r in results if "conditions" in r.protocol} == {
        "joint_energy",
        "detection",
    }


def test_a_result_of_an_older_version_has_no_p_value():
    row = json.loads(json.dumps(asdict(result("energy", 1, [1.0, 2.0], 0.5))))
    assert Result.from_json(row).p_value == 0.5
    del row["p_value"]
    assert Result.from_json(row).p_value is None


def test_a_row_says_for_which_kind_of_data_it_is():
    spaces = spaces_of(Dataset("rings", *[rings(20, 0)] * 3), None)
    names = {name for name, (_, row) in spaces.metrics().items() if row.kinds}
    assert names == {"pair_distance", "neighbour_distance"}
    assert all(METRICS[name].is_default("values") for name in names)


def test_one_number_of_forty_that_depends_on_the_condition_is_seen():
    """It is the products of condition and sample that tell it."""

    def wide(n: int, seed: int, shuffle: bool, c=None) -> Arrays:
        source = generator(seed, "wide")
        c = torch.randn(n, 1, generator=source) if c is None else c
        x = torch.randn(n, 40, generator=source)
        own = c[torch.randperm(n, generator=source)] if shuffle else c
        x[:, :1] = 0.8 * own + 0.6 * x[:, :1]
        return Arrays(0.5 * x, {"features": c})

    held_out = wide(150, 1, False)
    prepared = prepare(wide(1500, 0, False), held_out, metrics=["detection"])
    for shuffle in (True, False):
        draws = [wide(150, 20 + i, shuffle) for i in range(8)]
        paired = [wide(150, 10 + i, shuffle, held_out.cond["features"]) for i in range(4)]
        assert judge(prepared, held_out, draws, paired)[0].different == shuffle


def test_a_frechet_distance_alone_tells_samples_that_are_too_narrow():
    """Of groups of 15 rows it would not: their bias falls with the spread, and hides the gap."""
    draw = torch.Generator().manual_seed(0)
    train, held_out, samples = (
        torch.randn(n, 32, generator=draw, dtype=torch.float64) for n in (1200, 300, 600)
    )
    measure = measures.frechet_from(moments(train))
    assert measure.p_value(0.6 * samples + 0.5, held_out, False) <= LEVEL
    assert measure.p_value(samples, held_out, False) > LEVEL
