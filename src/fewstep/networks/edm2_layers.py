"""EDM2's magnitude-preserving layers (arXiv 2312.02696, configuration G, figure 21).

Weights interchange with EDM2's by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.networks.embedding import Frequencies


def unit(x: Tensor, dim: Sequence[int], eps: float = 1e-4) -> Tensor:
    """x / (rms of x over `dim` + eps), the rms in float32 at least."""
    norm = torch.linalg.vector_norm(
        x, dim=tuple(dim), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    )
    count = math.prod([x.shape[d] for d in dim])
    return x / (norm * math.sqrt(1 / count) + eps).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu, scaled to keep the magnitude of a unit normal (eq. 81)."""
    return functional.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2): unit if a and b are, uncorrelated (eq. 88)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Channels of a and b, together of unit magnitude, with shares 1 - t and t (eq. 103).

    The shares do not depend on the numbers of channels.
    """
    n, m = a.shape[1], b.shape[1]
    scale = math.sqrt(n + m) / math.hypot(1 - t, t)
    return torch.cat([a * (scale * (1 - t) / math.sqrt(n)), b * (scale * t / math.sqrt(m))], 1)


class Fourier(Frequencies):
    """sqrt(2) cos(2 pi f x + phase), fixed f ~ N(0, 1), `[B] -> [B, channels]` (eq. 75).

    The phases are fixed and uniform in 0 .. 2 pi.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * nn.init.normal_(torch.empty(channels)))
        self.register_buffer("phases", 2 * math.pi * nn.init.uniform_(torch.empty(channels)))

    def forward(self, label: Tensor) -> Tensor:
        return (label[:, None] * self.freqs + self.phases).cos() * math.sqrt(2)


class MPConv(nn.Module):
    """A linear layer (kernel 0) or convolution without bias: unit rms per output / sqrt(fan in).

    The weight is normalised wherever it is used, so its stored length changes no output (eq. 66).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 0) -> None:
        super().__init__()
        size = (kernel, kernel) if kernel else ()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(outputs, inputs, *size)))

    def unit_weight(self) -> Tensor:
        """The weight with unit rms per output."""
        return unit(self.weight, range(1, self.weight.ndim))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = (self.unit_weight() * (gain / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        if weight.ndim == 2:
            return functional.linear(x, weight)
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


class MPMlp(nn.Module):
    """gain linear(mp_silu(linear(sqrt(2) waves))), `[B, inputs] -> [B, width]`, gain 0 at first.

    waves: pairs of a cosine and a sine, which sqrt(2) brings to unit magnitude.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inner = MPConv(inputs, width)
        self.outer = MPConv(width, width)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, waves: Tensor) -> Tensor:
        inside = mp_silu(self.inner(waves * math.sqrt(2)))
        out: Tensor = self.outer(inside, self.gain)
        return out


@torch.no_grad()
def normalise_weights(module: nn.Module) -> None:
    """Overwrites every weight by its normalised value: EDM2's forced weight normalisation.

    Up to the eps of the norm it changes no output. It keeps the size of an optimizer's steps,
    relative to the weights, at what the learning rate says. For once per optimizer step, never
    inside a pass.
    """
    for part in module.modules():
        if isinstance(part, MPConv):
            part.weight.copy_(part.unit_weight())


class Uncertainty(nn.Module):
    """u(noise_label), `[B] -> [B]`: log-variance of a level's loss (loss e^-u + u, eq. 21)."""

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.logvar_fourier = Fourier(channels)
        self.logvar_linear = MPConv(channels, 1)

    def normalise_(self) -> None:
        """As `EDM2UNet.normalise_`."""
        normalise_weights(self)

    def forward(self, noise_label: Tensor) -> Tensor:
        return self.logvar_linear(self.logvar_fourier(noise_label)).squeeze(1)
