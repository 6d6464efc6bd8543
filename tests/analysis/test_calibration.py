"""`evaluate` sees whether a conditional generator's samples are spread as the truth is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.analysis.metrics import CALIBRATION, compare, evaluate, verdicts
from fewstep.analysis.metrics.calibration import choose
from fewstep.base.errors import NonFiniteError, UserError
from fewstep.cli import main
from fewstep.data import from_tensors
from tests.analysis.test_metrics import normals
from tests.support.toys import tiny_run

ROWS = 1200
SCALES = torch.tensor([1.0, 10.0, 1000.0])  # the variables' units
# Deviation 0.5 of a sum with variance 1 + 1/4, which is 0.5 in the model's units.
CRPS = 0.5 / torch.pi**0.5 * 0.5 / 1.25**0.5


class Posterior(nn.Module):
    """One step of x0 ~ N(SCALES c, (SCALES factor / 2)^2), in the user's units, from t z."""

    def __init__(self, generator: fs.Generator, factor: float = 1.0) -> None:
        super().__init__()
        self.facts, self.factor = generator.facts, factor
        self.weight = nn.Parameter(torch.zeros(()))  # for its device

    def forward(self, x_t, t, cond):
        return self.facts.units.to_model(self.users(x_t / t[:, None].float(), cond))

    def users(self, z, cond):
        name, features = ("features", cond["features"]) if isinstance(cond, dict) else ("", cond)
        features = self.facts.cond_units[name].to_user(features)
        return SCALES * (features + self.factor / 2 * z[:, :3])


def rows_of(seed: int):
    features = 3 + normals(ROWS, 3, seed).float()
    x0 = SCALES * (features + 0.5 * normals(ROWS, 3, seed + 1).float())
    return {"x0": x0, "cond": features}


@pytest.fixture(scope="module")
def generator():
    return fs.train(tiny_run(), rows_of(0), progress=False, device="cpu")


def scores(generator, factor=1.0, rows=None, metrics=tuple(CALIBRATION), **options):
    exact = replace(generator, denoiser=Posterior(generator, factor))
    rows = rows or rows_of(2)
    results, _ = evaluate(exact, rows, steps=(1,), metrics=metrics, **options)
    return {r.metric: r for r in results}


def test_an_exact_generator_is_calibrated(generator):
    """All that has an ideal holds it, and CRPS is the closed form: deviation / sqrt(pi)."""
    found = scores(generator, n=25_000)
    assert set(found) == set(CALIBRATION)
    for name, row in CALIBRATION.items():
        result = found[name]
        assert result.protocol["draws"] == 500
        if row.ideal is not None:
            assert result.interval[0] < row.ideal == result.floor < result.interval[1]
            assert result.error < 0.04
            assert sum(result.values) / 500 == pytest.approx(result.value)
    assert found["ranks"].value > 0.05
    crps = found["crps"].protocol
    assert crps["units"] == "model"
    for scale, value in zip(SCALES.tolist(), crps["detail"]["variables"].values(), strict=True):
        assert value == pytest.approx(scale * 0.5 / torch.pi**0.5, rel=0.1)
    assert found["crps"].value == pytest.approx(CRPS, rel=0.1)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_wrong_confidence_is_seen(generator, factor):
    found = scores(generator, factor)
    right = scores(generator, metrics=("crps", "energy_score", "coverage_50"))
    low, high = found["coverage_80"].interval
    assert high < 0.8 if factor < 1 else low > 0.8
    assert found["spread_skill"].value == pytest.approx(factor, rel=0.12)
    assert found["ranks"].value < 1e-3
    for name in ("crps", "energy_score"):
        difference = compare(found[name], right[name])
        assert difference.paired
        assert difference.interval[0] > 0


def test_conditions_in_another_order_are_seen(generator):
    rows = rows_of(2)
    rows["cond"] = rows["cond"].roll(1, 0)
    found = scores(generator, rows=rows)
    assert found["coverage_80"].interval[1] < 0.6
    assert found["spread_skill"].interval[1] < 0.5
    assert found["ranks"].value < 1e-3


def shuffled():
    rows = rows_of(2)
    return {**rows, "cond": rows["cond"].roll(1, 0)}


@pytest.mark.parametrize(
    ("factor", "rows", "is_wrong"), [(1.0, None, False), (0.5, None, True), (1.0, shuffled(), True)]
)
def test_ranks_are_in_the_joint_verdict(generator, factor, rows, is_wrong):
    """A posterior that is twice too narrow, and one of other rows' conditions."""
    found = scores(generator, factor, rows, metrics=("ranks", "coverage_80"), n=2000)
    (verdict,) = verdicts(list(found.values()))
    assert verdict.p_values == {"ranks": found["ranks"].value}
    assert verdict.different is is_wrong


def test_the_worst_variable_is_named(generator):
    """One whose truths are moved; the counts of ranks show where they are."""
    rows = rows_of(2)
    rows["x0"][:, 1] += SCALES[1]
    found = scores(generator, rows=rows)
    for name in ("coverage_50", "coverage_95", "ranks"):
        assert found[name].protocol["detail"]["worst"][0] == "1"
    counts = found["ranks"].protocol["detail"]["counts"]
    assert (len(counts), sum(counts)) == (51, 3 * 200)
    assert counts[-1] > 3 * max(counts[:40])


def test_batches_seeds_and_rows_have_addresses(generator):
    one, other = (scores(generator, n=500, batch=batch)["crps"] for batch in (None, 16))
    assert one.values == pytest.approx(other.values, rel=1e-4)
    assert scores(generator, n=500, seed=1)["crps"].value != one.value


