"""Exact flow maps: jumps are the ODE's solutions, and obey the identities that methods train by."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core import abilities
from fewstep.core.process import expand

PROCESSES = {
    "edm": fs.process.edm(),
    "linear": fs.process.linear(),
    "trig": fs.process.trig(sigma_data=0.5),
    "cosine": fs.process.cosine(),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
straight = pytest.mark.parametrize(
    "process", [PROCESSES["edm"], PROCESSES["linear"]], ids=["edm", "linear"]
)
shares = st.floats(0.0, 1.0)
jvp = torch.func.jvp
some_processes = pytest.mark.parametrize(
    "process",
    [
        pytest.param(one, marks=[pytest.mark.long] * (name in ("trig", "linear")))
        for name, one in PROCESSES.items()
    ],
    ids=PROCESSES.keys(),
)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "test flow"), dtype=torch.float64)


def gaussians(process) -> dict:
    """Laws of one component: the closed forms of each kind, of 4 numbers."""
    mean, factors = normals(1, 4, seed=1) / 4, normals(1, 4, 2, seed=2) / 3
    one = {"weights": [1], "means": mean, "process": process}
    cov = factors @ factors.mT + 0.01 * torch.eye(4, dtype=torch.float64)
    return {
        "gaussian": fs.exact.Gaussian(mean[0], torch.tensor([0.5, 0.3, 0.0, 2.0]), process),
        "round": fs.exact.Mixture(std=0.3, **one),
        "full": fs.exact.Mixture(covs=cov, **one),
        "low": fs.exact.Mixture(factors=factors, std=0.1, **one),
    }


every_kind = pytest.mark.parametrize("kind", ["gaussian", "round", "full", "low"])


def pair(process, low: float = 0.02):
    """Times t and ends a of six rows: to the data, far, on the diagonal and nearly there."""
    t = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.3, 0.1], dtype=torch.float64) * process.t_max
    return t, t * torch.tensor([low, 0.5, 1.0, 1.0 - 1e-7, 0.98, 0.3], dtype=torch.float64)


def at(law, t: torch.Tensor, seed: int = 0) -> torch.Tensor:
    z = normals(len(t), *law.shape, seed=seed)
    return law.process.mix(law.sample(len(t), seed).double(), z, t)


def moves(process, t, a, like):
    """The jump's keep and make, and their rates in a."""
    sigma, alpha = process.sigma(t), process.alpha(t)
    values = process.sigma(a) / sigma, process.alpha(a) - process.sigma(a) / sigma * alpha
    keep_a = process.schedule.sigma_rate(a) / sigma
    rates = keep_a, process.schedule.alpha_rate(a) - keep_a * alpha
    return [expand(part, like) for part in (*values, *rates)]


@every_process
@every_kind
def test_a_jump_is_the_solution(process, kind):
    law = gaussians(process)[kind]
    t, a = pair(process, low=0.0)
    x = at(law, t)
    x0_hat = law(x, t, to=a)
    scale = {"rtol": 1e-10, "atol": 1e-10 * x.abs().max().item()}
    torch.testing.assert_close(process.jump(x, x0_hat, t, a), law.solve(x, t, a), **scale)
    torch.testing.assert_close(law(x, t, to=t), law(x, t), rtol=1e-12, atol=1e-12)
    assert abilities.ends(law) == 1
    # `aim` at the solution, where it is not 0 / 0.
    aim = process.aim(x, law.solve(x, t, a), t, a)
    torch.testing.assert_close(x0_hat[[0, 1, 5]], aim[[0, 1, 5]], rtol=1e-8, atol=1e-8)


def test_the_gaussians_map_on_edm():
    """X(x) = x sqrt((c^2 + a^2) / (c^2 + t^2))."""
    law, (t, a), c = fs.exact.Gaussian(0.0, 0.4), pair(PROCESSES["edm"]), 0.4
    x = normals(6, 3, 2)
    root = ((c**2 + a**2) / (c**2 + t**2)).sqrt()
    end = law.process.jump(x, law(x, t, to=a), t, a)
    torch.testing.assert_close(end, expand(root, x) * x, rtol=1e-13, atol=0)


