"""The limit r -> t: the tangent against autodiff, the discrete loss, closed forms; its engines."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import derivatives
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import dropout
from fewstep.core.scalings import Edm, Trig
from fewstep.core.tangents import Tangent
from tests.support.toys import Gaussian, small_student, tiny_run

SD = 0.5
LINEAR = fs.process.linear()
TRIG = fs.process.trig(sigma_data=SD, level_max=80.0)
T = torch.tensor([0.02, 0.4, 0.9, 1.3, 1.55], dtype=torch.float64)


def draws(rows: int = len(T), shape: tuple[int, ...] = (3,)) -> list[Tensor]:
    return [
        torch.randn(rows, *shape, generator=generator(i, "x"), dtype=torch.float64)
        for i in range(2)
    ]


def student(scaling=Edm(sigma_data=SD), dropout: float = 0.0) -> Preconditioned:
    return Preconditioned(small_student((3,), dropout=dropout).network, scaling, TRIG)


def bare(**options) -> fs.Method:
    """sct with g itself: no normalisation, no warm-up, no balance."""
    return fs.methods.sct(
        **{"norm": "none", "warmup": 0.0, "balance": "none", "sigma_data": SD, **options}
    )


def tangent(method: fs.Method, models: fs.Models, times: fs.Times) -> tuple[Tensor, Tensor, Tensor]:
    """g, read off the goal as what it adds to F, with the x_t and v that it is at."""
    x_t, v = method.coupling(models, method.process, *draws(len(times.t)), times, None)
    run = dropout(models.student, len(x_t), None, x_t.device)
    goal = method.goal(models, x_t, v, times, None, run)
    own = method.space(TRIG, x_t, models.student(x_t, times.t), times)
    return method.space(TRIG, x_t, goal, times) - own, x_t, v


PLAIN = "a plain function"
STUDENTS = {
    "edm": student(),
    "trig": student(Trig(sigma_data=SD)),
    "consistency": student(Edm(sigma_data=SD, shift=0.002)),
    "v": student(fs.scalings.V()),
    PLAIN: lambda x, t, cond=None: STUDENTS["edm"](x, t),
}


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(("derivative", "tolerance"), [("jvp", 1e-9), ("difference", 1e-6)])
def test_the_tangent_is_cos_t_times_the_derivative_of_the_student_along_its_trajectory(
    name, derivative, tolerance
):
    method, who = bare(derivative=derivative), STUDENTS[name]
    g, x_t, v = tangent(method, fs.Models(who), method.times.at(T, 0.0))
    _, slope = torch.func.jvp(lambda x, t: who(x, t), (x_t, T), (v, torch.ones_like(T)))
    torch.testing.assert_close(g, T.cos()[:, None] * slope, rtol=tolerance, atol=tolerance)


def test_float32_loses_no_digits_where_the_guess_of_the_data_would():
    """At t = 1e-3 F is derived to 1e-5 in float32; x0_hat, with sin t of it, loses a factor 1/t."""
    method, t = bare(derivative="jvp"), torch.full((5,), 1e-3, dtype=torch.float64)
    exact, network = student(), student().float()
    x_t, v = method.coupling(fs.Models(exact), TRIG, *draws(), method.times.at(t, 0.0), None)

    def slope(who, x, dx) -> Tensor:
        drift = fs.tangents.Drift(who, TRIG)
        both = t.cos() * t.sin()
        dx = fs.process.expand(both, dx) * dx
        return derivatives.jvp(lambda x, t: drift(x, t), x, t, dx, both)[1].double()

    truth, single = slope(exact, x_t, v), slope(network, x_t.float(), v.float())
    through_x0 = slope(lambda x, t, cond=None: network(x, t), x_t.float(), v.float())
    assert derivatives.relative(single, truth) < 1e-5 < derivatives.relative(through_x0, truth) / 10


@pytest.mark.parametrize("norm", ["sample", "rms"])
def test_the_norm_is_of_each_sample(norm):
    g = tangent(bare(), fs.Models(STUDENTS["edm"]), bare().times.at(T, 1.0))[0]
    method = fs.methods.sct(norm=norm, c=0.3, warmup=0.0, sigma_data=SD)
    g_normal = tangent(method, fs.Models(STUDENTS["edm"]), method.times.at(T, 1.0))[0]
    size = g.square().sum(1).sqrt() if norm == "sample" else g.square().mean(1).sqrt()
    torch.testing.assert_close(g_normal, g / (size + 0.3)[:, None], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("source", ["data", "teacher"])
def test_the_discrete_loss_tends_to_the_continuous_one_at_first_order(source):
    """Weight sd sin t cos t / (2 (t - r)) on squares of F tends to ||F - sg(F + g)||^2 / 2.

    The error is O(t - r).
    """
    who, teacher, t = STUDENTS["edm"], Gaussian(process=TRIG), T[1:4]
    x0, z = draws(3)
    pair = fs.couplings.Data() if source == "data" else fs.couplings.Teacher(fs.solvers.ddim)

    def gradient(method: fs.Method, times: fs.Times) -> Tensor:
        loss = method.loss(fs.Models(who, teacher=teacher), x0, z, times).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(who.parameters()))])

    def falling(process, times):
        return SD * times.t.sin() * times.t.cos() / (2 * (times.t - times.r))

    limit = replace(bare(), coupling=fs.couplings.Velocity(source), distance=fs.distances.sse)
    limit = replace(limit, weight=lambda process, times: torch.full_like(times.t, 0.5))
    discrete = replace(limit, coupling=pair, target=fs.targets.Student(), weight=falling)
    truth = gradient(limit, limit.times.at(t, 1.0))
    gaps = [1e-3, 5e-4, 2.5e-4]
    errors = [
        derivatives.relative(
            gradient(discrete, fs.Times(t, t - h, 0 * t, torch.ones_like(t))), truth
        )
        for h in gaps
    ]
    assert errors[-1] < 1e-2
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2.0, rel=0.02)


def test_differences_are_of_second_order_in_their_step():
    who = STUDENTS["edm"]
    truth = tangent(bare(derivative="jvp"), fs.Models(who), bare().times.at(T, 1.0))[0]
    errors = []
    for step in (4e-2, 2e-2, 1e-2):
        method = bare(derivative="difference")
        method = replace(method, target=replace(method.target, step=step))
        errors.append(
            (tangent(method, fs.Models(who), method.times.at(T, 1.0))[0] - truth).norm().item()
        )
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4.0, rel=0.05)


LAW = Gaussian(process=TRIG)


def exact(x_t, t, cond=None):
    """The consistency function of the Gaussian: where its ODE ends."""
    return LAW.solve(x_t, t, 0.0)


@pytest.mark.parametrize("derivative", ["jvp", "difference"])
def test_every_pass_drops_what_the_students_own_drops(derivative):
    """With a tangent of size 0 the goal is the student's guess, if both passes share masks."""
    method = fs.methods.sct(c=1e12, derivative=derivative, balance="none", sigma_data=SD)
    who, (x0, z), times = student(dropout=0.5), draws(), method.times.at(T, 0.5)
    assert (method.loss(fs.Models(who), x0, z, times, seed=3) < 1e-20).all()
    one, other = (who(x0, T, None, who.masks(5, [seed])) for seed in (3, 4))
    assert (one - other).abs().max() > 1e-3


