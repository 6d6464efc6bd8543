"""Networks in the shapes that others hand over, made of an exact denoiser, are that denoiser."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core.conventions import convention
from tests.support.exact_network import TRUTH, Exact

DDPM = convention("eps", "ddpm")
BETAS = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"}


class VP:
    """azula's VP schedule: alpha = exp(ln(alpha_min) t^2), t in 0 .. 1."""

    def __call__(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = torch.exp(torch.log(torch.tensor(1e-3)) * t**2)
        return alpha, torch.sqrt(1 - alpha**2 + 1e-3**2)


class Azula(nn.Module):
    schedule = VP()

    def forward(self, x_t, t, **kwargs):
        assert kwargs == {}
        alpha, sigma = self.schedule(t.double())
        level = (sigma / alpha).flatten()
        return SimpleNamespace(mean=TRUTH(x_t.double() / alpha, level).to(x_t))


class PhysicsNeMo(nn.Module):
    def forward(self, x, sigma, condition=None):
        assert condition is None
        return TRUTH(x.double(), sigma.double()).to(x)


class Score(nn.Module):
    """sbi's VP score estimator: mean_t_fn has an axis more, conditions come second."""

    t_max = 1.0

    def mean_t_fn(self, t):
        return torch.exp(-0.25 * t**2 * 9.9 - 0.05 * t)[:, None]

    def std_fn(self, t):
        return torch.sqrt(1 - self.mean_t_fn(t) ** 2 + 1e-6)

    def forward(self, input, condition, time):
        alpha, sigma = self.mean_t_fn(time.double()), self.std_fn(time.double())
        guess = TRUTH(input.double() / alpha, (sigma / alpha)[:, 0])
        return ((alpha * guess - input) / sigma**2).to(input)


class Flow(nn.Module):
    noise_scale = 1e-3

    def forward(self, input, condition, time):
        t = time.double()[:, None]
        alpha, sigma = 1 - t, t + self.noise_scale
        guess = TRUTH(input.double() / alpha, (sigma / alpha)[:, 0])
        return ((input - alpha * guess) / sigma - guess).to(input)


class Policy(nn.Module):
    """Chunks [B, horizon, dim] and whole timesteps, by keyword the observation."""

    def __init__(self):
        super().__init__()
        self.exact = Exact(DDPM)

    def forward(self, sample, timestep, global_cond=None):
        assert timestep.dtype == torch.long
        assert global_cond is None or len(global_cond) == len(sample)
        return self.exact(sample.flatten(1), timestep.double()).reshape(sample.shape)


class UNet(nn.Module):
    """diffusers' call and answer, with a variance in the second half."""

    def __init__(self):
        super().__init__()
        self.config = {"num_class_embeds": None}
        self.exact = Exact(DDPM)

    def forward(self, sample, timestep):
        eps = self.exact(sample, timestep)
        return SimpleNamespace(sample=torch.cat([eps, eps], 1))


INTERFACES = {
    "azula": lambda: fs.adapters.azula(Azula()),
    "physicsnemo": lambda: fs.adapters.physicsnemo(PhysicsNeMo()),
    "sbi's score": lambda: fs.adapters.sbi(Score()),
    "sbi's flow": lambda: fs.adapters.sbi(Flow()),
    "diffusers": lambda: fs.adapters.diffusers(UNet(), BETAS),
    "a plain function": lambda: fs.adapt(lambda x, t: Exact(DDPM)(x, t), "eps", "ddpm"),
    "betas": lambda: fs.adapt(
        Exact(convention("v", fs.process.discrete(betas=torch.linspace(1e-3, 0.05, 300)))),
        "v",
        fs.process.discrete(betas=torch.linspace(1e-3, 0.05, 300)),
    ),
}


@pytest.mark.parametrize("name", INTERFACES)
def test_it_is_the_exact_denoiser(name):
    denoiser = INTERFACES[name]()
    level = torch.tensor([0.05, 0.3, 1.0, 4.0], dtype=torch.float64)
    x0 = TRUTH.sample(4, seed=0).double()
    x = x0 + level[:, None] * torch.randn(4, 2, generator=torch.manual_seed(0)).double()
    torch.testing.assert_close(denoiser(x, level), TRUTH(x, level), rtol=3e-3, atol=3e-3)


def test_a_policys_chunks_of_actions():
    denoiser = fs.adapters.policy(Policy(), BETAS)
    # At the table's own levels: the network takes whole steps.
    level = fs.process.discrete(betas=torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).level(
        torch.tensor([100.0, 500.0])
    )
    x0 = TRUTH.sample(2, seed=0).double()
    x = x0 + level[:, None] * torch.randn(2, 2, generator=torch.manual_seed(0)).double()
    observation = torch.zeros(2, 7)
    for cond in (observation, {"features": observation}):
        guess = denoiser(x.reshape(2, 2, 1), level, cond).flatten(1)
        torch.testing.assert_close(guess, TRUTH(x, level), rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        ("index", {"null": 3}, [1, 3]),
        ("one-hot", {"classes": 3}, [[0.0, 1, 0], [0, 0, 0]]),
        ("cond", {}, [1, -1]),
        ("none", {}, None),
    ],
)
def test_labels_reach_a_network_in_its_own_way(labels, options, expected):
    seen: list[Any] = []

    def network(x, t, y=None):
        seen.append(y)
        return x

    denoiser = fs.adapt(network, "x0", labels=labels, **options)
    denoiser(torch.zeros(2, 2), 1.0, torch.tensor([1, -1]))
    assert (seen[0] if expected is None else seen[0].tolist()) == expected


