"""Exact truths obey the laws that define them: Tweedie, total variance, the flow's ODE."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import chi2, norm

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.process import expand

PROCESSES = {
    "edm": fs.process.edm(),
    "trig": fs.process.trig(sigma_data=0.5),  # alpha(t_max) = 0
    "linear": fs.process.linear(),
    "clipped cosine": fs.process.cosine(),  # sigma(0) > 0
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
WEIGHTS = [0.5, 0.3, 0.2]
# Without width along two axes.
FLAT = torch.diag(torch.tensor([1.0, 0.0, 0.5, 0.0])).expand(3, 4, 4)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "test exact"), dtype=torch.float64)


def covariances(k: int, d: int) -> torch.Tensor:
    root = normals(k, d, d, seed=5) * torch.linspace(0.1, 0.6, d, dtype=torch.float64)
    return root @ root.mT


def truths(process: fs.process.Process) -> dict:
    means, labels = normals(3, 2, 2, seed=4), [0, 1, 0]
    widths = 0.1 + normals(3, 2, 2, seed=6).abs()
    return {
        "gaussian": fs.exact.Gaussian(mean=means[0], std=widths[0], process=process),
        "full": fs.exact.Mixture(
            weights=WEIGHTS, means=means, covs=covariances(3, 4), process=process, labels=labels
        ),
        "round": fs.exact.Mixture(
            weights=WEIGHTS, means=means, std=[0.2, 0.3, 0.4], process=process, labels=labels
        ),
        "diagonal": fs.exact.Mixture(
            weights=WEIGHTS, means=means, std=widths, process=process, labels=labels
        ),
        "points": fs.exact.Empirical(
            normals(7, 2, 2, seed=7), process=process, labels=[0, 0, 1, 1, 0, 1, 1]
        ),
        "flat": fs.exact.Mixture(
            weights=[1, 0, 2], means=normals(3, 4), covs=FLAT, process=process
        ),
    }


KINDS = ["gaussian", "full", "round", "diagonal", "points"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def on(*names: str) -> pytest.MarkDecorator:
    """On these processes; the others differ in alpha and sigma alone."""
    return pytest.mark.parametrize("process", [PROCESSES[name] for name in names], ids=names)


# Each kind on two processes, each process with two kinds or more.
_NAMES = list(PROCESSES)
PAIRS = [
    (kind, name)
    for place, kind in enumerate([*KINDS, "flat"])
    for name in (_NAMES[place % 4], _NAMES[(place + 1 + place // 4) % 4])
]


def every_pair(*kinds: str) -> pytest.MarkDecorator:
    pairs = [(kind, name) for kind, name in PAIRS if kind in kinds]
    values = [(kind, PROCESSES[name]) for kind, name in pairs]
    return pytest.mark.parametrize(("kind", "process"), values, ids=map("-".join, pairs))


def add_noise(truth, rows: int = 6, seed: int = 0):
    """Points of the noised law and their times, from near the data to the prior."""
    process = truth.process
    shares = torch.linspace(0.1, 1.0, rows, dtype=torch.float64)
    low = process.time_at(0.01).item()
    t = low * (process.t_max / low) ** shares
    return (
        process.mix(truth.sample(rows, seed).double(), normals(rows, *truth.shape, seed=seed), t),
        t,
    )


@every_pair(*KINDS)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**31), label=st.integers(-1, 1))
def test_tweedie(process, kind, seed, label):
    """alpha D = x + sigma^2 grad log p, of the class's law where a label is given."""
    truth = truths(process)[kind]
    cond = torch.full((6,), label if truth.classes else -1)
    x, t = add_noise(truth, seed=seed)
    score = torch.func.grad(lambda x: truth.log_density(x, t, cond).sum())(x)
    target = x + expand(process.sigma(t) ** 2, x) * score
    scale = max(1.0, x.abs().max().item())
    result = expand(process.alpha(t), x) * truth(x, t, cond)
    torch.testing.assert_close(result, target, rtol=1e-10, atol=1e-12 * scale)