class Dropping(nn.Module):
    """A network with torch's dropout, whose masks are the next numbers of the global stream."""

    def __init__(self):
        super().__init__()
        self.inner, self.dropout = fs.networks.mlp((3,), width=16, depth=1), nn.Dropout(0.5)

    def forward(self, x, noise_label, cond=None):
        return self.dropout(x) + self.inner(x, noise_label, cond)


def test_differences_drop_what_the_students_pass_drops_without_masks_too():
    """Then the two sides are not one batch: its rows would not be dropped alike."""
    method = fs.methods.sct(c=1e12, derivative="difference", balance="none", sigma_data=SD)
    who = Preconditioned(Dropping().double(), Edm(sigma_data=SD), TRIG)
    (x0, z), times = draws(), method.times.at(T, 0.5)
    assert (method.loss(fs.Models(who), x0, z, times, seed=3) < 1e-20).all()
    assert (who(x0, T) - who(x0, T)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["linear", "trig", "cosine", "edm"])
def test_differences_agree_with_jvps_next_to_pure_noise(name):
    """Neither side is beyond it, where schedules and labels are something else, or nothing."""
    process = TRIG if name == "trig" else fs.process.by_name(name)
    end = min(process.end, 2 * process.t_max)
    t = torch.tensor([0.9, 0.99, 0.997, 0.9995, 1.0], dtype=torch.float64) * end
    who = Preconditioned(small_student((3,)).network, Trig(sigma_data=SD), process)
    times, run = fs.Times(t, t, 0 * t, torch.ones(5)), dropout(who, 5, None, t.device)
    x_t, v = process.mix(*draws(), t), process.rate(*draws(), t)
    velocities = []
    for engine in ("jvp", "difference"):
        one = Tangent(0.0, norm="none", derivative=engine, step=5e-3)
        with torch.no_grad():
            goal = one.goal(process, fs.Models(who), x_t, v, times, None, run)
        velocities.append(process.velocity(x_t, goal, t))
    truth, result = velocities
    assert derivatives.worst(result, truth) < 2e-2
    assert derivatives.worst(result[:2], truth[:2]) < 1e-3


