"""Levels of later steps are chosen on the validation split, stored, and used where they fit."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import StorageError
from fewstep.run.checkpoint.schema import check_values
from fewstep.run.levels import Bounds, LevelChoice, bounds_of, own_levels
from fewstep.training import level_choice
from fewstep.training.level_choice import COST, SHARE, noise_in, scoring, search_levels
from tests.support.toys import tiny_run

# Long enough to choose, since a fifth of the samples it draws may pass through the network again.
LENGTH = {"iterations": 50, "batch": 4096, "block": 1024, "checkpoint_every": 50}
LONG = {**LENGTH, "choose_levels": True}
WIDE = Bounds(0.002, 78.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("levels") / "run"


@pytest.fixture(scope="module")
def trained(folder):
    """With what the search found, though in so short a run it may be better by chance."""
    with patch.object(level_choice, "is_confirmed", lambda *args: True):
        return fs.train(tiny_run(**LONG), out=folder, progress=False, device="cpu")


@pytest.fixture(scope="module")
def plain():
    return fs.train(tiny_run(**LENGTH), progress=False, device="cpu")


def test_the_choice_moves_neither_weights_nor_samples_of_one_step(trained, plain):
    assert trained.fingerprint == plain.fingerprint
    assert torch.equal(trained.sample(20), plain.sample(20))
    assert not torch.equal(trained.sample(20, steps=4), plain.sample(20, steps=4))
    assert plain.levels_of(2) == plain.method.later_sigmas


def test_chosen_levels_score_no_worse_than_the_methods_own(trained, plain):
    dataset = fs.data.load("ring8")
    dataset = replace(dataset, test=dataset.test.rows(torch.arange(0)))  # it has no say
    count = int(SHARE * LONG["iterations"] * LONG["batch"]) // COST
    noise, _ = scoring(plain, dataset, count, 0)
    choice = trained.level_choice
    assert choice.levels.keys() <= {2, 4, 8} == choice.scores.keys() - {1}
    for steps, value in choice.scores.items():
        own = own_levels(plain, steps, bounds_of(plain)) if steps > 1 else ()
        levels = choice.levels.get(steps, own)
        assert len(levels) == steps - 1
        assert value == noise(steps, levels, 0) <= noise(steps, own, 0)


class Known(torch.nn.Module):
    """The denoiser of the ring itself."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.law = fs.exact.ring8()

    def forward(self, x, t, cond=None):
        return self.law(x, t).to(x)


