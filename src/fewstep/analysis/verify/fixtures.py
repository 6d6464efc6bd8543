"""What the checks are run on: small functions in the places of networks, and batches that are
always the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep import networks
from fewstep.base.conditions import Cond
from fewstep.base.randomness import fork_rng, generator
from fewstep.core import abilities, scalings
from fewstep.core.denoiser import Models, Preconditioned
from fewstep.core.method import Method
from fewstep.core.times import Times

SD = 0.5  # the sigma_data that every method has by default
SHAPE = (2, 3)


class Analytic(nn.Module):
    """D(x, t) = a tanh(b x + c ln(1 + t)) + d mean(x): smooth, not linear, and no two with one set
    of numbers alike.
    """

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor(numbers, dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        a, b, c, d = self.numbers.to(x_t.dtype)
        level = torch.log1p(t.to(x_t.dtype)).reshape(-1, *[1] * (x_t.ndim - 1))
        mean = x_t.flatten(1).mean(1).reshape(-1, *level.shape[1:])
        return a * torch.tanh(b * x_t + c * level) + d * mean


class Uncertain(nn.Module):
    """u(label) = p + q label: a learned balance of two numbers."""

    def __init__(self, p: float, q: float) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor([p, q], dtype=torch.float64))

    def forward(self, label: Tensor) -> Tensor:
        p, q = self.numbers
        return p + q * label


@dataclass(frozen=True)
class Cast:
    """Four different functions in the four places, and a balance: who was asked shows in the loss
    and its gradient.
    """

    student: Analytic
    ema: Analytic
    teacher: Analytic
    frozen: Analytic
    balance: Uncertain

    def models(self) -> Models:
        return Models(self.student, self.ema, self.teacher, self.frozen, self.balance)

    def gradients(self) -> Tensor:
        """The gradients of all numbers of all five, 0 where none has arrived."""
        numbers = [
            part.numbers
            for part in (self.student, self.ema, self.teacher, self.frozen, self.balance)
        ]
        return torch.cat(
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in numbers]
        )


def cast() -> Cast:
    """A fresh cast, without gradients."""
    return Cast(
        student=Analytic(1.1, 0.7, -0.3, 0.2),
        ema=Analytic(1.3, 0.5, 0.2, -0.1),
        teacher=Analytic(0.8, 0.9, -0.2, 0.1),
        frozen=Analytic(1.6, 0.4, 0.1, 0.3),
        balance=Uncertain(0.3, -0.4),
    )


def data(
    rows: int, shape: tuple[int, ...] = SHAPE, stream: str = "verify"
) -> tuple[Tensor, Tensor, Tensor]:
    """x0 of standard deviation 0.5, z, and uniforms `[rows, 2]`, the first column one in each of
    `rows` strata.
    """
    source = generator(0, stream)
    x0, z = (
        s * torch.randn(rows, *shape, generator=source, dtype=torch.float64) for s in (SD, 1.0)
    )
    u = torch.rand(rows, 2, generator=source, dtype=torch.float64)
    u[:, 0] = (torch.randperm(rows, generator=source) + u[:, 0]) / rows
    return x0, z, u


def batch(
    method: Method, rows: int = 6, progress: float = 0.6, shape: tuple[int, ...] = SHAPE
) -> tuple[Tensor, Tensor, Times]:
    """x0, z and the method's times of a batch, of whole groups where rows share a trajectory."""
    group = abilities.reuse(method.coupling)
    rows = -(-rows // group) * group
    x0, z, u = data(rows, shape)
    times: Times = method.times(u, progress, torch.arange(rows))
    return x0, z, times._replace(u=u, progress=progress)


def disorder(method: Method, times: Times) -> float:
    """By how much times miss a <= r <= t <= t_max; 1 where t = a. Raises ValueError for other than
    one per row.
    """
    t, r, a, w = times[:4]
    for name, part in zip("tra", (t, r, a), strict=True):
        if part.shape != w.shape or part.ndim != 1:
            raise ValueError(f"{name} of shape {tuple(part.shape)}, expected one time for each row")
    highest = torch.full_like(t, method.process.t_max)
    over = [(low - high).max().item() for low, high in ((a, r), (r, t), (t, highest))]
    return max(*over, float((t <= a).any()), 0.0)


def small_network(
    classes: int = 0, dropout: float = 0.0, seed: int = 0, shape: tuple[int, ...] = SHAPE
) -> Preconditioned:
    """A float64 MLP behind EDM's preconditioning whose weights are all alive: zeros would hide
    mistakes.
    """
    with fork_rng(seed, "verify"):
        network = networks.mlp(shape, classes, width=12, depth=2, dropout=dropout)
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    return Preconditioned(network, scalings.Edm()).double()
