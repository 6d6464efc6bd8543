"""Networks that `adapt` took, as generators, teachers and starts: flow maps above all."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.analysis.frontier.models import same_data
from fewstep.base.errors import UserError
from fewstep.core import sampling, solvers
from fewstep.export.contents import prepare as contents_of
from fewstep.export.graph import trace
from fewstep.run.build import build_student
from fewstep.run.prepare import prepare
from fewstep.training.state import new_state
from tests.support.toys import tiny_run

LINEAR = fs.process.linear()
RING = fs.exact.named("ring8", LINEAR)


class Net(nn.Module):
    """A mean velocity by t and r, with weights, of labels where it is given some."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, t, r, y=None):
        shift = 0.0 if y is None else y[:, None].to(x)
        return self.body(torch.cat([x, t[:, None], r[:, None]], 1)) + shift


def own(**words) -> nn.Module:
    return fs.adapt(Net(), "flow", "linear", end="r", **words)


def by_hand(x: torch.Tensor, steps: int) -> torch.Tensor:
    """x_r = x_t - (t - r) u(x_t, t, r), as its author would sample."""
    net = Net()
    for i in range(steps):
        t, r = 1 - i / steps, 1 - (i + 1) / steps
        x = x - (t - r) * net(x, torch.full((len(x),), t), torch.full((len(x),), r))
    return x.detach()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_is_sampled_as_its_author_would(steps):
    generator = fs.as_generator(own(), (2,))
    assert generator.method.process == LINEAR
    z = torch.randn(8, 2, generator=torch.manual_seed(0))
    by, grid = generator.schedule(steps)
    samples = sampling.sample(LINEAR, generator.denoiser, z, grid, by.step)
    torch.testing.assert_close(samples, by_hand(z, steps), rtol=0, atol=1e-6)
    assert generator.sample(8, steps=steps).shape == (8, 2)


def test_it_is_saved_and_loaded_with_its_network(tmp_path):
    generator = fs.as_generator(own(labels="index", null=3), (2,), classes=3)
    generator.save(tmp_path / "mine")
    again = fs.load(tmp_path / "mine", network=own(labels="index", null=3), device="cpu")
    for cond in (1, -1):
        samples = generator.sample(4, steps=2, cond=cond)
        assert torch.equal(again.sample(4, steps=2, cond=cond), samples)
    assert not torch.equal(generator.sample(4, cond=0), generator.sample(4, cond=2))
    with pytest.raises(UserError, match="pass it as network="):
        fs.load(tmp_path / "mine")
    with pytest.raises(UserError, match="needs a network that is told its end time"):
        fs.load(tmp_path / "mine", network=nn.Linear(2, 2))


def test_a_function_of_shapes_that_adapts_is_refused(tmp_path):
    """A run's network is what is inside of a denoiser."""
    fs.as_generator(own(), (2,)).save(tmp_path / "theirs")
    generator = fs.load(tmp_path / "theirs", network=own(), device="cpu")
    with pytest.raises(UserError, match=r"gave a denoiser.*take no arguments"):
        fs.load(tmp_path / "theirs", network=lambda shape, classes=0: own(), device="cpu")
    assert generator.denoiser.ends == 1


def test_it_is_exported():
    generator = fs.as_generator(own(), (2,))
    contents = contents_of(generator, steps=2)
    program = trace(contents.generator, contents.scheme)
    z = torch.randn(5, 2)
    torch.testing.assert_close(program.module()(noise=z), by_hand(z, 2), rtol=0, atol=1e-5)


def test_one_of_one_time_is_sampled_as_a_diffusion_model():
    generator = fs.as_generator(fs.adapt(lambda x, t: x / 2, "x0", "edm"), (2,))
    assert generator.method.denoises
    assert generator.sample(2).isfinite().all()


