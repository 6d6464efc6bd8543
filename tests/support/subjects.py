"""Runs that are healthy, small as they are, and what makes them faulty on purpose."""

from __future__ import annotations

import copy
import fcntl
import shutil
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
SHORT: dict[str, Any] = {"iterations": 240, "log_every": 5, "checkpoint_every": 200}
METHODS: dict[str, dict[str, Any]] = {
    "ect": {},
    "tcm": {**SHORT, "split": 0.6},
    "mcm": {**SHORT, "method_options": {"K": 4, "steps": 16, "steps_end": 16, "c": 0.1}},
    "diffusion": SHORT,
}


def train(method: str, out: Path) -> None:
    """A run of a few seconds on the ring."""
    run = fs.recipes.toy(method=method, **{**SMALL, **METHODS[method]})
    fs.train(run, out=out, progress=False, device="cpu")


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """The path, which the first of the test processes makes while the others wait."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(path)
    return path


class SolvingOnce:
    """A law that solves the same trajectories once: they take most of an examination."""

    def __init__(self, law: Any) -> None:
        self.law = law
        self.ends: list[tuple[Tensor, float, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.law, name)

    def solve(self, x_t: Tensor, t: float, *rest: Any) -> Tensor:
        for start, time, end in self.ends:
            if time == t and torch.equal(start, x_t):
                return end
        end = self.law.solve(x_t, t, *rest)
        self.ends.append((x_t, t, end))
        return end


class ChangedAnswers(nn.Module):
    """A denoiser that answers otherwise from `low` to `high`: D' = change(D, x_t, t, cond)."""

    def __init__(
        self, net: nn.Module, change: Callable[..., Tensor], low: float = 0.0, high: float = 1e9
    ) -> None:
        super().__init__()
        self.net, self.change, self.low, self.high = net, change, low, high
        self.process = net.process

    def forward(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        t = per_row(t, x_t)
        level = self.process.level(t)
        inside = ((level >= self.low) & (level <= self.high))[:, None]
        return torch.where(inside, self.change(self.net, x_t, t, cond), self.net(x_t, t, cond))


def scale_by(factor: float) -> Callable[..., Tensor]:
    return lambda net, x_t, t, cond: factor * net(x_t, t, cond)


def shift_by(amount: float) -> Callable[..., Tensor]:
    return lambda net, x_t, t, cond: net(x_t, t, cond) + amount


def mirror(net: nn.Module, x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
    """The ring's own symmetry: the answers keep their law, and end other trajectories."""
    return net(-x_t, t, cond)


@dataclass(frozen=True)
class NearestRow:
    """Answers that are training rows: the nearest to x_t."""

    train: Tensor

    def __call__(self, net: nn.Module, x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        level = net.process.level(t)[:, None]
        distance = torch.cdist((x_t / (1 + level.square()).sqrt()).double(), self.train.double())
        return self.train[distance.argmin(1)]


def noisy(net: nn.Module, share: float) -> nn.Module:
    """The same network with noise of this share of each weight's own deviation."""
    net, source = copy.deepcopy(net), generator(0, "patients")
    with torch.no_grad():
        for p in net.parameters():
            std = p.std() if p.numel() > 1 else p.abs()
            p.add_(share * std * torch.randn(p.shape, generator=source))
    return net


def untrained_network(subject: Subject) -> nn.Module:
    student = build_student(replace(subject.run, seed=1), subject.facts, subject.method)
    return student.requires_grad_(False).eval()


def with_scaling(subject: Subject, scaling: fs.scalings.Scaling) -> nn.Module:
    net: Any = subject.ema
    return Preconditioned(net.network, scaling, net.process)


def by_heart(out: Path) -> Subject:
    """A student that answers with its 60 training rows, in 16 dimensions."""
    x0 = 0.5 * torch.randn(400, 16, generator=generator(0, "by heart"))
    run = fs.recipes.toy(**{**SMALL, "iterations": 20})
    fs.train(run, data=x0[:60], out=out, progress=False, device="cpu")
    subject = subject_of(out, data=fs.data.from_tensors(x0[:60]), device="cpu")
    train = subject.dataset.train
    data = replace(subject.dataset, validation=Arrays(subject.dataset.units.to_model(x0[60:])))
    nearest = ChangedAnswers(subject.ema, NearestRow(train.x0), 0.1)
    return replace(subject, dataset=data, ema=nearest)


def with_log(subject: Subject, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Subject:
    """The subject with other lines in its log."""
    assert subject.log is not None
    lines = tuple({**row, **change(i, row)} for i, row in enumerate(subject.log))
    return replace(subject, log=lines)
