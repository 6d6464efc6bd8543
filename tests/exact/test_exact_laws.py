"""Low-rank laws, draws of x0 given x_t, expectations, errors of solutions, and named laws."""

from __future__ import annotations

import sys

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.core.process import expand
from fewstep.exact import named
from fewstep.exact.named import NAMED
from tests.support.rows import long_if

PROCESSES = {
    "edm": fs.process.edm(),
    "linear": fs.process.linear(),
    "trig": fs.process.trig(sigma_data=0.5),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
WEIGHTS, LABELS = [0.5, 0.3, 0.2], [0, 1, 0]


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "test laws"), dtype=torch.float64)


def pair(process=None, std=(0.1, 0.2, 0.15)):
    """A mixture by its factors, and the same one by its covariances."""
    std, means, factors = (
        torch.tensor(std).double(),
        normals(3, 2, 3),
        0.4 * normals(3, 6, 2, seed=1),
    )
    covs = factors @ factors.mT + std.square()[..., None, None] * torch.eye(6)
    options = {"weights": WEIGHTS, "means": means, "process": process, "labels": LABELS}
    return fs.exact.Mixture(factors=factors, std=std, **options), fs.exact.Mixture(
        covs=covs.expand(3, 6, 6), **options
    )


@pytest.mark.parametrize(
    ("process", "std"),
    [(PROCESSES["edm"], 0.1), (PROCESSES["linear"], (0.1, 0.2, 0.15)), (PROCESSES["trig"], 0.1)],
    ids=["even-edm", "uneven-linear", "even-trig"],
)
def test_a_low_rank_mixture_is_the_one_of_its_covariances(process, std):
    low, full = pair(process, std)
    t = torch.tensor([0.0, 0.02, 0.3, 0.7, 1.0, 1.0]).double() * process.t_max
    x = process.mix(normals(6, 2, 3, seed=2), normals(6, 2, 3, seed=3), t)
    for cond in (None, torch.tensor([0, 1, -1, 0, 1, -1])):
        for name in ("__call__", "posterior_variance", "log_density"):
            target = getattr(full, name)(x, t, cond)
            torch.testing.assert_close(
                getattr(low, name)(x, t, cond), target, rtol=1e-11, atol=1e-11
            )
    torch.testing.assert_close(
        low.solve(x, t, 0.0, cond), full.solve(x, t, 0.0, cond), rtol=0, atol=1e-9
    )
    assert low.variance == pytest.approx(full.variance, rel=1e-12)
    torch.testing.assert_close(
        low.components.axes.sort(1).values,
        full.components.axes.sort(1).values,
        rtol=1e-9,
        atol=1e-12,
    )


def test_draws_of_a_low_rank_mixture_have_its_covariance():
    low, _ = pair()
    n = 60_000
    rows = low.draw(n)
    x0, cond = rows.x0, rows.cond
    own = x0[cond == 1].double().flatten(1)
    factors = 0.4 * normals(3, 6, 2, seed=1)[1]
    cov = factors @ factors.T + 0.2**2 * torch.eye(6)
    spread = (cov.diag()[:, None] * cov.diag() + cov**2).sqrt()
    assert ((torch.cov(own.T) - cov).abs() < 4.5 * spread / len(own) ** 0.5).all()


def test_far_out_a_low_rank_mixture_stays_finite():
    low, _ = pair()
    for size in (1e6, 1e15, 0.0):
        for t in (0.0, 0.002, 80.0):
            x = size * normals(3, 2, 3)
            for value in (low(x, t), low.posterior_variance(x, t), low.log_density(x, t)):
                assert torch.isfinite(value).all()


def laws(process):
    means = normals(3, 2, 2, seed=4)
    return {
        "gaussian": fs.exact.Gaussian(means[0], 0.1 + normals(2, 2, seed=6).abs(), process),
        "round": fs.exact.Mixture(
            weights=WEIGHTS, means=means, std=[0.2, 0.3, 0.4], process=process, labels=LABELS
        ),
        "diagonal": fs.exact.Mixture(
            weights=WEIGHTS, means=means, std=normals(3, 2, 2).abs(), process=process
        ),
        "points": fs.exact.Empirical(
            normals(7, 2, 2, seed=7), process, labels=[0, 0, 1, 1, 0, 1, 1]
        ),
        "low": pair(process)[0],
        "full": pair(process)[1],
    }


