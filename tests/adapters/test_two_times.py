"""Flow maps of others: the exact map of a Gaussian in each convention is the exact map here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core import sampling, solvers
from fewstep.core.conventions import Convention, convention
from fewstep.core.tangents import Drift

LINEAR = fs.process.linear()
# By label; the last is no label.
MEANS = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64)
STD = 0.4
LAW = fs.exact.Gaussian(0.3, STD, LINEAR)


def mean_velocity(x: Tensor, t: Tensor, r: Tensor, mean: Tensor = MEANS[0]) -> Tensor:
    """(x_t - x_r) / (t - r) of N(mean, STD^2) on linear without its 0 / 0, so also where r = t.

    x_r = (1 - r) mean + sqrt(v_r / v_t) (x_t - (1 - t) mean), v = (1 - t)^2 STD^2 + t^2.
    """
    t, r, mean = (part.to(x).reshape(-1, *[1] * (x.ndim - 1)) for part in (t, r, mean))
    v_t, v_r = ((1 - s).square() * STD**2 + s.square() for s in (t, r))
    slope = (STD**2 * (2 - r - t) - (r + t)) / (v_t * (1 + (v_r / v_t).sqrt()))
    return -mean - slope * (x - (1 - t) * mean)


class Plain(nn.Module):
    """net(x, t, r)."""

    def forward(self, x, t, r):
        return mean_velocity(x, t, r)


class Gap(nn.Module):
    """net(x, t, h) with h = t - r, and a second answer as improved MeanFlow has."""

    def forward(self, x, t, h):
        return mean_velocity(x, t, t - h), torch.zeros_like(x)


class Scaled(nn.Module):
    """Both times in 0 .. 1000."""

    def forward(self, x, t, r):
        return mean_velocity(x, t / 1000, r / 1000)


class ScaledGap(nn.Module):
    def forward(self, x, t, h):
        return mean_velocity(x, t / 1000, (t - h) / 1000)


class FromNoise(nn.Module):
    """s = 1 - t from noise to data, a step d >= 0, and the velocity in that direction."""

    def forward(self, x, s, d):
        return -mean_velocity(x, 1 - s, 1 - s - d)


class Sections(nn.Module):
    """Shortcut's: of d = 2^-k the number k."""

    def forward(self, x, s, k):
        return -mean_velocity(x, 1 - s, 1 - s - 2.0**-k)


class EndOfData(nn.Module):
    """The network answers with x0 in place of the velocity."""

    def forward(self, x, t, r):
        return x - t.to(x).reshape(-1, 1) * mean_velocity(x, t, r)


def sections(network, x, s, d, cond):
    return network(x, s, -d.log2())


CONVENTIONS = {
    "t, r": lambda: fs.adapt(Plain(), "flow", "linear", end="r"),
    "t, t - r": lambda: fs.adapt(Gap(), "flow", "linear", end="t - r"),
    "1000 t, 1000 r": lambda: fs.adapt(Scaled(), "flow", "linear", label="1000 t", end="r"),
    "1000 t, gap": lambda: fs.adapt(ScaledGap(), "flow", "linear", label="1000 t", end="t - r"),
    "from noise": lambda: fs.adapt(
        FromNoise(), "flow", "linear", label="1 - t", sign=-1, end="r - t"
    ),
    "sections": lambda: fs.adapt(
        Sections(), "flow", "linear", label="1 - t", sign=-1, end="r - t", call=sections
    ),
    "x0": lambda: fs.adapt(EndOfData(), "x0", "linear", end="r"),
    "a function": lambda: fs.adapt(mean_velocity, "flow", "linear", end="r"),
    "r first": lambda: fs.adapt(
        lambda r, t, x: mean_velocity(x, t, r),
        "flow",
        "linear",
        end="r",
        call=lambda network, x, t, r, cond: network(r, t, x),
    ),
}


def draw(rows: int = 16) -> Tensor:
    return torch.randn(rows, 3, generator=torch.manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_its_jumps_are_the_exact_ones(name, steps, dtype):
    own, z = CONVENTIONS[name](), draw().to(dtype)
    assert own.ends == 1
    grid = sampling.SAMPLERS["jumps"].times(LINEAR, steps)
    samples = sampling.sample(LINEAR, own, z, grid, solvers.jump)
    torch.testing.assert_close(samples, 0.3 + STD * z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CONVENTIONS if name != "sections"])
def test_its_diagonal_is_the_velocity_and_the_limit_of_short_jumps(name):
    own, x = CONVENTIONS[name](), draw(4)
    t = torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
    torch.testing.assert_close(own(x, t, to=t), LAW(x, t), rtol=1e-9, atol=1e-9)
    v = LINEAR.velocity(x, LAW(x, t), t)
    torch.testing.assert_close(Drift(own, LINEAR)(x, t, to=t), v, rtol=1e-9, atol=1e-9)
    near = t - 1e-7
    torch.testing.assert_close(own(x, t, to=near), LAW(x, t, to=near), rtol=1e-7, atol=1e-7)
    far = 0.3 * t
    torch.testing.assert_close(own(x, t, to=far), LAW(x, t, to=far), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(own(x, t), LAW(x, t, to=0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Plain, {"end": "t - r"}),
        (Gap, {"end": "r"}),
        (Gap, {"end": "r - t"}),
        (Scaled, {"end": "r"}),
    ],
)
def test_with_a_wrong_word_they_are_not(network, words):
    own, z = fs.adapt(network(), "flow", "linear", **words), draw()
    samples = sampling.sample(LINEAR, own, z, [1.0, 0.5, 0.0], solvers.jump)
    assert (samples - 0.3 - STD * z).abs().max() > 0.05