@pytest.mark.parametrize("network", [fs.guide(own(), 1.0), nn.Linear(2, 2), lambda x, t: x])
def test_what_adapt_did_not_give_is_refused(network):
    with pytest.raises(
        UserError, match=r"expected what fs\.adapt gives, without guidance"
    ) as error:
        fs.as_generator(network, (2,))
    assert "\n" not in str(error.value)


def test_data_in_another_range_are_its_own_units():
    generator = fs.as_generator(own(range=(0, 1)), (2,))
    plain = fs.as_generator(own(), (2,))
    assert torch.equal(generator.sample(4, steps=2), plain.sample(4, steps=2))


def test_it_stands_beside_runs_on_any_data_of_its_shape():
    def subject(data: str, shape=(2,)):
        facts = SimpleNamespace(data=data, shape=shape, classes=0)
        return SimpleNamespace(
            source="s", generator=SimpleNamespace(facts=facts, run=SimpleNamespace(data="d"))
        )

    same_data(subject(""), subject("a"))
    same_data(subject("a"), subject(""))
    for a, b in ((subject("a"), subject("b")), (subject(""), subject("a", (3,)))):
        with pytest.raises(UserError, match="learned from different data"):
            same_data(a, b)


@pytest.mark.parametrize("method", ["meanflow", "ect"])
def test_a_student_starts_as_the_map_that_it_is(method):
    """Of one-time methods at its jump to the data."""
    student = new_state(prepare(tiny_run(method=method), init=own())).student
    process, x = student.process, torch.randn(4, 2)
    t = process.time_at(torch.tensor([0.1, 0.5, 2.0, 9.0], dtype=torch.float64))
    t_own = LINEAR.time_at(process.level(t))
    scale = (1 - t_own) / process.alpha(t)
    with torch.no_grad():
        ours = student(x, t, to=0.0 * t)
        truth = own()(scale[:, None].float() * x, t_own, to=0.0 * t)
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)


def test_between_edms_preconditionings_the_end_is_still_said_by_its_word():
    cosine = fs.process.cosine()  # of the edm process ln(level) is not finite at the data
    mine = fs.adapt(Net(), "edm", cosine, end="t - r")
    ready = prepare(tiny_run(method="ect"), init=mine)
    student, x = new_state(ready).student, torch.randn(4, 2)
    t = torch.tensor([0.1, 0.5, 2.0, 9.0], dtype=torch.float64)
    t_own = cosine.time_at(t)
    with torch.no_grad():
        truth = mine(cosine.alpha(t_own)[:, None].float() * x, t_own)
        torch.testing.assert_close(student(x, t), truth, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="needs a network that is told its end time"):
        build_student(ready.run, ready.facts, ready.method, nn.Linear(2, 2))


def by_end(x, t, r):
    """Exact on the ring."""
    guess = RING(x.double(), t.double(), to=torch.minimum(r, t).double())
    return ((x - guess) / t[:, None]).to(x)


def by_gap(x, t, h):
    return by_end(x, t, (t - h).clamp_min(0))


@pytest.mark.parametrize(
    ("network", "end", "right"), [(by_end, "t - r", "r"), (by_gap, "r", "t - r")]
)
def test_a_teacher_by_the_wrong_word_is_refused_with_the_right_one(network, end, right):
    data, run = fs.exact.ring8().sample(400, seed=0), tiny_run(method="cd")
    with pytest.raises(UserError, match=rf"say it so, end = '{right}'") as error:
        prepare(run, data, teacher=fs.adapt(network, "flow", "linear", end=end))
    assert "\n" not in str(error.value)
    ready = prepare(run, data, teacher=fs.adapt(network, "flow", "linear", end=right))
    x, t = torch.randn(4, 2), torch.tensor([0.1, 0.5, 2.0, 9.0], dtype=torch.float64)
    truth = fs.exact.ring8()(x, t)
    torch.testing.assert_close(ready.teacher.denoiser(x, t), truth, rtol=1e-4, atol=1e-4)