@some_processes
@settings(max_examples=3)
@given(shares=st.tuples(shares, shares, shares), seed=st.integers(0, 99))
def test_semigroup(process, shares, seed):
    """X_(r->a) o X_(t->r) = X_(t->a): Gaussians to 1e-12 of the largest number, ring8 to 1e-9."""
    a, r, t = (torch.tensor([share]) for share in sorted(shares))
    t, r, a = (time.double() * process.t_max for time in (t, r, a))
    for law, most in ((gaussians(process)["gaussian"], 1e-12), (fs.exact.ring8(process), 1e-9)):
        x = at(law, t, seed)

        def go(x, t, a, law=law):
            return process.jump(x, law(x, t, to=a), t, a)

        away = go(go(x, t, r), r, a) - go(x, t, a)
        assert away.abs().max() <= most * max(1.0, x.abs().max().item())


@some_processes
def test_the_solved_map_of_a_mixture(process):
    """Bits of the denoiser on the diagonal, `solve` by jumps, and no seam where `aim` is left."""
    law = fs.exact.ring8(process)
    t, a = pair(process, low=0.0)
    x = at(law, t)
    x0_hat = law(x, t, to=a)
    torch.testing.assert_close(
        process.jump(x, x0_hat, t, a), law.solve(x, t, a), rtol=1e-9, atol=1e-9
    )
    assert torch.equal(law(x, t, to=t), law(x, t))
    for gap in (0.0299, 0.005):  # of 1: both ways are good to 1e-9 here
        a = t * (1 - gap)
        aim = process.aim(x, law.solve(x, t, a), t, a)
        torch.testing.assert_close(law(x, t, to=a), aim, rtol=1e-8, atol=1e-8)
    # Towards the diagonal, as it should: D(to = t - h) - D(to = t) ~ h.
    steps = [(law(x, t, to=t * (1 - h)) - law(x, t)).abs().max().item() for h in (1e-6, 1e-8)]
    assert steps[1] == pytest.approx(steps[0] / 100, rel=1e-3)


@every_process
@every_kind
def test_identities_of_gaussians(process, kind):
    """keep (v - u) + make dD/dt = 0, and keep_a x + make_a D + make dD/da = v(X, a), to 1e-9."""
    law = gaussians(process)[kind]
    t, a = pair(process)
    x = at(law, t)
    v = process.velocity(x, law(x, t), t)
    x0_hat, rate = jvp(lambda x, t: law(x, t, to=a), (x, t), (v, torch.ones_like(t)))
    keep, make, keep_a, make_a = moves(process, t, a, x)
    away = keep * (v - process.velocity(x, x0_hat, t)) + make * rate
    assert (away.abs() <= 1e-11 * (1 + v.abs())).all()
    _, rate_a = jvp(lambda a: law(x, t, to=a), (a,), (torch.ones_like(a),))
    end = process.jump(x, x0_hat, t, a)
    target = process.velocity(end, law(end, a), a)
    result = keep_a * x + make_a * x0_hat + make * rate_a
    torch.testing.assert_close(result, target, rtol=1e-9, atol=1e-9)


@straight
@settings(max_examples=5)
@given(shares=st.tuples(shares, shares), seed=st.integers(0, 99))
def test_tangent_and_end_time_derivative(process, shares, seed):
    """Goal of the tangent and residual of the end's derivative, with reverse mode in a too."""
    top, share = max(shares), min(shares) / max(max(shares), 1e-9)
    t = torch.tensor([0.01 + 0.99 * top]).double() * process.t_max
    a = t * (0.01 + 0.99 * min(share, 1.0))
    law = fs.exact.Gaussian(torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.2]), process)
    x = at(law, t, seed)
    x0_tgt = law(x, t)  # of the exact velocity: x_t - t v
    v = process.velocity(x, x0_tgt, t)
    x0_hat, rate = jvp(lambda x, t: law(x, t, to=a), (x, t), (v, torch.ones_like(t)))
    u = (x - x0_hat) / expand(t, x)
    goal = x0_tgt + expand(t - a, x) * (v - u - rate)
    torch.testing.assert_close(x0_hat, goal, rtol=1e-11, atol=1e-11)

    end = process.jump(x, x0_hat, t, a)
    v_end = (end - law(end, a, to=a)) / expand(a, x)
    rate_a = torch.autograd.functional.jacobian(lambda a: law(x, t, to=a), a)[:, :, 0]
    residual = u + expand(1 - a / t, x) * rate_a - v_end
    assert (residual.abs() <= 1e-10 * (1 + v_end.abs())).all()


