"""A network whose truth is known, behind a pipeline's interface: an exact denoiser, and an MLP."""

from __future__ import annotations

import math

import torch
from torch import nn

from fewstep import exact
from fewstep.core.process import by_name, expand

TIMES = 4  # waves that tell the time


class Embedding(nn.Module):
    """Where diffusers' networks embed the time: 0, since `ExactNetwork` has its waves already."""

    def __init__(self, inputs, width):
        super().__init__()
        self.linear_2 = nn.Linear(inputs, width)
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, waves):
        return self.linear_2(waves)


class ExactNetwork(nn.Module):
    """v of Stable Diffusion: that of an exact law by prompt, plus an MLP that is 0 at first.

    Changes of low rank of its layers are what a student learns. tokens `[K, L, D]`: of the prompts
    whose classes the law's K labels are; any other prompt is that of the nearest.
    """

    layers = ("inlet", "middle", "outlet")

    def __init__(self, law, tokens, width=64):
        super().__init__()
        self.law = law
        self.register_buffer("tokens", tokens.flatten(1))
        size = math.prod(law.shape)
        self.inlet = nn.Linear(size + TIMES + len(tokens), width)
        self.middle = nn.Linear(width, width)
        self.outlet = nn.Linear(width, size)
        for layer in (self.inlet, self.middle):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)
        self.time_embedding = Embedding(TIMES, width)

    def forward(self, x, time, encoder_hidden_states, return_dict=False):
        process = self.law.process
        t = time.double() + 1
        label = torch.cdist(encoder_hidden_states.flatten(1), self.tokens).argmin(1)
        alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
        x0 = self.law(x, t, label)
        v = (alpha * x - x0) / sigma
        waves = (time / 1000)[:, None] * torch.arange(1, TIMES + 1) * math.pi / 2
        code = nn.functional.one_hot(label, len(self.tokens)).to(x)
        waves = waves.sin().to(x)
        h = torch.cat([x.flatten(1), waves, code], 1)
        h = nn.functional.silu(self.inlet(h) + self.time_embedding(waves))
        h = nn.functional.silu(self.middle(h))
        return (v + self.outlet(h).view_as(x),)


def law_of(shape=(4, 1, 1), labels=2):
    """Two components for each label, on Stable Diffusion's process."""
    source = torch.Generator().manual_seed(0)
    means = 0.6 * torch.randn(2 * labels, *shape, generator=source, dtype=torch.float64)
    label = torch.arange(2 * labels) // 2
    return exact.Mixture(
        weights=torch.ones(2 * labels),
        means=means,
        std=0.6,
        labels=label,
        process=by_name("discrete"),
    )