def test_padding_and_constants_count_for_nothing():
    """Samples of the truth's law where there is no padding, 77 in it, and a column of 7."""
    rows = rows_of(0)
    mask = torch.arange(4) < torch.arange(ROWS)[:, None] % 5
    rows["x0"] = torch.cat([rows["x0"], torch.full((ROWS, 1), 7.0)], 1)
    rows["cond"] = {"features": rows["cond"], "mask": mask}
    model = fs.train(tiny_run(), rows, progress=False, device="cpu")

    class Spoilt(Posterior):
        def users(self, z, cond):
            x0 = torch.cat([super().users(z, cond), torch.full_like(z[:, :1], 8.0)], 1)
            return torch.where(cond["mask"], x0, 77.0)

    model = replace(model, denoiser=Spoilt(model))
    results, _ = evaluate(model, rows, steps=(1,), metrics=tuple(CALIBRATION), n=25_000)
    found = {r.metric: r for r in results}
    for name in ("coverage_50", "coverage_80", "coverage_95", "spread_skill"):
        assert found[name].interval[0] < CALIBRATION[name].ideal < found[name].interval[1]
    assert list(found["crps"].protocol["detail"]["variables"]) == ["0", "1", "2"]
    assert found["crps"].value == pytest.approx(CRPS, rel=0.1)
    assert CRPS < found["energy_score"].value < 3**0.5 * CRPS


def test_the_data_choose_the_default(generator):
    x, label = normals(40, 2, 0), torch.arange(40) % 2
    mask = torch.ones(40, 2).bool()
    conds = (None, label, {"label": label, "mask": mask}, x, {"label": label, "features": x})
    for cond, expected in zip(conds, (False, False, False, True, True), strict=True):
        dataset = from_tensors({"x0": x, "cond": cond})
        names, own = choose(None, dataset, dataset.train)
        assert (names, own) == (None, list(CALIBRATION) if expected else [])
    assert choose(None, dataset, dataset.test) == (None, [])
    assert choose(["crps", "energy"], dataset, dataset.train) == (["energy"], ["crps"])
    with pytest.raises(UserError, match="crps compares with held-out rows, and there are 0"):
        choose(["crps"], dataset, dataset.test)


def test_data_without_conditions_are_scored_by_name_and_in_their_units():
    """CRPS of N(0, 10^2) is 10 / sqrt(pi)."""
    x = 10 * normals(ROWS, 1, 0).float()
    model = fs.train(tiny_run(), x, progress=False, device="cpu")

    class Marginal(Posterior):
        def users(self, z, cond):
            return 10 * z

    model = replace(model, denoiser=Marginal(model))
    rows = 10 * normals(ROWS, 1, 1).float()
    (coverage, crps), _ = evaluate(model, rows, steps=(1,), metrics=["coverage_80", "crps"])
    assert coverage.interval[0] < 0.8 < coverage.interval[1]
    assert crps.value == pytest.approx(10 / torch.pi**0.5, rel=0.15)
    assert crps.protocol["units"] == "data"
    assert crps.protocol["detail"]["variables"]["0"] == pytest.approx(crps.value)


@pytest.mark.parametrize(
    ("name", "near"), [("rank", "ranks"), ("crsp", "crps"), ("coverage_8", "coverage_80")]
)
def test_a_mistyped_name_has_the_nearest_one(generator, name, near):
    with pytest.raises(UserError, match=f"unknown metric '{name}': did you mean '{near}'"):
        evaluate(generator, rows_of(2), steps=(1,), metrics=[name], n=100)


class Counted(Posterior):
    """One that counts the samples that it makes."""

    count = 0

    def forward(self, x_t, t, cond):
        self.count += len(x_t)
        return super().forward(x_t, t, cond)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["crps", "ranks"], 1000),  # 50 for each of 20 rows
        (["joint_energy"], 1000),  # with the conditions of held-out rows
        (["energy", "crps"], 2000),
        (["detection"], 2000),  # which learns from one kind of draws and is tested on the other
    ],
)
def test_only_what_the_metrics_need_is_drawn(generator, metrics, expected):
    rows = {name: part[:600] for name, part in rows_of(2).items()}
    net = Counted(generator)
    model = replace(generator, denoiser=net)
    options = {"steps": (1,), "metrics": metrics, "n": 1000, "draw": 250, "batch": 250}
    results, (speed,) = evaluate(model, rows, **options)
    assert {r.metric for r in results} == set(metrics)
    assert net.count == expected + 250  # and the first pass, which is not timed
    assert speed["samples_per_second"] > 0


def test_samples_that_are_not_finite_are_told(generator):
    model = replace(generator, denoiser=Posterior(generator, float("nan")))
    with pytest.raises(NonFiniteError, match="hold NaN or infinity"):
        evaluate(model, rows_of(2), steps=(1,), metrics=["crps"])


def test_eval_prints_and_stores_it(tmp_path, capsys, generator):
    rows = rows_of(2)
    path = tmp_path / "rows.npz"
    np.savez(path, x0=rows["x0"], cond=rows["cond"])
    generator.save(tmp_path / "run")
    command = ["eval", str(tmp_path / "run"), "--data", str(path), "--n", "1000", "--steps", "1"]
    assert main([*command, "--metrics", "coverage_80,crps", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "coverage_80, crps: 50 samples for each of 20 conditions of the test split" in printed
    assert "worst variables at 1 step: coverage_80 " in printed
    assert "disjoint draws" not in printed
    assert main([*command, "--json", "--device", "cpu"]) == 0
    stored = json.loads(capsys.readouterr().out)["results"]
    assert {r["metric"] for r in stored} > set(CALIBRATION)
    assert [len(r["values"]) for r in stored if r["metric"] == "crps"] == [20]