def test_other_samplers_follow_its_diagonal():
    generator = fs.as_generator(own(), (2,))
    by = generator.with_sampler("heun")
    x = torch.randn(4, 2)
    grid = by.schedule(5)[1]
    net = Net()

    def denoiser(x, t, cond=None):
        t = t.float()
        return x - t[:, None] * net(x, t, t)

    with torch.no_grad():
        ours = sampling.sample(LINEAR, by.denoiser, x, grid, solvers.heun)
        truth = sampling.sample(LINEAR, denoiser, x, grid, solvers.heun)
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)


WIDE = fs.process.edm(t_max=10.0)


@pytest.mark.parametrize(
    ("process", "range"),
    [
        (fs.process.trig(), "[-1, 1]"),
        (fs.process.trig(sigma_data=0.3, level_max=20.0), "[-1, 1]"),
        (WIDE, "[-1, 1]"),
        (WIDE, (-2, 2)),
    ],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_its_grid_is_of_its_own_process(process, range, steps, tmp_path):
    """Also where it is loaded; the author's own steps are from t_max, in the network's units."""
    mine = fs.adapt(Net(), "flow", process, label="t", range=range, end="r")
    generator = fs.as_generator(mine, (2,))
    own = mine.scaling.process
    assert generator.method.process == generator.denoiser.process == own
    z = torch.randn(8, 2, generator=torch.manual_seed(0))
    by, grid = generator.schedule(steps)
    assert (grid[0], grid[-1]) == (own.t_max, 0)
    x = truth = own.prior(z)
    for t, r in pairwise(grid):
        u = Net()(truth.detach(), torch.full((8,), t), torch.full((8,), r))
        if process is WIDE:
            truth = truth - (t - r) * u
        else:
            truth = math.cos(t - r) * truth - math.sin(t - r) * u
    generator.save(tmp_path / "mine")
    for one in (generator, fs.load(tmp_path / "mine", network=mine, device="cpu")):
        assert one.method.process == own
        samples = sampling.sample(own, one.denoiser, x, grid, by.step)
        torch.testing.assert_close(samples, truth.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [2, (), (-2,), (0, 2), (2.0,), (True,), "2", None, (1,) * 9])
def test_a_wrong_shape_is_one_line(shape):
    with pytest.raises(UserError, match=r"shape = .*: expected 1 to 8 whole numbers") as error:
        fs.as_generator(own(), shape)
    assert "\n" not in str(error.value)


def embedded(x, t, y):
    return x + nn.functional.embedding(y, torch.ones(4, 2))


@pytest.mark.parametrize(
    ("labels", "words", "classes", "message"),
    [
        ("none", {}, -1, "classes = -1: expected how many"),
        ("none", {}, 2.0, "classes = 2.0: expected how many"),
        ("none", {}, 3, "classes = 3: expected 0, since this network gets no labels"),
        ("index", {}, 0, "classes = 0: expected how many labels there are, since labels = index"),
        ("cond", {}, 0, "classes = 0: expected how many labels there are, since labels = cond"),
        ("one-hot", {"classes": 4}, 7, "classes = 7: expected 4, as adapt was told"),
        ("index", {}, 9, r"network 'embedded' fails: IndexError.*x \[1, 2\] and labels \[8\]"),
        ("index", {"null": 4}, 4, r"network 'embedded' fails: IndexError.*labels \[3, -1\]"),
    ],
)
def test_wrong_classes_are_one_line(labels, words, classes, message):
    network = (lambda x, t: x) if labels == "none" else embedded
    mine = fs.adapt(network, "x0", "edm", labels=labels, **words)
    with pytest.raises(UserError, match=message) as error:
        fs.as_generator(mine, (2,), classes=classes)
    assert "\n" not in str(error.value)


def test_a_shape_that_the_network_does_not_take_is_one_line():
    with pytest.raises(
        UserError, match=r"network 'Net' fails: .*an answer for x \[1, 3\]"
    ) as error:
        fs.as_generator(own(), [3])
    assert "\n" not in str(error.value)
    assert fs.as_generator(own(), [2]).facts.shape == (2,)
