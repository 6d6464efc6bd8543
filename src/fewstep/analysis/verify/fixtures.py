"""What the checks run on: small functions in the places of networks, and batches always alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewstep import networks
from fewstep.analysis.verify.check import over
from fewstep.base.conditions import Cond
from fewstep.base.randomness import fork_rng, generator
from fewstep.core import scalings
from fewstep.core.denoiser import Denoiser, Models, Preconditioned
from fewstep.core.method import Method
from fewstep.core.process import Process, Time, as_time
from fewstep.core.times import Times

SD = 0.5  # the sigma_data that every method has by default
SHAPE = (2, 3)


class Analytic(nn.Module):
    """D(x, t) = a tanh(b x + c l) + d mean(x), l = ln(1 + t): smooth, not linear.

    Told its end, l = ln((1 + t) / (1 + to / 2)).
    """

    def __init__(self, *numbers: float, ends: int = 1) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor(numbers, dtype=torch.float64))
        self.ends = ends

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None, to: Time = 0.0) -> Tensor:
        a, b, c, d = self.numbers.to(x_t.dtype)
        end = torch.log1p(as_time(to) / 2)
        level = over((torch.log1p(t) - end).to(x_t.dtype), x_t)
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


class Emitting(nn.Module):
    """mu = p x0 and ln s = q x0^2: an encoder of two numbers."""

    def __init__(self, p: float, q: float) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor([p, q], dtype=torch.float64))

    def forward(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        p, q = self.numbers.to(x0.dtype)
        return p * x0, q * x0.square()


class Cast(NamedTuple):
    """Four different functions, a balance and an encoder: loss and gradient show who was called."""

    student: Analytic
    ema: Analytic
    teacher: Analytic
    frozen: Analytic
    balance: Uncertain
    encoder: Emitting

    def models(self) -> Models:
        return Models(*self)

    def gradients(self) -> Tensor:
        """The gradients of all numbers of all six, 0 where there is none."""
        numbers = [part.numbers for part in self]
        return torch.cat([torch.zeros_like(p) if p.grad is None else p.grad for p in numbers])


def cast() -> Cast:
    """A fresh cast, without gradients."""
    return Cast(
        student=Analytic(1.1, 0.7, -0.3, 0.2),
        ema=Analytic(1.3, 0.5, 0.2, -0.1),
        teacher=Analytic(0.8, 0.9, -0.2, 0.1, ends=0),
        frozen=Analytic(1.6, 0.4, 0.1, 0.3),
        balance=Uncertain(0.3, -0.4),
        encoder=Emitting(0.4, -0.3),
    )


class FixedTarget(nn.Module):
    """A student whose numbers move by `shift` in its own passes alone: the target is fixed.

    Those are the ones with gradient: at the times `t`, or anywhere where t is None.
    """

    ends = 1

    def __init__(self, inner: Analytic, t: Tensor | None) -> None:
        super().__init__()
        self.inner = inner
        self.t = t
        self.shift = torch.zeros(4, dtype=torch.float64)

    def forward(self, x_t: Tensor, t: Tensor, *more: Any, **options: Any) -> Tensor:
        numbers = self.inner.numbers.detach()
        if torch.is_grad_enabled() and (self.t is None or torch.equal(t, self.t)):
            numbers = numbers + self.shift
        output: Tensor = torch.func.functional_call(
            self.inner, {"numbers": numbers}, (x_t, t, *more), options
        )
        return output


class MaskRecorder(nn.Module):
    """A network that records the times of its calls, and the number of the masks it runs under."""

    ends = 1

    def __init__(self, inner: Analytic) -> None:
        super().__init__()
        self.inner = inner
        self.draws = 0
        self.calls: list[tuple[Tensor, int | None]] = []

    def masks(self, rows: int, seeds: Sequence[int]) -> Any:
        self.draws += 1
        return Masks(self.draws)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Cond = None, masks: Any = None, to: Time = 0.0
    ) -> Tensor:
        self.calls.append((t.detach(), masks and masks.number))
        output: Tensor = self.inner(x_t, t, cond, to)
        return output


class Masks:
    """Masks that only know the number of their draw."""

    def __init__(self, number: int) -> None:
        self.number = number

    def at(self, index: Tensor) -> Masks:
        return self


def shifting(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
    """A denoiser of x, t and the label, -1 for none: tanh(0.8 x + ln(1 + t) + 0.3 label)."""
    label = torch.zeros(len(x_t)) if cond is None else cond
    level = torch.as_tensor(t, dtype=torch.float64).expand(len(x_t)).log1p()
    return (0.8 * x_t + over(level + 0.3 * label, x_t)).tanh()


def gaussian(process: Process, std: float = SD) -> Denoiser:
    """D(x, t) = alpha s^2 x / (alpha^2 s^2 + sigma^2) of N(0, s^2), written out."""

    def denoise(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x_t))
        alpha = process.alpha(t)
        sigma = process.sigma(t)
        return over(alpha * std**2 / (alpha**2 * std**2 + sigma**2), x_t) * x_t

    return denoise


def everyone(student: Any, method: Method) -> Models:
    """The student in every place but the teacher's, who is exact on Gaussian data.

    All answer in x_t's dtype, and balance and encoder change nothing.
    """
    exact = gaussian(method.process)

    def teacher(x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        return exact(x_t, t).to(x_t.dtype)

    return Models(student, student, teacher, student, torch.zeros_like, no_encoder)  # type: ignore[arg-type]


def no_encoder(x0: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and log deviation of N(0, 1)."""
    return torch.zeros_like(x0), torch.zeros_like(x0)


