"""Metrics agree with closed forms and other libraries, and see what they should."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

import fewstep as fs
from fewstep import data
from fewstep.analysis import frontier
from fewstep.analysis.metrics import (
    METRICS,
    Metric,
    classifier_score,
    energy,
    evaluate,
    frechet,
    meters_of,
    nearest_ratio,
)
from fewstep.analysis.metrics.metric import Measure
from fewstep.analysis.metrics.prepared import floor_of
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.data import Arrays, Dataset
from fewstep.training import classifier as classifier_module
from fewstep.training.classifier import classifier
from tests.support.toys import tiny_run


def normals(n: int, d: int, seed: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return mean + std * torch.randn(n, d, generator=generator(seed, "metrics"), dtype=torch.float64)


def test_frechet_agrees_with_scipys_matrix_root():
    x, y = normals(300, 6, 0), normals(200, 6, 1, mean=0.3, std=1.4) @ normals(6, 6, 2)
    cov_x, cov_y = np.cov(x.numpy().T), np.cov(y.numpy().T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    truth = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(cov_x + cov_y - 2 * root)
    assert frechet(x, y) == pytest.approx(truth, rel=1e-9)


def test_frechet_of_gaussians_is_its_formula_and_of_a_set_with_itself_0():
    x = normals(50_000, 3, 0)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, 2 * x + 1) == pytest.approx(3 * ((1 - 2) ** 2 + 1), rel=0.02)
    assert frechet(x[:2], x) > 0


def test_energy_is_unbiased_and_right_for_points_of_a_line():
    values = torch.tensor(
        [energy(normals(40, 2, 2 * i), normals(60, 2, 2 * i + 1)) for i in range(100)]
    )
    assert abs(values.mean().item()) < 4 * values.std().item() / 10
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    assert energy(x, y) == pytest.approx(2 * (1 + 4 + 1 + 2) / 4 - 2 - 3)


def test_energy_of_shifted_gaussians_is_its_closed_form():
    """In one dimension it is 2 m erf(m / 2) + 4 / sqrt(pi) (exp(-m^2/4) - 1)."""
    m, n = 1.5, 4000
    exact = 2 * m * math.erf(m / 2) + 4 / math.sqrt(math.pi) * (math.exp(-(m**2) / 4) - 1)
    assert energy(normals(n, 1, 0), normals(n, 1, 1, mean=m)) == pytest.approx(exact, rel=0.1)


def test_memorised_samples_have_a_small_ratio_and_noise_a_large_one():
    train, held_out = normals(500, 3, 0), normals(100, 3, 1)
    assert nearest_ratio(train[:100], held_out, train) == 0
    assert nearest_ratio(held_out, held_out, train) == 1
    assert nearest_ratio(normals(100, 3, 2), held_out, train) == pytest.approx(1, abs=0.25)
    assert nearest_ratio(5 * held_out, held_out, train) > 3


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def cold_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def warm_cache(tmp_path_factory, monkeypatch):
    """A cache that the tests of this session share: the classifier is trained once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_the_classifier_is_good_the_same_each_time_and_kept(digits, cold_cache):
    first = classifier(digits)
    assert first.accuracy(digits.test.x0, digits.test.cond) > 0.93
    (file,) = (cold_cache / "fewstep").iterdir()
    assert classifier(digits).fingerprint == first.fingerprint
    file.write_bytes(b"damaged")  # so that it is trained again
    assert classifier(digits).fingerprint == first.fingerprint


def stripes(n: int) -> data.Dataset:
    """Pictures 1x16x18 with noise: their class is the place of a bright column."""
    labels = torch.arange(n) % 3
    x = 0.3 * normals(n, 16 * 18, 3).float().reshape(n, 1, 16, 18)
    x[torch.arange(n), :, :, 4 + 5 * labels] += 1
    parts = [data.Arrays(x[a:b], labels[a:b]) for a, b in ((0, n - 60), (n - 60, n), (n - 60, n))]
    return data.Dataset("stripes", *parts, classes=3)


@pytest.mark.long
def test_many_pictures_have_convolutions_the_same_each_time(cold_cache, monkeypatch, capsys):
    quick = replace(classifier_module._PICTURES, steps=40)
    monkeypatch.setattr(classifier_module, "_PICTURES", quick)
    many = stripes(10_060)
    first = classifier(many)
    assert "fits the classifier" in capsys.readouterr().err
    assert first.accuracy(many.test.x0, many.test.cond) == 1
    assert first.features(many.test.x0).shape == (60, 64)
    (file,) = (cold_cache / "fewstep").iterdir()
    file.unlink()
    assert classifier(many).fingerprint == first.fingerprint
    few = classifier(stripes(500))
    assert few.features(many.test.x0).shape == (60, 32)
    assert few.network[0].__class__.__name__ == "Flatten"