@every_pair(*KINDS)
def test_the_posterior_variance_is_the_slope_of_the_denoiser(process, kind):
    """tr Cov[x0 | x] = sigma^2 / alpha tr dD/dx, with and without labels."""
    truth = truths(process)[kind]
    x, t = add_noise(truth)
    x, t = x[:-1], t[:-1]  # at the last alpha may be 0
    for label in (-1, 0, 1) if truth.classes else (-1,):
        cond = torch.full((1,), label)
        result = truth.posterior_variance(x, t, cond.expand(len(x)))
        for i in range(len(x)):
            jacobian = torch.func.jacfwd(
                lambda y, i=i, cond=cond: truth(y[None], t[i : i + 1], cond)[0]
            )(x[i])
            trace = (
                jacobian.reshape(x[i].numel(), -1).trace()
                * process.sigma(t[i]) ** 2
                / process.alpha(t[i])
            )
            torch.testing.assert_close(result[i], trace / x[i].numel(), rtol=1e-7, atol=1e-11)


@every_kind
def test_posterior_moments_are_those_of_weighted_draws(kind):
    """Bayes by brute force: draws of the prior by likelihood, and the law of total variance."""
    truth = truths(fs.process.edm())[kind]
    n, sigma = 40_000, 1.0
    x0 = truth.sample(n, seed=3).double().flatten(1)
    x = truth.sample(1, seed=9).double() + 0.5
    w = (-(x.flatten(1) - x0).square().sum(1) / (2 * sigma**2)).softmax(0)
    mean = w @ x0
    error = (w.square() @ (x0 - mean).square()).sqrt()
    assert ((truth(x, sigma).flatten() - mean).abs() < 4.5 * error).all()
    variance = (w @ (x0 - mean).square()).mean().item()
    assert truth.posterior_variance(x, sigma).item() == pytest.approx(variance, rel=0.05)
    noisy = x0 + sigma * normals(n, 4, seed=8)
    noisy = noisy.reshape(n, *truth.shape)
    total = (
        truth.posterior_variance(noisy, sigma).mean() + truth(noisy, sigma).flatten(1).var(0).mean()
    )
    assert total.item() == pytest.approx(x0.var(0).mean().item(), rel=0.02)


@on("trig", "clipped cosine")
def test_one_component_is_the_gaussian(process):
    """Round, diagonal and full mixtures of one component are the closed forms, flow included."""
    mean, std = normals(1, 2, 3, seed=1), 0.1 + normals(1, 2, 3, seed=2).abs()
    even = fs.exact.Gaussian(mean=mean[0], std=0.3, process=process)
    uneven = fs.exact.Gaussian(mean=mean[0], std=std[0], process=process)
    covs = std.square().flatten().diag()[None]
    for truth, mixture in (
        (even, fs.exact.Mixture(weights=[2.0], means=mean, std=0.3, process=process)),
        (uneven, fs.exact.Mixture(weights=[2.0], means=mean, std=std, process=process)),
        (uneven, fs.exact.Mixture(weights=[2.0], means=mean, covs=covs, process=process)),
    ):
        x, t = add_noise(truth)
        for name in ("__call__", "posterior_variance", "log_density"):
            torch.testing.assert_close(
                getattr(mixture, name)(x, t), getattr(truth, name)(x, t), rtol=1e-11, atol=1e-11
            )
        for s in (0.0, process.t_max):
            target = truth.solve(x, t, s)
            apart = (mixture.solve(x, t, s) - target).square().mean().sqrt()
            assert apart < 1e-9 * target.square().mean().sqrt()


def cdf(truth, means, stds, x, t):
    a, s = (c.item() for c in (truth.process.alpha(t), truth.process.sigma(t)))
    return sum(
        w * norm.cdf((x - a * m) / math.hypot(a * h, s))
        for w, m, h in zip(WEIGHTS, means, stds, strict=True)
    )


@on("trig", "clipped cosine")
def test_in_one_dimension_the_flow_carries_quantiles(process):
    """The flow is monotone and keeps the marginals: CDF_s(x_s) = CDF_t(x_t), down and up."""
    means, stds = [-1.0, 0.4, 1.5], [0.2, 0.1, 0.3]
    truth = fs.exact.Mixture(weights=WEIGHTS, means=[[m] for m in means], std=stds, process=process)
    levels = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    t, edge = process.t_max, process.sigma(process.t_max).item()
    low, high = torch.full_like(levels, -20 - 5 * edge), torch.full_like(levels, 20 + 5 * edge)
    for _ in range(80):
        middle = (low + high) / 2
        below = torch.from_numpy(cdf(truth, means, stds, middle.numpy(), t)) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    x = low[:, None]
    for s in (0.0, 0.9 * t):
        x_s = truth.solve(x, t, s)
        torch.testing.assert_close(
            torch.from_numpy(cdf(truth, means, stds, x_s[:, 0].numpy(), s)),
            levels,
            rtol=0,
            atol=2e-9,
        )
        back = truth.solve(x_s, s, t)
        assert (back - x).square().mean().sqrt() < 1e-8 * x.square().mean().sqrt()


