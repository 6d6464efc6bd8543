"""Recipes: each method starts by its name alone where the truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import fewstep as fs
from fewstep.core.method import Method
from fewstep.run.build import with_defaults
from fewstep.run.recipes import digits_mixture, toy
from fewstep.training.train import train

TINY = {
    "iterations": 2,
    "batch": 32,
    "picture_every": 0,
    "network_options": {"width": 16, "depth": 1},
}
TEACHES = {"cd", "mcm", "direct_cm", "pd", "tract"}


def chain(run: fs.Run) -> tuple[Method, ...]:
    method: Method = getattr(fs.methods, run.method)(**run.method_options)
    return method.chain


@pytest.mark.parametrize(
    "method", ["ect", "gc", "mcm", "direct_cm", "cd", "diffusion", "pd", "tract"]
)
@pytest.mark.parametrize("recipe", [digits_mixture, toy])
def test_a_known_truth_teaches_whoever_learns_from_a_teacher(recipe, method):
    run = recipe(method=method, **TINY)
    assert bool(run.teacher) == (method in TEACHES)
    model = train(replace(run, iterations=max(2, len(chain(run)))), progress=False)
    assert ("teacher" in model.method.chain[0].needs) == (method in TEACHES)
    assert math.isfinite(model.sample(4).abs().max())


def test_what_the_caller_says_comes_before_the_table():
    run = digits_mixture(method="mcm", method_options={"pairs": "data"}, teacher=None, iterations=7)
    assert (run.teacher, run.method_options, run.iterations) == (None, {"pairs": "data"}, 7)


def test_gc_of_the_digits_stands_on_the_settings_of_ect():
    base = with_defaults(fs.recipes.digits(method="gc")).method_options["base"]
    assert base == {"method": "ect", **with_defaults(fs.recipes.digits()).method_options}