def test_the_classifier_score_of_digits_is_near_its_number_of_classes(digits, warm_cache):
    (meter,), spaces = meters_of(digits, digits.test, 100, metrics=["classifier_score"])
    judge = classifier(digits)
    value = meter.measure.value(spaces.features["classes"](digits.test))
    assert value == pytest.approx(classifier_score(judge.probabilities(digits.test.x0)))
    assert 8.5 < meter.floor.value < 10
    assert meter.floor.interval[0] < meter.floor.value < meter.floor.interval[1]
    noise = data.Arrays(normals(300, 64, 5).float().reshape(300, 1, 8, 8))
    assert meter.measure.value(spaces.features["classes"](noise)) < 0.8 * meter.floor.value
    assert (meter.protocol["space"], meter.protocol["extractor"]) == ("classes", judge.fingerprint)


def test_a_generator_that_draws_real_data_reaches_the_floor(digits, warm_cache, monkeypatch):
    """Held-out data as the 'model' scores the floor exactly."""
    settings = tiny_run(data="digits", network_options={"width": 8, "depth": 1})
    g = fs.train(settings, progress=False, device="cpu")
    monkeypatch.setattr(
        type(g),
        "sample_parts",
        lambda self, n, **_: iter(digits.test.x0.repeat(2, 1, 1, 1)[:n, None]),
    )
    results, speeds = evaluate(g, digits, steps=(1,), n=600)
    assert [r.metric for r in results] == [
        *("feature_frechet", "pixel_frechet", "energy", "nearest_ratio", "joint_energy"),
        *("roughness", "spectrum", "autocorrelation", "detection"),
    ]
    by_name = {r.metric: r for r in results}
    by_name.pop("joint_energy")  # the samples' labels are the training split's
    assert by_name.pop("detection").floor == 0.5
    for r in by_name.values():
        assert r.value == pytest.approx(r.floor)
        assert r.error == pytest.approx(0, abs=1e-9)
        assert r.protocol["n"] == 300
        assert r.protocol["draws"] == 2
        assert r.protocol["n_reference"] == 1197
    assert speeds[0]["samples_per_second"] > 0


def test_scores_ask_for_what_they_report(digits, warm_cache, monkeypatch):
    """Steps, seed and label frequencies reach the generator; model and floor have one count."""
    g = fs.train(
        tiny_run(data="digits", network_options={"width": 8, "depth": 1}),
        progress=False,
        device="cpu",
    )
    calls = []

    def sample_parts(self, n, *, steps, seed, cond, batch):
        calls.append((n, steps, seed, cond))
        yield from (3 * digits.train.x0[torch.arange(n) % 1197]).split(77)

    monkeypatch.setattr(type(g), "sample_parts", sample_parts)
    results, _ = evaluate(g, digits, steps=(3, 5), n=1197, seed=9, split="validation")
    # Validation has seeds of its own: the choice is scored on other noise.
    own = calls[0][2]
    assert own != 9
    assert [(n, s, seed) for n, s, seed, _ in calls] == [
        (300, 3, own),
        (300, 5, own),
        (1197, 3, own),
        (1197, 5, own),
    ]
    assert torch.equal(calls[2][3].bincount(), digits.train.cond.bincount())
    few, _ = evaluate(g, digits, steps=(1,), n=100, seed=9)
    assert calls[-1][2] == 9
    assert not torch.equal(calls[2][3], digits.train.cond)  # shuffled, not in the order of the file
    by_name = {r.metric: r for r in few}
    held_out = digits.test.x0.split(100)
    floors = [frechet(part, digits.train.x0) for part in held_out]
    assert by_name["pixel_frechet"].floor == pytest.approx(sum(floors) / 3)
    assert by_name["pixel_frechet"].floor_error == pytest.approx(
        np.std(floors, ddof=1) / math.sqrt(3)
    )
    assert by_name["pixel_frechet"].value == pytest.approx(
        frechet(3 * digits.train.x0[:100], digits.train.x0)
    )
    judge = classifier(digits)
    assert judge.features(digits.train.x0).shape == (1197, 32)
    floors_of_features = [
        frechet(judge.features(part), judge.features(digits.train.x0)) for part in held_out
    ]
    assert by_name["feature_frechet"].floor == pytest.approx(sum(floors_of_features) / 3)
    assert results[0].protocol["split"] == "validation"


def test_scores_are_taken_in_the_models_own_units(monkeypatch):
    x = 50 + 8 * normals(300, 2, 0).float()
    own = data.from_tensors(x)
    g = fs.train(tiny_run(), x, progress=False, device="cpu")
    part = Arrays(own.train.x0[:100])
    dataset = Dataset("tensor", own.train, part, part, 0, own.units)
    monkeypatch.setattr(
        type(g), "sample_parts", lambda self, n, **_: iter([x[:100].repeat(2, 1)[:n]])
    )
    results, _ = evaluate(g, dataset, steps=(1,), n=200)
    assert results[0].value == pytest.approx(results[0].floor, rel=1e-5)


