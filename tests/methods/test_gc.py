"""Generator-induced coupling by its equations: whose endpoint a row gets, and its two points."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.couplings import Data, GeneratorInduced, Teacher
from fewstep.core.denoiser import Preconditioned
from fewstep.core.times.curricula import Ramp
from fewstep.run import teachers
from tests.support.toys import GAUSSIAN, Spy, small_student, tiny_run

EDM = fs.process.edm()
BASES = {
    "ict": fs.methods.ict(s1=160),
    "ect": fs.methods.ect(c=0.06),
    "ect euler": fs.methods.ect(pairs="euler"),
    "mcm": fs.methods.mcm(K=1, steps=16, steps_end=64),
    "tcm": fs.methods.tcm(),
}


def batch(method: fs.Method, rows: int = 40, progress: float = 0.2):
    x0, z = (
        torch.randn(rows, 3, generator=generator(i, "x"), dtype=torch.float64) for i in range(2)
    )
    u = torch.rand(rows, 2, generator=generator(2, "u"), dtype=torch.float64)
    return x0, z, method.times(u, progress, torch.arange(rows))


def everyone(student, method) -> fs.Models:
    truth = fs.exact.Gaussian(process=method.process)
    return fs.Models(
        student, ema=small_student((3,), seed=1), teacher=truth, frozen=small_student((3,), seed=2)
    )


def points(coupling: GeneratorInduced, models: fs.Models, data, process=EDM, cond=None):
    x0, z, times = data
    return coupling(models, process, x0, z, times, cond)


@pytest.mark.parametrize("predictor", ["ema", "student"])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_a_share_of_0_is_the_base_bit_for_bit(base, predictor):
    losses, gradients = [], []
    for method in (base, fs.methods.gc(base=base, share=0.0, predictor=predictor)):
        student = small_student((3,), dropout=0.3)
        loss = method.loss(everyone(student, base), *batch(base), seed=5)
        loss.mean().backward()
        losses.append(loss)
        gradients.append([p.grad for p in student.parameters()])
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_both_points_of_a_generated_row_mix_its_endpoint_with_its_own_noise():
    """share = 1: x_t = D(x_r) + t z and x_r' = D(x_r) + r z with x_r = x0 + r z.

    At the anchor the data stays.
    """
    method = fs.methods.ect()
    x0, z, times = batch(method)
    at_anchor = times.r == 0
    assert 3 < at_anchor.sum() < 37
    x_t, x_r = points(
        GeneratorInduced(1.0, bound=torch.inf), fs.Models(GAUSSIAN, ema=GAUSSIAN), (x0, z, times)
    )
    endpoint = torch.where(at_anchor[:, None], x0, GAUSSIAN(EDM.mix(x0, z, times.r), times.r))
    torch.testing.assert_close(x_t, EDM.mix(endpoint, z, times.t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x_r, EDM.mix(endpoint, z, times.r), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(x_t[~at_anchor], EDM.mix(x0, z, times.t)[~at_anchor])


def test_only_the_chosen_rows_are_evaluated():
    """Those whose second uniform is below the share, with r above the anchor; else no call."""
    method, spy = fs.methods.ect(), Spy(GAUSSIAN)
    data = batch(method)
    times = data[2]
    x_t, _ = points(GeneratorInduced(0.5), fs.Models(GAUSSIAN, ema=spy), data)
    rows = (times.u[:, 1] < 0.5) & (times.r > 0)
    assert 3 < rows.sum() < 30
    assert torch.equal(spy.times, times.r[rows])
    assert torch.equal(x_t[~rows], EDM.mix(*data[:2], times.t)[~rows])
    spy.calls.clear()
    rests = times._replace(r=times.a)
    points(GeneratorInduced(1.0), fs.Models(GAUSSIAN, ema=spy), (*data[:2], rests))
    assert not spy.calls


def test_the_choice_is_independent_of_the_time():
    """The time's own uniform is the first: with the second held, every t is chosen or none is."""
    method = fs.methods.ict(s1=160)
    x0, z, times = batch(method)
    for second, count in ((0.3, len(x0)), (0.7, 0)):
        spy = Spy(GAUSSIAN)
        fixed_second = times._replace(
            u=torch.stack([times.u[:, 0], torch.full_like(times.t, second)], 1)
        )
        points(GeneratorInduced(0.5), fs.Models(GAUSSIAN, ema=spy), (x0, z, fixed_second))
        assert len(spy.times) == count


