"""Flow maps around training: steps, guidance that they are told, edits, teachers, starts."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core import sampling, solvers, tell
from fewstep.core.denoiser import Diagonal
from fewstep.core.guidance import SelfGuide
from fewstep.core.times import Times
from fewstep.run.build import build_student
from fewstep.run.editing import jump_of
from fewstep.run.prepare import prepare
from fewstep.run.teachers import teacher_of
from fewstep.training import incidents
from fewstep.training.batches import Batch
from fewstep.training.budget import passes_of
from fewstep.training.state import new_state
from tests.export.generators import alive, small
from tests.support.toys import tiny_run

IMF = {"method": "imf", "method_options": {"most": 8.0}, "classes": 3, "cond": "labels"}


@pytest.fixture
def flow_map() -> fs.Generator:
    return small(method="meanflow")


def test_gamma_goes_from_jumps_to_re_noising(flow_map):
    for name in ("ctm", "tcd"):
        none = flow_map.with_sampler(name, gamma=0).sample(8, steps=3)
        assert torch.equal(none, flow_map.sample(8, steps=3, sampler="jumps"))
        by = sampling.with_gamma(sampling.sampler(name), 1.0)
        whole = flow_map.with_sampler(name, gamma=1).sample(8, steps=3)
        grid = sampling.nested_grid(flow_map.method.process, 3)
        generator = replace(flow_map, method=replace(flow_map.method, sampler=by))
        same = replace(by, step=solvers.renoise)
        other = replace(generator, method=replace(flow_map.method, sampler=same))
        assert by.times(flow_map.method.process, 3) == grid
        assert torch.allclose(whole, other.sample(8, steps=3), atol=1e-5)
        some = flow_map.with_sampler(name, gamma=0.5).sample(8, steps=3)
        assert (some - none).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("sampler", "gamma", "words"),
    [
        ("heun", 0.5, "the samplers ctm and tcd alone take it"),
        (None, 0.5, "the samplers ctm and tcd alone take it"),
        ("ctm", 1.5, r"gamma = 1\.5: expected a share"),
    ],
)
def test_gamma_of_other_samplers_is_refused(flow_map, sampler, gamma, words):
    with pytest.raises(UserError, match=words):
        flow_map.with_sampler(sampler, gamma=gamma)


def test_jumps_along_levels_of_the_users_own(flow_map):
    by = flow_map.with_sampler(grid=(30.0, 1.0))
    assert by.schedule()[1] == pytest.approx([30 / 31, 0.5, 0.0])
    assert by.schedule()[0].step is solvers.jump


@pytest.mark.parametrize(("steps", "is_said"), [(1, False), (3, True), (4, False), (256, True)])
def test_shortcut_says_which_steps_were_not_trained(steps, is_said):
    g = small(method="shortcut")
    notes = g.plan(1, steps=steps).notes
    assert any("were not trained" in note for note in notes) == is_said
    assert not g.plan(1, steps=3, sampler="ddim").notes  # the diagonal is trained everywhere
    assert bool(g.with_sampler(grid="karras").plan(1, steps=4).notes)


def test_the_steps_of_shortcut_are_those_that_it_learns():
    g = small(method="shortcut")
    u = torch.rand(4096, 2, dtype=torch.float64)
    times = g.method.times(u, 0.5)
    far = times.to < times.t
    learned = set(zip(times.t[far].tolist(), times.a[far].tolist(), strict=True))
    for steps in (1, 2, 4, 8):
        _, grid = g.schedule(steps)
        assert set(pairwise(grid)) <= learned


def test_guidance_is_told_in_one_pass():
    g = small(**IMF)
    guided = g.with_guidance(3.0, (0.25, 4.0))
    assert isinstance(guided.guess, SelfGuide)
    log_w, low, high = guided.instruction
    assert log_w == pytest.approx(math.log(4))
    assert (low, high) == pytest.approx((0.2, 0.8))
    x, t = torch.randn(5, 3), torch.full((5,), 0.7, dtype=torch.float64)
    label = torch.arange(5) % 3
    cond = tell.with_guidance(label, torch.tensor([[log_w, low, high]]).expand(5, 3))
    assert torch.equal(guided.guess(x, t, label, 0.2), g.denoiser(x, t, cond, to=0.2))
    none = tell.with_guidance(label, torch.tensor([[0.0, 0.0, 1.0]]).expand(5, 3))
    assert torch.equal(g.guess(x, t, label), g.denoiser(x, t, none))
    assert not torch.equal(guided.sample(4), g.sample(4))


@pytest.mark.parametrize(
    ("scale", "interval", "words"),
    [
        (7.0, None, ""),
        (9.0, None, "told 0 .. 7 in training"),
        (-0.5, None, "told 0 .. 7 in training"),
        (1.0, (2.0, 5.0), "began below half of the time, at level 1,"),
    ],
)
def test_guidance_beyond_training_is_said(scale, interval, words):
    notes = small(**IMF).with_guidance(scale, interval).plan(1).notes
    assert len(notes) == bool(words)
    assert words in "".join(notes)


def test_guidance_without_a_logarithm_is_refused():
    with pytest.raises(UserError, match=r"guidance = -1\.0: expected above -1"):
        small(**IMF).with_guidance(-1.0)


def test_an_edit_jumps_to_the_data_or_follows_the_diagonal(flow_map):
    x, t = torch.randn(4, 3), torch.full((4,), 0.6, dtype=torch.float64)
    assert torch.equal(jump_of(flow_map)(x, t), flow_map.denoiser(x, t, to=0.0))
    solved = jump_of(flow_map.with_sampler("ddim"))(x, t)
    by = sampling.SAMPLERS["ddim"]
    grid = [s for s in by.times(flow_map.method.process, by.default) if s < 0.6]
    own = Diagonal(flow_map.denoiser)
    expected = sampling.sample(flow_map.method.process, own, x, [0.6, *grid], solvers.ddim)
    assert torch.allclose(solved, expected, atol=1e-5)


@pytest.mark.parametrize("classes", [0, 2])
def test_own_guidance_needs_labels_that_are_dropped(classes):
    data = {"x0": torch.randn(64, 2)} | ({"cond": torch.arange(64) % 2} if classes else {})
    run = replace(tiny_run(method="imf", method_options={"most": 8.0}), label_drop=0.0)
    why = "label_drop = 0 teaches no guess" if classes else "has no labels"
    with pytest.raises(UserError, match=f"with labels and label_drop above 0: .*{why}"):
        prepare(run, data)


def test_a_flow_map_teaches_by_its_diagonal():
    run = tiny_run(method="cd")
    made = prepare(tiny_run(method="meanflow"))
    parts = alive(build_student(made.run, made.facts, made.method))
    teacher = fs.Generator(made.run, made.facts, made.method, parts, 10)
    student = prepare(run, teacher=teacher)
    model = teacher_of(teacher, student)
    process = student.method.process
    x, t = torch.randn(4, 2), torch.full((4,), 1.5, dtype=torch.float64)
    own = made.method.process
    s = own.time_at(process.level(t))
    x_s = x * float(own.alpha(s)[0])  # edm's x_t has alpha = 1
    assert torch.allclose(model.denoiser(x, t), parts(x_s, s, to=s), atol=1e-5)
    new_state(student)


def test_a_network_that_is_not_told_its_end_is_refused():
    network = torch.nn.Linear(2, 2)
    run = tiny_run(method="meanflow")
    with pytest.raises(UserError, match="needs a network that is told its end time"):
        new_state(prepare(run, network=network))


def test_an_incident_keeps_where_rows_lead():
    t = torch.tensor([0.5, 0.7], dtype=torch.float64)
    times = Times(t, t, 0 * t, torch.ones(2), None, 0.25, t / 2)
    x = torch.zeros(2, 2)
    batch = Batch(torch.arange(2), x, None, x, times, [1])
    again, _ = incidents.unpack(incidents.pack(batch, torch.zeros(2)), 0.25)
    assert torch.equal(again.times.to, times.to)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.5, 0.0])
def test_rows_of_the_diagonal_cost_no_derivative(share):
    run = tiny_run(method="meanflow", method_options={"diagonal": share, "derivative": "jvp"})
    made = prepare(run)
    ours, _ = passes_of(made, made.method)
    assert (ours.learn, ours.look) == (1, 0)
    assert ours.tangent == pytest.approx(1 - share)


@pytest.mark.parametrize("label", ["log", "angle"])
def test_a_start_from_diffusion_is_the_same_function_or_a_line_says_that_it_is_not(label, caplog):
    """By EDM's own noise label the first outputs are the diffusion model's, for every end."""
    source = fs.train(tiny_run(method="diffusion"), progress=False)
    run = tiny_run(method="soflow", method_options={"label": label, "process": "edm"})
    caplog.clear()
    ready = prepare(run, init=source)
    says = [line for line in caplog.messages if "begins as another function" in line]
    assert len(says) == (label == "angle")
    student = new_state(ready).student
    x, t = torch.randn(4, 2), torch.tensor([0.1, 1.0, 5.0, 50.0], dtype=torch.float64)
    with torch.no_grad():
        same = torch.equal(student(x, t, to=t / 2), source.denoiser(x, t))
    assert same == (label == "log")
