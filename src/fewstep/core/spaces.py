"""In which quantity two points are compared: `(process, x_t, x0_hat, times) -> like x0_hat`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fewstep.base.conditions import Cond, pick
from fewstep.base.device import send
from fewstep.base.errors import require, unknown
from fewstep.core import abilities
from fewstep.core.denoiser import Models, still
from fewstep.core.process import Process, expand
from fewstep.core.scalings import Scaling, Trig, V, from_x0
from fewstep.core.targets import Ema, Target
from fewstep.core.times import Times


class Space(Protocol):
    """Maps a guess of the data, seen from x_t, to what the distance compares.

    Ability: `needs`; then it is called with `models`, `cond` and `run`, the passes, as well.
    """

    def __call__(self, process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor: ...


def x0(process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor:
    """The data itself."""
    return x0_hat


def v(process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor:
    """v = alpha z_hat - sigma x0_hat: an error e of x0_hat becomes -e / sigma.

    That is where alpha^2 + sigma^2 = 1. Squared errors in it are those of x0 times SNR + 1 (MCM,
    arXiv 2403.06807, appendix A; arXiv 2202.00512).
    """
    return from_x0(V(), process, x_t, x0_hat, times.t)


def end(process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor:
    """The point at the anchor, jump(x_t, x0_hat, t -> a).

    Source: phased consistency models, arXiv 2405.18407, eq. 4.
    """
    return process.jump(x_t, x0_hat, times.t, times.a)


@dataclass(frozen=True)
class PerOutput:
    """`end` over |c_out(t, a)|: what the student's network moves it by, jump = .. + c_out F.

    So a kernel is as wide as that. scaling: of the student.
    Source: IMM, arXiv 2503.07565, section 4.3.
    """

    scaling: Scaling = field(default_factory=Trig)

    def __call__(self, process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor:
        _, make = process.move(times.t, times.a)
        out = (make * self.scaling(process, times.t).out).abs()
        return end(process, x_t, x0_hat, times) / expand(out, x_t)


@dataclass(frozen=True)
class AtData:
    """`end` carried on from a to the data by a flow map that does not learn, where a > 0.

    network: whose; its weights get no gradient, the point that is carried does.
    Source: CTM, arXiv 2310.02279, eq. 6.
    """

    network: Target = field(default_factory=Ema)

    @property
    def needs(self) -> frozenset[str]:
        return abilities.needs(self.network)

    def __call__(
        self,
        process: Process,
        x_t: Tensor,
        x0_hat: Tensor,
        times: Times,
        *,
        models: Models | None = None,
        cond: Cond = None,
        run: Any = None,
    ) -> Tensor:
        assert models is not None
        x_a, a = end(process, x_t, x0_hat, times), times.a
        index = (a > 0).nonzero().flatten()
        if not len(index):
            return x_a
        here, network, zero = send(index, x_t.device), self.network(models), torch.zeros_like(a)
        x, at = x_a[here], (a[index], zero[index])
        with still(network):
            x0 = run.at(index)(network, x, at[0], pick(cond, here), at[1])
        return x_a.index_copy(0, here, process.jump(x, x0, *at))


@dataclass(frozen=True)
class Velocity:
    """dx/dt over `unit`.

    On trig with unit = sigma_data it is TrigFlow's F = (cos t x_t - x0_hat) / (sd sin t) (sCM,
    arXiv 2410.11081, section 3).
    """

    unit: float = 1.0

    def __post_init__(self) -> None:
        require(self.unit > 0, "unit", self.unit, "above 0")

    def __call__(self, process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor:
        return process.velocity(x_t, x0_hat, times.t) / self.unit


@dataclass(frozen=True)
class Multiscale:
    """A picture `[B, C, H, W]` and its 2x2 averages, `pools` times over, flattened.

    `mse` of it is the mean of the levels' own. Source: simple diffusion, arXiv 2301.11093, section
    3.4; MCM pools once at 128 pixels (appendix A).
    """

    pools: int = 1
    inner: Space = x0

    def __post_init__(self) -> None:
        require(self.pools >= 1, "pools", self.pools, "at least 1")

    def __call__(self, process: Process, x_t: Tensor, x0_hat: Tensor, times: Times) -> Tensor:
        levels = [self.inner(process, x_t, x0_hat, times)]
        shape = tuple(levels[0].shape[1:])
        divisor = 2**self.pools
        fits = len(shape) == 3 and not (shape[1] % divisor or shape[2] % divisor)
        expected_shape = f"C, H, W with H and W divisible by {divisor}"
        require(fits, "multiscale space: shape", shape, expected_shape)
        for _ in range(self.pools):
            levels.append(avg_pool2d(levels[-1], 2))
        size = sum(level[0].numel() for level in levels)
        # So that every level has the same weight in the mean.
        factors = [(size / (len(levels) * level[0].numel())) ** 0.5 for level in levels]
        parts = [level.flatten(1) * factor for level, factor in zip(levels, factors, strict=True)]
        return torch.cat(parts, 1)


def by_name(name: str) -> Space:
    """The space that a method's option names. Raises UserError."""
    spaces: dict[str, Space] = {"x0": x0, "v": v}
    if name not in spaces:
        raise unknown("space", name, spaces)
    return spaces[name]