def test_guidance_in_both_conventions_within_an_interval():
    def network(x, t, y):
        return y[:, None].expand_as(x).float()

    denoiser = fs.adapt(network, "x0", labels="index", null=5)
    x, label = torch.zeros(3, 2), torch.tensor([1, 2, 3])
    level = torch.tensor([0.1, 1.0, 10.0])
    by_scale = fs.guide(denoiser, 2.0)(x, level, label)
    assert by_scale[:, 0].tolist() == [1 + 2 * (1 - 5), 2 + 2 * (2 - 5), 3 + 2 * (3 - 5)]
    torch.testing.assert_close(fs.guide(denoiser, w=3.0)(x, level, label), by_scale)
    inside = fs.guide(denoiser, w=3.0, interval=(0.5, 5.0))(x, level, label)
    assert inside[:, 0].tolist() == [1, by_scale[1, 0].item(), 3]
    with pytest.raises(UserError, match="either scale or w"):
        fs.guide(denoiser, 1.0, w=2.0)


def test_rescaled_guidance_has_the_deviation_of_the_plain_guess():
    def network(x, t, y):
        return x * (1 + y[:, None].float())

    denoiser = fs.adapt(network, "x0", labels="index", null=0)
    x = torch.randn(2, 100, generator=torch.manual_seed(0))
    label = torch.tensor([1, 2])
    plain = denoiser(x, 1.0, label)
    guess = fs.guide(denoiser, 3.0, rescale=1.0)(x, 1.0, label)
    torch.testing.assert_close(guess.std(1), plain.std(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fs.adapt(3), "expected a callable"),
        (lambda: fs.adapt(Exact(DDPM), "epsilon"), "did you mean"),
        (lambda: fs.adapt(Exact(DDPM), "eps", "ddmp"), "did you mean 'ddpm'"),
        (lambda: fs.adapt(Exact(DDPM), "eps", "ddpm", label="t-1"), "did you mean 't - 1'"),
        (lambda: fs.adapt(Exact(DDPM), labels="onehot"), "did you mean 'one-hot'"),
        (lambda: fs.adapt(Exact(DDPM), labels="one-hot"), "classes = 0"),
        (lambda: fs.adapt(Exact(DDPM), range=(1, 0)), "lower one first"),
        (lambda: fs.adapters.diffusers(UNet(), {"_class_name": "Odd"}), "scheduler Odd"),
        (lambda: fs.adapt(lambda x, t: x[:1], "x0")(torch.zeros(2, 2), 1.0), "same shape"),
        (lambda: fs.process.own(lambda t: (1 + t, t)), None),
        (lambda: fs.process.own(lambda t: (1 - t, 1 - t)), "rises with t"),
    ],
)
def test_a_wrong_word_is_one_line(call, message):
    if message is None:
        call()
        return
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


class TwoClasses(nn.Module):
    """The exact guess of Gaussians (std 0.2) at -0.5 and 0.5; label 2 is any."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-0.5, 0.5, 0.0]))

    def forward(self, x, level, y):
        s2 = level[:, None].square()
        variance = torch.where(y == 2, 0.29, 0.04)[:, None]
        return (self.means[y][:, None] * s2 + variance * x) / (variance + s2)


def test_a_teacher_under_guidance_is_the_guidance_of_the_method():
    """Also on another process than its own, and it is not taken for a wrong statement."""
    network = TwoClasses()
    teacher = fs.adapt(network, "x0", label="t", labels="index", null=2)
    label = torch.arange(256) % 2
    x0 = label[:, None] - 0.5 + 0.2 * torch.randn(256, 1, generator=torch.manual_seed(0))
    toy = fs.recipes.toy(method="mcm", iterations=2, batch=64, teacher=None)
    samples = []
    for guidance, source in ((1.0, teacher), (0.0, fs.guide(teacher, w=2.0))):
        options = {**toy.method_options, "pairs": "ddim", "guidance": guidance}
        run = replace(toy, method_options=options)
        student = fs.train(run, {"x0": x0, "cond": label}, teacher=source, progress=False)
        samples.append(student.sample(8, cond=1))
    torch.testing.assert_close(*samples)
    assert network.training  # theirs is as it was
    assert network.means.requires_grad


def test_arrays_are_read_in_the_range_that_a_teacher_has(caplog):
    """A network of data in [0, 1], and such data: nothing else is to be said."""
    own = convention("x0", range=(0, 1))
    teacher = fs.adapt(Exact(own), "x0", range=(0, 1))
    data = (TRUTH.sample(400, seed=0) + 1) / 2
    run = fs.recipes.toy(method="cd", iterations=1, batch=32)
    assert run.teacher == "exact:ring8"  # of the recipe; another one is passed
    student = fs.train(run, data, teacher=teacher, progress=False, device="cpu")
    assert student.run.teacher == "own"
    torch.testing.assert_close(
        student.facts.units.to_user(torch.zeros(1, 2)), torch.full((1, 2), 0.5)
    )
    assert "its error is" not in caplog.text
