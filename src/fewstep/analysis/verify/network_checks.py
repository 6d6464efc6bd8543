"""What a network must be to be trained here.

It is called as (x, noise_label [B], cond) or (x, noise_label, cond, masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.analysis.verify.check import Check, Properties, apart, mixed_up, row_by_row, worst
from fewstep.base.randomness import fork_rng, generator
from fewstep.core import abilities, derivatives
from fewstep.networks.ends import on_diagonal

ROWS = 4
Inputs = tuple[Tensor, Tensor, Tensor | None]  # x, noise labels, labels of classes


@dataclass(frozen=True)
class Subject:
    """How a network is made, the shape of a sample, and its number of classes, 0 for none."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 0

    def fresh(self) -> nn.Module:
        """The network as it starts, in eval mode."""
        with fork_rng(0, "verify network"):
            return self.make().eval()

    def perturb(self) -> nn.Module:
        """A fresh network, its weights moved a little: outputs that start at 0 show nothing."""
        network = self.fresh()
        source = generator(0, "verify shaken")
        for p in network.parameters():
            inputs = p[0].numel() if p.ndim > 1 else 9
            noise = torch.randn(p.shape, generator=source) * (0.3 / math.sqrt(inputs))
            p.data += noise.to(p)
        return network

    def inputs(self, network: nn.Module) -> Inputs:
        """x of unit variance, noise labels ln(t) / 4 from t = 0.002 to 80, class labels."""
        dtype = next((p.dtype for p in network.parameters()), torch.float32)
        x = torch.randn(ROWS, *self.shape, generator=generator(0, "verify x")).to(dtype)
        label = torch.tensor([math.log(t) / 4 for t in (0.002, 0.3, 5.0, 80.0)])
        label = label.to(torch.promote_types(dtype, torch.float32))
        cond = torch.arange(ROWS) % self.classes if self.classes else None
        return x, label, cond


PROPERTIES: Properties[Subject] = Properties()


def describe(output: Any) -> str:
    """dtype and shape of a tensor, the type of anything else."""
    if isinstance(output, Tensor):
        return f"{output.dtype} {tuple(output.shape)}"
    return type(output).__name__


@PROPERTIES.holds(
    "output is like x, finite from t = .002 to 80", 0.0, "it must return a tensor of x's shape"
)
def like_x(subject: Subject) -> float:
    """From a network as it starts."""
    network = subject.fresh()
    x, label, cond = subject.inputs(network)
    output = on_diagonal(network, x, label, cond)
    if not (isinstance(output, Tensor) and output.shape == x.shape and output.is_floating_point()):
        raise ValueError(f"the network gave {describe(output)} for {describe(x)}")
    return 0.0 if bool(torch.isfinite(output).all()) else math.inf


@PROPERTIES.holds(
    "a batch is its items", 1e-4, "rows see each other: a batch norm, or a mean over the batch?"
)
def batch_is_items(subject: Subject) -> float:
    """In eval mode; in train mode too where it is deterministic, its dropout layers off."""
    network = subject.perturb()
    inputs = subject.inputs(network)
    errors = [0.0]
    for training in (False, True):
        for part in network.modules():
            part.training = training and not isinstance(part, nn.modules.dropout._DropoutNd)
        whole = on_diagonal(network, *inputs)
        if torch.equal(whole, on_diagonal(network, *inputs)):
            errors.append(apart(row_by_row(partial(on_diagonal, network), *inputs), whole))
    return worst(*errors)


@PROPERTIES.holds("the noise level matters", 0.0, "noise_label is not used")
def noise_matters(subject: Subject) -> float:
    """0 if another noise level changes the output."""
    network = subject.perturb()
    x, label, cond = subject.inputs(network)
    outputs = (on_diagonal(network, x, one, cond) for one in (label, label + 0.5))
    return float(torch.equal(*outputs))


@PROPERTIES.holds(
    "eval mode is fixed, no global generator is read", 0.0, "it draws random numbers in eval mode"
)
def deterministic(subject: Subject) -> float:
    """Twice the same in eval mode, and torch's own generator does not move."""
    network = subject.perturb()
    inputs = subject.inputs(network)
    before = torch.get_rng_state()
    difference = apart(*(on_diagonal(network, *inputs) for _ in range(2)))
    return difference + float(not torch.equal(before, torch.get_rng_state()))


@PROPERTIES.holds(
    "gradients are finite and reach weights",
    0.0,
    "its output does not depend on its weights, or overflows",
)
def trains(subject: Subject) -> float:
    """Finite gradients, and some that are not 0."""
    network = subject.perturb().train()
    inputs = subject.inputs(network)
    with fork_rng(0, "verify dropout"):
        on_diagonal(network, *inputs).square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if not any(bool(gradient.any()) for gradient in gradients):
        raise ValueError("no gradient reaches any weight")
    return 0.0 if all(bool(torch.isfinite(g).all()) for g in gradients) else math.inf


@PROPERTIES.holds(
    "jvp agrees with differences",
    1e-4,
    "a layer's forward derivative misses a branch; method.derivative = difference",
)
def derivative(subject: Subject) -> float:
    """In float64; 0 if jvp does not run, since differences are taken then."""
    network = subject.perturb().double().requires_grad_(False)
    x, label, cond = subject.inputs(network)
    slopes = x.flip(0), torch.ones_like(label)
    line = (lambda a, b: on_diagonal(network, a, b, cond)), x, label, *slopes
    _, truth = derivatives.difference(*line, 1e-5)
    try:
        _, slope = derivatives.jvp(*line)
    except Exception:  # a layer without a forward derivative, of any kind
        return 0.0 if bool(torch.isfinite(truth).all()) else math.inf
    return derivatives.relative(slope, truth)


@PROPERTIES.holds(
    "dropout by masks: a row's own seed decides",
    1e-4,
    "masks(rows, seeds) must give each run of rows its seed",
)
def dropout_by_masks(subject: Subject) -> float:
    """One seed one output, another seed another, a row alone as in the batch."""
    network = subject.perturb().train()
    inputs = subject.inputs(network)
    masks: Any = network.masks
    seeds = torch.arange(ROWS)
    if masks(ROWS, seeds.tolist()) is None:
        return 0.0  # nothing is dropped

    def ask(seeds: Tensor, *inputs: Any) -> Any:
        return on_diagonal(network, *inputs, masks(len(seeds), seeds.tolist()))

    whole, again, other = (ask(part, *inputs) for part in (seeds, seeds, seeds + 7))
    rows = row_by_row(ask, seeds, *inputs)
    return worst(apart(again, whole), apart(rows, whole)) + float(torch.equal(whole, other))


@PROPERTIES.holds(
    "labels reach their rows, -1 is none of them",
    1e-4,
    "cond is mixed up, or -1 is taken for a class",
)
def labels_by_row(subject: Subject) -> float:
    """Another label changes its own row alone; -1, no label, is accepted and is not label 0."""
    network = subject.perturb()
    x, label, _ = subject.inputs(network)
    return mixed_up(lambda labels: on_diagonal(network, x, label, labels), ROWS, 1, -1)


def checks_of(subject: Subject, name: str) -> list[Check]:
    """The properties of a network; those of labels and masks if it has them."""
    without = set()
    if not abilities.masks(subject.fresh()):
        without.add("dropout by masks: a row's own seed decides")
    if not subject.classes:
        without.add("labels reach their rows, -1 is none of them")
    return PROPERTIES.checks(subject, name, without=without)
