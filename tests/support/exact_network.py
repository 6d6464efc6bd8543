"""The network whose output is an exact denoiser's under a convention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.core.conventions import Convention
from fewstep.core.process import expand
from fewstep.core.vocabulary import LABELS

TRUTH = fs.exact.ring8()


class Exact(nn.Module):
    """The network whose output is an exact denoiser's under a convention.

    F = (u_hat - skip x_t) / out at the label's level.
    """

    def __init__(self, reading: Convention, truth: Any = TRUTH) -> None:
        super().__init__()
        self.reading, self.truth = reading, truth
        self.levels = torch.logspace(-4, 4, 8001, dtype=torch.float64)
        scaled_levels = self.levels * reading.range.scale
        t = reading.process.time_at(scaled_levels)
        own = reading.scaling(reading.process, t).noise
        labels = own if reading.label is None else LABELS[reading.label](t, scaled_levels)
        self.direction = 1.0 if labels[-1] > labels[0] else -1.0
        self.labels = self.direction * labels

    def level_of(self, label: Tensor) -> Tensor:
        label = (self.direction * label.double()).clamp(self.labels[0], self.labels[-1])
        i = torch.searchsorted(self.labels, label).clamp(1, len(self.labels) - 1)
        gap = (self.labels[i] - self.labels[i - 1]).clamp_min(1e-30)
        share = (label - self.labels[i - 1]) / gap
        return torch.lerp(self.levels[i - 1].log(), self.levels[i].log(), share).exp()

    def forward(self, x: Tensor, label: Tensor, cond: Any = None) -> Tensor:
        own, level = self.reading, self.level_of(label)
        scale, shift = own.range.scale, own.range.shift
        t = own.process.time_at(level * scale)
        c, alpha = own.scaling(own.process, t), own.process.alpha(t)
        x_t = x.double() / expand(c.in_, x.double())
        u_t = x_t / expand(alpha, x_t)
        guess = scale * self.truth((u_t - shift) / scale, level) + shift
        return (own.sign * (guess - expand(c.skip, x_t) * x_t) / expand(c.out, x_t)).to(x.dtype)