every_kind = pytest.mark.parametrize(
    "kind", ["gaussian", "round", "diagonal", "points", "low", "full"]
)


@every_process
@every_kind
def test_draws_given_a_point_have_its_posteriors_moments(process, kind):
    """Mean and total variance are the closed forms, with labels and without."""
    law, n = laws(process)[kind], 4000
    t = process.time_at(torch.tensor([0.5, 1.0, 3.0]))  # where no component is rare
    x = process.mix(law.sample(3).double(), normals(3, *law.shape, seed=9), t)
    for cond in (None, torch.ones(3, dtype=torch.int64)) if law.classes else (None,):
        x0 = law.posterior(x, t, n, seed=5, cond=cond)
        away = x0.mean(0) - law(x, t, cond)
        assert (away.abs() <= 4.5 * x0.std(0) / n**0.5 + 1e-9).all()
        square = (x0 - law(x, t, cond)).square().flatten(2).mean(2)  # [n, B]
        target = law.posterior_variance(x, t, cond)
        assert ((square.mean(0) - target).abs() <= 4.5 * square.std(0) / n**0.5 + 1e-9).all()


@pytest.mark.parametrize("kind", ["low", "full"])
def test_draws_given_a_point_vary_along_the_slope_of_the_denoiser(kind):
    """Cov[x0 | x] = sigma^2 dD/dx on edm, entry by entry."""
    law, n, t = laws(PROCESSES["edm"])[kind], 20_000, 0.3
    x = normals(1, 2, 3, seed=8) / 2
    x0 = law.posterior(x, t, n, seed=2).flatten(1)
    cov = t**2 * torch.func.jacfwd(lambda y: law(y[None], t)[0].flatten())(x[0]).reshape(6, 6)
    deviation = x0 - x0.mean(0)
    products = deviation[:, :, None] * deviation[:, None]
    assert ((products.mean(0) - cov).abs() < 4.5 * products.std(0) / n**0.5).all()


def test_draws_do_not_depend_on_their_number_nor_on_other_rows():
    for law in (fs.exact.Gaussian(torch.zeros(2)), fs.exact.ring8()):
        x = normals(40, 2)
        whole = law.posterior(x, 0.7, 5, seed=3)
        torch.testing.assert_close(
            law.posterior(x[:7], 0.7, 2, seed=3), whole[:2, :7], rtol=1e-12, atol=1e-12
        )
        assert not torch.equal(law.posterior(x, 0.7, 5, seed=4), whole)
        assert law.posterior(x.float(), 0.7, 1).dtype == torch.float32


@every_process
@every_kind
def test_the_point_below_is_expected_where_the_denoiser_says(process, kind):
    """E[x_r | x_t] = jump(x_t, D), its variance (alpha_r - sigma_r alpha_t / sigma_t)^2 Cov."""
    law = laws(process)[kind]
    t, r = (process.time_at(torch.tensor(level)) for level in ([0.8, 1.5, 3.0], [0.2, 0.9, 5.0]))
    x = process.mix(law.sample(3).double(), normals(3, *law.shape, seed=9), t)
    result = fs.exact.expectation(lambda x_r: x_r, law, x, t, r, n=8000)
    target = process.jump(x, law(x, t), t, r)
    assert ((result.mean - target).abs() <= 4.5 * result.error + 1e-9).all()
    make = process.alpha(r) - process.sigma(r) * process.alpha(t) / process.sigma(t)
    spread = (result.error.square() * 8000).flatten(1).mean(1)
    torch.testing.assert_close(
        spread, make.square() * law.posterior_variance(x, t), rtol=0.15, atol=1e-9
    )
    there = expand(process.alpha(r), x) * law.posterior(x, t, 1)[0]
    assert there.shape == x.shape