def test_noise_that_is_left_in_a_sample_is_seen(plain):
    """The modes' deviation is .04, of the model's units .05."""
    rows = fs.data.load("ring8").validation.rows(torch.arange(200))
    noise_of = noise_in(replace(plain, denoiser=Known()), rows, 0)
    usual = noise_of(rows.x0)
    assert usual.shape == (200, 3)
    assert torch.allclose(usual.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(usual.std(0), torch.ones(3), atol=1e-4)
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    worse = [noise_of(rows.x0 + level * z).mean() for level in (0.05, 0.1, 0.2)]
    assert 0.1 < worse[0] < worse[1] < worse[2]


def low_levels(steps, levels, draw=0):
    """The lower the levels the better."""
    return sum(levels)


def same(steps, levels):
    return torch.zeros(3)


@pytest.mark.parametrize(
    ("noise", "values"),
    [
        (lambda steps, levels, draw: sum(levels) * (1 if draw == 0 else -1), same),
        (low_levels, lambda steps, levels: -torch.ones(3) * sum(levels)),
    ],
    ids=["other noise", "values"],
)
def test_levels_that_are_not_confirmed_are_left_alone(plain, noise, values):
    kept = search_levels(plain, low_levels, same)
    assert kept.levels.keys() == {2, 4, 8}
    left = search_levels(plain, noise, values)
    assert left.levels == {}
    own = {steps: sum(own_levels(plain, steps, bounds_of(plain))) for steps in (2, 4, 8)}
    assert {steps: left.scores[steps] for steps in own} == pytest.approx(own)
    assert [left.of(steps, WIDE) for steps in (2, 3, 5)] == [None] * 3


def test_values_that_are_worse_by_chance_do_not_decide(plain):
    def values(steps, levels):
        return torch.tensor([1, -1.2, 1, -1.2]) * sum(levels)

    assert search_levels(plain, low_levels, values).levels.keys() == {2, 4, 8}


class Given(torch.nn.Module):
    """The mean given the condition, or the one given another condition."""

    def __init__(self, sign):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.sign = sign

    def forward(self, x, t, cond=None):
        return self.sign * 0.5 * cond.to(x)


def test_values_are_judged_given_their_condition():
    """Means of the wrong conditions have the right law on the whole."""
    cond = torch.linspace(-1, 1, 400)[:, None]
    x0 = cond + 0.1 * torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    arrays = {"x0": x0, "cond": cond}
    data = fs.data.from_tensors(arrays)
    generator = fs.train(tiny_run(), arrays, progress=False, device="cpu")
    held_out = replace(data, validation=data.train)
    right, wrong = (
        scoring(replace(generator, denoiser=Given(sign)), held_out, 100, 0)[1](2, ())
        for sign in (1, -1)
    )
    assert right.shape == (100,)
    assert (right < wrong).double().mean() > 0.8


def test_they_are_stored_with_the_weights_and_found_again(trained, folder, tmp_path):
    again = fs.load(folder)
    assert again.level_choice == trained.level_choice
    assert torch.equal(again.sample(5, steps=4), trained.sample(5, steps=4))
    again.save(tmp_path / "alone")
    assert fs.load(tmp_path / "alone").level_choice == trained.level_choice
    on = fs.train(tiny_run(**LONG), out=folder, resume=True, progress=False, device="cpu")
    assert on.level_choice == trained.level_choice


def test_levels_that_are_asked_for_come_first(trained):
    own = trained.with_later_sigmas((1.5,))
    assert own.levels_of(2) == (1.5,)
    by_run = replace(trained, run=replace(trained.run, later_sigmas=(1.5,)))
    assert by_run.levels_of(2) == (1.5,)
    assert by_run.levels_of(4) == trained.level_choice.levels.get(4, (1.5,))
    # Between the numbers of steps that were chosen: the nearest fewer, stretched.
    three = trained.levels_of(3)
    assert len(three) == 2
    assert three[0] > trained.level_choice.levels[2][0] > three[1]


@pytest.mark.parametrize(
    ("fields", "data", "reason"),
    [
        ({"choose_levels": True}, None, "so short a run has no time to choose"),
        ({"choose_levels": True}, torch.randn(300, 2), "0 validation rows are too few"),
    ],
)
def test_where_nothing_is_chosen_a_line_says_so(fields, data, reason, capsys):
    generator = fs.train(tiny_run(**fields), data, device="cpu")
    assert reason in capsys.readouterr().err
    assert generator.level_choice == LevelChoice()


@pytest.mark.parametrize(
    "values",
    [
        {"levels": {"2": [0.5]}},
        {"levels": {"2": [0.5, 0.1]}, "scores": {}},
        {"levels": {"3": [0.5, 0.6]}, "scores": {}},
        {"levels": {"2": [float("inf")]}, "scores": {}},
        {"levels": {"2": ["0.5"]}, "scores": {}},
        {"levels": {"x": []}, "scores": {}},
        {"levels": {}, "scores": {"1": None}},
    ],
)
def test_levels_in_a_file_that_cannot_be_are_refused(values, tmp_path):
    assert LevelChoice.from_json(values) is None
    record = {"format": 2, "run": {}, "facts": {}, "step": 1, "fingerprint": "", "levels": values}
    with pytest.raises(StorageError, match="levels = "):
        check_values(record, tmp_path)


def test_levels_survive_json():
    choice = LevelChoice({2: (0.5,), 4: (9.0, 2.0, 0.1)}, {1: 0.25, 2: -0.5, 4: 0.125})
    assert LevelChoice.from_json(choice.to_json()) == choice
    assert choice.of(1, WIDE) is None
    assert LevelChoice().of(2, WIDE) is None