@some_processes
def test_identities_of_a_mixture_by_differences(process):
    """The same two residuals in 2 numbers by centred differences: error ~ h^2."""
    means = [[-0.5, 0.0], [0.5, 0.2]]
    law = fs.exact.Mixture(weights=[1, 2], means=means, std=0.25, process=process)
    t = torch.tensor([0.9, 0.8, 0.5, 0.3, 0.1], dtype=torch.float64) * process.t_max
    a = t * torch.tensor([0.3, 0.6, 0.9, 0.5, 0.3], dtype=torch.float64)
    x = at(law, t)
    v = process.velocity(x, law(x, t), t)
    x0_hat = law(x, t, to=a)
    keep, make, keep_a, make_a = moves(process, t, a, x)
    end = process.jump(x, x0_hat, t, a)
    v_end = process.velocity(end, law(end, a), a)

    def size(rate, rate_a):
        eulerian = keep * (v - process.velocity(x, x0_hat, t)) + make * rate
        lagrangian = keep_a * x + make_a * x0_hat + make * rate_a - v_end
        return eulerian.abs().max().item(), (lagrangian.abs() / (1 + v_end.abs())).max().item()

    def by_differences(share):
        h, high, low = expand(share * t, x), t * (1 + share), t * (1 - share)
        rate = (law(x + h * v, high, to=a) - law(x - h * v, low, to=a)) / (2 * h)
        rate_a = law(x, t, to=a * (1 + share)) - law(x, t, to=a * (1 - share))
        return size(rate, rate_a / (2 * expand(share * a, x)))

    coarse, fine = by_differences(1e-2), by_differences(1e-3)
    for one, other in zip(coarse, fine, strict=True):
        assert one < 1e-3
        assert one / other == pytest.approx(100, rel=0.05)


@pytest.mark.long
@every_process
@pytest.mark.parametrize("share", [0.3, 0.999], ids=["far", "near"])
def test_forward_mode_follows_the_steps_of_a_mixture(process, share):
    law = fs.exact.two_modes(process)
    t = torch.tensor([0.5], dtype=torch.float64) * process.t_max
    a, x = t * share, at(law, t)
    v = process.velocity(x, law(x, t), t)
    x0_hat, rate = jvp(lambda x, t: law(x, t, to=a), (x, t), (v, torch.ones_like(t)))
    keep, make, _, _ = moves(process, t, a, x)
    away = keep * (v - process.velocity(x, x0_hat, t)) + make * rate
    assert (away.abs() <= 1e-8 * (1 + v.abs())).all()


@every_process
@every_kind
def test_derivatives_are_finite_everywhere(process, kind):
    """On the diagonal, at the data and at the top, in all arguments; float32 stays float32."""
    law = gaussians(process)[kind]
    t = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1e-6], dtype=torch.float64) * process.t_max
    a = torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0, 0.0], dtype=torch.float64) * process.t_max
    x = at(law, t)
    ones = torch.ones_like(t)
    value, rate = jvp(lambda x, t, a: law(x, t, to=a), (x, t, a), (x, ones, ones))
    assert value.isfinite().all()
    assert rate.isfinite().all()
    inputs = [part.requires_grad_() for part in (x, t, a)]
    for grad in torch.autograd.grad(law(inputs[0], inputs[1], to=inputs[2]).sum(), inputs):
        assert grad.isfinite().all()
    assert law(x.float(), t, to=a).dtype == torch.float32


def test_the_derivative_in_the_end_on_the_diagonal():
    """Half the denoiser's own along the trajectory on edm: D(to) is a mean, even in 1 / t."""
    x, t = normals(1, 4), 0.7
    time = torch.full((1,), t, dtype=torch.float64)
    for law in (fs.exact.Gaussian(0.1, 0.4), gaussians(PROCESSES["edm"])["full"]):
        v = law.process.velocity(x, law(x, t), t)
        _, rate = jvp(lambda a, law=law: law(x, t, to=a), (time,), (torch.ones(1).double(),))
        _, along = jvp(law, (x, time), (v, torch.ones(1).double()))
        torch.testing.assert_close(rate, along / 2, rtol=1e-10, atol=1e-12)


def test_labels_that_leave_one_component_close_the_form():
    """Row by row, whatever the other rows of the batch are."""
    factors = normals(2, 6, 2, seed=4) / 3
    law = fs.exact.Mixture(
        weights=[1, 2], means=normals(2, 6) / 2, factors=factors, std=0.2, labels=[0, 1]
    )
    t = torch.tensor([3.0, 0.5, 3.0, 0.5]).double()
    x, cond = at(law, t), torch.tensor([0, 1, -1, -1])
    x0_hat = law(x, t, cond, to=0.1)
    alone = law(x[:2], t[:2], cond[:2], to=0.1)
    torch.testing.assert_close(x0_hat[:2], alone, rtol=1e-12, atol=1e-12)
    aim = law.process.aim(x, law.solve(x, t, 0.1, cond), t, 0.1)
    torch.testing.assert_close(x0_hat, aim, rtol=0, atol=1e-8)
    # Only the closed rows have a gradient.
    x.requires_grad_()
    assert not law(x, t, to=0.1).requires_grad
    grad = torch.autograd.grad(law(x, t, cond, to=0.1).sum(), x)[0]
    assert (grad[:2] != 0).any()
    assert (grad[2:] == 0).all()


