"""What the tests share: exact denoisers of Gaussian data, tiny networks, tiny runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.denoiser import Cond, Preconditioned
from fewstep.process import Process, Time, edm, expand, per_row
from fewstep.scalings import Edm


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2) per element: D = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x - alpha mean)."""

    mean: float = 0.3
    std: float = 0.5
    process: Process = field(default_factory=edm)

    def _spread(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return alpha, alpha.square() * self.std**2 + sigma.square()

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        alpha, variance = self._spread(per_row(t, x_t))
        return self.mean + expand(alpha * self.std**2 / variance, x_t) * (x_t - expand(alpha, x_t) * self.mean)

    def solve(self, x: Tensor, t: Time, s: Time) -> Tensor:
        """The probability-flow ODE from t to s, in closed form."""
        (alpha_t, before), (alpha_s, after) = (self._spread(per_row(time, x)) for time in (t, s))
        return expand(alpha_s, x) * self.mean + expand((after / before).sqrt(), x) * (
            x - expand(alpha_t, x) * self.mean
        )


class Analytic(nn.Module):
    """The reference vectors' network: tanh(a u + b c_noise), two trainable numbers."""

    def __init__(self, a: float, b: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=dtype))
        self.b = nn.Parameter(torch.tensor(b, dtype=dtype))

    def forward(self, u: Tensor, noise_label: Tensor, cond: Cond = None) -> Tensor:
        return torch.tanh(self.a * u + self.b * noise_label.reshape(-1, *[1] * (u.ndim - 1)))


def small_student(shape: tuple[int, ...], classes: int = 0, *, dropout: float = 0.0, seed: int = 0) -> Preconditioned:
    """A float64 MLP with weights that are all alive (zero initialisation would hide mistakes)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = fs.networks.mlp(shape, classes, width=16, depth=2, dropout=dropout)
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    return Preconditioned(network, Edm()).double()


def tiny_run(**fields: object) -> fs.Run:
    """A run of seconds: six steps of a small network on the toy ring."""
    settings: dict[str, object] = {
        "iterations": 6,
        "batch": 16,
        "block": 4,
        "lr": 1e-3,
        "network_options": {"width": 16, "depth": 1, "dropout": 0.1},
        "checkpoint_every": 2,
        "picture_every": 0,
        "log_every": 1,
    }
    return fs.recipes.toy(**{**settings, **fields})