@pytest.mark.parametrize("process", ["linear", "trig"])
@pytest.mark.parametrize(("label", "engine"), [("angle", "difference"), ("log", "jvp")])
def test_a_label_without_an_end_is_derived_by_jvp(process, label, engine):
    """A step of time in almost pure noise is a large one of ln(level): the latest row shows it."""
    options = {"label": label, "p_std": 1.8, "process": process}
    result = fs.train(tiny_run(method="meanflow", method_options=options), device="cpu")
    assert result.run.method_options["derivative"] == engine


def test_a_schedule_of_somebody_else_ends_at_its_latest_time():
    class Own:
        """Linear's, without an end."""

        def __getattr__(self, name):
            if name == "end":
                raise AttributeError(name)
            return getattr(LINEAR.schedule, name)

    assert (LINEAR.end, replace(LINEAR, schedule=Own(), t_max=0.9).end) == (1.0, 0.9)


def test_a_derivative_of_zero_is_right_by_both():
    """A constant's rows have no size that an error could be compared with."""
    one = torch.ones(8, 1, dtype=torch.float64)
    flat = choose(lambda dtype: (lambda x, t: 0 * x, one, one[:, 0], one, one[:, 0]), (one.dtype,))
    assert flat[0] == "jvp"
    assert "0.0e+00" in flat[1]
    zero = torch.zeros(8, 1)
    assert derivatives.worst(zero, zero) == 0
    assert derivatives.worst(zero + math.nan, zero) == math.inf


def test_what_has_no_number_says_nothing_of_a_jvp():
    one = torch.ones(8, 1, dtype=torch.float64)

    def line(dtype):
        return lambda x, t: (x * (1 - t[:, None])).sqrt(), one, one[:, 0], -one, one[:, 0]

    engine, why = choose(line, (torch.float64,))
    assert (engine, "unchecked" in why) == ("jvp", True)


def test_the_trial_is_of_the_step_that_is_taken():
    (x0, z), who = draws(), student()
    times = fs.Times(T, T, 0 * T, T)
    line = fs.Models(who), TRIG.mix(x0, z, T), TRIG.rate(x0, z, T), times, None
    sct = fs.methods.sct(sigma_data=SD).target
    with torch.no_grad():
        _, fine, _ = sct.probe(TRIG, *line)
        _, coarse, _ = replace(sct, step=0.7).probe(TRIG, *line)
    assert (fine["derivative"], coarse["derivative"]) == ("difference", "jvp")


def test_the_velocity_of_a_pair_is_the_rate_of_its_mixture():
    x0, z = draws()
    for process in (TRIG, fs.process.linear(), fs.process.edm(), fs.process.cosine()):
        t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
        times = fs.times.Limit(law=fs.times.LogNormal(mean=0.0, std=1.0)).at(t, 0.0)
        x_t, v = fs.couplings.Velocity()(fs.Models(exact), process, x0, z, times, None)
        _, rate = torch.func.jvp(
            lambda t, on=process: on.mix(x0, z, t), (t,), (torch.ones_like(t),)
        )
        torch.testing.assert_close(v, rate)
        torch.testing.assert_close(v, process.velocity(x_t, x0, t))


def test_trigflow_is_edm_up_to_the_sign_of_f():
    x0, z = draws()
    raw = torch.randn(5, 3, generator=generator(2, "raw"), dtype=torch.float64)
    x_t, times = TRIG.mix(x0, z, T), fs.Times(T, T, 0 * T, torch.ones_like(T))
    cos, sin = T.cos()[:, None], T.sin()[:, None]
    for label, noise in (("log", (SD * T.tan()).log() / 4), ("time", T)):
        scaling = fs.methods.sct(label=label, sigma_data=SD).scaling
        c = scaling(TRIG, T)
        torch.testing.assert_close(c.in_, torch.full_like(T, 1 / SD))
        torch.testing.assert_close(c.noise, noise)
        x0_hat = fs.scalings.to_x0(scaling, TRIG, x_t, raw, T)
        torch.testing.assert_close(x0_hat, cos * x_t + SD * sin * raw)
        torch.testing.assert_close(
            fs.spaces.Velocity(SD)(TRIG, x_t, x0_hat, times), -raw, rtol=1e-9, atol=1e-9
        )


