"""Runs that are healthy, small as they are, and what breaks them on purpose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.analysis.doctor import Subject, subject_of
from fewstep.base.randomness import generator
from fewstep.core.denoiser import Preconditioned
from fewstep.core.process import per_row
from fewstep.data import Arrays
from fewstep.run.build import build_student

SMALL: dict[str, Any] = {
    "iterations": 400,
    "batch": 256,
    "lr": 3e-3,
    "ema": 0.98,
    "network_options": {"width": 64, "depth": 2},
    "log_every": 8,
    "checkpoint_every": 350,
    "picture_every": 0,
}
METHODS: dict[str, dict[str, Any]] = {
    "ect": {},
    "tcm": {"split": 0.6},
    "mcm": {"method_options": {"K": 4, "steps": 16, "steps_end": 16, "c": 0.1}},
    "diffusion": {},
}


def trained(method: str, out: Path) -> Subject:
    """A run of a few seconds on the ring."""
    fs.train(
        fs.recipes.toy(method=method, **{**SMALL, **METHODS[method]}),
        out=out,
        progress=False,
        device="cpu",
    )
    return subject_of(out, device="cpu")


class Changed(nn.Module):
    """A denoiser whose answers at levels from `low` to `high` are changed: D' = change(D, x_t, t,
    cond).
    """

    def __init__(
        self, net: nn.Module, change: Callable[..., Tensor], low: float = 0.0, high: float = 1e9
    ) -> None:
        super().__init__()
        self.net, self.change, self.low, self.high = net, change, low, high
        self.process = net.process

    def forward(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        t = per_row(t, x_t)
        level = self.process.level(t)
        out, here = self.net(x_t, t, cond), ((level >= self.low) & (level <= self.high))[:, None]
        return torch.where(here, self.change(self.net, x_t, t, cond), out)


def scaled(factor: float) -> Callable[..., Tensor]:
    return lambda net, x_t, t, cond: factor * net(x_t, t, cond)


def shifted(by: float) -> Callable[..., Tensor]:
    return lambda net, x_t, t, cond: net(x_t, t, cond) + by


def mirrored(net: nn.Module, x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
    """The ring's own symmetry: the law of the answers stays, whose trajectory they end does not."""
    return net(-x_t, t, cond)


@dataclass(frozen=True)
class Recalled:
    """Answers that are training rows: the one that x_t points at most."""

    train: Tensor

    def __call__(self, net: nn.Module, x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        level = net.process.level(t)[:, None]
        near = torch.cdist((x_t / (1 + level.square()).sqrt()).double(), self.train.double())
        return self.train[near.argmin(1)]


def noisy(net: nn.Module, share: float) -> nn.Module:
    """The same network with noise of this share of each weight's own deviation."""
    net, source = copy.deepcopy(net), generator(0, "patients")
    with torch.no_grad():
        for p in net.parameters():
            p.add_(
                share
                * (p.std() if p.numel() > 1 else p.abs())
                * torch.randn(p.shape, generator=source)
            )
    return net


def untrained(subject: Subject) -> nn.Module:
    return (
        build_student(replace(subject.run, seed=1), subject.facts, subject.method)
        .requires_grad_(False)
        .eval()
    )


def with_scaling(subject: Subject, scaling: fs.scalings.Scaling) -> nn.Module:
    net: Any = subject.ema
    return Preconditioned(net.network, scaling, net.process)


def by_heart(out: Path) -> Subject:
    """A student that answers with its 60 training rows, in 16 dimensions."""
    x0 = 0.5 * torch.randn(400, 16, generator=generator(0, "by heart"))
    fs.train(
        fs.recipes.toy(**{**SMALL, "iterations": 20}),
        data=x0[:60],
        out=out,
        progress=False,
        device="cpu",
    )
    subject = subject_of(out, data=fs.data.from_tensors(x0[:60]), device="cpu")
    train = subject.dataset.train
    data = replace(subject.dataset, validation=Arrays(subject.dataset.units.to_model(x0[60:])))
    return replace(subject, dataset=data, ema=Changed(subject.ema, Recalled(train.x0), 0.1))


def logged(subject: Subject, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Subject:
    """The subject with other lines in its log."""
    assert subject.log is not None
    return replace(
        subject, log=tuple({**row, **change(i, row)} for i, row in enumerate(subject.log))
    )