def test_scores_refuse_other_data_and_too_few_samples(digits):
    g = fs.train(tiny_run(), progress=False, device="cpu")
    with pytest.raises(UserError, match="not what this generator was trained on"):
        evaluate(g, digits)
    with pytest.raises(UserError, match="n = 1 samples against 2000 held-out ones"):
        evaluate(g, data.load("ring8"), n=1)
    with pytest.raises(UserError, match="steps"):
        evaluate(g, data.load("ring8"), steps=(0,))
    small, _ = evaluate(g, data.load("ring8"), n=100, steps=(1,), metrics=("pixel_frechet",))
    assert {(r.protocol["n"], r.protocol["draws"], r.error) for r in small} == {(100, 1, None)}
    part = Arrays(torch.zeros(3, 2))
    with pytest.raises(UserError, match="not what"):
        evaluate(g, Dataset("ring8", part, part, part))


def test_the_split_is_the_one_asked_for(monkeypatch):
    """A model that draws the validation split is at its floor, and not at the test split's."""
    x = normals(300, 2, 0)
    own = data.from_tensors(x)
    g = fs.train(tiny_run(), x, progress=False, device="cpu")
    parts = Arrays(own.train.x0[:100]), Arrays(own.train.x0[100:200])
    dataset = Dataset("tensor", own.train, *parts, 0, own.units)
    for i, split in enumerate(("validation", "test")):
        samples = own.units.to_user(parts[i].x0).repeat(2, 1)
        monkeypatch.setattr(type(g), "sample_parts", lambda self, n, x=samples, **_: iter([x[:n]]))
        result = evaluate(g, dataset, steps=(1,), n=200, split=split, metrics=("pixel_frechet",))[
            0
        ][0]
        assert result.value == pytest.approx(result.floor, rel=1e-4)


def test_the_error_of_a_single_floor_is_a_jackknife_over_tenths():
    held_out = normals(200, 2, 1)
    train = normals(400, 2, 2)
    floor = floor_of(Measure(lambda x: frechet(x, train)), held_out, 200)
    left_out = torch.tensor(
        [frechet(held_out[torch.arange(200) % 10 != g], train) for g in range(10)]
    )
    error = (0.9 * (left_out - left_out.mean()).square().sum()).sqrt().item()
    assert floor.error == pytest.approx(error, rel=1e-5)


def test_padding_counts_for_nothing_in_scores(warm_cache, monkeypatch):
    """Real data in the model's place, with anything in the padding, is at the floor."""
    n = 400
    x = 5 + normals(n, 3, 3)[:, :, None].repeat(1, 1, 2)
    mask = torch.arange(3) < 1 + torch.arange(n)[:, None] % 3
    own = data.from_tensors({"x0": x, "cond": {"mask": mask, "label": torch.arange(n) % 2}})
    part = own.train.rows(torch.arange(200))
    dataset = Dataset("tensor", own.train, part, part, own.classes, own.units)
    run = tiny_run(network_options={"width": 8, "depth": 1})
    g = fs.train(
        run,
        {"x0": x, "cond": {"mask": mask, "label": torch.arange(n) % 2}},
        progress=False,
        device="cpu",
    )

    def sample_parts(self, n, *, cond, **options):
        noisy = torch.where(
            cond["mask"][:, :, None], torch.full((n, 3, 2), 5.0), torch.full((n, 3, 2), 77.0)
        )
        yield from noisy.split(70)

    monkeypatch.setattr(type(g), "sample_parts", sample_parts)
    scores = evaluate(g, dataset, steps=(1,), n=200, metrics=("pixel_frechet",))[0][0]
    assert scores.value < 10  # 77 in the padding would give hundreds


def mean_gap(reference):
    """|mean(x) - mean(train)|, as a metric of its own."""
    return Measure(lambda x: (x.mean() - reference.train.mean()).abs().item(), {"power": 1})


def test_a_metric_is_one_row(digits, warm_cache, monkeypatch, tmp_path):
    """`eval` and `frontier` take names, defaults, protocol and direction from the row alone."""
    row = Metric(
        name="mean_gap",
        meaning="gap of the means",
        prepare=mean_gap,
        better="higher",
        default="pixel",
        has_short_name=True,
    )
    monkeypatch.setitem(METRICS, row.name, row)
    settings = tiny_run(data="digits", network_options={"width": 8, "depth": 1})
    g = fs.train(settings, progress=False, device="cpu")
    results, _ = evaluate(g, digits, steps=(1,), n=300)
    own = {r.metric: r for r in results}["mean_gap"]
    assert (own.protocol["statistic"], own.protocol["power"]) == ("mean_gap", 1)
    assert 0 < own.p_value < 1e-3
    (other,), _ = evaluate(g, digits, steps=(1,), n=300, metrics=["feature_mean_gap"])
    assert other.protocol["space"] == "feature"
    plan = frontier.Plan(metric="mean_gap", n=300, search_n=300)
    metric, splits = frontier.prepare(digits, plan)
    store = frontier.Store(tmp_path / "frontier", {"data": "digits"})
    assert frontier.Bench(digits, plan, metric, store, splits).judge("mean_gap").sign == -1


def test_the_documentation_names_metrics_that_exist():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    text = re.sub(r"\n## Distilled pipelines\n.*?(?=\n## )", "", text, flags=re.S)  # its own
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert names
    assert names <= METRICS.keys()