def test_a_generated_coupling_composes_with_the_limit():
    """GC on sct: the rows' data is replaced before their velocity is taken."""
    base, (x0, z) = bare(), draws()
    times = base.times(torch.rand(5, 2, generator=generator(1, "u"), dtype=torch.float64), 0.5)
    models = fs.Models(STUDENTS["edm"], ema=lambda x, t, cond=None: 0.3 + 0 * x)
    none = fs.methods.gc(base=base, share=0.0).loss(models, x0, z, times)
    all_ = fs.methods.gc(base=base, share=1.0).loss(models, x0, z, times)
    torch.testing.assert_close(none, base.loss(models, x0, z, times), rtol=0, atol=0)
    torch.testing.assert_close(all_, base.loss(models, torch.full_like(x0, 0.3), z, times))


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match=r"guidance = 2\.0: expected .* 0 for data"):
        fs.couplings.Velocity("data", 2.0)
    with pytest.raises(UserError, match="warmup = 500"):
        Tangent(warmup=500)


class Half(torch.autograd.Function):
    """The identity, whose jvp is half of the right one."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def jvp(ctx, tangent):
        return tangent / 2


class Backward(torch.autograd.Function):
    """The identity, which knows no jvp."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Odd(nn.Module):
    """An mlp, whose last layer starts at 0, behind a function of one's own."""

    def __init__(self, shape, classes, function):
        super().__init__()
        self.inner, self.function = fs.networks.mlp(shape, classes, width=16, depth=1), function

    def forward(self, x, noise_label, cond=None):
        return self.inner(self.function.apply(x), noise_label, cond)


@pytest.mark.parametrize(
    ("function", "message"), [(Half, "jvp is [45]"), (Backward, "jvp fails with RuntimeError: ")]
)
def test_a_network_whose_jvp_is_missing_or_wrong_is_derived_by_differences(
    function, message, capsys, tmp_path
):
    """Also one that starts flat; the choice is logged, stored, and not made again when resumed."""
    run = tiny_run(method="sct", network_options={}, precision="bf16")

    def network(shape, classes=0):
        return Odd(shape, classes, function)

    whole = fs.train(run, None, network, out=tmp_path, device="cpu")
    assert whole.run.method_options["derivative"] == "difference"
    output = capsys.readouterr().err
    assert "derivative: difference, of error" in output
    assert message.partition("[")[0] in output
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    after = fs.train(run, None, network, out=tmp_path, resume=True, device="cpu")
    assert after.fingerprint == whole.fingerprint
    assert "derivative:" not in capsys.readouterr().err


def test_a_network_that_knows_float32_alone_is_tried_in_it(capsys):
    class Single(Odd):
        def forward(self, x, noise_label, cond=None):
            return self.inner(x.float(), noise_label.float(), cond)

    run = tiny_run(method="sct", network_options={})
    result = fs.train(
        run, None, lambda shape, classes=0: Single(shape, classes, None), device="cpu"
    )
    assert result.run.method_options["derivative"] == "difference"
    assert "on 4 rows in float32" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "engine"), [("fp32", "difference"), ("bf16", "jvp")])
def test_the_trial_prefers_differences_in_full_precision_and_its_choice_is_the_runs(
    precision, engine, capsys, tmp_path
):
    run = tiny_run(method="sct", precision=precision)
    whole = fs.train(run, out=tmp_path / "auto", device="cpu")
    assert f"derivative: {engine}, " in capsys.readouterr().err
    fields = json.loads((tmp_path / "auto" / "run.json").read_text())
    assert fields["method_options"]["derivative"] == engine
    asked = replace(run, method_options={"derivative": engine})
    same = fs.train(asked, progress=False, device="cpu")
    # The trial draws nothing that training does.
    assert same.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("dtype", "engine"), [(torch.float32, "difference"), (torch.bfloat16, "jvp")]
)
def test_weights_of_low_precision_are_derived_by_jvp(dtype, engine):
    """The trial's copy of them has more digits than they have."""
    who, (x0, z) = student().to(dtype), (part.float() for part in draws())
    times, sct = fs.Times(T, T, 0 * T, T), fs.methods.sct(sigma_data=SD)
    with torch.no_grad():
        choice = sct.target.probe(
            TRIG, fs.Models(who), TRIG.mix(x0, z, T), TRIG.rate(x0, z, T), times, None
        )
    assert choice is not None
    assert choice[1] == {"derivative": engine}


