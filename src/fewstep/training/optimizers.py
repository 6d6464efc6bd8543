"""The optimizers by name; their state is tensors per weight, so that it fits a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fewstep.base.errors import UserError, require
from fewstep.run.config import Run

_EPS = 1e-8
_HUGE = 2.0**66  # beside which any second moment vanishes, in float64 too
_BLOCK, _LEVELS = 256, 256  # of bitsandbytes: weights that have one scale; values of a byte
# What its optimizers and torch's keep of each weight, at most.
EIGHT_BITS = ("state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2", "step")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Lion(Optimizer):
    """u = sign(b1 m + (1 - b1) g), w <- w - lr (u + decay w), m <- b2 m + (1 - b2) g.

    Source: Lion, arXiv 2302.06675, algorithm 2.
    """

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for p in weights:
                if "exp_avg" not in self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
            grads = [p.grad for p in weights]
            moments = [self.state[p]["exp_avg"] for p in weights]
            b1, b2 = group["betas"]
            lr = group["lr"]
            signs = torch._foreach_lerp(moments, grads, 1 - b1)
            torch._foreach_sign_(signs)
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
            torch._foreach_add_(weights, signs, alpha=-lr)
            torch._foreach_lerp_(moments, grads, 1 - b2)


def build(run: Run, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The run's optimizer with an empty state.

    RAdam is Adam with the rate and epsilon of `rectify`: torch's own RAdam has no fused kernel,
    which is 5 to 10 times faster than a loop on a CPU and matters where steps are small.
    """
    parameters = list(parameters)
    require(len(parameters) > 0, "network", "without weights", "something to train")
    common: dict[str, Any] = {"lr": run.lr, "betas": run.betas, "weight_decay": run.weight_decay}
    if run.optimizer == "adamw8bit":
        return _eight_bits(parameters[0].device)(parameters, eps=_EPS, **common)
    if run.optimizer == "lion":
        return Lion(parameters, **common)
    kind = torch.optim.AdamW if run.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, fused=True, eps=_EPS, **common)


def _eight_bits(device: torch.device) -> Any:
    """bitsandbytes' AdamW, whose moments are bytes with a scale for each 256 of them.

    Weights of less than 4096 numbers keep theirs in float32. Raises UserError where it is not
    installed, and where it cannot make a step on the device.
    Source: arXiv 2110.02861.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        need = "pip install 'fewstep[bnb]' brings bitsandbytes, whose optimizer it is"
        raise UserError(f"optimizer = 'adamw8bit': {need}") from error
    trial = nn.Parameter(torch.zeros(4096, device=device))
    trial.grad = torch.zeros_like(trial)
    try:
        AdamW8bit([trial]).step()
    except (RuntimeError, AttributeError, OSError) as error:  # also NotImplementedError
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"optimizer = 'adamw8bit': bitsandbytes has no kernels for {device} here ({reason}):"
            " take adamw"
        ) from error
    return AdamW8bit


def tensors_of(optimizer: Optimizer, weight: nn.Parameter) -> dict[str, Tensor]:
    """Its state of a weight; bitsandbytes' number of steps, which is no tensor, is an integer."""
    return {key: torch.as_tensor(value) for key, value in optimizer.state[weight].items()}


def set_state(optimizer: Optimizer, weight: nn.Parameter, key: str, value: Tensor) -> None:
    """Gives it a tensor that `tensors_of` has named."""
    is_number = value.ndim == 0 and value.dtype == torch.int64
    optimizer.state[weight][key] = int(value) if is_number else value


def shape_of(key: str, weight: Tensor) -> tuple[int, ...]:
    """The shape of what is kept of a weight under that name."""
    shapes = {"step": (), "qmap": (_LEVELS,), "absmax": (-(-weight.numel() // _BLOCK),)}
    return shapes.get(key.rstrip("12"), tuple(weight.shape))


def weights(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    """What it moves, in its order; a walk over the modules takes far longer."""
    for group in optimizer.param_groups:
        yield from group["params"]


def rectify(k: int, beta: float) -> tuple[float, float]:
    """(factor of the learning rate, epsilon) that make update k = 1, 2, ... of Adam that of RAdam.

    With rho = rho_inf - 2 k b^k / (1 - b^k), rho_inf = 2 / (1 - b) - 1: where rho > 5 the step is
    sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho))
    m_hat sqrt(1 - b^k) / (sqrt(v) + eps), and Adam adds its epsilon to sqrt(v / (1 - b^k)). Before,
    the step is m_hat alone: that of Adam with an epsilon beside which v vanishes, times that
    epsilon. Source: RAdam, arXiv 1908.03265, algorithm 2; the bound 5 (there 4) and the epsilon as
    in torch's.
    """
    rest = 1 - beta**k
    rho_inf = 2 / (1 - beta) - 1
    rho = rho_inf - 2 * k * beta**k / rest
    if rho <= 5:
        return _HUGE, _HUGE
    factor = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return factor, _EPS / math.sqrt(rest)


def set_rate(optimizer: Optimizer, run: Run, rate: float, updates: int) -> None:
    """Prepares the update that follows so many others."""
    factor = 1.0
    eps = _EPS
    if run.optimizer == "radam":
        factor, eps = rectify(updates + 1, run.betas[1])
    for group in optimizer.param_groups:
        group["lr"] = rate * factor
        group["eps"] = eps


def lr_factor(
    progress: float, warmup: float, constant: float, final: float, decay: str = "cosine"
) -> float:
    """The factor of the learning rate: 0 -> 1 in the share `warmup`, 1 until `constant`, then less.

    It falls as a cosine to `final`, with decay = "linear" on a line, or with "inverse_sqrt" as
    1 / sqrt(progress / constant) (EDM2, arXiv 2312.02696, appendix B). All arguments are shares of
    the run in [0, 1]; `final` is a factor.
    """
    if progress < warmup:
        return progress / warmup
    if progress <= constant:
        return 1.0
    if decay == "inverse_sqrt":
        return (constant / progress) ** 0.5
    fallen = (progress - constant) / (1 - constant)
    if decay == "linear":
        return final + (1 - final) * (1 - fallen)
    swing = math.cos(math.pi * fallen)
    return final + (1 - final) * (1 + swing) / 2