@pytest.mark.parametrize(
    "law",
    [fs.exact.Gaussian(), fs.exact.two_modes(), fs.exact.Empirical([[0.0], [1.0]])],
    ids=["gaussian", "mixture", "points"],
)
def test_ends_are_checked(law):
    x = torch.zeros(3, 1, dtype=torch.float64)
    wrongs = {
        "to = 2 from t = 1: expected the time of a jump's end, 0 .. t": 2.0,
        "to = -0.5 from t = 1:": -0.5,
        "to = nan from t = 1:": math.nan,
        "to = 1.5 from t = 1:": torch.tensor([0.0, 1.5, 1.0]),
        "to of shape (2,): expected a number or one for each of the 3 rows": torch.zeros(2),
    }
    for message, to in wrongs.items():
        with pytest.raises(UserError) as error:
            law(x, 1.0, to=to)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="t = -1: expected times of the process"):
        law(x, -1.0, to=0.0)


def test_points_lead_to_points():
    """A finite set's flow map ends on its points."""
    data = normals(5, 2, seed=3)
    law = fs.exact.Empirical(data)
    end = law(law.process.prior(normals(2, 2)), 80.0, to=0.0)
    assert torch.cdist(end, data).amin(1).max() < 1e-8


def walk(process, law, times, error, renoise: bool) -> float:
    """The samples' mean by the sampler's own steps: of linear maps it is where noise 0 leads."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    for t, r in pairwise(reversed(times)):
        a = 0.0 if renoise else r
        x = process.jump(x, law(x, t, to=a), t, a) + error(t, a)
        if renoise and r:
            x = process.mix(x, torch.zeros_like(x), r)
    return x.item()


def test_more_steps_of_a_consistency_model_can_be_worse():
    """A velocity off by 1, std 0.5: renoise is best at 2 steps, jumps never get worse."""
    process, std = PROCESSES["linear"], 0.5
    law = fs.exact.Gaussian(0.0, std, process)

    def error(t: float, a: float) -> float:
        return t - a

    def ends(renoise: bool, counts) -> list[float]:
        grids = [[k / n for k in range(n + 1)] for n in counts]
        result = []
        for grid in grids:
            bias = fs.exact.recursions.bias(process, grid, std, error, renoise=renoise)
            if len(grid) < 10:
                assert bias == pytest.approx(walk(process, law, grid, error, renoise), abs=1e-13)
            result.append(bias)
        return result

    counts = [1, 2, 3, 4, 8, 16, 64, 512, 2048]
    renoise, jumps = ends(True, counts), ends(False, counts)
    assert renoise[:4] == pytest.approx([1.0, 0.9472, 0.9762, 1.0063], abs=1e-4)
    assert all(later > one for one, later in pairwise(renoise[1:]))
    # 0.59 N^(1/3) = (6 std^2)^(2/3) Gamma(2/3) / 3 N^(1/3), less a constant.
    slope = (renoise[-1] - renoise[-2]) / (2048 ** (1 / 3) - 512 ** (1 / 3))
    assert slope == pytest.approx((6 * std**2) ** (2 / 3) * math.gamma(2 / 3) / 3, rel=5e-2)
    assert all(later < one for one, later in pairwise(jumps))
    # The mean of J_(a -> 0) over the trajectory.
    a = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    mean = (std / torch.hypot((1 - a) * std, a)).mean().item()
    assert jumps[-1] == pytest.approx(mean, abs=2e-4)  # 0.25 / N


def test_without_error_no_number_of_steps_has_a_bias_and_with_a_constant_one_jumps_add_up():
    def ends(renoise: bool, size: float) -> list[float]:
        grids = [[k / n for k in range(n + 1)] for n in (1, 2, 8)]
        options = {"error": lambda t, a: size, "renoise": renoise}
        process = PROCESSES["linear"]
        return [fs.exact.recursions.bias(process, grid, 0.5, **options) for grid in grids]

    assert ends(True, 0.0) == ends(False, 0.0) == [0.0] * 3
    for one, other in zip(ends(True, 1.0)[1:], ends(False, 1.0)[1:], strict=True):
        assert 1.0 < one < other