@pytest.mark.parametrize("network", ["masks", "nn.Dropout"])
def test_endpoints_are_made_without_dropout(network):
    """Also by a student in training mode whose dropout knows no masks, and which stays in it."""
    if network == "masks":
        student = small_student((3,), dropout=0.5)
    else:
        inner = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 3)).double()
        student = Preconditioned(WithoutLabels(inner), fs.methods.ect().scaling)
    student.train()
    coupling = fs.methods.gc(base="ect", share=1.0, predictor="student", bound=1e9).coupling
    data = batch(fs.methods.ect())
    x_t, _ = points(coupling, fs.Models(student), data)
    assert all(module.training for module in student.modules())
    x0, z, times = data
    student.eval()
    plain = student(EDM.mix(x0, z, times.r), times.r)
    endpoint = torch.where((times.r > 0)[:, None], plain, x0)
    torch.testing.assert_close(x_t, EDM.mix(endpoint, z, times.t), rtol=1e-12, atol=1e-12)


class WithoutLabels(nn.Module):
    """A network that looks at x alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x, noise_label, cond=None):
        return self.inner(x)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_a_share_follows_its_ramp(progress):
    """The rows of share_end = .1 from .9 at a progress are those of the ramp's share there."""
    method, mu = fs.methods.gc(share=0.9, share_end=0.1), 0.9 - 0.8 * progress
    assert method.coupling.share == Ramp(0.9, 0.1)
    x0, z, times = batch(method, rows=200, progress=progress)
    spy = Spy(GAUSSIAN)
    points(method.coupling, fs.Models(GAUSSIAN, ema=spy), (x0, z, times))
    assert len(spy.times) == int((times.u[:, 1] < mu).sum())
    assert torch.equal(spy.times, times.r[times.u[:, 1] < mu])


@pytest.mark.parametrize("predictor", ["ema", "student"])
def test_over_tcm_endpoints_below_t_prime_are_the_frozen_networks(predictor):
    """And those from t' on the predictor's, as the targets are."""
    method = fs.methods.gc(base="tcm", share=1.0, predictor=predictor)
    student, ema, frozen = Spy(GAUSSIAN), Spy(GAUSSIAN), Spy(GAUSSIAN)
    x0, z, times = batch(method)
    times = times._replace(r=times.r.clamp_min(0.01))  # none is at the data
    method.coupling(fs.Models(student, ema=ema, frozen=frozen), EDM, x0, z, times, None)
    below = times.r < 1.0
    who, other = (ema, student) if predictor == "ema" else (student, ema)
    assert 3 < below.sum() < 37
    assert torch.equal(frozen.times, times.r[below])
    assert torch.equal(who.times, times.r[~below])
    assert not other.calls
    assert method.needs == {"student", "frozen", predictor}


def test_labels_go_with_the_rows_that_are_generated():
    student = small_student((3,), classes=2)
    x0, z, times = batch(fs.methods.ect())
    cond = torch.arange(len(x0)) % 2
    coupling, models = GeneratorInduced(0.5), fs.Models(student, ema=student)
    both = [points(coupling, models, (x0, z, times), cond=labels) for labels in (cond, 1 - cond)]
    rows = (times.u[:, 1] < 0.5) & (times.r > 0)
    changes = (both[0][0] != both[1][0]).any(1)
    assert torch.equal(changes, rows)
    endpoint = student(EDM.mix(x0, z, times.r), times.r, cond).clamp(-3, 3)
    torch.testing.assert_close(
        both[0][0][rows], EDM.mix(endpoint, z, times.t)[rows], rtol=1e-10, atol=1e-10
    )


def test_the_inner_coupling_gets_the_generated_data():
    """Over a teacher's pairs x_r is the teacher's move from the x_t that has the endpoint."""
    base = fs.methods.ect(pairs="euler")
    method = fs.methods.gc(base=base, share=1.0, bound=1e9)
    x0, z, times = batch(base)
    truth = fs.exact.Gaussian(mean=0.3, std=0.5)
    student = small_student((3,))
    x_t, x_r = points(
        method.coupling, fs.Models(student, ema=student, teacher=truth), (x0, z, times)
    )
    torch.testing.assert_close(x_r, fs.solvers.euler(EDM, truth, x_t, times.t, times.r))
    assert method.coupling.inner == base.coupling
    assert method.needs == {"student", "ema", "teacher"}