def test_an_expectation_is_the_oracles_integral():
    """Of a curved function on the line, against quadrature over a fine grid of x0."""
    law, x, t, r = named("two-modes"), torch.tensor([[0.02], [0.3]]).double(), 0.5, 0.3
    result = fs.exact.expectation(lambda y: y.cos().sum(1), law, x, t, r, n=20_000)
    x0 = torch.linspace(-1.5, 1.5, 30_001, dtype=torch.float64)[:, None]
    logs = law.log_density(x0, 0.0) - (x[:, 0][:, None] - x0[:, 0]).square() / (2 * t**2)
    x_r = x0[:, 0] + r * (x - x0[:, 0]) / t
    target = (logs.softmax(1) * x_r.cos()).sum(1)
    assert result.mean.shape == (2,)
    assert ((result.mean - target).abs() < 4.5 * result.error).all()


WALKS = [  # (law, process, up)
    ("two-modes", "edm", False),
    ("grid25", "linear", True),
    ("gaussian", "linear", False),
    ("rings64", "trig", False),
    ("digits-mixture", "edm", True),
]


def apart(law, x: torch.Tensor, other: torch.Tensor, s: float) -> torch.Tensor:
    """`[B]`, in units of the marginal's spread."""
    spread = (law.process.alpha(s) ** 2 * law.variance + law.process.sigma(s) ** 2).sqrt()
    return (x - other).flatten(1).square().mean(1).sqrt() / spread


@pytest.mark.parametrize(
    ("name", "process", "up"),
    [pytest.param(*walk, marks=long_if(number % 2 == 1)) for number, walk in enumerate(WALKS)],
)
def test_a_librarys_solver_agrees_within_the_stated_error(name, process, up):
    """And both to 1e-8, from the prior to the data and back. The library's error is some 1e-12."""
    law = named(name, PROCESSES[process])
    top, x0 = law.process.t_max, law.sample(1, 3).double()
    t, s = (0.0, top) if up else (top, 0.0)
    x = x0 if up else law.process.mix(x0, normals(1, *law.shape), top)
    result = law.solution(x, t, s)
    assert torch.equal(result.x, law.solve(x, t, s))
    away = apart(law, result.x, fs.exact.library(law, x, t, s, tolerance=1e-13), s)
    assert (away <= result.error).all()
    assert (result.error < 1e-8).all()


def test_a_loose_solution_says_that_it_is_one(monkeypatch):
    """With a tolerance a million times larger the error is still just above the true one."""
    law = fs.exact.grid25()
    x = law.process.prior(normals(32, 2))
    fine = law.solve(x, 80.0, 0.0)
    monkeypatch.setattr("fewstep.exact.truth._TOLERANCE", 1e-5)
    loose = law.solution(x, 80.0, 0.0)
    away = apart(law, loose.x, fine, 0.0)
    assert away.max() > 1e-8
    assert (away <= loose.error).all()
    assert (loose.error < 10 * away + 1e-9).all()