def test_labels_and_guidance():
    def network(x, t, r, y):
        return mean_velocity(x, t, r, MEANS[y])

    own = fs.adapt(network, "flow", "linear", end="r", labels="index", null=2)
    label, z = torch.tensor([0, 1, -1]), draw(3)
    samples = sampling.sample(LINEAR, own, z, [1.0, 0.5, 0.0], solvers.jump, label)
    torch.testing.assert_close(samples, MEANS[:, None] + STD * z)
    strong, to = fs.guide(own, 1.0), 0.2
    plain, free = own(z, 0.7, label, to=to), own(z, 0.7, torch.full_like(label, -1), to=to)
    torch.testing.assert_close(strong(z, 0.7, label, to), 2 * plain - free)
    assert strong.ends == 1


@pytest.mark.parametrize("process", ["edm", "trig"])
def test_on_other_processes(process):
    """The mean velocity of edm; on trig x_r = cos(t - r) x_t - sin(t - r) F."""
    on = fs.process.edm() if process == "edm" else fs.process.trig()
    law = fs.exact.Gaussian(0.3, STD, on)

    def network(x, t, r):
        x_r = law.solve(x, t, r)
        t, r = t[:, None], r[:, None]
        if process == "edm":
            return (x - x_r) / (t - r)
        return ((t - r).cos() * x - x_r) / (t - r).sin()

    own, x = fs.adapt(network, "flow", on, label="t", end="r"), draw(2)
    t, r = (torch.tensor(pair, dtype=torch.float64) for pair in ([0.3, 1.2], [0.1, 0.5]))
    torch.testing.assert_close(own(x, t, to=r), law(x, t, to=r))


def test_data_in_another_range():
    """A map of u = .5 x0 + .5: its jumps are those of the data about [-1, 1]."""
    inner = fs.exact.Gaussian(0.65, STD / 2, LINEAR)

    def network(x, t, r):
        return (x - inner.solve(x, t, r)) / (t - r)[:, None]

    own, x = fs.adapt(network, "flow", "linear", range=(0, 1), end="r"), draw(2)
    assert own.ends == 1
    t, r = torch.tensor([0.5, 0.8]).double(), torch.tensor([0.2, 0.0]).double()
    torch.testing.assert_close(own(x, t, to=r), LAW(x, t, to=r))


class OneTime(nn.Module):
    def forward(self, x, t):
        return x


@pytest.mark.parametrize(
    ("network", "words", "message"),
    [
        (OneTime(), {"end": "r"}, r"end = 'r': this network takes \(x, t\): expected one of two"),
        (Plain(), {"end": "s"}, "end .*expected one of"),
        (Plain(), {"end": "t-r"}, "did you mean 't - r'"),
        (Plain(), {}, r"takes \(x, t, r\), one input more: .* end = r, t - r, r - t"),
        (Plain(), {"end": "r", "labels": "index"}, r"called as network\(x, t, end, y\)"),
        (
            Plain(),
            {"end": "r", "label": "log-SNR"},
            "label = 'log-SNR': expected one that is finite",
        ),
        (Plain(), {"end": "r", "label": "ln(level) / 4"}, "label = 't' or another"),
        (Plain(), {"end": "t - r", "prediction": "edm", "process": "edm"}, "label = \"edm's own"),
        (Plain(), {"end": "r", "prediction": "ve", "process": "edm"}, "label = \"ve's own"),
        (Plain(), {"end": "r", "process": "cosine"}, "prediction = 'flow': expected x0, eps or v"),
    ],
)
def test_a_wrong_word_is_one_line(network, words, message):
    with pytest.raises(UserError, match=message) as error:
        fs.adapt(network, **{"prediction": "flow", "process": "linear", **words})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", [None, "t", "1000 t", "999 t", "1 - t"])
@pytest.mark.parametrize("process", ["linear", "edm", "trig", "cosine", "ddpm"])
def test_labels_that_are_finite_at_the_data_are_taken(process, label):
    assert fs.adapt(Plain(), "x0", process, label=label, end="r").ends == 1


def test_a_logarithm_that_ends_at_a_level_above_0_is_finite():
    assert fs.adapt(Plain(), "x0", "cosine", label="log-SNR", end="r").ends == 1
    assert fs.adapt(Plain(), "vp", "edm", end="r").ends == 1


def test_without_end_a_convention_has_none():
    own = fs.adapt(OneTime(), convention("flow", "linear", ends=1))
    assert (own.ends, own.scaling.ends) == (0, 0)
    own = fs.adapt(Plain(), convention("flow", "linear"), end="r")
    assert (own.ends, own.scaling.ends) == (1, 1)


def test_its_convention_goes_through_json():
    own = convention("flow", "linear", ends=1)
    assert Convention.from_json(own.to_json()) == own
    assert "ends" not in convention("flow", "linear").to_json()
    assert "told where it leads" in str(own)
    with pytest.raises(UserError, match="convention = "):
        Convention.from_json({**own.to_json(), "ends": 3})
