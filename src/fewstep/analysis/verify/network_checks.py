"""What a network must be to be trained here: called as (x, noise_label [B], cond) or (x,
noise_label, cond, masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.analysis.verify.check import Check, apart, worst
from fewstep.base.randomness import fork_rng, generator
from fewstep.core import abilities, derivatives

ROWS = 4
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Subject:
    """How a network is made, the shape of a sample, and its number of classes, 0 for none."""

    make: Make
    shape: tuple[int, ...]
    classes: int = 0

    def awake(self) -> nn.Module:
        """A fresh network with its weights moved a little: outputs that start at 0 are allowed, and
        show nothing.
        """
        with fork_rng(0, "verify network"):
            network = self.make().eval()
        source = generator(0, "verify shaken")
        for p in network.parameters():
            noise = torch.randn(p.shape, generator=source) * (
                0.3 / math.sqrt(p[0].numel() if p.ndim > 1 else 9)
            )
            p.data += noise.to(p)
        return network

    def given(self, network: nn.Module) -> tuple[Tensor, Tensor, Tensor | None]:
        """x of unit variance, noise labels ln(t) / 4 from t = 0.002 to 80, and labels where it has
        classes.
        """
        dtype = next((p.dtype for p in network.parameters()), torch.float32)
        x = torch.randn(ROWS, *self.shape, generator=generator(0, "verify x")).to(dtype)
        label = torch.tensor([math.log(t) / 4 for t in (0.002, 0.3, 5.0, 80.0)]).to(
            torch.promote_types(dtype, torch.float32)
        )
        return x, label, torch.arange(ROWS) % self.classes if self.classes else None


def like_x(subject: Subject) -> float:
    """A finite tensor like x, from a network as it starts."""
    with fork_rng(0, "verify network"):
        network = subject.make().eval()
    x, label, cond = subject.given(network)
    found = network(x, label, cond)
    if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
        got = (
            f"{found.dtype} {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else type(found).__name__
        )
        raise ValueError(f"the network gave {got} for {x.dtype} {tuple(x.shape)}")
    return 0.0 if bool(torch.isfinite(found).all()) else math.inf


def alone(subject: Subject) -> float:
    """Each row by itself against the batch; in train mode too where it is fixed there, its dropout
    layers asleep.
    """
    network, errors = subject.awake(), []
    x, label, cond = subject.given(network)
    for training in (False, True):
        for part in network.modules():
            part.training = training and not isinstance(part, nn.modules.dropout._DropoutNd)
        whole = network(x, label, cond)
        if torch.equal(whole, network(x, label, cond)):
            rows = [
                network(x[i : i + 1], label[i : i + 1], None if cond is None else cond[i : i + 1])
                for i in range(ROWS)
            ]
            errors.append(apart(torch.cat(rows), whole))
    return worst(*errors, 0.0)


def noise_matters(subject: Subject) -> float:
    """0 where another noise level changes the output."""
    network = subject.awake()
    x, label, cond = subject.given(network)
    return float(torch.equal(network(x, label, cond), network(x, label + 0.5, cond)))


def fixed(subject: Subject) -> float:
    """Twice the same in eval mode, and torch's own generator untouched."""
    network = subject.awake()
    given, before = subject.given(network), torch.get_rng_state()
    off = apart(network(*given), network(*given))
    return off + float(not torch.equal(before, torch.get_rng_state()))


def masked(subject: Subject) -> float:
    """By explicit masks: one seed one output, another seed another, a row alone as in the batch."""
    network = subject.awake().train()
    x, label, cond = subject.given(network)
    draw: Any = network.masks
    seeds = list(range(ROWS))
    if draw(ROWS, seeds) is None:
        return 0.0  # nothing is dropped
    whole = network(x, label, cond, draw(ROWS, seeds))
    again = network(x, label, cond, draw(ROWS, seeds))
    rows = [
        network(
            x[i : i + 1], label[i : i + 1], None if cond is None else cond[i : i + 1], draw(1, [i])
        )
        for i in seeds
    ]
    same = torch.equal(whole, network(x, label, cond, draw(ROWS, [s + 7 for s in seeds])))
    return worst(apart(again, whole), apart(torch.cat(rows), whole)) + float(same)


def labelled(subject: Subject) -> float:
    """Another label changes its own row alone; -1, no label, is taken and is not label 0."""
    network = subject.awake()
    x, label, _ = subject.given(network)
    zeros = torch.zeros(ROWS, dtype=torch.int64)
    first, other, free = (
        network(x, label, zeros.index_fill(0, torch.tensor([3]), to)) for to in (0, 1, -1)
    )
    rows = worst(apart(other[:3], first[:3]), apart(free[:3], first[:3]))
    return rows + float(torch.equal(other[3], first[3])) + float(torch.equal(free[3], first[3]))


def derived(subject: Subject) -> float:
    """jvp against central differences in float64; 0 where jvp does not run, for then differences
    are taken.
    """
    network = subject.awake().double().requires_grad_(False)
    x, label, cond = subject.given(network)
    line = (lambda a, b: network(a, b, cond)), x, label, x.flip(0), torch.ones_like(label)
    _, wanted = derivatives.difference(*line, 1e-5)
    try:
        found = derivatives.jvp(*line)[1]
    except Exception:  # a layer without a forward derivative, of whatever kind
        return 0.0 if bool(torch.isfinite(wanted).all()) else math.inf
    return derivatives.relative(found, wanted)


def trains(subject: Subject) -> float:
    """Finite gradients, and some that are not 0."""
    network = subject.awake().train()
    x, label, cond = subject.given(network)
    with fork_rng(0, "verify dropout"):
        network(x, label, cond).square().sum().backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    if not any(bool(grad.any()) for grad in grads):
        raise ValueError("no gradient reaches any weight")
    return 0.0 if all(bool(torch.isfinite(grad).all()) for grad in grads) else math.inf


def checks_of(subject: Subject, name: str) -> list[Check]:
    """The properties of a network; those of labels and masks where it has them."""
    rows: list[tuple[str, Callable[[Subject], float], float, str]] = [
        (
            "output is like x, finite from t = .002 to 80",
            like_x,
            0.0,
            "it must return a tensor of x's shape",
        ),
        (
            "a batch is its items",
            alone,
            1e-4,
            "rows see each other: a batch norm, or a mean over the batch?",
        ),
        ("the noise level matters", noise_matters, 0.0, "noise_label is not used"),
        (
            "eval mode is fixed, no global generator is read",
            fixed,
            0.0,
            "it draws random numbers in eval mode",
        ),
        (
            "gradients are finite and reach weights",
            trains,
            0.0,
            "its output does not depend on its weights, or overflows",
        ),
        (
            "jvp agrees with differences",
            derived,
            1e-4,
            "a layer's forward derivative misses a branch; method.derivative = difference",
        ),
    ]
    with fork_rng(0, "verify network"):
        made = subject.make()
    if abilities.masks(made):
        rows.append(
            (
                "dropout by masks: a row's own seed decides",
                masked,
                1e-4,
                "masks(rows, seeds) must give each run of rows its seed",
            )
        )
    if subject.classes:
        rows.append(
            (
                "labels reach their rows, -1 is none of them",
                labelled,
                1e-4,
                "cond is mixed up, or -1 is taken for a class",
            )
        )
    return [
        Check(
            f"{name}: {text}",
            "definition",
            partial(measure, subject),
            tolerance,
            f"{look}: see {name}",
            (name,),
        )
        for text, measure, tolerance, look in rows
    ]