@every_pair("full", "points")
def test_the_flow_is_that_of_another_integrator(process, kind):
    """scipy's DOP853 on the process's own velocity and time, between times inside the range."""
    truth = truths(process)[kind]
    t, s = 0.95 * process.t_max, 0.3
    cond = torch.ones(1, dtype=torch.int64)
    x = process.mix(truth.sample(1).double(), normals(1, *truth.shape), t)

    def velocity(now, flat):
        y = torch.from_numpy(flat).reshape(x.shape)
        return process.velocity(y, truth(y, now, cond), now).flatten().numpy()

    result = solve_ivp(
        velocity, (t, s), x.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    target = torch.from_numpy(result.copy()).reshape(x.shape)
    assert (
        truth.solve(x, t, s, cond) - target
    ).square().mean().sqrt() < 1e-9 * target.square().mean().sqrt()


@on("edm", "trig")
def test_a_product_of_mixtures_flows_factor_by_factor(process):
    one = fs.exact.Mixture(weights=[1, 2], means=[[-0.5], [0.7]], std=[0.1, 0.2], process=process)
    two = fs.exact.Mixture(weights=[3, 1], means=[[0.1], [-0.9]], std=[0.3, 0.1], process=process)
    product = fs.exact.Mixture(
        weights=[3, 1, 6, 2],
        means=[[-0.5, 0.1], [-0.5, -0.9], [0.7, 0.1], [0.7, -0.9]],
        std=[[0.1, 0.3], [0.1, 0.1], [0.2, 0.3], [0.2, 0.1]],
        process=process,
    )
    x = process.prior(normals(8, 2))
    apart = torch.cat(
        [f.solve(x[:, i : i + 1], process.t_max, 0.0) for i, f in enumerate((one, two))], 1
    )
    torch.testing.assert_close(product.solve(x, process.t_max, 0.0), apart, rtol=0, atol=1e-9)


@every_pair(*KINDS)
def test_solutions_join_and_move_as_the_velocity_says(process, kind):
    truth = truths(process)[kind]
    x, t = add_noise(truth)
    u, s = 0.5 * t, 0.2 * t
    torch.testing.assert_close(truth.solve(x, t, t), x, rtol=0, atol=0)
    there = truth.solve(x, t, u)
    torch.testing.assert_close(truth.solve(there, u, s), truth.solve(x, t, s), rtol=1e-9, atol=1e-8)
    # Up, against the spread.
    torch.testing.assert_close(truth.solve(there, u, t), x, rtol=1e-8, atol=1e-7)
    h = 1e-4 * u
    rate = (truth.solve(there, u, u + h) - truth.solve(there, u, u - h)) / expand(2 * h, x)
    torch.testing.assert_close(
        rate, process.velocity(there, truth(there, u), u), rtol=1e-5, atol=1e-5
    )


def test_rows_are_solved_on_their_own():
    truth = truths(PROCESSES["edm"])["full"]
    x, t = add_noise(truth)
    s = torch.tensor([0.0, 3.0, 0.0, 80.0, 0.5, 0.0])
    cond = torch.tensor([-1, 0, 1, 0, -1, 1])
    together = truth.solve(x, t, s, cond)
    for i in (1, 3, 4):
        row = slice(i, i + 1)
        torch.testing.assert_close(
            truth.solve(x[row], t[i].item(), s[i].item(), cond[row]), together[row]
        )


@pytest.mark.long
@every_pair(*KINDS, "flat")
def test_ends_outliers_and_missing_widths_leave_everything_finite(process, kind):
    """Values and derivatives in x and t: at the data, at the prior, far outside, without width."""
    truth = truths(process)[kind]
    x = torch.cat([size * normals(2, *truth.shape) for size in (1.0, 1e6, 1e15, 0.0)]).float()
    for t in (0.0, process.t_min, process.t_max):
        rows, times = (
            x.clone().requires_grad_(),
            torch.full((8,), t, dtype=torch.float64, requires_grad=True),
        )
        for call in (truth, truth.posterior_variance):
            out = call(rows, times)
            gradients = torch.autograd.grad(out.sum(), (rows, times), materialize_grads=True)
            _, tangent = torch.func.jvp(
                call, (x, times.detach()), (torch.ones_like(x), torch.ones_like(times))
            )
            for value in (out, *gradients, tangent):
                assert torch.isfinite(value).all()
            assert out.dtype == torch.float32
        assert torch.isfinite(truth.log_density(x.double(), t)).all()
    rows = torch.cat([x[:4], truth.sample(2), x[:4]])
    t = torch.tensor([process.t_max] * 4 + [0.0] * 2 + [0.5] * 4)
    s = torch.tensor([0.0] * 4 + [process.t_max] * 2 + [0.0] * 4)
    assert torch.isfinite(truth.solve(rows, t, s)).all()
    assert not torch.isfinite(truth.solve(torch.full_like(x, torch.nan), 0.5, 0.0)).any()


@every_process
def test_a_denoiser_at_the_data_returns_it(process):
    for kind, truth in truths(process).items():
        if process.sigma(0.0) == 0 and kind not in ("points", "flat"):
            x = truth.sample(5).double()
            torch.testing.assert_close(truth(x, 0.0), x)
            torch.testing.assert_close(
                truth.posterior_variance(x, 0.0), torch.zeros(5, dtype=torch.float64)
            )


def test_points_at_vanishing_noise_are_the_nearest_ones():
    data = normals(50, 3)
    truth, x = fs.exact.Empirical(data), normals(50, 3, seed=1)
    nearest = data[torch.cdist(x, data).argmin(1)]
    for t in (0.0, 1e-5):
        torch.testing.assert_close(truth(x, t), nearest, rtol=0, atol=1e-12)
    assert (truth.solve(80 * x, 80.0, 0.0)[:, None] - data).norm(dim=2).min(1).values.max() < 1e-8
    wide = truth(x, 1e9)  # under endless noise, the mean
    torch.testing.assert_close(wide, data.mean(0).expand_as(wide), rtol=0, atol=1e-8)


@every_process
def test_a_single_point_is_known_at_once(process):
    point, z = normals(1, 2, 2), normals(4, 2, 2, seed=1)
    truth = fs.exact.Empirical(point, process)
    x, t, s = process.mix(point.expand(4, 2, 2), z, 0.6), 0.6, torch.tensor([0.0, 0.1, 0.6, 0.9])
    torch.testing.assert_close(truth(x, t), point.expand(4, 2, 2))
    assert truth.posterior_variance(x, t).abs().max() < 1e-15
    torch.testing.assert_close(
        truth.solve(x, t, s), process.mix(point.expand(4, 2, 2), z, s), rtol=1e-9, atol=1e-9
    )


def test_a_large_set_in_pieces_is_the_set_at_once(monkeypatch):
    truth, x = truths(fs.process.edm())["points"], normals(9, 2, 2)
    cond = torch.tensor([0, 1, -1] * 3)
    whole = [f(x, 0.7, cond) for f in (truth, truth.posterior_variance, truth.log_density)]
    monkeypatch.setattr("fewstep.exact.truth._NUMBERS_AT_ONCE", 20)
    for value, f in zip(whole, (truth, truth.posterior_variance, truth.log_density), strict=True):
        torch.testing.assert_close(f(x, 0.7, cond), value, rtol=1e-13, atol=1e-13)


def test_a_label_picks_its_components():
    """The mixture given a class is the mixture of that class; -1 is no label."""
    means, covs = normals(3, 4), covariances(3, 4)
    truth = fs.exact.Mixture(weights=WEIGHTS, means=means, covs=covs, labels=[0, 1, 0])
    own = fs.exact.Mixture(weights=[0.5, 0.2], means=means[[0, 2]], covs=covs[[0, 2]])
    x, zeros = normals(5, 4), torch.zeros(5, dtype=torch.int64)
    for name in ("__call__", "posterior_variance", "log_density"):
        torch.testing.assert_close(getattr(truth, name)(x, 0.4, zeros), getattr(own, name)(x, 0.4))
        torch.testing.assert_close(
            getattr(truth, name)(x, 0.4, zeros - 1), getattr(truth, name)(x, 0.4)
        )
    torch.testing.assert_close(truth.solve(x, 0.4, 0.0, zeros), own.solve(x, 0.4, 0.0))


@every_kind
def test_samples_have_the_moments_and_do_not_depend_on_their_number(kind):
    truth, n = truths(fs.process.edm())[kind], 50_000
    rows = truth.draw(n, seed=1)
    x0, cond = rows.x0, rows.cond
    assert x0.dtype == torch.float32
    assert torch.equal(truth.sample(137, seed=1), x0[:137])
    assert not torch.equal(truth.sample(137, seed=2), x0[:137])
    x0 = x0.double()
    # At endless noise the denoiser is the mean.
    mean = truth(torch.zeros(1, *truth.shape, dtype=torch.float64), 1e9)[0]
    assert ((x0.mean(0) - mean).abs() < 4.5 * x0.std(0) / n**0.5).all()
    total = truth.posterior_variance(torch.zeros(1, *truth.shape, dtype=torch.float64), 1e9).item()
    assert (x0 - mean).square().mean().item() == pytest.approx(total, rel=0.02)
    if truth.classes:
        share = cond.double().mean().item()
        assert share == pytest.approx(4 / 7 if kind == "points" else 0.3, abs=4.5 * 0.5 / n**0.5)
        target = truth(x0[:1] * 0, 1e9, torch.ones(1, dtype=torch.int64))[0]
        own = x0[cond == 1]
        assert ((own.mean(0) - target).abs() <= 4.5 * own.std(0) / len(own) ** 0.5 + 1e-6).all()


def test_correlations_of_samples_are_those_of_the_covariance():
    covs, n = covariances(1, 3), 50_000
    x0 = fs.exact.Mixture(weights=[1], means=normals(1, 3), covs=covs).sample(n).double()
    spread = (covs[0].diag()[:, None] * covs[0].diag() + covs[0] ** 2).sqrt()
    assert ((torch.cov(x0.T) - covs[0]).abs() < 4.5 * spread / n**0.5).all()


@pytest.mark.parametrize("name", ["ring8", "grid25"])
def test_named_toys_are_the_laws_of_their_data_sets(name):
    """Each mode has its share, and squared distances to the modes are chi squared."""
    truth, x0 = fs.exact.named(name), fs.data.load(name).train.x0.double()
    modes = {"ring8": 8, "grid25": 25}[name]
    std = {"ring8": 0.04, "grid25": 0.03}[name]
    assert repr(truth).startswith(f"Mixture({modes} components of shape (2,)")
    nearest = truth(x0, 0.0 + 1e-6) - x0
    assert nearest.abs().max() < 1e-4  # almost clean: x itself
    centre = truth(truth.sample(1), 1e9)
    torch.testing.assert_close(
        x0.mean(0)[None].float(), centre, rtol=0, atol=4.5 * 0.6 / len(x0) ** 0.5
    )
    ours = truth.sample(20_000).double()
    floor = -math.log(modes) - math.log(2 * math.pi * std**2)
    for sample in (x0, ours):
        # |x - mode|^2 / std^2, for modes far apart.
        depth = 2 * (floor - truth.log_density(sample, 0.0))
        quantiles = torch.quantile(depth, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        for q, value in zip((0.1, 0.5, 0.9), quantiles.tolist(), strict=True):
            assert chi2.cdf(value, 2) == pytest.approx(q, abs=4.5 * 0.5 / len(sample) ** 0.5)
    near = fs.metrics.energy(x0[:2000], ours[:2000])
    assert near < 3 * abs(fs.metrics.energy(ours[2000:4000], ours[4000:6000])) + 2e-3


def test_the_digits_mixture_has_the_moments_of_the_training_digits():
    truth, train = fs.exact.digits_mixture(), fs.data.digits().train
    assert truth.classes == 10
    assert truth.shape == (1, 8, 8)
    anywhere = torch.zeros(10, 1, 8, 8, dtype=torch.float64)
    each = torch.arange(10)
    means, variances = truth(anywhere, 1e9, each), truth.posterior_variance(anywhere, 1e9, each)
    for label in range(10):
        x0 = train.x0[train.cond == label].double()
        torch.testing.assert_close(means[label], x0.mean(0), rtol=0, atol=1e-7)
        assert variances[label].item() == pytest.approx(x0.var(0).mean().item() + 1 / 768, rel=1e-6)
    torch.testing.assert_close(
        truth(anywhere[:1], 1e9)[0], train.x0.double().mean(0), rtol=0, atol=1e-7
    )
    held_out = fs.data.digits().validation
    best = torch.stack(
        [truth.log_density(held_out.x0, 0.1, torch.full((300,), k)) for k in range(10)], 1
    ).argmax(1)
    assert (best == held_out.cond).double().mean() > 0.9


def test_the_flow_of_the_digits_is_solved_to_its_tolerance(monkeypatch):
    """From t = 80 to the data: a hundred times finer steps change less than 1e-9 of the rms."""
    truth = fs.exact.digits_mixture()
    x = truth.process.prior(normals(2, 1, 8, 8))
    coarse = truth.solve(x, 80.0, 0.0)
    monkeypatch.setattr("fewstep.exact.truth._TOLERANCE", 1e-13)
    fine = truth.solve(x, 80.0, 0.0)
    assert (fine - coarse).square().mean().sqrt() < 1e-9 * fine.square().mean().sqrt()


def test_a_far_away_and_tiny_law_is_the_same_law_in_other_units():
    means, covs, x = normals(2, 3), covariances(2, 3), normals(5, 3, seed=2)
    near = fs.exact.Mixture(weights=[1, 2], means=means, covs=covs)
    far = fs.exact.Mixture(weights=[1, 2], means=1e-3 * means + 50, covs=1e-6 * covs)
    torch.testing.assert_close(
        (far(1e-3 * x + 50, 3e-4) - 50) * 1e3, near(x, 0.3), rtol=0, atol=1e-9
    )
    x_0 = (far.solve(1e-3 * x + 50, 3e-4, 0.0) - 50) * 1e3
    torch.testing.assert_close(x_0, near.solve(x, 0.3, 0.0), rtol=0, atol=1e-8)


MISTAKES = {
    "none below 0": {"weights": [1, -1], "means": [[0.0], [1.0]], "std": 1},
    "sum 0": {"weights": [0, 0], "means": [[0.0], [1.0]], "std": 1},
    "one for each of the 2 means": {"weights": [1], "means": [[0.0], [1.0]], "std": 1},
    "at least 2 axes": {"weights": [1], "means": [0.0], "std": 1},
    "expected one of the two": {"weights": [1], "means": [[0.0]]},
    "NaN or infinity": {"weights": [1], "means": [[math.nan]], "std": 1},
    "array of numbers": {"weights": [1], "means": "zero", "std": 1},
    "expected at least 0": {"weights": [1], "means": [[0.0]], "std": -1},
    "expected a number, (1,) or (1, 2)": {"weights": [1], "means": [[0.0, 0.0]], "std": [1, 1]},
    "expected (1, 2, 2)": {"weights": [1], "means": [[0.0, 0.0]], "covs": [[1, 1]]},
    "off symmetry by 1": {"weights": [1], "means": [[0.0, 0.0]], "covs": [[[1, 1], [0, 1]]]},
    "eigenvalue -1": {"weights": [1], "means": [[0.0, 0.0]], "covs": [[[1, 2], [2, 1]]]},
    "integers from 0": {"weights": [1], "means": [[0.0]], "std": 1, "labels": [0.5]},
    "leave a class out": {"weights": [1, 0], "means": [[0.0], [1.0]], "std": 1, "labels": [0, 1]},
}


@pytest.mark.parametrize(("message", "options"), MISTAKES.items(), ids=MISTAKES.keys())
def test_a_mixture_that_cannot_be_is_one_line(message, options):
    with pytest.raises(UserError) as error:
        fs.exact.Mixture(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_mistakes_are_one_line(monkeypatch):
    monkeypatch.setattr("fewstep.exact.solutions._ATTEMPTS", 10)
    mixture, gaussian, z = (
        truths(fs.process.edm())["full"],
        fs.exact.Gaussian(mean=torch.zeros(3)),
        torch.zeros,
    )
    for message, wrong in {
        "expected [B, 2, 2]": lambda: mixture(z(3, 4), 1.0),
        "expected [B, 3]": lambda: gaussian(z(3, 4), 1.0),
        "0..1, or -1 for none": lambda: mixture(z(1, 2, 2), 1.0, torch.tensor([2])),
        "has no classes": lambda: gaussian(z(1, 3), 1.0, torch.tensor([0])),
        "a label for each of the 1 rows": lambda: mixture(z(1, 2, 2), 1.0, torch.tensor([0, 0])),
        "at least 1 sample": lambda: mixture.sample(0),
        "did you mean 'ring8'": lambda: fs.exact.named("ring"),
        "std": lambda: fs.exact.Gaussian(std=-1.0),
        "do not fit": lambda: fs.exact.Gaussian(mean=z(3), std=z(2)),
        "need over 10 steps": lambda: mixture.solve(1e6 * normals(1, 2, 2), 0.0, 80.0),
        "data of shape": lambda: fs.exact.Empirical([1.0, 2.0]),
    }.items():
        with pytest.raises(UserError) as error:
            wrong()
        assert message in str(error.value)


def test_a_truth_prints_on_one_line():
    for truth in truths(fs.process.edm()).values():
        assert "\n" not in repr(truth)
        assert "Edm()" in repr(truth)
