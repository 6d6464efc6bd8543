"""The recipes of flow maps: laws of times, guidance, epochs and stages are the codes' formulas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fewstep.run.recipes import PAPERS
from fewstep.run.stages import stages
from fewstep.training.step import learning_rate
from tests.run.test_recipes_papers import full

# Mean and deviation of the normal numbers whose sigmoids are t, a, and t on the diagonal; the
# share of the diagonal.
LAWS = {
    "cifar10-meanflow": ((-2.0, 2.0), (-2.0, 2.0), (-2.0, 2.0), 0.25),
    "cifar10-soflow": ((-0.9, 1.6), (-4.0, 1.6), (-0.9, 1.6), 0.0),
    "imagenet256-meanflow": ((-0.4, 1.0), (-0.4, 1.0), (-0.4, 1.0), 0.75),
    "imagenet256-imf": ((-0.4, 1.0), (-0.4, 1.0), (-0.4, 1.0), 0.5),
    "imagenet256-soflow": ((0.2, 0.8), (-1.0, 0.8), (-0.2, 1.0), 0.75),
}


@pytest.mark.parametrize("name", LAWS)
def test_times_are_the_codes_logit_normal_laws(name):
    t_law, a_law, flat_law, share = LAWS[name]
    method, _ = full(name)
    u = torch.tensor([[0.9, 0.2], [0.3, 0.05], [0.97, 0.6], [0.8, 0.1]], dtype=torch.float64)
    drawn = method.times(u.repeat(25, 1), 0.0, torch.arange(100))

    def sigmoid(law, column):
        normal = torch.special.ndtri(u[:, column]).repeat(25)
        return (law[0] + law[1] * normal).sigmoid()

    far = drawn.to < drawn.t
    assert int(far.sum()) == round(100 * (1 - share))
    one, other = sigmoid(t_law, 0), sigmoid(a_law, 1)
    torch.testing.assert_close(drawn.t[far], torch.maximum(one, other)[far])
    torch.testing.assert_close(drawn.a[far], torch.minimum(one, other)[far])
    torch.testing.assert_close(drawn.t[~far], sigmoid(flat_law, 0)[~far])


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("cifar10-soflow", 1.0, 3.125e-4), ("imagenet256-soflow", 0.1, 0.002)],
)
def test_soflows_neighbour_closes_in_exponentially(name, first, last):
    """l = t + (a - t) first (last / first)^progress."""
    method, _ = full(name)
    u = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for progress in (0.0, 0.3, 1.0):
        drawn = method.times(u, progress, torch.arange(20))
        far = drawn.to < drawn.t
        t, a, r = drawn.t[far], drawn.a[far], drawn.r[far]
        torch.testing.assert_close(r, t + (a - t) * first * (last / first) ** progress)


@pytest.mark.parametrize(
    ("name", "weight", "until"),
    [
        ("imagenet256-meanflow", 2.5, 0.75),  # 0.2 / (1 - 0.92)
        ("imagenet256-meanflow-b2", 2.0, 1.0),
        ("imagenet256-soflow", 3.0, 0.8),  # cfg_scale
    ],
)
def test_guidance_has_the_papers_weights(name, weight, until):
    guidance = full(name)[0].coupling
    assert guidance.omega / (1 - guidance.kappa) == pytest.approx(weight)
    assert guidance.until == until


@pytest.mark.parametrize(
    ("name", "epochs"), [("meanflow", 240), ("meanflow-b2", 240), ("imf", 640), ("soflow", 240)]
)
def test_imagenets_runs_are_counted_in_epochs(name, epochs):
    run = PAPERS[f"imagenet256-{name}"]()
    # SoFlow states 1.2 million steps and 240 epochs.
    assert run.iterations == pytest.approx(epochs * (1_281_167 // run.batch), rel=1e-3)


def test_the_student_of_imf_is_told_its_guidance():
    method, student = full("imagenet256-imf")
    assert method.ends == student.network.ends == 4  # a, ln w, and the interval
    assert method.tell.most == 8


def test_cmt_is_mid_training_then_ect_with_a_rate_of_its_own():
    """300k steps of 2e-4 (1 - k / 300k), 100k of 1e-4 (1 - k / 100k); r / t = 1 - 1 / 4096."""
    run, (method, _) = PAPERS["cifar10-cmt"](), full("cifar10-cmt")
    first, second = stages(run, method)
    assert (first.last, second.first, second.last) == (300_000, 300_000, 400_000)
    for stage, top, frozen in ((first, 2e-4, None), (second, 1e-4, object())):
        for share in (0.0, 0.25, 0.999):
            step = stage.first + round(share * (stage.last - stage.first))
            state = SimpleNamespace(step=step, frozen=frozen)
            assert learning_rate(stage, state, share) == pytest.approx(top * (1 - share))
    assert {method.times.ratio(progress) for progress in (0.0, 0.5, 1.0)} == {1 - 1 / 4096}
    assert method.before.group == 16  # points of a trajectory, of which a batch has 8
    plain, _ = full("cifar10-cmt", method="ect")
    t = torch.logspace(-2, 1.9, 9, dtype=torch.float64)
    torch.testing.assert_close(plain.times.at(t, 0.3).r, method.times.at(t, 0.3).r)
