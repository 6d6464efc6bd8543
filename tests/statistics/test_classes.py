"""The classifier score at its limits, and by its own definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.statistics.classes import classifier_score


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_uncertain_and_uniform_probabilities_have_score_1(classes):
    p = torch.full((30, classes), 1 / classes)
    assert classifier_score(p) == pytest.approx(1, abs=1e-6)
    assert classifier_score(torch.eye(classes)[:1].expand(30, -1)) == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 10, 214])
def test_certain_and_balanced_probabilities_have_the_number_of_classes(classes):
    assert classifier_score(torch.eye(classes).repeat(3, 1)) == pytest.approx(classes)


def test_certain_probabilities_of_unlike_frequencies_have_the_perplexity():
    p = torch.eye(2)[[0, 0, 0, 1]]
    assert classifier_score(p) == pytest.approx(4 / 3**0.75)


@given(st.integers(2, 30), st.integers(1, 12), st.floats(0, 8), st.integers(0, 2**32 - 1))
def test_it_is_the_exponential_of_the_mean_divergence(n, classes, spread, seed):
    normals = torch.randn(n, classes, generator=generator(seed, "p"), dtype=torch.float64)
    p = (spread * normals).softmax(1)
    mean = p.mean(0)
    divergences = [float((row * (row / mean).log()).sum()) for row in p]
    expected = torch.tensor(sum(divergences) / n, dtype=torch.float64).exp().item()
    assert classifier_score(p) == pytest.approx(expected, rel=1e-9)
    assert 1 <= classifier_score(p) <= classes * (1 + 1e-9)


@pytest.mark.parametrize(
    "p",
    [
        torch.full((9, 4), 0.5) - torch.eye(9)[:, :4],
        torch.full((9, 4), 0.5),
        torch.ones(9, 2, 2) / 2,
    ],
    ids=["below 0", "sum of 2", "three axes"],
)
def test_what_are_no_probabilities_is_refused(p):
    with pytest.raises(UserError, match=r"expected \[N, K\], none below 0, with a sum of 1"):
        classifier_score(p)