def test_1024_numbers_in_ten_classes():
    """The law of its docstring: patterns without a mean, widths, floor; draws agree with it."""
    law = named("smooth32")
    assert (law.shape, law.classes) == ((1, 32, 32), 10)
    axes = (law.components.axes.sort(1, descending=True).values.sqrt() * law.scale)[0]
    widths = torch.linspace(0.18, 0.03, 12, dtype=torch.float64)
    torch.testing.assert_close(
        axes[:12].square() - 0.02**2, 1024 * widths.square(), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(axes[12:], torch.full((1012,), 0.02).double())
    rows = law.draw(64)
    x0, cond = rows.x0, rows.cond
    x0 = x0.double()
    assert (law(x0 + 0.01 * normals(*x0.shape), 0.01) - x0).square().mean().sqrt() < 0.01
    class_of = torch.stack(
        [law.log_density(x0, 0.5, torch.full((64,), k)) for k in range(10)], 1
    ).argmax(1)
    assert (class_of == cond).all()
    # The constant pattern has the floor's noise alone.
    assert x0.flatten(1).mean(1).abs().max() < 0.01
    target = law.variance
    assert x0.square().mean().item() == pytest.approx(target, rel=0.2)


def test_names_of_the_ladder_are_data_and_teachers():
    for name in NAMED:
        law = named(name, PROCESSES["linear"])
        assert law.process == PROCESSES["linear"]
        assert law.sample(3).shape == (3, *law.shape)
        assert f"`{name}`" in sys.modules["fewstep.exact.named"].__doc__
    two = named("two-modes")
    assert two.variance == pytest.approx(0.25 + 0.05**2)
    rings = named("rings64").components
    distances = torch.pdist(rings.means * named("rings64").scale)
    assert distances.min().item() > 5 * 0.01
    assert len(rings.means) == 64


def test_mistakes_are_one_line(monkeypatch):
    ring, x, factors = fs.exact.ring8(), torch.zeros(2, 2), torch.ones(1, 2, 1)
    one = {"weights": [1], "means": [[0.0, 0.0]]}

    def without_scipy():
        monkeypatch.setitem(sys.modules, "scipy.integrate", None)
        fs.exact.library(ring, x, 1.0, 0.0)

    wrongs = {
        "at least 1 draw": lambda: ring.posterior(x, 1.0, 0),
        "2 or more draws": lambda: fs.exact.expectation(torch.cos, ring, x, 1.0, n=1),
        "one time for all rows": lambda: fs.exact.library(ring, x, torch.tensor([1.0, 2.0]), 0.0),
        "std of shape (1, 2) with factors": lambda: fs.exact.Mixture(
            **one, factors=factors, std=[[1, 1]]
        ),
        "above 0": lambda: fs.exact.Mixture(**one, factors=factors, std=0.0),
        "and a rank up to d": lambda: fs.exact.Mixture(**one, factors=torch.ones(1, 2, 3), std=1.0),
        "factors of shape (2,)": lambda: fs.exact.Mixture(**one, factors=[1.0, 2.0], std=1.0),
        "expected std= beside factors=": lambda: fs.exact.Mixture(
            **one, factors=factors, covs=torch.eye(2)[None]
        ),
        "needs SciPy": without_scipy,
    }
    for message, wrong in wrongs.items():
        with pytest.raises(UserError) as error:
            wrong()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "law", [fs.exact.two_modes(), fs.exact.named("gaussian")], ids=["mixture", "gaussian"]
)
@pytest.mark.parametrize(
    "ask", ["__call__", "posterior_variance", "log_density", "posterior", "solution", "solve"]
)
def test_times_that_are_not_on_the_process_are_refused(law, ask):
    more = {"posterior": (2,), "solution": (0.0,), "solve": (0.0,)}.get(ask, ())
    x_t = torch.zeros(3, 1, dtype=torch.float64)
    for t in (-1.0, float("nan"), float("inf"), torch.tensor([1.0, -0.5, 2.0])):
        with pytest.raises(
            UserError, match=r"t = (-1|nan|inf|-0\.5): expected times of the process"
        ):
            getattr(law, ask)(x_t, t, *more)
    with pytest.raises(UserError, match="expected a number or one for each of the 3 rows"):
        getattr(law, ask)(x_t, torch.ones(2), *more)


def test_times_beyond_the_end_of_a_process_are_refused():
    law = fs.exact.two_modes(fs.process.linear())
    x_t = torch.zeros(3, 1, dtype=torch.float64)
    assert bool(torch.isfinite(law(x_t, 1.0)).all())
    with pytest.raises(UserError, match=r"t = 1\.5: expected times of the process"):
        law(x_t, 1.5)


def test_no_rows_have_no_draws():
    for law in (fs.exact.two_modes(), fs.exact.named("gaussian")):
        assert law.posterior(torch.zeros(0, 1), 1.0, 4).shape == (4, 0, 1)


def test_labels_are_integers():
    law = fs.exact.Mixture(weights=[1, 1], means=[[-0.5], [0.5]], std=0.1, labels=[0, 1])
    with pytest.raises(UserError, match="expected labels, integers"):
        law(torch.zeros(2, 1), 1.0, torch.tensor([0.5, 1.0]))