@pytest.mark.parametrize(("name", "value"), [("share", 1.5), ("share", -0.1), ("bound", 0.0)])
def test_options_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=f"^{name} = {value}: expected"):
        GeneratorInduced(**{name: value})


def test_times_without_uniforms_are_refused():
    x0, z, times = batch(fs.methods.ect())
    for u in (None, times.u[:, :1]):
        with pytest.raises(UserError, match="expected uniforms"):
            points(
                GeneratorInduced(0.5),
                fs.Models(GAUSSIAN, ema=GAUSSIAN),
                (x0, z, times._replace(u=u)),
            )


def test_a_base_is_a_name_or_options_or_a_method():
    by_name, by_options = fs.methods.gc(base="ict"), fs.methods.gc(base={"method": "ict"})
    assert by_name == by_options == fs.methods.gc(base=fs.methods.ict())
    assert replace(by_name, coupling=Data()) == fs.methods.ict()
    assert fs.methods.gc(base="ect", sigma_data=0.7) == fs.methods.gc(
        base=fs.methods.ect(sigma_data=0.7), sigma_data=0.7
    )


@pytest.mark.parametrize("predictor", ["ema", "student"])
def test_a_second_stage_of_gc_is_gc_over_the_second_stage(predictor):
    """Its endpoints below t' are the frozen network's too; only the first stages differ."""
    options = {"share": 0.6, "predictor": predictor}
    first = fs.methods.gc(base="ect", **options)
    method = fs.methods.tcm(base=first)
    assert replace(method, before=None) == replace(
        fs.methods.gc(base="tcm", **options), before=None
    )
    assert method.before == first


def test_guidance_of_a_base_needs_labels_too():
    """GC's teacher is its base's: data without labels has nothing to guide by."""
    method = fs.methods.gc(base={"method": "cd"})
    method = replace(method, coupling=replace(method.coupling, inner=Teacher(guidance=2.0)))
    assert teachers.guidance_of(method) == 2.0
    run = tiny_run(
        method="gc",
        method_options={"base": {"method": "scd", "guidance": 2.0}},
        teacher="exact:ring8",
    )
    with pytest.raises(
        UserError, match=r"guidance = 2\.0: expected 0, since data 'ring8' has no labels"
    ):
        fs.train(run, progress=False, device="cpu")


def test_over_optimal_transport_an_endpoint_is_of_the_noise_that_its_row_keeps():
    method = fs.methods.gc(base={"method": "ect", "pairs": "ot"}, share=1.0, bound=1e30)
    data = x0, z, times = batch(method)
    x_t, x_r = points(method.coupling, fs.Models(GAUSSIAN, ema=GAUSSIAN), data)
    dealt = fs.couplings.MinibatchOT().deal(x0, z, None)
    assert not torch.equal(dealt, z)
    expected = points(
        GeneratorInduced(1.0, bound=1e30), fs.Models(GAUSSIAN, ema=GAUSSIAN), (x0, dealt, times)
    )
    assert torch.equal(x_t, expected[0])
    assert torch.equal(x_r, expected[1])


def test_the_endpoints_of_a_frozen_predictor_are_the_teachers():
    method = fs.methods.gc(base="ect", share=1.0, bound=1e30, predictor="teacher")
    assert method.needs == {"student", "teacher"}
    student = small_student((3,), seed=4)
    x_t, _ = points(method.coupling, fs.Models(student, teacher=GAUSSIAN), batch(method))
    by_ema = fs.methods.gc(base="ect", share=1.0, bound=1e30)
    expected, _ = points(by_ema.coupling, fs.Models(student, ema=GAUSSIAN), batch(method))
    assert torch.equal(x_t, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share = 1.5"),
        ({"share": 0.5, "share_end": 7.0}, "share_end = 7.0"),
        ({"share": float("nan"), "share_end": 0.0}, "share = nan"),
        ({"bound": 0.0}, "bound = 0.0"),
        ({"base": "diffusion"}, "base = 'Clean': expected a method with a target"),
        ({"base": "gc"}, "base = 'GeneratorInduced': expected pairs of another kind"),
        ({"base": "mcm"}, "base = 4: expected a method whose students jump to the data"),
        ({"base": "cd", "predictor": "teacher"}, "predictor = 'teacher': expected ema or student"),
        ({"base": {"method": "ect", "zz": 1}}, "unknown option of method ect 'zz'"),
    ],
)
def test_what_gc_refuses(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        fs.methods.gc(**options)