def gradient_of(network: nn.Module) -> Tensor:
    """The gradients of all parameters that have one, in one row."""
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def spread(process: Process, t: Any, std: float = SD) -> Tensor:
    """The standard deviation of x_t where data is N(0, s^2): sqrt(alpha^2 s^2 + sigma^2)."""
    return (process.alpha(t).square() * std**2 + process.sigma(t).square()).sqrt()


def data(
    rows: int, shape: tuple[int, ...] = SHAPE, stream: str = "verify", uniforms: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """x0 of deviation 0.5, z, and uniforms `[rows, uniforms]`, the first column stratified."""
    source = generator(0, stream)
    x0 = SD * torch.randn(rows, *shape, generator=source, dtype=torch.float64)
    z = torch.randn(rows, *shape, generator=source, dtype=torch.float64)
    u = torch.rand(rows, uniforms, generator=source, dtype=torch.float64)
    u[:, 0] = (torch.randperm(rows, generator=source) + u[:, 0]) / rows
    return x0, z, u


def disorder(method: Method, times: Times, may_rest: bool = False) -> float:
    """By how much times violate a <= r <= t <= t_max; 1 where t = a, unless rows may rest there.

    Raises ValueError unless there is one time for each row.
    """
    t, r, a, w = times[:4]
    for name, part in zip("tra", (t, r, a), strict=True):
        if part.shape != w.shape or part.ndim != 1:
            raise ValueError(f"{name} of shape {tuple(part.shape)}, expected one time for each row")
    highest = torch.full_like(t, method.process.t_max)
    excess = [(low - high).max().item() for low, high in ((a, r), (r, t), (t, highest))]
    return max(*excess, 0.0 if may_rest else float((t <= a).any()), 0.0)


def small_network(
    classes: int = 0,
    dropout: float = 0.0,
    seed: int = 0,
    shape: tuple[int, ...] = SHAPE,
    ends: int = 0,
) -> Preconditioned:
    """A float64 MLP behind EDM's preconditioning, no weight 0: zeros would hide mistakes."""
    with fork_rng(seed, "verify"):
        network = networks.mlp(shape, classes, ends=ends, width=12, depth=2, dropout=dropout)
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    return Preconditioned(network, scalings.Edm()).double()