def test_a_resumed_run_keeps_what_was_decided_inside_a_base_too(tmp_path):
    """`auto` goes on with the engine that the run has, whatever a trial would say now."""
    decision = {"base": {"method": "sct", "derivative": "jvp"}, "share": 0.5}
    options = {"base": {"method": "sct"}, "share": 0.5}
    whole = fs.train(
        tiny_run(method="gc", method_options=decision), out=tmp_path, progress=False, device="cpu"
    )
    shutil.rmtree(tmp_path / "checkpoints" / "step-6")
    again = tiny_run(method="gc", method_options=options)
    after = fs.train(again, out=tmp_path, resume=True, progress=False, device="cpu")
    assert after.fingerprint == whole.fingerprint
    assert after.run.method_options["base"]["derivative"] == "jvp"
    fresh = fs.train(again, progress=False, device="cpu")
    assert fresh.run.method_options["base"]["derivative"] == "difference"


def test_differences_are_taken_outside_of_low_precision_and_jvps_inside():
    """Under bfloat16 autocast differences would have no digits left: theirs are float32's bits."""
    who, (x0, z) = student().float(), (part.float() for part in draws())
    drift, speed = fs.tangents.Drift(who, TRIG), T.cos() * T.sin()
    line = (lambda x, t: drift(x, t)), TRIG.mix(x0, z, T), T, TRIG.rate(x0, z, T), speed
    with torch.no_grad():
        outside = derivatives.difference(*line, 5e-3)[1]
        with fs.denoiser.passes_in(torch.bfloat16):
            assert torch.equal(derivatives.difference(*line, 5e-3)[1], outside)
            inside = derivatives.jvp(*line)[1]
    assert 1e-5 < derivatives.relative(inside, outside) < 0.1


def test_scd_and_direct_cm_hand_on_their_guidance_and_constant():
    assert fs.methods.scd(guidance=1.5).coupling == fs.couplings.Velocity("teacher", 1.5)
    assert fs.methods.direct_cm(c=0.2).distance == fs.distances.ElementHuber(0.2)


def choose(line, dtypes):
    return derivatives.choose(line, dtypes, lambda one: derivatives.difference(*one, 5e-3)[1])


def test_differences_without_digits_do_not_refuse_a_jvp():
    """In a network that rounds to bfloat16 no two of them agree; where they do, they decide."""

    class Round(torch.autograd.Function):
        """To bfloat16, with the derivative of not rounding."""

        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.bfloat16().to(x.dtype)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def jvp(ctx, x):
            return x.clone()

    def line(f):
        x = torch.linspace(0.1, 1, 8, dtype=torch.float64)[:, None]
        t = torch.ones(8, dtype=torch.float64)
        return lambda dtype: (f, x.to(dtype), t, torch.ones_like(x).to(dtype), t)

    dtypes = (torch.float64, torch.float32)
    rough = choose(line(lambda x, t: Round.apply(Round.apply(x.sin() * 3) * 7)), dtypes)
    assert rough == (
        "jvp",
        "derivative: jvp, unchecked: differences have no digits on 8 rows in float64",
    )
    wrong = choose(line(lambda x, t: x * x.detach()), dtypes)
    assert wrong[0] == "difference"


def test_a_jvp_that_is_wrong_by_a_few_thousandths_is_not_taken():
    """In float32 too, where the differences have to be good enough to see it."""

    def line(f):
        x = torch.linspace(0.1, 1, 8)[:, None]
        t = torch.ones(8)
        return lambda dtype: (f, x, t, torch.ones_like(x), t)

    def shape(x, t):
        return (4 * x).sin()

    dtypes = (torch.float32,)
    assert choose(line(shape), dtypes)[0] == "jvp"
    wrong = choose(line(lambda x, t: shape(0.997 * x + 0.003 * x.detach(), t)), dtypes)
    assert wrong[0] == "difference"
